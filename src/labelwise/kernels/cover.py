"""Distance of every row to its nearest center, as exact as the next decision needs.

Farthest-first and k-means++ both ask, a thousand times over, how far each row is from the
centers picked so far. Touching the pool at each pick is a matrix-vector product a pick, and
memory-bound. Three facts make it a few matrix-matrix products instead:

- distances to the nearest center only fall, so a stale one is an upper bound;
- single precision with a proven error gives an upper and a lower bound in one product;
- where bounds cannot decide, one row's true distance in float64 costs next to nothing.

So a `Cover` keeps upper bounds for the pool (`Bounds`, here or on many machines), takes the few
rows that matter aside as a `Block`, and tightens only those. Picks then depend on the points
alone: not on block sizes, product shapes, libraries or the number of machines.
"""

from __future__ import annotations

from collections.abc import Sized

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import ResourceError
from labelwise.kernels.bounds import (
    BoolArray,
    Bounds,
    Distributed,
    Fence,
    PoolBounds,
    fenced,
    lower,
    tightened,
)
from labelwise.kernels.centers import CENTER_CHUNK, Centers, FloatArray, IntArray
from labelwise.kernels.geometry import Geometry, Points
from labelwise.kernels.progress import Progress

_ALL_PAIRS = 2048
"""Rows of a block up to which the distances among all of them are held."""

_SCRATCH_BYTES = 16 << 20
_BLOCKS = 24


class Cover:
    """Centers, and what is known of every row's distance to them.

    Attributes:
        bounds: of all rows; up to date with the first ``bounds.applied`` centers.
        centers: in the order added.
        error: the geometry's bound on single-precision distances.

    Args:
        geometry: the points, here or elsewhere.
        fence: the rows that may be picked.
        capacity: how many centers there will be at most.
        progress: told how far a pass over the pool is.
    """

    def __init__(
        self, geometry: Geometry, fence: Fence, capacity: int, progress: Progress | None = None
    ) -> None:
        self.geometry = geometry
        self.bounds: Bounds
        if isinstance(geometry, Distributed):
            self.bounds = geometry.bounds(fence, capacity)
        else:
            self.bounds = PoolBounds(geometry, fence.mask(0, fence.size))
        self.centers = new_centers(geometry, capacity)
        self.error = geometry.error
        self._progress = progress

    def __len__(self) -> int:
        return len(self.centers)

    @property
    def waiting(self) -> int:
        """How many centers the pool's bounds do not account for yet."""
        return len(self.centers) - self.bounds.applied

    def add(self, rows: IntArray, points: Points | None = None) -> None:
        """New centers, not yet applied to the pool; they may not be picked again."""
        if not len(rows):
            return
        if points is None:
            points = self.geometry.take(torch.from_numpy(rows))
        self.centers.add(rows, points)
        self.bounds.exclude(rows)

    def apply(self) -> None:
        """Bring every row's bound up to date with every center."""
        self.bounds.apply(self.centers, None if self._progress is None else self._progress.passing)

    def block(self, rows: IntArray, upper: FloatArray, exact: BoolArray) -> Block:
        """Some rows taken aside, with what `Bounds` knows of them, up to date with all centers."""
        return Block(self, rows, upper, exact)

    def settle(self, block: Block) -> None:
        """Let the pool know what a block has found out about its rows."""
        self.bounds.write(block.rows, block.upper, block.exact)

    def true(self, rows: IntArray) -> FloatArray:
        """True squared distances of rows to the nearest of all centers; -inf where not allowed."""
        fresh, where = np.unique(rows, return_inverse=True)
        block = self.block(fresh, *self.bounds.read(fresh))
        block.refine(np.flatnonzero(~block.exact & (block.upper > -np.inf)))
        self.settle(block)
        return block.upper[where]


def new_centers(geometry: Geometry, capacity: int) -> Centers:
    """Room for some centers of a geometry, here or elsewhere."""
    if isinstance(geometry, Distributed):
        return geometry.centers(capacity)
    return Centers(geometry, capacity)


