"""Which rows lie within one distance of each other: a sparse graph, built in blocks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import ResourceError
from labelwise.kernels import Geometry

DEFAULT_MEMORY = 4 << 30
"""Bytes that the graph may take unless the caller says otherwise."""

_BYTES_PER_PAIR = 32
_BLOCK = 2048


class Balls:
    """For each point the points in the open ball around it, itself always included.

    Args:
        geometry: N points.
        radius: of the balls; a point at exactly this distance is outside. Infinity is allowed.
        memory: bytes the pairs may take, 32 each while the graph is built.

    Raises:
        ResourceError: more pairs than that.

    >>> import torch
    >>> from labelwise.kernels import Euclidean
    >>> line = Balls(Euclidean(torch.tensor([[0.0], [1.0], [3.0]])), 1.5, 1 << 20)
    >>> line.members(np.array([0])).tolist(), line.members(np.array([2])).tolist()
    ([0, 1], [2])
    """

    def __init__(self, geometry: Geometry, radius: float, memory: int) -> None:
        from scipy.sparse import coo_array

        self._size = len(geometry)
        left, right, pairs = [], [], 0
        for i, j in _pairs(geometry, radius):
            left.append(i)
            right.append(j)
            pairs += len(i)
            if pairs * _BYTES_PER_PAIR > memory:
                raise ResourceError(
                    f"over {pairs} pairs of rows are closer than delta = {radius:.4g}, too many "
                    f"for {memory} bytes of memory; pass a smaller delta or a larger memory"
                )
        at = np.concatenate(left), np.concatenate(right)
        upper = coo_array((np.ones(pairs, np.int8), at), shape=(self._size, self._size)).tocsr()
        both = upper + upper.T
        self._starts = both.indptr.astype(np.int64)
        self._others = both.indices

    def __len__(self) -> int:
        return self._size

    def members(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The points in any of some balls, each once, ascending."""
        return np.union1d(rows, self._gather(rows))

    def count(self, of: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many points of a kind each ball holds. ``of``: (N,) bool. Returns (N,)."""
        held = np.r_[0, np.cumsum(of[self._others])]
        return np.diff(held[self._starts]) + of

    def times_held(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of some distinct points each ball holds, (N,)."""
        found = np.bincount(self._gather(rows), minlength=self._size)
        found[rows] += 1
        return found

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The other members of some balls, one ball after another."""
        starts, sizes = self._starts[rows], self._starts[rows + 1] - self._starts[rows]
        shift = np.repeat(starts - np.r_[0, np.cumsum(sizes)[:-1]], sizes) if len(rows) else 0
        return self._others[np.arange(sizes.sum()) + shift].astype(np.int64)


def _pairs(
    geometry: Geometry, radius: float
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Pairs of points i < j closer than the radius, block of pairs by block.

    Single precision decides where its error bound allows, float64 differences elsewhere, so
    the graph is symmetric and depends on the points alone.
    """
    limit, step = radius * radius, min(geometry.block_size, _BLOCK)
    for start in range(0, len(geometry), step):
        block = geometry.block(start, min(start + step, len(geometry)))
        for other in range(start, len(geometry), step):
            against = geometry.block(other, min(other + step, len(geometry)))
            near = geometry.offsets(block, against).add_(block.norms.float()[:, None])
            reach = limit + 2 * geometry.error * (block.norms + against.norms.max())
            i, j = (near < reach.float()[:, None]).nonzero(as_tuple=True)
            if other == start:
                i, j = i[i < j], j[i < j]
            found = near[i, j].double()
            slack = 2 * geometry.error * (block.norms[i] + against.norms[j])
            inside, unsure = found < limit - slack, (found - limit).abs() <= slack
            i, j, inside, unsure = (t.cpu() for t in (i + start, j + other, inside, unsure))
            inside[unsure] = geometry.exact(i[unsure], j[unsure]).cpu() < limit
            yield i[inside].numpy().astype(np.int32), j[inside].numpy().astype(np.int32)
