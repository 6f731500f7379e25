"""What the columns of a table hold: numbers, categories, or nothing at all."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError
from labelwise.pools.tables import Column

MISSING = ("", "?", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "None", "none", "-")
"""What a cell of a text file may hold where a feature is not known."""

_NUMBER = r"^[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$|^[+-]?(inf|Inf|infinity|Infinity)$"
_CODE = r"^[+-]?0[0-9]"


def numbers(cells: Any) -> tuple[Any | None, str | None]:
    """The numbers that a column of text holds.

    Args:
        cells: (N,) Arrow strings, as a CSV file holds them.

    Returns:
        The column as float64 with null where missing, or None where it holds no numbers; and a
        cell that is none though most are, or None. A column with a leading zero, such as a
        postal code, holds codes. So does one without a single known cell.

    >>> import pyarrow as pa
    >>> numbers(pa.array(["1", "?", "2.5"]))[0].to_pylist()
    [1.0, None, 2.5]
    >>> numbers(pa.array(["02139", "10001"]))
    (None, None)
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    trimmed = pc.utf8_trim_whitespace(cells.cast(pa.large_string()))
    cells = blank(trimmed)
    known = cells.drop_null()
    fits = pc.match_substring_regex(known, _NUMBER)
    count = pc.sum(fits).as_py() or 0
    if len(known) == 0 or count == 0 or pc.any(pc.match_substring_regex(known, _CODE)).as_py():
        return None, None
    if count < len(known):
        odd = known.filter(pc.invert(fits))[0].as_py()
        return None, odd if 2 * count > len(known) else None
    return pc.cast(cells, pa.float64()), None


def blank(cells: Any) -> Any:
    """Arrow strings with null where a cell says that nothing is known (see `MISSING`)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(pc.is_in(cells, value_set=pa.array(MISSING, cells.type)), None, cells)


def is_text(kind: Any) -> bool:
    """True for Arrow's string types."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def is_binary(kind: Any) -> bool:
    """True for Arrow's binary types, and for the struct of bytes and path that images come in."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        names = {kind.field(i).name for i in range(kind.num_fields)}
        return "bytes" in names and names <= {"bytes", "path"}
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
        or pa.types.is_binary_view(kind)
    )


def is_vector(kind: Any) -> bool:
    """True for lists of numbers."""
    import pyarrow as pa

    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(is_list(kind) for is_list in lists):
        return False
    return bool(pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type))


def is_number(kind: Any) -> bool:
    """True for what can be read as one number: numbers, truth values, dates and durations."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return is_number(kind.value_type)
    return bool(
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_timestamp(kind)
        or pa.types.is_date(kind)
        or pa.types.is_duration(kind)
    )


def column(name: str, cells: Any) -> Column | None:
    """A feature column: numeric, categorical, or None where every cell is missing.

    Numbers and truth values become float64. Dates and times become seconds since 1970, and
    durations seconds. Words become categories.

    Args:
        name: for messages.
        cells: (N,) Arrow array.

    Raises:
        DataError: cells that are neither, such as lists, structs and bytes.
    """
    import pyarrow as pa

    kind = cells.type
    if pa.types.is_null(kind) or cells.null_count == len(cells):
        return None
    if is_number(kind):
        values = _floats(cells)
        return None if np.isnan(values).all() else Column("numeric", values)
    if is_text(kind):
        return _categories(cells)
    raise DataError(
        f"column {name!r} holds values of type {kind}, which are neither numbers nor words; "
        "leave the column out, or name the column to read with column="
    )


def _floats(cells: Any) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = cells.type
    if pa.types.is_dictionary(kind):
        return _floats(cells.cast(kind.value_type))
    scale = 1.0
    if pa.types.is_date(kind):
        cells, scale = cells.cast(pa.timestamp("ms")).cast(pa.int64()), 1e-3
    elif pa.types.is_timestamp(kind) or pa.types.is_duration(kind):
        scale = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}[kind.unit]
        cells = cells.cast(pa.int64())
    elif pa.types.is_boolean(kind):
        cells = cells.cast(pa.int8())
    floats = pc.fill_null(pc.cast(cells, pa.float64(), safe=False), np.nan)
    return np.array(floats, np.float64) * scale


def _categories(cells: Any) -> Column:
    import pyarrow as pa

    whole = cells.cast(pa.large_string())
    whole = whole.combine_chunks() if isinstance(whole, pa.ChunkedArray) else whole
    encoded = whole.dictionary_encode()
    words: list[str] = encoded.dictionary.to_pylist()
    order = sorted(range(len(words)), key=words.__getitem__)
    place = np.empty(len(words) + 1, np.int32)
    place[order] = np.arange(len(words))
    place[len(words)] = -1
    codes = np.asarray(encoded.indices.fill_null(len(words)), np.int64)
    return Column("categorical", place[codes], tuple(words[i] for i in order))
