"""How far a simulation is, and how long it will still take."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
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
        self._queries: dict[str, _Seconds] = defaultdict(_Seconds)
        self._fits: dict[int, _Seconds] = defaultdict(_Seconds)

    def observe(self, strategy: str, labels: int, *, query: float, fit: float) -> None:
        """Take in a finished round: seconds of its query, and of its fit and evaluation."""
        self._queries[strategy].add(query)
        self._fits[labels].add(fit)

    def remaining(self, todo: Mapping[tuple[str, int], int]) -> float | None:
        """Seconds for the rounds that are left; None without a single fit.

        Args:
            todo: how many there are of each strategy and number of labels.

        >>> pace = Pace()
        >>> pace.observe("margin", 100, query=1.0, fit=2.0)
        >>> pace.remaining({("margin", 200): 1, ("badge", 100): 1})
        8.0
        """
        if not self._fits:
            return None
        queries = {strategy: seconds.mean for strategy, seconds in self._queries.items()}
        usual = sum(queries.values()) / len(queries)
        fits: dict[int, float] = {}
        total = 0.0
        for (strategy, labels), count in todo.items():
            if labels not in fits:
                nearest = min(self._fits, key=lambda known: (abs(known - labels), known))
                fits[labels] = self._fits[nearest].mean * labels / max(1, nearest)
            total += count * (queries.get(strategy, usual) + fits[labels])
        return total


@dataclass
class _Seconds:
    """Times of one kind of work."""

    total: float = 0.0
    count: int = 0

    def add(self, seconds: float) -> None:
        self.total += seconds
        self.count += 1

    @property
    def mean(self) -> float:
        return self.total / self.count
