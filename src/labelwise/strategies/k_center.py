"""Core-set by k-center greedy: cover the pool with the smallest balls."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from labelwise.engine import Engine, find_engine
from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows, check
from labelwise.kernels import Chosen, Progress, farthest_first, hold_limit
from labelwise.kernels.cost import farthest_work
from labelwise.strategies.registry import strategy

_METRICS: tuple[Literal["euclidean", "cosine"], ...] = ("euclidean", "cosine")


@strategy(
    cite="Sener & Savarese, ICLR 2018",
    cost=farthest_work,
    costs="At most 2 N D (L + n) operations in products; 26 N bytes and the centers.",
    fails="Goes for outliers, and ignores the model: below random on CIFAR-10 and letter here.",
)
def k_center(
    embeddings: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    memory: int | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    metric: Literal["euclidean", "cosine"] = "euclidean",
) -> Chosen:
    """Pick rows one at a time, each the farthest from all labeled and picked rows.

    With nothing labeled the first pick is the candidate nearest the mean.

    Args:
        embeddings: (N, D).
        labeled: (L,) rows that are covered already.
        metric: ``"euclidean"`` as in the paper, or ``"cosine"``.

    Returns:
        Rows in the order picked; the score of each is its squared distance to the nearest
        labeled or earlier pick, infinity for a first one. Equal distances go to the lowest
        row.

    Raises:
        InputError: an unknown metric, or a zero vector under the cosine.

    Source:
        Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
        Approach", ICLR 2018: the greedy form, whose covering radius is at most twice the
        best possible.
    """
    if metric not in _METRICS:
        raise InputError(f"metric must be known, got {metric!r}; {nearest(metric, _METRICS)}")
    rows = check("embeddings", embeddings)
    with find_engine(engine).points(metric, rows, hold=hold_limit(memory)) as geometry:
        return farthest_first(
            geometry, n, covered=labeled, candidates=candidates, memory=memory, progress=progress
        )
