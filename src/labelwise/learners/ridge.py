"""Ridge regression on one-hot labels: a closed form, tuned by its exact leave-one-out answers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels import Rows, fast_mm, numpy_stream
from labelwise.learners.linear import (
    LinearModel,
    Problem,
    Score,
    cholesky,
    constant_model,
    descend,
    gram,
    pooled,
    prepare,
    score,
    second_moment,
    temperature,
)

START = 10.0**-0.5
"""Where the search for the penalty begins; a row's squared length is 1 on average."""

HIGHEST = 1e3

LEFT_OUT = 1024
"""Of more labeled rows, this many are left out, one at a time, to judge a penalty."""


class Ridge:
    """The linear function nearest to the one-hot labels, with a penalty on its weights.

    Minimizes ``|T - X W - b|^2 + penalty |W|^2`` over the weights W and the intercept b, with
    centered features X whose rows have squared length 1 on average. Solved through the smaller
    of the two squared matrices, of labeled rows or of features.

    The penalty is chosen by the answers that each labeled row gets when it alone is left out,
    which the same solution gives exactly (the scaling of features, which knows no label, stays).
    Probabilities are the softmax of the answers times one factor, the one that fits the
    left-out answers best; logits include the factor. Classes that no labeled row shows have
    a small constant probability, see `Problem.model`.

    Args:
        penalty: a number, to use it as it is, or None to choose it.

    Raises:
        InputError: a penalty that is not positive.

    Source:
        Hoerl & Kennard, "Ridge Regression", Technometrics 1970; leaving one out: Allen's PRESS,
        Technometrics 1974.
    """

    name = "ridge"

    def __init__(self, *, penalty: float | None = None) -> None:
        if penalty is not None and not penalty > 0:
            raise InputError(f"penalty must be positive, got {penalty!r}; None chooses one")
        self.penalty = penalty

    def signature(self) -> dict[str, Any]:
        """Name, version and penalty."""
        return {"name": self.name, "version": 1, "penalty": self.penalty}

    def fit(
        self,
        inputs: Rows,
        rows: Tensor,
        labels: Tensor,
        *,
        classes: int,
        seed: int,
        unlabeled: Tensor | None = None,
    ) -> LinearModel:
        """Fit; the seed matters only beyond `LEFT_OUT` rows, to draw those that are left out."""
        problem = prepare(inputs, rows, labels, classes)
        if len(problem.present) == 1:
            return constant_model(problem)
        return fit_ridge(problem, seed, penalty=self.penalty)


class Solution(NamedTuple):
    """Ridge regression at one penalty.

    Attributes:
        weight: (c, D). bias: (c,).
        left_out: (m, c) what the rows ``rows`` (m,) are answered when each alone is left out.
    """

    weight: Tensor
    bias: Tensor
    left_out: Tensor
    rows: Tensor


def fit_ridge(
    problem: Problem, seed: int, *, kernel: Tensor | None = None, penalty: float | None = None
) -> LinearModel:
    """Ridge regression with the penalty given or chosen, as a model.

    Args:
        problem: at least two classes.
        seed: see `Ridge.fit`.
        kernel: (n, n) ``x @ x.T`` where it is known already.
        penalty: as in `Ridge`.
    """
    solver = _Dual(problem, seed, kernel) if problem.dual else _Primal(problem, seed)
    best: tuple[float, Solution] | None = None

    def evaluate(value: float) -> Score:
        nonlocal best
        solution = solver.at(value)
        y = problem.y[solution.rows]
        found = score(solution.left_out * temperature(solution.left_out, y), y)
        if best is None or found.loss < best[0]:
            best = (found.loss, solution)
        return found

    if penalty is None:
        penalty, tried = descend(evaluate, START, low=lowest_penalty(problem), high=HIGHEST)
    else:
        tried = {penalty: evaluate(penalty)}
    assert best is not None
    solution = best[1]
    factor = temperature(solution.left_out, problem.y[solution.rows])
    report = {
        "head": "ridge",
        "penalty": penalty,
        "factor": factor,
        "left_out": {value: found._asdict() for value, found in sorted(tried.items())},
    }
    return problem.model(solution.weight * factor, solution.bias * factor, report)


