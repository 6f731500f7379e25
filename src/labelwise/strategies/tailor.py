"""TAILOR: Thompson sampling over strategies, paid for labels of rare classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Generator, numpy_stream
from labelwise.kernels.cost import score_work
from labelwise.strategies.arms import (
    Arm,
    Proposals,
    are_numbers,
    bound_arms,
    is_count,
    items_of,
    known_classes,
    taken_up,
)
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

_VERSION = 1
_ENTRIES = 1 << 22


def class_values(counts: ArrayLike) -> NDArray[np.float64]:
    """What one more label of each class is worth: the rarer the more.

    ``1 / max(1, w_c)`` for w_c labels of class c, with its sign turned where the class has more
    than half of all labels.

    Args:
        counts: (C,) labels of each class.

    Returns:
        (C,) float64, in [-1, 1].

    >>> class_values(np.array([0.0, 2.0, 8.0]))
    array([ 1.   ,  0.5  , -0.125])
    """
    found = np.asarray(counts, dtype=np.float64)
    values = 1 / np.maximum(1, found)
    return np.where(found > found.sum() / 2, -values, values)


def discounted(
    counts: NDArray[np.float64], arms: Sequence[int], classes: Sequence[int], discount: float
) -> NDArray[np.float64]:
    """Pseudo-counts after a batch: the old ones, discounted, and one for each label.

    Args:
        counts: (K, C) of arm and class.
        arms, classes: (m,) the arm that proposed each pick, and the class it turned out to be.
        discount: in [0, 1].

    >>> discounted(np.ones((2, 2)), [1, 1, 0], [0, 0, 1], 0.9)
    array([[0.9, 1.9],
           [2.9, 0.9]])
    """
    found = discount * np.asarray(counts, dtype=np.float64)
    np.add.at(found, (np.asarray(arms, np.int64), np.asarray(classes, np.int64)), 1.0)
    return found


def promising(
    counts: NDArray[np.float64], values: NDArray[np.float64], n: int, stream: np.random.Generator
) -> NDArray[np.int64]:
    """The arm of the largest ``theta_k . v``, n times over, theta_k ~ Dirichlet(a_k + 1) each time.

    Args:
        counts: (K, C) a, of arm and class. values: (C,) v.
        n: how often. stream: draws them.

    Returns:
        (n,) int64 arms. Where all classes are worth the same every arm is as likely.

    >>> promising(np.array([[900.0, 1.0], [1.0, 900.0]]), np.array([0.1, 1.0]), 3,
    ...           np.random.default_rng(0))
    array([1, 1, 1])
    """
    if np.ptp(values) == 0:  # every arm promises the same
        return stream.integers(len(counts), size=n)
    step = max(1, _ENTRIES // counts.size)
    return np.concatenate(
        [_drawn(counts, values, min(step, n - start), stream) for start in range(0, n, step)]
    )


def _drawn(
    counts: NDArray[np.float64], values: NDArray[np.float64], n: int, stream: np.random.Generator
) -> NDArray[np.int64]:
    theta = stream.standard_gamma(counts + 1, (n, *counts.shape))
    promised: NDArray[np.float64] = theta @ values / theta.sum(2)
    return promised.argmax(1)


@strategy(
    cite="Zhang et al., NeurIPS 2023",
    cost=score_work,
    costs="What its arms cost, each asked for n picks, and n K C draws.",
    fails="Pays for balance, not for accuracy: on balanced classes its arms are all alike to it.",
)
def tailor(
    probs: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    state: Mapping[str, Any] | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    ids: NDArray[Any] | None = None,
    arms: str | Sequence[Arm] = "margin+badge+k_center",
    discount: float = 0.9,
) -> Picks:
    """Let the arm that promises the rarest classes pick, by a draw from what is known of it.

    For each pick anew, theta_k ~ Dirichlet(a_k + 1) is drawn for every arm k, where a_k counts
    the classes that its picks turned out to be; the arm of the largest ``theta_k . v`` gives the
    next row on its list, v being `class_values` of all labels so far. Once a batch has its
    labels, ``a = discount * a + counts``; a is 1 at first.

    The paper's reward for labels that are positive, all ones, is for several classes an item:
    with one class each theta sums to 1, and all arms would be alike.

    Args:
        probs: (N, C); tells the number of classes.
        labeled, labels: (L,), classes so far.
        state: `Picks.state` of its last query; the first query has none.
        arms: strategies, joined by ``+``. The paper's are uncertainty scores, GALAXY, BADGE and
            others.
        discount: in [0, 1], how much earlier batches count; 0.9 is the authors'.

    Returns:
        Rows in the order picked, without scores; ``state`` is what the next query needs, and
        notes tell how many picks each arm gave. Rows that were picked and got no label are
        forgotten.

    Raises:
        InputError: a state of other arms, classes or another version, or a damaged one; labels
            missing, or beyond the model's classes; an option out of range.

    Source:
        Zhang, Shao, Verma & Nowak, "Algorithm Selection for Deep Active Learning with
        Imbalanced Datasets", NeurIPS 2023, and the authors' code.

    >>> from labelwise import select
    >>> p = [[0.9, 0.1], [0.5, 0.5], [0.8, 0.2]]
    >>> select("tailor", 1, probs=p, arms="margin", labeled=[0], labels=[0]).rows
    array([1])
    """
    asked = bound_arms(arms, "tailor")
    names = [arm.name for arm in asked]
    number = isinstance(discount, int | float) and not isinstance(discount, bool)
    if not number or not 0 <= discount <= 1:
        raise InputError(f"discount must be in [0, 1], got {discount!r}")
    found = taken_up(state, strategy="tailor", version=_VERSION, arms=names, sound=_sound)
    classes = check("probs", probs).shape[1]
    known = {} if labels is None else known_classes(labeled, labels, "tailor")
    if any(label >= classes for label in known.values()):
        raise InputError(f"labels must be in 0..{classes - 1}, the classes of probs")
    counts = np.ones((len(asked), classes))
    turn = 0
    if found is not None:
        turn, counts = int(found["count"]), _learned(found, classes, known, ids, discount)
        if found["waiting"]:
            known_classes(labeled, labels, "tailor")
    values = class_values(np.bincount(list(known.values()), minlength=classes))
    generator = generator.child("tailor", turn)
    proposals = Proposals(asked, n, candidates, generator)
    by = promising(counts, values, n, numpy_stream(generator.seed, "theta"))
    rows = []
    for arm in by:
        rows.append(proposals.next()[arm])
        proposals.taken.add(rows[-1])
    given = ", ".join(f"{name} {int((by == k).sum())}" for k, name in enumerate(names))
    return Picks(
        np.array(rows),
        notes=(f"picks of each arm: {given}",),
        state={
            "strategy": "tailor",
            "version": _VERSION,
            "arms": names,
            "count": turn + n,
            "counts": counts.tolist(),
            "waiting": [list(pair) for pair in zip(items_of(rows, ids), by.tolist())],
        },
    )


def _sound(state: Mapping[str, Any]) -> bool:
    """Whether a state has what `_learned` reads."""
    k, counts = len(state["arms"]), state["counts"]
    return (
        is_count(state["count"])
        and are_numbers(counts, k, len(counts[0]))
        and bool((np.asarray(counts) >= 0).all())
        and all({item: None} and arm in range(k) for item, arm in state["waiting"])
    )


def _learned(
    found: Mapping[str, Any],
    classes: int,
    known: Mapping[int, int],
    ids: NDArray[Any] | None,
    discount: float,
) -> NDArray[np.float64]:
    """Pseudo-counts once the last batch has its labels."""
    counts = np.array(found["counts"], dtype=np.float64)
    if counts.shape[1] != classes:
        raise InputError(
            f"state is of tailor with {counts.shape[1]} classes, and probs have {classes}: pass "
            "no state to start afresh"
        )
    labels = dict(zip(items_of(list(known), ids), known.values()))
    answered = [(arm, labels[item]) for item, arm in found["waiting"] if item in labels]
    if not answered:
        return counts
    arms, classes_found = zip(*answered)
    return discounted(counts, arms, classes_found, discount)
