"""Some rows of a geometry as a geometry of its own, without a copy."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.combined import Composite
from labelwise.kernels.geometry import Geometry, Points, Term

_DENSE = 2
"""A block is cut from a stretch of the whole that is at most this many times as long."""


class Subset(Composite):
    """A view of some rows, renumbered 0 to m - 1 in the order given.

    Blocks of rows that lie close together are read as one stretch, so ascending rows suit files.

    Args:
        geometry: N points.
        rows: (m,) int64 distinct rows of it.
        hold: bytes that a copy of them may take; a larger one is not made.

    Raises:
        InputError: rows of another shape or type, out of range, or one given twice.

    >>> from labelwise.kernels import Euclidean
    >>> some = Subset(Euclidean([[0.0], [1.0], [5.0]]), torch.tensor([2, 0]))
    >>> len(some), some.exact(torch.tensor([0]), torch.tensor([1])).item()
    (2, 25.0)
    """

    def __init__(self, geometry: Geometry, rows: Tensor, hold: int = 0) -> None:
        rows = torch.as_tensor(rows).cpu()
        if rows.ndim != 1 or rows.dtype != torch.int64:
            raise InputError(f"rows must be (m,) int64, got {tuple(rows.shape)} {rows.dtype}")
        size = len(geometry)
        wrong = (rows < 0) | (rows >= size)
        if bool(wrong.any()):
            raise InputError(f"rows must be in 0..{size - 1}, got {int(rows[wrong][0])}")
        self._ascending = bool((rows[1:] > rows[:-1]).all())
        if not self._ascending:
            order = rows.sort().values
            if bool((twice := order[1:] == order[:-1]).any()):
                raise InputError(f"rows must be distinct, got {int(order[1:][twice][0])} twice")
        self.geometry = geometry
        self.rows = rows
        self.widths = geometry.widths
        small = 4 * sum(self.widths) * len(rows) <= hold
        self._held = geometry.take(rows) if small else None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self.geometry.device

    @property
    def shifted(self) -> bool:
        """Whether the whole geometry is."""
        return self.geometry.shifted

    @property
    def directions(self) -> bool:
        """Whether all points have length one."""
        return self.geometry.directions

    @property
    def error(self) -> float:
        """The whole geometry's."""
        return self.geometry.error

    def block(self, start: int, stop: int) -> Points:
        """Points ``start`` to ``stop`` (exclusive), by reference where they lie side by side."""
        if self._held is not None:
            return self._held[start:stop]
        rows = self.rows[start:stop]
        if self._ascending and len(rows):
            first, last = int(rows[0]), int(rows[-1]) + 1
            if last - first == len(rows):
                return self.geometry.block(first, last)
            if last - first <= _DENSE * len(rows):
                return self.geometry.block(first, last)[(rows - first).to(self.device)]
        return self.geometry.take(rows)

    def take(self, rows: Tensor) -> Points:
        """A copy of the points in ``rows``."""
        if self._held is not None:
            return self._held[rows.to(self.device)]
        return self.geometry.take(self.rows[rows.cpu()])

    def points(self, *arrays: Any) -> Points:
        """Points that are not rows, made to fit."""
        return self.geometry.points(*arrays)

    def exact(self, rows: Tensor, others: Tensor) -> Tensor:
        """Squared distances of pairs of rows, (P,) float64, from differences."""
        return self.geometry.exact(self.rows[rows.cpu()], self.rows[others.cpu()])

    def double(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The factors of the points in ``rows`` in float64, never shifted or rounded."""
        return self.geometry.double(self.rows[rows.cpu()])

    def rounded(self, factors: tuple[Tensor, ...]) -> Points:
        """Points given by `double`, of this geometry or of another like it, to be multiplied."""
        return self.geometry.rounded(factors)

    def true_norms(self, rows: Tensor) -> Tensor:
        """Squared norms of the points as given, never shifted, (n,) float64."""
        return self.geometry.true_norms(self.rows[rows.cpu()])

    def terms(self, factors: tuple[Tensor, ...]) -> list[Term]:
        """The whole geometry's."""
        return self.geometry.terms(factors)

    def inner(self, block: Points, points: Points) -> Tensor:
        """Inner products, (len(block), len(points)) float32."""
        return self.geometry.inner(block, points)

    def offsets(self, block: Points, points: Points) -> Tensor:
        """Squared distances less the block's own norms, (len(block), len(points)) float32."""
        return self.geometry.offsets(block, points)
