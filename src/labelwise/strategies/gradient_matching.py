"""Picks whose gradients, weighted, add up to a target: what `grad_match` is made of."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from labelwise.errors import ResourceError
from labelwise.kernels import (
    Euclidean,
    Generator,
    Geometry,
    Points,
    Progress,
    Similarity,
    greedy,
    matching_pursuit,
)
from labelwise.kernels.functions.pairwise import Pairwise, row_sums, sums_to
from labelwise.kernels.matching_pursuit import Refit
from labelwise.kernels.sums import MOST_NUMBERS, LinearSums, Total


class Match(NamedTuple):
    """Picks of one target, in rows of the geometry they were made in.

    Attributes:
        rows: (m,) int64 that are of use, at most as many as were asked for.
        scores: (m,) float64. weights: (m,) float64 > 0, relative to the target's mean.
        residual: the length of what is left of the target, relative to the target's.
    """

    rows: Tensor
    scores: Tensor
    weights: Tensor
    residual: float


class FixedMatch(Pairwise):
    """Minus half the squared distance of the picks' sum to a target: ``-|sum_A g - t|^2 / 2``.

    Args:
        similarity: N points g, ``dot``.
        scale: t is this many times the mean of the target.
        target: the mean of these points; of all N by default.
        memory: as for `Pairwise`.
    """

    submodular = False

    def __init__(
        self,
        similarity: Similarity,
        scale: float,
        target: Points | None = None,
        memory: int | None = None,
    ) -> None:
        super().__init__(similarity, -1.0, memory=memory)
        self._scale_to, self._target = scale, target

    def _base(self) -> Tensor:
        sums, own = row_sums(self.similarity)
        if self._target is None:
            mean = sums.div_(len(self))
        else:
            mean = sums_to(self.similarity, self._target).div_(len(self._target))
        return mean.mul_(self._scale_to).sub_(own, alpha=0.5)


class Matcher:
    """Matches one target by some rows.

    Args:
        geometry: the rows. target: points whose mean is matched; that of the rows by default.
    """

    def __init__(
        self,
        geometry: Geometry,
        target: Points | None,
        memory: int | None,
        progress: Progress | None,
    ) -> None:
        self._geometry, self._target = geometry, target
        self._memory, self._progress = memory, progress

    def nothing(self) -> bool:
        """Whether there is no target, or one of length 0."""
        if self._target is not None and not len(self._target):
            return True
        linear = LinearSums.of(Similarity(self._geometry, "dot"))
        if linear is None:
            return False  # too large to sum: the kernel says so
        return linear.norm(self._total()) == 0

    def fitted(self, n: int, candidates: Tensor, lam: float, refit: Refit) -> Match:
        """Orthogonal matching pursuit, without picks of weight 0."""
        found = matching_pursuit(
            self._geometry,
            n,
            target=self._target,
            lam=lam,
            refit=refit,
            candidates=candidates,
            memory=self._memory,
            progress=self._progress,
        )
        used = found.weights > 0
        return Match(found.rows[used], found.gains[used], found.weights[used], found.residual)

    def equal(self, n: int, candidates: Tensor, scale: float) -> Match:
        """Greedily, with weights of 1."""
        left = None if self._memory is None else max(0, self._memory - 64 * len(self._geometry))
        similarity = Similarity(self._geometry, "dot")
        found = greedy(
            FixedMatch(similarity, scale, self._target, left),
            n,
            candidates=candidates,
            progress=self._progress,
            memory=self._memory,
        )
        linear = LinearSums.of(similarity)
        assert linear is not None
        total = self._total()
        total = total.times(scale / total.weight)
        less = total.plus(linear.total(found.rows).times(-1.0))
        residual = math.sqrt(linear.norm(less) / linear.norm(total))
        return Match(found.rows, found.gains, torch.ones(n, dtype=torch.float64), residual)

    def batches(
        self,
        n: int,
        candidates: Tensor,
        lam: float,
        refit: Refit,
        *,
        size: int,
        generator: Generator,
    ) -> Match:
        """Matching pursuit with the mean gradients of random batches of ``size`` candidates.

        Raises:
            ResourceError: the means have more than 2^27 numbers.
        """
        noise = torch.from_numpy(generator.child("batches").uniform(candidates.numpy()))
        groups = candidates[noise.argsort(stable=True)].split(size)
        width = math.prod(self._geometry.widths)
        if len(groups) * width > MOST_NUMBERS:
            raise ResourceError(
                f"the gradients of {len(groups)} batches have {len(groups) * width:.3g} numbers, "
                f"more than {MOST_NUMBERS:.3g}; use larger batches, fewer classes or narrower "
                "embeddings"
            )
        means = torch.empty(len(groups), width, device=self._geometry.device)
        for k, rows in enumerate(groups):
            a, h = self._geometry.take(rows).factors
            means[k] = (a.T @ h).flatten() / len(rows)
        points = Euclidean(means, shift=False)
        total = self._total()
        target = (total.sums[0] / total.weight).flatten()[None].float()
        found = matching_pursuit(
            points,
            -(-n // size),
            target=points.points(target),
            lam=lam,
            refit=refit,
            memory=self._memory,
        )
        used = [
            (groups[k], gain, weight / len(groups[k]))
            for k, gain, weight in zip(*(part.tolist() for part in found[:3]))
            if weight > 0
        ]
        none = torch.zeros(0, dtype=torch.float64)
        return Match(
            torch.cat([none.long(), *(rows for rows, _, _ in used)])[:n],
            torch.cat([none, *(torch.full((len(r),), g).double() for r, g, _ in used)])[:n],
            torch.cat([none, *(torch.full((len(r),), w).double() for r, _, w in used)])[:n],
            found.residual,
        )

    def _total(self) -> Total:
        linear = LinearSums.of(Similarity(self._geometry, "dot"))
        assert linear is not None
        return linear.total() if self._target is None else linear.total_of(self._target)
