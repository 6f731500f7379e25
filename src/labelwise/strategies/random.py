"""Random sampling: the baseline that every other strategy has to beat."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelwise.kernels import Generator
from labelwise.kernels.cost import score_work
from labelwise.strategies.pickers import top
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy


@strategy(
    cite="uniform sampling without replacement",
    cost=score_work,
    costs="N random numbers.",
    fails=(
        "Rare classes: a batch has them in proportion to the pool. The yardstick for "
        "everything else."
    ),
)
def random(*, n: int, candidates: Tensor, generator: Generator) -> Picks:
    """n candidates, each as likely as any other, without replacement.

    Needs no evidence, only the size of the pool. Picks have no scores; each had the
    probability n / (number of candidates) of being picked.
    """
    nobody_first = torch.zeros(int(candidates.max()) + 1)  # noise by item breaks the tie
    rows = top(nobody_first, n=n, candidates=candidates, generator=generator).rows
    return Picks(rows.numpy(), probability=np.full(n, n / len(candidates)))
