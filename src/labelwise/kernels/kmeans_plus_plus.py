"""k-means++ seeding: D^2 sampling, exact, in blocks, and the same picks for every block size.

A row is drawn with probability proportional to its squared distance to the nearest center by a
race: visits to rows arrive at unit rate each (`Generator.arrivals`), a visit at time t counts
as t / d, the smallest wins. Distances only fall, so t / (stale d) is a lower bound; only the
few visits whose bound beats the winner are looked at, and the winner depends on the seed, the
draw and the true distances, never on when they were brought up to date.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.cover import (
    Cover,
    FloatArray,
    IntArray,
    check_memory,
    exact_nearest,
    prepare,
)
from labelwise.kernels.geometry import Chosen, Geometry
from labelwise.kernels.noise import Generator
from labelwise.kernels.progress import Progress, resume, tell

BLOCK = 128
"""Picks between two products with the whole pool. Picks do not depend on it."""

_LOOKED_AT = 6
_VISITS = 1 << 18


def kmeans_plus_plus(
    geometry: Geometry,
    n: int,
    *,
    generator: Generator,
    covered: Tensor | None = None,
    candidates: Tensor | None = None,
    first: Literal["uniform", "largest"] = "uniform",
    trials: int = 1,
    memory: int | None = None,
    progress: Progress | None = None,
    block: int = BLOCK,
) -> Chosen:
    """Draw rows one at a time with probability proportional to the squared distance left.

    When every row left coincides with a center, the rest is drawn uniformly.

    Args:
        geometry: N points.
        n: how many rows to draw, 1 <= n <= number of candidates not covered.
        generator: randomness, by item.
        covered: (M,) int64 rows to measure from; never drawn. With none, ``first`` says how to
            begin.
        candidates: (K,) int64 rows that may be drawn; all by default.
        first: ``"uniform"``, or ``"largest"`` for the row of largest norm (the lowest row on
            a tie).
        trials: rows drawn at each step, of which the one that lowers the sum of squared
            distances most is kept (the greedy form); 1 for the plain law.
        memory: bytes the call may hold beyond its inputs; None for no bound.
        progress: told the picks as they are made; resumes an interrupted run of the same call.
        block: picks between two products with the pool; speed alone depends on it.

    Returns:
        (n,) rows in the order drawn, and (n,) float64 gains: the squared distance of each to
        its nearest center when it was drawn (infinity for a first pick with nothing covered).

    Raises:
        InputError: n, trials, first or a row number out of range, or earlier picks of another
            call.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Arthur & Vassilvitskii, "k-means++: The Advantages of Careful Seeding", SODA 2007 (both
        forms). About 2 N (M + n) D operations for one trial, nearly all in matrix products.

    >>> from labelwise.kernels import Euclidean
    >>> line = Euclidean([[0.0], [0.0], [1.0], [1.0]])
    >>> rows = kmeans_plus_plus(line, 2, generator=Generator(0)).rows
    >>> sorted(line.take(rows).factors[0].flatten().tolist())
    [0.0, 1.0]
    """
    if trials < 1 or first not in ("uniform", "largest"):
        raise InputError(
            f"trials must be >= 1 and first 'uniform' or 'largest', got {trials} and {first!r}"
        )
    taken, allowed = prepare(geometry, n, covered, candidates)
    check_memory(geometry, len(taken) + n, memory)
    cover = Cover(geometry, allowed, len(taken) + n)
    sampler = _Sampler(cover, generator, trials)
    picks, sampler.gains = resume(progress, n, allowed)
    cover.add(np.concatenate([taken, np.array(picks, dtype=np.int64)]))
    base = len(taken)
    if not len(cover):
        free = np.flatnonzero(allowed)
        if first == "largest":
            start = geometry.largest(torch.from_numpy(free))
        else:
            start = int(free[generator.child("first").uniform(free).argmin()])
        cover.add(np.array([start]))
        sampler.gains.append(np.inf)
        tell(progress, cover.centers, sampler.gains, 0)
    cover.apply()
    while (drawn := len(cover) - base) < n:
        if sampler.nothing_left():
            sampler.fill(n - drawn)
        elif trials > 1:
            sampler.draw_greedily(drawn)
        else:
            sampler.draw(drawn, min(block, n - drawn))
            if len(cover) - base < n:
                cover.apply()
        tell(progress, cover.centers[base:], sampler.gains, drawn)
    return Chosen(
        torch.tensor(cover.centers[base:]), torch.tensor(sampler.gains, dtype=torch.float64)
    )


@dataclass
class _Visits:
    """For each of B draws, its S most promising visits and a bound on all others."""

    rows: IntArray
    times: FloatArray
    outside: FloatArray


class _Sampler:
    """Draws from a cover, and what each pick gained."""

    def __init__(self, cover: Cover, generator: Generator, trials: int) -> None:
        self.cover = cover
        self.generator = generator
        self.trials = trials
        self.gains: list[float] = []

    def nothing_left(self) -> bool:
        """Whether every row left coincides with a center; float64 decides if it may be so."""
        cover = self.cover
        left = np.flatnonzero(cover.upper > 0)
        if not len(left):
            return True
        if cover.upper[left].max() > 4 * cover.error * float(cover.norms.max()):
            return False
        return bool((self._true(left) <= 0).all())

    def draw(self, first: int, count: int) -> None:
        """Up to ``count`` picks, the numbers ``first`` and on; pool bounds may be stale."""
        cover = self.cover
        visits = self._visits(np.arange(first, first + count))
        rows, where = np.unique(visits.rows, return_inverse=True)
        where = where.reshape(visits.rows.shape)
        points = cover.geometry.take(torch.from_numpy(rows))
        cover.refresh(rows, points)
        between = cover.geometry.offsets(points, points).cpu().numpy().T
        norms = cover.norms[rows]
        before = len(cover)
        for i in range(len(visits.rows)):
            row = self._winner(visits, i)
            if row is None:
                row = self._race(first + i)
            if row is None:
                break
            cover.add(np.array([row]))
            spot = int(np.searchsorted(rows, row))
            if spot < len(rows) and rows[spot] == row:
                near = between[spot] + norms
            else:
                pick = cover.points(len(cover) - 1)
                near = cover.geometry.offsets(points, pick)[:, 0].cpu().numpy() + norms
            slack = cover.error * (norms + cover.norms[row])
            closer = np.maximum(near - slack, 0) < cover.upper[rows]
            hit = rows[closer]
            cover.upper[hit] = np.minimum(cover.upper[hit], (near + slack)[closer])
            cover.exact[hit] = False
        self._record(before)

    def draw_greedily(self, number: int) -> None:
        """One pick, the best of several draws; every row's bound is up to date before."""
        cover, geometry = self.cover, self.cover.geometry
        draws = np.arange(number * self.trials, (number + 1) * self.trials)
        visits = self._visits(draws)
        found = [self._winner(visits, i) for i in range(len(draws))]
        found += [None] * (self.trials - len(found))
        won = [self._race(int(d)) if r is None else r for d, r in zip(draws, found)]
        rows = np.unique([row for row in won if row is not None])
        best = int(rows[_largest_gain(cover, rows)]) if len(rows) > 1 else int(rows[0])
        before = len(cover)
        cover.add(np.array([best]), geometry.take(torch.tensor([best])))
        cover.apply()
        self._record(before)

    def fill(self, count: int) -> None:
        """The rest uniformly: every row left coincides with a center."""
        left = np.flatnonzero(self.cover.upper > -np.inf)
        order = np.argsort(self.generator.child("fill").uniform(left), kind="stable")
        before = len(self.cover)
        self.cover.add(left[order[:count]])
        self.gains += [0.0] * (len(self.cover) - before)

    def _record(self, before: int) -> None:
        """True squared distance of each new pick to the centers that came before it."""
        cover = self.cover
        self.gains += exact_nearest(
            cover.geometry,
            np.asarray(cover.centers[before:]),
            np.asarray(cover.centers),
            cover.points(),
            cover.error,
            before=np.arange(before, len(cover)),
        ).tolist()

    def _visits(self, draws: IntArray) -> _Visits:
        """The most promising visits by the bounds at hand, for as many draws as fit."""
        upper = self.cover.upper
        top = float(upper.max())
        total = float(np.maximum(upper, 0).sum())
        # A draw needs on average N top / total visits; six times that fail once in 400.
        count = int(min(_VISITS, 16 + 6 * len(upper) * top / total))
        draws = draws[: max(1, _VISITS // count)]
        gaps, rows = self.generator.arrivals(draws, count, len(upper))
        times = np.cumsum(gaps, axis=1)
        bound = _ratio(times, upper[rows])
        order = np.argpartition(bound, _LOOKED_AT, axis=1)[:, : _LOOKED_AT + 1]
        ranked = np.take_along_axis(bound, order, 1)
        last = ranked.argmax(axis=1)
        outside = np.minimum(ranked.max(axis=1), times[:, -1] / top)
        inside = np.arange(_LOOKED_AT + 1) != last[:, None]
        keep = order[inside].reshape(len(draws), _LOOKED_AT)
        return _Visits(
            np.take_along_axis(rows, keep, 1), np.take_along_axis(times, keep, 1), outside
        )

    def _winner(self, visits: _Visits, i: int) -> int | None:
        """Who wins a draw, or None where the bounds leave it open."""
        if i >= len(visits.rows):
            return None
        cover = self.cover
        rows, times = visits.rows[i], visits.times[i]
        upper = cover.upper[rows]
        bound = _ratio(times, upper)
        best = int(bound.argmin())
        row = int(rows[best])
        value = float(upper[best])
        if not cover.exact[row]:
            value -= 2 * cover.error * float(cover.norms[row] + cover.largest)
        if value <= 0:
            return None
        rivals = bound[rows != row]
        rest = min(float(rivals.min()) if len(rivals) else np.inf, float(visits.outside[i]))
        return row if times[best] / value < rest else None

    def _race(self, draw: int) -> int | None:
        """Who wins a draw, with true distances wherever they matter; None if nothing is left."""
        cover = self.cover
        top = float(cover.upper.max())
        best, winner, start, now = np.inf, -1, 0, 0.0
        while True:
            gaps, rows = self.generator.arrivals(np.array([draw]), 1024, len(cover.upper), start)
            times = np.cumsum(np.concatenate([[now], gaps[0]]))[1:]
            bound = _ratio(times, cover.upper[rows[0]])
            order = np.argsort(bound, kind="stable")
            for i in range(0, len(order), 8):
                some = order[i : i + 8]
                some = some[bound[some] < best]
                if not len(some):
                    break
                true = np.maximum(self._true(rows[0][some]), 0)
                ratio = _ratio(times[some], true)
                if ratio.min() < best:
                    best, winner = float(ratio.min()), int(rows[0][some[ratio.argmin()]])
            start, now = start + 1024, float(times[-1])
            if winner >= 0 and now >= best * top:
                return winner
            if winner < 0 and (self._true(np.flatnonzero(cover.upper > 0)) <= 0).all():
                return None

    def _true(self, rows: IntArray) -> FloatArray:
        """True squared distances to the nearest of all centers; -inf for rows not allowed."""
        fresh = np.unique(rows[self.cover.upper[rows] > -np.inf])
        # A row outside the block may not have met the latest centers: measure it anew.
        self.cover.exact[fresh] &= self.cover.applied == len(self.cover)
        self.cover.refine(fresh)
        return self.cover.upper[rows]


def _ratio(times: FloatArray, weights: FloatArray) -> FloatArray:
    """times / weights, infinite where the weight is not positive."""
    out = np.full(np.shape(times), np.inf)
    return np.divide(times, weights, out=out, where=weights > 0)


def _largest_gain(cover: Cover, rows: IntArray) -> int:
    """Which of some rows, added as a center, lowers the sum of squared distances most.

    Only rows that a candidate may come closest to change the sum, so bounds are summed over
    those alone; candidates whose bounds overlap are told apart in float64.
    """
    geometry = cover.geometry
    points = geometry.take(torch.from_numpy(rows))
    widest = float(points.norms.max())
    low, high = np.zeros(len(rows)), np.zeros(len(rows))
    affected: list[tuple[IntArray, IntArray]] = []
    for start, block in geometry.blocks():
        part = slice(start, start + len(block))
        near = geometry.offsets(block, points).cpu().numpy() + cover.norms[part, None]
        slack = (cover.error * (cover.norms[part] + widest))[:, None]
        upper = cover.upper[part, None]
        row, trial = np.nonzero(np.maximum(near - slack, 0) < upper)
        gain, width = (upper - near)[row, trial], slack[row, 0]
        # The old distance may be lower than its bound by twice the slack of one product.
        np.add.at(low, trial, np.maximum(gain - 3 * width, 0))
        np.add.at(high, trial, np.maximum(gain + width, 0))
        affected.append((row + start, trial))
    close = np.flatnonzero(high >= low.max())
    if len(close) == 1:
        return int(close[0])
    row, trial = (np.concatenate(part) for part in zip(*affected))
    return int(close[_exact_gains(cover, rows, close, row, trial).argmax()])


def _exact_gains(
    cover: Cover, rows: IntArray, close: IntArray, affected: IntArray, trial: IntArray
) -> FloatArray:
    """What the close candidates gain, in float64, summed over the rows each may affect."""
    cover.refine(np.unique(affected[np.isin(trial, close)]))
    gains = []
    for candidate in close:
        mine = affected[trial == candidate]
        other = torch.full((len(mine),), int(rows[candidate]))
        new = cover.geometry.exact(torch.from_numpy(mine), other).cpu().numpy()
        gains.append(float(np.maximum(cover.upper[mine] - new, 0).sum()))
    return np.asarray(gains)
