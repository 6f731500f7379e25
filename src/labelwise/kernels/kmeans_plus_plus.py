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
from labelwise.kernels.bounds import fenced, lower
from labelwise.kernels.centers import Centers, FloatArray, IntArray
from labelwise.kernels.cover import Block, Cover, check_memory, new_centers
from labelwise.kernels.geometry import Chosen, Geometry
from labelwise.kernels.noise import Generator
from labelwise.kernels.progress import Progress, resume, tell

BLOCK = 128
"""Draws that are prepared together. Picks do not depend on it."""

PENDING = 1024
"""The most picks that wait to be applied to the pool. Speed alone depends on it."""

PASS_SHARE = 0.5
"""The share of a pool pass that blocks may cost before it is made. Speed alone depends on it."""

_READ_COST, _BLOCK_COST = 64, 4e6
"""What reading a row and what preparing a block costs, in products of a row with one center."""

_RACES = 3
"""Draws that bounds leave open before the rows in line are looked up again."""

_RACED = 64

_LOOKED_AT = (6, 48)
"""The least and the most visits of a draw that are followed; more where too few decide."""

_OPEN_SHARE = 0.05
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
        geometry: N points, here or on shards.
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
        block: draws that are prepared together; speed alone depends on it.

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
    fence = fenced(len(geometry), n, covered, candidates)
    base = len(fence.taken)
    check_memory(geometry, base + n, memory, min(n, block) * _LOOKED_AT[1], block)
    cover = Cover(geometry, fence, base + n, progress)
    sampler = _Sampler(cover, generator, trials)
    picks, sampler.gains = resume(progress, n, fence.allows)
    cover.add(np.concatenate([fence.taken, np.array(picks, dtype=np.int64)]))
    if not len(cover):
        if first == "largest":
            start = cover.bounds.longest()
        else:
            start = int(cover.bounds.by_noise(generator.child("first"), 1)[0])
        cover.add(np.array([start]))
        sampler.gains.append(np.inf)
        tell(progress, cover.centers.rows, sampler.gains, 0)
    cover.apply()
    while (drawn := len(cover) - base) < n:
        if sampler.spent >= PASS_SHARE * cover.bounds.pass_rows * (cover.waiting + _READ_COST):
            sampler.spent = 0.0
            cover.apply()
        if cover.waiting > PENDING or trials > 1:
            cover.apply()
        if sampler.nothing_left():
            sampler.fill(n - drawn)
        elif trials > 1:
            sampler.draw_greedily(drawn)
        else:
            sampler.draw(drawn, min(block, n - drawn))
        tell(progress, cover.centers.rows[base:], sampler.gains, drawn)
    return Chosen(
        torch.tensor(cover.centers.rows[base:]), torch.tensor(sampler.gains, dtype=torch.float64)
    )


