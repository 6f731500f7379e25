"""From an Arrow table to pools: which column is what, and what kind of items these are."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError
from labelwise.pools import sniffing
from labelwise.pools.arrays import ArrayPool
from labelwise.pools.base import Kind, Pool, check_ids, row_ids
from labelwise.pools.images import ColumnImages, FileImages, ImagePool
from labelwise.pools.loaded import LABELS, Loaded, Part, Wanted, check_names, find_column
from labelwise.pools.splits import Role, role
from labelwise.pools.tables import TablePool
from labelwise.pools.texts import TextPool

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
    | {".ppm", ".pgm", ".pbm", ".pnm"}
)
IMAGES = ("image", "img", "picture", "photo", "image_path", "file_name", "filename", "file", "path")
TEXTS = ("text", "sentence", "document", "content")
VECTORS = ("embedding", "embeddings", "features", "vector", "x")
"""Columns taken for the items themselves unless ``column=`` says otherwise."""

WORDS = 4
"""A lone column of at least so many words a row, on average, is text and no category."""


@dataclass
class Cells:
    """A table that has been read, and what its file says beside the cells.

    Attributes:
        table: `pyarrow.Table`.
        what: what messages call the source.
        text_file: every cell is a string, as in CSV, and types are still to be found.
        splits: (N,) the split of each row where files or a dict give it, else None.
        numbers: (N,) each row's number in its source; None counts them.
        ids: (N,) ids that come with the source, such as the index of a DataFrame.
        root: what relative paths of images start from.
        classes: names that the source declares.
        skipped: (row number, reason) of rows left out in reading.
    """

    table: Any
    what: str
    text_file: bool = False
    splits: list[str] | None = None
    numbers: NDArray[np.int64] | None = None
    ids: list[str] | None = None
    root: Path | None = None
    classes: list[str] | None = None
    skipped: list[tuple[int, str]] = field(default_factory=list)


def from_cells(cells: Cells, wanted: Wanted) -> Loaded:
    """Pools from a table.

    Raises:
        DataError: no rows, two columns of one name, no column that can be an item, an id that
            is missing or not distinct, a split of an unknown name; each with its fix.
    """
    table = cells.table
    check_names(table.column_names, cells.what)
    if table.num_rows == 0:
        raise DataError(f"{cells.what} holds no rows; there is nothing to label")
    names = [name for name in table.column_names if name.strip()]
    label = find_column(names, wanted.label, LABELS, "label")
    ids_in = find_column(names, wanted.id, ("id",), "id")
    split = _split_column(cells, wanted, names)
    features = [name for name in names if name not in (label, ids_in, split)]
    splits = cells.splits if split is None else _words(table[split], split)
    loaded = Loaded({}, classes=cells.classes)
    ids = _ids(cells, ids_in, splits)
    pool = _pool(cells, wanted, features, ids, loaded.notes)
    labels = None if label is None else _labels(table[label], cells.text_file)
    loaded.skipped = [(f"row/{row}", reason) for row, reason in cells.skipped]
    for name, rows in _rows_by_role(splits, table.num_rows).items():
        part = None if labels is None else labels.take(rows)
        whole = len(rows) == table.num_rows
        loaded.parts[name] = Part(pool if whole else pool.subset(rows), part)
    return loaded


def _split_column(cells: Cells, wanted: Wanted, names: list[str]) -> str | None:
    if wanted.split is None and cells.splits is not None:
        return None
    found = find_column(names, wanted.split, ("split",), "split")
    if wanted.split is None and found and not sniffing.is_text(cells.table[found].type):
        return None  # a number called split is a feature
    return found


def _rows_by_role(splits: list[str] | None, count: int) -> dict[Role, NDArray[np.int64]]:
    if splits is None:
        return {"pool": np.arange(count)}
    roles = {name: role(name) for name in sorted(set(splits))}
    found = np.array([roles[name] for name in splits])
    return {name: np.flatnonzero(found == name) for name in sorted(set(roles.values()))}


def _words(column: Any, name: str) -> list[str]:
    if column.null_count:
        row = int(np.flatnonzero(np.asarray(column.is_null()))[0])
        raise DataError(f"column {name!r} must name the split of every row; row {row} is empty")
    return [str(value).strip() for value in column.to_pylist()]


def _ids(cells: Cells, name: str | None, splits: list[str] | None) -> list[str]:
    import pyarrow as pa

    if name is None:
        return cells.ids if cells.ids is not None else _numbered(cells, splits)
    column = cells.table[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (sniffing.is_text(kind) or pa.types.is_integer(kind)):
        raise DataError(
            f"ids must be words or whole numbers, but column {name!r} holds {kind}; name another "
            "column with id=, or id=False to number the rows"
        )
    ids = [str(value).strip() for value in column.to_pylist()]
    if column.null_count or "" in ids:
        empty = np.asarray(column.is_null()) | (np.array(ids, dtype=object) == "")
        raise DataError(
            f"column {name!r} must give every row an id; row {int(np.flatnonzero(empty)[0])} has "
            "none; fill it in, or id=False to number the rows"
        )
    check_ids(ids, f"the ids in column {name!r}")
    return ids


def _numbered(cells: Cells, splits: list[str] | None) -> list[str]:
    if splits is None:
        if cells.numbers is None:
            return row_ids(cells.table.num_rows)
        return [f"row/{number}" for number in cells.numbers.tolist()]
    seen: dict[str, int] = {}
    ids = []
    for name in (split.lower() for split in splits):
        ids.append(f"{name}/{seen.get(name, 0)}")
        seen[name] = seen.get(name, 0) + 1
    return ids


def _labels(column: Any, text_file: bool) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if text_file:
        cells = column.cast(pa.large_string())
        cells = pc.if_else(pc.equal(pc.utf8_trim_whitespace(cells), ""), None, cells)
        known, _ = sniffing.numbers(cells)
        # A word such as "NA" or "none" may well be a class; only an empty cell has no label.
        if known is not None and known.null_count == cells.null_count:
            return known.combine_chunks() if isinstance(known, pa.ChunkedArray) else known
        column = cells
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _pool(
    cells: Cells, wanted: Wanted, features: list[str], ids: list[str], notes: list[str]
) -> Pool:
    if not features:
        raise DataError(
            f"{cells.what} has no column beside label, id and split, so there is nothing to "
            "learn from"
        )
    if wanted.column is not None:
        find_column(features, wanted.column, (), "column")
    kind = wanted.kind or _kind(cells, features, wanted.column)
    if kind == "table":
        return _table_pool(cells, features, ids, notes)
    if kind == "array":
        return _array_pool(cells, wanted.column, features, ids)
    name = wanted.column or _item_column(cells, features, kind)
    column = cells.table[name]
    if others := [other for other in features if other != name]:
        notes.append(f"columns left alone: {', '.join(others)}")
    if kind == "text":
        if not sniffing.is_text(column.type):
            raise DataError(f"a column of texts must hold strings, got {column.type}")
        return TextPool(_filled(column) if cells.text_file else column, ids)
    if sniffing.is_binary(column.type):
        return ImagePool(ColumnImages(column, cells.root), ids)
    if not sniffing.is_text(column.type):
        raise DataError(
            f"a column of images must hold the bytes or the paths of files, got {column.type}"
        )
    return ImagePool(FileImages(cells.root or Path(), _paths(column)), ids)


def _filled(column: Any) -> Any:
    """Texts of a text file, where a cell without a single character has no text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.cast(pa.large_string())
    return pc.if_else(pc.equal(column, ""), None, column)


