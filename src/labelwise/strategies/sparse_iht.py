"""Sparse approximation by proximal iterative hard thresholding: all picks improved at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows
from labelwise.kernels import Generator
from labelwise.kernels.cost import Sizes, Work
from labelwise.kernels.sums import Total
from labelwise.strategies.pickers import largest
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy
from labelwise.strategies.sparse_problem import (
    SparseProblem,
    gradient_problem,
    uncertain_alone,
)

_HALVINGS = 30


def sparse_iht_work(sizes: Sizes) -> Work:
    """A gradient for all rows at each of at most 300 steps."""
    width = float(sizes.width + sizes.classes)
    product = 2.0 * sizes.rows * sizes.width * sizes.classes
    entries = sizes.rows * (width + 40) + 60.0 * sizes.n * (width + 20)
    return Work(
        products=(0.0, 900 * product),
        passes=(1, 320),
        numbers=(sizes.rows * width, 600 * entries),
        steps=(1, 20_000.0),
        held=(40.0 * sizes.rows, 200.0 * sizes.rows + 12.0 * sizes.rows * width + 8e6),
    )


class Support(NamedTuple):
    """Rows in use, their weights, and what they leave.

    Attributes:
        places: (n,) int64, where in the candidates. weights: (n,) float64 >= 0.
        left: v - Phi w. value: of the objective, up to a constant.
    """

    places: Tensor
    weights: Tensor
    left: Total
    value: float


class ProximalIHT:
    """Proximal gradient steps on the objective of `SparseProblem`, n weights at a time.

    A step goes from w to ``u = w - mu g``, g the gradient of the smooth part, keeps the n rows
    of largest ``max(0, u)^2 / (2 mu) + alpha sigma^2`` (by how much less they cost in the step's
    model when their weights may be > 0) and sets their weights to ``max(0, u)``. mu is the exact
    step along g on the rows in use and the n that should rise most, halved until the objective
    falls; a second exact step moves only the rows then in use.

    Args:
        problem: what is minimized. n: rows to keep.
        candidates: (M,) rows that may be kept.
        generator: breaks ties.
    """

    def __init__(
        self, problem: SparseProblem, n: int, candidates: Tensor, generator: Generator
    ) -> None:
        self._problem, self._n = problem, n
        self._candidates, self._generator = candidates, generator
        self._bonus = (problem.alpha * problem.spread).cpu()[candidates]

    def run(self, tol: float, most: int) -> tuple[Support, Tensor, int]:
        """Steps until the objective falls by less than ``tol`` of itself, at most ``most``.

        Returns:
            The rows and weights, (n,) float64 what each spares the objective, and the steps.
        """
        none = torch.zeros(0, dtype=torch.float64)
        now = Support(none.long(), none, self._problem.total, math.inf)
        scores = none
        for step in range(most):
            found = self._step(now)
            if found is None:
                return now, scores, step
            before, (now, scores) = now.value, found
            small = tol * max(abs(before), abs(now.value))
            if step and before - now.value <= small:
                return now, scores, step + 1
        return now, scores, most

    def _step(self, now: Support) -> tuple[Support, Tensor] | None:
        """One step that lowers the objective, or None."""
        weights = torch.zeros(len(self._candidates), dtype=torch.float64)
        weights[now.places] = now.weights
        beta = self._problem.beta
        inner = self._problem.linear.values(now.left).cpu()[self._candidates]
        slope = 2 * beta * (weights - 1) - 2 * inner
        rise = (-slope).clamp(min=0)
        rise[now.places] = 0
        some = torch.zeros(len(weights), dtype=torch.bool)
        some[rise.topk(min(self._n, len(rise))).indices] = True
        some &= rise > 0
        some[now.places] = True
        mu = self._exact(some.nonzero()[:, 0], slope[some])
        if mu == 0 and not len(now.places):
            kept = self._largest(self._bonus)  # no weight is of use: uncertainty is what is left
            return self._support(kept, weights[kept]), self._bonus[kept]
        for _ in range(_HALVINGS):
            if mu == 0:
                return None
            moved = (weights - mu * slope).clamp_(min=0)
            score = moved.square() / (2 * mu) + self._bonus
            kept = self._largest(score)
            found = self._within(self._support(kept, moved[kept]))
            if found.value < now.value:
                return found, score[kept]
            mu /= 2
        return None

    def _largest(self, score: Tensor) -> Tensor:
        """Places of the n largest, ties by noise."""
        # Rounded, or the last bits of a sum would tell copies apart in place of the noise.
        rough = score.float().double().numpy()
        return torch.from_numpy(largest(rough, self._n, self._candidates, self._generator))

    def _exact(self, places: Tensor, slope: Tensor) -> float:
        """The step down a slope that lowers the smooth part most, if weights may turn negative."""
        squared = float(slope.square().sum())
        if squared == 0:
            return 0.0
        along = self._problem.linear.norm(self._sum(places, slope))
        bend = along + self._problem.beta * squared
        return squared / (2 * bend) if bend > 0 else 0.0

    def _sum(self, places: Tensor, weights: Tensor) -> Total:
        geometry, linear = self._problem.geometry, self._problem.linear
        points = geometry.take(self._candidates[places])
        return linear.total_of(points, weights.to(geometry.device))

    def _support(self, places: Tensor, weights: Tensor) -> Support:
        left = self._problem.total.plus(self._sum(places, weights).times(-1.0))
        regular = self._problem.beta * float((weights.square() - 2 * weights).sum())
        value = self._problem.linear.norm(left) + regular - float(self._bonus[places].sum())
        return Support(places, weights, left, value)

    def _within(self, now: Support) -> Support:
        """One exact step among the rows in use, where it helps."""
        inner = self._problem.linear.values(now.left, self._candidates[now.places]).cpu()
        slope = 2 * self._problem.beta * (now.weights - 1) - 2 * inner
        slope[(now.weights == 0) & (slope > 0)] = 0
        mu = self._exact(now.places, slope)
        found = self._support(now.places, (now.weights - mu * slope).clamp(min=0))
        return found if found.value < now.value else now


def iht_picks(
    problem: SparseProblem,
    n: int,
    *,
    candidates: Tensor,
    generator: Generator,
    tol: float,
    steps: int,
) -> Picks:
    """The picks of `sparse_iht` for a problem in any space.

    Raises:
        InputError: tol or steps out of range.
    """
    if not 0 < tol < math.inf:
        raise InputError(f"tol must be a finite number > 0, got {tol}")
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps must be a whole number >= 1, got {steps!r}")
    if problem.length == 0:
        return uncertain_alone(problem, n, candidates, generator)
    found, scores, taken = ProximalIHT(problem, n, candidates, generator).run(tol, steps)
    left = math.sqrt(problem.linear.norm(found.left)) / problem.length
    weights = torch.where(found.weights > 0, found.weights, 1.0)
    note = f"what {taken} steps left of the sum of losses is {left:.3g} of its length"
    return Picks(
        candidates[found.places].numpy(),
        scores=scores.numpy(),
        weights=weights.numpy(),
        notes=(note,),
    )


@strategy(
    cite="Shen et al., 2022",
    cost=sparse_iht_work,
    costs="2 N C D operations a step, up to 300 steps; 200 N bytes.",
    fails=(
        "Ends in the first local optimum: above sparse_greedy's objective as a rule; alpha and "
        "beta matter and were tuned for each data set."
    ),
)
def sparse_iht(
    probs: Rows,
    embeddings: Rows,
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
    """Pick the weighted few rows of `sparse_greedy`'s objective by gradient steps, n at a time.

    Starting at w = 0, each step of `ProximalIHT` moves all weights down the gradient of
    ``|v - Phi w|^2 + beta |w - 1|^2`` and keeps the n rows that then spare the objective most,
    their uncertainty ``alpha sigma^2`` included. With draws of the model take
    `sparse_iht_draws`.

    Args:
        probs: (N, C). embeddings: (N, D), the input of the last layer. labeled: (L,).
        alpha, beta: see `sparse_greedy`.
        tol: stop when a step lowers the objective by less than this share of it, > 0.
        steps: the most steps, >= 1.

    Returns:
        Rows, largest scores first; a score is how much the row spares the objective, by the
        last step's model; weights say how many rows a pick stands for. One of weight 0, good
        for its uncertainty alone, stands for itself: weight 1. Equal scores go by noise. If v
        is 0 the most uncertain are picked, of which a note tells.

    Raises:
        InputError: an option out of range.
        ResourceError: a gradient of over 2^27 numbers.

    Source:
        Shen, Jiang, Zhang & Koyejo, "Batch Active Learning from the Perspective of Sparse
        Approximation", 2022 (arXiv 2211.00246). The authors published no code: exact steps, the
        second step on the rows in use, tol and steps are those of the thresholding by two of
        them, Zhang, Khanna, Kyrillidis & Koyejo, "Bayesian Coresets: Revisiting the Nonconvex
        Optimization Perspective", AISTATS 2021, without its momentum; halving is ours.

    >>> from labelwise import select
    >>> given = {"probs": [[0.9, 0.1], [0.5, 0.5], [0.8, 0.2]], "embeddings": [[1], [2], [3]]}
    >>> select("sparse_iht", 1, **given).rows, select("sparse_iht", 1, **given, alpha=9).rows
    (array([1]), array([2]))
    """
    problem = gradient_problem(
        probs, embeddings, labeled, candidates=candidates, alpha=alpha, beta=beta
    )
    return iht_picks(problem, n, candidates=candidates, generator=generator, tol=tol, steps=steps)
