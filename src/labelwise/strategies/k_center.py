"""Core-set by k-center greedy: cover the pool with the smallest balls."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from labelwise.engine import Engine
from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Chosen,
    Generator,
    Part,
    Progress,
    farthest_first,
    hold_limit,
    partitioned,
)
from labelwise.kernels.cost import farthest_work
from labelwise.strategies.partitions import find_whole_engine
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
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    partitions: int = 1,
) -> Chosen:
    """Pick rows one at a time, each the farthest from all labeled and picked rows.

    With nothing labeled the first pick is the candidate nearest the mean.

    Args:
        embeddings: (N, D).
        labeled: (L,) rows that are covered already.
        metric: ``"euclidean"`` as in the paper, or ``"cosine"``.
        partitions: cut candidates, labeled and other rows at random into so many parts and pick
            n / partitions rows in each, as Emam et al. do with ten. It is for comparison: it sees
            less of the pool, and the whole takes hardly longer here. They also draw 50,000
            labeled and 80,000 other rows beforehand. Not on a cluster.

    Returns:
        Rows in the order picked; the score of each is its squared distance to the nearest
        labeled or earlier pick, infinity for a first one. Equal distances go to the lowest
        row. In parts: part after part, and distances within the part.

    Raises:
        InputError: an unknown metric, a zero vector under the cosine, or partitions out of
            range or with ``engine="ray"``.

    Source:
        Sener & Savarese, "Active Learning for Convolutional Neural Networks: A Core-Set
        Approach", ICLR 2018: the greedy form, whose covering radius is at most twice the
        best possible. In parts: Emam et al., "Active Learning at the ImageNet Scale", 2021.
    """
    if not isinstance(metric, str) or metric not in _METRICS:
        known = nearest(str(metric), _METRICS)
        raise InputError(f"metric must be known, got {metric!r:.60}; {known}")
    where, rows = find_whole_engine(engine, partitions), check("embeddings", embeddings)
    with where.points(metric, rows, hold=hold_limit(memory)) as geometry:
        if partitions > 1:
            return partitioned(
                _cover_part,
                geometry,
                n,
                partitions,
                generator=generator,
                candidates=candidates,
                covered=labeled,
                memory=memory,
                progress=progress,
            )
        return farthest_first(
            geometry, n, covered=labeled, candidates=candidates, memory=memory, progress=progress
        )


def _cover_part(part: Part) -> Chosen:
    return farthest_first(
        part.geometry,
        part.n,
        covered=part.covered,
        candidates=part.candidates,
        memory=part.memory,
        progress=part.progress,
    )
