"""Small files that commands read: ids, row numbers, classes; and a look at where to write."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Any

from labelwise.errors import InputError, ResultsError

SINGULAR = {
    "labeled": "row",
    "candidates": "row",
    "exclude": "row",
    "labels": "label",
    "costs": "cost",
}
"""The column of a .csv that holds the numbers of an evidence, where it is not its own name."""


def read_ids(path: Path) -> list[str]:
    """Ids of the pool's rows: a line each of a text file, or a column ``id`` of a .csv.

    Raises:
        InputError: the file cannot be read, lacks the column, or repeats an id.
    """
    ids = _column(path, "id", "ids") if path.suffix.lower() == ".csv" else _lines(path, "ids")
    name, count = Counter(ids).most_common(1)[0] if ids else ("", 0)
    if count > 1:
        raise InputError(f"ids: {name!r} is in {path} {count} times; ids must be distinct")
    return ids


def read_numbers(path: Path, name: str, ids: list[str] | None = None) -> Any:
    """A list of numbers: an array of a .npy file, a line each of a text file, a .csv column.

    A .csv names rows of the pool in a column ``row``, or, where ids are known, in a column
    ``id``; a file of picks saved earlier has both and can be given as it is.

    Args:
        path: the file.
        name: the evidence, for messages; decides the column (see `SINGULAR`), and whether the
            numbers must be whole.
        ids: of the pool's rows.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    import numpy as np

    from labelwise.evidence import NUMBERS

    suffix = path.suffix.lower()
    if suffix == ".npy":
        from labelwise.kernels import Rows

        return Rows(path, name).tensor().numpy()
    column = SINGULAR.get(name, name)
    if suffix != ".csv":
        texts = _lines(path, name)
    elif ids is not None and column == "row" and "row" not in _header(path, name):
        texts = [str(row) for row in _rows_of(_column(path, "id", name), ids, path, name)]
    else:
        texts = _column(path, column, name)
    kind = int if name in NUMBERS | {"candidates", "exclude"} else float
    values = []
    for line, text in enumerate(texts, start=1):
        try:
            values.append(kind(text))
        except ValueError:
            raise InputError(
                f"{name}: entry {line} of {path} must be a {'' if kind is float else 'whole '}"
                f"number, got {text!r}"
            ) from None
    return np.array(values, dtype=np.float64 if kind is float else np.int64)


def save_in_place(path: Path) -> None:
    """Refuse a place that cannot be written, before the work rather than after it.

    Raises:
        InputError: another suffix, or no such folder.
        ResultsError: the folder cannot be written.
    """
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise InputError(f"out must end in .csv or .parquet, got {str(path)!r}")
    if not path.parent.is_dir():
        raise InputError(f"out: there is no folder {str(path.parent)!r}; create it first")
    if not os.access(path.parent, os.W_OK):
        raise ResultsError(f"out: the folder {str(path.parent)!r} cannot be written")


def _rows_of(named: list[str], ids: list[str], path: Path, name: str) -> list[int]:
    place = {item: row for row, item in enumerate(ids)}
    for item in named:
        if item not in place:
            raise InputError(f"{name}: {item!r} of {path} is not among the ids of --ids")
    return [place[item] for item in named]


def _read(path: Path, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{name}: there is no file {str(path)!r}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise InputError(f"{name}: cannot read {str(path)!r}: {reason}") from error


def _lines(path: Path, name: str) -> list[str]:
    lines = [line.strip() for line in _read(path, name).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if "" in lines:
        raise InputError(f"{name}: line {lines.index('') + 1} of {path} is empty")
    return lines


def _header(path: Path, name: str) -> list[str]:
    return next(csv.reader(_read(path, name).splitlines()), [])


def _column(path: Path, column: str, name: str) -> list[str]:
    rows = list(csv.reader(_read(path, name).splitlines()))
    header = rows[0] if rows else []
    if column not in header:
        shown = ", ".join(header) or "nothing"
        raise InputError(f"{name}: {path} must have a column {column!r}, it has {shown}")
    place = header.index(column)
    for line, row in enumerate(rows[1:], start=2):
        if len(row) != len(header):
            raise InputError(
                f"{name}: line {line} of {path} has {len(row)} fields, the header {len(header)}"
            )
    return [row[place] for row in rows[1:]]
