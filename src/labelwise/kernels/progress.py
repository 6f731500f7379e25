"""How a long selection is doing: picks made so far, told and kept as they are made."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.geometry import Chosen


class Progress:
    """The picks of a running kernel, from the first to the last.

    A kernel whose picks depend only on its input and on the picks before them can be stopped
    anywhere: given the same input and `earlier`, it goes on to the same end.

    Args:
        earlier: what an interrupted run of the same call had picked, in order.
        tell: called with all picks so far, whenever there are new ones.
        passing: called with the share of the current pass over the pool, 0 to 1.

    Attributes:
        earlier: rows and gains to take over before the first new pick; None at a fresh start.
    """

    def __init__(
        self,
        earlier: Chosen | None = None,
        tell: Callable[[Chosen], None] | None = None,
        passing: Callable[[float], None] | None = None,
    ) -> None:
        self.earlier = earlier
        self._tell = tell
        self._passing = passing
        self._rows: list[Tensor] = []
        self._gains: list[Tensor] = []

    def resume(self, n: int) -> Chosen | None:
        """The earlier picks, at most n of them, counted as made; None where there are none.

        Raises:
            InputError: more earlier picks than the n that are asked for.
        """
        if self.earlier is None or not len(self.earlier.rows):
            return None
        if len(self.earlier.rows) > n:
            raise InputError(
                f"the checkpoint holds {len(self.earlier.rows)} picks, but n is {n}; ask for at "
                "least as many, or delete it"
            )
        self._rows, self._gains = [self.earlier.rows], [self.earlier.gains]
        return self.earlier

    def picked(self, rows: Tensor, gains: Tensor) -> None:
        """New picks, in order: (m,) int64 rows and (m,) float64 gains."""
        self._rows.append(rows.cpu())
        self._gains.append(gains.double().cpu())
        if self._tell is not None:
            self._tell(Chosen(torch.cat(self._rows), torch.cat(self._gains)))

    def passing(self, share: float) -> None:
        """How far the current pass over the pool is, 0 to 1."""
        if self._passing is not None:
            self._passing(share)


def resume(
    progress: Progress | None, n: int, allows: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> tuple[list[int], list[float]]:
    """Rows and gains of an interrupted run of the same call, in order; empty at a fresh start.

    Args:
        progress: whose earlier picks to take over.
        n: how many picks there will be in all.
        allows: says of (m,) row numbers which may be picked.

    Raises:
        InputError: more than n, a row twice, or one that may not be picked.
    """
    earlier = None if progress is None else progress.resume(n)
    if earlier is None:
        return [], []
    rows = earlier.rows.numpy()
    first = np.zeros(len(rows), dtype=bool)
    first[np.unique(rows, return_index=True)[1]] = True
    for why, right in (("which may not be picked here", allows(rows)), ("twice", first)):
        if not right.all():
            raise InputError(
                f"the checkpoint is of another call: it holds row {rows[~right][0]}, {why}; "
                "delete it"
            )
    return rows.tolist(), earlier.gains.tolist()


def tell(progress: Progress | None, rows: list[int], gains: list[float], before: int) -> None:
    """Report the picks after the first ``before``, if there are any and anyone listens."""
    if progress is not None and len(rows) > before:
        progress.picked(
            torch.tensor(rows[before:]), torch.tensor(gains[before:], dtype=torch.float64)
        )


def inside(progress: Progress | None, rows: Tensor) -> Progress | None:
    """The progress of a kernel that runs on some rows, told outside in rows of the pool.

    Args:
        progress: of the whole call.
        rows: (m,) int64, ascending; the kernel's row i is ``rows[i]``.

    Raises:
        InputError: earlier picks that are not among the rows.
    """
    if progress is None:
        return None
    earlier = progress.earlier
    if earlier is not None:
        places = torch.searchsorted(rows, earlier.rows)
        found = places.clamp(max=len(rows) - 1)
        if not bool((rows[found] == earlier.rows).all()):
            raise InputError("the checkpoint holds rows that may not be picked here; delete it")
        earlier = Chosen(places, earlier.gains)
    told = [0 if earlier is None else len(earlier.rows)]

    def report(chosen: Chosen) -> None:
        new = slice(told[0], len(chosen.rows))
        progress.picked(rows[chosen.rows[new]], chosen.gains[new])
        told[0] = len(chosen.rows)

    if earlier is not None:
        progress.resume(len(earlier.rows))
    return Progress(earlier, report)
