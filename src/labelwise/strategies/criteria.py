"""The three scores of how unsure a classifier is, for strategies that let one choose."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows
from labelwise.strategies.entropy import entropy_scores
from labelwise.strategies.least_confidence import least_confidence_scores
from labelwise.strategies.margin import margin_scores

Criterion = Literal["least_confidence", "margin", "entropy"]

_CRITERIA = {
    "least_confidence": least_confidence_scores,
    "margin": margin_scores,
    "entropy": entropy_scores,
}


def criterion_scores(criterion: str, probs: Rows | Tensor) -> Tensor:
    """(N,) float64 scores by the criterion of that name, larger = asked first.

    Args:
        criterion: ``"least_confidence"``, ``"margin"`` or ``"entropy"``.
        probs: (N, C) class distributions.

    Raises:
        InputError: another name, no distributions, or a single class with ``"margin"``.

    >>> import torch
    >>> criterion_scores("margin", torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    if not isinstance(criterion, str) or criterion not in _CRITERIA:
        raise InputError(
            f"criterion must be known, got {criterion!r}; {nearest(criterion, _CRITERIA)}"
        )
    return _CRITERIA[criterion](probs)
