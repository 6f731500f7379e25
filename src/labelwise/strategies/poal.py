"""POAL: batches that are unsure and not foreign, by Pareto search without a weight between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Generator, per_row
from labelwise.kernels.cost import Sizes, Work, score_work
from labelwise.strategies.entropy import entropy_scores
from labelwise.strategies.pareto import drawn_batch, fronts, weighed_batch
from labelwise.strategies.picks import Picks
from labelwise.strategies.query_sets import class_numbers
from labelwise.strategies.registry import strategy

_ROUNDING = 2.0**-52

_COPIES = 1e-26
"""What rounding leaves of the variance of copies, relative to their squares."""


def poal_work(sizes: Sizes) -> Work:
    """Entropies, Mahalanobis distances in float64, and a search of up to 6 n^2 batches."""
    few = min(sizes.width, sizes.labeled or sizes.width)
    products = 2.0 * sizes.rows * sizes.width * (few + sizes.classes)
    held = 8.0 * sizes.width * few
    drawn = 6.0 * sizes.n**2
    return score_work(sizes) + Work(
        products=(0.0, 8 * products + 100.0 * few**3),
        passes=(0, 3),
        numbers=(0.0, 400.0 * sizes.rows + drawn * (60.0 * sizes.n + 2000)),
        steps=(0.3 * min(drawn, 2000), 10 * drawn + 1000),
        held=(held, 8 * held + 48.0 * sizes.rows + 3200.0 * sizes.n),
    )


def in_distribution_scores(
    embeddings: Rows | Tensor, labeled: Tensor, labels: Tensor, ridge: float = 0.0
) -> tuple[Tensor, bool]:
    """Closeness of each row to the nearest class: ``max_c -(h - m_c)' P (h - m_c) / 2``.

    m_c is the mean of the rows labeled c, P the inverse of the one covariance of all labeled
    rows about their classes' means; where that is singular, its pseudo-inverse.

    Args:
        embeddings: (N, D).
        labeled, labels: (L,) rows that are known to belong, L >= 1, and their classes.
        ridge: added to the covariance's diagonal, as a multiple of its mean, >= 0.

    Returns:
        (N,) float64 <= 0, no unit, **larger = more surely in distribution**; and whether labeled
        rows spread about their means at all. Where they do not, P is the identity.

    Source:
        Lee, Lee, Lee & Shin, "A Simple Unified Framework for Detecting Out-of-Distribution
        Samples and Adversarial Attacks", NeurIPS 2018: of one layer, inputs not perturbed.

    >>> h = torch.tensor([[1.0], [3.0], [2.0], [9.0]])
    >>> in_distribution_scores(h, torch.tensor([0, 1]), torch.tensor([0, 0]))[0]
    tensor([ -0.5000,  -0.5000,   0.0000, -24.5000], dtype=torch.float64)
    """
    rows = check("embeddings", embeddings)
    present, member = labels.unique(return_inverse=True)
    counts = torch.bincount(member).double()
    means = torch.zeros(len(present), rows.shape[1], dtype=torch.float64, device=rows.device)
    for part, mine in zip(labeled.split(4096), member.split(4096)):
        means.index_add_(0, mine.to(rows.device), rows.take(part).double())
    means /= counts[:, None].to(rows.device)
    vectors, weights, rest = _precision(rows, labeled, means, member, ridge)
    spread = bool(len(weights))
    if not spread:
        rest = 1.0
    middle = means.mean(0)
    centers = means - middle
    turned = (centers @ vectors) * (weights - rest)
    norms = rest * centers.square().sum(1) + (turned * (centers @ vectors)).sum(1)

    def closeness(block: Tensor) -> Tensor:
        x = as_float(block).double() - middle
        z = x @ vectors
        squared = z.square() @ (weights - rest)
        cross = z @ turned.T
        if rest:
            squared += rest * x.square().sum(1)
            cross += rest * x @ centers.T
        return 0 - (squared + (norms - 2 * cross).amin(1)).clamp(min=0) / 2

    return per_row(rows.blocks(), len(rows), closeness).cpu(), spread


def _precision(
    rows: Rows, labeled: Tensor, means: Tensor, member: Tensor, ridge: float
) -> tuple[Tensor, Tensor, float]:
    """The inverse covariance of labeled rows about their means, as eigenvectors and eigenvalues.

    Fewer rows than dimensions are taken as their L x L products, never D x D.

    Args:
        means: (c, D). member: (L,) which of the means each labeled row is about.

    Returns:
        (D, K) vectors, K at most L and D; (K,) eigenvalues of the inverse, and the one of all
        other directions: 0 with ``ridge`` 0. K is 0 where the rows do not spread.
    """
    width, few = rows.shape[1], len(labeled) < rows.shape[1]
    size = len(labeled) if few else width
    away = torch.zeros(len(labeled) if few else 0, width, dtype=torch.float64, device=rows.device)
    gram = torch.zeros(size, size, dtype=torch.float64, device=rows.device)
    for at in range(0, len(labeled), 4096):
        some = slice(at, at + 4096)
        block = rows.take(labeled[some]).double() - means[member[some].to(rows.device)]
        if few:
            away[some] = block
        else:
            gram += block.T @ block
    if few:
        gram = away @ away.T
    gram /= len(labeled)
    spread = float(gram.diagonal().sum()) / width
    none = away.new_zeros(width, 0), away.new_zeros(0), 0.0
    if spread < _COPIES * float(means.square().mean()):
        return none
    values, vectors = torch.linalg.eigh(gram)
    whole = values > width * _ROUNDING * values[-1]
    if not bool(whole.any()):
        return none
    values, vectors = values[whole], vectors[:, whole]
    if few:
        vectors = away.T @ vectors / (values * len(labeled)).sqrt()
    added = ridge * spread
    return vectors, 1 / (values + added), 1 / added if added else 0.0


@strategy(
    cite="Zhan et al., TMLR 2023",
    cost=poal_work,
    costs="Products of N D (min(D, L) + C) in float64; up to 6 n^2 random batches of n rows.",
    fails=(
        "Random batches of many rows are all alike, so the larger n the closer it is to random "
        "among 6 n rows (search=weights is not); without foreign rows entropy finds more."
    ),
)
def poal(
    probs: Rows,
    embeddings: Rows,
    labeled: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    private_classes: int | str | Sequence[int] | None = None,
    preselect: int | None = 6,
    ridge: float = 0.0,
    max_draws: int | None = None,
    search: Literal["random", "weights"] = "random",
) -> Picks:
    """A batch that no other drawn one beats both in entropy and in being of known classes.

    1. Aims of a row: the entropy of its prediction, and its `in_distribution_scores` by the
       labeled rows. Both are to be large.
    2. Candidates are kept front by front (those that no other dominates; then those that none
       of the rest does; ...) until there are ``preselect`` n.
    3. Batches of n of them are drawn at random; those that no other dominates in both sums are
       kept. It ends when the front no longer changes; see
       `labelwise.strategies.pareto.drawn_batch`.
    4. Of these batches the one that shares most with the others is asked for.

    Args:
        probs: (N, C).
        embeddings: (N, D).
        labeled, labels: (L,) rows with labels and their classes.
        private_classes: classes that do not belong, for rows found to be foreign: their labeled
            rows say nothing of what is in distribution. One, several, or text as ``"3+7"``.
        preselect: how many times n rows are left to draw from, >= 1; None for all candidates.
            6 is the authors' for networks; for small models they take 4 or 5.
        ridge: see `in_distribution_scores`; 0 is the authors'.
        max_draws: batches drawn at the most; n times the rows to draw from by default.
        search: ``"random"`` as in the paper; ``"weights"`` compares in step 3 the batches that
            are best by some weights of the aims instead, which are all on the true front, at most
            1,000 of them; see `labelwise.strategies.pareto.weighed_batch`.

    Returns:
        Rows by falling entropy, which is their score. With no row that is known to belong, all
        are taken to, and a note says so.

    Raises:
        InputError: an option out of range, or labels beyond the classes.

    Source:
        Zhan, Dai, Wang, Li, Xiong, Dou & Chan, "Pareto Optimization for Active Learning under
        Out-of-Distribution Data Scenarios", TMLR 2023. They average the score over all layers
        of a network and perturb its inputs; here it is of one layer, as given. Where
        their code differs from their paper this follows the paper: the score rises with being
        familiar, batches that are dominated go, and mean and deviation are over all looks.
    """
    _check_options(preselect, ridge, max_draws, search)
    p = check("probs", probs)
    free = candidates.cpu()
    entropy = entropy_scores(p).cpu()[free].numpy()
    familiar, notes = _familiar(p, embeddings, labeled, labels, private_classes, ridge)
    aims = np.stack([entropy, familiar[free].numpy()], 1)
    rows = free.numpy()
    # In an order of their own, so that draws belong to items and not to rows.
    shuffled = np.argsort(generator.child("order").uniform(rows), kind="stable")
    aims, rows = aims[shuffled], rows[shuffled]
    if preselect is not None and preselect * n < len(rows):
        front = fronts(aims)
        last = int(np.searchsorted(np.cumsum(np.bincount(front)), preselect * n))
        aims, rows = aims[front <= last], rows[front <= last]
    if n < len(rows):
        if search == "random":
            most = n * len(rows) if max_draws is None else max_draws
            found, count = drawn_batch(aims, n, generator, most)
        else:
            found, count = weighed_batch(aims, n)
        notes.append(f"{count} batches of {len(rows)} rows compared")
        aims, rows = aims[found], rows[found]
    order = np.lexsort((generator.child("ties").uniform(rows), -aims[:, 0]))
    return Picks(rows[order], scores=aims[order, 0], notes=tuple(notes))


def _familiar(
    probs: Rows,
    embeddings: Rows,
    labeled: Tensor | None,
    labels: Tensor | None,
    private_classes: int | str | Sequence[int] | None,
    ridge: float,
) -> tuple[Tensor, list[str]]:
    """In-distribution scores, and what to note of them."""
    if labeled is None or labels is None:
        said = "nothing is labeled" if labeled is None else "labels were not passed with labeled"
        return torch.zeros(len(probs), dtype=torch.float64), [f"{said}: every row counts as known"]
    classes = probs.shape[1]
    private: list[int] = []
    if private_classes is not None:
        private = class_numbers(private_classes, "private_classes")
    known = ~torch.isin(labels, torch.tensor(private, dtype=torch.int64))
    beyond = labels[known & (labels >= classes)]
    if len(beyond):
        raise InputError(
            f"labels must be classes 0..{classes - 1} or of private_classes, but one is "
            f"{int(beyond[0])}"
        )
    if not bool(known.any()):
        zeros = torch.zeros(len(probs), dtype=torch.float64)
        return zeros, ["every labeled row is private: every row counts as known"]
    found, spread = in_distribution_scores(embeddings, labeled[known], labels[known], ridge)
    note = "labeled rows are all at their classes' means: distances are Euclidean"
    return found, [] if spread else [note]


def _check_options(preselect: int | None, ridge: float, max_draws: int | None, search: str) -> None:
    if search not in ("random", "weights"):
        raise InputError(f'search must be "random" or "weights", got {search!r}')
    for name, value in {"preselect": preselect, "max_draws": max_draws}.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number >= 1 or None, got {value!r}")
    if isinstance(ridge, bool) or not isinstance(ridge, int | float) or not 0 <= ridge < np.inf:
        raise InputError(f"ridge must be a number >= 0, got {ridge!r}")
