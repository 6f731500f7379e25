"""DIRECT: find where each class ends on its line, and ask around that place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Generator
from labelwise.strategies.lines import Ints, Lines, known_labels, lines_work
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy


@strategy(
    cite="Nuggehalli et al., ICML 2025",
    cost=lines_work,
    costs="A sort of N rows for each class; 4 N C bytes for probabilities, 8 N for each line.",
    fails=(
        "With few labels thresholds are guesses, and half the batch is spread over wide "
        "intervals; balanced pools gain little over margin."
    ),
)
def direct(
    probs: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    explore: float = 0.5,
    per_class: int | None = 60,
) -> Picks:
    """Half of the batch is drawn where a class may end, the other asked around where it ends.

    A class's line has all rows in order of ``p_k - max_c p_c``, those predicted as k by ``p_k``.
    A threshold says k before it and not k from it on; its errors are counted on labeled rows.

    1. For every class, rarest among the labels last, rows are drawn uniformly from the interval
       that may hold the threshold: from the last label k before any other label to the first
       other label after the last k. The batch's share ``explore`` is split evenly, at most
       ``per_class`` rows a class.
    2. The rest is split evenly over the classes, in random order. Each asks for rows left and
       right of its best threshold in turn, nearest first; of equally good ones the first, just
       after a label k, or the start of the line where it is best to call nothing k.

    The authors draw in step 1 as often as annotators answer together (20 labels, in their code)
    and narrow the interval with each answer; here the whole batch is answered together, which
    is the same with as many annotators as rows.

    Args:
        probs: (N, C), C >= 2.
        labeled, labels: (L,) rows with labels and their classes.
        explore: share of the batch for step 1, in [0, 1].
        per_class: the most rows that step 1 draws for a class; None for no such bound.

    Returns:
        Rows in the order asked for, without scores. With nothing labeled all are random, and a
        note says so.

    Raises:
        InputError: a single class, an option or a label out of range.

    Source:
        Nuggehalli, Zhang, Jain & Nowak, "DIRECT: Deep Active Learning under Imbalance and Label
        Noise", 2023; "Improved Algorithm for Deep Active Learning under Imbalance via Optimal
        Separation", ICML 2025; shares as in their LabelBench. O(N C) after the sorts.

    >>> from labelwise import select
    >>> first = [0.9, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1]
    >>> probs = [[p, 1 - p] for p in first]
    >>> sorted(select("direct", 2, probs=probs, labeled=[1, 6], labels=[0, 1], explore=0))
    [2, 5]
    """
    _check_options(explore, per_class)
    p = check("probs", probs)
    classes = p.shape[1]
    if classes < 2:
        raise InputError("direct tells a class from the rest, but probs has one column")
    rows, mine, notes = known_labels(labeled, labels, classes)
    if notes:
        free = candidates.cpu().numpy()
        return Picks(free[_by_noise(free, generator, "random")[:n]], notes=notes)
    lines = Lines(p, rows, candidates, generator)
    left = np.zeros(len(p), dtype=bool)
    left[candidates.cpu().numpy()] = True
    picks: list[int] = []

    def take(found: NDArray[np.int64]) -> None:
        left[found] = False
        picks.extend(found.tolist())

    quota = int(explore * n) // classes
    quota = quota if per_class is None else min(quota, per_class)
    for k in _commonest_first(mine, classes) if quota else ():
        first, last = interval(*_seen(lines, k, rows, mine), len(lines))
        inside = lines.order(k)[first : last + 1].astype(np.int64)
        inside = inside[left[inside]]
        take(inside[_by_noise(inside, generator, "interval", k)[:quota]])
    rest = n - len(picks)
    shuffled = np.random.default_rng(generator.child("classes").seed).permutation(classes)
    for i, k in enumerate(shuffled.tolist()):
        quota = rest * (i + 1) // classes - rest * i // classes
        if quota:
            start = threshold(*_seen(lines, k, rows, mine))
            take(_around(lines.order(k), start, left, quota))
    return Picks(np.array(picks))


def interval(at: Ints, is_class: NDArray[np.bool_], size: int) -> tuple[int, int]:
    """The first and the last place where a class may end on its line.

    Args:
        at: (L,) places of labeled rows, ascending. is_class: (L,) whether each is of the class.
        size: how many rows are on the line.

    >>> interval(np.array([1, 3, 5, 8]), np.array([True, False, True, False]), 10)
    (1, 8)
    """
    other = np.flatnonzero(~is_class)
    own = np.flatnonzero(is_class)
    before = other[0] if len(other) else len(at)
    after = own[-1] if len(own) else -1
    first = int(at[before - 1]) if before > 0 else 0
    last = int(at[after + 1]) if after + 1 < len(at) else size - 1
    return first, last


def threshold(at: Ints, is_class: NDArray[np.bool_]) -> int:
    """The first of the places from which on calling rows not k makes the fewest errors.

    Args:
        at: (L,) places of labeled rows, ascending. is_class: (L,) whether each is of the class.

    >>> threshold(np.array([1, 3, 5, 8]), np.array([True, False, True, True]))
    9
    """
    # Right less wrong over all labels is twice this sum and a constant.
    gained = np.concatenate([[0], np.cumsum(np.where(is_class, 1, -1))])
    best = int(gained.argmax())
    return int(at[best - 1]) + 1 if best else 0


def _seen(lines: Lines, k: int, rows: Ints, labels: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Where labeled rows are on a class's line, ascending, and which are of the class."""
    at = lines.place(k, rows)
    order = np.argsort(at)
    return at[order], labels[order] == k


def _around(order: NDArray[np.int32], start: int, left: NDArray[np.bool_], n: int) -> Ints:
    """Up to n free rows of a line: the nearest before a place and from it on, in turn."""
    free = np.flatnonzero(left[order])
    middle = np.searchsorted(free, start)
    sides = free[:middle][::-1][:n], free[middle:][:n]
    # Turns go by place, taken or not: whose next free row is nearer comes first.
    steps = [2 * (start - 1 - sides[0]), 2 * (sides[1] - start) + 1]
    nearest = np.argsort(np.concatenate(steps), kind="stable")[:n]
    return order[np.concatenate(sides)[nearest]].astype(np.int64)


def _commonest_first(labels: Ints, classes: int) -> list[int]:
    counts = np.bincount(labels, minlength=classes)
    return [int(k) for k in np.argsort(-counts, kind="stable")]


def _by_noise(rows: Ints, generator: Generator, *names: str | int) -> Ints:
    found: Ints = np.argsort(generator.child(*names).uniform(rows), kind="stable")
    return found


def _check_options(explore: float, per_class: int | None) -> None:
    if isinstance(explore, bool) or not isinstance(explore, int | float) or not 0 <= explore <= 1:
        raise InputError(f"explore must be a share in [0, 1], got {explore!r}")
    whole = isinstance(per_class, int) and not isinstance(per_class, bool)
    if per_class is not None and (not whole or per_class < 0):
        raise InputError(f"per_class must be a whole number >= 0 or None, got {per_class!r}")
