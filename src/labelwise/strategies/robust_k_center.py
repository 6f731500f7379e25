"""Robust core-set: cover all of the pool but a few outliers with the smallest balls."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Chosen,
    Cosine,
    Euclidean,
    Generator,
    Progress,
    farthest_first,
    hold_limit,
)
from labelwise.kernels.cost import farthest_work
from labelwise.strategies.registry import strategy

_GEOMETRIES = {"euclidean": Euclidean, "cosine": Cosine}


@strategy(
    cite="Sener & Savarese, ICLR 2018; Ding, Yu & Wang, ESA 2019",
    cost=farthest_work,
    costs="At most 2 N D (L + n) operations in products; 26 N bytes and the centers.",
    fails="As k_center where outliers are not what is wrong; the number of outliers is a guess.",
)
def robust_k_center(
    embeddings: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    outliers: int | float = 1e-4,
    eta: float = 1.0,
    metric: Literal["euclidean", "cosine"] = "euclidean",
) -> Chosen:
    """Draw each pick among the ``ceil((1 + eta) outliers)`` rows farthest from all others.

    Sener & Savarese ask for the least radius at which n more balls cover all but some outliers,
    and solve it with a commercial mixed-integer solver. Here it is solved greedily, in linear
    time and with a bound, as Ding, Yu & Wang do; see `labelwise.kernels.farthest_first`. With
    so few outliers that the draw is of a single row, it is `k_center` but for a first pick,
    which is drawn uniformly when nothing is labeled.

    Args:
        embeddings: (N, D).
        labeled: (L,) rows that are covered already.
        outliers: how many rows need not be covered: a count, or a share in (0, 1) of the
            candidates. 1e-4 is the share of Sener & Savarese. 0 is the plain rule.
        eta: > 0, how much wider than the outliers the draw is.
        metric: ``"euclidean"`` as in the paper, or ``"cosine"``.

    Returns:
        Rows in the order picked; the score of each is its squared distance to the nearest
        labeled or earlier pick, infinity for a first one. 2 N (L + n) D operations, O(N)
        memory beyond the points.

    Raises:
        InputError: an option out of range, or a zero vector under the cosine.

    Source:
        Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
        Approach", ICLR 2018 (the problem); Ding, Yu & Wang, "Greedy Strategy Works for k-Center
        Clustering with Outliers and Coreset Construction", ESA 2019 (the rule).

    >>> from labelwise import select
    >>> line = [[0.0], [1.0], [2.0], [3.0], [900.0]]
    >>> 4 in select("robust_k_center", 1, embeddings=line, labeled=[0], outliers=0).rows
    True
    """
    if not isinstance(metric, str) or metric not in _GEOMETRIES:
        known = nearest(str(metric), _GEOMETRIES)
        raise InputError(f"metric must be known, got {metric!r:.60}; {known}")
    geometry = _GEOMETRIES[metric](check("embeddings", embeddings), hold=hold_limit(memory))
    return farthest_first(
        geometry,
        n,
        covered=labeled,
        candidates=candidates,
        outliers=outliers,
        eta=eta,
        generator=generator,
        memory=memory,
        progress=progress,
    )
