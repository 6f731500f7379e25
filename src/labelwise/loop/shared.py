"""Evidence of one model, computed once for all strategies that query it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.evidence import check
from labelwise.kernels import Rows
from labelwise.learners import Model

Provider = Callable[..., Any]
"""A function that computes evidence; its parameters' names say from which."""


class SharedEvidence:
    """Providers whose answers are checked and kept, with what each cost.

    In a simulation all strategies query the same model first. Who asks first would pay for the
    evidence of all, so `owed` says what the later ones were spared. (Where one prediction gives
    several pieces of evidence, its time counts for the piece that was asked for first.)

    Args:
        providers: of one model over one pool; each is called at most once.

    >>> def probs(): return [[0.5, 0.5]]
    >>> shared = SharedEvidence([probs])
    >>> first, again = shared.providers[0](), shared.providers[0]()
    >>> first is again
    True
    """

    def __init__(self, providers: Iterable[Provider]) -> None:
        self._found: dict[Provider, tuple[Any, float]] = {}
        self._owed = 0.0
        self.providers = tuple(self._keeping(function) for function in providers)

    def owed(self) -> float:
        """Seconds spared since the last call by answers that were there already."""
        seconds, self._owed = self._owed, 0.0
        return seconds

    def found(self, name: str) -> Any:
        """Evidence of this name if somebody has asked for it, else None; nothing is computed."""
        for function, (value, _) in self._found.items():
            if _name(function) == name:
                return value
        return None

    def _keeping(self, function: Provider) -> Provider:
        name = _name(function)

        @wraps(function)  # the signature says which evidence it needs, so it must stay visible
        def once(*evidence: Any, **optional: Any) -> Any:
            if function in self._found:
                self._owed += self._found[function][1]
            else:
                start = time.perf_counter()
                value = check(name, function(*evidence, **optional))
                self._found[function] = value, time.perf_counter() - start
            return self._found[function][0]

        return once


def _name(function: Provider) -> str:
    """What a provider gives."""
    name: str = getattr(function, "gives", getattr(function, "__name__", ""))
    return name


def previous_evidence(
    known: Rows | None, model: Callable[[], Model | None], inputs: Rows, classes: int
) -> tuple[Provider, ...]:
    """What the model of the round before believes, when a strategy asks.

    Args:
        known: its probabilities where they are there already.
        model: makes it; None stands for a learner that starts from equal beliefs in all classes.
        inputs: (N, ...) the pool.
        classes: C.
    """

    def previous_probs() -> Rows | Tensor:
        if known is not None:
            return known
        found = model()
        if found is None:
            return torch.full((len(inputs), classes), 1 / classes)
        return found.predict(inputs).probs

    return (previous_probs,)


def cold_evidence(inputs: Rows) -> tuple[Provider, ...]:
    """What strategies may ask before there is a model: the encoding, where it is a matrix."""
    if inputs.ndim != 2:
        return ()

    def embeddings() -> Rows:
        """The encoder's features."""
        return inputs

    return (embeddings,)


def private_evidence(rows: Tensor) -> tuple[Provider, ...]:
    """Some rows of the pool, (P,) int64, as the private points that picks should be unlike."""

    def private_embeddings(embeddings: Rows) -> Tensor:
        return embeddings.take(rows)

    def private_probs(probs: Rows) -> Tensor:
        return probs.take(rows)

    def private_labels(probs: Rows) -> Tensor:
        # They have no class; in gradients the one the model takes them for stands in.
        return probs.take(rows).argmax(1)

    return private_embeddings, private_probs, private_labels


def oracle_evidence(labels: NDArray[np.int64]) -> tuple[Provider, ...]:
    """What only an oracle knows, (N,) classes, for the strategies that say so."""

    def oracle_labels() -> NDArray[np.int64]:
        return labels

    return (oracle_labels,)
