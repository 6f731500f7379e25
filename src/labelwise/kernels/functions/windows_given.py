"""Clipped sums of similarities that are in memory: a matrix, or the entries of a sparse one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.functions.windows import Windows, clipped_down, part_of
from labelwise.kernels.functions.windows_computed import ComputedWindows
from labelwise.kernels.geometry import Points

_NUMBERS = 1 << 18
_ENTRIES = 1 << 22


class HeldWindows(Windows):
    """Similarities kept as a matrix: given, or computed once because there is room.

    Args:
        matrix: (M, N) of any float type, represented rows first.
        symmetric: whether it is its own transpose, so that columns are read as rows.
        device: where sums are computed; where the matrix is by default.
    """

    partial = False

    def __init__(
        self, matrix: Tensor, symmetric: bool = False, device: torch.device | None = None
    ) -> None:
        # A given symmetric matrix may come transposed: by rows is how it lies in memory.
        self._matrix = matrix if not symmetric or matrix.is_contiguous() else matrix.T
        self._symmetric = symmetric
        self._own_bytes = 0
        self.represented, self.elements = matrix.shape
        self._device = device or matrix.device

    @classmethod
    def of(cls, computed: ComputedWindows) -> HeldWindows:
        """All similarities, computed and kept in float32."""
        shape = computed.represented, computed.elements
        matrix = torch.empty(shape, dtype=torch.float32, device=computed.device)
        if computed.pool:
            for left, right, found in computed.halves():
                matrix[left, right] = found
                if right.stop <= left.start:
                    matrix[right, left] = found.T
        else:
            for start in range(0, computed.elements, 512):
                rows = torch.arange(start, min(start + 512, computed.elements))
                matrix[:, start : start + len(rows)] = computed.columns(rows).T
        held = cls(matrix, computed.pool)
        held._own_bytes = 4 * matrix.numel()
        return held

    @property
    def device(self) -> torch.device:
        """Where sums are computed."""
        return self._device

    def columns(self, rows: Tensor) -> Tensor:
        """Similarities of some elements to all represented rows, (len(rows), M) float32."""
        rows = rows.to(self._matrix.device)
        found = self._matrix[rows] if self._symmetric else self._matrix[:, rows].T
        return found.to(self.device, torch.float32).contiguous()

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
        total = torch.zeros(self.elements, dtype=torch.float64, device=self.device)
        step = max(1, _NUMBERS // self.elements)
        for start in range(0, len(low), step):
            part = slice(start, start + step)
            found = self._matrix[part] if rows is None else self._matrix[rows[part]]
            found = found.to(self.device, torch.float32)
            total += clipped_down(found, *part_of(part, low, high, weights), keep=rows is None)
        return total if elements is None else total[elements.to(self.device)]

    def extent(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sum, smallest and largest of each represented row's similarities, (M,) float64 each."""
        found = [
            (part.sum(1, dtype=torch.float64), part.amin(1).double(), part.amax(1).double())
            for part in self._matrix.split(max(1, _NUMBERS // self.elements))
        ]
        total, least, most = (torch.cat(parts).to(self.device) for parts in zip(*found))
        return total, least, most

    def bytes_needed(self) -> int:
        """About how many bytes the sums take, and the matrix unless it was given."""
        return self._own_bytes + 16 * max(_NUMBERS, self.elements)


class SparseWindows(Windows):
    """Similarities of which few are not zero; windows must lie at or above zero.

    Args:
        matrix: (M, N) ``scipy.sparse.csr_array``, float32, represented rows first.
    """

    partial = False

    def __init__(self, matrix: Any) -> None:
        self._matrix = matrix
        self._by_element = matrix.tocsc()
        self.represented, self.elements = matrix.shape

    @property
    def device(self) -> torch.device:
        """Sparse matrices are worked with on the CPU."""
        return torch.device("cpu")

    def columns(self, rows: Tensor) -> Tensor:
        """Similarities of some elements to all represented rows, (len(rows), M) float32."""
        found = self._by_element[:, rows.numpy()].T.toarray()
        return torch.from_numpy(np.ascontiguousarray(found))

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
        if len(low) and float(low.min()) < 0:
            raise InputError(
                "sparse similarities take what is missing for 0, so a row's floor must be >= 0, "
                f"got {float(low.min()):.3g}"
            )
        total = np.zeros(self.elements)
        step = max(1, _ENTRIES * self.represented // max(1, self._matrix.nnz))
        for start in range(0, len(low), step):
            part = slice(start, start + step)
            some = self._matrix[part] if rows is None else self._matrix[rows[part].numpy()]
            of = np.repeat(np.arange(some.shape[0]), np.diff(some.indptr))
            floor = low[part].numpy()[of]
            found = np.clip(some.data, floor, high[part].numpy()[of]).astype(np.float64) - floor
            if weights is not None:
                found *= weights[part].numpy()[of]
            total += np.bincount(some.indices, found, minlength=self.elements)
        sums = torch.from_numpy(total)
        return sums if elements is None else sums[elements]

    def extent(self) -> tuple[Tensor, Tensor, Tensor]:
        """Sum, smallest and largest of each represented row's similarities, (M,) float64 each."""
        total = self._matrix.sum(axis=1, dtype=np.float64)
        least, most = (getattr(self._matrix, name)(axis=1).toarray() for name in ("min", "max"))
        return (
            torch.from_numpy(np.asarray(total).reshape(-1)),
            torch.from_numpy(least.reshape(-1).astype(np.float64)),
            torch.from_numpy(most.reshape(-1).astype(np.float64)),
        )

    def bytes_needed(self) -> int:
        """About how many bytes the sums take, and the matrix sorted by element."""
        return 12 * int(self._matrix.nnz) + 48 * min(_ENTRIES, int(self._matrix.nnz))
