"""GradMatch: a weighted few rows whose gradients add up to those of the whole pool."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Generator,
    GradientEmbedding,
    Points,
    Progress,
    Subset,
    hold_limit,
)
from labelwise.kernels.cost import Sizes, Work
from labelwise.kernels.matching_pursuit import Refit
from labelwise.kernels.progress import inside
from labelwise.strategies.gradient_matching import Match, Matcher
from labelwise.strategies.pickers import predicted, top
from labelwise.strategies.picks import Picks
from labelwise.strategies.query_sets import GivenSet, SetMaker
from labelwise.strategies.registry import strategy
from labelwise.strategies.similar import pool_rows

_CHOICES: dict[str, tuple[str, ...]] = {
    "refit": get_args(Refit),
    "per": ("pool", "class", "batch"),
    "weights": ("fitted", "equal"),
    "target": ("pool", "query"),
}


def grad_match_work(sizes: Sizes) -> Work:
    """Inner products of all rows with each pick, and a fit of the weights at each."""
    width, n = sizes.width + sizes.classes, float(sizes.n)
    product = 2.0 * sizes.rows * sizes.width * sizes.classes
    held = 4.0 * sizes.rows * (n + 64 + 16)
    return Work(
        products=(product, 10 * product + 8 * sizes.rows * width * (n + 64) + 20 * n**3),
        passes=(2, 10 + 2 * n),
        numbers=(sizes.rows * n, 60.0 * sizes.rows * (n + 20) + 20 * n**3),
        steps=(n, 400 * n),
        held=(16.0 * sizes.rows, 2 * held + 40 * n**2 + 8.0 * sizes.rows * width + 4e6),
    )


@strategy(
    cite="Killamsetty et al., ICML 2021",
    cost=grad_match_work,
    costs="2 N (C + D) operations a pick and a fit of n weights; 4 N (n + 64) bytes.",
    fails=(
        "Gradients at predicted labels mean little while the model is poor; when few rows match "
        "the mean the others are random, of which a note tells."
    ),
)
def grad_match(
    probs: Rows,
    embeddings: Rows,
    labeled: Tensor | None = None,
    query_probs: Rows | None = None,
    query_embeddings: Rows | None = None,
    query_labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    weights: Literal["fitted", "equal"] = "fitted",
    refit: Refit = "nonnegative",
    lam: float = 0.0,
    per: Literal["pool", "class", "batch"] = "pool",
    batch_size: int = 20,
    target: Literal["pool", "query"] = "pool",
    share: float | None = None,
    bias: bool = True,
) -> Picks:
    """Pick rows, and weights, whose gradients add up to those of all rows without labels.

    Gradients are the last layer's, at predicted labels. By orthogonal matching pursuit each pick
    has the largest (signed) inner product with what the weighted sum of earlier picks leaves of
    the target; then all weights are fitted again.

    Args:
        probs: (N, C). embeddings: (N, D), the input of the last layer.
        labeled: (L,) rows with labels: not matched.
        query_probs, query_embeddings, query_labels: (Q, C), (Q, D), (Q,): validation points.
        weights: ``"equal"`` picks greedily so that the plain sum of gradients is nearest
            ``share`` times the target's, as the authors' code for active learning does unless
            told otherwise.
        refit: ``"nonnegative"`` keeps weights >= 0 at every step, as that code does;
            ``"signed"`` only at the end, as for training subsets.
        lam: ridge on the weights, >= 0; 0 in that code, 0.5 in the paper.
        per: ``"class"`` matches each predicted class by itself, with a quota in proportion to
            its rows; ``"batch"`` picks whole random batches of ``batch_size`` candidates by
            their mean gradients, as GRAD-MATCH-PB does in training: fast, and little to choose
            from.
        batch_size: see there, >= 1.
        target: ``"query"`` matches the mean gradient of the query points, at true labels.
        share: n / N by default, as the authors document; their code takes 1.
        bias: whether the gradient includes the last layer's bias, as the authors' does.

    Returns:
        Rows in the order picked (by class, if so). Scores are the inner products (with equal
        weights: by how much half the squared distance falls); weights say how many rows of the
        pool a pick stands for, > 0. A pick that the others leave no use for would get weight 0:
        like the authors we take random rows of weight 1 and score 0 in place of those, of which
        a note tells. If there is nothing to match, all are random.

    Raises:
        InputError: an option out of range, or query points missing.
        ResourceError: C x D over 2^27 numbers (C x D x N / ``batch_size`` for batches), or
            ``memory`` too small.

    Source:
        Killamsetty, Durga, Ramakrishnan, De & Iyer, "GRAD-MATCH: Gradient Matching based Data
        Subset Selection for Efficient Deep Model Training", ICML 2021; for active learning
        DISTIL, by the same authors. Weights are the least squares ones; theirs solve the
        regularized normal equations under the same sign.

    >>> from labelwise import select
    >>> probs = [[0.9, 0.1], [0.5, 0.5], [0.8, 0.2]]
    >>> picks = select("grad_match", 1, probs=probs, embeddings=[[1.0], [2.0], [3.0]])
    >>> picks.rows, picks.weights.round(2)
    (array([1]), array([1.68]))
    """
    _check_options(refit=refit, per=per, weights=weights, target=target)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
    if per == "batch" and weights == "equal":
        raise InputError('per="batch" picks by fitted weights: leave weights="equal" out')
    if share is not None and not 0 < share < math.inf:
        raise InputError(f"share must be a finite number > 0, got {share}")
    p, h = check("probs", probs), check("embeddings", embeddings)
    whole = GradientEmbedding(p, h, bias=bias, hold=hold_limit(memory))
    query: Points | None = None
    classes = torch.zeros(0, dtype=torch.int64)
    if target == "query":
        given = GivenSet("query", query_probs, query_embeddings, query_labels, None)
        if query_labels is None or query_probs is None or query_embeddings is None:
            raise InputError('target="query" needs query_probs, query_embeddings and query_labels')
        query = SetMaker(p, h, whole, "gradient", None, None).points(given)
        classes = check("query_labels", query_labels)
    pool = pool_rows(len(p), labeled, candidates)
    groups = _groups(pool, candidates, predicted(p) if per == "class" else None, n)
    matches: list[Match] = []
    for group in groups:
        geometry = whole if len(group.rows) == len(whole) else Subset(whole, group.rows)
        goal = query if query is None or per != "class" else query[classes == group.label]
        told = inside(progress, group.rows) if per == "pool" else None
        matcher = Matcher(geometry, goal, memory, told)
        places = torch.searchsorted(group.rows, group.candidates)
        if matcher.nothing():
            continue
        if weights == "equal":
            scale = len(geometry) * (group.n / len(geometry) if share is None else share)
            found = matcher.equal(group.n, places, scale)
        elif per == "batch":
            noise = generator.of(group.rows.numpy())
            found = matcher.batches(n, places, lam, refit, size=batch_size, generator=noise)
        else:
            found = matcher.fitted(group.n, places, lam, refit)
        scale = 1.0 if weights == "equal" else float(len(geometry))
        matches.append(
            Match(group.rows[found.rows], found.scores, found.weights * scale, found.residual)
        )
    return _filled(matches, n, candidates, generator, alone=per != "class")


class _Group(NamedTuple):
    """Rows that are matched by themselves, those that may be picked, and how many are."""

    label: int
    rows: Tensor
    candidates: Tensor
    n: int


def _groups(pool: Tensor, candidates: Tensor, labels: Tensor | None, n: int) -> list[_Group]:
    """The pool as one group, or a group for each class with its quota of the picks."""
    if labels is None:
        return [_Group(0, pool, candidates, n)]
    mine, theirs = labels[pool], labels[candidates]
    count = int(labels.max()) + 1
    sizes = torch.bincount(mine, minlength=count).numpy()
    room = torch.bincount(theirs, minlength=count).numpy()
    shares = quotas(sizes, room, n).tolist()
    return [
        _Group(c, pool[mine == c], candidates[theirs == c], share)
        for c, share in enumerate(shares)
        if share
    ]


def quotas(sizes: NDArray[np.int64], room: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """n picks shared out in proportion to sizes, as far as there is room.

    Args:
        sizes, room: (C,), with n <= the sum of room.

    Returns:
        (C,), proportions rounded down; what is left goes one by one to whoever is furthest
        below its proportion, the lowest class on a tie.

    >>> quotas(np.array([6, 3, 1]), np.array([6, 1, 1]), 5).tolist()
    [3, 1, 1]
    """
    exact = n * sizes / sizes.sum()
    found: NDArray[np.int64] = np.minimum(np.floor(exact).astype(np.int64), room)
    for _ in range(n - int(found.sum())):
        found[np.where(found < room, exact - found, -np.inf).argmax()] += 1
    return found


def _filled(
    matches: list[Match], n: int, candidates: Tensor, generator: Generator, alone: bool
) -> Picks:
    """The matches as n picks, random ones where they are too few."""
    none = torch.zeros(0, dtype=torch.float64)
    rows = torch.cat([none.long(), *(m.rows for m in matches)])
    scores = torch.cat([none, *(m.scores for m in matches)])
    weights = torch.cat([none, *(m.weights for m in matches)])
    notes = []
    if alone and matches:
        notes.append(f"what is left of the target is {matches[0].residual:.3g} of its length")
    missing = n - len(rows)
    if missing:
        rest = candidates[~torch.isin(candidates, rows)]
        same = torch.zeros(int(candidates.max()) + 1)
        more = top(same, n=missing, candidates=rest, generator=generator.child("fill")).rows
        rows = torch.cat([rows, more])
        scores = torch.cat([scores, torch.zeros(missing, dtype=torch.float64)])
        weights = torch.cat([weights, torch.ones(missing, dtype=torch.float64)])
        notes.append(f"{missing} of the picks are random: no others help to match the gradients")
    return Picks(rows.numpy(), scores=scores.numpy(), weights=weights.numpy(), notes=tuple(notes))


def _check_options(**given: str) -> None:
    for name, value in given.items():
        known = _CHOICES[name]
        if value not in known:
            raise InputError(f"{name} must be known, got {value!r}; {nearest(value, known)}")
