"""Sparse approximation, greedily, in the losses under draws from the model's posterior."""

from __future__ import annotations

from torch import Tensor

from labelwise.evidence import Rows
from labelwise.kernels import Generator, Progress
from labelwise.kernels.cost import Sizes, Work
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy
from labelwise.strategies.sparse_greedy import greedy_picks, sparse_greedy_work
from labelwise.strategies.sparse_problem import draws_problem


def sparse_greedy_draws_work(sizes: Sizes) -> Work:
    """The losses, then `sparse_greedy_work` with S numbers a row."""
    predictions = 1.0 * sizes.rows * max(1, sizes.classes) * max(1, sizes.draws)
    return sparse_greedy_work(sizes._replace(width=sizes.draws, classes=1)) + Work(
        passes=(0, 1),
        numbers=(predictions, 60 * predictions),
        held=(8.0 * sizes.rows * sizes.draws, 24.0 * sizes.rows * sizes.draws),
    )


@strategy(
    cite="Shen et al., 2022",
    cost=sparse_greedy_draws_work,
    costs="One pass over S x N x C draws, 2 N S operations a pick and a fit; 4 N (n + 64) bytes.",
    fails=(
        "alpha and beta matter and were tuned for each data set; S draws tell no more than S - 1 "
        "directions apart, so more picks than that repeat them."
    ),
)
def sparse_greedy_draws(
    draws: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    alpha: float = 1.0,
    beta: float = 0.1,
    refit: bool = True,
) -> Picks:
    """Pick a weighted few rows whose expected loss follows the pool's under every draw.

    `sparse_greedy` for Bayesian models: phi_j is the expected loss of row j under each of the S
    draws, `loss_vectors`, and sigma_j^2 its variance over labels from the mean prediction.

    Args:
        draws: (S, N, C). labeled: (L,).
        alpha, beta, refit: see `sparse_greedy`.

    Returns:
        Rows in the order picked, scores and weights as for `sparse_greedy`. If all draws agree
        (or there is one) the most uncertain are picked, of which a note tells.

    Raises:
        InputError: alpha or beta out of range.
        ResourceError: ``memory`` too small.

    Source:
        Shen, Jiang, Zhang & Koyejo, "Batch Active Learning from the Perspective of Sparse
        Approximation", 2022 (arXiv 2211.00246), the Bayesian form; see `sparse_greedy` for what
        is ours. sigma^2 is measured as phi is, less the mean over draws.

    >>> from labelwise import select
    >>> draws = [[[0.9, 0.1], [0.6, 0.4]], [[0.1, 0.9], [0.5, 0.5]]]
    >>> select("sparse_greedy_draws", 1, draws=draws).rows
    array([0])
    """
    problem = draws_problem(draws, labeled, candidates=candidates, alpha=alpha, beta=beta)
    return greedy_picks(
        problem,
        n,
        candidates=candidates,
        generator=generator,
        refit=refit,
        memory=memory,
        progress=progress,
    )
