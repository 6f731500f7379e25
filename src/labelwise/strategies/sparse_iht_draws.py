"""Sparse approximation by proximal thresholding, in the losses under draws of the model."""

from __future__ import annotations

from torch import Tensor

from labelwise.evidence import Rows
from labelwise.kernels import Generator
from labelwise.kernels.cost import Sizes, Work
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy
from labelwise.strategies.sparse_iht import iht_picks, sparse_iht_work
from labelwise.strategies.sparse_problem import draws_problem


def sparse_iht_draws_work(sizes: Sizes) -> Work:
    """The losses, then `sparse_iht_work` with S numbers a row."""
    predictions = 1.0 * sizes.rows * max(1, sizes.classes) * max(1, sizes.draws)
    return sparse_iht_work(sizes._replace(width=sizes.draws, classes=1)) + Work(
        passes=(0, 1),
        numbers=(predictions, 60 * predictions),
        held=(8.0 * sizes.rows * sizes.draws, 24.0 * sizes.rows * sizes.draws),
    )


@strategy(
    cite="Shen et al., 2022",
    cost=sparse_iht_draws_work,
    costs="One pass over S x N x C draws, 2 N S operations a step, up to 300; 8 N S + 200 N bytes.",
    fails=(
        "Ends in the first local optimum; alpha and beta matter and were tuned for each data "
        "set; S draws tell no more than S - 1 directions apart."
    ),
)
def sparse_iht_draws(
    draws: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    alpha: float = 1.0,
    beta: float = 0.1,
    tol: float = 1e-5,
    steps: int = 300,
) -> Picks:
    """Pick the weighted few rows of `sparse_greedy_draws`'s objective by gradient steps.

    See `sparse_iht` for the steps and `sparse_greedy_draws` for what is compared.

    Args:
        draws: (S, N, C). labeled: (L,).
        alpha, beta: see `sparse_greedy`. tol, steps: see `sparse_iht`.

    Returns:
        Rows, scores and weights as for `sparse_iht`.

    Raises:
        InputError: an option out of range.

    Source:
        Shen, Jiang, Zhang & Koyejo, "Batch Active Learning from the Perspective of Sparse
        Approximation", 2022 (arXiv 2211.00246), the Bayesian form; see `sparse_iht` for what
        is ours.

    >>> from labelwise import select
    >>> draws = [[[0.9, 0.1], [0.6, 0.4]], [[0.1, 0.9], [0.5, 0.5]]]
    >>> select("sparse_iht_draws", 1, draws=draws).rows
    array([0])
    """
    problem = draws_problem(draws, labeled, candidates=candidates, alpha=alpha, beta=beta)
    return iht_picks(problem, n, candidates=candidates, generator=generator, tol=tol, steps=steps)
