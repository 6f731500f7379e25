"""The points of a geometry, each made longer or shorter by a number of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.combined import Composite
from labelwise.kernels.geometry import Geometry, Points, Term


class Scaled(Composite):
    """Points multiplied by numbers, one for each, without a copy.

    Args:
        geometry: N points, with their origin where it is.
        scale: (N,) finite numbers.

    Raises:
        InputError: another length, a number that is not finite, or a shifted geometry.

    >>> from labelwise.kernels import Euclidean
    >>> x = Scaled(Euclidean([[1.0], [2.0]], shift=False), torch.tensor([3.0, 0.5]))
    >>> x.take(torch.tensor([0, 1])).factors[0].flatten(), x.squared_norms()
    (tensor([3., 1.]), tensor([9., 1.], dtype=torch.float64))
    """

    def __init__(self, geometry: Geometry, scale: Tensor) -> None:
        if scale.shape != (len(geometry),) or not bool(scale.isfinite().all()):
            raise InputError(
                f"scale must be {len(geometry)} finite numbers, got shape {tuple(scale.shape)}"
            )
        if geometry.shifted:
            raise InputError("scaling depends on the origin, which this geometry has moved")
        self.geometry = geometry
        self.scale = scale.double().to(geometry.device)
        self.widths = geometry.widths

    def __len__(self) -> int:
        return len(self.scale)

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self.geometry.device

    @property
    def error(self) -> float:
        """The whole geometry's, and the rounding of the product."""
        return self.geometry.error * (1 + 1e-6)

    def _scaled(self, points: Points, scale: Tensor) -> Points:
        first, *rest = points.factors
        factors = (first * scale.to(first.dtype)[:, None], *rest)
        return Points(factors, points.norms * scale.square())

    def block(self, start: int, stop: int) -> Points:
        """Points ``start`` to ``stop`` (exclusive)."""
        return self._scaled(self.geometry.block(start, stop), self.scale[start:stop])

    def blocks(self) -> Iterator[tuple[int, Points]]:
        """All points in order, as pairs of the first row's number and a block."""
        for start, points in self.geometry.blocks():
            yield start, self._scaled(points, self.scale[start : start + len(points)])

    def take(self, rows: Tensor) -> Points:
        """A copy of the points in ``rows``."""
        return self._scaled(self.geometry.take(rows), self.scale[rows.to(self.device)])

    def points(self, *arrays: Any) -> Points:
        """Points that are not rows: not scaled."""
        return self.geometry.points(*arrays)

    def double(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The factors of the points in ``rows`` in float64, never rounded."""
        first, *rest = self.geometry.double(rows)
        return (first * self.scale[rows.to(self.device)][:, None], *rest)

    def rounded(self, factors: tuple[Tensor, ...]) -> Points:
        """Points given by `double`, of this geometry or of another like it, to be multiplied."""
        return self.geometry.rounded(factors)

    def terms(self, factors: tuple[Tensor, ...]) -> list[Term]:
        """The whole geometry's."""
        return self.geometry.terms(factors)

    def inner(self, block: Points, points: Points) -> Tensor:
        """Inner products, (len(block), len(points)) float32."""
        return self.geometry.inner(block, points)

    def offsets(self, block: Points, points: Points) -> Tensor:
        """Squared distances less the block's own norms, (len(block), len(points)) float32."""
        return self.geometry.offsets(block, points)
