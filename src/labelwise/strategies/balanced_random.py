"""Balanced random sampling by the true labels: an upper reference for simulations."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.evidence import check
from labelwise.kernels import Generator
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import round_robin
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy


@strategy(
    cite="Emam et al., arXiv 2021 (BalancedRandomSampler)",
    simulation_only=True,
    cost=score_work,
    costs="One pass over N labels.",
    fails="Sees the true labels: an upper mark for balancing, in simulations only.",
)
def balanced_random(
    oracle_labels: Tensor, *, n: int, candidates: Tensor, generator: Generator
) -> Picks:
    """n random candidates with equal class counts, as far as the classes reach.

    It knows the true labels, so only a simulation can run it: it says how much of a
    strategy's gain could come from class balance alone.

    Args:
        oracle_labels: (N,) true classes of all rows.

    Returns:
        Picks in turns of one row of each class; when a class is used up the others go on. No
        scores.

    Raises:
        InputError: the true class of some row is missing.

    Source:
        Emam, Chu, Chiang, Czaja, Leapman, Goldblum & Goldstein, "Active Learning at the
        ImageNet Scale", 2021, the authors' repository.
    """
    truth = check("oracle_labels", oracle_labels)
    nobody_first = torch.zeros(len(truth))  # noise by item breaks the tie within a class
    chosen = round_robin(nobody_first, truth, n=n, candidates=candidates, generator=generator)
    return Picks(chosen.rows.numpy())
