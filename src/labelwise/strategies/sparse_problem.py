"""A batch as a sparse approximation: what the `sparse_*` strategies minimize."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.evidence import Rows, check, rows_first
from labelwise.kernels import (
    Euclidean,
    Generator,
    Geometry,
    GradientEmbedding,
    Similarity,
    hold_limit,
    per_row,
)
from labelwise.kernels.sums import MOST_NUMBERS, LinearSums, Total
from labelwise.strategies.pickers import top
from labelwise.strategies.picks import Picks
from labelwise.strategies.similar import pool_rows

LEAST_PROBABILITY = 1e-8
"""What smaller probabilities of a draw count as: the loss of one that is 0 is infinite."""


@dataclass(frozen=True)
class SparseProblem:
    """``|v - Phi w|^2 - alpha sum_j [w_j > 0] sigma_j^2 + beta |w - 1|^2`` over w >= 0.

    Attributes:
        geometry: N points phi, one for each row of the pool.
        linear: sums of them.
        total: v, the sum of those without labels.
        norms: (N,) float64 |phi|^2.
        spread: (N,) float64 sigma^2, in the same unit.
        alpha, beta: as they are in the formula.
    """

    geometry: Geometry
    linear: LinearSums
    total: Total
    norms: Tensor
    spread: Tensor
    alpha: float
    beta: float

    @property
    def length(self) -> float:
        """|v|."""
        return math.sqrt(self.linear.norm(self.total))


def loss_vectors(draws: Rows | Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each row as a function of the model, and how much its label matters to it.

    The loss of row j at label y is the vector of ``-log p_s(y | x_j)`` over the S draws, less
    their mean (a constant is nothing to learn from), over sqrt(S). phi_j is its expectation
    over labels from the mean prediction, sigma_j^2 its variance: the mean squared distance.

    Args:
        draws: (S, N, C), anything `Rows` takes.

    Returns:
        (N, S) float64 phi and (N,) float64 sigma^2. Probabilities below 1e-8 count as 1e-8.

    >>> phi, spread = loss_vectors(torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]]]))
    >>> phi, spread
    (tensor([[0., 0.]], dtype=torch.float64), tensor([0.], dtype=torch.float64))
    """
    rows = rows_first(check("draws", draws))
    samples = rows.shape[1]

    def both(block: Tensor) -> Tensor:
        probs = block.double()
        mean = probs.mean(1, keepdim=True)
        loss = -probs.clamp(min=LEAST_PROBABILITY).log()
        loss = (loss - loss.mean(1, keepdim=True)) / math.sqrt(samples)
        phi = (mean * loss).sum(2)
        away = (loss - phi[:, :, None]).square().sum(1)
        return torch.cat([phi, (mean[:, 0] * away).sum(1, keepdim=True)], 1)

    found = per_row(rows.blocks(), len(rows), both)
    return found[:, :samples], found[:, samples]


def gradient_spread(probs: Rows, embeddings: Rows) -> Tensor:
    """Variance of the last layer's gradient over labels from the model: (N,) float64.

    ``sum_c p_c |g_c|^2 = (1 - |p|^2) (|h|^2 + 1)``, since the mean over labels is 0.

    >>> gradient_spread(Rows([[0.5, 0.5], [1.0, 0.0]]), Rows([[2.0], [3.0]]))
    tensor([2.5000, 0.0000], dtype=torch.float64)
    """
    doubt = per_row(probs.blocks(), len(probs), lambda p: 1 - p.double().square().sum(1))
    length = per_row(embeddings.blocks(), len(embeddings), lambda h: 1 + h.double().square().sum(1))
    return doubt.clamp(min=0).to(length.device) * length


def gradient_problem(
    probs: Rows,
    embeddings: Rows,
    labeled: Tensor | None,
    *,
    candidates: Tensor,
    alpha: float,
    beta: float,
    memory: int | None = None,
) -> SparseProblem:
    """The problem in last layer's gradients, bias and all, at predicted labels.

    Args:
        probs: (N, C). embeddings: (N, D). labeled: (L,).
        candidates, alpha, beta: see `draws_problem`.

    Raises:
        InputError: a knob out of range.
        ResourceError: a gradient of over 2^27 numbers.
    """
    p, h = check("probs", probs), check("embeddings", embeddings)
    geometry = GradientEmbedding(p, h, bias=True, hold=hold_limit(memory))
    return _problem(geometry, gradient_spread(p, h), labeled, candidates, alpha, beta)


def draws_problem(
    draws: Rows,
    labeled: Tensor | None,
    *,
    candidates: Tensor,
    alpha: float,
    beta: float,
) -> SparseProblem:
    """The problem in `loss_vectors`.

    Args:
        draws: (S, N, C). labeled: (L,).
        candidates: rows that may be picked.
        alpha: as it is in the formula. beta: in units of the mean |phi|^2.

    Raises:
        InputError: a knob out of range.
    """
    phi, spread = loss_vectors(draws)
    return _problem(Euclidean(phi, shift=False), spread, labeled, candidates, alpha, beta)


def _problem(
    geometry: Geometry,
    spread: Tensor,
    labeled: Tensor | None,
    candidates: Tensor,
    alpha: float,
    beta: float,
) -> SparseProblem:
    for name, value in {"alpha": alpha, "beta": beta}.items():
        if not 0 <= value < math.inf:
            raise InputError(f"{name} must be a finite number >= 0, got {value}")
    linear = LinearSums.of(Similarity(geometry, "dot"))
    if linear is None:
        raise ResourceError(
            f"a gradient has {math.prod(geometry.widths):.3g} numbers, more than "
            f"{MOST_NUMBERS:.3g}; use fewer classes or narrower embeddings"
        )
    pool = pool_rows(len(geometry), labeled, candidates)
    norms = geometry.squared_norms()
    return SparseProblem(
        geometry,
        linear,
        linear.total() if len(pool) == len(geometry) else linear.total(pool),
        norms,
        spread.to(geometry.device),
        alpha,
        beta * float(norms[pool.to(norms.device)].mean()),
    )


def uncertain_alone(
    problem: SparseProblem, n: int, candidates: Tensor, generator: Generator
) -> Picks:
    """The most uncertain candidates, where there is nothing to represent."""
    found = top(problem.spread.cpu(), n=n, candidates=candidates, generator=generator)
    note = "the losses add up to 0, so there is nothing to represent: picks are by uncertainty"
    return Picks(
        found.rows.numpy(),
        scores=found.gains.numpy(),
        weights=torch.ones(n).numpy(),
        notes=(note,),
    )
