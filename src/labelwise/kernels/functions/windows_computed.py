"""Clipped sums of similarities that are computed from points whenever they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.functions.windows import (
    Windows,
    check_rows,
    clipped,
    clipped_down,
    part_of,
)
from labelwise.kernels.geometry import Points
from labelwise.kernels.similarity import Similarity

QUADRATIC_LIMIT = 200_000
"""Rows up to which all pairs of a pool are compared without being asked twice."""

_TILE = 512
_STRETCH = 4096


class ComputedWindows(Windows):
    """Similarities computed from points whenever they are asked for.

    Args:
        similarity: N elements.
        represented: rows of the pool, (M,) int64; or other points; the whole pool by default.
        dense: consent to more than `QUADRATIC_LIMIT` squared similarities.

    Raises:
        InputError: a represented row out of range, or none.
        ResourceError: too many similarities without consent.
    """

    def __init__(
        self,
        similarity: Similarity,
        represented: Tensor | Points | None = None,
        dense: bool = False,
    ) -> None:
        self.similarity = similarity
        self.elements = len(similarity)
        self.point_bytes = similarity.point_bytes
        self._points = represented if isinstance(represented, Points) else None
        self._rows = None if isinstance(represented, Points) else represented
        if self._rows is not None:
            self._rows = check_rows(self._rows, self.elements, "represented")
        self.represented = len(similarity) if represented is None else len(represented)
        if not self.represented:
            raise InputError("represented must be at least one row or point, got none")
        if self.elements * self.represented > QUADRATIC_LIMIT**2 and not dense:
            raise ResourceError(
                f"{self.elements} x {self.represented} similarities are more than "
                f"{QUADRATIC_LIMIT} squared: pass neighbors= for sparse similarities, represent a "
                "sample of the rows, select in partitions, or pass dense=True to compute them all"
            )

    @property
    def device(self) -> torch.device:
        """Where sums are computed."""
        return self.similarity.device

    def columns(self, rows: Tensor) -> Tensor:
        """Similarities of some elements to all represented rows, (len(rows), M) float32."""
        return self.columns_of(self.similarity.take(rows), rows)

    @property
    def pool(self) -> bool:
        """Whether the represented rows are the elements, in the same order."""
        return self._points is None and self._rows is None

    def columns_of(self, points: Points, rows: Tensor | None = None) -> Tensor:
        """The same of points that need not be elements."""
        out = torch.empty(len(points), self.represented, device=self.device)
        for start, block, numbers in self._stretches(None):
            stop = start + len(block)
            out[:, start:stop] = self.similarity.between(block, points, numbers, rows).T
        return out

    def take(self, rows: Tensor) -> Points:
        """The points of some represented rows."""
        if self._points is not None:
            return self._points[rows.to(self.device)]
        return self.similarity.take(rows if self._rows is None else self._rows[rows])

    def within(
        self,
        low: Tensor,
        high: Tensor,
        weights: Tensor | None = None,
        rows: Tensor | None = None,
        elements: Tensor | None = None,
        points: Points | None = None,
    ) -> Tensor:
        """The sums of clipped similarities, (n,) float64."""
        if rows is None and elements is None and self.pool:
            return self._symmetric(low, high, weights)
        count = self.elements if elements is None else len(elements)
        total = torch.zeros(count, dtype=torch.float64, device=self.device)
        # The smaller side is in hand, a tile at a time, while the larger one passes by.
        if count < len(low):
            for begin, tile, mine in self._cut(self._elements(elements)):
                into = total[begin : begin + len(tile)]
                for start, block, numbers in self._cut(self._stretches(rows, points), len(tile)):
                    found = self.similarity.between(block, tile, numbers, mine)
                    part = slice(start, start + len(block))
                    into += clipped_down(found, *part_of(part, low, high, weights))
        else:
            for begin, tile, numbers in self._cut(self._stretches(rows, points)):
                part = slice(begin, begin + len(tile))
                for start, block, mine in self._cut(self._elements(elements), len(tile)):
                    found = self.similarity.between(block, tile, mine, numbers)
                    into = total[start : start + len(block)]
                    into += clipped(found, *part_of(part, low, high, weights))
        return total

    def extent(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sum, smallest and largest of each represented row's similarities, (M,) float64 each."""
        total = torch.zeros(self.represented, dtype=torch.float64, device=self.device)
        least, most = torch.full_like(total, torch.inf), torch.full_like(total, -torch.inf)
        for begin, points, numbers in self._stretches(None):
            stretch = slice(begin, begin + len(points))
            for start in range(0, self.elements, _TILE):
                mine = torch.arange(start, min(start + _TILE, self.elements))
                block = self.similarity.block(start, start + len(mine))
                found = self.similarity.between(points, block, numbers, mine)
                total[stretch] += found.sum(1, dtype=torch.float64)
                torch.minimum(least[stretch], found.amin(1), out=least[stretch])
                torch.maximum(most[stretch], found.amax(1), out=most[stretch])
        return total, least, most

    def bytes_needed(self) -> int:
        """About how many bytes the sums take: stretches of points, and tiles."""
        stretch = min(_STRETCH, max(self.elements, self.represented))
        return 4 * stretch * self.similarity.point_bytes + 16 * min(stretch, self._tile) ** 2

    def _cut(
        self, stretches: Iterator[tuple[int, Points, Tensor | None]], across: int | None = None
    ) -> Iterator[tuple[int, Points, Tensor | None]]:
        """Stretches cut into tiles, whose products with ``across`` points stay in cache."""
        step = self._tile if across is None else min(_STRETCH, self._tile**2 // across)
        for begin, points, rows in stretches:
            for at in range(0, len(points), step):
                tile = slice(at, at + step)
                yield begin + at, points[tile], None if rows is None else rows[tile]

    @property
    def _tile(self) -> int:
        return _TILE if self.device.type == "cpu" else 8 * _TILE

    def _symmetric(self, low: Tensor, high: Tensor, weights: Tensor | None) -> Tensor:
        """The sums over the pool for the pool: a product off the diagonal is of use twice."""
        total = torch.zeros(self.elements, dtype=torch.float64, device=self.device)
        for left, right, found in self.halves():
            if right.stop <= left.start:
                part = part_of(left, low, high, weights)
                total[right] += clipped_down(found, *part, keep=True)
            total[left] += clipped(found, *part_of(right, low, high, weights))
        return total

    def halves(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Similarities of the pool to itself: each pair of tiles once, the later one first."""
        for i in range(0, self.elements, _STRETCH):
            block, rows = self._block(slice(i, min(i + _STRETCH, self.elements)))
            for j in range(0, i + len(block), self._tile):
                tile, others = self._block(slice(j, min(j + self._tile, i + len(block))))
                for at in range(max(0, j - i), len(block), self._tile):
                    part = slice(at, min(at + self._tile, len(block)))
                    found = self.similarity.between(block[part], tile, rows[part], others)
                    yield slice(i + part.start, i + part.stop), slice(j, j + len(tile)), found

    def _block(self, part: slice) -> tuple[Points, Tensor]:
        return self.similarity.block(part.start, part.stop), torch.arange(part.start, part.stop)

    def _stretches(
        self, rows: Tensor | None, points: Points | None = None
    ) -> Iterator[tuple[int, Points, Tensor | None]]:
        """Represented rows a stretch at a time: where it starts, points, row numbers if any."""
        if points is None and self._points is not None:
            points = self._points if rows is None else self._points[rows.to(self.device)]
        numbers = rows
        if self._rows is not None:
            numbers = self._rows if rows is None else self._rows[rows]
        if points is None:
            yield from self._elements(numbers)
            return
        for start in range(0, len(points), _STRETCH):
            part = slice(start, start + _STRETCH)
            known = self._points is None and numbers is not None
            yield start, points[part], numbers[part] if known and numbers is not None else None

    def _elements(self, rows: Tensor | None) -> Iterator[tuple[int, Points, Tensor]]:
        """Rows of the pool a stretch at a time: where it starts, points, row numbers."""
        if rows is None:
            for start, points in self.similarity.blocks():
                yield start, points, torch.arange(start, start + len(points))
            return
        for start in range(0, len(rows), _STRETCH):
            part = rows[start : start + _STRETCH]
            yield start, self.similarity.take(part), part
