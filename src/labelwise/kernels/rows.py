"""An array that is read by rows, wherever it lives: memory, a memory-mapped file, a device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError

BLOCK_BYTES = 16 << 20
"""Bytes of float32 that one block of rows holds: a few times the second-level cache."""


class Rows:
    """N rows of an array of any rank, read whole, in blocks or by row number.

    Nothing is copied or converted at construction, so a memory-mapped file may be larger than
    memory. Every reader returns a tensor of the array's own dtype, on the array's own device;
    treat it as read-only, it may be a view.

    Args:
        source: a torch tensor, a NumPy array or memmap, a path to a ``.npy`` file, another
            `Rows`, or anything ``numpy.asarray`` takes.
        name: what error messages call it.

    Raises:
        InputError: a path that is no readable ``.npy`` file, or an array of objects or strings.

    >>> Rows([[1.0, 2.0], [3.0, 4.0]]).take(torch.tensor([1]))
    tensor([[3., 4.]], dtype=torch.float64)
    """

    def __init__(self, source: Any, name: str = "array") -> None:
        self.name = name
        self._array: Tensor | NDArray[Any]
        if isinstance(source, Rows):
            self._array = source._array
        elif isinstance(source, Tensor):
            self._array = source.detach()
        else:
            self._array = _numpy(source, name)
        if self.ndim == 0:
            raise InputError(f"{name} must have at least one dimension, got a single number")

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape, rows first."""
        return tuple(self._array.shape)

    @property
    def ndim(self) -> int:
        """How many dimensions the array has."""
        return len(self._array.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that every reader returns."""
        if isinstance(self._array, Tensor):
            return self._array.dtype
        return torch.from_numpy(np.empty(0, self._array.dtype)).dtype

    @property
    def device(self) -> torch.device:
        """Where the array lives."""
        if isinstance(self._array, Tensor):
            return self._array.device
        return torch.device("cpu")

    @property
    def is_file(self) -> bool:
        """Whether the rows stay on disk and are read as they are asked for."""
        return isinstance(self._array, np.memmap)

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Rows({self.name}, shape={self.shape}, dtype={self.dtype}, device={self.device})"

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.take(rows)

    def take(self, rows: Tensor) -> Tensor:
        """A copy of some rows, in the order asked for. ``rows``: (n,) int64."""
        if isinstance(self._array, Tensor):
            return self._array[rows.to(self._array.device)]
        return torch.from_numpy(self._array[rows.cpu().numpy()])

    def block(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` (exclusive); a view where memory allows one."""
        part = self._array[start:stop]
        if isinstance(part, Tensor):
            return part
        return torch.from_numpy(part if part.flags.writeable else part.copy())

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """All rows in order, as pairs of the first row's number and a block of ``size`` rows."""
        step = size or self.block_size()
        for start in range(0, len(self), step):
            yield start, self.block(start, min(start + step, len(self)))

    def block_size(self) -> int:
        """Rows a block holds by default, about `BLOCK_BYTES` of float32."""
        width = int(np.prod(self.shape[1:], dtype=np.int64)) or 1
        return max(1, min(max(len(self), 1), BLOCK_BYTES // (4 * width)))

    def tensor(self) -> Tensor:
        """The whole array as one tensor; a view where memory allows one."""
        return self.block(0, len(self))


def _numpy(source: Any, name: str) -> NDArray[Any]:
    """The source as a NumPy array that torch can wrap, memory-mapped when it is a file."""
    if isinstance(source, str | Path):
        source = _open_npy(Path(source), name)
    if isinstance(source, np.memmap) and not source.flags.writeable and source.filename:
        source = _copy_on_write(source)
    array: NDArray[Any] = source if isinstance(source, np.ndarray) else np.asarray(source)
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must hold numbers, got an array of {array.dtype}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    return array


def _open_npy(path: Path, name: str) -> NDArray[Any]:
    if path.suffix != ".npy":
        raise InputError(f"{name} must be an array or a path to a .npy file, got {str(path)!r}")
    try:
        loaded: NDArray[Any] = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{name}: cannot read {str(path)!r} as a .npy file: {error}") from error
    return loaded


def _copy_on_write(array: np.memmap) -> NDArray[Any]:
    """A read-only memmap opened again so that torch may wrap its pages without a copy."""
    if isinstance(array.base, np.memmap) or not array.flags.c_contiguous:
        return np.asarray(array)  # a part of a file: its offset is not known, so blocks are copied
    shape = tuple(array.shape)
    return np.memmap(
        str(array.filename), dtype=array.dtype, mode="c", offset=array.offset, shape=shape
    )
