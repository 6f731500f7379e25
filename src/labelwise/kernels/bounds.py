"""What is known of every row's distance to its nearest center, wherever the rows live.

A kernel never sees the N numbers themselves. It asks for the few rows first in line, for the
bounds of rows it names, for a sum or a maximum: so one pool may be in this process
(`PoolBounds`) or spread over many machines that answer each for its own rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.centers import Centers, FloatArray, IntArray
from labelwise.kernels.geometry import Geometry, Points
from labelwise.kernels.noise import Generator

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class Fence:
    """Which rows may be picked.

    Attributes:
        size: N, how many rows the pool has.
        taken: (M,) rows that are covered from the start, in the order given.
        candidates: (K,) ascending rows that may be picked unless taken; None for all.
    """

    size: int
    taken: IntArray
    candidates: IntArray | None = None

    def mask(self, start: int, stop: int) -> BoolArray:
        """Which rows of a stretch may be picked, (stop - start,)."""
        part = self.part(start, stop)
        allowed = np.full(stop - start, part.candidates is None)
        if part.candidates is not None:
            allowed[part.candidates - start] = True
        allowed[part.taken - start] = False
        return allowed

    def part(self, start: int, stop: int) -> Fence:
        """What there is to say of a stretch of rows, in the same numbers."""
        taken = self.taken[(self.taken >= start) & (self.taken < stop)]
        if self.candidates is None:
            return Fence(self.size, taken)
        first, last = np.searchsorted(self.candidates, [start, stop])
        return Fence(self.size, taken, self.candidates[first:last])

    def allows(self, rows: IntArray) -> BoolArray:
        """Which of some numbers are rows that may be picked."""
        known = (rows >= 0) & (rows < self.size) & ~np.isin(rows, self.taken)
        return known if self.candidates is None else known & np.isin(rows, self.candidates)

    def __len__(self) -> int:
        """How many rows may be picked."""
        if self.candidates is None:
            return self.size - len(np.unique(self.taken))
        return len(self.candidates) - int(np.isin(self.candidates, self.taken).sum())


def fenced(size: int, n: int, covered: Tensor | None, candidates: Tensor | None) -> Fence:
    """Covered rows and candidates of a pool of ``size`` rows, checked.

    Raises:
        InputError: n is not in 1..(candidates left), or a row number is out of range.
    """
    taken = _row_numbers(covered, size, "covered")
    given = None if candidates is None else np.unique(_row_numbers(candidates, size, "candidates"))
    fence = Fence(size, taken, None if given is None or len(given) == size else given)
    if not 1 <= n <= (left := len(fence)):
        raise InputError(f"n must be in 1..{left} (the rows that may be picked), got {n}")
    return fence


def _row_numbers(rows: Tensor | None, size: int, name: str) -> IntArray:
    if rows is None:
        return np.zeros(0, dtype=np.int64)
    array = torch.as_tensor(rows).cpu().numpy().astype(np.int64)
    wrong = (array < 0) | (array >= size)
    if wrong.any():
        raise InputError(f"{name} must be rows in 0..{size - 1}, got {array[wrong][0]}")
    return array


class Front(NamedTuple):
    """The rows first in line.

    Attributes:
        rows: (m,) ascending.
        upper, exact: their bounds, and whether those are the true values.
        rest, rest_row: bound and number of the row next in line; -inf and N if there is none.
    """

    rows: IntArray
    upper: FloatArray
    exact: BoolArray
    rest: float
    rest_row: int


class Summary(NamedTuple):
    """The largest bound, the sum of the positive ones, and the largest squared norm."""

    top: float
    total: float
    norm: float


class Bounds(ABC):
    """Upper bounds on each row's squared distance to its nearest center.

    A bound is never below the true value, and -inf where a row may not be picked. It is exact
    where it is the true value, from float64 differences, to the centers applied so far.

    Attributes:
        applied: how many of the centers every row's bound accounts for.
    """

    applied: int = 0
    ask_cost: float = 0.0
    """What waiting for an answer costs, in products of a row with a center."""

    @property
    def pass_rows(self) -> int:
        """How many rows a pass over the pool takes the time of."""
        return len(self)

    @abstractmethod
    def __len__(self) -> int:
        """N, how many rows there are."""

    @abstractmethod
    def exclude(self, rows: IntArray) -> None:
        """These rows may not be picked any more."""

    @abstractmethod
    def apply(self, centers: Centers, passing: Callable[[float], None] | None = None) -> None:
        """Bring every row's bound up to date with every center.

        Args:
            centers: all centers; those before `applied` are known already.
            passing: told the share of the pass that is done.
        """

    @abstractmethod
    def front(self, size: int) -> Front:
        """The rows with the largest bounds, equal ones by the lowest row."""

    @abstractmethod
    def read(self, rows: IntArray) -> tuple[FloatArray, BoolArray]:
        """Bounds of some rows, and whether they are exact."""

    @abstractmethod
    def write(self, rows: IntArray, upper: FloatArray, exact: BoolArray) -> None:
        """Better bounds of some rows."""

    @abstractmethod
    def summary(self) -> Summary:
        """What the bounds amount to."""

    @abstractmethod
    def anything_left(self, centers: Centers) -> bool:
        """Whether any row that may be picked is truly apart from every center."""

    @abstractmethod
    def nearest_mean(self) -> int:
        """The row that may be picked nearest the mean of all points; the lowest on a tie."""

    @abstractmethod
    def longest(self) -> int:
        """The row that may be picked with the largest squared norm; the lowest on a tie."""

    @abstractmethod
    def by_noise(self, generator: Generator, count: int) -> IntArray:
        """The rows that may be picked with the ``count`` smallest uniform numbers, in order."""

    @abstractmethod
    def gain_bounds(self, trials: Centers) -> tuple[FloatArray, FloatArray]:
        """How much each of some points would lower the sum of distances as a center: low, high.

        Asked for only when every bound is up to date.
        """

    @abstractmethod
    def true_gains(self, trials: Centers, centers: Centers) -> FloatArray:
        """What `gain_bounds` bounds, from float64."""


class Distributed(Geometry):
    """Points that live elsewhere, and answer there for their own rows.

    Points that were asked for are here, and are multiplied here.
    """

    @abstractmethod
    def bounds(self, fence: Fence, capacity: int) -> Bounds:
        """Bounds on the rows' distances to centers, at most so many, before there is one."""

    @abstractmethod
    def centers(self, capacity: int) -> Centers:
        """Centers, at most so many, that can travel to where the rows are."""


