"""Pareto fronts of rows and of batches, for two aims that are both to be large."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

import numpy as np
from numpy.typing import NDArray

from labelwise.kernels import Generator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CHECK = 200
"""Draws between two looks at the front."""

WINDOW = 10
"""Looks that have to agree before a search ends."""

AGREE = 0.01
"""How far mean and spread of the discrepancies may range over the window at the end."""

_ROUNDING = 1e-12

_BANDWIDTHS = 2.0 ** np.arange(-2, 3)


def fronts(aims: Floats) -> Ints:
    """Which front each point is on: 0 for those that none dominates, 1 once they are gone, ...

    A point dominates another when it is at least as good in both aims and better in one.

    Args:
        aims: (M, 2), larger is better.

    Returns:
        (M,) int64. O(M log M).

    >>> fronts(np.array([[3.0, 1.0], [1.0, 3.0], [1.0, 1.0], [1.0, 1.0], [2.0, 0.0]]))
    array([0, 0, 1, 1, 1])
    """
    order = np.lexsort((-aims[:, 1], -aims[:, 0]))
    first, second = aims[order].T.tolist()
    found = np.empty(len(order), np.int64)
    # By falling first aim, whoever came before is as good there; so a point is dominated by a
    # front whose largest second aim reaches its own. Those fall from front to front.
    reach: list[float] = []
    front = 0
    for i, value in enumerate(second):
        if i and (first[i], value) == (first[i - 1], second[i - 1]):
            found[order[i]] = front  # a copy of a point is not dominated by it
            continue
        front = bisect_right(reach, -value)
        if front == len(reach):
            reach.append(-value)
        else:
            reach[front] = -value
        found[order[i]] = front
    return found


def front_of(aims: Floats) -> Ints:
    """The points that none dominates, by falling first aim; of copies the last.

    >>> front_of(np.array([[3.0, 1.0], [1.0, 3.0], [1.0, 1.0], [3.0, 1.0]]))
    array([3, 1])
    """
    order = np.lexsort((-np.arange(len(aims)), -aims[:, 1], -aims[:, 0]))
    second = aims[order, 1]
    best = np.concatenate([[-np.inf], np.maximum.accumulate(second)[:-1]])
    found: Ints = order[second > best]
    return found


def discrepancy(some: Floats, others: Floats) -> float:
    """Squared maximum mean discrepancy of two sets of points, with five Gaussian kernels added.

    Their bandwidths are the mean squared distance of two of all points, times 1/4 to 4.

    Args:
        some: (a, 2). others: (b, 2).

    Source:
        Gretton, Borgwardt, Rasch, Schoelkopf & Smola, "A Kernel Two-Sample Test", JMLR 2012
        (the biased estimate).

    >>> discrepancy(np.zeros((2, 2)), np.zeros((3, 2)))
    0.0
    """
    points = np.concatenate([some, others])
    squared = np.square(points[:, None] - points).sum(2)
    mean = squared.sum() / (len(points) * (len(points) - 1))
    if mean == 0:
        return 0.0
    kernel = np.exp(-squared[..., None] / (mean * _BANDWIDTHS)).sum(2)
    a = len(some)
    inside = kernel[:a, :a].mean() + kernel[a:, a:].mean()
    return float(inside - 2 * kernel[:a, a:].mean())


def drawn_batch(aims: Floats, n: int, generator: Generator, most: int) -> tuple[Ints, int]:
    """Batches of n points drawn at random, and of those that none dominates the most typical.

    The aims of a batch are the sums of its points'. Every 200 draws the front is compared to
    those of the ten looks before; the search ends when mean and standard deviation of these
    discrepancies have ranged over at most 0.01 for ten looks.

    Args:
        aims: (M, 2), M > n. n: points in a batch.
        generator: its seed decides the draws.
        most: draws at the most.

    Returns:
        (n,) int64 points of the batch on the front that shares most with all the others, and
        how many batches were drawn.
    """
    rng = np.random.default_rng(generator.child("batches").seed)
    batches = np.zeros((0, n), np.int64)
    sums = np.zeros((0, 2))
    looks: list[Floats] = []
    told: list[tuple[float, float]] = []
    done = 0
    while done < most:
        count = min(CHECK, most - done)
        drawn = [rng.choice(len(aims), n, replace=False, shuffle=False) for _ in range(count)]
        batches = np.concatenate([batches, drawn])
        sums = np.concatenate([sums, [aims[batch].sum(0) for batch in drawn]])
        kept = front_of(sums)
        batches, sums, done = batches[kept], sums[kept], done + count
        if _settled(sums, looks, told):
            break
    return _typical(batches, len(aims)), done


def weighed_batch(aims: Floats, n: int, most: int = 1000) -> tuple[Ints, int]:
    """Of the batches that are best by some weights of the two aims, the most typical.

    No other batch dominates one of these. They are found exactly: first the best by either aim;
    then, between two neighbors, the best by the weights that make the two equal, until none is
    better than they are.

    Args:
        aims: (M, 2), M > n; of equally good points the first is taken. n: points in a batch.
        most: batches at the most, those farthest apart.

    Returns:
        (n,) int64 points, and how many batches were compared.

    Source:
        Aneja & Nair, "Bicriteria Transportation Problem", Management Science 1979 (the search).

    >>> weighed_batch(np.array([[3.0, 0.0], [2.0, 2.0], [0.0, 3.0]]), 1)
    (array([1]), 3)
    """
    first = np.lexsort((-aims[:, 1], -aims[:, 0]))[:n]
    second = np.lexsort((-aims[:, 0], -aims[:, 1]))[:n]
    batches = [first, second]
    sums = [aims[batch].sum(0) for batch in batches]
    between = deque([(0, 1)])
    while between and len(batches) < most:
        left, right = between.popleft()
        weights = np.array([sums[right][1] - sums[left][1], sums[left][0] - sums[right][0]])
        best = np.argsort(-(aims @ weights), kind="stable")[:n]
        total = aims[best].sum(0)
        gained = weights @ (total - sums[left])
        if gained > _ROUNDING * n * (np.abs(weights) @ np.abs(aims).max(0)):
            batches.append(best)
            sums.append(total)
            between += [(left, len(batches) - 1), (len(batches) - 1, right)]
    if (sums[0] == sums[1]).all():
        del batches[1], sums[1]
    order = np.argsort([-total[0] for total in sums], kind="stable")
    return _typical(np.array(batches)[order], len(aims)), len(batches)


def _typical(batches: Ints, size: int) -> Ints:
    """The batch that shares most with all; of several the one nearest the middle of the front.

    Args:
        batches: (b, n), by falling first aim. size: M.
    """
    shared = np.bincount(batches.ravel(), minlength=size)
    overlap = shared[batches].sum(1)
    most = np.flatnonzero(overlap == overlap.max())
    best: Ints = batches[most[np.abs(2 * most - (len(batches) - 1)).argmin()]]
    return best


def _settled(front: Floats, looks: list[Floats], told: list[tuple[float, float]]) -> bool:
    """Note one more look at the front; whether the last ones agree."""
    apart = [discrepancy(front, before) for before in looks] or [0.0]
    told.append((float(np.mean(apart)), float(np.std(apart))))
    looks.append(front)
    del looks[:-WINDOW], told[:-WINDOW]
    ranges = np.ptp(np.array(told), axis=0)
    return len(told) == WINDOW and bool((ranges <= AGREE).all())
