"""TypiClust: the most typical row of each cluster, for small budgets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Generator, nearest_neighbors
from labelwise.kernels.cost import kmeans_work
from labelwise.strategies.clusters import cluster, unit_rows
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

_FEW_CLUSTERS = 50
_MINIBATCH = 5000
_PASSES = 3
_LEAST_ITERATIONS = 20
_ADDED = 1e-5
_DENSE = 2048
_ROUNDING = 1e-13


def typicality(
    embeddings: Rows | Tensor, neighbors: int, distance: Literal["squared", "plain"] = "squared"
) -> Tensor:
    """How close each row's nearest neighbors are: ``1 / (mean distance + 1e-5)``.

    Args:
        embeddings: (M, D), the rows to look for neighbors among.
        neighbors: how many neighbors to average, itself not counted; at most M - 1.
        distance: ``"squared"`` averages squared Euclidean distances, as the authors' code does;
            ``"plain"`` averages distances, as their paper says.

    Returns:
        (M,) float64 in (0, 1e5]; larger = more typical. 0 where there are no neighbors.

    >>> typicality(torch.tensor([[0.0], [1.0], [5.0]]), 1)
    tensor([1.0000, 1.0000, 0.0625], dtype=torch.float64)
    """
    rows = embeddings if isinstance(embeddings, Rows) else check("embeddings", embeddings)
    if neighbors < 1:
        return torch.zeros(len(rows), dtype=torch.float64)
    squared = _nearest(rows, neighbors)
    return 1 / ((squared if distance == "squared" else squared.sqrt()).mean(1) + _ADDED)


def _nearest(rows: Rows, neighbors: int) -> Tensor:
    """Squared distances of each row to its nearest others, (M, neighbors) float64."""
    if len(rows) > _DENSE:
        return nearest_neighbors(rows, neighbors, exclude_self=True).squared_distances.cpu()
    # A cluster is small: all its distances at once cost less than any search.
    x = rows.tensor().double()
    x = x - x.mean(0)
    norms = x.square().sum(1)
    squared = norms[:, None] + norms - 2 * x @ x.T
    # The two last rows of a cluster are as near to each other: rounding must not tell them
    # apart, nor copies from each other.
    squared = (squared + squared.T) / 2
    squared[squared < _ROUNDING * (norms[:, None] + norms)] = 0
    squared.fill_diagonal_(torch.inf)
    return squared.topk(neighbors, dim=1, largest=False).values.cpu()


@strategy(
    cite="Hacohen et al., ICML 2022",
    cost=kmeans_work,
    costs="k-means with up to 500 clusters and 20 neighbors within each; 40 N bytes.",
    fails=(
        "Once labels are many: typical rows teach little; on CIFAR-10 here below random with "
        "500 labels and more."
    ),
)
def typiclust(
    embeddings: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    neighbors: int = 20,
    max_clusters: int = 500,
    min_size: int = 5,
    distance: Literal["squared", "plain"] = "squared",
    normalize: bool = True,
) -> Picks:
    """Cluster the pool; from the clusters with fewest labels first, pick the densest row.

    1. k-means with min(labeled + n, ``max_clusters``) clusters on all rows; in minibatches
       of 5,000, three times over the pool, when there are more than 50 clusters.
    2. Clusters of at most ``min_size`` rows step back. The others queue up: fewest labeled
       rows first, then largest first. The queue is not sorted again as picks are made.
    3. In turn each gives the row of largest `typicality` among those neither labeled nor
       picked, with min(``neighbors``, half of them) neighbors from the same. A cluster that
       is used up is skipped.
    4. Only when all are used up the small clusters give theirs, in the same way; the picks'
       notes say so.

    Args:
        embeddings: (N, D), best from self-supervised training. Holds a copy.
        labeled: (L,) rows that have labels.
        neighbors, max_clusters, min_size: as above; defaults are the authors'.
        distance: see `typicality`; the default is the authors' code's.
        normalize: divide each row by its length first, as the authors' features are.

    Returns:
        Picks in that order; the score is the typicality at the time of the pick.

    Raises:
        InputError: an option out of range, or a zero row when normalizing.

    Source:
        Hacohen, Dekel & Weinshall, "Active Learning on a Budget: Opposite Strategies Suit High
        and Low Budgets", ICML 2022. We run one k-means, started by k-means++.
    """
    _check_options(neighbors, max_clusters, min_size, distance)
    rows = check("embeddings", embeddings)
    rows = unit_rows(rows) if normalize else rows
    have = np.zeros(0, np.int64) if labeled is None else labeled.cpu().numpy()
    k = min(len(have) + n, max_clusters, len(rows))
    minibatch = _MINIBATCH if k > _FEW_CLUSTERS and len(rows) > _MINIBATCH else None
    iterations = max(_LEAST_ITERATIONS, -(-_PASSES * len(rows) // _MINIBATCH)) if minibatch else 100
    found = cluster(rows, k, generator=generator, minibatch=minibatch, iterations=iterations)
    member = found.assignment.cpu().numpy()
    large, small = _queue(member, have, min_size)
    free = np.ones(len(rows), dtype=bool)
    free[have] = False
    allowed = np.zeros(len(rows), dtype=bool)
    allowed[candidates.cpu().numpy()] = True
    state = _State(rows, member, free, allowed, neighbors, distance, generator)
    turns = chain(state.turns(large), state.turns(small))
    picked = [state.take(next(turns)) for _ in range(n)]
    late = sum(int(member[row]) in set(small) for row, _ in picked)
    notes = (f"{late} of {n} picks come from clusters of at most {min_size} rows",) if late else ()
    chosen, scores = zip(*picked)
    return Picks(np.array(chosen), scores=np.array(scores), notes=notes)


def _queue(
    member: NDArray[np.int64], labeled: NDArray[np.int64], min_size: int
) -> tuple[list[int], list[int]]:
    """Clusters by fewest labels, then largest size: those above the least size, and the rest."""
    count = int(member.max()) + 1
    sizes = np.bincount(member, minlength=count)
    labels = np.bincount(member[labeled], minlength=count)
    order = [int(c) for c in np.lexsort((-sizes, labels)) if sizes[c]]
    return [c for c in order if sizes[c] > min_size], [c for c in order if sizes[c] <= min_size]


@dataclass
class _State:
    """What is left of each cluster while picks are made."""

    rows: Rows
    member: NDArray[np.int64]
    free: NDArray[np.bool_]
    allowed: NDArray[np.bool_]
    neighbors: int
    distance: Literal["squared", "plain"]
    generator: Generator

    def __post_init__(self) -> None:
        order = np.argsort(self.member, kind="stable")
        ends = np.cumsum(np.bincount(self.member))
        self.parts = np.split(order, ends[:-1])
        self.left = np.bincount(self.member[self.allowed & self.free], minlength=len(self.parts))

    def turns(self, order: list[int]) -> Iterator[int]:
        """Clusters in turn, without those that have nothing to give any more."""
        while any(self.left[c] for c in order):
            yield from (c for c in order if self.left[c])

    def take(self, c: int) -> tuple[int, float]:
        """The most typical row left in a cluster, and its typicality."""
        inside = self.parts[c][self.free[self.parts[c]]]
        some = Rows(self.rows.take(torch.from_numpy(inside)), "embeddings")
        count = min(self.neighbors, len(inside) // 2)
        found = typicality(some, count, self.distance).numpy()
        found = np.where(self.allowed[inside], found, -np.inf)
        ties = inside[found == found.max()]
        row = int(ties[self.generator.child("ties").uniform(ties).argmin()])
        self.free[row] = False
        self.left[c] -= 1
        return row, float(found.max())


def _check_options(neighbors: int, max_clusters: int, min_size: int, distance: str) -> None:
    least = {"neighbors": (neighbors, 1), "max_clusters": (max_clusters, 1)}
    least["min_size"] = (min_size, 0)
    for name, (value, bound) in least.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < bound:
            raise InputError(f"{name} must be a whole number >= {bound}, got {value!r}")
    if distance not in ("squared", "plain"):
        raise InputError(f'distance must be "squared" or "plain", got {distance!r}')
