"""Greedy maximization of a set function: one loop, four ways to find the next pick."""

from __future__ import annotations

import math
import time
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError, ResourceError, nearest
from labelwise.kernels.bounds import fenced
from labelwise.kernels.centers import FloatArray, IntArray
from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.geometry import Chosen
from labelwise.kernels.noise import Generator
from labelwise.kernels.progress import Progress, resume, tell

Method = Literal["auto", "naive", "lazy", "stochastic", "lazier"]

_LINE = 4096
_BATCH = (8, 4096)
_BYTES_PER_CANDIDATE = 64
_TELL_SECONDS = 0.5


def greedy(
    function: SetFunction,
    n: int,
    *,
    generator: Generator | None = None,
    candidates: Tensor | None = None,
    method: Method = "auto",
    epsilon: float = 0.01,
    ties: Generator | None = None,
    progress: Progress | None = None,
    memory: int | None = None,
) -> Chosen:
    """Add n rows to a set function's set, each the one that gains most when it is added.

    Exactly n rows are picked, even where the best gain is zero or negative: cut the result
    where its gains turn negative if fewer will do.

    Args:
        function: what to maximize. Its set grows by the picks; rows already in it are never
            picked.
        n: how many rows to pick, 1 <= n <= candidates left.
        generator: draws the samples of ``stochastic`` and ``lazier``, by item.
        candidates: (K,) int64 rows that may be picked; all by default.
        method: ``naive`` asks for every candidate's gain at every pick. ``lazy`` takes a gain
            from an earlier pick for an upper bound, and asks again, for many rows at once, only
            where the bound could win: the picks of ``naive``, for submodular functions alone.
            ``stochastic`` asks a fresh random sample of ceil(K / n * ln(1 / epsilon))
            candidates at every pick: K ln(1 / epsilon) gains in all, and in expectation at
            least 1 - 1/e - epsilon of the best value of a monotone submodular function.
            ``lazier`` is ``stochastic`` with lazy bounds in the sample. ``auto`` is ``lazy``
            for a submodular function, ``naive`` otherwise.
        epsilon: in (0, 1): what the sample may cost in value.
        ties: draws a number for each item, the lowest of which wins a tie; the lowest row does
            without it, and row order is often class order.
        progress: is told the picks, and may hold earlier ones, which are added first.
        memory: bytes the call may hold beyond its inputs; None for no bound.

    Returns:
        (n,) int64 rows in the order picked and their (n,) float64 gains. Gains closer than
        the function's ``rounding`` (and 1e-12 of their size) are a tie.

    Raises:
        InputError: n, a row, method or epsilon out of range; no generator where one is needed;
            a gain that is not a number; a monotone submodular function whose every gain is 0.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Nemhauser, Wolsey & Fisher, Mathematical Programming 1978 (the guarantee); Minoux,
        "Accelerated greedy algorithms for maximizing submodular set functions", 1978 (lazy);
        Mirzasoleiman, Badanidiyuru, Karbasi, Vondrak & Krause, "Lazier than lazy greedy",
        AAAI 2015 (the sample).

    >>> from labelwise.kernels import Euclidean, Similarity
    >>> from labelwise.kernels.functions import FacilityLocation
    >>> line = Euclidean([[0.0], [1.0], [2.0], [9.0], [9.5]])
    >>> greedy(FacilityLocation(Similarity(line, "complement", width=10)), 2).rows
    tensor([2, 3])
    """
    sampled, lazy = _plan(function, method)
    if not 0 < epsilon < 1:
        raise InputError(f"epsilon must be between 0 and 1, got {epsilon}")
    if sampled and generator is None:
        raise InputError(f"method {method!r} draws samples and needs a generator")
    taken = torch.tensor(function.chosen, dtype=torch.int64)
    fence = fenced(len(function), n, taken, candidates)
    _check_memory(function, n, len(fence), memory)
    race = _Race(function, np.flatnonzero(fence.mask(0, len(function))), ties)
    if sampled and generator is not None:
        race.sample(generator.child("greedy"), math.ceil(len(race) / n * math.log(1 / epsilon)))
    rows, gains = resume(progress, n, fence.allows)
    told = len(rows)
    for at, gain in zip(race.positions(rows), gains):
        race.add(at, gain)
    due = time.monotonic() + _TELL_SECONDS
    try:
        while len(rows) < n:
            at, gain = race.best(len(rows), lazy)
            if gain == 0 and not function.chosen:
                race.refuse_nothing()
            gain = race.add(at, gain)
            rows.append(int(race.rows[at]))
            gains.append(gain)
            if time.monotonic() >= due:  # a checkpoint for each pick would take longer than picks
                before, told = told, len(rows)  # first: whoever is told may raise
                tell(progress, rows, gains, before)
                due = time.monotonic() + _TELL_SECONDS
    finally:
        # Also when interrupted: what was picked is what a resumed run starts from.
        tell(progress, rows[: len(gains)], gains, told)
    return Chosen(torch.tensor(rows), torch.tensor(gains, dtype=torch.float64))


def _plan(function: SetFunction, method: Method) -> tuple[bool, bool]:
    """Whether picks come from a sample, and whether bounds are used."""
    known = get_args(Method)
    if method not in known:
        raise InputError(f"method must be known, got {method!r}; {nearest(method, known)}")
    if method in ("lazy", "lazier") and not function.submodular:
        other = "naive" if method == "lazy" else "stochastic"
        raise InputError(
            f"method {method!r} is right for submodular functions only, and "
            f"{type(function).__name__} is none; use {other!r}"
        )
    if method == "auto":
        method = "lazy" if function.submodular else "naive"
    return method in ("stochastic", "lazier"), method in ("lazy", "lazier")