@dataclass
class _Visits:
    """For each of B draws, its S most promising visits and a bound on all others.

    Attributes:
        rows: (B, S) of the pool, or positions in a block of its rows.
        times, outside: (B, S) when; (B,) the least time / distance of any other visit.
    """

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
        self.looked_at = _LOOKED_AT[0]
        self.spent = 0.0

    def nothing_left(self) -> bool:
        """Whether every row left coincides with a center; float64 decides if it may be so."""
        top, _, norm = self.cover.bounds.summary()
        if top <= 0:
            return True
        if top > 4 * self.cover.error * norm:
            return False
        return not self.cover.bounds.anything_left(self.cover.centers)

    def draw(self, first: int, count: int) -> None:
        """Up to ``count`` picks, the numbers ``first`` and on; pool bounds may be stale."""
        cover = self.cover
        visits = self._visits(np.arange(first, first + count))
        rows, where = np.unique(visits.rows, return_inverse=True)
        visits.rows = where.reshape(visits.rows.shape)
        line = cover.block(rows, *cover.bounds.read(rows))
        likely = _ratio(visits.times, line.upper[visits.rows]).argmin(axis=1)
        line.expect(np.unique(np.take_along_axis(visits.rows, likely[:, None], 1)))
        self.spent += len(rows) * (len(rows) + cover.waiting + _READ_COST) + _BLOCK_COST
        self.spent += cover.bounds.ask_cost
        before, left_open = len(cover), 0
        for i in range(len(visits.rows)):
            at = _winner(line, visits, i)
            if at is None and left_open == _RACES:
                break
            if at is None:
                left_open += 1
                cover.settle(line)
                row = self._race(first + i)
                if row is None:
                    break
                at = int(np.searchsorted(rows, row))
                if at == len(rows) or rows[at] != row:
                    cover.add(np.array([row]))
                    line.meet(cover.centers[len(cover) - 1 :])
                    continue
            line.add(at)
        cover.settle(line)
        self._record(before)
        if left_open > _OPEN_SHARE * (len(cover) - before):
            self.looked_at = min(2 * self.looked_at, _LOOKED_AT[1])

    def draw_greedily(self, number: int) -> None:
        """One pick, the best of several draws; every row's bound is up to date before."""
        cover = self.cover
        draws = np.arange(number * self.trials, (number + 1) * self.trials)
        visits = self._visits(draws)
        rows, where = np.unique(visits.rows, return_inverse=True)
        visits.rows = where.reshape(visits.rows.shape)
        line = cover.block(rows, *cover.bounds.read(rows))
        found = [_winner(line, visits, i) for i in range(len(visits.rows))]
        found += [None] * (self.trials - len(found))
        won = [self._race(int(d)) if at is None else int(rows[at]) for d, at in zip(draws, found)]
        best = self._largest_gain(np.unique([row for row in won if row is not None]))
        before = len(cover)
        cover.add(np.array([best]))
        self._record(before)

    def fill(self, count: int) -> None:
        """The rest uniformly: every row left coincides with a center."""
        rows = self.cover.bounds.by_noise(self.generator.child("fill"), count)
        self.cover.add(rows)
        self.gains += [0.0] * len(rows)

    def _record(self, before: int) -> None:
        """True squared distance of each new pick to the centers that came before it."""
        centers = self.cover.centers
        rows = np.asarray(centers.rows[before:], dtype=np.int64)
        order = np.arange(before, len(centers))
        self.gains += centers.nearest(rows, centers[before:], before=order).tolist()

    def _largest_gain(self, rows: IntArray) -> int:
        """Which of some rows, added as a center, lowers the sum of squared distances most.

        Only rows that a candidate may come closest to change the sum, so bounds are summed over
        those alone; candidates whose bounds overlap are told apart in float64, and those equal
        to 1e-12 by the lowest row.
        """
        if len(rows) == 1:
            return int(rows[0])
        bounds = self.cover.bounds
        low, high = bounds.gain_bounds(self._trials(rows))
        rows = rows[high >= low.max()]
        if len(rows) > 1:
            gains = bounds.true_gains(self._trials(rows), self.cover.centers)
            rows = rows[gains >= gains.max() * (1 - 1e-12)]
        return int(rows[0])

    def _trials(self, rows: IntArray) -> Centers:
        trials = new_centers(self.cover.geometry, len(rows))
        trials.add(rows, self.cover.geometry.take(torch.from_numpy(rows)))
        return trials

    def _visits(self, draws: IntArray) -> _Visits:
        """The most promising visits by the bounds at hand, for as many draws as fit."""
        size = len(self.cover.bounds)
        top, total, _ = self.cover.bounds.summary()
        # A draw needs on average N top / total visits; six times that fail once in 400.
        count = int(min(_VISITS, 16 + 6 * size * top / total))
        draws = draws[: max(1, _VISITS // count)]
        gaps, rows = self.generator.arrivals(draws, count, size)
        times = np.cumsum(gaps, axis=1)
        upper, _ = self.cover.bounds.read(rows.ravel())
        bound = _ratio(times, upper.reshape(rows.shape))
        most = min(self.looked_at, count - 1)
        order = np.argpartition(bound, most, axis=1)[:, : most + 1]
        ranked = np.take_along_axis(bound, order, 1)
        last = ranked.argmax(axis=1)
        outside = np.minimum(ranked.max(axis=1), times[:, -1] / top)
        inside = np.arange(most + 1) != last[:, None]
        keep = order[inside].reshape(len(draws), most)
        return _Visits(
            np.take_along_axis(rows, keep, 1), np.take_along_axis(times, keep, 1), outside
        )

    def _race(self, draw: int) -> int | None:
        """Who wins a draw, with true distances wherever they matter; None if nothing is left."""
        bounds, size = self.cover.bounds, len(self.cover.bounds)
        best, winner, start, now, told = np.inf, -1, 0, 0.0, 0
        while True:
            if start >= told:  # by a pool's worth of visits most bounds are true distances
                top, told = bounds.summary().top, start + size
            gaps, rows = self.generator.arrivals(np.array([draw]), 1024, size, start)
            times = np.cumsum(np.concatenate([[now], gaps[0]]))[1:]
            bound = _ratio(times, bounds.read(rows[0])[0])
            order = np.argsort(bound, kind="stable")
            for i in range(0, len(order), _RACED):
                some = order[i : i + _RACED]
                some = some[bound[some] < best]
                if not len(some):
                    break
                true = np.maximum(self.cover.true(rows[0][some]), 0)
                ratio = _ratio(times[some], true)
                if ratio.min() < best:
                    best, winner = float(ratio.min()), int(rows[0][some[ratio.argmin()]])
            start, now = start + 1024, float(times[-1])
            if winner >= 0 and now >= best * top:
                return winner
            if winner < 0 and not bounds.anything_left(self.cover.centers):
                return None


def _winner(line: Block, visits: _Visits, i: int) -> int | None:
    """Which row of the block wins a draw, or None where the bounds leave it open."""
    if i >= len(visits.rows):
        return None
    rows, times = visits.rows[i], visits.times[i]
    bound = _ratio(times, line.upper[rows])
    best = int(bound.argmin())
    at = int(rows[best])
    value = float(line.upper[at])
    if not line.exact[at]:
        cover = line.cover
        one = slice(at, at + 1)
        value = float(
            lower(line.upper[one], line.norms[one], cover.error, cover.centers.largest)[0]
        )
    if value <= 0:
        return None
    rivals = bound[rows != at]
    rest = min(float(rivals.min()) if len(rivals) else np.inf, float(visits.outside[i]))
    return at if times[best] / value < rest else None


def _ratio(times: FloatArray, weights: FloatArray) -> FloatArray:
    """times / weights, infinite where the weight is not positive."""
    out = np.full(np.shape(times), np.inf)
    return np.divide(times, weights, out=out, where=weights > 0)
