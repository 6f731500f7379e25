"""Rows of files: read with plain reads, checked as they are read.

A memory map of a file that is cut short under it kills the process, and one larger than memory
makes its reading everybody's trouble. Plain reads into buffers of our own do neither, are as
fast, and say what is wrong.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError, ResourceError

_SAFETENSORS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NUMPY = {
    np.dtype(kind).str[1:]: dtype
    for kind, dtype in {
        "f8": torch.float64,
        "f4": torch.float32,
        "f2": torch.float16,
        "i8": torch.int64,
        "i4": torch.int32,
        "i2": torch.int16,
        "i1": torch.int8,
        "u1": torch.uint8,
        "?": torch.bool,
    }.items()
}
_SEEKING = threading.Lock()
_DECODED_ROWS = 8192
_HEADER_LIMIT = 100 << 20


class FileRows:
    """A row-major array of numbers in a file.

    Args:
        path: what error messages call the file.
        handle: the open file.
        offset: the byte where the array starts.
        shape: of the array, rows first.
        dtype: of its numbers, in this machine's byte order.

    Raises:
        InputError: the file is shorter than the array.
    """

    is_file = True

    def __init__(
        self, path: str, handle: IO[bytes], offset: int, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        self.path, self.offset, self.shape, self.dtype = path, offset, shape, dtype
        self.device = torch.device("cpu")
        self._handle = handle
        self._close = weakref.finalize(self, handle.close)
        self._row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
        self._size = os.fstat(handle.fileno()).st_size
        need = offset + shape[0] * self._row_bytes if shape else offset
        if self._size < need:
            raise InputError(
                f"{path!r} is cut short: its header promises {need:,} bytes, it has {self._size:,}"
            )

    @staticmethod
    def of_memmap(array: np.memmap) -> FileRows | None:
        """The file behind a memory-mapped array, if all of the array lies there as it is.

        None for a view of part of a map, a private copy-on-write map, column order or a byte
        order or type that has to be converted.
        """
        dtype = _torch_dtype(array.dtype)
        whole = not isinstance(array.base, np.memmap) and array.flags.c_contiguous
        shared = array.mode in ("r", "r+", "w+") and array.filename is not None
        if dtype is None or not whole or not shared or array.ndim == 0:
            return None
        path = str(array.filename)
        try:
            handle = open(path, "rb")  # noqa: SIM115 - closed with the object
        except OSError:
            return None  # the file was unlinked: the map still holds it
        return FileRows(path, handle, array.offset, tuple(array.shape), dtype)

    def part(self, start: int, stop: int) -> FileRows:
        """Rows ``start`` to ``stop`` (exclusive) as rows of their own."""
        return self._at(start, (stop - start, *self.shape[1:]))

    def layers(self) -> list[FileRows]:
        """The arrays that lie along the first axis, each read by its own rows."""
        return [self._at(i, self.shape[1:]) for i in range(self.shape[0])]

    def _at(self, row: int, shape: tuple[int, ...]) -> FileRows:
        handle = os.fdopen(os.dup(self._handle.fileno()), "rb")
        return FileRows(self.path, handle, self.offset + row * self._row_bytes, shape, self.dtype)

    def empty(self, rows: int) -> Tensor:
        """A buffer for so many rows."""
        return torch.empty((rows, *self.shape[1:]), dtype=self.dtype)

    def block(self, start: int, stop: int, buffer: Tensor | None = None) -> Tensor:
        """Rows ``start`` to ``stop`` (exclusive), in ``buffer`` where one is given."""
        out = self.empty(stop - start) if buffer is None else buffer[: stop - start]
        self._read(start, out)
        return out

    def take(self, rows: Tensor) -> Tensor:
        """A copy of some rows, read in the order they lie in, runs of neighbors at once."""
        numbers = rows.cpu().numpy()
        order = np.argsort(numbers, kind="stable")
        lying = numbers[order]
        if len(lying) and (lying[0] < 0 or lying[-1] >= self.shape[0]):
            raise IndexError(f"row {lying[0] if lying[0] < 0 else lying[-1]} of {self.shape[0]}")
        found = self.empty(len(rows))
        cuts = np.flatnonzero(np.diff(lying) != 1) + 1
        for first, last in zip([0, *cuts.tolist()], [*cuts.tolist(), len(lying)]):
            if last > first:
                self._read(int(lying[first]), found[first:last])
        if bool((order[1:] > order[:-1]).all()):
            return found
        out = self.empty(len(rows))
        out[torch.from_numpy(order)] = found
        return out

    def _read(self, start: int, out: Tensor) -> None:
        if out.numel() == 0:
            return
        view = memoryview(out.view(torch.uint8).numpy()).cast("B")  # type: ignore[arg-type]
        at = self.offset + start * self._row_bytes
        while len(view):
            count = _read_at(self._handle, view, at)
            if count == 0:
                break
            view, at = view[count:], at + count
        size = os.fstat(self._handle.fileno()).st_size
        if len(view) or size != self._size:
            raise InputError(
                f"{self.path!r} changed while it was read: it had {self._size:,} bytes and has "
                f"{size:,}; leave the file alone and start again"
            )


def _read_at(handle: IO[bytes], view: memoryview, at: int) -> int:
    """Fill a buffer from one place of a file, as far as one read goes; how many bytes."""
    if hasattr(os, "preadv"):
        return os.preadv(handle.fileno(), [view], at)
    with _SEEKING:  # where a place cannot be read without moving there first
        handle.seek(at)
        return handle.readinto(view)  # type: ignore[attr-defined]


def open_rows(path: Path, name: str) -> FileRows:
    """Rows of a ``.npy``, ``.safetensors`` or ``.parquet`` file, read as they are asked for.

    Args:
        path: the file. Parquet is decoded once, into a temporary file that has no name and is
            gone with the object; its columns are numbers, one a column or one list of equal
            length a row.
        name: what error messages call the array; among several tensors in one ``.safetensors``
            file, the one wanted.

    Raises:
        InputError: a file that cannot be read, is cut short, or holds something else.
        ResourceError: no room to decode a Parquet file.
    """
    readers = {".npy": _npy, ".safetensors": _safetensors, ".parquet": _parquet}
    if path.suffix not in readers:
        raise InputError(
            f"{name} must be an array or a path to a {', '.join(readers)} file, got {str(path)!r}"
        )
    try:
        return readers[path.suffix](path, name)
    except (OSError, EOFError) as error:
        raise InputError(f"{name}: cannot read {str(path)!r}: {error}") from error


def _torch_dtype(dtype: np.dtype) -> torch.dtype | None:
    return _NUMPY.get(dtype.str[1:]) if dtype.isnative else None


def _npy(path: Path, name: str) -> FileRows:
    handle = path.open("rb")
    try:
        version = np.lib.format.read_magic(handle)
        read = np.lib.format.read_array_header_1_0
        if version != (1, 0):
            read = np.lib.format.read_array_header_2_0
        shape, fortran, found = read(handle)
    except ValueError as error:
        handle.close()
        raise InputError(f"{name}: cannot read {str(path)!r} as a .npy file: {error}") from error
    dtype = _torch_dtype(found)
    if found.hasobject or found.kind not in "biuf":
        handle.close()
        raise InputError(f"{name} must hold numbers, got an array of {found} in {str(path)!r}")
    if dtype is None or (fortran and len(shape) > 1):
        handle.close()
        return _rewritten(path, name)
    return FileRows(str(path), handle, handle.tell(), shape, dtype)


def _rewritten(path: Path, name: str) -> FileRows:
    """A .npy file stored column by column or in foreign numbers, row by row in our own."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise InputError(f"{name}: cannot read {str(path)!r} as a .npy file: {error}") from error
    kind = array.dtype.newbyteorder("=")
    if _torch_dtype(kind) is None:
        kind = np.dtype(np.int64 if kind.kind in "iu" else np.float64)
    starts = range(0, len(array), _DECODED_ROWS)
    parts = (np.ascontiguousarray(array[i : i + _DECODED_ROWS], kind) for i in starts)
    return _spilled(parts, path, name, array.shape, kind)


