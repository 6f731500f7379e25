"""Margin sampling: ask about the rows whose two likeliest classes are nearly tied."""

from __future__ import annotations

from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Generator, per_row
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy


def margin_scores(probs: Rows | Tensor) -> Tensor:
    """Closeness of the two likeliest classes, per row: ``1 - (first - second)``.

    Args:
        probs: (N, C), C >= 2, anything `Rows` takes. Each row is a class distribution: >= 0
            and summing to 1 within 1e-2. Logits are refused, never converted.

    Returns:
        (N,) float64 in [0, 1], no unit. 1 is a tie, 0 is certainty. Larger = asked first.

    Raises:
        InputError: wrong shape, a single class, a non-finite entry, or a row that is no
            distribution; the message names such a row and shows it.

    Source:
        Scheffer, Decomain & Wrobel, "Active Hidden Markov Models for Information
        Extraction", IDA 2001. The usual rule asks for the smallest margin; we turn it
        round so that larger always means "ask first".

    >>> import torch
    >>> margin_scores(torch.tensor([[0.5, 0.5, 0.0], [0.75, 0.25, 0.0]]))
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    rows = check("probs", probs)
    if rows.shape[1] < 2:
        raise InputError("margin compares the two likeliest classes, but probs has one column")

    def closeness(block: Tensor) -> Tensor:
        first, second = as_float(block).topk(2, dim=1).values.double().T
        return (1 - (first - second)).clamp_min_(0)  # a rounded row may hold more than 1

    return per_row(rows.blocks(), len(rows), closeness)


@strategy(
    cite="Scheffer et al., IDA 2001",
    cost=score_work,
    costs="One pass over N x C probabilities; 8 N bytes.",
    fails=(
        "Ignores likeness within the batch; noisy or out-of-distribution rows look ambiguous; "
        "weak with a handful of labels."
    ),
)
def margin(
    probs: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `margin_scores`, most ambiguous first."""
    return pick(
        margin_scores(probs), n=n, candidates=candidates, generator=generator, picker=picker
    )
