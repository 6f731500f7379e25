"""The better of ridge and logistic regression, by held-out labeled rows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from labelwise.kernels import Rows
from labelwise.learners.linear import LinearModel, constant_model, folds, gram, prepare
from labelwise.learners.logistic import choose_penalty, fit_logistic
from labelwise.learners.ridge import choose_ridge, fit_ridge


class Auto:
    """Whichever of `Ridge` and `Logistic` predicts held-out labeled rows better.

    Both choose their penalty by the same held-out rows: five stratified folds, or one fifth of
    more than 2,000 labeled rows. The head that gets more of them right wins, at equal counts the
    one with the lower cross-entropy; it is fitted again on all labeled rows. The held-out rows
    are labeled rows, so no label is looked at that was not paid for. With nothing that can be
    held out (no class has two labeled rows) it is ridge, which needs no held-out rows.

    The inner products of the labeled rows are computed once, for both heads and all folds.
    """

    name = "auto"

    def signature(self) -> dict[str, Any]:
        """Name and version."""
        return {"name": self.name, "version": 1}

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
        """Fit; the seed decides which rows are held out. The report names the winner."""
        problem = prepare(inputs, rows, labels, classes)
        if len(problem.present) == 1:
            return constant_model(problem)
        kernel = gram(problem.x) if problem.dual else None
        pairs = folds(problem.y, seed)
        if not pairs:
            return fit_ridge(problem, seed, kernel=kernel)
        ridge, by_ridge = choose_ridge(problem, pairs, kernel)
        logistic, by_logistic = choose_penalty(problem, pairs, kernel)
        scores = {"ridge": by_ridge[ridge], "logistic": by_logistic[logistic]}
        best = max(scores, key=lambda head: (scores[head].accuracy, -scores[head].loss))
        if best == "ridge":
            model = fit_ridge(problem, seed, kernel=kernel, penalty=ridge)
        else:
            model = fit_logistic(problem, logistic, kernel=kernel)
        model.report["compared"] = {head: found._asdict() for head, found in scores.items()}
        return model
