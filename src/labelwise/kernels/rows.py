"""An array that is read by rows, wherever it lives: memory, a file, a device, or nowhere yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.files import FileRows, open_rows

BLOCK_BYTES = 16 << 20
"""Bytes of float32 that one block of rows holds: a few times the second-level cache."""


class Source(Protocol):
    """Where rows come from."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    is_file: bool

    def take(self, rows: Tensor) -> Tensor:
        """Some rows, a copy."""

    def block(self, start: int, stop: int, buffer: Tensor | None = None) -> Tensor:
        """A stretch of rows: a view, or read into ``buffer`` where one is given and of use."""


class Rows:
    """N rows of an array of any rank, read whole, in blocks or by row number.

    Nothing is copied or converted at construction, so a file may be larger than memory. Every
    reader returns a tensor of the array's own dtype, on the array's own device; treat it as
    read-only, it may be a view.

    Args:
        source: a torch tensor, a NumPy array or memmap, a path to a ``.npy``, ``.safetensors``
            or ``.parquet`` file, another `Rows`, or anything ``numpy.asarray`` takes.
        name: what error messages call it; of several tensors in one ``.safetensors`` file the
            one of this name is read.
        block_bytes: bytes of float32 that a block holds; those of the `Rows` it is made from,
            or `BLOCK_BYTES`.

    Raises:
        InputError: a path that cannot be read, or an array of objects or strings.

    >>> Rows([[1.0, 2.0], [3.0, 4.0]]).take(torch.tensor([1]))
    tensor([[3., 4.]], dtype=torch.float64)
    """

    def __init__(self, source: Any, name: str = "array", block_bytes: int | None = None) -> None:
        self.name = name
        self._block_bytes = block_bytes
        self._source: Source
        if isinstance(source, Rows):
            self._source = source._source
            self._block_bytes = block_bytes or source._block_bytes
        elif isinstance(source, FileRows | _Derived | _Selected | _Swapped):
            self._source = source
        elif isinstance(source, Tensor):
            self._source = _Array(source.detach())
        else:
            self._source = _source(source, name)
        if self.ndim == 0:
            raise InputError(f"{name} must have at least one dimension, got a single number")

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape, rows first."""
        return self._source.shape

    @property
    def ndim(self) -> int:
        """How many dimensions the array has."""
        return len(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that every reader returns."""
        return self._source.dtype

    @property
    def device(self) -> torch.device:
        """Where the array lives."""
        return self._source.device

    @property
    def is_file(self) -> bool:
        """Whether the rows are read or computed as they are asked for, never held whole."""
        return self._source.is_file

    @property
    def block_bytes(self) -> int:
        """Bytes of float32 that a block holds by default."""
        return self._block_bytes or BLOCK_BYTES

    @property
    def stored_bytes(self) -> int:
        """Bytes that a row takes where it is stored; of computed rows, what they come from."""
        if isinstance(self._source, _Derived):
            return self._source.rows.stored_bytes
        return int(np.prod(self.shape[1:], dtype=np.int64)) * self.dtype.itemsize

    @property
    def file(self) -> FileRows | None:
        """The file that the rows are read from, if it is one."""
        return self._source if isinstance(self._source, FileRows) else None

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Rows({self.name}, shape={self.shape}, dtype={self.dtype}, device={self.device})"

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.take(rows)

    def take(self, rows: Tensor) -> Tensor:
        """A copy of some rows, in the order asked for. ``rows``: (n,) int64."""
        return self._source.take(rows)

    def block(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` (exclusive); a view where memory allows one."""
        return self._source.block(start, stop)

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """All rows in order, as pairs of the first row's number and a block of ``size`` rows.

        A block is good until the next one is asked for: rows of a file are read ahead, by a
        thread of their own, into two buffers that take turns.
        """
        step = size or self.block_size()
        spans = [(i, min(i + step, len(self))) for i in range(0, len(self), step)]
        if isinstance(self._source, _Derived):
            for start, part in self._source.rows.blocks(step):
                yield start, self._source.function(part)
            return
        if isinstance(self._source, FileRows) and len(spans) > 1:
            yield from _read_ahead(self._source, spans)
            return
        for start, stop in spans:
            yield start, self.block(start, stop)

    def block_size(self) -> int:
        """Rows a block holds by default: `block_bytes` of float32."""
        width = int(np.prod(self.shape[1:], dtype=np.int64)) or 1
        return max(1, min(max(len(self), 1), self.block_bytes // (4 * width)))

    def tensor(self) -> Tensor:
        """The whole array as one tensor; a view where memory allows one."""
        return self.block(0, len(self))

    def map(self, function: Callable[[Tensor], Tensor], name: str) -> Rows:
        """Rows computed from these, block by block, each time they are asked for.

        Args:
            function: from a (b, ...) tensor of rows to a (b, ...) tensor, each row by itself.
            name: what error messages call the result.

        >>> Rows([[1.0], [2.0]]).map(lambda x: x * 10, "tens").take(torch.tensor([1]))
        tensor([[20.]], dtype=torch.float64)
        """
        return Rows(_Derived(self, function), name, self._block_bytes)

    def subset(self, rows: Tensor) -> Rows:
        """Some of the rows, renumbered from 0; of a file they are read when asked for.

        >>> Rows([[1.0], [2.0], [3.0]]).subset(torch.tensor([2, 0])).tensor()
        tensor([[3.],
                [1.]], dtype=torch.float64)
        """
        run = len(rows) > 0 and bool((rows[1:] - rows[:-1] == 1).all())
        if isinstance(self._source, FileRows) and run:
            return Rows(self._source.part(int(rows[0]), int(rows[-1]) + 1), self.name)
        if run and not self.is_file:
            return Rows(self.block(int(rows[0]), int(rows[-1]) + 1), self.name, self._block_bytes)
        if self.is_file:
            return Rows(_Selected(self, rows), self.name, self._block_bytes)
        return Rows(self.take(rows), self.name, self._block_bytes)

    def swapped(self) -> Rows:
        """The first two axes swapped: an (S, N, ...) array as N rows of (S, ...).

        >>> Rows([[1.0, 2.0], [3.0, 4.0]]).swapped().take(torch.tensor([1]))
        tensor([[2., 4.]], dtype=torch.float64)
        """
        if isinstance(self._source, FileRows):
            return Rows(_Swapped(self._source), self.name, self._block_bytes)
        return Rows(self.tensor().transpose(0, 1), self.name, self._block_bytes)


def per_row(
    blocks: Iterator[tuple[int, Any]], size: int, function: Callable[[Any], Tensor]
) -> Tensor:
    """A result for every row, block by block, in a tensor made beforehand.

    Small results kept between the large temporaries of blocks would leave holes in the heap that
    the next temporary does not fit into, and gigabytes of them in a long pass.

    Args:
        blocks: all rows in order, as (first row, block).
        size: N. function: from a block of b rows to a (b, ...) tensor.

    >>> per_row(Rows([[1.0], [2.0], [3.0]]).blocks(2), 3, lambda block: block[:, 0] * 2)
    tensor([2., 4., 6.], dtype=torch.float64)
    """
    return in_order((function(block) for _, block in blocks), size)


def in_order(parts: Iterable[Tensor], size: int) -> Tensor:
    """Results that come one after another, in a tensor made beforehand; see `per_row`.

    Args:
        parts: (b, ...) tensors with size rows in all.
        size: N.

    >>> in_order((torch.full((2,), float(i)) for i in range(2)), 4)
    tensor([0., 0., 1., 1.])
    """
    out: Tensor | None = None
    start = 0
    for found in parts:
        if out is None:
            out = found.new_empty((size, *found.shape[1:]))
        out[start : start + len(found)] = found
        start += len(found)
    return torch.zeros(size, dtype=torch.float64) if out is None else out


class _Array:
    """Rows of an array in memory, on any device, or of a memory-mapped one."""

    is_file = False

    def __init__(self, array: Tensor | NDArray[Any]) -> None:
        self._array = array
        self.shape = tuple(array.shape)
        if isinstance(array, Tensor):
            self.dtype, self.device = array.dtype, array.device
        else:
            self.is_file = isinstance(array, np.memmap)
            self.dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
            self.device = torch.device("cpu")

    def take(self, rows: Tensor) -> Tensor:
        if isinstance(self._array, Tensor):
            return self._array[rows.to(self.device)]
        return torch.from_numpy(self._array[rows.cpu().numpy()])

    def block(self, start: int, stop: int, buffer: Tensor | None = None) -> Tensor:
        part = self._array[start:stop]
        if isinstance(part, Tensor):
            return part
        return torch.from_numpy(part if part.flags.writeable else part.copy())


class _Derived:
    """Rows computed from other rows."""

    is_file = True

    def __init__(self, rows: Rows, function: Callable[[Tensor], Tensor]) -> None:
        self.rows, self.function = rows, function
        probe = function(rows.block(0, min(1, len(rows))))
        self.shape = (len(rows), *probe.shape[1:])
        self.dtype, self.device = probe.dtype, probe.device

    def take(self, rows: Tensor) -> Tensor:
        return self.function(self.rows.take(rows))

    def block(self, start: int, stop: int, buffer: Tensor | None = None) -> Tensor:
        return self.function(self.rows.block(start, stop))


class _Selected:
    """Some rows of others, read when asked for."""

    is_file = True

    def __init__(self, rows: Rows, which: Tensor) -> None:
        self._rows, self._which = rows, which
        self.shape = (len(which), *rows.shape[1:])
        self.dtype, self.device = rows.dtype, rows.device

    def take(self, rows: Tensor) -> Tensor:
        return self._rows.take(self._which[rows])

    def block(self, start: int, stop: int, buffer: Tensor | None = None) -> Tensor:
        return self._rows.take(self._which[start:stop])


class _Swapped:
    """N rows of (S, ...) numbers out of a file of S arrays of N rows each."""

    is_file = True

    def __init__(self, file: FileRows) -> None:
        self._layers = file.layers()
        self.shape = (file.shape[1], file.shape[0], *file.shape[2:])
        self.dtype, self.device = file.dtype, file.device

    def take(self, rows: Tensor) -> Tensor:
        return torch.stack([layer.take(rows) for layer in self._layers], 1)

    def block(self, start: int, stop: int, buffer: Tensor | None = None) -> Tensor:
        return torch.stack([layer.block(start, stop) for layer in self._layers], 1)


def _read_ahead(file: FileRows, spans: list[tuple[int, int]]) -> Iterator[tuple[int, Tensor]]:
    """Blocks of a file, the next one being read while the last one is worked on."""
    buffers = [file.empty(max(stop - start for start, stop in spans)) for _ in range(2)]
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        coming = reader.submit(file.block, *spans[0], buffers[0])
        for i, (start, _) in enumerate(spans):
            ready = coming.result()
            if i + 1 < len(spans):
                coming = reader.submit(file.block, *spans[i + 1], buffers[(i + 1) % 2])
            yield start, ready


def _source(source: Any, name: str) -> Source:
    """What can be read by rows, made of a path or of anything NumPy takes."""
    if isinstance(source, str | Path):
        return open_rows(Path(source), name)
    if isinstance(source, np.memmap):
        return FileRows.of_memmap(source) or _Array(_wrappable(source, name))
    return _Array(_wrappable(np.asarray(source), name))


def _wrappable(array: NDArray[Any], name: str) -> NDArray[Any]:
    """The array, or a copy of it that torch can wrap."""
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} must hold numbers, got an array of {array.dtype}")
    if array.dtype.itemsize > 8:
        raise InputError(f"{name} must be of 64 bits at most, got an array of {array.dtype}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = np.ascontiguousarray(array)
    return array
