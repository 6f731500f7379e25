"""The initial set: labels given before the first query, the same for every strategy.

Both draws order the items by a hash of their ids, so neither the pool's order nor what else is in
it changes who comes first, and a larger initial set contains a smaller one of the same seed
(stratified: as far as the classes' shares allow).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import InputError
from labelwise.kernels import Generator, derive

Rows64 = NDArray[np.int64]


def random_initial(ids: Sequence[str], candidates: Rows64, n: int, *, seed: int) -> Rows64:
    """n candidates drawn at random without replacement.

    Args:
        ids: (N,) the pool's ids.
        candidates: (M,) rows that may be drawn.
        n: how many, 0..M.
        seed: of the run; the stream is named ``"initial"``.

    Returns:
        (n,) int64 rows, in the order drawn.

    Raises:
        InputError: n out of range.
    """
    if not 0 <= n <= len(candidates):
        raise InputError(f"initial must be in 0..{len(candidates)} (the candidates), got {n}")
    return _shuffled(ids, candidates, seed)[:n]


def stratified_initial(
    ids: Sequence[str], candidates: Rows64, n: int, *, labels: Rows64, seed: int
) -> Rows64:
    """n candidates drawn at random in the classes' own proportions.

    A draw that needs the candidates' labels, which only a simulation has. Every class gets its
    proportional share, and at least one item where n allows; what rounding leaves goes to the
    largest remainders (to the first class where they tie).

    Args:
        ids: (N,) the pool's ids.
        candidates: (M,) rows that may be drawn.
        n: how many, 0..M.
        labels: (N,) class numbers; those of candidates must be known (>= 0).
        seed: of the run; the stream is named ``"initial"``.

    Returns:
        (n,) int64 rows, in the order in which the random draw would have met them.

    Raises:
        InputError: n out of range.
    """
    if not 0 <= n <= len(candidates):
        raise InputError(f"initial must be in 0..{len(candidates)} (the candidates), got {n}")
    order = _shuffled(ids, candidates, seed)
    classes, counts = np.unique(labels[candidates], return_counts=True)
    share = counts * (n / max(1, len(candidates)))
    take = np.floor(share).astype(np.int64)
    if n >= len(classes):
        take = np.maximum(take, 1)
    while take.sum() < n:
        take[np.argmax(share - take)] += 1
    while take.sum() > n:  # the ones given to rare classes come from the most overpaid
        take[np.argmax(np.where(take > 1, take - share, -np.inf))] -= 1
    chosen = [order[labels[order] == c][:k] for c, k in zip(classes, take)]
    return order[np.isin(order, np.concatenate([*chosen, np.empty(0, np.int64)]))]


def _shuffled(ids: Sequence[str], candidates: Rows64, seed: int) -> Rows64:
    """Candidates in a random order that follows their ids."""
    chosen = Generator(derive(seed, "initial"), ids=[ids[row] for row in candidates])
    return np.asarray(candidates, dtype=np.int64)[np.argsort(chosen.uniform(), kind="stable")]
