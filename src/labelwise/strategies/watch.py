"""How far a selection has come, and how long the rest may take."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from labelwise.kernels import Chosen, Progress
from labelwise.strategies.checkpoint import Checkpoint

_FASTEST, _SLOWEST = 0.6, 1.6
"""How much the pace of the picks to come may differ from that of the picks made."""

_SAVED_EVERY = 5.0


class Status(NamedTuple):
    """Where a running selection is.

    Attributes:
        picked: picks made so far, those of a checkpoint included.
        n: picks asked for.
        seconds: since the call began.
        left: the shortest and longest time the rest may take, in seconds, from the pace of the
            picks made in this run; None before there is one.
    """

    picked: int
    n: int
    seconds: float
    left: tuple[float, float] | None


class Watch:
    """Follows one selection: tells whoever asked, and writes the checkpoint.

    Args:
        n: picks asked for.
        tell: called with a `Status` after every batch of picks.
        checkpoint: where picks are kept, at most every few seconds.
    """

    def __init__(
        self,
        n: int,
        tell: Callable[[Status], object] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self._n, self._tell, self._checkpoint = n, tell, checkpoint
        self._start = self._saved = time.monotonic()
        self._first: tuple[float, int] | None = None

    def progress(self) -> Progress:
        """What to hand to the kernel."""
        earlier = self._checkpoint.earlier if self._checkpoint else None
        return Progress(earlier, self._picked)

    def _picked(self, picks: Chosen) -> None:
        now, count = time.monotonic(), len(picks.rows)
        if self._checkpoint is not None and now - self._saved >= _SAVED_EVERY:
            self._checkpoint.write(picks)
            self._saved = time.monotonic()
        if self._tell is not None:
            self._tell(Status(count, self._n, now - self._start, self._left(now, count)))
        # The first picks come with passes that are not repeated; the pace is of those after.
        self._first = self._first or (now, count)

    def _left(self, now: float, count: int) -> tuple[float, float] | None:
        if count >= self._n:
            return 0.0, 0.0
        if self._first is None or count <= self._first[1]:
            return None
        rest = (now - self._first[0]) / (count - self._first[1]) * (self._n - count)
        return rest * _FASTEST, rest * _SLOWEST
