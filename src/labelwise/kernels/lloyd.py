"""k-means by Lloyd's iterations, each one matrix product with the pool.

Sums over clusters are kept as whole numbers of a fixed small unit, so they are exact and the
same in any order, and only points that change clusters have to be added and taken away.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.assign import Assignment, Centers
from labelwise.kernels.euclidean import Euclidean
from labelwise.kernels.geometry import HOLD_BYTES, Geometry, Points
from labelwise.kernels.kmeans_plus_plus import kmeans_plus_plus
from labelwise.kernels.noise import Generator
from labelwise.kernels.progress import Progress
from labelwise.kernels.subset import Subset

PATIENCE = 10
"""Minibatches without progress after which k-means stops."""

_PAIRS = 1 << 16
_GATHERED = 1 << 22


class Clusters(NamedTuple):
    """A partition of N points into k clusters.

    Attributes:
        centers: (k, D) float64, in the points' own coordinates.
        assignment: (N,) int64, the nearest center of each point, the lowest on a tie.
        squared_distances: (N,) float64, to that center, from differences.
        inertia: the sum of the squared distances.
        iterations: how many times the centers were moved.
    """

    centers: Tensor
    assignment: Tensor
    squared_distances: Tensor
    inertia: float
    iterations: int


def kmeans(
    x: Any,
    k: int,
    *,
    generator: Generator,
    candidates: Tensor | None = None,
    iterations: int = 100,
    tolerance: float = 1e-4,
    init: Literal["k-means++", "random"] | Tensor = "k-means++",
    minibatch: int | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Clusters:
    """Clusters of least squared distance, a local optimum.

    A cluster that loses all its points takes the point farthest from its center. Assignments
    are decided in float64 and sums are exact, so neither blocks nor threads change the result.

    Args:
        x: (N, D) anything `Euclidean` takes, or a `Euclidean` geometry.
        k: how many clusters, 1 <= k <= N.
        generator: randomness, by item.
        candidates: (M,) int64 distinct rows to cluster; all by default. The result is of them,
            in their order.
        iterations: the most times that centers are moved.
        tolerance: stop when the centers moved by less than this share of the points' variance.
        init: k-means++, k distinct rows at random, or (k, D) centers to start from.
        minibatch: rows looked at in one iteration (Sculley, WWW 2010: each center moves to the
            running mean of what it was given); the whole pool by default. Stops also when the
            smoothed distance has not fallen for `PATIENCE` iterations.
        memory: bytes the call may hold beyond its inputs; None for no bound.
        progress: told how far each pass over the pool is.

    Raises:
        InputError: k, iterations, candidates or the shape of ``init`` out of range.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory
        1982. 2 N k D operations an iteration.

    >>> found = kmeans([[0.0], [1.0], [9.0], [10.0]], 2, generator=Generator(0))
    >>> sorted(found.centers.flatten().tolist()), found.inertia
    ([0.5, 9.5], 1.0)
    """
    whole = x if isinstance(x, Euclidean) else Euclidean(x)
    hold = HOLD_BYTES if memory is None else 0
    some = whole if candidates is None else Subset(whole, candidates, hold=hold)
    if not 1 <= k <= len(some) or iterations < 0:
        raise InputError(
            f"k must be in 1..{len(some)} and iterations >= 0, got {k} and {iterations}"
        )
    _check_memory(some, k, memory)
    centers = _start(whole, k, generator, init, candidates)
    progress = progress or Progress()
    assignment = Assignment(some, lambda rows: whole.shift(some.double(rows.cpu())[0]))
    if minibatch is None or minibatch >= len(some):
        centers, moves = _whole_pool(assignment, centers, iterations, tolerance, progress)
    else:
        noise = generator.child("minibatch")
        rows = np.arange(len(whole)) if candidates is None else candidates.cpu().numpy()
        batches = _Minibatches(assignment, centers, noise, rows, minibatch)
        centers, moves = batches.run(iterations, tolerance, progress)
    assignment.update(centers, passing=progress.passing)
    distances = assignment.distances()
    return Clusters(
        whole.unshift(centers),
        assignment.member.cpu(),
        distances.cpu(),
        float(distances.sum()),
        moves,
    )


def _check_memory(geometry: Geometry, k: int, memory: int | None) -> None:
    """Per row 40 bytes; per center's coordinate 48; a few blocks."""
    width = geometry.widths[0]
    need = 40 * len(geometry) + 48 * k * width + 12 * geometry.block_size * width + (32 << 20)
    if memory is not None and memory < need:
        raise ResourceError(
            f"memory must be at least {need / 1e6:.3g} MB for {len(geometry)} points and {k} "
            f"centers, got {memory / 1e6:.3g} MB"
        )


