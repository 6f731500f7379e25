"""Pools of texts, kept in an Arrow column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from labelwise.pools.base import Kind, Pool, hash_strings, refuse_unreadable

CHUNK = 4096


class TextPool(Pool):
    """Texts under stable ids; ``items`` are strings.

    Args:
        texts: N strings: a list, or an Arrow string column, which stays as it is.
        ids: (N,) distinct; None numbers the rows.

    >>> TextPool(["good", "bad"], ids=["a", "b"]).texts([1])
    ['bad']
    """

    kind: ClassVar[Kind] = "text"

    def __init__(self, texts: Any, ids: Sequence[str] | None = None) -> None:
        import pyarrow as pa

        column = texts if isinstance(texts, pa.Array | pa.ChunkedArray) else pa.array(texts)
        super().__init__(len(column), ids)
        self._column = column.cast(pa.large_string())

    def texts(self, rows: ArrayLike | None = None) -> list[str]:
        """The texts of some rows; None means every row.

        Raises:
            InputError: a row out of range.
            DataError: a missing text; the message names its id.
        """
        picked = self.check_rows(rows)
        found: list[Any] = self._column.take(self._rows[picked]).to_pylist()
        bad = [
            (self.ids[row], "the text is missing")
            for row, text in zip(picked.tolist(), found)
            if text is None
        ]
        refuse_unreadable(bad, "texts")
        return found

    def items(self, rows: ArrayLike | None = None) -> list[str]:
        """The same as `texts`."""
        return self.texts(rows)

    def unreadable(self) -> list[tuple[str, str]]:
        """Rows without a text, as (id, reason)."""
        absent = np.asarray(self._column.is_null())[self._rows]
        return [(self.ids[row], "the text is missing") for row in np.flatnonzero(absent).tolist()]

    def _contents(self) -> Iterator[bytes]:
        for start in range(0, len(self), CHUNK):
            part = self._column.take(self._rows[start : start + CHUNK])
            yield np.asarray(part.is_null()).tobytes()
            yield hash_strings([text or "" for text in part.to_pylist()])
