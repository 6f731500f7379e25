"""FASS: of the uncertain rows, those that represent the others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Chosen,
    Cosine,
    Generator,
    GradientEmbedding,
    Progress,
    Similarity,
    greedy,
)
from labelwise.kernels.cost import Sizes, Work, coverage_work, score_work
from labelwise.kernels.progress import inside
from labelwise.strategies.entropy import entropy_scores
from labelwise.strategies.least_confidence import least_confidence_scores
from labelwise.strategies.margin import margin_scores
from labelwise.strategies.pickers import top
from labelwise.strategies.registry import strategy
from labelwise.strategies.similar import build

Function = Literal["fl", "gc", "logdet"]

UNCERTAINTIES: dict[str, Callable[[Rows], Tensor]] = {
    "entropy": entropy_scores,
    "margin": margin_scores,
    "least_confidence": least_confidence_scores,
}


def fass_work(sizes: Sizes) -> Work:
    """A score of every row, and a set function over 5 n of them."""
    kept = min(sizes.rows, 5 * sizes.n)
    return score_work(sizes) + coverage_work(sizes._replace(rows=kept))


@strategy(
    cite="Wei et al., ICML 2015",
    cost=fass_work,
    costs="One pass over N x C probabilities, then (5 n)^2 D operations; 8 N bytes.",
    fails=(
        "Only represents what looks uncertain: where uncertainty misleads (few labels, rows from "
        "elsewhere) it represents that; a small beta is the score alone."
    ),
)
def fass(
    probs: Rows,
    embeddings: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    beta: float = 5.0,
    uncertainty: Literal["entropy", "margin", "least_confidence"] = "entropy",
    function: Function = "fl",
    lam: float = 1.0,
    points: Literal["embedding", "gradient"] = "embedding",
) -> Chosen:
    """Keep the ``beta * n`` most uncertain candidates, then pick greedily by a set function.

    With K the kept rows, A the picks and s = (1 + cosine) / 2: facility location, ``sum over i
    in K of max over j in A of s_ij``, picks the rows that all the kept are like.

    Args:
        probs: (N, C). embeddings: (N, D).
        beta: how many to keep, as a multiple of n, >= 1, rounded up.
        uncertainty: what to keep by: see `entropy_scores`, `margin_scores` and
            `least_confidence_scores`.
        function: ``"fl"`` facility location; ``"gc"`` graph cut, ``sum_KA s - lam sum_AA s``;
            ``"logdet"``, ``log det(s_A + lam I)``.
        lam: see there; > 0 for ``"logdet"``.
        points: what is compared: ``"embedding"``, or the last layer's ``"gradient"`` at the
            predicted label, bias and all.

    Returns:
        Rows in the order picked; scores are their gains in the function. Equal gains go by
        noise, so copies fill up at random.

    Raises:
        InputError: an option out of range, or an embedding of zeros.

    Source:
        Wei, Iyer & Bilmes, "Submodularity in Data Subset Selection and Active Learning", ICML
        2015. beta = 5, entropy and facility location of the cosine are the defaults of DISTIL,
        by the same group; there similarities may be negative.

    >>> from labelwise import select
    >>> h = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]
    >>> probs = [[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [1.0, 0.0]]
    >>> select("fass", 1, probs=probs, embeddings=h, beta=3).rows
    array([1])
    """
    _check_options(beta, uncertainty, function, points)
    p, h = check("probs", probs), check("embeddings", embeddings)
    count = min(len(candidates), math.ceil(beta * n))
    scores = UNCERTAINTIES[uncertainty](p)
    kept = top(scores, n=count, candidates=candidates, generator=generator).rows.sort().values
    stored = Rows(h.take(kept), "embeddings of the uncertain rows")
    if points == "embedding":
        _check_directions(stored, kept)
    geometry = (
        Cosine(stored)
        if points == "embedding"
        else GradientEmbedding(p.take(kept), stored, bias=True)
    )
    objective = build(function, Similarity(geometry, "cosine01"), lam=lam, memory=memory)
    if count == 1:
        return Chosen(kept, objective.gains(torch.tensor([0])))
    found = greedy(
        objective,
        n,
        ties=generator.of(kept.numpy()).child("ties"),
        progress=inside(progress, kept),
        memory=memory,
    )
    return Chosen(kept[found.rows], found.gains)


def _check_directions(stored: Rows, kept: Tensor) -> None:
    """Refuse zeros by their row of the pool: kernels know only the rows that are kept."""
    zero = (stored.tensor() == 0).all(1).cpu()
    if bool(zero.any()):
        raise InputError(
            f"embeddings: row {int(kept[zero][0])} is all zeros and has no direction; leave it out "
            'of the candidates, or compare by points="gradient"'
        )


def _check_options(beta: float, uncertainty: str, function: str, points: str) -> None:
    if uncertainty not in UNCERTAINTIES:
        raise InputError(
            f"uncertainty must be known, got {uncertainty!r}; {nearest(uncertainty, UNCERTAINTIES)}"
        )
    known = get_args(Function)
    if function not in known:
        raise InputError(f"function must be known, got {function!r}; {nearest(function, known)}")
    if not 1 <= beta < math.inf:
        raise InputError(f"beta must be a finite number >= 1, got {beta}")
    if points not in ("embedding", "gradient"):
        raise InputError(f'points must be "embedding" or "gradient", got {points!r}')
