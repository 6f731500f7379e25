"""Sparse approximation, greedily: a weighted few rows that stand for the pool's whole loss."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.evidence import Rows
from labelwise.kernels import Generator, Points, Progress, greedy
from labelwise.kernels.cost import Sizes, Work
from labelwise.kernels.matching_pursuit import Residual
from labelwise.kernels.nonnegative import NonNegativeFit
from labelwise.kernels.scaled import Scaled
from labelwise.kernels.sums import Total
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy
from labelwise.strategies.sparse_problem import (
    SparseProblem,
    gradient_problem,
    uncertain_alone,
)


def sparse_greedy_work(sizes: Sizes) -> Work:
    """Inner products of all rows with each pick, and a fit of the weights at each."""
    width, n = float(sizes.width + sizes.classes), float(sizes.n)
    product = 2.0 * sizes.rows * sizes.width * sizes.classes
    held = 4.0 * sizes.rows * (n + 64 + 40)
    return Work(
        products=(0.0, 10 * product + 8 * sizes.rows * width * (n + 64) + 20 * n**3),
        passes=(1, 10 + 2 * n),
        numbers=(sizes.rows * n, 60.0 * sizes.rows * (n + 20 + sizes.classes) + 20 * n**3),
        steps=(n, 500 * n),
        held=(16.0 * sizes.rows, 2 * held + 40 * n**2 + 12.0 * sizes.rows * width + 4e6),
    )


class OneByOne(NonNegativeFit):
    """The best weight >= 0 for each point as it comes, never changed."""

    def __init__(self) -> None:
        super().__init__(0.0)

    def add(self, inner: Tensor, right: float) -> None:
        """One more point; see `NonNegativeFit.add`."""
        own, taken = float(inner[-1]), inner[:-1] * self.weights
        left = right - float(taken.sum())
        # What rounding leaves of nothing is nothing: a weight of 1e-16 would hide a label.
        if own <= 0 or left <= 1e-12 * (abs(right) + float(taken.abs().sum())):
            left, own = 0.0, 1.0
        self.weights = torch.cat([self.weights, self.weights.new_tensor([left / own])])


class SparseGain(Residual):
    """By how much the objective falls when a row gets its best weight, others staying.

    With r what is left of v, that is ``max(0, phi . r + beta)^2 / (|phi|^2 + beta)
    + alpha sigma^2``. Points are divided by ``d = sqrt(|phi|^2 + beta)``, so the first part is
    the square of ``psi . r + beta / d``, an inner product that `Residual` keeps up to date.

    Args:
        problem: what is minimized. refit: whether all weights are fitted again at each pick.
        memory: as for `Residual`.
    """

    def __init__(self, problem: SparseProblem, refit: bool, memory: int | None) -> None:
        self._problem = problem
        self._size = (problem.norms + problem.beta).sqrt()
        inverse = torch.where(self._size > 0, 1 / self._size, 0)
        super().__init__(Scaled(problem.geometry, inverse), memory=memory)
        self._shift = problem.beta * inverse
        self._bonus = problem.alpha * problem.spread
        if not refit:
            self._fit = self._final = OneByOne()
        self.rounding = 4e-14 * self._length**2

    def _mean(self, target: Points | None) -> Total:
        return self._problem.total

    def _value(self, inner: Tensor, rows: Tensor | None) -> Tensor:
        shift, bonus = self._shift, self._bonus
        if rows is not None:
            shift, bonus = shift[rows.to(self.device)], bonus[rows.to(self.device)]
        return (inner.to(self.device) + shift).clamp(min=0).square() + bonus

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """By how much the objective falls, (m,) float64; see `SetFunction.gains`."""
        return self._value(super().gains(rows), rows).cpu()

    def _close(self, found: Tensor, rows: Tensor | None, error: float) -> Tensor:
        low = self._value(found - error, rows)
        if rows is None:
            low[torch.tensor(self.chosen)] = -torch.inf
        return (self._value(found + error, rows) >= low.max()).nonzero()[:, 0]

    def _regularized(self, row: int, inner: Tensor, right: float) -> tuple[Tensor, float]:
        own = self._problem.beta / float(self._size[row]) ** 2 if self._size[row] > 0 else 0.0
        inner = inner.clone()
        inner[-1] += own
        return inner, right + float(self._shift[row])

    @property
    def final(self) -> Tensor:
        """(t,) float64 >= 0, the weights of the picks, of phi as it is."""
        size = self._size[torch.tensor(self.chosen)].cpu()
        return torch.where(size > 0, self.weights / size, 0)


def greedy_picks(
    problem: SparseProblem,
    n: int,
    *,
    candidates: Tensor,
    generator: Generator,
    refit: bool,
    memory: int | None,
    progress: Progress | None,
) -> Picks:
    """The picks of `sparse_greedy` for a problem in any space."""
    if problem.length == 0:
        return uncertain_alone(problem, n, candidates, generator)
    left = None if memory is None else max(0, memory - 64 * len(problem.norms) - 40 * n**2)
    objective = SparseGain(problem, refit, left)
    found = greedy(
        objective,
        n,
        candidates=candidates,
        ties=generator.child("ties"),
        progress=progress,
        memory=memory,
    )
    weights = objective.final
    weights[weights == 0] = 1.0
    return Picks(
        found.rows.numpy(),
        scores=found.gains.numpy(),
        weights=weights.numpy(),
        notes=(f"what is left of the sum of losses is {objective.residual:.3g} of its length",),
    )


@strategy(
    cite="Shen et al., 2022",
    cost=sparse_greedy_work,
    costs="2 N (C + D) operations a pick and a fit of n weights; 4 N (n + 64) bytes.",
    fails=(
        "alpha and beta matter and were tuned for each data set: much alpha takes uncertain rows "
        "that are alike; gradients at predicted labels mean little while the model is poor."
    ),
)
def sparse_greedy(
    probs: Rows,
    embeddings: Rows,
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
    """Pick, one at a time, the row that brings a weighted few nearest to the pool's total loss.

    With phi_j the gradient of row j's loss, v the sum of phi over all rows without labels and
    sigma_j^2 its variance over labels from the model, minimizes over w >= 0 with n
    entries > 0 ``|v - Phi w|^2 - alpha sum_j [w_j > 0] sigma_j^2 + beta |w - 1|^2``:
    representation, uncertainty, and weights that stay near 1. Gradients are the last layer's,
    bias and all, at predicted labels. With draws of the model take `sparse_greedy_draws`.

    Args:
        probs: (N, C). embeddings: (N, D), the input of the last layer. labeled: (L,).
        alpha: what uncertainty counts for, >= 0. At 1 it counts as it does in the expected
            squared error, where representation decides while a pick stands for many rows; at
            a hundredth of (M / n)^2, with M rows without labels, both do.
        beta: >= 0, in units of the mean |phi|^2.
        refit: fit all weights again at each pick. False leaves them as they were first set.

    Returns:
        Rows in the order picked; scores are by how much the objective falls when the pick gets
        its best weight and the others stay; weights say how many rows a pick stands for. One
        of weight 0, good for its uncertainty alone, stands for itself: weight 1. Equal scores
        go by noise. If v is 0 (all rows certain) the most uncertain are picked, of which
        a note tells.

    Raises:
        InputError: alpha or beta out of range.
        ResourceError: a gradient of over 2^27 numbers, or ``memory`` too small.

    Source:
        Shen, Jiang, Zhang & Koyejo, "Batch Active Learning from the Perspective of Sparse
        Approximation", 2022 (arXiv 2211.00246). The authors published no code and no values of
        alpha and beta: beta's unit, the defaults and the refit are ours. Under the model's own
        labels gradients average to 0, so theirs comes from a window about the weights, ours is
        at the predicted label.

    >>> from labelwise import select
    >>> given = {"probs": [[0.9, 0.1], [0.5, 0.5], [0.8, 0.2]], "embeddings": [[1], [2], [3]]}
    >>> select("sparse_greedy", 1, **given).rows, select("sparse_greedy", 1, **given, alpha=0).rows
    (array([2]), array([1]))
    """
    problem = gradient_problem(
        probs,
        embeddings,
        labeled,
        candidates=candidates,
        alpha=alpha,
        beta=beta,
        memory=memory,
    )
    return greedy_picks(
        problem,
        n,
        candidates=candidates,
        generator=generator,
        refit=refit,
        memory=memory,
        progress=progress,
    )
