"""Vectors under the Euclidean distance, and directions under the cosine one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.gemm import single_roundoff
from labelwise.kernels.geometry import HOLD_BYTES, Geometry, Points, squared_norms
from labelwise.kernels.rows import Rows, in_order, per_row

_SAMPLE_NUMBERS = 1 << 22
_SUMMED = 256

_LENGTHS = (1e-150, 1e150)
_NORMS = (1e-32, 1e37)
"""Squared norms that leave single precision room for squares: of the longest row, of any row."""


class Euclidean(Geometry):
    """The rows of a matrix as points; squared distances in the matrix's own unit, squared.

    When the points lie far from the origin compared with their spread, all are shifted by one
    vector first: distances stay the same and cancellation goes away.

    Args:
        x: (N, D) numbers of any float or integer type: an array, a memory-mapped file, a
            tensor on any device. Read in blocks, never converted whole unless that copy is
            small.
        device: where to compute; where ``x`` is by default.
        shift: whether points far from the origin may be shifted. False keeps inner products
            with the origin where it is, as similarities by angle need. A (D,) vector is
            subtracted as it is: that of another geometry, so that points of both can meet.
        hold: bytes that a converted copy of the rows may take; a larger one is not made.

    Raises:
        InputError: not two-dimensional, no columns, or numbers whose squares leave single
            precision: larger than about 1e18, or all smaller than 1e-16.

    >>> g = Euclidean([[0.0, 0.0], [3.0, 4.0]])
    >>> g.squared_distances(g.block(0, 2), g.take(torch.tensor([1])))
    tensor([[25.],
            [ 0.]], dtype=torch.float64)
    """

    def __init__(
        self,
        x: Any,
        device: torch.device | str | None = None,
        *,
        shift: bool | Tensor = True,
        hold: int = HOLD_BYTES,
    ) -> None:
        self._rows = x if isinstance(x, Rows) else Rows(x, "x")
        self._check()
        self.block_bytes = min(self.block_bytes, self._rows.block_bytes // 2)
        self._device = torch.device(device) if device is not None else self._rows.device
        self.widths = (self._rows.shape[1],)
        self._shift: Tensor | None = None
        if isinstance(shift, Tensor):
            self._shift = shift.to(self._device, torch.float32)
        elif shift:
            self._shift = self._far_from_origin()
        self._held: Tensor | None = None
        self._norms: Tensor | None = None
        plain = self._shift is None and self._rows.dtype == torch.float32
        if len(self) * self.widths[0] * 4 <= hold or (plain and not self._on_disk()):
            self._held = self._convert(self._rows.tensor()).contiguous()
            self._norms = self._norms_of(self._held)

    def _check(self) -> None:
        if self._rows.ndim != 2 or self._rows.shape[1] == 0:
            raise InputError(
                f"{self._rows.name} must be (N, D) with D >= 1, got {self._rows.shape}"
            )

    def _on_disk(self) -> bool:
        return self._rows.is_file or self._rows.device != self._device

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self._device

    def block(self, start: int, stop: int) -> Points:
        """Points ``start`` to ``stop`` (exclusive)."""
        if self._held is not None and self._norms is not None:
            return Points((self._held[start:stop],), self._norms[start:stop])
        return self._as_points(self._convert(self._rows.block(start, stop)), slice(start, stop))

    def _as_points(self, x: Tensor, rows: slice) -> Points:
        if self._norms is not None:
            return Points((x,), self._norms[rows])
        norms = squared_norms(x)
        self._check_long(norms, rows.start)
        return Points((x,), norms)

    def blocks(self) -> Iterator[tuple[int, Points]]:
        """All points in order, as pairs of the first row's number and a block.

        A block is good until the next one is asked for: converted rows share one buffer.
        """
        if self._held is not None:
            yield from super().blocks()
            return
        step = self.block_size
        buffer = torch.empty(step, self.widths[0], device=self._device)
        for start, stored in self._rows.blocks(step):
            x = self._convert(stored, buffer[: len(stored)])
            yield start, self._as_points(x, slice(start, start + len(x)))

    def take(self, rows: Tensor) -> Points:
        """A copy of the points in ``rows``."""
        if self._held is not None and self._norms is not None:
            rows = rows.to(self._device)
            return Points((self._held[rows],), self._norms[rows])
        x = self._rows.take(rows).to(self._device)
        x = self._convert(x, x if x.dtype == torch.float32 else None)
        norms = squared_norms(x) if self._norms is None else self._norms[rows.to(self._device)]
        return Points((x,), norms)

    def points(self, *arrays: Any) -> Points:
        """Vectors that are not rows of this geometry as points that fit it, (n, D)."""
        rows = Rows(arrays[0], "points")
        if len(arrays) != 1 or rows.ndim != 2 or rows.shape[1] != self.widths[0]:
            raise InputError(f"points must be (n, {self.widths[0]}), got {rows.shape}")
        x = self._convert(rows.tensor().clone()).contiguous()
        return Points((x,), squared_norms(x))

    @property
    def shifted(self) -> bool:
        """Whether points are multiplied relative to another origin than the rows' own."""
        return self._shift is not None

    @property
    def origin(self) -> Tensor | None:
        """(D,) float32, what is subtracted from the rows; None where they stay as they are."""
        return self._shift

    def squared_norms(self) -> Tensor:
        """(N,) float64; computed once."""
        if self._norms is None:
            self._norms = super().squared_norms()
        return self._norms

    def exact(self, rows: Tensor, others: Tensor) -> Tensor:
        """Squared distances of pairs of rows, (P,) float64, from differences."""
        # A few pairs at a time in one buffer: fresh memory costs more than the arithmetic.
        step = max(1, min(len(rows), (1 << 19) // (8 * self.widths[0])))
        shape = (2, step, self.widths[0])
        buffer = torch.empty(shape, dtype=torch.float64, device=self._device)
        found = torch.zeros(len(rows), dtype=torch.float64, device=self._device)
        for i in range(0, len(rows), step):
            mine, theirs = buffer[:, : len(rows[i : i + step])]
            self._double(rows[i : i + step], mine)
            self._double(others[i : i + step], theirs)
            found[i : i + step] = mine.sub_(theirs).square_().sum(1)
        return found

    def double(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Stored rows as float64, never shifted or rounded."""
        return (self._double(rows),)

    def shift(self, x: Tensor) -> Tensor:
        """Vectors in the coordinates that points are multiplied in, (n, D) float64."""
        x = x.to(self._device).double()
        return x if self._shift is None else x - self._shift.double()

    def unshift(self, x: Tensor) -> Tensor:
        """Vectors back in the coordinates of the rows as given, (n, D) float64."""
        return x.double() if self._shift is None else x.double() + self._shift.double()

    def true_norms(self, rows: Tensor) -> Tensor:
        """Squared norms of the rows as given, (n,) float64."""
        step = max(1, (32 << 20) // (8 * self.widths[0]))
        parts = (self._double(some).square_().sum(1) for some in rows.split(step))
        return in_order(parts, len(rows))

    def apart(self, some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> Tensor:
        """Squared distances of P pairs of vectors in float64, (P,)."""
        return (some[0] - others[0]).square_().sum(1)

    def rounded(self, factors: tuple[Tensor, ...]) -> Points:
        """Vectors in float64 as points that fit this geometry."""
        x = self.shift(factors[0]).float()
        return Points((x,), squared_norms(x))

    def to_mean(self, rows: Tensor) -> Tensor:
        """Squared distances to the mean of all points, (n,) float64."""
        return self.from_mean(rows, self.total() / len(self))

    def from_mean(self, rows: Tensor, mean: Tensor) -> Tensor:
        """Squared distances to a mean in shifted coordinates, (n,) float64."""
        step = max(1, (32 << 20) // (8 * self.widths[0]))
        points = (self.take(some).factors[0].double() for some in rows.split(step))
        return in_order(((x - mean).square_().sum(1) for x in points), len(rows))

    def nearest_mean(self, rows: Tensor) -> int:
        """The one of ``rows`` nearest the mean of all points; the lowest on a tie to 1e-12.

        A mean in single precision, with a bound on its error, leaves few rows to decide on.
        """
        norms = self.squared_norms()
        ones = torch.ones(1, _SUMMED, device=self._device)
        total = torch.zeros(self.widths[0], dtype=torch.float64, device=self._device)
        for _, block in self.blocks():
            for part in block.factors[0].split(_SUMMED):
                total += (ones[:, : len(part)] @ part)[0].double()
        mean = total / len(self)
        center = Points((mean.float()[None],), mean.square().sum()[None])
        offsets = per_row(self.blocks(), len(self), lambda block: self.offsets(block, center)[:, 0])
        off = 2 * _SUMMED * single_roundoff(self._device) * norms.sqrt().mean()
        reach = norms.sqrt() + center.norms.sqrt() + off
        near, slack = (
            norms + offsets.double(),
            self.error * (norms + center.norms) + 2 * reach * off,
        )
        rows = rows.to(near.device)
        close = rows[(near - slack)[rows] <= (near + slack)[rows].min()]
        return int(close[0]) if len(close) == 1 else super().nearest_mean(close)

    def total(self) -> Tensor:
        """The sum of all points, (D,) float64, in shifted coordinates."""
        total = torch.zeros(self.widths[0], dtype=torch.float64, device=self._device)
        for _, points in self.blocks():
            total += points.factors[0].sum(0, dtype=torch.float64)
        return total

    def _convert(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Stored rows as float32 near the origin, on the computing device; into ``out``."""
        if x.dtype == torch.float64 and self._shift is not None:
            x = x.to(self._device) - self._shift.double()
            return x.float() if out is None else out.copy_(x)
        if out is None:
            x = x.to(self._device, non_blocking=True).float()
            return x if self._shift is None else x - self._shift
        out.copy_(x)
        return out if self._shift is None else out.sub_(self._shift)

    def _double(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        """Stored rows as float64, never shifted or rounded; into ``out``."""
        stored = self._rows.take(rows).to(self._device)
        return stored.double() if out is None else out.copy_(stored)

    def _norms_of(self, x: Tensor) -> Tensor:
        norms = torch.cat(
            [squared_norms(part) for part in x.split(self.block_size)]
            or [torch.zeros(0, dtype=torch.float64, device=x.device)]
        )
        self._check_long(norms, 0)
        most = float(norms.max()) if len(norms) else math.inf
        most += 0.0 if self._shift is None else float(self._shift.double().square().sum())
        if most < _NORMS[0] and bool(self._rows.tensor().any()):
            raise InputError(
                f"{self._rows.name}: every row is shorter than {_NORMS[0] ** 0.5:.0e}, too short "
                "for distances in single precision; multiply all by one number"
            )
        return norms

    def _check_long(self, norms: Tensor, start: int) -> None:
        long = ~(norms < _NORMS[1])
        if bool(long.any()):
            raise InputError(
                f"{self._rows.name}: row {start + int(long.nonzero()[0])} is longer than "
                f"{_NORMS[1] ** 0.5:.0e}, too long for distances in single precision; divide all "
                "by one number, or drop the row"
            )

    def _far_from_origin(self) -> Tensor | None:
        """The mean of a few rows, if it is longer than their spread around it."""
        if len(self) == 0:
            return None
        count = max(64, min(4096, _SAMPLE_NUMBERS // self.widths[0]))
        step = -(-len(self) // count)
        sample = self._double(torch.arange(0, len(self), step))
        mean = sample.mean(0)
        spread = (sample - mean).square_().sum(1).mean()
        return mean.float() if mean.square().sum() > spread else None


class Cosine(Euclidean):
    """Rows scaled to length one; the squared distance is ``2 - 2 cos``.

    Args:
        x: (N, D), as for `Euclidean`.
        device: where to compute.

    Raises:
        InputError: a row of zeros, which has no direction; the message names it.

    >>> g = Cosine([[2.0, 0.0], [0.0, 5.0]])
    >>> g.exact(torch.tensor([0]), torch.tensor([1]))
    tensor([2.], dtype=torch.float64)
    """

    def _convert(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        unit = _unit(x.to(self._device))
        if self._shift is not None:
            unit = unit - self._shift.double()
        return unit.float() if out is None else out.copy_(unit)

    def _double(self, rows: Tensor, out: Tensor | None = None) -> Tensor:
        unit = _unit(self._rows.take(rows).to(self._device))
        return unit if out is None else out.copy_(unit)

    @property
    def directions(self) -> bool:
        """All points have length one."""
        return True

    def _check(self) -> None:
        super()._check()
        check_directions(self._rows)


def check_directions(rows: Rows) -> None:
    """Refuse a row of zeros, which has no direction.

    Raises:
        InputError: such a row; the message names it.
    """
    for start, block in rows.blocks():
        zero = (block == 0).all(1)
        if bool(zero.any()):
            raise InputError(
                f"{rows.name}: row {start + int(zero.nonzero()[0])} is all zeros and "
                "has no direction; drop it or use the Euclidean distance"
            )


def _unit(x: Tensor) -> Tensor:
    """Rows scaled to length one in float64; a zero row stays zero."""
    x, tiny = x.double(), torch.finfo(torch.float64).tiny
    length = x.norm(dim=1, keepdim=True)
    if not bool(((length > _LENGTHS[0]) & (length < _LENGTHS[1])).all()):
        x = x / x.abs().amax(1, keepdim=True).clamp_(min=tiny)  # else squares leave float64
        length = x.norm(dim=1, keepdim=True)
    return x / length.clamp_(min=tiny)
