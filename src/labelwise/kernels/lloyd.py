"""k-means by Lloyd's iterations, each one matrix product with the pool."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.euclidean import Euclidean
from labelwise.kernels.geometry import Points, squared_norms
from labelwise.kernels.kmeans_plus_plus import kmeans_plus_plus
from labelwise.kernels.noise import Generator

PATIENCE = 10
"""Minibatches without progress after which k-means stops."""


class Clusters(NamedTuple):
    """A partition of N points into k clusters.

    Attributes:
        centers: (k, D) float32, in the points' own coordinates.
        assignment: (N,) int64, the nearest center of each point, the lowest on a tie.
        squared_distances: (N,) float64, to that center.
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
    iterations: int = 100,
    tolerance: float = 1e-4,
    init: Literal["k-means++", "random"] | Tensor = "k-means++",
    minibatch: int | None = None,
) -> Clusters:
    """Clusters of least squared distance, a local optimum.

    A cluster that loses all its points takes the point farthest from its center.

    Args:
        x: (N, D) anything `Euclidean` takes, or a `Euclidean` geometry.
        k: how many clusters, 1 <= k <= N.
        generator: randomness, by item.
        iterations: the most times that centers are moved.
        tolerance: stop when the centers moved by less than this share of the points' variance.
        init: k-means++, k distinct rows at random, or (k, D) centers to start from.
        minibatch: rows looked at in one iteration (Sculley, WWW 2010: each center moves to the
            running mean of what it was given); the whole pool by default. Stops also when the
            smoothed distance has not fallen for `PATIENCE` iterations.

    Raises:
        InputError: k, iterations or the shape of ``init`` out of range.

    Source:
        Lloyd, "Least squares quantization in PCM", IEEE Transactions on Information Theory
        1982. 2 N k D operations an iteration.

    >>> found = kmeans([[0.0], [1.0], [9.0], [10.0]], 2, generator=Generator(0))
    >>> sorted(found.centers.flatten().tolist()), found.inertia
    ([0.5, 9.5], 1.0)
    """
    geometry = x if isinstance(x, Euclidean) else Euclidean(x)
    if not 1 <= k <= len(geometry) or iterations < 0:
        raise InputError(
            f"k must be in 1..{len(geometry)} and iterations >= 0, got {k} and {iterations}"
        )
    centers = _start(geometry, k, generator, init)
    scale = float(_variance(geometry)) * tolerance
    whole = minibatch is None or minibatch >= len(geometry)
    batches = _Minibatches(k, (minibatch or 0) / len(geometry), centers.device)
    moves = 0
    for step in range(iterations):
        if whole:
            moved = _whole_pool(geometry, centers)
        else:
            noise = generator.child("minibatch").uniform(len(geometry), draw=step)
            rows = torch.from_numpy(np.sort(np.argpartition(noise, minibatch or 0)[:minibatch]))
            moved = batches.move(geometry.take(rows), geometry, centers)
        shift = float((moved - centers).square().sum())
        centers, moves = moved, moves + 1
        if shift <= scale or batches.stalled >= PATIENCE:
            break
    assignment, distances = _assign(geometry, centers)
    return Clusters(
        geometry.unshift(centers).float(),
        assignment.cpu(),
        distances.cpu(),
        float(distances.sum()),
        moves,
    )


def _start(geometry: Euclidean, k: int, generator: Generator, init: str | Tensor) -> Tensor:
    """(k, D) float64 starting centers, in the geometry's shifted coordinates."""
    if isinstance(init, Tensor):
        if init.shape != (k, geometry.widths[0]):
            raise InputError(
                f"init must be (k, D) = ({k}, {geometry.widths[0]}), got {tuple(init.shape)}"
            )
        return geometry.shift(init)
    if init == "k-means++":
        rows = kmeans_plus_plus(geometry, k, generator=generator.child("init")).rows
    elif init == "random":
        noise = generator.child("init").uniform(len(geometry))
        rows = torch.from_numpy(np.argsort(noise, kind="stable")[:k])
    else:
        raise InputError(f"init must be 'k-means++', 'random' or centers, got {init!r}")
    return geometry.take(rows).factors[0].double()


def _variance(geometry: Euclidean) -> Tensor:
    """Mean over points of the squared distance to the mean."""
    total = torch.zeros(geometry.widths[0], dtype=torch.float64, device=geometry.device)
    for _, block in geometry.blocks():
        total += block.factors[0].sum(0, dtype=torch.float64)
    mean = total / len(geometry)
    return geometry.squared_norms().mean() - mean.square().sum()


def _as_points(centers: Tensor) -> Points:
    single = centers.float().contiguous()
    return Points((single,), squared_norms(single))


def _nearest(geometry: Euclidean, block: Points, centers: Points) -> tuple[Tensor, Tensor]:
    """The nearest center of each point, the lowest on a tie, and the squared distance."""
    smallest, nearest = geometry.offsets(block, centers).min(1)
    return nearest, (smallest.double() + block.norms).clamp_(min=0)


def _sums(nearest: Tensor, x: Tensor, k: int) -> Tensor:
    """The sum of the points of each cluster, (k, D) float32."""
    sums = torch.zeros(k, x.shape[1], dtype=torch.float32, device=x.device)
    return sums.index_add_(0, nearest, x)


def _assign(geometry: Euclidean, centers: Tensor) -> tuple[Tensor, Tensor]:
    points = _as_points(centers)
    parts = [_nearest(geometry, block, points) for _, block in geometry.blocks()]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _whole_pool(geometry: Euclidean, centers: Tensor) -> Tensor:
    """Each center at the mean of its points; an empty one at the worst-served point."""
    points = _as_points(centers)
    sums = torch.zeros_like(centers)
    counts = torch.zeros(len(centers), dtype=torch.float64, device=centers.device)
    distances = []
    for _, block in geometry.blocks():
        nearest, distance = _nearest(geometry, block, points)
        sums += _sums(nearest, block.factors[0], len(centers))
        counts += torch.bincount(nearest, minlength=len(centers))
        distances.append(distance)
    moved = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centers)
    empty = (counts == 0).nonzero()[:, 0]
    if len(empty):
        worst = torch.cat(distances).cpu().numpy()
        far = np.lexsort((np.arange(len(worst)), -worst))[: len(empty)]
        moved[empty] = geometry.take(torch.from_numpy(far)).factors[0].double()
    return moved


class _Minibatches:
    """Centers moved towards the points of minibatches, by running means."""

    def __init__(self, k: int, share: float, device: torch.device) -> None:
        self.counts = torch.zeros(k, dtype=torch.float64, device=device)
        self.share = min(1.0, 2 * share)
        self.smoothed = math.inf
        self.best = math.inf
        self.stalled = 0

    def move(self, batch: Points, geometry: Euclidean, centers: Tensor) -> Tensor:
        """The centers after one minibatch."""
        nearest, distance = _nearest(geometry, batch, _as_points(centers))
        sums = _sums(nearest, batch.factors[0], len(centers))
        new = torch.bincount(nearest, minlength=len(centers)).double()
        self.counts += new
        rate = (new / self.counts.clamp(min=1))[:, None]
        mean = sums / new.clamp(min=1)[:, None]
        self._watch(float(distance.mean()))
        return torch.where(new[:, None] > 0, centers + rate * (mean - centers), centers)

    def _watch(self, inertia: float) -> None:
        if math.isinf(self.smoothed):
            self.smoothed = inertia
        self.smoothed += self.share * (inertia - self.smoothed)
        self.stalled = 0 if self.smoothed < self.best else self.stalled + 1
        self.best = min(self.best, self.smoothed)