def choose_ridge(
    problem: Problem, pairs: list[tuple[Tensor, Tensor]], kernel: Tensor | None
) -> tuple[float, dict[float, Score]]:
    """The penalty with the least cross-entropy on held-out rows, for comparison with others.

    Args:
        problem: at least two classes.
        pairs: (kept, held-out) rows, at least one pair.
        kernel: (n, n) ``x @ x.T``; needed when ``problem.dual``.

    Returns:
        The penalty, and the score of each that was tried.
    """
    halves = [_HeldOut(problem, *pair, kernel) for pair in pairs]

    def evaluate(penalty: float) -> Score:
        parts = []
        for half, (_, held) in zip(halves, pairs, strict=True):
            answers, y = half.answers(penalty), problem.y[held]
            parts.append(score(answers * temperature(answers, y), y))
        return pooled(parts)

    return descend(evaluate, START, low=lowest_penalty(problem), high=HIGHEST)


def lowest_penalty(problem: Problem) -> float:
    """Below this, single precision no longer tells the smallest eigenvalues from zero."""
    return max(1e-3, 5e-7 * len(problem.y))


class _Dual:
    """More features than rows: everything through the (n, n) inner products."""

    def __init__(self, problem: Problem, seed: int, kernel: Tensor | None) -> None:
        self.x = problem.x
        self.kernel = gram(problem.x) if kernel is None else kernel
        self.targets = problem.targets
        self.average = self.targets.mean(0)
        self.rows = _left_out_rows(problem, seed)
        n = len(problem.y)
        self.units = self.x.new_zeros(n, len(self.rows))
        self.units[self.rows, torch.arange(len(self.rows), device=self.rows.device)] = 1

    def at(self, penalty: float) -> Solution:
        factor = cholesky(self.kernel, penalty)
        dual = torch.cholesky_solve(self.targets - self.average, factor)
        halves = torch.linalg.solve_triangular(factor, self.units, upper=False)
        # The diagonal of the inverse, less what the intercept takes away.
        own = halves.square().sum(0) - 1 / (len(self.targets) * penalty)
        residual = dual[self.rows] / own.clamp(min=1e-9 / penalty)[:, None]
        weight = fast_mm(self.x.T, dual).T
        return Solution(weight, self.average, self.targets[self.rows] - residual, self.rows)


class _Primal:
    """More rows than features: everything through the (D, D) second moment."""

    def __init__(self, problem: Problem, seed: int) -> None:
        targets = problem.targets
        self.count = len(problem.y)
        self.average = targets.mean(0)
        self.moment = second_moment(problem.x)
        self.against = fast_mm(problem.x.T, targets - self.average)
        self.rows = _left_out_rows(problem, seed)
        self.some, self.targets = problem.x[self.rows], targets[self.rows]

    def at(self, penalty: float) -> Solution:
        factor = cholesky(self.moment, penalty)
        weight = torch.cholesky_solve(self.against, factor)
        residual = self.targets - self.average - fast_mm(self.some, weight)
        halves = torch.linalg.solve_triangular(factor, self.some.T, upper=False)
        pull = halves.square().sum(0) + 1 / self.count
        left_out = self.targets - residual / (1 - pull).clamp(min=1e-9)[:, None]
        return Solution(weight.T, self.average, left_out, self.rows)


class _HeldOut:
    """Answers to held-out rows by the regression on the kept ones, centered on those."""

    def __init__(self, problem: Problem, kept: Tensor, held: Tensor, kernel: Tensor | None) -> None:
        targets = problem.targets[kept]
        self.average = targets.mean(0)
        wanted = targets - self.average
        if problem.dual:
            assert kernel is not None
            inner = kernel[kept][:, kept]
            mean = inner.mean(0)
            self.matrix = inner.sub_(mean).sub_((mean - mean.mean())[:, None])
            # Answers sum over kept rows with weights that sum to zero, so that what the
            # centering subtracts from a held-out row's own products would cancel.
            self.across = kernel[held][:, kept] - mean
            self.against = wanted
        else:
            x = problem.x[kept]
            center = x.mean(0)
            self.matrix = second_moment(x) - len(x) * torch.outer(center, center)
            self.across = problem.x[held] - center
            self.against = fast_mm(x.T, wanted)

    def answers(self, penalty: float) -> Tensor:
        """(h, c)."""
        solved = torch.cholesky_solve(self.against, cholesky(self.matrix, penalty))
        return fast_mm(self.across, solved) + self.average


def _left_out_rows(problem: Problem, seed: int) -> Tensor:
    n = len(problem.y)
    if n <= LEFT_OUT:
        return torch.arange(n, device=problem.x.device)
    drawn = numpy_stream(seed, "validation").choice(n, LEFT_OUT, replace=False)
    return torch.from_numpy(drawn).sort().values.to(problem.x.device)
