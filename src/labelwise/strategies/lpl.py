"""Learning loss: ask about the rows whose loss a module of the network predicts to be largest."""

from __future__ import annotations

from torch import Tensor

from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Generator
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy
from labelwise.strategies.subsets import drawn


def lpl_scores(predicted_loss: Rows | Tensor) -> Tensor:
    """The predicted losses themselves.

    Args:
        predicted_loss: (N,), of which only the order means something: the module learns from
            comparisons of pairs. May be negative.

    Returns:
        (N,) float64, no unit. Larger = asked first.

    Raises:
        InputError: wrong shape, or a value that is not finite.

    Source:
        Yoo & Kweon, "Learning Loss for Active Learning", CVPR 2019.

    >>> import torch
    >>> lpl_scores(torch.tensor([0.5, -1.0]))
    tensor([ 0.5000, -1.0000], dtype=torch.float64)
    """
    return as_float(check("predicted_loss", predicted_loss).tensor()).double().cpu()


@strategy(
    cite="Yoo & Kweon, CVPR 2019",
    cost=score_work,
    costs="One pass over N predicted losses; 8 N bytes. The module is trained with the network.",
    fails=(
        "Small labeled sets that the network fits perfectly: no loss is left to learn from; "
        "ignores likeness within the batch."
    ),
    objectives="cross_entropy+learning_loss",
)
def lpl(
    predicted_loss: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    subset: int | None = 10_000,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest predicted loss, among a random part of the candidates.

    The evidence comes from a network whose objectives include ``learning_loss``.

    Args:
        predicted_loss: (N,).
        subset: how many random candidates are looked at, 10,000 in the paper, so that a batch is
            not all of a kind; None for all.

    Raises:
        InputError: a value that is not finite, or a subset below 1.
    """
    part = drawn(candidates, subset, n, generator)
    scores = lpl_scores(predicted_loss)
    return pick(scores, n=n, candidates=part, generator=generator, picker=picker)
