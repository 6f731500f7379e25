"""LinUCB: a linear guess at rewards, with what is not known of it counted in their favor."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.functions import SetFunction


class UpperConfidence(SetFunction):
    """LinUCB over contexts s: ``w . s + alpha sqrt(s' A^-1 s)``, A growing by the picks' s s'.

    Rewards come after the batch, so w stands still while A grows: gains can only fall.

    Args:
        contexts: (N, M) float64, a row for each thing to pick.
        weights: (M,) w. covariance: (M, M) A, positive definite. alpha: >= 0.

    >>> from labelwise.kernels.greedy import greedy
    >>> arms = UpperConfidence(np.eye(2), np.array([1.0, 0.9]), np.eye(2), alpha=1.0)
    >>> greedy(arms, 2)
    Chosen(rows=tensor([0, 1]), gains=tensor([2.0000, 1.9000], dtype=torch.float64))
    """

    rounding = 1e-9

    def __init__(
        self,
        contexts: NDArray[np.float64],
        weights: NDArray[np.float64],
        covariance: NDArray[np.float64],
        alpha: float,
    ) -> None:
        super().__init__()
        self._contexts, self._alpha = contexts, alpha
        self._mean = contexts @ weights
        self._inverse = np.linalg.inv(covariance)

    def __len__(self) -> int:
        return len(self._contexts)

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """Upper confidence bounds of the rewards, given what is in the set."""
        at = slice(None) if rows is None else rows.numpy()
        s = self._contexts[at]
        spread = np.einsum("nm,nm->n", s @ self._inverse, s)
        return torch.from_numpy(self._mean[at] + self._alpha * np.sqrt(np.maximum(spread, 0)))

    def _add(self, row: int) -> None:
        s = self._contexts[row]
        u = self._inverse @ s  # Sherman-Morrison
        self._inverse = self._inverse - np.outer(u, u) / (1 + s @ u)


def learned_weights(
    gram: NDArray[np.float64],
    moment: NDArray[np.float64],
    prior: NDArray[np.float64],
    ridge: float,
) -> NDArray[np.float64]:
    """w = (ridge I + gram)^-1 (moment + ridge prior): ridge regression drawn towards a prior.

    It minimizes ``sum (r - w . s)^2 + ridge |w - prior|^2`` for gram = sum s s' and moment =
    sum r s.

    Raises:
        InputError: rounding loses ridge beside gram, whose columns depend on one another.

    >>> learned_weights(np.zeros((2, 2)), np.zeros(2), np.array([0.5, 0.2]), 1.0)
    array([0.5, 0.2])
    """
    try:
        found = np.linalg.solve(ridge * np.eye(len(prior)) + gram, moment + ridge * prior)
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"ridge must be larger, got {ridge:.4g}: it is lost beside the squares of the arms' "
            "scores, and some of the arms score alike"
        ) from error
    return np.asarray(found, dtype=np.float64)
