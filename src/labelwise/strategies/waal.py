"""WAAL: ask about rows that are uncertain and, by a critic, unlike the labeled ones."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Generator
from labelwise.kernels.cost import Sizes, Work, score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy

_SMALLEST = torch.finfo(torch.float32).tiny


def _work(sizes: Sizes) -> Work:
    return score_work(sizes) + score_work(sizes)


def waal_scores(
    probs: Rows | Tensor, critic: Rows | Tensor, *, critic_weight: float = 10.0
) -> Tensor:
    """Nearness to the uniform distribution, and what the critic says.

    ``critic_weight * critic - 0.5 * ||log p||_2 - 0.5 * sum_c(-log p_c)``: both norms are least
    where p is uniform. Probabilities below 1.2e-38 count as that.

    Args:
        probs: (N, C).
        critic: (N,), larger for rows unlike the labeled ones.
        critic_weight: a finite number >= 0.

    Returns:
        (N,) float64, in nats where the weight is 0. Larger = asked first.

    Raises:
        InputError: shapes that do not fit, a row that is no distribution, or a weight out of
            range.

    Source:
        Shui, Zhou, Gagne & Wang, "Deep Active Learning: Unified and Principled Method for Query
        and Training", AISTATS 2020; weights as in the authors' code.

    >>> probs = torch.tensor([[0.5, 0.5], [0.9, 0.1], [0.9, 0.1]])
    >>> waal_scores(probs, torch.tensor([0.0, 0.0, 0.5])).round(decimals=3)
    tensor([-1.1830, -2.3560,  2.6440], dtype=torch.float64)
    """
    if not 0 <= critic_weight < float("inf"):
        raise InputError(f"critic_weight must be a number >= 0, got {critic_weight!r}")
    sizes: dict[str, tuple[int, str]] = {}
    rows, unlike = check("probs", probs, sizes), check("critic", critic, sizes)
    out = critic_weight * as_float(unlike.tensor()).double().cpu()
    for start, block in rows.blocks():
        logs = as_float(block).double().clamp(min=_SMALLEST).log()
        out[start : start + len(block)] -= 0.5 * (logs.norm(dim=1) - logs.sum(1)).cpu()
    return out


@strategy(
    cite="Shui et al., AISTATS 2020",
    cost=_work,
    costs="One pass over N x C probabilities; 8 N bytes. The critic is trained with the network.",
    fails=(
        "The sum of logarithms grows with the number of classes and drowns the critic; a few "
        "impossible classes decide it; ignores likeness within the batch."
    ),
    objectives="cross_entropy+waal",
)
def waal(
    probs: Rows,
    critic: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    critic_weight: float = 10.0,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `waal_scores`.

    The evidence ``critic`` comes from a network whose objectives include ``waal``.

    Args:
        probs: (N, C). critic: (N,).
        critic_weight: what the critic counts beside the prediction.

    Raises:
        InputError: shapes that do not fit, or a weight out of range.
    """
    scores = waal_scores(probs, critic, critic_weight=critic_weight)
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
