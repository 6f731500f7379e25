"""What a strategy may answer, and what it must."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels import Chosen, Rows
from labelwise.strategies.picks import Picks


def as_picks(name: str, answer: Any) -> Picks:
    """What a strategy returned, as picks."""
    if isinstance(answer, Picks):
        return answer
    if isinstance(answer, Chosen):
        return Picks(answer.rows.cpu().numpy(), scores=answer.gains.cpu().numpy())
    if answer is None:
        raise InputError(f"{name} returned None; a strategy returns the rows it picked")
    rows: NDArray[Any] = Rows(answer, f"what {name} returned").tensor().cpu().numpy()
    return Picks(rows)


def check_rows(name: str, rows: NDArray[np.int64], n: int, candidates: Tensor) -> None:
    """A strategy, of ours or of the user's, has to return n distinct candidates.

    Raises:
        InputError: it did not.
    """
    if len(rows) != n:
        raise InputError(f"{name} returned {len(rows)} rows, but n is {n}")
    outside = rows[~np.isin(rows, candidates.numpy())]
    if len(outside):
        raise InputError(
            f"{name} returned row {outside[0]}, which is no candidate; pick from candidates only"
        )
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{name} returned row {values[counts > 1][0]} more than once")
