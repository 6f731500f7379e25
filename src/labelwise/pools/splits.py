"""Which items may be asked for, which measure, and which are set aside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import DataError, InputError
from labelwise.kernels import Generator

Role = Literal["pool", "test", "validation"]

ROLES: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "pool", "unlabeled", "unsupervised", "all"), "pool"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
}
"""What the usual names of splits mean; capitals do not matter."""


def role(name: str) -> Role:
    """What a split of this name is for.

    Raises:
        DataError: not one of the known names.

    >>> role("Dev")
    'validation'
    """
    found = ROLES.get(name.strip().lower())
    if found is None:
        raise DataError(
            f"a split must be called one of {', '.join(ROLES)}, got {name!r}; rename it, name "
            "another column with split=, or split=False for data that is not split"
        )
    return found


def file_role(stem: str) -> str | None:
    """The split that a file's name starts with, or None.

    >>> file_role("train-00000-of-00002"), file_role("testimony")
    ('train', None)
    """
    head = stem.lower()
    for name in ROLES:
        if head.startswith(name) and not head[len(name) : len(name) + 1].isalnum():
            return name
    return None


def are_splits(names: Iterable[str]) -> bool:
    """True when every name is a split's: one class called "train" makes no split."""
    found = [name.lower() for name in names]
    return bool(found) and all(name in ROLES for name in found)


def check_holdout(holdout: float) -> float:
    """A share of the pool in [0, 1).

    Raises:
        InputError: anything else.
    """
    is_number = isinstance(holdout, int | float | np.floating) and not isinstance(holdout, bool)
    if not is_number or not 0 <= holdout < 1:
        raise InputError(
            f"holdout must be a share in [0, 1), got {holdout!r}; 0.2 keeps a fifth for testing"
        )
    return float(holdout)


def check_seed(seed: int) -> int:
    """A seed: any integer.

    Raises:
        InputError: anything else.
    """
    if not isinstance(seed, int | np.integer) or isinstance(seed, bool):
        raise InputError(f"seed must be an integer, got {seed!r}")
    return int(seed)


def hold_out(
    ids: Sequence[str], labels: NDArray[np.int64], share: float, seed: int
) -> NDArray[np.int64]:
    """Rows to test on: the same share of every class, drawn by item id.

    Each item's number is hashed from the seed and its id, so neither the order of the rows nor
    the presence of other classes changes who is drawn. A class gives ``share`` of its rows,
    rounded to the nearest (halves up), and always keeps one for the pool. Rows without a label
    stay in the pool.

    Args:
        ids: (N,) distinct.
        labels: (N,) class numbers, -1 where unknown.
        share: in [0, 1).
        seed: any integer.

    Returns:
        (n,) int64 rows, ascending.

    >>> hold_out(["a", "b", "c", "d"], np.array([0, 0, 1, -1]), 0.5, seed=0).shape
    (1,)
    """
    chance = Generator(seed, ids=np.asarray(ids, dtype=object)).child("holdout").uniform()
    drawn = []
    for number in np.unique(labels[labels >= 0]):
        rows = np.flatnonzero(labels == number)
        count = min(int(share * len(rows) + 0.5), len(rows) - 1)
        drawn.append(rows[np.argsort(chance[rows], kind="stable")[:count]])
    return np.sort(np.concatenate(drawn)) if drawn else np.empty(0, np.int64)
