"""From a column of labels to class numbers 0..C-1 and the names of the classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError, InputError

MANY = 1000
"""More distinct labels than this, in over half of the rows, are no classes."""


def number_labels(
    columns: Sequence[Any], ids: Sequence[Sequence[str]], declared: Sequence[str] | None = None
) -> tuple[list[NDArray[np.int64]], list[str]]:
    """Class numbers for the label columns of one or more parts of a data set.

    Integers are class numbers where class names are declared, and names themselves where none
    are. Without declared names the classes are the distinct labels, sorted: as numbers when all
    of them are integers, as text else. True and false are the classes ``false`` and ``true``.

    Args:
        columns: Arrow arrays of strings, integers or booleans; null where there is no label.
        ids: the ids of each part's items, for messages.
        declared: names of the classes in the order of their numbers, where they are known.

    Returns:
        For each column (N,) int64 in 0..C-1 with -1 where missing, and the C names.

    Raises:
        DataError: labels that are quantities, lists or as good as distinct; a label that is
            none of the declared classes; -1 beside 0, which might mean "missing".

    >>> import pyarrow as pa
    >>> number_labels([pa.array(["cat", None, "ant"])], [["a", "b", "c"]])
    ([array([ 1, -1,  0])], ['ant', 'cat'])
    """
    import pyarrow as pa

    names = None if declared is None else check_classes(declared)
    columns = [_plain(column) for column in columns]
    known = [column for column in columns if not pa.types.is_null(column.type)]
    if not known:
        return [np.full(len(column), -1, np.int64) for column in columns], list(names or [])
    is_text = {pa.types.is_large_string(column.type) for column in known}
    if len(is_text) > 1:
        raise DataError("labels must be of one type, but some splits hold words and some numbers")
    values = _distinct(known, ids)
    if names is None:
        classes, number = _sorted_classes(values)
    else:
        classes, number = names, _declared_numbers(values, names)
    return [_map(column, number, part) for column, part in zip(columns, ids)], classes


def check_classes(declared: Sequence[str]) -> list[str]:
    """Names of classes as a list of strings.

    Raises:
        InputError: one text instead of a list.
        DataError: a name that occurs twice.
    """
    if isinstance(declared, str):
        raise InputError(f"classes must be a list of names, got the text {declared!r}")
    names = [str(name) for name in declared]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"classes must have distinct names, but {twice!r} occurs again")
    return names


def _plain(column: Any) -> Any:
    """The column as large strings, 64-bit integers or nulls."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_null(kind):
        return column
    if pa.types.is_boolean(kind):
        return pc.if_else(column, "true", "false").cast(pa.large_string())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.utf8_trim_whitespace(column.cast(pa.large_string()))
        return pc.if_else(pc.equal(text, ""), None, text)
    if pa.types.is_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind):
        return _whole(column)
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        raise DataError(
            "labels must be one class per item, got a list per item; keep the items of one class "
            "each, or name a column of single labels with label="
        )
    raise DataError(
        f"labels must be words or whole numbers, got values of type {kind}; "
        "name another column with label="
    )


def _whole(column: Any) -> Any:
    """Floats that are whole numbers, which is how integers with gaps are often stored."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = pc.if_else(pc.is_nan(column), None, column)
    present = column.drop_null()
    fraction = pc.or_(pc.not_equal(pc.floor(present), present), pc.invert(pc.is_finite(present)))
    if pc.any(fraction).as_py():
        value = present.filter(fraction)[0].as_py()
        raise DataError(
            f"labels must be classes, but one is {value!r}, a quantity; put the values in bins "
            "first, name another column with label=, or label=False for none"
        )
    return column.cast(pa.int64())


def _distinct(columns: Sequence[Any], ids: Sequence[Sequence[str]]) -> list[Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = [chunk for column in columns for chunk in getattr(column, "chunks", [column])]
    joined = pa.chunked_array(chunks, type=columns[0].type)
    values: list[Any] = pc.unique(joined).drop_null().to_pylist()
    rows = sum(map(len, ids))
    if len(values) > MANY and 2 * len(values) > rows:
        raise DataError(
            f"labels must be classes, but {len(values)} of {rows} rows have a label of their own, "
            f"such as {values[0]!r}; name another column with label="
        )
    return values


def _sorted_classes(values: Sequence[Any]) -> tuple[list[str], dict[Any, int]]:
    if {"-1", "0"} <= {str(value) for value in values}:
        raise DataError(
            "labels hold -1 beside 0, and -1 may be a class or a missing label; leave missing "
            "labels empty, or write classes as words"
        )
    try:
        ordered = sorted(values, key=int)
    except ValueError:
        ordered = sorted(values)
    return [str(value) for value in ordered], {value: i for i, value in enumerate(ordered)}


def _declared_numbers(values: Sequence[Any], names: Sequence[str]) -> dict[Any, int]:
    """Numbers are positions among the declared names and -1 is missing; words are the names."""
    number: dict[Any, int] = {name: i for i, name in enumerate(names)}
    if all(isinstance(value, int) for value in values):
        return {i: i for i in range(len(names))} | {-1: -1}
    if all(value not in number and _position(value, len(names)) is not None for value in values):
        return {value: int(value) for value in values}  # numbers that were stored as text
    return number


def _position(text: str, count: int) -> int | None:
    number = int(text) if text.isdecimal() or text == "-1" else count
    return number if number < count else None


def _map(column: Any, number: dict[Any, int], ids: Sequence[str]) -> NDArray[np.int64]:
    import pyarrow as pa

    if pa.types.is_null(column.type):
        return np.full(len(column), -1, np.int64)
    encoded = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = encoded.dictionary_encode()
    values = encoded.dictionary.to_pylist()
    codes = np.asarray(encoded.indices.fill_null(len(values)), np.int64)
    # One past the last value stands for "no label"; -2 for "no such class".
    table = np.array([number.get(value, -2) for value in values] + [-1], np.int64)
    labels = table[codes]
    strange = np.flatnonzero(labels == -2)
    if len(strange):
        row = int(strange[0])
        shown = ", ".join(str(value) for value in list(number)[:12])
        raise DataError(
            f"the label of {ids[row]!r} is {values[codes[row]]!r}, which is none of the "
            f"{sum(i >= 0 for i in number.values())} declared classes ({shown}); correct it or "
            "declare its class"
        )
    return labels