def _start(
    geometry: Euclidean,
    k: int,
    generator: Generator,
    init: str | Tensor,
    candidates: Tensor | None,
) -> Tensor:
    """(k, D) float64 starting centers, in the geometry's shifted coordinates."""
    if isinstance(init, Tensor):
        if init.shape != (k, geometry.widths[0]):
            raise InputError(
                f"init must be (k, D) = ({k}, {geometry.widths[0]}), got {tuple(init.shape)}"
            )
        return geometry.shift(init)
    stream = generator.child("init")
    if init == "k-means++":
        rows = kmeans_plus_plus(geometry, k, generator=stream, candidates=candidates).rows
    elif init == "random":
        among = np.arange(len(geometry)) if candidates is None else candidates.cpu().numpy()
        order = np.argsort(stream.uniform(among), kind="stable")
        rows = torch.from_numpy(among[order[:k]])
    else:
        raise InputError(f"init must be 'k-means++', 'random' or centers, got {init!r}")
    return geometry.take(rows).factors[0].double()


class _Sums:
    """Sums of the points of each cluster, exact: whole numbers of a unit, a power of two.

    The unit is so small that the sum of all points just fits 62 bits: 2^-38 of the longest
    point for 2^24 of them.
    """

    def __init__(self, k: int, width: int, size: int, longest: float, device: torch.device) -> None:
        bits = 62 - math.ceil(math.log2(size + 1)) - math.frexp(longest)[1]
        self._scale = 2.0 ** min(bits, 1000)
        self._sums = torch.zeros(k, width, dtype=torch.int64, device=device)
        self.counts = torch.zeros(k, dtype=torch.int64, device=device)
        # Buffers: fresh memory would cost more than the sums.
        shape = (max(1, _PAIRS // width), width)
        self._scaled = torch.empty(shape, dtype=torch.float64, device=device)
        self._units = torch.empty(shape, dtype=torch.int64, device=device)

    def change(self, points: Points, member: Tensor, before: Tensor) -> None:
        """Points become members of clusters; before they were of others, or of none (-1)."""
        (x,) = points.factors
        fresh = len(before) > 0 and int(before[0]) < 0
        for i in range(0, len(x), len(self._units)):
            part = slice(i, i + len(self._units))
            scaled = self._scaled[: len(x[part])].copy_(x[part])
            units = self._units[: len(scaled)].copy_(scaled.mul_(self._scale).round_())
            self._sums.index_add_(0, member[part], units)
            if not fresh:
                self._sums.index_add_(0, before[part], units, alpha=-1)
        self.counts += torch.bincount(member, minlength=len(self.counts))
        if not fresh:
            self.counts -= torch.bincount(before, minlength=len(self.counts))

    def means(self, otherwise: Tensor) -> Tensor:
        """(k, D) float64 mean of each cluster; of an empty one its row in ``otherwise``."""
        counts = self.counts.double()[:, None]
        means = self._sums.double().div_(self._scale).div_(counts.clamp(min=1))
        return torch.where(counts > 0, means, otherwise)

    def spread(self, norms: Tensor) -> float:
        """Mean over all points of the squared distance to their mean."""
        mean = self._sums.double().div_(self._scale).sum(0) / len(norms)
        return float(norms.mean() - mean.square().sum())


def _whole_pool(
    assignment: Assignment,
    centers: Tensor,
    iterations: int,
    tolerance: float,
    progress: Progress,
) -> tuple[Tensor, int]:
    """Centers after at most so many of Lloyd's iterations, and how many there were."""
    geometry = assignment.geometry
    norms = geometry.squared_norms()
    longest = float(norms.max().sqrt())
    sums = _Sums(len(centers), centers.shape[1], len(geometry), longest, centers.device)
    for move in range(iterations):
        assignment.update(centers, sums.change, progress.passing)
        moved = sums.means(otherwise=centers)
        empty = (sums.counts == 0).nonzero()[:, 0]
        if len(empty):
            far = _worst_served(assignment, len(empty))
            moved[empty] = geometry.take(far).factors[0].double()
        shift = float((moved - centers).square().sum())
        centers = moved
        if shift <= tolerance * sums.spread(norms):
            return centers, move + 1
    return centers, iterations


def _worst_served(assignment: Assignment, count: int) -> Tensor:
    """The points farthest from their centers, the lowest row on a tie: (count,) int64."""
    centers, norms = assignment.centers, assignment.geometry.squared_norms()
    assert centers is not None
    near, slack = assignment.first + norms, centers.slack(norms)
    least = (near - slack).topk(count).values[-1]
    rows = (near + slack >= least).nonzero()[:, 0]
    true = assignment.distances(rows)
    order = true.sort(descending=True, stable=True).indices.cpu()
    return rows.cpu()[order[:count]]


class _Minibatches:
    """Centers moved towards the points of minibatches, by running means."""

    def __init__(
        self,
        assignment: Assignment,
        centers: Tensor,
        noise: Generator,
        items: NDArray[np.int64],
        size: int,
    ) -> None:
        self.geometry = assignment.geometry
        self.given = assignment.given
        self.centers = centers.clone()
        self.noise = noise
        self.items = items
        self.size = size
        self.counts = torch.zeros(len(centers), dtype=torch.float64, device=centers.device)
        self._sums = torch.zeros_like(centers, dtype=torch.float32)
        self._step = torch.zeros_like(centers)
        self.share = min(1.0, 2 * size / len(self.geometry))
        self.smoothed = math.inf
        self.best = math.inf
        self.stalled = 0

    def run(self, iterations: int, tolerance: float, progress: Progress) -> tuple[Tensor, int]:
        """The centers after at most so many minibatches, and how many there were."""
        spread = _spread(self.geometry)
        for step in range(iterations):
            noise = self.noise.uniform(self.items, draw=step)
            rows = np.argpartition(noise, self.size)[: self.size]
            # In an order that belongs to the items: the order of rows then changes no sum.
            shift = self._move(torch.from_numpy(rows[noise[rows].argsort()]))
            progress.passing((step + 1) / iterations)
            if shift <= tolerance * spread or self.stalled >= PATIENCE:
                return self.centers, step + 1
        return self.centers, iterations

    def _move(self, rows: Tensor) -> float:
        """Move the centers towards one minibatch; the squared distance they moved."""
        centers = Centers(self.geometry, self.centers, self.given)
        self._sums.zero_()
        new, inertia = torch.zeros_like(self.counts), 0.0
        for part in rows.split(max(64, _GATHERED // self._sums.shape[1])):
            points = self.geometry.take(part)
            found = centers.nearest(part.to(points.norms.device), points)
            self._sums.index_add_(0, found.member, points.factors[0])
            new += torch.bincount(found.member, minlength=len(new))
            inertia += float((found.first + points.norms).sum())
        self.counts += new
        # The running mean: c + (sum - new c) / count, in the one buffer there is.
        torch.mul(self.centers, new[:, None], out=self._step)
        torch.sub(self._sums, self._step, out=self._step)
        self._step.div_(self.counts.clamp(min=1)[:, None])
        self.centers.add_(self._step)
        self._watch(inertia / len(rows))
        return float(torch.linalg.vector_norm(self._step)) ** 2

    def _watch(self, inertia: float) -> None:
        if math.isinf(self.smoothed):
            self.smoothed = inertia
        self.smoothed += self.share * (inertia - self.smoothed)
        self.stalled = 0 if self.smoothed < self.best else self.stalled + 1
        self.best = min(self.best, self.smoothed)


def _spread(geometry: Geometry) -> float:
    """Mean over points of the squared distance to their mean."""
    total = torch.zeros(geometry.widths[0], dtype=torch.float64, device=geometry.device)
    for _, block in geometry.blocks():
        total += block.factors[0].sum(0, dtype=torch.float64)
    return float(geometry.squared_norms().mean() - (total / len(geometry)).square().sum())
