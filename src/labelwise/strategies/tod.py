"""TOD: ask about the rows whose predictions changed most since the previous cycle's model."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Generator
from labelwise.kernels.cost import Sizes, Work, score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy
from labelwise.strategies.subsets import drawn


def _work(sizes: Sizes) -> Work:
    return score_work(sizes) + score_work(sizes)


def tod_scores(probs: Rows | Tensor, previous_probs: Rows | Tensor) -> Tensor:
    """How far each prediction is from that of an earlier model: half the squared distance.

    Args:
        probs: (N, C) class distributions by the model.
        previous_probs: (N, C) by the model of the previous cycle.

    Returns:
        (N,) float64 in [0, 1], no unit: ``0.5 * sum_c (p_c - q_c)^2``. 1 is certainty of
        another class. Larger = asked first.

    Raises:
        InputError: shapes that do not fit, or a row that is no distribution.

    Source:
        Huang, Wang, Xiong, Huang & Dou, "Semi-Supervised Active Learning with Temporal Output
        Discrepancy", ICCV 2021, where it is a lower bound of the loss up to constants. The paper
        writes the distance of the network's outputs; their code, which this is, takes them
        through the softmax, squares, and halves.

    >>> now, before = torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.tensor([[0.0, 1.0], [0.5, 0.5]])
    >>> tod_scores(now, before)
    tensor([1., 0.], dtype=torch.float64)
    """
    sizes: dict[str, tuple[int, str]] = {}
    p, q = check("probs", probs, sizes), check("previous_probs", previous_probs, sizes)
    out = torch.zeros(len(p), dtype=torch.float64)
    for start, block in p.blocks():
        before = as_float(q.block(start, start + len(block))).to(block.device)
        change = as_float(block).double() - before.double()
        out[start : start + len(block)] = 0.5 * change.square().sum(1).cpu()
    return out


@strategy(
    cite="Huang et al., ICCV 2021",
    cost=_work,
    costs="One pass over two N x C arrays, and a prediction by the previous model; 8 N bytes.",
    fails=(
        "Where consecutive models differ by chance more than by what they learned (few labels, "
        "fits from new weights); ignores likeness within the batch."
    ),
    objectives="cross_entropy+tod",
)
def tod(
    probs: Rows,
    previous_probs: Rows,
    round: int | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    subset: int | None = 25_000,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `tod_scores`; in round 0 those with the smallest.

    In round 0 the previous model is an untrained network, which believes nothing: whoever is
    still near it has been learned least.

    Args:
        probs: (N, C). previous_probs: (N, C), of the model fitted one round earlier.
        round: which round this is, the first is 0. Without it the previous model counts as
            trained.
        subset: how many random candidates are looked at; None for all. The authors took half of
            CIFAR's 50,000 images, 29,302 of SVHN, 4,340 of Caltech-101.

    Raises:
        InputError: shapes that do not fit, or a subset below 1.
    """
    scores = tod_scores(probs, previous_probs)
    if round == 0:
        scores = 1 - scores
    part = drawn(candidates, subset, n, generator)
    return pick(scores, n=n, candidates=part, generator=generator, picker=picker)
