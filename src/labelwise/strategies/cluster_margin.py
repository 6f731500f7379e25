"""Cluster-Margin: the least certain rows, from as many clusters as there are."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Chosen,
    Cosine,
    Euclidean,
    Generator,
    agglomerate,
    hold_limit,
    typical_distance,
)
from labelwise.kernels.cost import Sizes, Work, score_work
from labelwise.strategies.margin import margin_scores
from labelwise.strategies.pickers import top
from labelwise.strategies.registry import strategy


def cluster_margin_work(sizes: Sizes) -> Work:
    """All pairs of rows once for their neighbors, and rounds of merging on the graph."""
    pairs = 2.0 * sizes.rows * sizes.rows * sizes.width
    graph = Work(
        products=(0.5 * pairs, 4 * pairs),
        numbers=(0.1 * sizes.rows**2, 10.0 * sizes.rows**2 + 2e5 * sizes.rows),
        held=(500.0 * sizes.rows, 8000.0 * sizes.rows + 4.0 * sizes.rows * sizes.width),
    )
    return score_work(sizes) + graph


@strategy(
    cite="Citovsky et al., NeurIPS 2021",
    cost=cluster_margin_work,
    costs="N^2 D operations for neighbors of all rows; 20 neighbors a row, some kB.",
    fails=(
        "Depends on a threshold that the paper does not give; of more near-copies than twice the "
        "neighbors several are asked for."
    ),
)
def cluster_margin(
    probs: Rows,
    embeddings: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    factor: float = 10.0,
    within: Literal["random", "margin"] = "random",
    threshold: float | None = None,
    clusters: int | None = None,
    mean_size: float | None = None,
    neighbors: int = 20,
    normalize: bool = True,
) -> Chosen:
    """Of the candidates closest to a tie, one a cluster in turn, the smallest cluster first.

    1. All rows are clustered by average linkage on the graph of nearest neighbors.
    2. The ``factor * n`` candidates of largest `margin_scores` are kept, and grouped by cluster.
    3. The groups, smallest first, give one row each, in turn, until there are n; a group that
       is used up is skipped. Groups of one size and equal margins go by noise.

    Clusters depend on the embeddings and the seed alone. The paper makes them once, from the
    first model; pass that model's embeddings in every round to do the same. Distances are known
    between neighbors only, so a cluster holds about twice ``neighbors`` rows at the most, and
    of more copies of a row than that some stay alone.

    Args:
        probs: (N, C), C >= 2.
        embeddings: (N, D), N rows to cluster.
        factor: >= 1, how many times n candidates are kept: 10 as in the paper on Open Images,
            1.25 as on CIFAR and SVHN.
        within: which row a group gives: one at ``"random"`` as in the paper, or the one of
            largest ``"margin"`` score, as some implementations do.
        threshold, clusters, mean_size: where merging stops, one at most; see
            `labelwise.kernels.agglomerate`. The paper does not say; by default at half the
            typical distance of two rows.
        neighbors: of each row in the graph.
        normalize: divide each row by its length first.

    Returns:
        Rows in that order; scores are the `margin_scores`. N^2 D operations for the graph, and
        some kB a row.

    Raises:
        InputError: a single class, an option out of range, or a zero row when normalizing.
        ResourceError: ``memory`` is too small for the search for neighbors.

    Source:
        Citovsky, DeSalvo, Gentile, Karydas, Rajagopalan, Rostamizadeh & Kumar, "Batch Active
        Learning at Scale", NeurIPS 2021.

    >>> from labelwise import select
    >>> probs, line = [[0.5, 0.5], [0.6, 0.4], [0.9, 0.1]], [[0.0], [0.1], [9.0]]
    >>> select("cluster_margin", 1, probs=probs, embeddings=line, clusters=2, normalize=False).rows
    array([2])
    """
    if (
        isinstance(factor, bool)
        or not isinstance(factor, int | float)
        or not 1 <= factor < math.inf
    ):
        raise InputError(f"factor must be a number >= 1, got {factor!r}")
    if not isinstance(within, str) or within not in ("random", "margin"):
        raise InputError(f'within must be "random" or "margin", got {within!r}')
    scores = margin_scores(probs).cpu()
    rows = check("embeddings", embeddings)
    keep = math.ceil(min(len(candidates), factor * n))
    kept = top(scores, n=keep, candidates=candidates, generator=generator)
    points = (Cosine if normalize else Euclidean)(rows, hold=hold_limit(memory))
    stop = {"threshold": threshold, "clusters": clusters, "mean_size": mean_size}
    member = _clusters(points, stop, neighbors, generator, memory)[kept.rows].numpy()
    noise = generator.child("within").uniform(kept.rows.numpy())
    keys = noise if within == "random" else -kept.gains.numpy()
    order = smallest_first(member, keys, noise)[:n]
    return Chosen(kept.rows[order], kept.gains[order])


def _clusters(
    points: Euclidean,
    stop: dict[str, Any],
    neighbors: int,
    generator: Generator,
    memory: int | None,
) -> Tensor:
    """The cluster of each row, (N,) int64; by default merged up to half the typical distance."""
    if len(points) == 1:
        return torch.zeros(1, dtype=torch.int64)
    far = None
    if all(value is None for value in stop.values()):
        half = typical_distance(points, generator=generator) / 2
        stop = {"threshold": half}
        # Where most rows coincide half of nothing is asked for: copies and no others merge.
        far = 1.0 if half == 0 else None
    return agglomerate(
        points,
        generator=generator,
        neighbors=neighbors,
        far=far,
        memory=memory,
        **stop,
    ).assignment


def smallest_first(
    groups: NDArray[np.int64],
    keys: NDArray[np.float64],
    noise: NDArray[np.float64],
) -> Tensor:
    """An order in which groups give one member each in turn, the smallest group first.

    Args:
        groups: (M,) the group of each. keys: (M,) within a group the lowest goes first.
        noise: (M,) distinct numbers that break ties, also of groups of one size.

    Returns:
        (M,) int64 positions.

    >>> smallest_first(np.array([0, 0, 0, 1, 1]), np.arange(5.0), np.arange(5.0))
    tensor([3, 0, 4, 1, 2])
    """
    _, groups, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.lexsort((noise, keys, groups))
    starts = np.r_[0, np.cumsum(sizes)[:-1]]
    turn = np.empty(len(groups), dtype=np.int64)
    turn[order] = np.arange(len(groups)) - np.repeat(starts, sizes)
    least = np.minimum.reduceat(noise[order], starts)
    return torch.from_numpy(np.lexsort((least[groups], sizes[groups], turn)))
