"""BALD: ask about the rows on which samples of the model disagree, each being sure."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.evidence import Rows, check, rows_first
from labelwise.kernels import Chosen, Generator, per_row
from labelwise.kernels.cost import score_work
from labelwise.strategies.entropy import entropy_of
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy


def bald_scores(draws: Rows | Tensor) -> Tensor:
    """Mutual information between a row's class and the model, in nats.

    ``H(mean_s p_s) - mean_s H(p_s)``: the entropy of the average prediction less the average
    entropy. Read in blocks of rows; of each block only two sums over the draws are kept.

    Args:
        draws: (S, N, C), anything `Rows` takes. draws[s] are the class distributions by one
            sample of the model's posterior, the same sample for all rows.

    Returns:
        (N,) float64 in [0, log C] up to rounding, in nats. 0 where all draws agree. Larger =
        asked first.

    Raises:
        InputError: wrong shape, or a row of a draw that is no distribution.

    Source:
        Houlsby, Huszar, Ghahramani & Lengyel, "Bayesian Active Learning for Classification
        and Preference Learning", 2011; with dropout draws, Gal, Islam & Ghahramani, ICML 2017.

    >>> certain_but_opposed = [[[1.0, 0.0]], [[0.0, 1.0]]]
    >>> bald_scores(torch.tensor(certain_but_opposed))
    tensor([0.6931], dtype=torch.float64)
    """
    rows = rows_first(check("draws", draws))
    samples = rows.shape[1]

    def disagreement(block: Tensor) -> Tensor:
        # float64: the difference of two entropies cancels where the draws nearly agree.
        total = torch.zeros(len(block), rows.shape[2], dtype=torch.float64, device=block.device)
        spread = torch.zeros(len(block), dtype=torch.float64, device=block.device)
        for draw in range(samples):
            probs = block[:, draw].double()
            total += probs
            spread += entropy_of(probs)
        return entropy_of(total / samples) - spread / samples

    return per_row(rows.blocks(), len(rows), disagreement)


def sum_to_one(probs: Tensor) -> Tensor:
    """Distributions over the last axis in float64, each divided by its sum.

    Rounded ones do not quite sum to 1, and a product of many would be further and further off.

    >>> sum_to_one(torch.tensor([0.25, 0.25])).tolist()
    [0.5, 0.5]
    """
    wide = probs.double()
    return wide / wide.sum(-1, keepdim=True)


@strategy(
    cite="Houlsby et al., 2011; Gal et al., ICML 2017",
    cost=score_work,
    costs="One pass over S x N x C draws; 8 N bytes.",
    fails=(
        "Takes copies of one informative row, so large batches are redundant (use batch_bald "
        'or picker="power"); few draws are noisy.'
    ),
)
def bald(
    draws: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `bald_scores`; with ``picker="power"``, PowerBALD."""
    scores = bald_scores(draws)
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
