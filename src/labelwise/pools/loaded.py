"""What every reader hands to `open_data`: pools with their labels still as they were found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from labelwise.errors import DataError, InputError, nearest
from labelwise.pools.base import KINDS, Kind, Pool
from labelwise.pools.splits import Role

Named = str | Literal[False] | None
"""A column's name; False for none; None to look for the usual names."""

LABELS = ("label", "labels", "target", "class", "y")
"""Columns taken for the labels unless ``label=`` says otherwise; capitals do not matter."""


@dataclass(frozen=True)
class Wanted:
    """What the caller said about the source.

    Attributes:
        label: column of the labels.
        id: column of the ids.
        split: column of the splits.
        column: column of the image, text or vector.
        kind: what the items are.
        skip: whether rows that cannot be read are left out.
    """

    label: Named = None
    id: Named = None
    split: Named = None
    column: str | None = None
    kind: Kind | None = None
    skip: bool = False

    def __post_init__(self) -> None:
        """Refuse what names no column and no kind.

        Raises:
            InputError: names the argument and the value.
        """
        if self.kind is not None and self.kind not in KINDS:
            raise InputError(f"kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        for argument in ("label", "id", "split", "column"):
            value = getattr(self, argument)
            if not (value is None or isinstance(value, str) or value is False):
                raise InputError(
                    f"{argument} must be the name of a column, or False for none, got {value!r}"
                )


@dataclass
class Part:
    """One role's items and labels.

    Attributes:
        pool: the items.
        labels: Arrow array of the labels as found, or None where there are none.
    """

    pool: Pool
    labels: Any | None


@dataclass
class Loaded:
    """A source that has been read.

    Attributes:
        parts: by role; ids are distinct over all of them. The role "pool" is there unless the
            source has only other splits.
        classes: the names that the source declares, in the order of their numbers.
        notes: decisions worth showing.
        skipped: (id, reason) of rows that the reader left out.
    """

    parts: dict[Role, Part]
    classes: list[str] | None = None
    notes: list[str] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)


def find_column(
    names: Sequence[str], wanted: Named, usual: Sequence[str], argument: str
) -> str | None:
    """The column that a caller named, or the one with a usual name.

    Raises:
        DataError: no such column, or two usual names at once.

    >>> find_column(["a", "Label"], None, LABELS, "label")
    'Label'
    """
    if wanted is False:
        return None
    if wanted is not None:
        if wanted not in names:
            raise DataError(
                f"{argument}={wanted!r} names no column of the data; {nearest(wanted, names)}"
            )
        return wanted
    found = [name for name in names if name.lower() in usual]
    if len(found) > 1:
        raise DataError(
            f"columns {found[0]!r} and {found[1]!r} might both hold the {argument}; "
            f"say which with {argument}="
        )
    return found[0] if found else None


def check_names(names: Sequence[str], what: str) -> None:
    """Refuse two columns of one name.

    Raises:
        DataError: names the column.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{what}: two columns are called {name!r}; rename one of them")
        seen.add(name)
