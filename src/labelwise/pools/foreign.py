"""Data that is already in memory: data frames, Hugging Face data sets, torch data sets.

Nothing here imports pandas, datasets or torchvision: an object is known by what it can do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from labelwise.errors import DataError
from labelwise.pools.columns import Cells, from_cells
from labelwise.pools.loaded import LABELS, Loaded, Wanted, check_names, find_column


def is_hub(source: Any) -> bool:
    """True for a Hugging Face ``Dataset`` or ``IterableDataset``."""
    return all(hasattr(source, name) for name in ("column_names", "features", "with_format"))


def is_hub_dict(source: Any) -> bool:
    """True for a ``DatasetDict``: data sets by the names of their splits."""
    return isinstance(source, Mapping) and bool(source) and all(map(is_hub, source.values()))


def is_frame(source: Any) -> bool:
    """True for a pandas DataFrame, an Arrow table, or what can turn itself into one."""
    return hasattr(source, "__arrow_c_stream__") or _is_pandas(source)


def _is_pandas(source: Any) -> bool:
    return all(hasattr(source, name) for name in ("iloc", "columns", "dtypes", "index"))


def read_hub(source: Any, wanted: Wanted) -> Loaded:
    """A Hugging Face data set, or several by split; images stay encoded.

    The columns are taken as Arrow, without decoding; names of classes come from the features.

    Raises:
        DataError: a streamed data set, which has no rows to pick.
    """
    import pyarrow as pa

    parts = dict(source) if is_hub_dict(source) else {None: source}
    tables, splits = [], []
    for split, part in parts.items():
        if not hasattr(part, "__len__"):
            raise DataError(
                "a streamed data set has no rows to pick; load it without streaming=True"
            )
        table = part.with_format("arrow")[:]
        tables.append(table)
        splits.extend([str(split)] * len(table))
    try:
        table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"the splits differ in their columns: {error}") from error
    first = next(iter(parts.values()))
    label = find_column(list(first.column_names), wanted.label, LABELS, "label")
    classes = None if label is None else getattr(first.features[label], "names", None)
    whole = None if None in parts else splits
    return from_cells(Cells(table, "the data set", splits=whole, classes=classes), wanted)


def read_frame(source: Any, wanted: Wanted) -> Loaded:
    """A DataFrame or an Arrow table. An index that is not 0..N-1 gives the ids.

    Raises:
        DataError: a column of mixed types, or an index that is not distinct; names it.
    """
    import pyarrow as pa

    ids = None
    try:
        if _is_pandas(source):
            check_names([str(name) for name in source.columns], "the data frame")
            ids = _index_ids(source.index)
            table = pa.Table.from_pandas(source, preserve_index=False)
        else:
            table = source if isinstance(source, pa.Table) else pa.table(source)
    except (pa.ArrowException, OverflowError) as error:
        reason = " ".join(str(part) for part in error.args)
        raise DataError(
            f"the data frame cannot be read: {' '.join(reason.split())}; give each column one type"
        ) from error
    # Pandas' own metadata says nothing of classes, so none are declared.
    return from_cells(Cells(table, "the data frame", ids=ids), wanted)


def _index_ids(index: Any) -> list[str] | None:
    if index.nlevels > 1:
        raise DataError("the data frame's index has several levels; reset_index() first")
    values = index.tolist()
    if values == list(range(len(values))):
        return None
    ids = [str(value) for value in values]
    if len(set(ids)) < len(ids):
        twice = next(value for value in ids if ids.count(value) > 1)
        raise DataError(
            f"the data frame's index gives the ids, but {twice!r} is in it twice; "
            "reset_index(drop=True) to number the rows"
        )
    return ids


def shape_of(source: Any) -> tuple[int, ...] | None:
    """The shape of a NumPy array or a torch tensor, else None."""
    is_array = isinstance(source, np.ndarray) or hasattr(source, "numpy")
    return tuple(source.shape) if is_array and hasattr(source, "shape") else None
