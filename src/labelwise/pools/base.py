"""What every pool is: items under stable ids, read by row, without their labels."""

from __future__ import annotations

import copy
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labelwise.errors import DataError, InputError

Kind = Literal["image", "table", "text", "array"]
"""What the items of a pool are."""

KINDS: tuple[Kind, ...] = ("image", "table", "text", "array")


class Pool(ABC):
    """N items that may be asked for. A pool never holds a label.

    A row is an item's position in this pool; its id stays with it wherever it goes, so ids, not
    rows, belong in files that outlive the process. A subset shares its items with the pool it
    was cut from: nothing is copied.

    Attributes:
        ids: N distinct strings.
        kind: ``"image"``, ``"table"``, ``"text"`` or ``"array"``.
    """

    kind: ClassVar[Kind]

    def __init__(self, count: int, ids: Sequence[str] | None) -> None:
        self.ids = row_ids(count) if ids is None else list(ids)
        if len(self.ids) != count:
            raise InputError(f"ids must name every item: {count} items and {len(self.ids)} ids")
        check_ids(self.ids)
        self._rows: NDArray[np.int64] = np.arange(count, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} items, first {self.ids[:2]})"

    @cached_property
    def fingerprint(self) -> str:
        """32 hexadecimal digits: a BLAKE2 hash of the kind, the ids and the items, in order.

        Reads every item once (encoded bytes, nothing is decoded) the first time it is asked for.
        Where the items are stored plays no part.
        """
        digest = hashlib.blake2b(self.kind.encode(), digest_size=16)
        digest.update(hash_strings(self.ids))
        for part in self._contents():
            digest.update(part)
        return digest.hexdigest()

    def subset(self, rows: ArrayLike) -> Self:
        """The items of some rows, in the order asked for, as a pool of their own.

        Args:
            rows: (n,) distinct row numbers of this pool.

        Raises:
            InputError: a row out of range or asked for twice.
        """
        picked = self.check_rows(rows)
        if len(np.unique(picked)) < len(picked):
            values, counts = np.unique(picked, return_counts=True)
            raise InputError(
                f"rows must be distinct, but row {values[counts > 1][0]} occurs again; "
                "a pool holds each item once"
            )
        part = copy.copy(self)
        part.__dict__.pop("fingerprint", None)
        part.ids = [self.ids[row] for row in picked.tolist()]
        part._rows = self._rows[picked]
        return part

    def check_rows(self, rows: ArrayLike | None) -> NDArray[np.int64]:
        """Row numbers as (n,) int64; None means every row.

        Raises:
            InputError: not one-dimensional integers in 0..N-1.
        """
        if rows is None:
            return np.arange(len(self), dtype=np.int64)
        array = np.asarray(rows)
        if array.size == 0 and array.ndim == 1:
            return np.empty(0, np.int64)
        if array.ndim != 1 or array.dtype.kind not in "iu":
            raise InputError(
                "rows must be a one-dimensional array of integers, "
                f"got shape {array.shape} of {array.dtype}"
            )
        outside = (array < 0) | (array >= len(self))
        if outside.any():
            raise InputError(
                f"rows must be in 0..{len(self) - 1} (the pool's items), "
                f"got {array[outside][0]} at position {int(np.flatnonzero(outside)[0])}"
            )
        return array.astype(np.int64)

    @abstractmethod
    def items(self, rows: ArrayLike | None = None) -> list[Any]:
        """The items of some rows, decoded: what a person would look at.

        Args:
            rows: (n,) row numbers of this pool; None means every row.

        Raises:
            InputError: a row out of range.
            DataError: an item that cannot be read; the message names its id.
        """

    @abstractmethod
    def unreadable(self) -> list[tuple[str, str]]:
        """Every item that cannot be used, as (id, reason), in row order. Reads the whole pool."""

    @abstractmethod
    def _contents(self) -> Iterator[bytes]:
        """Bytes that are equal exactly when the items and their order are."""


def row_ids(count: int, prefix: str = "row") -> list[str]:
    """Ids for items that came with none: where they stand in their source.

    >>> row_ids(2, "train")
    ['train/0', 'train/1']
    """
    return [f"{prefix}/{row}" for row in range(count)]


def check_ids(ids: Sequence[str], what: str = "ids") -> None:
    """Refuse an id that names two items.

    Raises:
        DataError: names the first id that occurs again and both rows.
    """
    if len(set(ids)) == len(ids):
        return
    seen: dict[str, int] = {}
    for row, item in enumerate(ids):
        if item in seen:
            raise DataError(
                f"{what} must be distinct, but {item!r} names rows {seen[item]} and {row}; "
                "name another column with id=, or id=False to number the rows"
            )
        seen[item] = row


def hash_strings(strings: Sequence[str]) -> bytes:
    """A 16-byte hash of a list of strings; where one ends and the next begins counts."""
    digest = hashlib.blake2b(digest_size=16)
    for start in range(0, len(strings), 4096):
        encoded = [text.encode("utf-8", "surrogatepass") for text in strings[start : start + 4096]]
        digest.update(b"".join(len(part).to_bytes(8, "little") + part for part in encoded))
    return digest.digest()


def refuse_unreadable(bad: Sequence[tuple[str, str]], what: str) -> None:
    """Refuse items that cannot be used, naming the first three of them.

    Raises:
        DataError: when there are any.
    """
    if not bad:
        return
    shown = "; ".join(f"{item!r}: {reason}" for item, reason in bad[:3])
    more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
    raise DataError(
        f"{len(bad)} {what} cannot be read: {shown}{more}; mend them, or leave them out with "
        "skip_unreadable=True"
    )