def _paths(column: Any) -> list[str]:
    return [value or "" for value in column.to_pylist()]


def _kind(cells: Cells, features: list[str], column: str | None) -> Kind:
    table = cells.table
    candidates = features if column is None else [column]
    if any(sniffing.is_binary(table[name].type) for name in candidates):
        return "image"
    if _path_columns(table, candidates, named=column is None):
        return "image"
    texts = [name for name in candidates if sniffing.is_text(table[name].type)]
    if texts and (column is not None or any(name.lower() in TEXTS for name in texts)):
        return "text"
    vectors = [name for name in candidates if sniffing.is_vector(table[name].type)]
    if vectors and (len(features) == 1 or len(vectors) == len(candidates)):
        return "array"
    if any(name.lower() in VECTORS for name in vectors):
        return "array"
    return "text" if len(features) == 1 and texts and _is_prose(table[texts[0]]) else "table"


def _path_columns(table: Any, names: list[str], named: bool) -> list[str]:
    """Columns of strings that all end like an image file's name."""
    found = []
    for name in names:
        if not sniffing.is_text(table[name].type) or (named and name.lower() not in IMAGES):
            continue
        values = [value for value in table[name].to_pylist() if value]
        if values and all(Path(value).suffix.lower() in IMAGE_SUFFIXES for value in values):
            found.append(name)
    return found


