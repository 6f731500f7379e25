"""Least confidence: ask about the rows whose likeliest class is least likely."""

from __future__ import annotations

from torch import Tensor

from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Generator, per_row
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy


def least_confidence_scores(probs: Rows | Tensor) -> Tensor:
    """The probability that the likeliest class is wrong, per row: ``1 - max p``.

    Args:
        probs: (N, C) class distributions, anything `Rows` takes.

    Returns:
        (N,) float64 in [0, 1 - 1/C], no unit. Larger = asked first.

    Raises:
        InputError: wrong shape, or a row that is no distribution.

    Source:
        Lewis & Gale, "A Sequential Algorithm for Training Text Classifiers", SIGIR 1994.

    >>> import torch
    >>> least_confidence_scores(torch.tensor([[0.5, 0.5], [0.75, 0.25]]))
    tensor([0.5000, 0.2500], dtype=torch.float64)
    """
    rows = check("probs", probs)
    scores = per_row(rows.blocks(), len(rows), lambda block: 1 - as_float(block).amax(1).double())
    return scores.clamp_min_(0)  # a rounded row may hold a little more than 1


@strategy(
    cite="Lewis & Gale, SIGIR 1994",
    cost=score_work,
    costs="One pass over N x C probabilities; 8 N bytes.",
    fails=(
        "Ignores likeness within the batch: large batches are redundant; outliers and wrong "
        "labels look unsure."
    ),
)
def least_confidence(
    probs: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `least_confidence_scores`, least sure first."""
    scores = least_confidence_scores(probs)
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