def _safetensors(path: Path, name: str) -> FileRows:
    """One tensor of the file: the header is JSON, the tensors lie row by row after it."""
    handle = path.open("rb")
    try:
        header, start = _header(handle, path, name)
        tensors = {key: about for key, about in header.items() if key != "__metadata__"}
        if len(tensors) != 1 and name not in tensors:
            raise InputError(
                f"{name}: {str(path)!r} holds {', '.join(sorted(tensors)) or 'nothing'}; one of "
                f"them must be named {name!r}, or be alone"
            )
        about = tensors[name] if name in tensors else next(iter(tensors.values()))
        dtype = _SAFETENSORS.get(about["dtype"])
        if dtype is None:
            raise InputError(f"{name} must hold numbers, got {about['dtype']} in {str(path)!r}")
        shape = tuple(int(length) for length in about["shape"])
        begin, end = (int(at) for at in about["data_offsets"])
        if min((begin, *shape)) < 0 or end - begin != dtype.itemsize * int(np.prod(shape)):
            raise InputError(f"{name}: the header of {str(path)!r} contradicts itself")
        return FileRows(str(path), handle, start + begin, shape, dtype)
    except (KeyError, TypeError, ValueError) as error:
        handle.close()
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: {str(path)!r} has a broken header: {error!r}") from error


