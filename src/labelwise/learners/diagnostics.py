"""What embeddings are worth: nearest-neighbor accuracy, and whether they have collapsed."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.errors import InputError
from labelwise.kernels import Euclidean, nearest_neighbors

NEIGHBORS, TEMPERATURE = 200, 0.1


def knn_accuracy(
    embeddings: Tensor,
    labels: Tensor,
    *,
    queries: Tensor | None = None,
    query_labels: Tensor | None = None,
    k: int | None = None,
    temperature: float = TEMPERATURE,
) -> float:
    """Share of rows whose class is that of most of their neighbors, by weight.

    Each of the k nearest rows by cosine similarity s votes with weight exp(s / temperature).

    Args:
        embeddings: (N, D) of the rows that vote; (N,) int64 ``labels``, none negative.
        queries: (Q, D) of other rows, with (Q,) ``query_labels``. None leaves each of the N rows
            out in turn and asks the rest.
        k: None takes 200, or less in a small pool: at most half of the rows a class has on
            average, because more would reach beyond any class.
        temperature: > 0.

    Returns:
        In [0, 1], larger is better. Equal votes go to the lowest class.

    Raises:
        InputError: fewer than two rows, or no queries.

    Source:
        Wu, Xiong, Yu & Lin, "Unsupervised Feature Learning via Non-Parametric Instance
        Discrimination", CVPR 2018, section 3.4; k = 200 and 0.1 are usual on CIFAR-10.

    >>> points = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    >>> knn_accuracy(points, torch.tensor([0, 0, 1, 1]))
    1.0
    """
    if len(embeddings) < 2 or (queries is not None and len(queries) == 0):
        raise InputError(f"knn_accuracy needs two rows and a query, got {len(embeddings)} rows")
    classes = int(labels.max()) + 1
    if k is None:
        present = len(labels.unique())
        k = min(NEIGHBORS, max(1, len(labels) // (2 * present)))
    k = min(k, len(embeddings) - (queries is None))
    geometry = Euclidean(F.normalize(embeddings.float(), dim=1))
    if queries is None:
        near = nearest_neighbors(geometry, k, exclude_self=True)
        expected = labels
    else:
        assert query_labels is not None
        asked = geometry.points(F.normalize(queries.float(), dim=1))
        near, expected = nearest_neighbors(geometry, k, queries=asked), query_labels
    weights = ((1 - near.squared_distances / 2) / temperature).exp()
    votes = torch.zeros(len(expected), classes, dtype=torch.float64)
    votes.scatter_add_(1, labels[near.rows], weights)
    return float((votes.argmax(1) == expected).double().mean())


def spread(embeddings: Tensor) -> float:
    """How far normalized embeddings vary: 0 where all are one point, 1 where all directions are.

    The mean over dimensions of the standard deviation of embeddings of norm 1, times the root of
    the number of dimensions.

    Args:
        embeddings: (N, D).

    Source:
        Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021, section 4.1.

    >>> spread(torch.ones(3, 2)) < 1e-6
    True
    """
    unit = F.normalize(embeddings.double(), dim=1)
    return float(unit.std(0, correction=0).mean() * unit.shape[1] ** 0.5)


def effective_rank(embeddings: Tensor) -> float:
    """How many dimensions normalized embeddings use: exp of the entropy of singular values.

    Args:
        embeddings: (N, D); normalized and centered here.

    Returns:
        Between 1 and D; 0 where all embeddings are one point.

    Source:
        Roy & Vetterli, "The Effective Rank", EUSIPCO 2007; Garrido et al., "RankMe", ICML 2023
        (there neither normalized nor centered).

    >>> round(effective_rank(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])), 4)
    2.0
    """
    unit = F.normalize(embeddings.double(), dim=1)
    unit = unit - unit.mean(0)
    # Either product has the squares of the singular values; the smaller one has fewer zeros.
    small = unit.T @ unit if unit.shape[1] <= len(unit) else unit @ unit.T
    values = torch.linalg.eigvalsh(small).clamp(min=0).sqrt()
    if float(values.max()) <= 1e-7 * len(unit) ** 0.5:
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())
