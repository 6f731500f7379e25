"""Geometries made of others: points side by side, and points multiplied.

Whatever is built here, a point is a sum of outer products of vectors (`Geometry.terms`), so
true distances and means are written once, from the factors, and no product is ever built.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.gemm import SINGLE_ROUNDOFF
from labelwise.kernels.geometry import Geometry, Points, Term
from labelwise.kernels.rows import in_order

_PAIR_BYTES = 1 << 20
_BUILT_BYTES = 16 << 20
_MEAN_NUMBERS = 1 << 27
"""The most numbers that the mean of outer products may have: 1 GiB."""


class Composite(Geometry):
    """A geometry made of others; its factors are theirs."""

    _norms: Tensor | None = None

    @property
    def _rows_at_once(self) -> int:
        return max(1, _PAIR_BYTES // (8 * sum(self.widths)))

    def exact(self, rows: Tensor, others: Tensor) -> Tensor:
        """Squared distances of pairs of rows, (P,) float64, from differences of the factors."""
        step = self._rows_at_once
        pairs = zip(rows.split(step), others.split(step))
        parts = (self.moments(self.double(x), self.double(y)).apart for x, y in pairs)
        return in_order(parts, len(rows))

    def squared_norms(self) -> Tensor:
        """(N,) float64; computed once."""
        if self._norms is None:
            self._norms = super().squared_norms()
        return self._norms

    def true_norms(self, rows: Tensor) -> Tensor:
        """Squared norms of the points as given, never shifted, (n,) float64."""
        parts = (_norms(self.terms(self.double(x))) for x in rows.split(self._rows_at_once))
        return in_order(parts, len(rows))

    def to_mean(self, rows: Tensor) -> Tensor:
        """Squared distances to the mean of all points, less its squared norm, (n,) float64.

        Raises:
            ResourceError: the mean of the outer products has more than 2^27 numbers.
        """
        return self.from_mean(rows, self.total() / len(self))

    def from_mean(self, rows: Tensor, mean: Tensor) -> Tensor:
        """Squared distances to a mean, less its squared norm, (n,) float64."""
        shapes = self._shapes()
        flat = mean.split([math.prod(shape) for shape in shapes])
        means = [part.view(shape) for part, shape in zip(flat, shapes)]

        def away(part: Tensor) -> Tensor:
            terms = self.terms(_double(self.take(part)))
            along = [
                t.weight * ((t.factors[0] @ mean) * _rest(t)).sum(1)
                for t, mean in zip(terms, means)
            ]
            return _norms(terms) - 2 * torch.stack(along).sum(0)

        return in_order(map(away, rows.split(self._rows_at_once)), len(rows))

    def total(self) -> Tensor:
        """The sum of every term over all points, flattened and joined, float64."""
        shapes = self._shapes()
        totals = [torch.zeros(s, dtype=torch.float64, device=self.device) for s in shapes]
        widest = max(sum(self.widths), *(shape[1] for shape in shapes))
        step = max(1, _BUILT_BYTES // (8 * widest))
        for _, block in self.blocks():
            for start in range(0, len(block), step):
                for total, term in zip(totals, self.terms(_double(block[start : start + step]))):
                    total += term.factors[0].T @ _rest(term)
        return torch.cat([total.flatten() for total in totals])

    def _shapes(self) -> list[tuple[int, int]]:
        """Of every term: the width of its first factor, and of the others multiplied."""
        shapes = []
        for term in self.terms(tuple(torch.empty(0, width) for width in self.widths)):
            first, *rest = (factor.shape[1] for factor in term.factors)
            shapes.append((first, math.prod(rest)))
        if (most := max(a * b for a, b in shapes)) > _MEAN_NUMBERS:
            raise ResourceError(
                f"the mean of these outer products has {most:.3g} numbers, more than "
                f"{_MEAN_NUMBERS:.3g}; name covered rows to measure from"
            )
        return shapes


class _Parts(Composite):
    """Geometries over the same rows, put together."""

    def __init__(self, geometries: Sequence[Geometry]) -> None:
        name = type(self).__name__
        if not geometries:
            raise InputError(f"{name} needs at least one geometry, got none")
        lengths = [len(part) for part in geometries]
        if len(set(lengths)) > 1:
            raise InputError(f"{name} needs geometries over the same rows, got lengths {lengths}")
        devices = [str(part.device) for part in geometries]
        if len(set(devices)) > 1:
            raise InputError(f"{name} needs geometries on one device, got {devices}")
        self.parts = tuple(geometries)
        self.widths = tuple(width for part in geometries for width in part.widths)

    def __len__(self) -> int:
        return len(self.parts[0])

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self.parts[0].device

    def split(self, factors: tuple[Tensor, ...]) -> list[tuple[Tensor, ...]]:
        """The factors of each part."""
        found, start = [], 0
        for part in self.parts:
            found.append(factors[start : start + len(part.widths)])
            start += len(part.widths)
        return found

    def _split(self, points: Points) -> list[Points]:
        return [Points(factors, points.norms) for factors in self.split(points.factors)]

    @abstractmethod
    def _join(self, norms: list[Tensor]) -> Tensor:
        """Squared norms of whole points from those of their parts."""

    def _points(self, parts: list[Points]) -> Points:
        factors = tuple(factor for part in parts for factor in part.factors)
        return Points(factors, self._join([part.norms for part in parts]))

    def block(self, start: int, stop: int) -> Points:
        """Points ``start`` to ``stop`` (exclusive)."""
        return self._points([part.block(start, stop) for part in self.parts])

    def take(self, rows: Tensor) -> Points:
        """A copy of the points in ``rows``."""
        return self._points([part.take(rows) for part in self.parts])

    def points(self, *arrays: Any) -> Points:
        """Points that are not rows: for each part its array, or a tuple of them."""
        if len(arrays) != len(self.parts):
            raise InputError(f"points need arrays for {len(self.parts)} parts, got {len(arrays)}")
        given = [array if isinstance(array, tuple) else (array,) for array in arrays]
        found = [part.points(*mine) for part, mine in zip(self.parts, given)]
        if len({len(points) for points in found}) > 1:
            raise InputError(
                f"points need as many rows in every part, got {[len(points) for points in found]}"
            )
        return self._points(found)

    def double(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The factors of the points in ``rows`` in float64, never shifted or rounded."""
        return tuple(factor for part in self.parts for factor in part.double(rows))

    def rounded(self, factors: tuple[Tensor, ...]) -> Points:
        """Points given by `double`, of this geometry or of another like it, to be multiplied."""
        parts = zip(self.parts, self.split(factors))
        return self._points([part.rounded(mine) for part, mine in parts])

    def squared_norms(self) -> Tensor:
        """(N,) float64; computed once."""
        if self._norms is None:
            self._norms = self._join([part.squared_norms() for part in self.parts])
        return self._norms