class Block:
    """A few rows and all that is known of them; picking among them costs no pass.

    Attributes:
        rows: (m,) ascending.
        points: the same as points. norms: their squared norms.
        upper: bounds that account for every center of the cover.
        exact: whether those are the true values.
    """

    def __init__(self, cover: Cover, rows: IntArray, upper: FloatArray, exact: BoolArray) -> None:
        self.cover, self.rows, self.upper, self.exact = cover, rows, upper, exact
        self.points = cover.geometry.take(torch.from_numpy(rows))
        self.norms: FloatArray = self.points.norms.cpu().numpy()
        self._between: FloatArray | None = None
        self._place: dict[int, int] = {}
        if cover.waiting and len(rows):
            centers = cover.centers
            nearest = centers.offsets(self.points, centers[cover.bounds.applied :])
            self.upper, self.exact = tightened(
                upper, exact, nearest, self.norms, cover.error, centers.largest
            )

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, at: int) -> None:
        """Make a row of the block a center; the pool learns of it when the block is settled."""
        self.cover.centers.add(self.rows[at : at + 1], self.points[at : at + 1])
        self.upper[at], self.exact[at] = -np.inf, True
        self._meet(self._offsets_to(at) + self.norms, float(self.norms[at]))

    def meet(self, center: Points) -> None:
        """Account for a new center that is no row of the block."""
        offsets = self.cover.geometry.offsets(self.points, center)[:, 0].cpu().numpy()
        self._meet(offsets + self.norms, float(center.norms[0]))

    def _meet(self, near: FloatArray, norm: float) -> None:
        slack = self.cover.error * (self.norms + norm)
        closer = np.maximum(near - slack, 0) < self.upper
        if closer.any():
            self.upper[closer] = np.minimum(self.upper[closer], (near + slack)[closer])
            self.exact[closer] = False

    def expect(self, which: IntArray) -> None:
        """Measure from rows that are likely to become centers, in one product."""
        some = torch.from_numpy(which).to(self.points.norms.device)
        pairs = self.cover.geometry.offsets(self.points, self.points[some]).cpu().numpy()
        self._between = np.ascontiguousarray(pairs.T)
        self._place = {int(at): i for i, at in enumerate(which)}

    def _offsets_to(self, at: int) -> FloatArray:
        """Offsets of all rows to one of them."""
        if self._between is None and len(self) <= _ALL_PAIRS:
            self.expect(np.arange(len(self)))
        if self._between is not None and at in self._place:
            return self._between[self._place[at]]
        one = self.points[at : at + 1]
        found: FloatArray = self.cover.geometry.offsets(self.points, one)[:, 0].cpu().numpy()
        return found

    def refine(self, which: IntArray) -> None:
        """Make the bounds of some rows of the block true ones."""
        if len(which):
            some = torch.from_numpy(which).to(self.points.norms.device)
            self.upper[which] = self.cover.centers.nearest(self.rows[which], self.points[some])
            self.exact[which] = True

    def lower(self) -> FloatArray:
        """Lower bounds on the distances, where those are not known exactly."""
        known = self.exact | (self.upper == -np.inf)
        found = lower(self.upper, self.norms, self.cover.error, self.cover.centers.largest)
        return np.where(known, self.upper, found)


def prepare(
    pool: Sized, n: int, covered: Tensor | None, candidates: Tensor | None
) -> tuple[IntArray, BoolArray]:
    """Covered rows and the mask of rows that may be picked, checked.

    Raises:
        InputError: n is not in 1..(candidates left), or a row number is out of range.
    """
    fence = fenced(len(pool), n, covered, candidates)
    return fence.taken, fence.mask(0, fence.size)


def check_memory(
    geometry: Geometry, centers: int, memory: int | None, line: int, likely: int
) -> None:
    """Refuse a bound on memory that a cover of this geometry cannot keep.

    A cover holds 25 bytes a row, up to 64 while it sorts them (elsewhere, if the rows are), the
    centers, a few blocks, and a block of rows first in line with the distances among them.

    Args:
        geometry: the points.
        centers: how many there will be. memory: bytes; None for no bound.
        line: how many rows are first in line at the most. likely: how many of them are measured
            from beforehand.
    """
    if memory is None:
        return
    width = sum(geometry.widths)
    rows = 0 if isinstance(geometry, Distributed) else len(geometry)
    line = min(line, len(geometry))
    need = 64 * rows + 4 * width * centers + _SCRATCH_BYTES
    need += 12 * line * width + 8 * line * min(line, likely, _ALL_PAIRS)
    need += _BLOCKS * min(geometry.block_size, 256) * (width + CENTER_CHUNK)
    if memory < need:
        raise ResourceError(
            f"memory must be at least {need / 1e6:.3g} MB for {len(geometry)} points and "
            f"{centers} centers, got {memory / 1e6:.3g} MB"
        )


__all__ = ["Block", "Cover", "FloatArray", "IntArray", "check_memory", "prepare"]
