"""Sums of clipped similarities, the one thing that coverage functions ask for.

Facility location, its information measures and saturated coverage all are sums over represented
rows i of how much of the similarity s_ij lies within a window [low_i, high_i]; picks only narrow
the windows. So everything here computes

    within_j = sum_i w_i (min(max(s_ij, low_i), high_i) - low_i)

for all elements j or some: from points, in blocks of matrix products that are clipped and summed
while they are in cache, or from the entries of a sparse matrix.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.geometry import Points


class Windows(ABC):
    """Similarities of M represented rows to N elements.

    Attributes:
        elements: N. represented: M.
        partial: whether asking about few elements takes less than asking about all.
        point_bytes: how many bytes a point that `take` returns takes.
    """

    elements: int
    represented: int
    partial: bool = True
    point_bytes: int = 0

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where sums are computed."""

    @abstractmethod
    def columns(self, rows: Tensor) -> Tensor:
        """Similarities of some elements to all represented rows, (len(rows), M) float32."""

    @abstractmethod
    def within(
        self,
        low: Tensor,
        high: Tensor,
        weights: Tensor | None = None,
        rows: Tensor | None = None,
        elements: Tensor | None = None,
        points: Points | None = None,
    ) -> Tensor:
        """The sums of clipped similarities, (n,) float64.

        Args:
            low, high: (R,) float32 windows, low <= high, of the represented rows looked at.
            weights: (R,) float32; ones by default.
            rows: (R,) int64, which represented rows; all in order by default.
            elements: (n,) int64, which elements; all by default.
            points: the points of ``rows``, where the caller has them from `take`.
        """

    def take(self, rows: Tensor) -> Points | None:
        """The points of some represented rows, where sums are computed from points."""
        return None

    @abstractmethod
    def extent(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sum, smallest and largest of each represented row's similarities, (M,) float64 each."""

    @abstractmethod
    def bytes_needed(self) -> int:
        """About how many bytes the sums take beyond the input and their result."""


def part_of(
    part: slice, low: Tensor, high: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The windows and weights of some rows."""
    return low[part], high[part], None if weights is None else weights[part]


def clipped(found: Tensor, low: Tensor, high: Tensor, weights: Tensor | None) -> Tensor:
    """Sums along the rows of a tile, within each column's window; the tile is used up."""
    found.clamp_(low, high).sub_(low)
    if weights is not None:
        found.mul_(weights)
    return found.sum(1, dtype=torch.float64)


def clipped_down(
    found: Tensor, low: Tensor, high: Tensor, weights: Tensor | None, keep: bool = False
) -> Tensor:
    """Sums down the columns of a tile, within each row's window; the tile is used up."""
    # Two operations, as one with both bounds broadcast along rows takes five times as long.
    clipped = torch.maximum(found, low[:, None], out=None if keep else found)
    torch.minimum(clipped, high[:, None], out=clipped).sub_(low[:, None])
    if weights is not None:
        clipped.mul_(weights[:, None])
    return clipped.sum(0, dtype=torch.float64)


def check_rows(rows: Tensor, size: int, name: str) -> Tensor:
    """Distinct row numbers of a pool, (n,) int64 on the CPU.

    Raises:
        InputError: one out of range, or twice.
    """
    rows = torch.as_tensor(rows, dtype=torch.int64).cpu()
    wrong = rows[(rows < 0) | (rows >= size)]
    if len(wrong):
        raise InputError(f"{name} must be rows in 0..{size - 1}, got {int(wrong[0])}")
    if len(rows.unique()) < len(rows):
        raise InputError(f"{name} must be distinct rows")
    return rows
