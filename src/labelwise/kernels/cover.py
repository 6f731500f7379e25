"""Distance of every row to its nearest center, as exact as the next decision needs.

Farthest-first and k-means++ both ask, a thousand times over, how far each row is from the
centers picked so far. Touching the pool at each pick is a matrix-vector product a pick, and
memory-bound. Three facts make it a few matrix-matrix products instead:

- distances to the nearest center only fall, so a stale one is an upper bound;
- single precision with a proven error gives an upper and a lower bound in one product;
- where bounds cannot decide, one row's true distance in float64 costs next to nothing.

So `Cover` keeps upper bounds, knows which of them are exact, and tightens only what is asked.
Picks then depend on the points alone: not on block sizes, product shapes or libraries.
"""

from __future__ import annotations

from collections.abc import Sized

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.geometry import Geometry, Points

CENTER_CHUNK = 256
"""Centers applied to the pool in one product: enough to be compute-bound."""

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Cover:
    """Upper bounds on each row's squared distance to its nearest center.

    Attributes:
        upper: (N,) float64. Never below the true value; -inf where a row may not be picked.
        exact: (N,) bool: where ``upper`` is the true value, from float64 differences.
        centers: rows, in the order added.
        applied: how many of the centers every row's bound already accounts for.
        largest: the largest squared norm of a center.

    Args:
        geometry: the points.
        allowed: (N,) bool, rows that may be picked.
        capacity: how many centers there will be at most.
    """

    def __init__(self, geometry: Geometry, allowed: NDArray[np.bool_], capacity: int) -> None:
        self.geometry = geometry
        self.norms: FloatArray = geometry.squared_norms().cpu().numpy()
        self.upper: FloatArray = np.where(allowed, np.inf, -np.inf)
        self.exact: NDArray[np.bool_] = np.zeros(len(geometry), dtype=bool)
        self.error = geometry.error
        self.centers: list[int] = []
        self.applied = 0
        self.largest = 0.0
        self._points = Points(
            tuple(
                torch.empty(capacity, width, device=geometry.device) for width in geometry.widths
            ),
            torch.empty(capacity, dtype=torch.float64, device=geometry.device),
        )

    def __len__(self) -> int:
        return len(self.centers)

    def points(self, start: int = 0) -> Points:
        """The centers added since ``start``, as points."""
        return self._points[start : len(self.centers)]

    def add(self, rows: IntArray, points: Points | None = None) -> None:
        """New centers, not yet applied to the pool; they may not be picked again."""
        if not len(rows):
            return
        if points is None:
            points = self.geometry.take(torch.from_numpy(rows))
        part = slice(len(self.centers), len(self.centers) + len(rows))
        for mine, theirs in zip(self._points.factors, points.factors):
            mine[part] = theirs
        self._points.norms[part] = points.norms
        self.centers.extend(rows.tolist())
        self.largest = max(self.largest, float(points.norms.max()))
        self.upper[rows] = -np.inf

    def apply(self, keep: IntArray | None = None) -> None:
        """Bring every row's bound up to date with every center.

        Args:
            keep: rows whose bounds account for all centers already: they stay as they are.
        """
        kept = None if keep is None else (self.upper[keep], self.exact[keep])
        if self.applied < len(self.centers):
            centers = self.points(self.applied)
            for start, block in self.geometry.blocks():
                self._tighten(slice(start, start + len(block)), self._nearest(block, centers))
            self.applied = len(self.centers)
        if keep is not None and kept is not None:
            self.upper[keep], self.exact[keep] = kept

    def refresh(self, rows: IntArray, points: Points) -> None:
        """Bring some rows up to date with the centers not yet applied to the pool."""
        if self.applied < len(self.centers):
            self._tighten(rows, self._nearest(points, self.points(self.applied)))

    def _nearest(self, points: Points, centers: Points) -> Tensor:
        """Least offset of each point to some centers, a few of them at a time: (n,) float32."""
        nearest = self.geometry.offsets(points, centers[:CENTER_CHUNK]).amin(1)
        for start in range(CENTER_CHUNK, len(centers), CENTER_CHUNK):
            some = centers[start : start + CENTER_CHUNK]
            torch.minimum(nearest, self.geometry.offsets(points, some).amin(1), out=nearest)
        return nearest

    def _tighten(self, rows: slice | IntArray, nearest: Tensor) -> None:
        norms = self.norms[rows]
        near = nearest.double().cpu().numpy() + norms
        slack = self.error * (norms + self.largest)
        upper = self.upper[rows]
        # A row stays exact when even the lower bound of what is new cannot undercut it.
        self.exact[rows] &= np.maximum(near - slack, 0) >= upper
        self.upper[rows] = np.minimum(upper, near + slack)

    def refine(self, rows: IntArray) -> FloatArray:
        """The true squared distance of some rows to their nearest center, in float64.

        Single precision finds the centers that may be nearest; float64 differences decide.
        """
        inexact = rows[~self.exact[rows]]
        if len(inexact):
            self.upper[inexact] = exact_nearest(
                self.geometry, inexact, np.asarray(self.centers), self.points(), self.error
            )
            self.exact[inexact] = True
        return self.upper[rows]

    def frontier(self, size: int) -> tuple[IntArray, float, int]:
        """The rows first in line: largest bounds, equal ones by the lowest row.

        Returns:
            (m,) rows in ascending order; the bound and the number of the row next in line
            (-inf and N when there is none).
        """
        size = min(size, int(np.isfinite(self.upper).sum() + np.isposinf(self.upper).sum()))
        if size + 1 > len(self.upper):
            return np.arange(len(self.upper)), -np.inf, len(self.upper)
        threshold = -np.partition(-self.upper, size)[size]
        above = np.flatnonzero(self.upper > threshold)
        ties = np.flatnonzero(self.upper == threshold)
        room = size - len(above)
        rows = np.union1d(above, ties[:room])
        return rows, float(threshold), int(ties[room])


