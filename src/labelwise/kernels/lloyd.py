"""k-means by Lloyd's iterations, each one matrix product with the pool.

Sums over clusters are exact (`ClusterSums`) and so the same in any order, and only points that
change clusters have to be added and taken away.
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
from labelwise.kernels.cluster_sums import ClusterSums
from labelwise.kernels.euclidean import Euclidean
from labelwise.kernels.geometry import HOLD_BYTES, Geometry
from labelwise.kernels.kmeans_plus_plus import kmeans_plus_plus
from labelwise.kernels.noise import Generator
from labelwise.kernels.progress import Progress
from labelwise.kernels.subset import Subset

PATIENCE = 10
"""Minibatches without progress after which k-means stops."""

_GATHERED = 1 << 22


class Clusters(NamedTuple):
    """A partition of N points into k clusters.

    Attributes:
        centers: (k, D) float64, in the points' own coordinates.
        assignment: (N,) int64, the nearest center of each point, the lowest on a tie.
        squared_distances: (N,) float64, to that center, from differences.
        inertia: the sum of the squared distances, each times the point's weight.
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
    weights: Tensor | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Clusters:
    """Clusters of least squared distance, a local optimum.

    A cluster that loses all its points, or whose points weigh nothing, takes the point of
    largest weight times squared distance to its center. Assignments are decided in float64 and
    sums are exact, so neither blocks nor threads change the result.

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
        weights: (N,) numbers >= 0, what each row counts; all the same by default. Centers are
            weighted means. Neither k-means++ nor a random start looks at them.
        memory: bytes the call may hold beyond its inputs; None for no bound.
        progress: told how far each pass over the pool is.

    Raises:
        InputError: k, iterations, candidates or the shape of ``init`` out of range; weights that
            are negative, not finite, or all zero.
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
    if not 1 <= k <= len(some):
        raise InputError(f"k must be in 1..{len(some)} (the rows to cluster), got {k}")
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise InputError(f"iterations must be a whole number >= 0, got {iterations!r}")
    _check_memory(some, k, weights is not None, memory)
    given = None if weights is None else _of_rows(weights, len(whole), candidates)
    mass = None if given is None else _below_one(given).to(some.device)
    centers = _start(whole, k, generator, init, candidates)
    progress = progress or Progress()
    assignment = Assignment(some, lambda rows: whole.shift(some.double(rows.cpu())[0]))
    if minibatch is None or minibatch >= len(some):
        centers, moves = _whole_pool(assignment, centers, mass, iterations, tolerance, progress)
    else:
        noise = generator.child("minibatch")
        rows = np.arange(len(whole)) if candidates is None else candidates.cpu().numpy()
        batches = _Minibatches(assignment, centers, mass, noise, rows, minibatch)
        centers, moves = batches.run(iterations, tolerance, progress)
    assignment.update(centers, passing=progress.passing)
    distances = assignment.distances().cpu()
    inertia = float((distances if given is None else distances * given).sum())
    return Clusters(whole.unshift(centers), assignment.member.cpu(), distances, inertia, moves)


def _check_memory(geometry: Geometry, k: int, weighted: bool, memory: int | None) -> None:
    """Per row 40 bytes; per center's coordinate 48; with weights more; a few blocks."""
    width = geometry.widths[0]
    need = 40 * len(geometry) + 48 * k * width + 12 * geometry.block_size * width + (32 << 20)
    if weighted:
        need += 24 * len(geometry) + 16 * k * width
    if memory is not None and memory < need:
        raise ResourceError(
            f"memory must be at least {need / 1e6:.3g} MB for {len(geometry)} points and {k} "
            f"centers, got {memory / 1e6:.3g} MB"
        )