class Concatenated(_Parts):
    """Points of several geometries side by side: inner products and squared distances add.

    Args:
        geometries: over the same N rows, on one device.
        weights: what each one's inner products count for, > 0; 1 by default.

    Raises:
        InputError: no geometry, lengths or devices that differ, or weights that do not fit.

    >>> from labelwise.kernels import Euclidean
    >>> g = Concatenated(Euclidean([[0.0], [3.0]]), Euclidean([[0.0], [4.0]]), weights=[1, 4])
    >>> g.exact(torch.tensor([0]), torch.tensor([1]))
    tensor([73.], dtype=torch.float64)
    """

    def __init__(self, *geometries: Geometry, weights: Sequence[float] | None = None) -> None:
        super().__init__(geometries)
        self.weights = tuple(float(w) for w in weights) if weights else (1.0,) * len(geometries)
        if len(self.weights) != len(geometries) or not all(0 < w < math.inf for w in self.weights):
            raise InputError(
                f"weights must be {len(geometries)} finite numbers > 0, got {self.weights}"
            )

    @property
    def shifted(self) -> bool:
        """Whether any part is multiplied relative to another origin than its own."""
        return any(part.shifted for part in self.parts)

    @property
    def error(self) -> float:
        """See `Geometry.error`: by Cauchy-Schwarz sums are no worse than their worst part."""
        return max(part.error for part in self.parts) + (len(self.parts) + 4) * SINGLE_ROUNDOFF

    def _join(self, norms: list[Tensor]) -> Tensor:
        total = norms[0] * self.weights[0]
        for weight, more in zip(self.weights[1:], norms[1:]):
            total = total + weight * more
        return total

    def terms(self, factors: tuple[Tensor, ...]) -> list[Term]:
        """Those of every part, weighted."""
        return [
            Term(weight * term.weight, term.factors)
            for part, weight, mine in zip(self.parts, self.weights, self.split(factors))
            for term in part.terms(mine)
        ]

    def inner(self, block: Points, points: Points) -> Tensor:
        """Inner products, (len(block), len(points)) float32."""
        total: Tensor | None = None
        products = self._products(block, points)
        for weight, product in zip(self.weights, products):
            if total is None:
                total = product if weight == 1 else product.mul_(weight)
            else:
                total.add_(product, alpha=weight)
        assert total is not None
        return total

    def offsets(self, block: Points, points: Points) -> Tensor:
        """Squared distances less the block's own norms, (len(block), len(points)) float32."""
        total: Tensor | None = None
        norms = points.norms.float()
        for weight, product in zip(self.weights, self._products(block, points)):
            if total is None:
                total = torch.add(norms, product, alpha=-2 * weight, out=product)
            else:
                total.add_(product, alpha=-2 * weight)
        assert total is not None
        return total

    def _products(self, block: Points, points: Points) -> Any:
        mine, theirs = self._split(block), self._split(points)
        return (part.inner(x, y) for part, x, y in zip(self.parts, mine, theirs))


