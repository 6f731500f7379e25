"""Gradients of the last layer's loss as points, never built.

Source: Ash, Zhang, Krishnamurthy, Langford & Agarwal, "Deep Batch Active Learning by Diverse,
Uncertain Gradient Lower Bounds", ICLR 2020 (the embedding).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.geometry import HOLD_BYTES, Geometry, Points, squared_norms
from labelwise.kernels.rows import Rows, in_order

LONGEST = 3e18
"""Gradients are shorter than this: squares of longer ones are infinite in single precision."""


class GradientEmbedding(Geometry):
    """The gradient of cross-entropy with respect to a linear head, at the predicted label.

    Point i is the outer product of a_i = p_i - onehot(argmax p_i), of C numbers, and the
    embedding h_i, of D. Inner products are (a_i . a_j)(h_i . h_j): C + D numbers a point are
    held, never C x D.

    Args:
        probs: (N, C) class distributions.
        embeddings: (N, D) input of the head.
        bias: whether the head's bias counts: then h_i is followed by a 1.
        labels: (N,) int64 classes to take the gradient at instead of the predicted ones.
        device: where to compute; where ``embeddings`` are by default.
        hold: bytes that a converted copy of both may take; a larger one is not made.

    Raises:
        InputError: not two matrices of the same length, or a gradient over 3e18.

    >>> g = GradientEmbedding([[0.5, 0.5], [1.0, 0.0]], [[2.0, 0.0], [3.0, 1.0]])
    >>> g.squared_norms()
    tensor([2., 0.], dtype=torch.float64)
    """

    def __init__(
        self,
        probs: Any,
        embeddings: Any,
        bias: bool = False,
        labels: Tensor | None = None,
        device: torch.device | str | None = None,
        hold: int = HOLD_BYTES,
    ) -> None:
        self._probs = probs if isinstance(probs, Rows) else Rows(probs, "probs")
        self._embeddings = (
            embeddings if isinstance(embeddings, Rows) else Rows(embeddings, "embeddings")
        )
        p, h = self._probs.shape, self._embeddings.shape
        if len(p) != 2 or len(h) != 2 or p[0] != h[0]:
            raise InputError(
                f"probs and embeddings must be (N, C) and (N, D) with the same N, got {p} and {h}"
            )
        self._device = torch.device(device) if device is not None else self._embeddings.device
        self.block_bytes = min(self.block_bytes, self._embeddings.block_bytes // 2)
        self._bias = bias
        self._labels = labels
        self.widths = (p[1], h[1] + bias)
        self._held: Points | None = None
        if len(self) * sum(self.widths) * 4 <= hold or self._is_plain(hold):
            self._held = self._gather(torch.arange(len(self)), whole=True)
        self._norms: Tensor | None = None
        if self._held is not None:
            self._norms = self._checked(self._held.norms)

    def _is_plain(self, hold: int) -> bool:
        h = self._embeddings
        return (
            not self._bias
            and h.dtype == torch.float32
            and h.device == self._device
            and not h.is_file
            and len(self) * self.widths[0] * 4 <= hold
        )

    def __len__(self) -> int:
        return len(self._probs)

    @property
    def device(self) -> torch.device:
        """Where products are computed."""
        return self._device

    def block(self, start: int, stop: int) -> Points:
        """Points ``start`` to ``stop`` (exclusive)."""
        if self._held is not None:
            return self._held[start:stop]
        return self._points(
            self._residuals(self._probs.block(start, stop), slice(start, stop)),
            self._with_bias(self._embeddings.block(start, stop)),
        )

    def blocks(self) -> Iterator[tuple[int, Points]]:
        """All points in order, as pairs of the first row's number and a block.

        A block is good until the next one is asked for: converted rows share one buffer.
        """
        if self._held is not None:
            yield from super().blocks()
            return
        step = self.block_size
        buffer = torch.ones(step, self.widths[1], device=self._device)
        streams = zip(self._probs.blocks(step), self._embeddings.blocks(step))
        for (start, p), (_, stored) in streams:
            stop = start + len(stored)
            h = buffer[: len(stored)]
            h[:, : self._embeddings.shape[1]].copy_(stored)
            a = self._residuals(p, slice(start, stop))
            if self._norms is None:
                yield start, self._points(a, h)
            else:
                yield start, Points((a, h), self._norms[start:stop])

    def take(self, rows: Tensor) -> Points:
        """A copy of the points in ``rows``."""
        if self._held is not None:
            return self._held[rows.to(self._device)]
        return self._gather(rows)

    def points(self, *arrays: Any) -> Points:
        """Points from other ``probs`` (n, C), ``embeddings`` (n, D) and perhaps labels (n,).

        Without labels the gradient is taken at the predicted class, whatever the rows' own are
        taken at.
        """
        if len(arrays) not in (2, 3):
            raise InputError(f"points are made of probs, embeddings and labels, got {len(arrays)}")
        labels = torch.as_tensor(arrays[2], dtype=torch.int64) if len(arrays) == 3 else None
        other = GradientEmbedding(arrays[0], arrays[1], self._bias, labels, self._device)
        if other.widths != self.widths:
            raise InputError(f"points must have widths {self.widths}, got {other.widths}")
        return other.take(torch.arange(len(other)))

    def squared_norms(self) -> Tensor:
        """(N,) float64; computed once."""
        if self._norms is None:
            self._norms = self._checked(super().squared_norms())
        return self._norms

    def _checked(self, norms: Tensor) -> Tensor:
        """Norms, none so large that products of two rows would be infinite."""
        long = ~(norms < LONGEST**2)
        if bool(long.any()):
            raise InputError(
                f"{self._embeddings.name}: the gradient of row {int(long.nonzero()[0])} is longer "
                f"than {LONGEST:.0e}, too long for distances in single precision; divide all by "
                "one number, or drop the row"
            )
        return norms

    def exact(self, rows: Tensor, others: Tensor) -> Tensor:
        """Squared distances of pairs of rows, (P,) float64, from differences of the factors.

        With da and dh the differences of the factors, the squared distance is
        ``|da|^2 |h_i|^2 + |a_j|^2 |dh|^2 + 2 (da . a_j)(h_i . dh)``.
        """
        step = max(1, (32 << 20) // (8 * sum(self.widths)))
        pairs = zip(rows.split(step), others.split(step))
        parts = (self.apart(self._double(x), self._double(y)) for x, y in pairs)
        return in_order(parts, len(rows))

    def apart(self, some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> Tensor:
        """Squared distances of P pairs of gradients in float64, (P,); see `exact`."""
        (a, h), (b, k) = some, others
        da, dh = a - b, h - k
        near = da.square().sum(1) * h.square().sum(1)
        far = b.square().sum(1) * dh.square().sum(1)
        cross = 2 * (da * b).sum(1) * (h * dh).sum(1)
        return (near + far + cross).clamp_(min=0)

    def rounded(self, factors: tuple[Tensor, ...]) -> Points:
        """Residuals and embeddings in float64 as points."""
        a, h = (factor.to(self._device).float() for factor in factors)
        return self._points(a, h)

    def double(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Residuals and embeddings of some rows in float64, never rounded."""
        return self._double(rows)

    def true_norms(self, rows: Tensor) -> Tensor:
        """Squared norms, (n,) float64."""
        step = max(1, (4 << 20) // (8 * sum(self.widths)))
        factors = (self._double(part) for part in rows.split(step))
        return in_order((a.square().sum(1) * h.square().sum(1) for a, h in factors), len(rows))

    def to_mean(self, rows: Tensor) -> Tensor:
        """Squared distances to the mean gradient, less its squared norm, (n,) float64."""
        return self.from_mean(rows, self.total() / len(self))

    def total(self) -> Tensor:
        """The sum of all gradients, (C, D) float64."""
        total = torch.zeros(self.widths, dtype=torch.float64, device=self._device)
        for _, points in self.blocks():
            a, h = points.factors
            total += a.double().T @ h.double()
        return total

    def from_mean(self, rows: Tensor, mean: Tensor) -> Tensor:
        """Squared distances to a mean gradient, less its squared norm, (n,) float64."""

        def away(part: Tensor) -> Tensor:
            a, h = self._double(part)
            norms = a.square().sum(1) * h.square().sum(1)
            return norms - 2 * ((a @ mean) * h).sum(1)

        return in_order(map(away, rows.split(self.block_size)), len(rows))

    def _gather(self, rows: Tensor, whole: bool = False) -> Points:
        if whole:
            p, h = self._probs.tensor(), self._embeddings.tensor()
        else:
            p, h = self._probs.take(rows), self._embeddings.take(rows)
        return self._points(self._residuals(p, rows), self._with_bias(h))

    def _points(self, a: Tensor, h: Tensor) -> Points:
        step = self.block_size
        pairs = zip(a.split(step), h.split(step))
        return Points(
            (a, h), in_order((squared_norms(x) * squared_norms(y) for x, y in pairs), len(a))
        )

    def _residuals(
        self, p: Tensor, rows: Tensor | slice, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """p - onehot(label), (n, C); the label is that of the largest probability."""
        p = p.to(self._device)
        residual = p.to(dtype, copy=True)
        label = p.argmax(1) if self._labels is None else self._labels[rows].to(self._device)
        at = label[:, None]
        # Subtracted before it is rounded: of a row as sure as 1 - 1e-9 single precision has only
        # the 1, and the gradient would point elsewhere.
        exact = p.gather(1, at).to(torch.promote_types(p.dtype, dtype)) - 1
        return residual.scatter_(1, at, exact.to(dtype))

    def _with_bias(self, h: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        h = h.to(self._device).to(dtype)
        if not self._bias:
            return h.contiguous()
        return torch.cat([h, torch.ones(len(h), 1, dtype=dtype, device=h.device)], 1)

    def _double(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        a = self._residuals(self._probs.take(rows), rows, torch.float64)
        return a, self._with_bias(self._embeddings.take(rows), torch.float64)
