"""Sums of the points of clusters, exact, so that they are the same in any order.

They are kept as whole numbers of a fixed small unit, a power of two: points may be added and
taken away again for as long as one likes, in any order, and nothing drifts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labelwise.kernels.geometry import Points

_PAIRS = 1 << 16


class _WholeSums:
    """(k, width) sums of numbers, as whole numbers of one unit, or of a second one besides.

    The first unit is so small that the sum of all numbers just fits 62 bits: 2^-38 of the
    largest for 2^24 of them. The second is as much smaller again and holds what is left, so that
    a sum of small numbers is as good, relatively, as one of large ones.

    Args:
        shape: (k, width). count: how many numbers there are for an entry, at the most.
        largest: no number is larger, disregarding its sign. units: 1 or 2.
    """

    def __init__(
        self, shape: tuple[int, int], count: int, largest: float, units: int, device: torch.device
    ) -> None:
        bits = 62 - math.ceil(math.log2(count + 1))
        self._scales = [2.0 ** min(bits - math.frexp(largest)[1], 1000)]
        self._scales += [2.0 ** (bits + 1)] * (units - 1)
        self._sums = [torch.zeros(shape, dtype=torch.int64, device=device) for _ in self._scales]
        # A buffer: fresh memory would cost more than the sums.
        step = max(1, _PAIRS // shape[1])
        self._whole = torch.empty(step, shape[1], dtype=torch.int64, device=device)

    def change(self, numbers: Tensor, to: Tensor, away: Tensor | None) -> None:
        """Add numbers to groups, and take them away from others.

        Args:
            numbers: (b, width) float64, used up; no more of them than `step`.
            to, away: (b,) int64 groups.
        """
        for sums, scale in zip(self._sums, self._scales):
            numbers.mul_(scale)
            if sums is self._sums[-1]:
                rounded = numbers.round_()
            else:
                rounded = numbers.round()
                numbers.sub_(rounded)
            whole = self._whole[: len(numbers)].copy_(rounded)
            sums.index_add_(0, to, whole)
            if away is not None:
                sums.index_add_(0, away, whole, alpha=-1)

    @property
    def step(self) -> int:
        """How many numbers fit one change."""
        return len(self._whole)

    def values(self) -> Tensor:
        """(k, width) float64."""
        total, scale = None, 1.0
        for sums, finer in zip(self._sums, self._scales):
            scale *= finer
            part = sums.double().div_(scale)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total


class ClusterSums:
    """Of k clusters: how many points each has, what they weigh, and the sum of weight x point.

    Args:
        k: how many clusters. width: of a point.
        longest: the length of the longest of all points.
        size: how many points there are.
        weights: (size,) float64 in 0..1, of all points; each counts as 1 by default.

    Attributes:
        counts: (k,) int64, how many points each cluster has.
    """

    def __init__(
        self,
        k: int,
        width: int,
        size: int,
        longest: float,
        device: torch.device,
        weights: Tensor | None = None,
    ) -> None:
        units = 1 if weights is None else 2
        self.counts = torch.zeros(k, dtype=torch.int64, device=device)
        self._weights = weights
        self._sums = _WholeSums((k, width), size, longest, units, device)
        self._masses = None
        if weights is not None:
            self._masses = _WholeSums((k, 1), size, 1.0, units, device)
        self._scaled = torch.empty(self._sums.step, width, dtype=torch.float64, device=device)

    def change(self, rows: Tensor, points: Points, member: Tensor, before: Tensor) -> None:
        """Points become members of clusters; before they were of others, or of none (-1)."""
        (x,) = points.factors
        fresh = len(before) > 0 and int(before[0]) < 0
        for i in range(0, len(x), self._sums.step):
            part = slice(i, i + self._sums.step)
            scaled = self._scaled[: len(x[part])].copy_(x[part])
            away = None if fresh else before[part]
            if self._weights is not None and self._masses is not None:
                weights = self._weights[rows[part]][:, None]
                scaled.mul_(weights)
                self._masses.change(weights, member[part], away)
            self._sums.change(scaled, member[part], away)
        self.counts += torch.bincount(member, minlength=len(self.counts))
        if not fresh:
            self.counts -= torch.bincount(before, minlength=len(self.counts))

    def masses(self) -> Tensor:
        """(k,) float64, what the points of each cluster weigh."""
        return self.counts.double() if self._masses is None else self._masses.values()[:, 0]

    def means(self, otherwise: Tensor) -> Tensor:
        """(k, D) float64 mean of each cluster; of one that weighs nothing its row in another."""
        masses = self.masses()[:, None]
        means = self._sums.values().div_(torch.where(masses > 0, masses, 1.0))
        return torch.where(masses > 0, means, otherwise)

    def spread(self, norms: Tensor) -> float:
        """Mean over all points of the squared distance to their mean, by weight."""
        mean = self._sums.values().sum(0) / self.masses().sum()
        if self._weights is None:
            return float(norms.mean() - mean.square().sum())
        total = self._weights.sum()
        return float((self._weights * norms).sum() / total - mean.square().sum())
