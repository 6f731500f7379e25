"""Reading one table from files: Parquet, Arrow, CSV, TSV and JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from labelwise.errors import DataError
from labelwise.pools.columns import Cells
from labelwise.pools.loaded import check_names
from labelwise.pools.splits import file_role

CSV_DELIMITERS = ",;\t|"


def read_files(paths: Sequence[Path], what: str, skip: bool) -> Cells:
    """One table from one or more files of the same columns.

    Where several files are given, the split of each is what its name starts with, if all of
    them start with one ("train-00000.parquet", "test.csv").

    Args:
        paths: existing files, in order.
        what: what messages call the source.
        skip: whether rows that cannot be read are left out, where the format allows that.

    Raises:
        DataError: a file that cannot be read, or files of other columns; names it.
    """
    parts = [READERS[path.suffix.lower()](path, skip) for path in paths]
    if len(parts) == 1:
        parts[0].what, parts[0].root = what, paths[0].parent
        return parts[0]
    import pyarrow as pa

    names = [file_role(path.stem) for path in paths]
    try:
        table = pa.concat_tables([part.table for part in parts], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"{what}: its files differ in their columns: {_line(error)}") from error
    for path, part in zip(paths, parts):
        if set(part.table.column_names) != set(table.column_names):
            lacking = sorted(set(table.column_names) - set(part.table.column_names))
            raise DataError(f"{what}: {path.name} lacks the column {lacking[0]!r} of the others")
    splits: list[str] | None = None
    if all(name is not None for name in names):
        splits = [str(name) for name, part in zip(names, parts) for _ in range(len(part.table))]
    classes = next((part.classes for part in parts if part.classes), None)
    skipped = [
        (row, f"{path.name}: {reason}")
        for path, part in zip(paths, parts)
        for row, reason in part.skipped
    ]
    text_file = any(part.text_file for part in parts)
    root = paths[0].parent
    return Cells(table, what, text_file, splits, root=root, classes=classes, skipped=skipped)


def read_parquet(path: Path, skip: bool) -> Cells:
    """A Parquet file; class names come from the schema metadata's key ``classes`` (JSON)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path, memory_map=True)
        check_names(file.schema_arrow.names, path.name)
        table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path.name} cannot be read as Parquet: {_line(error)}") from error
    return Cells(table, path.name, classes=_declared(table.schema.metadata, path.name))


def read_arrow(path: Path, skip: bool) -> Cells:
    """An Arrow IPC (Feather) file or stream, memory-mapped."""
    import pyarrow as pa

    try:
        source = pa.memory_map(str(path))
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            source.seek(0)
            table = pa.ipc.open_stream(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path.name} cannot be read as Arrow: {_line(error)}") from error
    return Cells(table, path.name, classes=_declared(table.schema.metadata, path.name))


def _declared(metadata: dict[bytes, bytes] | None, what: str) -> list[str] | None:
    raw = (metadata or {}).get(b"classes")
    if raw is None:
        return None
    try:
        names = json.loads(raw)
    except ValueError as error:
        raise DataError(f"{what}: the metadata key 'classes' is no JSON: {error}") from error
    if not isinstance(names, list):
        raise DataError(f"{what}: the metadata key 'classes' must be a list of names")
    return [str(name) for name in names]