def _of_rows(weights: Tensor, size: int, candidates: Tensor | None) -> Tensor:
    """The weights of the rows to cluster, (M,) float64 on the CPU, checked."""
    given = torch.as_tensor(weights).cpu().double()
    if given.shape != (size,):
        raise InputError(f"weights must be (N,) = ({size},), got {tuple(given.shape)}")
    wrong = ~(given.isfinite() & (given >= 0))
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(f"weights must be finite and >= 0, but row {row} has {float(given[row])}")
    given = given if candidates is None else given[candidates.cpu()]
    if not bool((given > 0).any()):
        raise InputError("weights must not all be zero")
    return given


def _below_one(weights: Tensor) -> Tensor:
    """The same weights in another unit, a power of two so that nothing is rounded."""
    return weights * 2.0 ** min(1000, -math.frexp(float(weights.max()))[1])


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


def _whole_pool(
    assignment: Assignment,
    centers: Tensor,
    weights: Tensor | None,
    iterations: int,
    tolerance: float,
    progress: Progress,
) -> tuple[Tensor, int]:
    """Centers after at most so many of Lloyd's iterations, and how many there were."""
    geometry = assignment.geometry
    norms = geometry.squared_norms()
    longest = float(norms.max().sqrt())
    shape = len(centers), centers.shape[1], len(geometry)
    sums = ClusterSums(*shape, longest, centers.device, weights)
    for move in range(iterations):
        assignment.update(centers, sums.change, progress.passing)
        moved = sums.means(otherwise=centers)
        empty = (sums.masses() == 0).nonzero()[:, 0]
        if len(empty):
            far = _worst_served(assignment, len(empty), weights)
            moved[empty] = geometry.take(far).factors[0].double()
        shift = float((moved - centers).square().sum())
        centers = moved
        if shift <= tolerance * sums.spread(norms):
            return centers, move + 1
    return centers, iterations


def _worst_served(assignment: Assignment, count: int, weights: Tensor | None) -> Tensor:
    """The points of largest weight x squared distance to their centers: (count,) int64.

    The lowest row on a tie.
    """
    centers, norms = assignment.centers, assignment.geometry.squared_norms()
    assert centers is not None
    near, slack = assignment.first + norms, centers.slack(norms)
    low, high = near - slack, near + slack
    if weights is not None:
        low, high = low * weights, high * weights
    rows = (high >= low.topk(count).values[-1]).nonzero()[:, 0]
    true = assignment.distances(rows)
    if weights is not None:
        true = true * weights[rows]
    order = true.sort(descending=True, stable=True).indices.cpu()
    return rows.cpu()[order[:count]]


class _Minibatches:
    """Centers moved towards the points of minibatches, by running means."""

    def __init__(
        self,
        assignment: Assignment,
        centers: Tensor,
        weights: Tensor | None,
        noise: Generator,
        items: NDArray[np.int64],
        size: int,
    ) -> None:
        self.geometry = assignment.geometry
        self.given = assignment.given
        self.centers = centers.clone()
        self.weights = weights
        self.noise = noise
        self.items = items
        self.size = size
        self.masses = torch.zeros(len(centers), dtype=torch.float64, device=centers.device)
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
        new, inertia = torch.zeros_like(self.masses), 0.0
        for part in rows.split(max(64, _GATHERED // self._sums.shape[1])):
            points = self.geometry.take(part)
            found = centers.nearest(part.to(points.norms.device), points)
            x, apart, weights = points.factors[0], found.first + points.norms, None
            if self.weights is not None:
                weights = self.weights[part.to(self.weights.device)]
                x, apart = x * weights[:, None].float(), apart * weights
            self._sums.index_add_(0, found.member, x)
            new += torch.bincount(found.member, weights, minlength=len(new))
            inertia += float(apart.sum())
        self.masses += new
        # The running mean: c + (sum - new c) / mass, in the one buffer there is.
        torch.mul(self.centers, new[:, None], out=self._step)
        torch.sub(self._sums, self._step, out=self._step)
        mass = torch.where(self.masses > 0, self.masses, 1.0)
        self._step.div_(mass[:, None])
        self.centers.add_(self._step)
        self._watch(inertia / (float(new.sum()) or 1.0))
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
