"""Variation ratio: ask about the rows on whose class the fewest draws agree."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.evidence import Rows, as_float, check, rows_first
from labelwise.kernels import Chosen, Generator, per_row
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy


def variation_ratio_scores(draws: Rows | Tensor) -> Tensor:
    """The share of draws that do not predict the class predicted most often.

    ``1 - f / S``, where f is how many of the S draws have the most frequent likeliest class.
    Some toolkits give this name to ``1 - max p`` of one prediction, which is `least_confidence`.

    Args:
        draws: (S, N, C), anything `Rows` takes; draws[s] are class distributions by one sample
            of the model's posterior. Of classes that tie in a draw the lowest is predicted.

    Returns:
        (N,) float64, a multiple of 1/S in [0, 1 - 1/min(S, C)]. Larger = asked first. With few
        draws most rows tie: the picker breaks ties by noise.

    Raises:
        InputError: wrong shape, or a row of a draw that is no distribution.

    Source:
        Freeman, "Elementary Applied Statistics", 1965; over a posterior's draws, Gal, Islam &
        Ghahramani, "Deep Bayesian Active Learning with Image Data", ICML 2017.

    >>> two_to_one = [[[0.9, 0.1]], [[0.6, 0.4]], [[0.2, 0.8]]]
    >>> variation_ratio_scores(torch.tensor(two_to_one))
    tensor([0.3333], dtype=torch.float64)
    """
    rows = rows_first(check("draws", draws))
    samples, classes = rows.shape[1:]

    def disagreement(block: Tensor) -> Tensor:
        votes = torch.zeros(len(block), classes, dtype=torch.float64, device=block.device)
        one = torch.ones(len(block), 1, dtype=torch.float64, device=block.device)
        for draw in range(samples):
            votes.scatter_add_(1, as_float(block[:, draw]).argmax(1, keepdim=True), one)
        return (samples - votes.amax(1)) / samples

    return per_row(rows.blocks(), len(rows), disagreement)


@strategy(
    cite="Freeman, 1965; Gal et al., ICML 2017",
    cost=score_work,
    costs="One pass over S x N x C draws; 8 N bytes.",
    fails="Takes S values at most, so few draws leave mostly ties, broken at random.",
)
def variation_ratio(
    draws: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `variation_ratio_scores`, least agreed on first."""
    scores = variation_ratio_scores(draws)
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