def read_csv(path: Path, skip: bool) -> Cells:
    """A CSV or TSV file with a header line, every cell as a string.

    The delimiter of a ``.csv`` file is the comma, semicolon, tab or bar that the header has most
    of; that of a ``.tsv`` file is the tab. A row with too few or too many cells is refused, or
    skipped when asked.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    encoded = _read(path)
    _check_utf8(encoded, path)
    names, delimiter = _header(encoded, path)
    ragged: list[tuple[int, str]] = []

    def handle(row: Any) -> str:
        # The reader counts from 1 and the header is the first row.
        reason = f"{row.actual_columns} cells where the header has {row.expected_columns}"
        ragged.append((row.number - 2, reason))
        return "skip"

    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(encoded),
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=_block(encoded)),
            parse_options=arrow_csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, invalid_row_handler=handle
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowException as error:
        raise DataError(f"{path.name} cannot be read as CSV: {_line(error)}") from error
    if ragged and not skip:
        row, reason = ragged[0]
        raise DataError(
            f"{path.name}: data row {row} (the header not counted) has {reason}, and "
            f"{len(ragged) - 1} more rows are like it; quote cells that hold the delimiter "
            f"{delimiter!r}, or leave such rows out with skip_unreadable=True"
        )
    numbers = np.setdiff1d(np.arange(len(table) + len(ragged)), [row for row, _ in ragged])
    return Cells(table, path.name, text_file=True, numbers=numbers, skipped=ragged)


def _header(encoded: bytes, path: Path) -> tuple[list[str], str]:
    """The names of the columns, and the delimiter."""
    text = io.StringIO(encoded[: 1 << 20].decode("utf-8-sig", "ignore"), newline="")
    first = next((line for line in text if line.strip()), None)
    if first is None:
        raise DataError(f"{path.name} is empty; there is nothing to label")
    delimiter = "\t"
    if path.suffix.lower() != ".tsv":
        plain = "".join(first.split('"')[::2])  # what stands outside quotes
        delimiter = max(CSV_DELIMITERS, key=plain.count)
    names = next(csv.reader([first], delimiter=delimiter))
    check_names([name for name in names if name.strip()], path.name)
    if all(_is_number(name) for name in names):
        raise DataError(
            f"{path.name}: the first line must name the columns, but it holds only numbers "
            f"({', '.join(names[:3])}); put a header line above it"
        )
    return names, delimiter


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_json_lines(path: Path, skip: bool) -> Cells:
    """JSON lines: an object a line; a ``.json`` file holds one list of objects.

    A line that is no object is refused, or skipped when asked.
    """
    import pyarrow as pa

    encoded = _read(path)
    _check_utf8(encoded, path)
    text = encoded.decode("utf-8-sig")
    if path.suffix.lower() == ".json":
        try:
            lines = json.loads(text)
        except ValueError as error:
            raise DataError(f"{path.name} cannot be read as JSON: {error}") from error
        if not isinstance(lines, list):
            raise DataError(f"{path.name} must hold a list of objects, got an object")
    else:
        lines = [line for line in text.split("\n") if line.strip()]
    values: dict[str, list[Any]] = {}
    numbers: list[int] = []
    skipped: list[tuple[int, str]] = []
    for number, line in enumerate(lines):
        item, reason = _json_object(line)
        if item is None:
            if not skip:
                raise DataError(
                    f"{path.name}: object {number} (from 0) cannot be read: {reason}; mend it, or "
                    "leave it out with skip_unreadable=True"
                )
            skipped.append((number, reason))
            continue
        for name in item:
            values.setdefault(name, [None] * len(numbers))
        for name, column in values.items():
            column.append(item.get(name))
        numbers.append(number)
    columns = {name: _json_column(column, name, path, numbers) for name, column in values.items()}
    return Cells(pa.table(columns), path.name, numbers=np.array(numbers, int), skipped=skipped)


def _json_object(line: Any) -> tuple[dict[str, Any] | None, str]:
    if isinstance(line, str):
        try:
            line = json.loads(line)
        except (ValueError, RecursionError) as error:
            return None, f"no JSON ({error})"
    if not isinstance(line, dict):
        return None, f"an object was expected, got {str(line)[:40]!r}"
    return line, ""


def _json_column(values: list[Any], name: str, path: Path, numbers: Sequence[int]) -> Any:
    import pyarrow as pa

    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        kinds = [type(value).__name__ for value in values]
        known = [kind for kind in kinds if kind != "NoneType"]
        odd = next((row for row, kind in enumerate(kinds) if kind in known and kind != known[0]), 0)
        raise DataError(
            f"{path.name}: {name!r} must be of one type throughout; object {numbers[odd]} has "
            f"{str(values[odd])[:40]!r} ({_line(error)})"
        ) from error


def _read(path: Path) -> bytes:
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path.name} cannot be read: {error.strerror}") from error
    if not encoded.strip():
        raise DataError(f"{path.name} is empty; there is nothing to label")
    return encoded


def _check_utf8(encoded: bytes, path: Path) -> None:
    try:
        encoded.decode()
    except UnicodeDecodeError as error:
        line = encoded.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name} must be UTF-8, but line {line} holds the byte "
            f"0x{encoded[error.start]:02x}; save the file as UTF-8"
        ) from error


def _block(encoded: bytes) -> int:
    return min(max(len(encoded), 1 << 20), (1 << 31) - 1)  # one row may be as long as the file


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


READERS: dict[str, Callable[[Path, bool], Cells]] = {
    ".parquet": read_parquet,
    ".pq": read_parquet,
    ".arrow": read_arrow,
    ".feather": read_arrow,
    ".csv": read_csv,
    ".tsv": read_csv,
    ".jsonl": read_json_lines,
    ".ndjson": read_json_lines,
    ".json": read_json_lines,
}
"""How each kind of file is read, by the end of its name."""
