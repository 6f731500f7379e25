"""Evidence of one model, computed once for all strategies that query it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from labelwise.evidence import check

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

    def _keeping(self, function: Provider) -> Provider:
        name = getattr(function, "gives", getattr(function, "__name__", ""))

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