class Product(_Parts):
    """Outer products of the points of several geometries: inner products multiply.

    `GradientEmbedding` is the product of residuals and embeddings. No outer product is built.

    Args:
        geometries: over the same N rows, on one device, with their origin where it is.

    Raises:
        InputError: no geometry, lengths or devices that differ, or a part whose points were
            shifted: products depend on the origin.

    >>> from labelwise.kernels import Euclidean
    >>> a, b = Euclidean([[1.0], [2.0]], shift=False), Euclidean([[3.0], [5.0]], shift=False)
    >>> Product(a, b).exact(torch.tensor([0]), torch.tensor([1]))
    tensor([49.], dtype=torch.float64)
    """

    def __init__(self, *geometries: Geometry) -> None:
        super().__init__(geometries)
        for number, part in enumerate(geometries):
            if part.shifted:
                raise InputError(
                    f"products depend on the origin, which part {number} has moved; build it "
                    f"with {type(part).__name__}(x, shift=False)"
                )
        self._plain = all(len(part.terms(part.double(torch.arange(0)))) == 1 for part in geometries)

    @property
    def directions(self) -> bool:
        """Products of points of length one have length one."""
        return all(part.directions for part in self.parts)

    @property
    def error(self) -> float:
        """See `Geometry.error`: relative errors of factors add up, and their products."""
        errors = math.prod(1 + part.error for part in self.parts) - 1
        return errors + (len(self.parts) + 4) * SINGLE_ROUNDOFF

    def _join(self, norms: list[Tensor]) -> Tensor:
        total = norms[0]
        for more in norms[1:]:
            total = total * more
        return total

    def terms(self, factors: tuple[Tensor, ...]) -> list[Term]:
        """Every term of one part times every term of the others."""
        found = [Term(1.0, ())]
        for part, mine in zip(self.parts, self.split(factors)):
            found = [
                Term(left.weight * right.weight, left.factors + right.factors)
                for left in found
                for right in part.terms(mine)
            ]
        return found

    def inner(self, block: Points, points: Points) -> Tensor:
        """Inner products, (len(block), len(points)) float32."""
        mine, theirs = self._split(block), self._split(points)
        product = self.parts[0].inner(mine[0], theirs[0])
        for part, x, y in zip(self.parts[1:], mine[1:], theirs[1:]):
            product.mul_(part.inner(x, y))
        return product

    def offsets(self, block: Points, points: Points) -> Tensor:
        """Squared distances less the block's own norms, (len(block), len(points)) float32."""
        if self._plain:
            return super().offsets(block, points)
        product = self.inner(block, points)
        return torch.add(points.norms.float(), product, alpha=-2, out=product)


def _double(points: Points) -> tuple[Tensor, ...]:
    return tuple(factor.double() for factor in points.factors)


def _norms(terms: list[Term]) -> Tensor:
    """Squared norms of points, (n,) float64."""
    parts = [
        term.weight * torch.stack([factor.square().sum(1) for factor in term.factors]).prod(0)
        for term in terms
    ]
    return torch.stack(parts).sum(0)


def _rest(term: Term) -> Tensor:
    """Outer products of all factors but the first, flattened: (n, their widths multiplied)."""
    product = term.factors[0].new_ones(len(term.factors[0]), 1)
    for factor in term.factors[1:]:
        product = (product[:, :, None] * factor[:, None]).flatten(1)
    return product
