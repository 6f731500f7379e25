"""Average linkage on a graph of nearest neighbors, by rounds of merging reciprocal neighbors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.euclidean import Euclidean
from labelwise.kernels.geometry import Geometry
from labelwise.kernels.neighbors import nearest_neighbors
from labelwise.kernels.noise import Generator
from labelwise.kernels.progress import Progress

_SAMPLE = 1024

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class Agglomeration(NamedTuple):
    """Clusters that were merged until a stop.

    Attributes:
        assignment: (N,) int64, 0 and up in the order of each cluster's lowest row.
        clusters: how many.
        height: the largest average distance at which two were merged; 0 with none merged.
    """

    assignment: Tensor
    clusters: int
    height: float


def typical_distance(geometry: Geometry, *, generator: Generator) -> float:
    """The median distance of pairs of points: of all, or of 1,024 points drawn at random.

    >>> typical_distance(Euclidean([[0.0], [1.0], [3.0]]), generator=Generator(0))
    2.0
    """
    size = len(geometry)
    rows = np.arange(size)
    if size > _SAMPLE:
        noise = generator.child("typical").uniform(size)
        rows = np.argpartition(noise, _SAMPLE)[:_SAMPLE]
    left, right = (torch.from_numpy(rows[i]) for i in np.triu_indices(len(rows), 1))
    return float(np.median(geometry.exact(left, right).sqrt().cpu().numpy()))


def agglomerate(
    x: Any,
    *,
    generator: Generator,
    threshold: float | None = None,
    clusters: int | None = None,
    mean_size: float | None = None,
    neighbors: int = 20,
    far: float | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Agglomeration:
    """Merge the two clusters of least average distance, again and again, until a stop.

    Distances are known between each point and its nearest neighbors; any other pair counts as
    ``far``. With N - 1 neighbors this is plain average linkage. Equal distances go to the
    lowest rows.

    Args:
        x: N >= 2 points: a geometry (`Cosine` for directions), or (N, D) anything `Euclidean`
            takes.
        generator: randomness, by item: which pairs the `typical_distance` is of.
        threshold: stop where the least average distance is larger than this, in the geometry's
            unit. With no stop named: half the typical distance.
        clusters: stop at so many clusters.
        mean_size: stop at ``ceil(N / mean_size)`` clusters.
        neighbors: nearest neighbors of each point whose distances are known; at most N - 1.
        far: what unknown distances count as: by default the typical distance, or the largest
            known one if that is larger.
        memory: bytes for the search for neighbors; the graph takes up to 150 a known pair.
        progress: told how far the search for neighbors is.

    Raises:
        InputError: more than one stop; an option out of range; a threshold of ``far`` or more;
            or fewer clusters than the graph has parts that no known distance joins.
        ResourceError: ``memory`` is less than the search needs.

    Source:
        Sokal & Michener, 1958 (average linkage); Murtagh, "A survey of recent advances in
        hierarchical clustering algorithms", The Computer Journal 1983: average linkage is
        reducible, so all pairs that are each other's nearest may merge at once. Citovsky et
        al., "Batch Active Learning at Scale", NeurIPS 2021, cluster a pool with it; half the
        median distance is a threshold without a scale.

    >>> line = [[0.0], [1.0], [5.0], [6.0], [20.0]]
    >>> agglomerate(line, generator=Generator(0), clusters=3).assignment
    tensor([0, 0, 1, 1, 2])
    """
    geometry = x if isinstance(x, Geometry) else Euclidean(x)
    size = len(geometry)
    count = _stop(size, threshold, clusters, mean_size)
    if size < 2:
        raise InputError(f"agglomerate needs 2 points, got {size}")
    if isinstance(neighbors, bool) or not isinstance(neighbors, int) or neighbors < 1:
        raise InputError(f"neighbors must be a whole number >= 1, got {neighbors}")
    neighbors = min(neighbors, size - 1)
    found = nearest_neighbors(
        geometry, neighbors, exclude_self=True, memory=memory, progress=progress
    )
    distances = found.squared_distances.sqrt().numpy()
    typical = math.nan
    if far is None or (threshold is None and count is None):
        typical = typical_distance(geometry, generator=generator)
    known = neighbors == size - 1
    far = max(typical, float(distances.max())) if far is None else far
    if count is None:
        threshold = typical / 2 if threshold is None else threshold
        if not 0 <= threshold < (math.inf if known else far):
            raise InputError(
                f"threshold must be >= 0 and less than far = {far:.6g}, which unknown distances "
                f"count as, got {threshold:.6g}; name more neighbors or a larger far"
            )
    elif not far >= distances.max():
        raise InputError(f"far must be the largest known distance or more, got {far}")
    forest = _Forest(found.rows.numpy(), distances, far, known)
    forest.grow(math.inf if threshold is None else threshold)
    return forest.cut(count)


def _stop(
    size: int, threshold: float | None, clusters: int | None, mean_size: float | None
) -> int | None:
    """How many clusters to stop at; None to stop at a threshold."""
    if sum(stop is not None for stop in (threshold, clusters, mean_size)) > 1:
        raise InputError("name one stop: threshold, clusters or mean_size")
    if mean_size is not None:
        if not 1 <= mean_size <= size:
            raise InputError(f"mean_size must be in 1..{size}, got {mean_size}")
        return math.ceil(size / mean_size)
    if clusters is not None:
        whole = isinstance(clusters, int) and not isinstance(clusters, bool)
        if not whole or not 1 <= clusters <= size:
            raise InputError(f"clusters must be a whole number in 1..{size}, got {clusters}")
    return clusters


@dataclass
class _Merges:
    """Merges of one round: the lowest rows of both clusters, and their average distance."""

    left: IntArray
    right: IntArray
    height: FloatArray


class _Forest:
    """Clusters, the sums of what is known between them, and the merges so far.

    Pairs (low, high) of clusters that a known distance joins hold the sum of far - distance;
    unknown ones add nothing, which is what far means.
    """

    def __init__(self, rows: IntArray, distances: FloatArray, far: float, known: bool) -> None:
        size, count = rows.shape
        self._far, self._known = far, known
        one = np.repeat(np.arange(size), count)
        low, high = np.minimum(one, rows.ravel()), np.maximum(one, rows.ravel())
        key, first = np.unique(low * size + high, return_index=True)
        self._low, self._high = key // size, key % size
        self._sums = far - distances.ravel()[first]
        self._sizes = np.ones(size)
        self._lowest = np.arange(size)
        self._heights = np.zeros(size)
        self._merges: list[_Merges] = []

    def grow(self, threshold: float) -> None:
        """Merge reciprocal nearest neighbors, round by round, up to an average distance."""
        while len(self._low):
            average = self._sums / (self._sizes[self._low] * self._sizes[self._high])
            height = self._far - average
            pair = self._reciprocal(height)
            pair = pair[height[pair] <= threshold]
            if not len(pair):
                break
            self._merge(pair, height[pair])

    def _reciprocal(self, height: FloatArray) -> IntArray:
        """Pairs of clusters that are each other's nearest, the lowest on a tie.

        Of the least pairs the one of the lowest clusters always is, so no round is in vain.
        """
        count, pairs = len(self._sizes), len(self._low)
        one, other = (
            np.concatenate([self._low, self._high]),
            np.concatenate([self._high, self._low]),
        )
        order = np.argsort(one, kind="stable")
        one, other = one[order], other[order]
        away = height[order % pairs]
        present, begin = np.unique(one, return_index=True)
        least = np.minimum.reduceat(away, begin)
        at_least = away == np.repeat(least, np.diff([*begin, len(one)]))
        nearest = np.full(count, -1)
        nearest[present] = np.minimum.reduceat(np.where(at_least, other, count), begin)
        return np.flatnonzero(
            (nearest[self._low] == self._high) & (nearest[self._high] == self._low)
        )

    def _merge(self, pair: IntArray, height: FloatArray) -> None:
        low, high = self._low[pair], self._high[pair]
        # Averages of averages do not fall but by rounding; a parent is no lower than its parts.
        height = np.maximum(height, np.maximum(self._heights[low], self._heights[high]))
        self._merges.append(_Merges(self._lowest[low], self._lowest[high], height))
        self._heights[low] = height
        self._sizes[low] += self._sizes[high]
        kept = np.ones(len(self._sizes), dtype=bool)
        kept[high] = False
        name = np.cumsum(kept) - 1
        name[high] = name[low]
        self._sizes, self._lowest = self._sizes[kept], self._lowest[kept]
        self._heights = self._heights[kept]
        one, other = name[self._low], name[self._high]
        apart = one != other
        low, high = np.minimum(one, other)[apart], np.maximum(one, other)[apart]
        key = low * len(self._sizes) + high
        order = np.argsort(key, kind="stable")
        key, begin = np.unique(key[order], return_index=True)
        self._low, self._high = key // len(self._sizes), key % len(self._sizes)
        sums = self._sums[apart][order]
        self._sums = np.add.reduceat(sums, begin) if len(begin) else sums

    def cut(self, count: int | None) -> Agglomeration:
        """The clusters after the lowest merges: so many that ``count`` are left, or all."""
        size = len(self._sizes) + sum(len(merge.height) for merge in self._merges)
        empty = _Merges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
        merges = self._merges or [empty]
        left, right, height = (
            np.concatenate([getattr(merge, name) for merge in merges])
            for name in ("left", "right", "height")
        )
        if count is not None:
            if size - len(height) > count:
                raise InputError(
                    f"clusters must be at least {size - len(height)}, the parts of the graph that "
                    f"no known distance joins, got {count}; name more neighbors"
                )
            # Rounds are in order, so children stay before parents of the same height.
            order = np.argsort(height, kind="stable")[: size - count]
            left, right, height = left[order], right[order], height[order]
        ones = np.ones(len(left), dtype=np.int8)
        graph = coo_array((ones, (left, right)), shape=(size, size))
        _, member = connected_components(graph, directed=False)
        _, first, member = np.unique(member, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        return Agglomeration(
            torch.from_numpy(rank[member.ravel()]),
            len(first),
            float(height.max()) if len(height) else 0.0,
        )
