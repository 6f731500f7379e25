"""Where the rows of a shard come from: a stretch of a file that it reads itself, or an array."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.files import FileRows
from labelwise.kernels.rows import Rows

_DECODED = "is not stored row by row in this machine's numbers; save it as a C-ordered .npy"


@dataclass(frozen=True)
class Stretch:
    """A stretch of rows of a file, to be opened where they are read.

    Attributes:
        path: the file, visible under this name wherever a shard may run.
        offset: the byte where the stretch starts.
        shape: of the stretch, rows first.
        dtype: of its numbers.
    """

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: torch.dtype


Source = Stretch | NDArray[Any]


@dataclass(frozen=True)
class Column:
    """One array of the pool, cut into pieces that lie one after the other.

    Attributes:
        name: what error messages call it.
        pieces: files or arrays, each of some rows.
    """

    name: str
    pieces: tuple[Rows, ...]

    @property
    def edges(self) -> list[int]:
        """Where a piece ends: cumulative numbers of rows, from 0 to N."""
        return [0, *np.cumsum([len(piece) for piece in self.pieces]).tolist()]

    def part(self, start: int, stop: int) -> Source:
        """Rows ``start`` to ``stop`` (exclusive), all of them in one piece."""
        edges = self.edges
        which = int(np.searchsorted(edges, start, side="right")) - 1
        rows, first = self.pieces[which], start - edges[which]
        last = first + stop - start
        file = rows.file
        if file is None:
            return rows.block(first, last).cpu().numpy()
        width = int(np.prod(file.shape[1:], dtype=np.int64)) * file.dtype.itemsize
        shape = (stop - start, *file.shape[1:])
        return Stretch(
            str(Path(file.path).absolute()), file.offset + first * width, shape, file.dtype
        )


def as_rows(name: str, source: Any) -> Rows:
    """What the user passed, as rows."""
    return source if isinstance(source, Rows) else Rows(source, name)


def column(name: str, source: Any) -> Column:
    """An array of the pool from what the user passed.

    Args:
        name: what error messages call it.
        source: anything `Rows` reads; or a list of paths, one after the other.

    Raises:
        InputError: files of different widths or types, or one that has to be decoded first.
    """
    listed = isinstance(source, Sequence) and source and isinstance(source[0], str | Path)
    given = source if listed and not isinstance(source, str) else [source]
    pieces = tuple(as_rows(name, piece) for piece in given)
    for piece in pieces:
        file = piece.file
        if file is None and piece.is_file:
            raise InputError(f"{name} {_DECODED} file for shards")
        if file is not None and _spilled(file):
            raise InputError(f"{name}: {file.path!r} {_DECODED} file for shards")
        if (piece.shape[1:], piece.dtype) != (pieces[0].shape[1:], pieces[0].dtype):
            raise InputError(
                f"{name}: files must be of one width and type, got {pieces[0].shape[1:]} of "
                f"{pieces[0].dtype} and {piece.shape[1:]} of {piece.dtype}"
            )
    return Column(name, pieces)


def _spilled(file: FileRows) -> bool:
    """Whether the rows were decoded into a file that has no name."""
    suffix = Path(file.path).suffix
    return suffix == ".parquet" or (suffix == ".npy" and file.offset == 0)


def open_part(source: Source, name: str, start: int) -> Rows:
    """The rows of a shard.

    Args:
        source: a stretch of a file, or the rows themselves.
        name: what error messages call the array.
        start: the number of the first row in the pool.

    Raises:
        InputError: the file cannot be read here, or is cut short.
    """
    name = f"{name} from row {start:,} on" if start else name
    if not isinstance(source, Stretch):
        return Rows(source, name)
    try:
        handle = open(source.path, "rb")  # noqa: SIM115 - closed with the rows
    except OSError as error:
        raise InputError(
            f"{name}: a shard cannot read {source.path!r}: {error.strerror}; put it where every "
            "machine sees it under that name, or pass the array"
        ) from error
    return Rows(FileRows(source.path, handle, source.offset, source.shape, source.dtype), name)


def cut(columns: Sequence[Column], shards: int) -> list[int]:
    """Where shards begin and end: ascending row numbers, from 0 to N.

    Every shard is of one piece of each column, so there are at least as many as files.

    Raises:
        InputError: columns of different lengths, files that end at different rows, no rows.
    """
    sizes = {column.edges[-1] for column in columns}
    size = columns[0].edges[-1]
    if len(sizes) > 1 or size == 0:
        found = ", ".join(f"{column.name} {column.edges[-1]}" for column in columns)
        raise InputError(f"a pool needs one number of rows, at least 1, in all arrays; got {found}")
    if not shards >= 1:
        raise InputError(f"shards must be >= 1, got {shards}")
    edges = sorted({edge for column in columns for edge in column.edges})
    lengths = np.diff(edges)
    pieces = np.ones(len(lengths), dtype=np.int64)
    for _ in range(min(shards, size) - len(lengths)):
        pieces[(lengths / pieces).argmax()] += 1  # the longest stretches are cut first
    cuts = [0]
    for start, length, count in zip(edges, lengths.tolist(), pieces.tolist()):
        cuts += [start + length * (i + 1) // count for i in range(count)]
    return cuts


def narrow(factor: Tensor) -> NDArray[Any]:
    """Numbers in the shortest float that holds every one of them exactly: what travels.

    >>> narrow(torch.tensor([0.5, 3.0], dtype=torch.float64)).dtype
    dtype('float16')
    """
    for dtype in (torch.float16, torch.float32):
        short = factor.to(dtype)
        if torch.equal(short.to(factor.dtype), factor):
            return short.cpu().numpy()
    return factor.cpu().numpy()


def widen(factors: Sequence[NDArray[Any]], device: torch.device) -> tuple[Tensor, ...]:
    """What `narrow` made of some factors, in float64 again."""
    return tuple(torch.tensor(factor, device=device).double() for factor in factors)
