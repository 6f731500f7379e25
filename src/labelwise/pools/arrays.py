"""Pools of rows of an array: features somebody has already computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from labelwise.errors import DataError
from labelwise.kernels import Rows
from labelwise.pools.base import Kind, Pool

BLOCK_BYTES = 16 << 20


class ArrayPool(Pool):
    """Rows of an array under stable ids; ``items`` are NumPy arrays.

    Args:
        array: (N, ...) numbers; a memory-mapped file stays on disk.
        ids: (N,) distinct; None numbers the rows.

    Raises:
        DataError: an array of strings or objects, or of less than two dimensions.

    >>> ArrayPool(np.arange(6.0).reshape(3, 2)).subset([2]).array().tensor()
    tensor([[4., 5.]], dtype=torch.float64)
    """

    kind: ClassVar[Kind] = "array"

    def __init__(self, array: NDArray[Any], ids: Sequence[str] | None = None) -> None:
        if array.ndim < 2 or array.dtype.kind not in "biuf":
            raise DataError(
                "an array pool holds rows of numbers, (N, D) or of more dimensions, "
                f"got an array of {array.dtype} with shape {array.shape}; encode or reshape it"
            )
        super().__init__(len(array), ids)
        self._array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """The pool's shape, rows first."""
        return (len(self), *self._array.shape[1:])

    def array(self) -> Rows:
        """The pool's rows in order; a file stays on disk and is read as rows are asked for."""
        whole = Rows(self._array, "pool")
        if len(self) == len(self._array) and self._is_run():
            return whole
        return whole.subset(torch.from_numpy(self._rows))

    def items(self, rows: ArrayLike | None = None) -> list[NDArray[Any]]:
        """The rows asked for, each an array of its own."""
        return list(np.array(self._array[self._rows[self.check_rows(rows)]]))

    def unreadable(self) -> list[tuple[str, str]]:
        """Rows that hold NaN or an infinite number, as (id, reason)."""
        if self._array.dtype.kind != "f":
            return []
        bad = []
        for start, block in self._blocks():
            flat = block.reshape(len(block), -1)
            for row in np.flatnonzero(~np.isfinite(flat).all(axis=1)).tolist():
                place = int(np.flatnonzero(~np.isfinite(flat[row]))[0])
                bad.append((self.ids[start + row], f"value {place} is {flat[row, place]}"))
        return bad

    def _is_run(self) -> bool:
        return len(self) == 0 or bool((np.diff(self._rows) == 1).all())

    def _blocks(self) -> Iterator[tuple[int, NDArray[Any]]]:
        width = int(np.prod(self._array.shape[1:], dtype=np.int64)) * self._array.dtype.itemsize
        step = max(1, BLOCK_BYTES // max(width, 1))
        for start in range(0, len(self), step):
            yield start, np.asarray(self._array[self._rows[start : start + step]])

    def _contents(self) -> Iterator[bytes]:
        little = self._array.dtype.newbyteorder("<")
        yield f"{little.str}{self._array.shape[1:]}".encode()
        for _, block in self._blocks():
            yield np.ascontiguousarray(block.astype(little, copy=False)).tobytes()
