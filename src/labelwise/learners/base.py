"""What a learner, a model and an encoder are: the three protocols of this floor.

An **encoder** turns a pool into an array, without labels. A **learner** turns labeled rows of an
array into a model. A **model** says, for any rows, what it believes and where it sees them.
None of them knows that it is part of active learning.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels import Rows

if TYPE_CHECKING:
    from labelwise.pools import Pool

Progress = Callable[[int, int], None]
"""Called as ``progress(done, total)`` while a long call runs, in items."""


class Outputs(NamedTuple):
    """What a model says of n rows.

    Attributes:
        logits: (n, C) float32, unnormalised; None for a model that has none (a forest).
        probs: (n, C) float32, each row a class distribution; C counts every declared class,
            also one that no labeled row shows.
        embeddings: (n, D), the input of the model's linear head; for a linear head on frozen
            features it is those features themselves, not a copy. A model without a linear head
            gives its inputs.
    """

    logits: Tensor | None
    probs: Tensor
    embeddings: Rows | Tensor


@runtime_checkable
class Model(Protocol):
    """A fitted classifier.

    Attributes:
        classes: C, how many classes are declared.
        head_weight: (C, D) float32 of the linear head, None where there is none.
        head_bias: (C,) float32, None where there is none.
    """

    classes: int
    head_weight: Tensor | None
    head_bias: Tensor | None

    def predict(self, inputs: Rows, rows: Tensor | None = None) -> Outputs:
        """Outputs for some rows of an array, or for all of them (``rows=None``)."""
        ...


@runtime_checkable
class PosteriorModel(Model, Protocol):
    """A model that can also be drawn from its posterior."""

    def draws(self, inputs: Rows, *, samples: int, seed: int) -> Tensor:
        """(S, N, C) float32 class distributions; ``draws[s]`` is one function for all rows."""
        ...


@runtime_checkable
class DifferentiableModel(Model, Protocol):
    """A model whose logits have a gradient with respect to its inputs."""

    def logits(self, inputs: Tensor) -> Tensor:
        """(n, C) logits of (n, ...) inputs, in evaluation mode."""
        ...


@runtime_checkable
class PiecewiseLinearModel(Model, Protocol):
    """A perceptron of ReLU units: linear in every region where the same units are on.

    Attributes:
        hidden_weights: of the hidden layers, first to last; None for another kind of network.
    """

    @property
    def hidden_weights(self) -> list[Tensor] | None:
        """Weights of the hidden layers, first to last."""
        ...

    def activations(self, inputs: Rows) -> Tensor:
        """(N, H) outputs of all hidden layers, side by side."""
        ...


@runtime_checkable
class InstructedModel(Model, Protocol):
    """A model whose training objectives learned something that strategies may ask for."""

    def objective_evidence(self, inputs: Rows) -> list[Callable[[], object]]:
        """Functions without parameters, named for the evidence they give."""
        ...


@runtime_checkable
class Learner(Protocol):
    """A way to fit a model. It holds options only; every fit starts from nothing.

    Attributes:
        name: what `make_learner` calls it.
    """

    name: str

    def signature(self) -> dict[str, Any]:
        """Everything that decides a fit besides data and seed, as JSON-able values."""
        ...

    def fit(
        self,
        inputs: Rows,
        rows: Tensor,
        labels: Tensor,
        *,
        classes: int,
        seed: int,
        unlabeled: Tensor | None = None,
    ) -> Model:
        """Fit a model.

        Args:
            inputs: the whole pool, encoded; N rows of any rank.
            rows: (L,) int64, distinct rows whose label may be seen.
            labels: (L,) int64 in 0..C-1. Classes may be absent.
            classes: C, at least 2: all declared classes.
            seed: any integer. Named streams are derived from it (``"weights"``, ``"order"``,
                ``"augmentation"``, ``"dropout"``, ``"validation"``), never the global one.
            unlabeled: (U,) int64 rows that may be used without a label; most learners
                ignore them.

        Raises:
            InputError: what `check_fit` refuses.
        """
        ...


@runtime_checkable
class UntrainedLearner(Learner, Protocol):
    """A learner that can show the model a fit starts from, before it has learned anything."""

    def untrained(self, inputs: Rows, *, classes: int, seed: int) -> Model:
        """The model that `fit` with this seed starts from."""
        ...


@runtime_checkable
class Encoder(Protocol):
    """A way to turn a pool into an array, learned without labels.

    Attributes:
        name: what `make_encoder` calls it.
    """

    name: str

    def signature(self) -> dict[str, Any]:
        """Everything that decides an encoding besides pool and seed, as JSON-able values."""
        ...

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Learn what the encoding needs from the pool's items; never from a test set."""
        ...

    def encode(
        self,
        pool: Pool,
        *,
        out: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any] | Tensor:
        """The pool as an array, a row per item.

        Args:
            pool: the items; the pool that was fitted on, or a test set of the same kind.
            out: (N, ...) an array to write to and return, such as a memory-mapped file. Only
                a `StreamingEncoder` is ever given one.
            progress: called as the work goes on.

        Returns:
            (N, ...) numbers.
        """
        ...


@runtime_checkable
class StreamingEncoder(Encoder, Protocol):
    """An encoder that knows the shape of its rows once fitted, and so writes straight to a file.

    With this, an encoding larger than memory can be cached; without it `encode_data` holds the
    whole array in memory once.
    """

    def item_shape(self) -> tuple[int, ...]:
        """The shape of one encoded row, such as ``(7200,)``; call it after `fit`."""
        ...

    def dtype(self) -> np.dtype[Any]:
        """The dtype of the encoding."""
        ...


def check_fit(inputs: Rows, rows: Tensor, labels: Tensor, classes: int) -> None:
    """Refuse a labeled set that does not fit its array.

    Args:
        inputs: (N, ...).
        rows: (L,) int64, distinct, in 0..N-1, L >= 1.
        labels: (L,) int64 in 0..C-1.
        classes: C >= 2.

    Raises:
        InputError: any of it does not hold; the message names the argument and the value.

    >>> check_fit(Rows([[0.0], [1.0]]), torch.tensor([0]), torch.tensor([2]), 2)
    Traceback (most recent call last):
    labelwise.errors.InputError: labels must be in 0..1 (2 classes), got 2 for row 0
    """
    if classes < 2:
        raise InputError(f"classes must be at least 2 to learn to tell them apart, got {classes}")
    for name, value in (("rows", rows), ("labels", labels)):
        if value.ndim != 1 or value.dtype != torch.int64:
            raise InputError(
                f"{name} must be one-dimensional int64, "
                f"got shape {tuple(value.shape)} of {value.dtype}"
            )
    if len(rows) != len(labels):
        raise InputError(f"labels must be one a row: {len(rows)} rows and {len(labels)} labels")
    if len(rows) == 0:
        raise InputError("rows is empty: a learner needs at least one labeled row")
    lowest, highest = int(rows.min()), int(rows.max())
    if lowest < 0 or highest >= len(inputs):
        wrong = lowest if lowest < 0 else highest
        raise InputError(f"rows must be in 0..{len(inputs) - 1}, got {wrong}")
    if len(torch.unique(rows)) < len(rows):
        values, counts = torch.unique(rows, return_counts=True)
        raise InputError(f"rows must be distinct, got {int(values[counts > 1][0])} again")
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        at = int(bad.nonzero()[0, 0])
        raise InputError(
            f"labels must be in 0..{classes - 1} ({classes} classes), "
            f"got {int(labels[at])} for row {int(rows[at])}"
        )