def exact_nearest(
    geometry: Geometry,
    rows: IntArray,
    centers: IntArray,
    points: Points,
    error: float,
    before: IntArray | None = None,
) -> FloatArray:
    """Squared distance of rows to the nearest of some centers, (n,) float64, exactly.

    Args:
        geometry: the points.
        rows: (n,) rows to measure.
        centers: (M,) rows to measure from, M >= 1. points: the same as points.
        error: the geometry's bound on single-precision distances.
        before: (n,) row i is measured from the first ``before[i]`` >= 1 centers only.
    """
    mine = geometry.take(torch.from_numpy(rows))
    limit = max(1, (16 << 20) // max(1, len(centers)))
    parts = []
    for start in range(0, len(rows), limit):
        some = slice(start, start + limit)
        block = mine[some]
        near = _distances(geometry, block, points)
        slack = error * (block.norms[:, None] + points.norms)
        if before is not None:
            ahead = torch.from_numpy(before[some]).to(near.device)
            near[torch.arange(len(centers), device=near.device) >= ahead[:, None]] = torch.inf
        reach = (near + slack).amin(1, keepdim=True)
        pair_row, pair_center = (near - slack <= reach).nonzero(as_tuple=True)  # inf > reach
        left = torch.from_numpy(rows[some])[pair_row.cpu()]
        right = torch.from_numpy(centers)[pair_center.cpu()]
        distance = geometry.exact(left, right).to(near.device)
        best = torch.full((len(block),), torch.inf, dtype=torch.float64, device=near.device)
        best.scatter_reduce_(0, pair_row, distance, "amin")
        parts.append(best.cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros(0)


def _distances(geometry: Geometry, block: Points, points: Points) -> Tensor:
    """Squared distances, (len(block), len(points)) float64; the smaller set is the one copied."""
    if len(block) >= len(points):
        return geometry.offsets(block, points).double() + block.norms[:, None]
    return geometry.offsets(points, block).T.double() + points.norms


def prepare(
    pool: Sized, n: int, covered: Tensor | None, candidates: Tensor | None
) -> tuple[IntArray, NDArray[np.bool_]]:
    """Covered rows and the mask of rows that may be picked, checked.

    Raises:
        InputError: n is not in 1..(candidates left), or a row number is out of range.
    """
    size = len(pool)
    allowed = np.ones(size, dtype=bool)
    taken = _row_numbers(covered, size, "covered")
    if candidates is not None:
        allowed[:] = False
        allowed[_row_numbers(candidates, size, "candidates")] = True
    allowed[taken] = False
    left = int(allowed.sum())
    if not 1 <= n <= left:
        raise InputError(f"n must be in 1..{left} (the rows that may be picked), got {n}")
    return taken, allowed


def _row_numbers(rows: Tensor | None, size: int, name: str) -> IntArray:
    if rows is None:
        return np.zeros(0, dtype=np.int64)
    array = torch.as_tensor(rows).cpu().numpy().astype(np.int64)
    wrong = (array < 0) | (array >= size)
    if wrong.any():
        raise InputError(f"{name} must be rows in 0..{size - 1}, got {array[wrong][0]}")
    return array


def check_memory(geometry: Geometry, centers: int, memory: int | None) -> None:
    """Refuse a bound on memory that a cover of this geometry cannot keep.

    A cover holds 33 bytes a row, the centers, and a few blocks.
    """
    if memory is None:
        return
    width = sum(geometry.widths)
    need = (
        50 * len(geometry) + 4 * width * centers + 12 * geometry.block_size * (width + CENTER_CHUNK)
    )
    if memory < need:
        raise ResourceError(
            f"memory must be at least {need / 1e6:.3g} MB for {len(geometry)} points and "
            f"{centers} centers, got {memory / 1e6:.3g} MB"
        )
