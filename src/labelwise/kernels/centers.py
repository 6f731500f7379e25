"""Centers: points that distances are measured to, and the distance to the nearest of them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.kernels.geometry import Geometry, Points

CENTER_CHUNK = 256
"""Centers applied to the pool in one product: enough to be compute-bound."""

_PAIRS = 2 << 20

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Centers:
    """Rows of a geometry that distances are measured to, in the order added.

    Attributes:
        rows: their numbers.
        largest: the largest squared norm among them.

    Args:
        geometry: the points.
        capacity: how many there will be at most.
    """

    def __init__(self, geometry: Geometry, capacity: int) -> None:
        self.geometry = geometry
        self.rows: list[int] = []
        self.largest = 0.0
        self._points = Points(
            tuple(
                torch.empty(capacity, width, device=geometry.device) for width in geometry.widths
            ),
            torch.empty(capacity, dtype=torch.float64, device=geometry.device),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice) -> Points:
        return self._points[slice(*part.indices(len(self)))]

    def add(self, rows: IntArray, points: Points) -> None:
        """More centers: their rows, and the same as points."""
        if not len(rows):
            return
        part = slice(len(self), len(self) + len(rows))
        for mine, theirs in zip(self._points.factors, points.factors):
            mine[part] = theirs
        self._points.norms[part] = points.norms
        self.rows.extend(rows.tolist())
        self.largest = max(self.largest, float(points.norms.max()))

    def offsets(self, points: Points, centers: Points) -> Tensor:
        """Least offset of each point to some centers, a few of them at a time: (n,) float32."""
        nearest = self.geometry.offsets(points, centers[:CENTER_CHUNK]).amin(1)
        for start in range(CENTER_CHUNK, len(centers), CENTER_CHUNK):
            some = centers[start : start + CENTER_CHUNK]
            torch.minimum(nearest, self.geometry.offsets(points, some).amin(1), out=nearest)
        return nearest

    def exact(self, rows: Tensor, which: Tensor) -> Tensor:
        """Squared distances of rows of the pool to centers, pair by pair, in float64.

        Args:
            rows: (P,) row numbers. which: (P,) positions among the centers.
        """
        return self.geometry.exact(rows, torch.tensor(self.rows)[which])

    def nearest(self, rows: IntArray, points: Points, before: IntArray | None = None) -> FloatArray:
        """Squared distance of rows of the pool to the nearest center, (n,) float64, exactly.

        Single precision finds the centers that may be nearest; float64 differences decide.

        Args:
            rows: (n,) rows to measure. points: the same as points.
            before: (n,) row i is measured from the first ``before[i]`` >= 1 centers only.
        """
        limit = max(1, _PAIRS // max(1, len(self)))
        parts = [np.zeros(0)]
        for start in range(0, len(rows), limit):
            some = slice(start, start + limit)
            ahead = None if before is None else torch.from_numpy(before[some])
            parts.append(self._nearest(torch.from_numpy(rows[some]), points[some], ahead))
        return np.concatenate(parts)

    def _nearest(self, rows: Tensor, block: Points, before: Tensor | None) -> FloatArray:
        centers, error = self[:], self.geometry.error
        near = _distances(self.geometry, block, centers)
        slack = error * (block.norms[:, None] + centers.norms)
        if before is not None:
            order = torch.arange(len(self), device=near.device)
            near[order >= before.to(near.device)[:, None]] = torch.inf
        reach = (near + slack).amin(1, keepdim=True)
        pair, center = (near - slack <= reach).nonzero(as_tuple=True)  # inf > reach
        distance = self.exact(rows[pair.cpu()], center.cpu()).to(near.device)
        best = torch.full((len(block),), torch.inf, dtype=torch.float64, device=near.device)
        found: FloatArray = best.scatter_reduce_(0, pair, distance, "amin").cpu().numpy()
        return found


def _distances(geometry: Geometry, block: Points, points: Points) -> Tensor:
    """Squared distances, (len(block), len(points)) float64; the smaller set is the one copied."""
    if len(block) >= len(points):
        return geometry.offsets(block, points).double() + block.norms[:, None]
    return geometry.offsets(points, block).T.double() + points.norms
