"""Arrays as they are: features that somebody has already computed."""

from __future__ import annotations

from typing import Any, Self

from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import DataError, InputError
from labelwise.learners.base import Progress
from labelwise.pools import ArrayPool, Pool


class Identity:
    """The rows of an array pool, unchanged and, where memory allows, not copied."""

    name = "identity"

    cached = False
    """`encode_data` writes no copy of what is an array already."""

    def signature(self) -> dict[str, Any]:
        """Name and version of the encoding."""
        return {"name": self.name, "version": 1}

    def fit(self, pool: Pool, *, seed: int) -> Self:
        """Nothing is learned; refuses a pool of another kind."""
        _array(pool)
        return self

    def encode(
        self,
        pool: Pool,
        *,
        out: NDArray[Any] | None = None,
        progress: Progress | None = None,
    ) -> Tensor:
        """(N, ...) in the array's own dtype; a memory-mapped file stays one.

        Raises:
            InputError: a pool of another kind.
            DataError: a row with NaN or an infinite number, named by its id.
        """
        array = _array(pool)
        bad = array.unreadable()
        if bad:
            raise DataError(
                f"rows must hold finite numbers, but {bad[0][0]!r}: {bad[0][1]} "
                f"({len(bad)} such rows); mend them, or open with skip_unreadable=True"
            )
        if progress:
            progress(len(pool), len(pool))
        return array.array().tensor()


def _array(pool: Pool) -> ArrayPool:
    if not isinstance(pool, ArrayPool):
        raise InputError(
            f"the identity encoder reads arrays, and this is a pool of kind {pool.kind}"
        )
    return pool
