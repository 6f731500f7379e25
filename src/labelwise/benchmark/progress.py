"""How far a simulation is, and how long it will still take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

Step = Literal["resume", "encode", "start", "round", "full", "note", "done"]


@dataclass(frozen=True)
class Event:
    """Something a person who waits would like to know.

    Attributes:
        step: ``"resume"`` (rounds found in the journal), ``"encode"``, ``"start"`` (of a seed:
            the initial fit), ``"round"`` (one is on disk), ``"full"``, ``"note"``, ``"done"``.
        done, total: rounds, or items while encoding.
        message: one line for people.
        remaining: seconds the rest will take, as far as can be told by now; None before that.
    """

    step: Step
    done: int
    total: int
    message: str
    remaining: float | None = None


Listener = Callable[[Event], None]
"""Called with every event, in the thread that works; what it raises stops the run."""


class Pace:
    """Estimates remaining seconds from the rounds so far.

    A query takes as long as that strategy's queries took on average. A fit takes as long as the
    fits to as many labels; where there was none, time is taken to grow with the labels.
    """

    def __init__(self) -> None:
        self._queries: dict[str, list[float]] = defaultdict(list)
        self._fits: dict[int, list[float]] = defaultdict(list)

    def observe(self, strategy: str, labels: int, *, query: float, fit: float) -> None:
        """Take in a finished round: seconds of its query, and of its fit and evaluation."""
        self._queries[strategy].append(query)
        self._fits[labels].append(fit)

    def remaining(self, todo: Iterable[tuple[str, int]]) -> float | None:
        """Seconds for some rounds, each a strategy and its labels; None without a single fit.

        >>> pace = Pace()
        >>> pace.observe("margin", 100, query=1.0, fit=2.0)
        >>> pace.remaining([("margin", 200), ("badge", 100)])
        8.0
        """
        if not self._fits:
            return None
        fits = {labels: _mean(seconds) for labels, seconds in self._fits.items()}
        queries = {strategy: _mean(seconds) for strategy, seconds in self._queries.items()}
        usual = _mean(list(queries.values()))
        total = 0.0
        for strategy, labels in todo:
            nearest = min(fits, key=lambda known: (abs(known - labels), known))
            total += queries.get(strategy, usual) + fits[nearest] * labels / max(1, nearest)
        return total


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