def _is_prose(column: Any) -> bool:
    import pyarrow as pa
    import pyarrow.compute as pc

    spaces = pc.count_substring_regex(column.cast(pa.large_string()), r"\S\s+\S")
    mean = pc.mean(spaces).as_py()
    return mean is not None and mean + 1 >= WORDS


def _item_column(cells: Cells, features: list[str], kind: Kind) -> str:
    """The column that holds the items, by its type and, where several would do, its name."""
    table = cells.table
    if kind == "image":
        fitting = [name for name in features if sniffing.is_binary(table[name].type)]
        fitting = fitting or _path_columns(table, features, named=False)
        usual: tuple[str, ...] = IMAGES
    else:
        fitting = [name for name in features if sniffing.is_text(table[name].type)]
        usual = TEXTS
    preferred = [name for name in fitting if name.lower() in usual]
    if len(preferred) == 1 or len(fitting) == 1:
        return (preferred or fitting)[0]
    if not fitting:
        raise DataError(
            f"{cells.what} has no column of {kind}s among {', '.join(features[:12])}; "
            "name another kind with kind="
        )
    raise DataError(
        f"columns {', '.join(map(repr, fitting[:6]))} of {cells.what} might each hold the {kind}s; "
        "say which with column="
    )


def _table_pool(cells: Cells, features: list[str], ids: list[str], notes: list[str]) -> TablePool:
    columns = {}
    for name in features:
        column, odd = cells.table[name], None
        if cells.text_file:
            found, odd = sniffing.numbers(column)
            column = sniffing.blank(column) if found is None else found
        read = sniffing.column(name, column)
        if read is None:
            notes.append(f"column {name!r} is missing in every row and left out")
            continue
        if odd is not None:
            notes.append(f"column {name!r} is read as categories, because {odd!r} is no number")
        columns[name] = read
    if not columns:
        raise DataError(f"every feature column of {cells.what} is missing in every row")
    return TablePool(columns, ids)


def _array_pool(cells: Cells, column: str | None, features: list[str], ids: list[str]) -> ArrayPool:
    table = cells.table
    vectors = [name for name in features if sniffing.is_vector(table[name].type)]
    named = [name for name in vectors if name.lower() in VECTORS]
    name = column or (named[0] if len(named) == 1 else vectors[0] if len(vectors) == 1 else None)
    if name is not None:
        return ArrayPool(_stacked(table[name], name, ids), ids)
    columns = _table_pool(cells, features, ids, []).columns()
    words = [name for name, read in columns.items() if read.kind != "numeric"]
    if words:
        raise DataError(
            f"kind='array' needs columns of numbers, but {words[0]!r} holds words; "
            "kind='table' reads both"
        )
    stacked = np.stack([read.values for read in columns.values()], axis=1)
    return ArrayPool(stacked.astype(np.float32), ids)


def _stacked(column: Any, name: str, ids: list[str]) -> NDArray[Any]:
    """A column of lists as one array (N, D)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not sniffing.is_vector(column.type):
        raise DataError(f"column {name!r} must hold vectors of numbers, got {column.type}")
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    lengths = pc.list_value_length(column).to_pylist()
    if lengths[0] is None or any(length != lengths[0] for length in lengths):
        odd = 0
        if lengths[0] is not None:
            odd = next(row for row, length in enumerate(lengths) if length != lengths[0])
        raise DataError(
            f"column {name!r} must hold vectors of one length, but {ids[odd]!r} has length "
            f"{lengths[odd]} and {ids[0]!r} {lengths[0]}"
        )
    values = pc.list_flatten(column)
    if values.null_count:
        row = int(np.flatnonzero(np.asarray(values.is_null()))[0]) // lengths[0]
        raise DataError(f"column {name!r} must hold numbers, but {ids[row]!r} has an empty value")
    return np.asarray(values).reshape(len(ids), lengths[0])
