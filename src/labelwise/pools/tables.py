"""Pools of table rows: columns that are numbers or categories, with what is missing marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labelwise.errors import DataError
from labelwise.pools.base import Kind, Pool, hash_strings


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        kind: ``"numeric"`` or ``"categorical"``.
        values: (N,) float64 with NaN where missing; or (N,) int32 positions in ``categories``
            with -1 where missing.
        categories: the distinct values of a categorical column, sorted; empty for a numeric one.
            They are those of the whole source, so that a pool and its test set agree.
    """

    kind: Literal["numeric", "categorical"]
    values: NDArray[Any]
    categories: tuple[str, ...] = ()

    @property
    def missing(self) -> NDArray[np.bool_]:
        """(N,) True where nothing is known."""
        return np.isnan(self.values) if self.kind == "numeric" else self.values < 0

    def take(self, rows: NDArray[np.int64]) -> Column:
        """Some rows of the column, with the same categories."""
        return Column(self.kind, self.values[rows], self.categories)


class TablePool(Pool):
    """Rows of a table under stable ids; ``items`` are dicts from column name to value.

    Args:
        columns: N rows each, by name.
        ids: (N,) distinct; None numbers the rows.

    >>> height = Column("numeric", np.array([1.5, np.nan]))
    >>> color = Column("categorical", np.array([1, 0], np.int32), ("blue", "red"))
    >>> TablePool({"height": height, "color": color}).items([1])
    [{'height': None, 'color': 'blue'}]
    """

    kind: ClassVar[Kind] = "table"

    def __init__(self, columns: Mapping[str, Column], ids: Sequence[str] | None = None) -> None:
        if not columns:
            raise DataError("a table needs at least one feature column, and there is none")
        lengths = {name: len(column.values) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"columns must have the same number of rows, got {lengths}")
        super().__init__(next(iter(lengths.values())), ids)
        self._columns = dict(columns)

    @property
    def names(self) -> list[str]:
        """The names of the columns, in the order of the source."""
        return list(self._columns)

    def columns(self, rows: ArrayLike | None = None) -> dict[str, Column]:
        """The columns of some rows by name; None means every row."""
        stored = self._rows[self.check_rows(rows)]
        return {name: column.take(stored) for name, column in self._columns.items()}

    def frame(self, rows: ArrayLike | None = None) -> dict[str, Any]:
        """The columns of some rows as plain arrays, by name.

        Returns:
            A numeric column as (n,) float64 with NaN where missing; a categorical one as a
            `pyarrow.DictionaryArray` of strings with null where missing, whose dictionary is
            sorted and that of the whole source.
        """
        import pyarrow as pa

        found: dict[str, Any] = {}
        for name, column in self.columns(rows).items():
            if column.kind == "numeric":
                found[name] = column.values
            else:
                codes = pa.array(column.values, mask=column.missing)
                found[name] = pa.DictionaryArray.from_arrays(
                    codes, pa.array(column.categories, pa.string())
                )
        return found

    def items(self, rows: ArrayLike | None = None) -> list[dict[str, float | str | None]]:
        """One dict per row, from column name to number, string or None where missing."""
        picked = self.check_rows(rows)
        found: list[dict[str, float | str | None]] = [{} for _ in picked]
        for name, column in self.columns(picked).items():
            values, missing = column.values.tolist(), column.missing.tolist()
            for item, value, absent in zip(found, values, missing):
                known = value if column.kind == "numeric" else column.categories[int(value)]
                item[name] = None if absent else known
        return found

    def unreadable(self) -> list[tuple[str, str]]:
        """Rows with an infinite number, as (id, reason)."""
        bad: dict[int, str] = {}
        for name, column in self.columns().items():
            if column.kind == "numeric":
                for row in np.flatnonzero(np.isinf(column.values)).tolist():
                    bad.setdefault(row, f"column {name!r} holds {column.values[row]}")
        return [(self.ids[row], reason) for row, reason in sorted(bad.items())]

    def _contents(self) -> Iterator[bytes]:
        for name, column in self.columns().items():
            yield hash_strings([name, column.kind])
            if column.kind == "numeric":
                values = column.values + 0.0  # -0.0 is 0.0, and every NaN is missing alike
                values[column.missing] = np.nan
                yield values.tobytes()
            else:
                # By value, so that a category seen only elsewhere in the source plays no part.
                used, codes = np.unique(column.values, return_inverse=True)
                known = [column.categories[code] if code >= 0 else "" for code in used.tolist()]
                yield b"\x01" if -1 in used else b"\x00"
                yield hash_strings(known)
                yield codes.astype(np.int64).tobytes()
