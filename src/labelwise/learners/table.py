"""Tables as vectors: standardized numbers, one column per category, marks for what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError, InputError
from labelwise.learners.base import Progress
from labelwise.pools import Column, Pool, TablePool

FARTHEST = 1e6
"""A number farther than this many standard deviations from the mean is put there."""


class Table:
    """The encoder of tables. It learns from the pool's columns, never from a test set.

    A **number** is standardized by the mean and standard deviation of its known values; a
    missing one takes the mean, and a column with any missing in the pool gets a second column
    that is 1 there; one farther than a million deviations from the mean is put there. A
    **category** gets a column of 0 and 1 per level. Levels beyond the
    ``max_levels`` most frequent, and missing ones, share one last level, which is there when the
    pool has such a row; a level that the pool does not know has that level, or none. A column
    that is constant in the pool is dropped, and so is one whose categories are all different
    (an identifier).

    Args:
        max_levels: most levels of a category that get a column of their own, at least 1.

    Raises:
        InputError: ``max_levels`` below 1.

    >>> height = Column("numeric", np.array([1.0, 3.0, np.nan]))
    >>> color = Column("categorical", np.array([0, 1, 1], np.int32), ("blue", "red"))
    >>> pool = TablePool({"height": height, "color": color})
    >>> encoder = Table().fit(pool, seed=0)
    >>> encoder.names
    ['height', 'height is missing', 'color=red', 'color=blue']
    >>> encoder.encode(pool)
    array([[-1.,  0.,  0.,  1.],
           [ 1.,  0.,  1.,  0.],
           [ 0.,  1.,  1.,  0.]], dtype=float32)
    """

    name = "table"

    def __init__(self, *, max_levels: int = 64) -> None:
        if max_levels < 1:
            raise InputError(f"max_levels must be at least 1, got {max_levels}")
        self.max_levels = max_levels
        self._parts: dict[str, _Numbers | _Categories] = {}

    def signature(self) -> dict[str, Any]:
        """Name, version of the encoding, and options."""
        return {"name": self.name, "version": 1, "max_levels": self.max_levels}

    @property
    def names(self) -> list[str]:
        """What each column of the encoding says."""
        return [name for column, part in self._parts.items() for name in part.names(column)]

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Learn means, spreads and levels. Nothing is random, so the seed does nothing.

        Raises:
            InputError: a pool of another kind.
            DataError: an infinite number, or a table all of whose columns are dropped.
        """
        self._parts = {}
        for name, column in _columns(pool).items():
            if column.kind == "numeric":
                part: _Numbers | _Categories = _fit_numbers(name, column, pool)
            else:
                part = _fit_categories(column, self.max_levels)
            if part.names(name):
                self._parts[name] = part
        if not self._parts:
            raise DataError(
                "the table tells no item from another: every column is constant or an identifier"
            )
        return self

    def item_shape(self) -> tuple[int, ...]:
        """The number of columns of the encoding."""
        return (len(self.names),)

    def dtype(self) -> np.dtype[Any]:
        """float32."""
        return np.dtype(np.float32)

    def encode(
        self,
        pool: Pool,
        *,
        out: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> NDArray[Any]:
        """(N, D) float32.

        Raises:
            InputError: not fitted, or a pool of another kind.
            DataError: a column of the fitted pool is not there, or is of another kind.
        """
        if not self._parts:
            raise InputError("the table encoder is not fitted; call fit(pool, seed=0) first")
        columns = _columns(pool)
        if out is None:
            out = np.empty((len(pool), *self.item_shape()), np.float32)
        start = 0
        for name, part in self._parts.items():
            if name not in columns or columns[name].kind != part.kind:
                raise DataError(
                    f"column {name!r} must be {part.kind}, as in the pool this encoder was fitted "
                    f"on, but is {columns[name].kind if name in columns else 'not there'}"
                )
            width = len(part.names(name))
            part.write(name, columns[name], pool, out[:, start : start + width])
            start += width
            if progress:
                progress(len(pool) * start // out.shape[1], len(pool))
        return out


@dataclass(frozen=True)
class _Numbers:
    """How a column of numbers is encoded.

    Values are placed in the range of the pool's (0 its lowest, 1 its highest) before they are
    standardized, so neither large numbers nor large offsets lose digits.
    """

    low: float
    half_range: float
    mean: float
    spread: float
    marks_missing: bool
    kind: str = "numeric"

    @property
    def varies(self) -> bool:
        return self.half_range > 0

    def names(self, column: str) -> list[str]:
        values = [column] if self.varies else []
        return values + ([f"{column} is missing"] if self.marks_missing else [])

    def write(self, name: str, column: Column, pool: Pool, out: NDArray[Any]) -> None:
        _refuse_infinite(name, column, pool)
        if self.varies:
            with np.errstate(over="ignore"):  # an infinite result is cut like a large one
                placed = (column.values / 2 - self.low / 2) / self.half_range
            values = np.clip((placed - self.mean) / self.spread, -FARTHEST, FARTHEST)
            out[:, 0] = np.where(column.missing, 0, values)
        if self.marks_missing:
            out[:, -1] = column.missing


@dataclass(frozen=True)
class _Categories:
    """How a column of categories is encoded: levels, most frequent first, and perhaps the rest."""

    levels: tuple[str, ...]
    has_other: bool
    kind: str = "categorical"

    def names(self, column: str) -> list[str]:
        named = [f"{column}={level}" for level in self.levels]
        return named + ([f"{column} is other or missing"] if self.has_other else [])

    def write(self, name: str, column: Column, pool: Pool, out: NDArray[Any]) -> None:
        out[:] = 0
        other = len(self.levels) if self.has_other else -1
        place = {level: at for at, level in enumerate(self.levels)}
        # The last entry is where the code of a missing value, -1, points to.
        places = np.array([place.get(level, other) for level in column.categories] + [other])
        target = places[column.values]
        rows = np.flatnonzero(target >= 0)
        out[rows, target[rows]] = 1


def _columns(pool: Pool) -> dict[str, Column]:
    if not isinstance(pool, TablePool):
        raise InputError(f"the table encoder reads a table, and this is a pool of kind {pool.kind}")
    return pool.columns()


def _fit_numbers(name: str, column: Column, pool: Pool) -> _Numbers:
    _refuse_infinite(name, column, pool)
    known = column.values[~column.missing]
    some = len(known) < len(column.values)
    low = float(known.min(initial=np.inf))
    # Halves, because the range of finite numbers may not be finite.
    half_range = float(known.max(initial=-np.inf)) / 2 - low / 2
    if not half_range > 0:
        return _Numbers(0.0, 0.0, 0.0, 1.0, some and len(known) > 0)
    placed = (known / 2 - low / 2) / half_range
    return _Numbers(low, half_range, float(placed.mean()), float(placed.std()), some)


def _fit_categories(column: Column, max_levels: int) -> _Categories:
    codes, counts = np.unique(column.values[~column.missing], return_counts=True)
    names: Sequence[str] = [column.categories[code] for code in codes.tolist()]
    ranked = sorted(zip(-counts, names, strict=True))
    levels = tuple(name for _, name in ranked[:max_levels])
    other = bool(column.missing.any()) or len(ranked) > max_levels
    identifier = len(column.values) > 2 and len(codes) == len(column.values)
    if identifier or len(levels) + other < 2:
        return _Categories((), False)
    return _Categories(levels, other)


def _refuse_infinite(name: str, column: Column, pool: Pool) -> None:
    rows = np.flatnonzero(np.isinf(column.values))
    if len(rows):
        raise DataError(
            f"column {name!r} must hold finite numbers, but {pool.ids[rows[0]]!r} has "
            f"{column.values[rows[0]]}; mend it, or leave it empty for a missing one"
        )
