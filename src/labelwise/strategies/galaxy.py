"""GALAXY: bisect, on each class's line, the shortest path between two different labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Generator
from labelwise.strategies.lines import Ints, Lines, known_labels, lines_work
from labelwise.strategies.pickers import predicted
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy


@strategy(
    cite="Zhang et al., ICML 2022",
    cost=lines_work,
    costs="A sort of N rows for each class; 4 N C bytes for probabilities, 8 N for each line.",
    fails=(
        "Its adaptive part needs each label before the next pick; balanced pools gain little "
        "over margin; random until a class has a label."
    ),
)
def galaxy(
    probs: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    pending: Literal["unknown", "predicted"] = "unknown",
    turns: Literal["fixed", "random"] = "fixed",
) -> Picks:
    """Classes take turns; each asks for the middle of the shortest path on its line.

    A class's line has all rows in order of ``p_k - max_c p_c``, those predicted as k by
    ``p_k``; two classes have a single line. A path leads from a row labeled k to one labeled
    otherwise with no labeled row between. Of the shortest path the middle is asked for, of two
    middles the one nearer the row labeled k. Where no such path is left, rows up to l places
    apart count as neighbors, for the least l that gives a path: the row asked for is then the
    one whose nearest k and nearest other label are, the farther of the two, nearest. A class
    without a label of its own, or with nothing else labeled, asks for a random row.

    The authors' simulation tells each label before the next pick. Labels of a batch come later,
    so here a pick of this call is taken off the line, which changes no path's ends. To have it
    as published, ask for one row at a time with the same ``probs`` and pass each label; or use
    `galaxy_sequential` in a simulation.

    Args:
        probs: (N, C), C >= 2.
        labeled, labels: (L,) rows with labels and their classes.
        pending: what a pick of this call counts as until its label comes: ``"unknown"`` takes it
            off the line; ``"predicted"`` believes the model's prediction, and goes on bisecting.
        turns: ``"fixed"`` goes round the classes, as the authors' code of the paper does, starting
            with class L mod C (theirs with 0); ``"random"`` draws a class each time, as their
            LabelBench does.

    Returns:
        Rows in the order asked for, without scores. With nothing labeled all are random, and a
        note says so.

    Raises:
        InputError: a single class, an option or a label out of range.

    Source:
        Zhang, Katz-Samuels & Nowak, "GALAXY: Graph-based Active Learning at the Extreme", ICML
        2022. Their code raises l once a pick, for all classes and from then on, and draws a random
        row where that gives no path; here every pick starts at l = 1. O((L + n) log(L + n)) a
        pick, after a sort of the pool for each class.

    >>> from labelwise import select
    >>> first = [0.9, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1]
    >>> probs = [[p, 1 - p] for p in first]
    >>> select("galaxy", 1, probs=probs, labeled=[0, 6], labels=[0, 1]).rows
    array([3])
    """
    if pending not in ("unknown", "predicted"):
        raise InputError(f'pending must be "unknown" or "predicted", got {pending!r}')
    p = check("probs", probs)
    believed = predicted(p).numpy() if pending == "predicted" else None

    def answer(row: int) -> int | None:
        return None if believed is None else int(believed[row])

    return bisect(p, labeled, labels, n, candidates, generator, answer, turns)


def bisect(
    probs: Rows,
    labeled: Tensor | None,
    labels: Tensor | None,
    n: int,
    candidates: Tensor,
    generator: Generator,
    answer: Callable[[int], int | None],
    turns: str,
) -> Picks:
    """The picks of `galaxy` when ``answer`` tells a pick's label, or None for not known yet."""
    classes = probs.shape[1]
    if classes < 2:
        raise InputError("galaxy tells a class from the rest, but probs has one column")
    if turns not in ("fixed", "random"):
        raise InputError(f'turns must be "fixed" or "random", got {turns!r}')
    rows, mine, notes = known_labels(labeled, labels, classes)
    lines = Lines(probs, rows, candidates, generator)
    known, off = (rows, mine), np.zeros(0, np.int64)
    free = candidates.cpu().numpy()
    free = free[np.argsort(generator.child("random").uniform(free), kind="stable")].tolist()
    draws = np.random.default_rng(generator.child("turns").seed).integers(classes, size=n)
    taken: set[int] = set()
    picks: list[int] = []
    for turn in range(n):
        k = int(draws[turn]) if turns == "random" else (len(rows) + turn) % classes
        # With two classes one line is the other from behind.
        found = _middle(lines, k if classes > 2 else 0, *known, off)
        if found is None:
            while free[-1] in taken:
                free.pop()
            found = free[-1]
        taken.add(found)
        picks.append(found)
        label = answer(found)
        if label is None:
            off = np.append(off, found)
        else:
            known = np.append(known[0], found), np.append(known[1], label)
    return Picks(np.array(picks), notes=notes)


def _middle(lines: Lines, k: int, known: Ints, labels: Ints, off: Ints) -> int | None:
    """The row to ask for on a class's line, or None where all labels there are alike."""
    is_class = labels == k
    if is_class.all() or not is_class.any():
        return None
    at = lines.place(k, known)
    by_place = np.argsort(at)
    at, is_class = at[by_place], is_class[by_place]
    gone = np.sort(lines.place(k, off))
    place = _between(at, is_class, gone)
    if place is None:
        place = _around(at, is_class, gone, len(lines))
    return int(lines.order(k)[place])


def _between(at: Ints, is_class: np.ndarray, gone: Ints) -> int | None:
    """The middle of the shortest path between neighbors of different kinds, if one is left.

    Args:
        at: (L,) places of labeled rows, ascending. is_class: (L,) whether each is of the class.
        gone: places off the line, ascending.
    """
    gaps = np.diff(at) - 1 - np.diff(np.searchsorted(gone, at))
    paths = np.flatnonzero((is_class[1:] != is_class[:-1]) & (gaps > 0))
    if not len(paths):
        return None
    i = paths[gaps[paths].argmin()]
    inside = np.setdiff1d(np.arange(at[i] + 1, at[i + 1]), gone, assume_unique=True)
    # An odd number has one middle; of two it is the one nearer the end that is of the class.
    return int(inside[(len(inside) - bool(is_class[i])) // 2])


def _around(at: Ints, is_class: np.ndarray, gone: Ints, size: int) -> int:
    """The free place whose nearest labels of both kinds are nearest, the farther one counting."""
    full = np.union1d(at, gone)
    # Between labels of one kind the places next to a taken one are nearest the other kind.
    free = np.setdiff1d(np.concatenate([full - 1, full + 1]), full)
    free = free[(free >= 0) & (free < size)]

    def steps(places: Ints) -> Ints:
        return places - np.searchsorted(gone, places)

    apart = [_nearest(steps(free), steps(at[kind])) for kind in (is_class, ~is_class)]
    return int(free[np.maximum(*apart).argmin()])


def _nearest(places: Ints, others: Ints) -> Ints:
    """Distance of each place to the nearest of some others, ascending."""
    after = np.searchsorted(others, places).clip(max=len(others) - 1)
    before = (after - 1).clip(min=0)
    found: Ints = np.minimum(np.abs(others[after] - places), np.abs(others[before] - places))
    return found