def _header(handle: IO[bytes], path: Path, name: str) -> tuple[dict[str, Any], int]:
    first = handle.read(8)
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else _HEADER_LIMIT + 1
    if length > _HEADER_LIMIT:
        raise InputError(f"{name}: {str(path)!r} is no .safetensors file")
    header = json.loads(handle.read(length))
    if not isinstance(header, dict):
        raise InputError(f"{name}: {str(path)!r} has a broken header")
    return header, 8 + length


def _spilled(
    parts: Iterable[NDArray[Any]],
    path: Path,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype,
) -> FileRows:
    """Rows written, part by part, into a temporary file that has no name."""
    found = _torch_dtype(dtype)
    if found is None:
        raise InputError(f"{name} must hold numbers, got {dtype} in {str(path)!r}")
    try:
        with tempfile.TemporaryFile() as spill:
            for part in parts:
                spill.write(part.data)
            spill.flush()
            # The file lives on through a handle of its own, and is gone with that.
            handle = os.fdopen(os.dup(spill.fileno()), "rb")
    except OSError as error:
        raise ResourceError(
            f"{name}: no room to decode {str(path)!r} in {tempfile.gettempdir()!r}: {error}; set "
            "TMPDIR to a folder with more"
        ) from error
    return FileRows(str(path), handle, 0, shape, found)


def _parquet(path: Path, name: str) -> FileRows:
    """The file decoded, batch by batch, into an unnamed temporary one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as source:
            fields = list(source.schema_arrow)
            rows = source.metadata.num_rows
            first = next(source.iter_batches(batch_size=1), None)
            probe = np.zeros((0, 0)) if first is None else _decoded(first, 0, name, path, None)
            single = len(fields) == 1 and not _is_list(fields[0])
            shape = (rows,) if single else (rows, probe.shape[1])
            batches = source.iter_batches(batch_size=_DECODED_ROWS)
            parts = (
                np.ascontiguousarray(
                    _decoded(batch, i * _DECODED_ROWS, name, path, probe.shape[1]), probe.dtype
                )
                for i, batch in enumerate(batches)
            )
            return _spilled(parts, path, name, shape, probe.dtype)
    except pa.ArrowException as error:
        raise InputError(f"{name}: cannot read {str(path)!r} as Parquet: {error}") from error


def _is_list(field: Any) -> bool:
    import pyarrow as pa

    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(kind(field.type) for kind in kinds)


def _decoded(batch: Any, first: int, name: str, path: Path, width: int | None) -> NDArray[Any]:
    """A batch, from row ``first`` on, as (b, width) numbers; a hole in a row is refused."""
    columns = []
    for field, column in zip(batch.schema, batch.columns):
        where = f"column {field.name!r} of {str(path)!r}"
        if column.null_count:
            row = first + int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{name}: {where} is empty in row {row}")
        if _is_list(field):
            lengths = np.asarray(column.value_lengths(), dtype=np.int64)
            if (lengths != lengths[:1]).any():
                row = first + int(np.flatnonzero(lengths != lengths[0])[0])
                raise InputError(f"{name}: the list in row {row} of {where} has another length")
            if column.flatten().null_count:
                raise InputError(f"{name}: a list of {where} has an empty entry")
            values = column.flatten().to_numpy(zero_copy_only=False)
            columns.append(values.reshape(len(column), -1))
        else:
            columns.append(column.to_numpy(zero_copy_only=False)[:, None])
        if columns[-1].dtype.kind not in "biuf":
            raise InputError(f"{name}: {where} must hold numbers")
    found = np.concatenate(columns, axis=1) if columns else np.zeros((batch.num_rows, 0))
    if width is not None and found.shape[1] != width:
        raise InputError(f"{name}: the list in row {first} of {str(path)!r} has another length")
    return found
