"""k-means sampling: one row near the middle of each of n clusters."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Chosen, Clusters, Generator
from labelwise.kernels.cost import kmeans_work
from labelwise.strategies.clusters import cluster
from labelwise.strategies.pickers import round_robin
from labelwise.strategies.registry import strategy


@strategy(
    cite="Lloyd, IEEE Trans. Inf. Theory 1982; as a query, Bodo et al., JMLR W&CP 2011",
    cost=kmeans_work,
    costs="2 N D n operations an iteration, up to 100; 40 N bytes and 48 n D.",
    fails=(
        "Ignores the model: late in a run it asks where nothing is left to learn; large n "
        "takes long."
    ),
)
def kmeans(
    embeddings: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    iterations: int = 100,
) -> Chosen:
    """Split the candidates into n clusters and pick the member nearest each center.

    A member of one cluster is no member of another, so no row is picked twice. Where
    candidates coincide some clusters stay empty; the others then give their second nearest
    member, and so on, until there are n.

    Args:
        embeddings: (N, D). Holds a copy of the candidates' rows where that is small (256 MB)
            and not all are candidates.
        iterations: at most so many of Lloyd's steps.

    Returns:
        Rows, the nearest to its center first among each cluster's first picks; the score is
        minus the squared distance to the center.

    Raises:
        InputError: iterations that are no whole number >= 0.
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise InputError(f"iterations must be a whole number >= 0, got {iterations!r}")
    points, rows = check("embeddings", embeddings), candidates.cpu()
    found = cluster(points, n, generator=generator, candidates=rows, iterations=iterations)
    return nearest_members(found, rows, len(points), n=n, generator=generator)


def nearest_members(
    found: Clusters, rows: Tensor, size: int, *, n: int, generator: Generator
) -> Chosen:
    """The member of each cluster that is nearest its center, then the second nearest, and so on.

    Args:
        found: clusters of some rows. rows: (M,) int64, those rows.
        size: N, how many rows there are in all.
        n: how many to pick, at most M. generator: breaks ties.

    Returns:
        (n,) rows, the nearest first in each turn, and minus their squared distances.
    """
    nearness = torch.full((size,), -torch.inf, dtype=torch.float64)
    groups = torch.zeros(size, dtype=torch.int64)
    groups[rows] = found.assignment.cpu()
    nearness[rows] = -found.squared_distances.cpu()
    return round_robin(nearness, groups, n=n, candidates=rows, generator=generator)
