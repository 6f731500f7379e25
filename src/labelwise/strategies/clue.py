"""CLUE: the rows nearest the centers of clusters that follow the uncertain rows."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import (
    Euclidean,
    Generator,
    Geometry,
    Subset,
    hold_limit,
    kmeans,
    nearest_neighbors,
    per_row,
)
from labelwise.kernels.cost import Sizes, Work, kmeans_work, score_work
from labelwise.strategies.entropy import entropy_of
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

_LITTLE = 1e-9
"""What a certain row weighs beside the least certain one, where certain rows must be asked for."""

_LISTED = 8
"""How many neighbors of each center are looked up at first: two centers seldom share one."""


def clue_work(sizes: Sizes) -> Work:
    """k-means with as many clusters as picks, and once more their distances to all rows."""
    again = 2.0 * sizes.rows * sizes.width * sizes.n
    return (
        score_work(sizes)
        + kmeans_work(sizes, sizes.n)
        + Work(products=(0.5 * again, 2 * again), held=(0.0, 40.0 * sizes.rows + 100e6))
    )


@strategy(
    cite="Prabhu et al., ICCV 2021",
    cost=clue_work,
    costs="2 N D n operations an iteration, up to 100; 70 N bytes, 64 n D and a copy of the rows.",
    fails=(
        "Where entropy is no good guide: many classes, or rows that belong to none; large n "
        "takes long."
    ),
)
def clue(
    probs: Rows,
    embeddings: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    temperature: float = 1.0,
    iterations: int = 100,
) -> Picks:
    """Cluster the candidates, each counting as much as it is uncertain; ask at the centers.

    1. A candidate weighs the entropy of its prediction at the temperature. If all weigh
       nothing they count alike; if fewer than n weigh anything, the others count a billionth of
       the largest weight; the notes say so.
    2. k-means with n clusters, whose centers are weighted means. The start is k-means++, which
       does not look at weights, as in the code of its time; the authors keep the best of ten
       starts, this is one.
    3. Cluster by cluster, the candidate nearest its center, of those not picked yet.

    Where two centers have the same nearest candidate the authors' code asks for the second
    nearest of other centers, here the later center gives its own; it hardly ever matters.

    Args:
        probs: (N, C).
        embeddings: (N, D), the input of the last layer.
        temperature: > 0; below 1 sure rows weigh less. The authors take 1, and 0.1 on DomainNet.
        iterations: of k-means, at the most.
        memory: bytes for k-means and the search; see `labelwise.kernels.kmeans`.

    Returns:
        Rows, cluster by cluster; the score is the row's entropy. Equal distances go to the
        lowest row.

    Raises:
        InputError: an option out of range.
        ResourceError: ``memory`` is less than k-means needs.

    Source:
        Prabhu, Chandrasekaran, Saenko & Hoffman, "Active Domain Adaptation via Clustering
        Uncertainty-weighted Embeddings", ICCV 2021.

    >>> from labelwise import select
    >>> probs = [[0.5, 0.5], [0.99, 0.01], [0.99, 0.01]]
    >>> select("clue", 1, probs=probs, embeddings=[[1.0], [2.0], [3.0]]).rows
    array([0])
    """
    if isinstance(iterations, bool) or not isinstance(iterations, int) or iterations < 0:
        raise InputError(f"iterations must be a whole number >= 0, got {iterations!r}")
    weights = clue_weights(probs, temperature).cpu()
    points = Euclidean(check("embeddings", embeddings), hold=hold_limit(memory))
    at, notes = candidates.cpu(), tuple[str, ...]()
    mass = weights
    unsure = int((weights[at] > 0).sum())
    if not unsure:
        mass, notes = torch.ones_like(weights), ("all candidates are certain and count alike",)
    elif unsure < n:
        # Clusters of what weighs nothing would go by the order of rows.
        mass = weights.clamp(min=_LITTLE * float(weights[at].max()))
        notes = (f"{unsure} candidates are not certain; the others count a little each",)
    found = kmeans(
        points,
        n,
        generator=generator.child("clusters"),
        candidates=at,
        iterations=iterations,
        weights=mass,
        memory=memory,
    )
    picked = at[nearest_in_turn(Subset(points, at), found.centers, memory)]
    return Picks(picked.numpy(), scores=weights[picked].numpy(), notes=notes)


def clue_weights(probs: Rows | Tensor, temperature: float = 1.0) -> Tensor:
    """The entropy of each prediction at a temperature, in nats.

    Args:
        probs: (N, C) class distributions, which are ``softmax(logits)``.
        temperature: > 0; the distribution is that of ``softmax(logits / temperature)``.

    Returns:
        (N,) float64 in [0, log C].

    >>> clue_weights(torch.tensor([[0.8, 0.2]]), 0.5) < clue_weights(torch.tensor([[0.8, 0.2]]))
    tensor([True])
    """
    if isinstance(temperature, bool) or not isinstance(temperature, int | float):
        raise InputError(f"temperature must be a positive number, got {temperature!r}")
    if not 0 < temperature < math.inf:
        raise InputError(f"temperature must be a positive number, got {temperature!r}")
    rows = check("probs", probs)

    def weigh(block: Tensor) -> Tensor:
        p = as_float(block).double()
        cooled = (p / p.amax(1, keepdim=True)).pow(1 / temperature)
        return entropy_of(cooled / cooled.sum(1, keepdim=True))

    return per_row(rows.blocks(), len(rows), weigh)


def nearest_in_turn(geometry: Geometry, centers: Tensor, memory: int | None = None) -> Tensor:
    """For center after center the nearest row that no center before it has.

    Args:
        geometry: M points.
        centers: (k, D), k <= M.

    Returns:
        (k,) int64 distinct rows; the lowest on a tie.

    >>> line = Euclidean([[0.0], [1.0], [5.0]])
    >>> nearest_in_turn(line, torch.tensor([[0.1], [0.2], [0.3]]))
    tensor([0, 1, 2])
    """
    picks: list[int] = []
    listed, start = 0, 0
    near: NDArray[np.int64] = np.zeros((len(centers), 0), np.int64)
    taken = np.zeros(len(geometry), dtype=bool)
    while (turn := len(picks)) < len(centers):
        mine = near[turn - start]
        free = mine[~taken[mine]]
        if len(free):
            picks.append(int(free[0]))
            taken[picks[-1]] = True
            continue
        # Of as many neighbors as there are centers one is always left.
        listed, start = min(len(geometry), len(centers), max(_LISTED, 4 * listed)), turn
        queries = geometry.points(centers[turn:])
        near = nearest_neighbors(geometry, listed, queries=queries, memory=memory).rows.numpy()
    return torch.tensor(picks)
