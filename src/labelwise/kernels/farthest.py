"""Farthest-first traversal, also called k-center greedy, exact and in blocks."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.bounds import Front, fenced
from labelwise.kernels.centers import FloatArray
from labelwise.kernels.cover import Block, Cover, check_memory
from labelwise.kernels.geometry import Chosen, Geometry
from labelwise.kernels.noise import Generator, derive
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
    outliers: int | float = 0,
    eta: float = 1.0,
    generator: Generator | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
    block: int = BLOCK,
) -> Chosen:
    """Pick rows one at a time, each the farthest from every covered or picked row.

    With nothing covered the first pick is the candidate nearest the mean of all points.

    With ``outliers`` each pick is instead drawn uniformly among the ceil((1 + eta) outliers)
    rows farthest then, so that a few stray points cannot attract every pick; with nothing
    covered the first is drawn uniformly.

    Args:
        geometry: N points, here or on shards.
        n: how many rows to pick, 1 <= n <= number of candidates not covered.
        covered: (M,) int64 rows to measure from; never picked.
        candidates: (K,) int64 rows that may be picked; all by default. Other rows are not
            looked at.
        outliers: how many points need not be covered: a count, or a share in (0, 1) of the rows
            that may be picked; 0 for the plain rule.
        eta: > 0, how much wider than the outliers the draw is. The wider, the likelier each
            pick is none of them, and the more points end up uncovered.
        generator: draws where ``outliers`` asks for it.
        memory: bytes the call may hold beyond its inputs; None for no bound.
        progress: told the picks as they are made; resumes an interrupted run of the same call.
        block: how many rows first in line are treated together; speed alone depends on it.

    Returns:
        (n,) rows in the order picked, the lowest row on a tie, and (n,) float64 gains: the
        squared distance of each pick to its nearest center when it was picked (for a first
        pick with nothing covered, infinity).

    Raises:
        InputError: n or a row number out of range, earlier picks of another call, outliers or
            eta out of range, or no generator where one is needed.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical
        Computer Science 1985; Sener & Savarese, "Active Learning for Convolutional Neural
        Networks: A Core-Set Approach", ICLR 2018. About 2 N (M + n) D operations, nearly all
        in matrix products; O(N) memory beyond the points and the centers. With outliers: Ding,
        Yu & Wang, "Greedy Strategy Works for k-Center Clustering with Outliers and Coreset
        Construction", ESA 2019: n picks cover all but (1 + eta) z points within twice the best
        radius for z outliers with probability at least (1 - z/N) (eta / (1 + eta))^(n - 1).

    >>> from labelwise.kernels import Euclidean
    >>> line = Euclidean([[0.0], [1.0], [5.0], [9.0]])
    >>> farthest_first(line, 2, covered=torch.tensor([0])).rows
    tensor([3, 2])
    """
    fence = fenced(len(geometry), n, covered, candidates)
    base = len(fence.taken)
    check_memory(geometry, base + n, memory, block, block)
    ranks = _Ranks(outliers, eta, generator, len(fence), n)
    cover = Cover(geometry, fence, base + n, progress)
    picks, gains = resume(progress, n, fence.allows)
    cover.add(np.concatenate([fence.taken, np.array(picks, dtype=np.int64)]))
    if not len(cover):
        picks, gains = [ranks.first(cover)], [np.inf]
        cover.add(np.array(picks))
        tell(progress, picks, gains, 0)
    if len(picks) < n:
        cover.apply()
    spent = 0.0
    while (before := len(picks)) < n:
        front = cover.bounds.front(block + ranks.width)
        line = cover.block(front.rows, front.upper, front.exact)
        while len(picks) < n and (at := ranks.find(line, front, len(picks))) is not None:
            picks.append(int(line.rows[at]))
            gains.append(float(line.upper[at]))
            line.add(at)
        tell(progress, picks, gains, before)
        # Bringing the next block up to date is cheap; the pool gets a product of its own once
        # the blocks since the last one have cost a share of it.
        spent += len(line) * (len(line) + cover.waiting + READ_COST) + cover.bounds.ask_cost
        if len(picks) < n:
            if spent >= PASS_SHARE * cover.bounds.pass_rows * (cover.waiting + READ_COST):
                cover.apply()
                spent = 0.0
            cover.settle(line)
    return Chosen(torch.tensor(picks), torch.tensor(gains, dtype=torch.float64))


class _Ranks:
    """How far down the line each pick is: at its head, or drawn among the first few.

    Attributes:
        width: among how many rows a pick is drawn; 0 where it is the farthest.
    """

    def __init__(
        self, outliers: float, eta: float, generator: Generator | None, left: int, n: int
    ) -> None:
        share = isinstance(outliers, float) and not outliers.is_integer()
        if not 0 <= outliers < (1 if share else left):
            raise InputError(
                f"outliers must be a count below {left} (the rows that may be picked) or a share "
                f"in (0, 1) of them, got {outliers}"
            )
        if not 0 < eta < math.inf:
            raise InputError(f"eta must be > 0 and finite, got {eta}")
        if outliers and generator is None:
            raise InputError("farthest_first draws its picks under outliers and needs a generator")
        count = outliers * left if share else outliers
        self.width = math.ceil((1 + eta) * count)
        self._generator = generator
        self._left = left
        # Hashed from the number of the pick alone: no rank depends on the order of rows.
        self._shares: FloatArray = np.zeros(n)
        if self.width and generator is not None:
            self._shares = Generator(derive(generator.seed, "outliers")).uniform(n)

    def first(self, cover: Cover) -> int:
        """The first pick, with nothing covered."""
        if self.width and self._generator is not None:
            return int(cover.bounds.by_noise(self._generator.child("first"), 1)[0])
        return cover.bounds.nearest_mean()

    def find(self, line: Block, front: Front, picked: int) -> int | None:
        """Which row of the block is the next pick; None where a row outside it may be."""
        if not self.width:
            return _at_head(line, front)
        rank = int(self._shares[picked] * min(self.width, self._left - picked))
        return _at_rank(line, front, rank)


def _at_head(line: Block, front: Front) -> int | None:
    """The farthest row, where it is certain to be in the block."""
    while True:
        best = int(line.upper.argmax())
        if not _beats(float(line.upper[best]), int(line.rows[best]), front):
            return None
        if line.exact[best]:
            return best
        bound = np.where(line.exact, -np.inf, line.upper)
        count = min(_REFINE, int((bound > -np.inf).sum()))
        line.refine(np.argpartition(-bound, count - 1)[:count])


def _at_rank(line: Block, front: Front, rank: int) -> int | None:
    """The row with so many ahead of it, where all of those are certain to be in the block.

    Rows whose intervals lie beyond the one of that rank are ahead or behind for certain; the
    others are measured and sorted.
    """
    if rank >= int((line.upper > -np.inf).sum()):
        return None
    while True:
        highest = -np.partition(-line.upper, rank)[rank]
        if highest < front.rest:
            return None
        lower = line.lower()
        lowest = -np.partition(-lower, rank)[rank]
        close = np.flatnonzero((line.upper >= lowest) & (lower <= highest))
        if line.exact[close].all():
            order = close[np.lexsort((line.rows[close], -line.upper[close]))]
            at = int(order[rank - int((lower > highest).sum())])
            return at if _beats(float(line.upper[at]), int(line.rows[at]), front) else None
        line.refine(close[~line.exact[close]])


def _beats(value: float, row: int, front: Front) -> bool:
    """Whether a row comes before every row outside the block."""
    return value > front.rest or (value == front.rest and row < front.rest_row)
