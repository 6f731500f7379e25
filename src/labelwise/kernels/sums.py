"""Weighted sums of points in float64: what a row is alike to a whole set, at the cost of one.

Where a similarity is linear in each of its points, the sum of a row's similarities to any set
is one inner product with the set's sum. A pool's row sums then cost O(N D), not O(N^2 D), and
any row's sum over the picks so far can be had in float64 whenever a decision needs it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from labelwise.kernels.geometry import Geometry, Points
from labelwise.kernels.rows import in_order
from labelwise.kernels.similarity import Similarity

MOST_NUMBERS = 1 << 27
"""The most numbers that a sum of outer products may have: 1 GiB."""

_CHUNK_BYTES = 1 << 20  # of float64, so that a chunk stays in the second-level cache


@dataclass
class Total:
    """A weighted set of points, as `LinearSums` needs it.

    Attributes:
        weight: the sum of the weights.
        apart: the weighted sum of what `LinearSums` adds to the products of each point.
        sums: for each term of the geometry, the weighted sum of its outer products, float64:
            the first factor by the others, multiplied.
    """

    weight: float
    apart: float
    sums: list[Tensor]

    def plus(self, other: Total) -> Total:
        """This set and another one."""
        return Total(
            self.weight + other.weight,
            self.apart + other.apart,
            [mine + theirs for mine, theirs in zip(self.sums, other.sums)],
        )

    def times(self, scale: float) -> Total:
        """The same set with all weights multiplied."""
        return Total(scale * self.weight, scale * self.apart, [scale * s for s in self.sums])


class LinearSums:
    """Sums of similarities that are linear in each point, in float64.

    Points are those that the geometry multiplies, shifted where it shifts them and rounded as
    it rounds them; all arithmetic on them is float64, so sums depend on no block size.

    Args:
        geometry: N points.
        constant, scale: a similarity is ``constant + scale <x, y>``.
        angles: whether it is of the angle between x and y, 0 where one has length zero.
    """

    def __init__(self, geometry: Geometry, constant: float, scale: float, angles: bool) -> None:
        self.geometry = geometry
        self.constant, self.scale = constant, scale
        self._unit = angles and not geometry.directions
        # Points of length one, moved: their angle follows from their distance.
        self._moved = angles and geometry.directions and geometry.shifted
        terms = geometry.terms(tuple(torch.empty(0, width) for width in geometry.widths))
        self._widths = [tuple(factor.shape[1] for factor in term.factors) for term in terms]
        self.numbers = sum(math.prod(widths) for widths in self._widths)
        widest = max(sum(geometry.widths), *(math.prod(widths[1:]) for widths in self._widths))
        self._step = max(1, _CHUNK_BYTES // (8 * widest))

    @staticmethod
    def of(similarity: Similarity) -> LinearSums | None:
        """The sums of a similarity; None where it is not linear, or sums are too large."""
        forms = {"dot": (0.0, 1.0), "cosine": (0.0, 1.0), "cosine01": (0.5, 0.5)}
        if similarity.kind not in forms:
            return None
        found = LinearSums(similarity.geometry, *forms[similarity.kind], similarity.kind != "dot")
        return found if found.numbers <= MOST_NUMBERS else None

    def total(self, rows: Tensor | None = None) -> Total:
        """The set of some rows, each of weight 1; of all rows by default. O(n D) time."""
        found = self._nothing()
        for points in self._parts(rows):
            found = found.plus(self.total_of(points))
        return found

    def total_of(self, points: Points, weights: Tensor | None = None) -> Total:
        """A set of points with their weights, (n,) float64; each of weight 1 by default."""
        found = self._nothing()
        for start in range(0, len(points), self._step):
            some = slice(start, start + self._step)
            factors, scale, apart = self._read(points[some])
            weight = None if weights is None else weights[some]
            if weight is not None:
                scale = weight if scale is None else scale * weight
            for mine, term in zip(found.sums, self.geometry.terms(factors)):
                first = term.factors[0]
                if len(term.factors) > 1:
                    mine += (first if scale is None else scale[:, None] * first).T @ _rest(
                        term.factors
                    )
                else:
                    mine[:, 0] += first.sum(0) if scale is None else scale @ first
            found.weight += len(factors[0]) if weight is None else float(weight.sum())
            if apart is not None:
                found.apart += float(apart.sum() if weight is None else apart @ weight)
        return found

    def values(self, total: Total, rows: Tensor | None = None) -> Tensor:
        """The weighted sum of each row's similarities to a set, (n,) float64."""
        return self._pass(total, rows)[0]

    def values_and_own(self, total: Total) -> tuple[Tensor, Tensor]:
        """The same for all rows, and each row's similarity to itself: (N,) float64 each."""
        return self._pass(total, None, own=True)

    def own(self) -> Tensor:
        """Each row's similarity to itself, (N,) float64."""
        parts = (self._own(*self._read(points)) for points in self._parts(None))
        return in_order(parts, len(self.geometry))

    def _pass(self, total: Total, rows: Tensor | None, own: bool = False) -> tuple[Tensor, Tensor]:
        # Made beforehand, see `in_order`.
        size = len(self.geometry) if rows is None else len(rows)
        found = torch.zeros(size, dtype=torch.float64, device=self.geometry.device)
        alone = torch.zeros_like(found) if own else found[:0]
        start = 0
        for points in self._parts(rows):
            part = slice(start, start + len(points))
            start += len(points)
            factors, unit, apart = self._read(points)
            inner = torch.zeros(len(points), dtype=torch.float64, device=self.geometry.device)
            for mine, term in zip(total.sums, self.geometry.terms(factors)):
                along = term.factors[0] @ mine
                if len(term.factors) > 1:
                    along = (along * _rest(term.factors)).sum(1, keepdim=True)
                inner += term.weight * along[:, 0]
            if unit is not None:
                inner *= unit
            if apart is not None:
                inner += apart * total.weight + total.apart
            found[part] = inner.mul_(self.scale).add_(self.constant * total.weight)
            if own:
                alone[part] = self._own(factors, unit, apart)
        return found, alone

    def _own(
        self, factors: tuple[Tensor, ...], unit: Tensor | None, apart: Tensor | None
    ) -> Tensor:
        inner = self._norms(factors)
        if unit is not None:
            inner = inner * unit.square()
        if apart is not None:
            inner = inner + 2 * apart
        return inner * self.scale + self.constant

    def dot(self, some: Total, others: Total) -> float:
        """Inner product of two weighted sums, for similarities that are inner products."""
        inner = some.apart * others.weight + some.weight * others.apart
        terms = self.geometry.terms(tuple(torch.empty(0, w) for w in self.geometry.widths))
        for term, mine, theirs in zip(terms, some.sums, others.sums):
            inner += term.weight * float((mine * theirs).sum())
        return self.scale * inner + self.constant * some.weight * others.weight

    def norm(self, total: Total) -> float:
        """Squared length of a weighted sum, >= 0."""
        return max(0.0, self.dot(total, total))

    def _nothing(self) -> Total:
        device = self.geometry.device
        shapes = [(widths[0], math.prod(widths[1:])) for widths in self._widths]
        zeros = [torch.zeros(*shape, dtype=torch.float64, device=device) for shape in shapes]
        return Total(0.0, 0.0, zeros)

    def _parts(self, rows: Tensor | None) -> Iterator[Points]:
        """Points of some rows or of all, a few at a time: float64 takes room."""
        if rows is not None:
            for part in rows.split(self._step):
                yield self.geometry.take(part)
            return
        for _, block in self.geometry.blocks():
            for start in range(0, len(block), self._step):
                yield block[start : start + self._step]

    def _read(self, points: Points) -> tuple[tuple[Tensor, ...], Tensor | None, Tensor | None]:
        """Factors in float64, what each point is scaled by, and what is added for each."""
        factors = tuple(factor.double() for factor in points.factors)
        if self._moved:
            return factors, None, (1 - self._norms(factors)) / 2
        if self._unit:
            length = self._norms(factors).sqrt()
            return factors, torch.where(length > 0, 1 / length, 0), None
        return factors, None, None

    def _norms(self, factors: tuple[Tensor, ...]) -> Tensor:
        """Squared norms, (n,) float64."""
        total = torch.zeros(len(factors[0]), dtype=torch.float64, device=self.geometry.device)
        for term in self.geometry.terms(factors):
            squares = [factor.square().sum(1) for factor in term.factors]
            total += term.weight * torch.stack(squares).prod(0)
        return total


def _rest(factors: tuple[Tensor, ...]) -> Tensor:
    """Outer products of all factors but the first, flattened: (n, their widths multiplied)."""
    if len(factors) == 2:
        return factors[1]
    product = factors[0].new_ones(len(factors[0]), 1)
    for factor in factors[1:]:
        product = (product[:, :, None] * factor[:, None]).flatten(1)
    return product
