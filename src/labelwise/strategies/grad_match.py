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
    Geometry,
    GradientEmbedding,
    Points,
    Progress,
    Similarity,
    Subset,
    greedy,
    hold_limit,
    matching_pursuit,
)
from labelwise.kernels.cost import Sizes, Work
from labelwise.kernels.functions.pairwise import Pairwise, row_sums, sums_to
from labelwise.kernels.matching_pursuit import Refit
from labelwise.kernels.progress import inside
from labelwise.kernels.sums import LinearSums
from labelwise.strategies.pickers import predicted, top
from labelwise.strategies.picks import Picks
from labelwise.strategies.query_sets import GivenSet, SetMaker
from labelwise.strategies.registry import strategy
from labelwise.strategies.similar import pool_rows

_CHOICES: dict[str, tuple[str, ...]] = {
    "refit": get_args(Refit),
    "per": ("pool", "class"),
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


class Match(NamedTuple):
    """Picks of one target, in rows of the geometry they were made in.

    Attributes:
        rows: (m,) int64 that are of use, at most as many as were asked for.
        scores: (m,) float64. weights: (m,) float64 > 0, relative to the target's mean.
        residual: the length of what is left of the target, relative to the target's.
    """

    rows: Tensor
    scores: Tensor
    weights: Tensor
    residual: float


class FixedMatch(Pairwise):
    """Minus half the squared distance of the picks' sum to a target: ``-|sum_A g - t|^2 / 2``.

    Args:
        similarity: N points g, ``dot``.
        scale: t is this many times the mean of the target.
        target: the mean of these points; of all N by default.
        memory: as for `Pairwise`.
    """

    submodular = False

    def __init__(
        self,
        similarity: Similarity,
        scale: float,
        target: Points | None = None,
        memory: int | None = None,
    ) -> None:
        super().__init__(similarity, -1.0, memory=memory)
        self._scale_to, self._target = scale, target

    def _base(self) -> Tensor:
        sums, own = row_sums(self.similarity)
        if self._target is None:
            mean = sums.div_(len(self))
        else:
            mean = sums_to(self.similarity, self._target).div_(len(self._target))
        return mean.mul_(self._scale_to).sub_(own, alpha=0.5)


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
    per: Literal["pool", "class"] = "pool",
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
            its rows.
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
        ResourceError: C x D over 2^27 numbers, or ``memory`` too small.

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
    groups = _groups(pool, candidates, None if per == "pool" else predicted(p), n)
    matches: list[Match] = []
    for group in groups:
        geometry = whole if len(group.rows) == len(whole) else Subset(whole, group.rows)
        goal = query if query is None or per == "pool" else query[classes == group.label]
        told = inside(progress, group.rows) if per == "pool" else None
        matcher = _Matcher(geometry, goal, memory, told)
        places = torch.searchsorted(group.rows, group.candidates)
        if matcher.nothing():
            continue
        if weights == "equal":
            scale = len(geometry) * (group.n / len(geometry) if share is None else share)
            found = matcher.equal(group.n, places, scale)
        else:
            found = matcher.fitted(group.n, places, lam, refit)
        scale = 1.0 if weights == "equal" else float(len(geometry))
        matches.append(
            Match(group.rows[found.rows], found.scores, found.weights * scale, found.residual)
        )
    return _filled(matches, n, candidates, generator, alone=per == "pool")


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


class _Matcher:
    """Matches one target by some rows.

    Args:
        geometry: the rows. target: points whose mean is matched; that of the rows by default.
    """

    def __init__(
        self,
        geometry: Geometry,
        target: Points | None,
        memory: int | None,
        progress: Progress | None,
    ) -> None:
        self._geometry, self._target = geometry, target
        self._memory, self._progress = memory, progress

    def nothing(self) -> bool:
        """Whether there is no target, or one of length 0."""
        if self._target is not None and not len(self._target):
            return True
        linear = LinearSums.of(Similarity(self._geometry, "dot"))
        if linear is None:
            return False  # too large to sum: the kernel says so
        total = linear.total() if self._target is None else linear.total_of(self._target)
        return linear.norm(total) == 0

    def fitted(self, n: int, candidates: Tensor, lam: float, refit: Refit) -> Match:
        """Orthogonal matching pursuit, without picks of weight 0."""
        found = matching_pursuit(
            self._geometry,
            n,
            target=self._target,
            lam=lam,
            refit=refit,
            candidates=candidates,
            memory=self._memory,
            progress=self._progress,
        )
        used = found.weights > 0
        return Match(found.rows[used], found.gains[used], found.weights[used], found.residual)

    def equal(self, n: int, candidates: Tensor, scale: float) -> Match:
        """Greedily, with weights of 1."""
        left = None if self._memory is None else max(0, self._memory - 64 * len(self._geometry))
        similarity = Similarity(self._geometry, "dot")
        found = greedy(
            FixedMatch(similarity, scale, self._target, left),
            n,
            candidates=candidates,
            progress=self._progress,
            memory=self._memory,
        )
        linear = LinearSums.of(similarity)
        assert linear is not None
        total = linear.total() if self._target is None else linear.total_of(self._target)
        total = total.times(scale / int(total.weight))
        less = total.plus(linear.total(found.rows).times(-1.0))
        residual = math.sqrt(linear.norm(less) / linear.norm(total))
        return Match(found.rows, found.gains, torch.ones(n, dtype=torch.float64), residual)


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