def _check_memory(function: SetFunction, n: int, candidates: int, memory: int | None) -> None:
    need = function.bytes_needed(n) + _BYTES_PER_CANDIDATE * candidates
    if memory is not None and memory < need:
        raise ResourceError(
            f"memory must be at least {need / 1e6:.3g} MB for {n} picks from {candidates} "
            f"candidates, got {memory / 1e6:.3g} MB"
        )


class _Race:
    """The candidates, with what is known of their gains.

    Attributes:
        rows: (K,) int64, in the order in which they win ties. A position is an index into it.
    """

    def __init__(self, function: SetFunction, rows: IntArray, ties: Generator | None) -> None:
        self.function = function
        if ties is not None:
            rows = rows[np.argsort(ties.uniform(rows), kind="stable")]
        self.rows = rows
        self._open: NDArray[np.bool_] = np.ones(len(rows), dtype=bool)
        self._gain: FloatArray = np.full(len(rows), np.inf)  # when it was last asked for
        self._asked = np.full(len(rows), -1)  # at which pick that was
        self._size = 0
        self._generator: Generator | None = None
        self._line: IntArray = np.zeros(0, dtype=np.int64)
        self._cut = np.inf  # no open row outside the line has a bound of this or more
        self._batch = float(min(64, _BATCH[1]))

    def __len__(self) -> int:
        return len(self.rows)

    def sample(self, generator: Generator, size: int) -> None:
        """From now on look at a sample of the candidates at each pick."""
        self._generator, self._size = generator, size

    def positions(self, rows: list[int]) -> list[int]:
        """Where earlier picks are among the candidates."""
        order = np.argsort(self.rows)
        return order[np.searchsorted(self.rows, rows, sorter=order)].tolist()

    def add(self, at: int, gain: float) -> float:
        """Put a candidate into the function's set; what that gains."""
        gain = self.function.add(int(self.rows[at]), gain)
        self._open[at] = False
        self._line = self._line[self._line != at]
        return gain

    def best(self, pick: int, lazy: bool) -> tuple[int, float]:
        """The position of the largest gain, the first of a tie, and that gain."""
        if self._generator is not None:
            line = self._drawn(self._generator, pick)
        else:
            line = self._line if lazy and len(self._line) else np.flatnonzero(self._open)
        self._ask(line[self._gain[line] == np.inf] if lazy else line, pick)
        at, low = self._first(line, pick)
        if self._generator is None and lazy and low < self._cut:
            self._lengthen(low)
            at, _ = self._first(self._line, pick)
        return at, float(self._gain[at])

    def refuse_nothing(self) -> None:
        """Refuse a monotone submodular function that gains nothing from any candidate.

        Gains can only fall, and not below 0: no set of candidates would be better than another.
        """
        rows = torch.from_numpy(self.rows)
        known = self.function.submodular and self.function.monotone
        if known and not self.function.gains(rows).any():
            raise InputError(
                f"{type(self.function).__name__}: no candidate gains anything, so nothing can be "
                "chosen by it; are all similarities 0?"
            )

    def _drawn(self, generator: Generator, pick: int) -> IntArray:
        """A sample of the open candidates, ascending: those with the lowest numbers."""
        left = np.flatnonzero(self._open)
        if len(left) <= self._size:
            return left
        noise = generator.uniform(self.rows[left], draw=pick)
        return np.sort(left[np.argpartition(noise, self._size - 1)[: self._size]])

    def _first(self, line: IntArray, pick: int) -> tuple[int, float]:
        """The best position of a line, and what a bound outside must stay below.

        Each turn asks for at least one gain that is out of date, so this ends.
        """
        asked: list[FloatArray] = []  # bounds that were out of date
        while True:
            gain, fresh = self._gain[line], self._asked[line] == pick
            best = gain[fresh].max() if fresh.any() else -np.inf
            tie = self.function.rounding + (1e-12 * abs(best) if np.isfinite(best) else 0)
            first = line[fresh & (gain >= best - tie)][:1]
            ahead = ~fresh & (gain >= best - tie)
            if len(first):
                ahead &= (gain > best + tie) | (line < first[0])
            rivals = line[ahead]
            if not len(rivals):
                break
            count = min(len(rivals), round(self._batch))
            if count < len(rivals):
                rivals = rivals[np.argpartition(-self._gain[rivals], count - 1)[:count]]
            asked.append(self._gain[rivals])
            self._ask(np.sort(rivals), pick)
        if asked:
            needed = int((np.concatenate(asked) >= best - tie).sum())
            self._batch = float(np.clip((self._batch + needed) / 2, *_BATCH))
        return int(first[0]), float(best - tie)

    def _ask(self, line: IntArray, pick: int) -> None:
        """Bring the gains of a line's positions up to date."""
        line = line[self._asked[line] < pick]
        if not len(line):
            return
        rows = self.rows[line]
        if len(rows) == len(self.function):
            gains = self.function.gains().numpy()[rows]
        else:
            gains = self.function.gains(torch.from_numpy(rows)).numpy()
        if np.isnan(gains).any():
            row = int(rows[np.isnan(gains)][0])
            raise InputError(
                f"{type(self.function).__name__}: the gain of row {row} is not a number; check "
                "its values for NaN and infinity"
            )
        self._gain[line], self._asked[line] = gains, pick

    def _lengthen(self, low: float) -> None:
        """A line of all rows whose bounds reach ``low``, and of some more to last a while."""
        left = np.flatnonzero(self._open)
        bound = self._gain[left]
        if len(left) > _LINE:
            low = min(low, float(-np.partition(-bound, _LINE)[_LINE]))
            self._line, self._cut = left[bound >= low], low
        else:
            self._line, self._cut = left, -np.inf