class PoolBounds(Bounds):
    """Bounds on the rows of a geometry in this process.

    Args:
        geometry: N points.
        allowed: (N,) rows that may be picked.
    """

    def __init__(self, geometry: Geometry, allowed: BoolArray) -> None:
        self.geometry = geometry
        self.norms: FloatArray = geometry.squared_norms().cpu().numpy()
        self.upper: FloatArray = np.where(allowed, np.inf, -np.inf)
        self.exact: BoolArray = np.zeros(len(geometry), dtype=bool)
        self.error = geometry.error

    def __len__(self) -> int:
        return len(self.upper)

    def exclude(self, rows: IntArray) -> None:
        """These rows may not be picked any more."""
        self.upper[rows] = -np.inf

    def apply(self, centers: Centers, passing: Callable[[float], None] | None = None) -> None:
        """Bring every row's bound up to date with every center."""
        if self.applied == len(centers):
            return
        new = centers[self.applied :]
        for start, block in self.geometry.blocks():
            stop = start + len(block)
            self._tighten(slice(start, stop), centers.offsets(block, new), centers.largest)
            if passing is not None:
                passing(stop / len(self))
        self.applied = len(centers)

    def _tighten(self, rows: slice, nearest: Tensor, largest: float) -> None:
        upper, exact = tightened(
            self.upper[rows], self.exact[rows], nearest, self.norms[rows], self.error, largest
        )
        self.upper[rows], self.exact[rows] = upper, exact

    def front(self, size: int) -> Front:
        """The rows with the largest bounds, equal ones by the lowest row."""
        size = min(size, int((self.upper > -np.inf).sum()))
        if size + 1 > len(self.upper):
            return Front(np.arange(len(self)), self.upper.copy(), self.exact.copy(), -np.inf, size)
        threshold = -np.partition(-self.upper, size)[size]
        above = np.flatnonzero(self.upper > threshold)
        ties = np.flatnonzero(self.upper == threshold)
        room = size - len(above)
        rows = np.union1d(above, ties[:room])
        return Front(rows, *self.read(rows), float(threshold), int(ties[room]))

    def read(self, rows: IntArray) -> tuple[FloatArray, BoolArray]:
        """Bounds of some rows, and whether they are exact."""
        return self.upper[rows], self.exact[rows]

    def write(self, rows: IntArray, upper: FloatArray, exact: BoolArray) -> None:
        """Better bounds of some rows."""
        self.upper[rows], self.exact[rows] = upper, exact

    def summary(self) -> Summary:
        """What the bounds amount to."""
        if not len(self):
            return Summary(-np.inf, 0.0, 0.0)
        total = float(np.maximum(self.upper, 0).sum())
        return Summary(float(self.upper.max()), total, float(self.norms.max()))

    def anything_left(self, centers: Centers) -> bool:
        """Whether any row that may be picked is truly apart from every center."""
        rows = np.flatnonzero(self.upper > 0)
        step = self.geometry.block_size
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            self._refine(some, centers)
            if (self.upper[some] > 0).any():
                return True
        return False

    def _refine(self, rows: IntArray, centers: Centers) -> None:
        inexact = rows[~self.exact[rows]]
        if self.applied < len(centers):
            inexact = rows
        step = self.geometry.block_size
        for start in range(0, len(inexact), step):
            some = inexact[start : start + step]
            points = self.geometry.take(torch.from_numpy(some))
            self.upper[some] = centers.nearest(some, points)
            self.exact[some] = True

    def _allowed(self) -> IntArray:
        return np.flatnonzero(self.upper > -np.inf)

    def nearest_mean(self) -> int:
        """The row that may be picked nearest the mean of all points; the lowest on a tie."""
        return self.geometry.nearest_mean(torch.from_numpy(self._allowed()))

    def longest(self) -> int:
        """The row that may be picked with the largest squared norm; the lowest on a tie."""
        return self.geometry.largest(torch.from_numpy(self._allowed()))

    def by_noise(self, generator: Generator, count: int) -> IntArray:
        """The rows that may be picked with the ``count`` smallest uniform numbers, in order."""
        rows = self._allowed()
        return rows[np.argsort(generator.uniform(rows), kind="stable")[:count]]

    def gain_bounds(self, trials: Centers) -> tuple[FloatArray, FloatArray]:
        """How much each of some points would lower the sum of distances as a center: low, high."""
        low, high = np.zeros(len(trials)), np.zeros(len(trials))
        for start, block in self.geometry.blocks():
            _, trial, gain, width = self._trial(start, block, trials)
            # The old distance may be lower than its bound by twice the slack of one product.
            np.add.at(low, trial, np.maximum(gain - 3 * width, 0))
            np.add.at(high, trial, np.maximum(gain + width, 0))
        return low, high

    def true_gains(self, trials: Centers, centers: Centers) -> FloatArray:
        """What `gain_bounds` bounds, from float64."""
        gains = np.zeros(len(trials))
        for start, block in self.geometry.blocks():
            row, trial, _, _ = self._trial(start, block, trials)
            mine = row + start
            self._refine(np.unique(mine), centers)
            new = trials.exact(torch.from_numpy(mine), torch.from_numpy(trial)).cpu().numpy()
            np.add.at(gains, trial, np.maximum(self.upper[mine] - new, 0))
        return gains

    def _trial(
        self, start: int, block: Points, trials: Centers
    ) -> tuple[IntArray, IntArray, FloatArray, FloatArray]:
        """Rows of a block that a trial may come closer to, the trial, by how much, the slack."""
        part = slice(start, start + len(block))
        norms, upper = self.norms[part, None], self.upper[part, None]
        near = self.geometry.offsets(block, trials[:]).cpu().numpy() + norms
        slack = self.error * (norms + trials.largest)
        row, trial = np.nonzero(np.maximum(near - slack, 0) < upper)
        return row, trial, (upper - near)[row, trial], slack[row, 0]


