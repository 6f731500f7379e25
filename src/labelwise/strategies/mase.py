"""MASE: ask about the rows closest to a linear head's decision boundary, in feature space."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Generator, per_row
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy

_ALIKE = 1e-4
"""The share of its terms below which a squared distance is not taken from products."""

_NUMBERS = 1 << 21


def mase_scores(logits: Rows | Tensor, head_weight: Rows | Tensor) -> Tensor:
    """Minus the distance from each embedding to the nearest decision boundary.

    The shortest move of an embedding that changes the predicted class a has the length
    ``min over c of (z_a - z_c) / |W_a - W_c|``. The embeddings themselves are not needed.

    Args:
        logits: (N, C), C >= 2.
        head_weight: (C, D), the last layer's weight.

    Returns:
        (N,) float64 <= 0, in the embedding's unit. 0 is on a boundary; minus infinity where
        all classes have the same weights. Larger = asked first.

    Raises:
        InputError: a single class, or shapes that do not fit.

    Source:
        Emam, Chu, Chiang, Czaja, Leapman, Goldblum & Goldstein, "Active Learning at the
        ImageNet Scale", 2021.

    >>> mase_scores(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    tensor([-1.], dtype=torch.float64)
    """
    rows, gaps = prepare_head(logits, head_weight)
    inverse = inverse_gaps(gaps)

    def nearness(block: Tensor) -> Tensor:
        rough, best = rough_distances(block, inverse)
        return -least(block, rough, best, gaps)

    return per_row(rows.blocks(), len(rows), nearness)


def least(logits: Tensor, rough: Tensor, best: Tensor, gaps: Tensor) -> Tensor:
    """The least distance of each row, (B,) float64, decided among those that look least."""
    close = rough <= rough.amin(1, keepdim=True) * (1 + ROUGH)
    row, column = close.nonzero(as_tuple=True)
    found = torch.full((len(rough),), torch.inf, dtype=torch.float64, device=rough.device)
    return found.scatter_reduce_(0, row, pair_distances(logits, best, row, column, gaps), "amin")


def prepare_head(logits: Rows | Tensor, head_weight: Rows | Tensor) -> tuple[Rows, Tensor]:
    """The logits checked, and the (C, C) float64 distances between the classes' weights."""
    sizes: dict[str, tuple[int, str]] = {}
    rows = check("logits", logits, sizes)
    weight = check("head_weight", head_weight, sizes).tensor().double().to(rows.device)
    if rows.shape[1] < 2:
        raise InputError("there is no boundary between classes: logits has one column")
    weight = weight - weight.mean(0)
    longest = float(weight.abs().max())
    # In a unit of their own, or squares of very long or short ones would be no numbers.
    unit = 2.0 ** min(1000, math.frexp(longest)[1]) if longest else 1.0
    return rows, _apart(weight / unit).sqrt() * unit


def _apart(weight: Tensor) -> Tensor:
    """Squared distances of all rows of a (C, D) matrix from each other, (C, C), none below 0."""
    norms = (weight * weight).sum(1)
    sums = norms[:, None] + norms
    squared = sums - 2 * weight @ weight.T
    # Of rows that are much alike a product leaves few digits: those are told from differences.
    one, other = (squared < _ALIKE * sums).triu(1).nonzero(as_tuple=True)
    step = max(1, _NUMBERS // weight.shape[1])
    for i, j in zip(one.split(step), other.split(step)):
        squared[i, j] = squared[j, i] = (weight[i] - weight[j]).square_().sum(1)
    return squared.fill_diagonal_(0)


def distances(logits: Tensor, gaps: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of a block of rows to the boundary between the predicted and each other class.

    Args:
        logits: (B, C).
        gaps: (C, C), distances between the classes' weights.

    Returns:
        (B, C) float64, infinity in the predicted class's own column and where two classes
        have equal weights; (B,) int64 predicted classes, the lowest on a tie.
    """
    z = as_float(logits).double()
    best = z.argmax(1)
    reach = z.gather(1, best[:, None]) - z
    gap = gaps[best]
    return torch.where(gap > 0, reach / gap, torch.inf), best


ROUGH = 2e-5
"""How far, relatively, a rough distance may be off, with room to spare: three roundings to single
precision, of logits whose own difference is exact or as good as that."""


def inverse_gaps(gaps: Tensor) -> Tensor:
    """1 / distance between two classes' weights, (C, C) float32; infinity for equal weights."""
    return (1 / gaps).float()


def rough_distances(logits: Tensor, inverse: Tensor) -> tuple[Tensor, Tensor]:
    """As `distances`, in single precision and several times as fast.

    Returns:
        (B, C) float32, within a share `ROUGH` of the true ones; (B,) int64 predicted classes.
    """
    z = as_float(logits)
    top, best = z.max(1)
    rough = (top[:, None] - z).float()
    rough.mul_(inverse[best])
    rough.nan_to_num_(nan=torch.inf, posinf=torch.inf)  # 0 x infinity: equal weights and logits
    rough.scatter_(1, best[:, None], torch.inf)
    return rough, best


def pair_distances(
    logits: Tensor, best: Tensor, row: Tensor, column: Tensor, gaps: Tensor
) -> Tensor:
    """Some entries of `distances`, (P,) float64: of ``row[p]`` to the class ``column[p]``."""
    z = as_float(logits)
    won = best[row]
    reach = z[row, won].double() - z[row, column].double()
    gap = gaps[won, column]
    return torch.where((gap > 0) & (column != won), reach / gap, torch.inf)


@strategy(
    cite="Emam et al., arXiv 2021",
    cost=score_work,
    costs="One pass over N x C logits and the C x C Gram matrix of the head; 8 N bytes.",
    fails=(
        "Like margin: ignores likeness within the batch, and classes near others take the "
        "whole batch."
    ),
)
def mase(
    logits: Rows,
    head_weight: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `mase_scores`, closest to a boundary first."""
    scores = mase_scores(logits, head_weight)
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
