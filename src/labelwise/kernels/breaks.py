"""Natural breaks: the best partition of numbers into groups, exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from labelwise.errors import InputError


def natural_breaks(values: NDArray[np.float64], groups: int) -> NDArray[np.int64]:
    """Split numbers into groups of least squared deviation from the groups' means.

    The optimum of k-means on a line. Equal numbers stay together; of several optima the one
    whose highest group, then the next, begins lowest.

    Args:
        values: (N,) finite numbers.
        groups: how many, from 1 to the number of distinct values.

    Returns:
        (N,) int64, the group of each number, 0 for the lowest.

    Raises:
        InputError: another shape, a number that is not finite, or too many groups.

    Source:
        Jenks, "The data model concept in statistical mapping", International Yearbook of
        Cartography 1967 (the criterion); Fisher, "On grouping for maximum homogeneity", JASA
        1958 (the recurrence). Where a best group begins only moves up as it ends later, so
        divide and conquer takes O(groups N log N) instead of O(groups N^2).

    >>> natural_breaks(np.array([1.0, 9.0, 1.5, 8.0, 20.0]), 3)
    array([0, 1, 0, 1, 2])
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        wrong = values[~np.isfinite(values)][:1]
        raise InputError(
            f"values must be (N,) finite numbers, got shape {values.shape}"
            + (f" with {wrong[0]}" if len(wrong) else "")
        )
    points, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    if isinstance(groups, bool) or not 1 <= groups <= len(points):
        raise InputError(f"groups must be in 1..{len(points)} (the distinct values), got {groups}")
    spread = _Spread(points, counts)
    best = spread(np.zeros(len(points), dtype=np.int64), np.arange(len(points)))
    starts = []
    for group in range(1, groups):
        best, start = _layer(best, spread, group)
        starts.append(start)
    # From the last group down: where it starts is where the one before it ends.
    ends, last = [len(points)], len(points) - 1
    for start in reversed(starts):
        ends.append(int(start[last]))
        last = ends[-1] - 1
    bounds = np.array(sorted(ends))
    return np.searchsorted(bounds, np.arange(len(points)), side="right")[where.ravel()]


class _Spread:
    """Squared deviations from their mean of the points i to j (inclusive)."""

    def __init__(self, points: NDArray[np.float64], counts: NDArray[np.int64]) -> None:
        # Around the mean, or the squares of numbers far from zero would drown their spread.
        x = points - np.average(points, weights=counts)
        zero = np.zeros(1)
        self._counts = np.concatenate([zero, np.cumsum(counts)])
        self._sums = np.concatenate([zero, np.cumsum(counts * x)])
        self._squares = np.concatenate([zero, np.cumsum(counts * x * x)])

    def __call__(self, i: NDArray[np.int64], j: NDArray[np.int64]) -> NDArray[np.float64]:
        total = self._sums[j + 1] - self._sums[i]
        count = self._counts[j + 1] - self._counts[i]
        spread = self._squares[j + 1] - self._squares[i] - total * total / count
        return np.where(i == j, 0, np.maximum(spread, 0))


def _layer(
    before: NDArray[np.float64], spread: _Spread, group: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Least deviations with one group more, and where that group starts, by its last point.

    Level by level the middle of every open interval is settled, which halves them all.
    """
    size = len(before)
    best = np.full(size, np.inf)
    start = np.full(size, size, dtype=np.int64)
    first, last = np.array([group]), np.array([size - 1])
    low, high = np.array([group]), np.array([size - 1])
    while len(first):
        middle = (first + last) // 2
        top = np.minimum(high, middle)
        counts = top - low + 1
        begin = np.concatenate([[0], np.cumsum(counts)[:-1]])
        which = np.repeat(np.arange(len(middle)), counts)
        i = np.arange(len(which)) - begin[which] + low[which]
        cost = before[i - 1] + spread(i, middle[which])
        least = np.minimum.reduceat(cost, begin)
        found = np.flatnonzero(cost == least[which])
        chosen = i[found[np.unique(which[found], return_index=True)[1]]]
        best[middle], start[middle] = least, chosen
        left, right = first < middle, middle < last
        first, last, low, high = (
            np.concatenate([first[left], middle[right] + 1]),
            np.concatenate([middle[left] - 1, last[right]]),
            np.concatenate([low[left], chosen[right]]),
            np.concatenate([chosen[left], high[right]]),
        )
    return best, start
