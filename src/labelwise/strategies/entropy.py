"""Entropy sampling: ask about the rows whose class distribution is widest."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Generator, per_row
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy


def entropy_scores(probs: Rows | Tensor) -> Tensor:
    """Entropy of each row, in nats: ``-sum_c p_c log p_c``, where ``0 log 0`` is 0.

    A saturated float32 softmax still orders rows: when the likeliest class has rounded to 1
    the small probabilities, down to 1e-45, carry the entropy. Rows where even they are 0
    score 0, and such ties are broken by noise when picking.

    Args:
        probs: (N, C) class distributions, anything `Rows` takes.

    Returns:
        (N,) float64 in [0, log C], in nats, as far as the row sums to 1. Larger = asked first.

    Raises:
        InputError: wrong shape, or a row that is no distribution.

    Source:
        Shannon, "A Mathematical Theory of Communication", 1948; for querying, Dagan &
        Engelson, "Committee-Based Sampling for Training Probabilistic Classifiers", ICML 1995.

    >>> entropy_scores(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor([0.6931, 0.0000], dtype=torch.float64)
    """
    rows = check("probs", probs)
    # A rounded row may hold a little more than 1, whose entropy would be negative.
    scores = per_row(rows.blocks(), len(rows), lambda block: entropy_of(as_float(block)))
    return scores.clamp_min_(0)


def entropy_of(probs: Tensor) -> Tensor:
    """Entropy over the last axis in nats, summed in float64. ``probs``: (..., C) floats."""
    # Subtracted from 0.0, since a minus sign would make a certain row -0.0.
    return 0.0 - torch.special.xlogy(probs, probs).sum(-1, dtype=torch.float64)


@strategy(
    cite="Dagan & Engelson, ICML 1995",
    cost=score_work,
    costs="One pass over N x C probabilities; 8 N bytes.",
    fails=(
        "Many classes, where it asks for rows confused among unlikely ones (letter, CIFAR-10: "
        "below random); ignores likeness within the batch."
    ),
)
def entropy(
    probs: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `entropy_scores`, widest distribution first."""
    scores = entropy_scores(probs)
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
