"""Farthest-first traversal, also called k-center greedy, exact and in blocks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelwise.kernels.cover import Cover, FloatArray, IntArray, check_memory, prepare
from labelwise.kernels.geometry import Chosen, Geometry, Points
from labelwise.kernels.progress import Progress, resume, tell

BLOCK = 768
"""Rows first in line that are treated together. Picks do not depend on it."""

PASS_SHARE = 0.5
"""The share of a pool pass that blocks may cost before it is made. Speed alone depends on it."""

READ_COST = 64
"""What reading a row costs, in products with one center. Speed alone depends on it."""

_REFINE = 48


def farthest_first(
    geometry: Geometry,
    n: int,
    *,
    covered: Tensor | None = None,
    candidates: Tensor | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    block: int = BLOCK,
) -> Chosen:
    """Pick rows one at a time, each the farthest from every covered or picked row.

    With nothing covered the first pick is the candidate nearest the mean of all points.

    Args:
        geometry: N points.
        n: how many rows to pick, 1 <= n <= number of candidates not covered.
        covered: (M,) int64 rows to measure from; never picked.
        candidates: (K,) int64 rows that may be picked; all by default. Other rows are not
            looked at.
        memory: bytes the call may hold beyond its inputs; None for no bound.
        progress: told the picks as they are made; resumes an interrupted run of the same call.
        block: how many rows first in line are treated together; speed alone depends on it.

    Returns:
        (n,) rows in the order picked, the lowest row on a tie, and (n,) float64 gains: the
        squared distance of each pick to its nearest center when it was picked (for a first
        pick with nothing covered, infinity).

    Raises:
        InputError: n or a row number out of range, or earlier picks of another call.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical
        Computer Science 1985; Sener & Savarese, "Active Learning for Convolutional Neural
        Networks: A Core-Set Approach", ICLR 2018. About 2 N (M + n) D operations, nearly all
        in matrix products; O(N) memory beyond the points and the centers.

    >>> from labelwise.kernels import Euclidean
    >>> line = Euclidean([[0.0], [1.0], [5.0], [9.0]])
    >>> farthest_first(line, 2, covered=torch.tensor([0])).rows
    tensor([3, 2])
    """
    taken, allowed = prepare(geometry, n, covered, candidates)
    check_memory(geometry, len(taken) + n, memory)
    cover = Cover(geometry, allowed, len(taken) + n)
    picks, gains = resume(progress, n, allowed)
    cover.add(np.concatenate([taken, np.array(picks, dtype=np.int64)]))
    if not len(cover):
        first = geometry.nearest_mean(torch.from_numpy(np.flatnonzero(allowed)))
        cover.add(np.array([first]))
        picks.append(first)
        gains.append(np.inf)
        tell(progress, picks, gains, 0)
    cover.apply()
    spent = 0
    while len(picks) < n:
        rows, rest, rest_row = cover.frontier(block)
        points = geometry.take(torch.from_numpy(rows))
        cover.refresh(rows, points)
        line = _Line(cover, rows, points)
        line.pick(n - len(picks), rest, rest_row)
        picks += line.picks
        gains += line.gains
        tell(progress, picks, gains, len(picks) - len(line.picks))
        # Bringing the next block up to date is cheap; the pool gets a product of its own once
        # the blocks since the last one have cost a share of it.
        waiting = len(cover) - cover.applied
        spent += len(rows) * (len(rows) + waiting + READ_COST)
        if len(picks) < n and spent >= PASS_SHARE * len(geometry) * (waiting + READ_COST):
            cover.apply(keep=rows)
            spent = 0
    return Chosen(torch.tensor(picks), torch.tensor(gains, dtype=torch.float64))


class _Line:
    """The rows first in line: all distances among them are known, so picking is cheap."""

    def __init__(self, cover: Cover, rows: IntArray, points: Points) -> None:
        self.cover, self.rows, self.points = cover, rows, points
        between = cover.geometry.offsets(points, points).cpu().numpy()
        norms = points.norms.cpu().numpy()
        # Row j of `between` is of the distances to row j, less the norm of row j's partner.
        self.between = np.ascontiguousarray(between.T)
        self.norms = norms
        self.value: FloatArray = cover.upper[rows]
        self.exact = cover.exact[rows]
        self.picks: list[int] = []
        self.gains: list[float] = []

    def pick(self, most: int, rest: float, rest_row: int) -> None:
        """Pick while the best row here is certain to beat every row outside."""
        while len(self.picks) < most:
            best = int(self.value.argmax())
            value = float(self.value[best])
            if value < rest or (value == rest and self.rows[best] > rest_row):
                break
            if not self.exact[best]:
                self._refine()
                continue
            self._take(best, value)
        alive = np.isfinite(self.value)
        self.cover.upper[self.rows[alive]] = self.value[alive]
        self.cover.exact[self.rows[alive]] = self.exact[alive]

    def _refine(self) -> None:
        """True distances for the inexact rows with the largest bounds."""
        bound = np.where(self.exact, -np.inf, self.value)
        count = min(_REFINE, int((bound > -np.inf).sum()))
        some = np.argpartition(-bound, count - 1)[:count]
        rows = self.rows[some]
        self.cover.upper[rows] = self.value[some]
        self.cover.exact[rows] = False
        self.cover.refine(rows)
        self.value[some] = self.cover.upper[rows]
        self.exact[some] = True

    def _take(self, best: int, value: float) -> None:
        row = self.rows[best : best + 1]
        self.picks.append(int(row[0]))
        self.gains.append(value)
        self.cover.add(row, self.points[best : best + 1])
        self.value[best] = -np.inf
        self.exact[best] = True
        near = self.between[best] + self.norms
        slack = self.cover.error * (self.norms + self.norms[best])
        closer = np.maximum(near - slack, 0) < self.value
        if closer.any():
            self.value[closer] = np.minimum(self.value[closer], (near + slack)[closer])
            self.exact[closer] = False
