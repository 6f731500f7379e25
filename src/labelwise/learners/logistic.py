"""Exact multinomial logistic regression on frozen features, by preconditioned L-BFGS."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels import Rows, linear
from labelwise.learners.linear import (
    LinearModel,
    Problem,
    Score,
    constant_model,
    descend,
    folds,
    gram,
    pooled,
    prepare,
    score,
)
from labelwise.learners.logistic_solver import optimum, whitened

START = 10.0**-1.5
"""Where the search for the penalty begins; a row's squared length is 1 on average."""

HIGHEST = 1e3

ROUGHLY = 1e-2
"""The tolerance of fits that only compare penalties."""


class Logistic:
    """The softmax of a linear function that makes the labels likeliest, with a penalty.

    Minimizes ``sum of cross-entropies + penalty / 2 |W|^2`` over the weights W and the intercept,
    with centered features whose rows have squared length 1 on average: convex, and solved to the
    optimum. Optimization runs in coordinates in which the curvature is nowhere above one
    (Boehning's bound), through the smaller of two matrices, of labeled rows or of features.

    The penalty is chosen by the cross-entropy of held-out labeled rows: five stratified folds,
    or one fifth of more than 2,000 rows; then all labeled rows are fitted. A class that no
    labeled row shows has a small constant probability, see `Problem.model`.

    Args:
        penalty: a number, to use it as it is, or None to choose it.
        tolerance: the optimization ends when the gradient is this small relative to the one at
            zero weights, in those coordinates.

    Raises:
        InputError: a penalty or tolerance that is not positive.

    Source:
        Boehning, "Multinomial logistic regression algorithm", Annals of the Institute of
        Statistical Mathematics 1992; Liu & Nocedal, "On the limited memory BFGS method",
        Mathematical Programming 1989.
    """

    name = "logistic"

    def __init__(self, *, penalty: float | None = None, tolerance: float = 1e-5) -> None:
        if penalty is not None and not penalty > 0:
            raise InputError(f"penalty must be positive, got {penalty!r}; None chooses one")
        if not tolerance > 0:
            raise InputError(f"tolerance must be positive, got {tolerance!r}")
        self.penalty = penalty
        self.tolerance = tolerance

    def signature(self) -> dict[str, Any]:
        """Name, version, penalty and tolerance."""
        options = {"penalty": self.penalty, "tolerance": self.tolerance}
        return {"name": self.name, "version": 1, **options}

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
        """Fit; the seed decides only which rows are held out to choose the penalty."""
        problem = prepare(inputs, rows, labels, classes)
        if len(problem.present) == 1:
            return constant_model(problem)
        kernel = gram(problem.x) if problem.dual else None
        penalty = self.penalty
        tried: dict[float, Score] = {}
        if penalty is None:
            pairs = folds(problem.y, seed)
            penalty, tried = choose_penalty(problem, pairs, kernel)
        return fit_logistic(problem, penalty, kernel=kernel, tolerance=self.tolerance, tried=tried)


def fit_logistic(
    problem: Problem,
    penalty: float,
    *,
    kernel: Tensor | None = None,
    tolerance: float = 1e-5,
    tried: dict[float, Score] | None = None,
) -> LinearModel:
    """Logistic regression at one penalty, as a model.

    Args:
        problem: at least two classes.
        penalty: as in `Logistic`.
        kernel: (n, n) ``x @ x.T`` where it is known already.
        tolerance: as in `Logistic`.
        tried: scores of the penalties that were tried, for the report.
    """
    space = whitened(problem.x, penalty, kernel)
    found = optimum(space, problem.targets, penalty, tolerance=tolerance)
    report = {
        "head": "logistic",
        "penalty": penalty,
        "steps": found.steps,
        "held_out": {value: each._asdict() for value, each in sorted((tried or {}).items())},
    }
    return problem.model(found.weight, found.bias, report)


def choose_penalty(
    problem: Problem, pairs: list[tuple[Tensor, Tensor]], kernel: Tensor | None
) -> tuple[float, dict[float, Score]]:
    """The penalty with the least cross-entropy on held-out rows; each fit starts from the last.

    Args:
        problem: at least two classes.
        pairs: (kept, held-out) rows; without any, the default penalty is returned.
        kernel: (n, n) ``x @ x.T``, or None.

    Returns:
        The penalty, and the score of each that was tried.
    """
    if not pairs:
        return START, {}
    targets = problem.targets
    spaces = [
        whitened(problem.x[kept], START, None if kernel is None else kernel[kept][:, kept])
        for kept, _ in pairs
    ]
    states: list[Tensor | None] = [None] * len(pairs)

    def evaluate(penalty: float) -> Score:
        parts = []
        for number, (kept, held) in enumerate(pairs):
            found = optimum(
                spaces[number],
                targets[kept],
                penalty,
                tolerance=ROUGHLY,
                start=states[number],
            )
            states[number] = found.state
            logits = linear(problem.x[held], found.weight.contiguous(), found.bias)
            parts.append(score(logits, problem.y[held]))
        return pooled(parts)

    low = max(1e-4, 5e-7 * len(problem.y))
    return descend(evaluate, START, low=low, high=HIGHEST)