def tightened(
    upper: FloatArray,
    exact: BoolArray,
    nearest: Tensor,
    norms: FloatArray,
    error: float,
    largest: float,
) -> tuple[FloatArray, BoolArray]:
    """Bounds after new centers, and whether they are still exact.

    Args:
        upper, exact: (m,) what was known.
        nearest: (m,) least offsets to the new centers.
        norms: (m,) squared norms of the rows. error: the geometry's.
        largest: the largest squared norm of a center.
    """
    near = nearest.double().cpu().numpy() + norms
    up = slack(near + error * (norms + largest), norms, error, largest)
    down = slack(upper, norms, error, largest)
    # A row stays exact when even the lower bound of what is new cannot undercut it.
    still = exact & (np.maximum(near - down, 0) >= upper)
    return np.minimum(upper, near + up), still


def slack(upper: FloatArray, norms: FloatArray, error: float, largest: float) -> FloatArray:
    """How far a computed distance may be off, to any center within some squared distance.

    A center at distance d from a point x has a norm of at most |x| + d, so long centers far
    away do not blur the distances of short points to the short centers near them.

    Args:
        upper: (m,) squared distances that the centers are known to be within.
        norms: (m,) squared norms of the rows. error: the geometry's.
        largest: the largest squared norm of any center.
    """
    reach = (np.sqrt(norms) + np.sqrt(np.maximum(upper, 0))) ** 2
    return error * (norms + np.minimum(1.001 * reach, largest))


def lower(upper: FloatArray, norms: FloatArray, error: float, largest: float) -> FloatArray:
    """Lower bounds on squared distances that have these upper bounds; arguments as `slack`.

    A bound is the least over the centers of what was computed plus its slack, and what was
    computed for the nearest center is itself off by no more than another.
    """
    wide = upper + 2 * error * (norms + largest)
    return np.maximum(upper - 2 * slack(wide, norms, error, largest), 0)
