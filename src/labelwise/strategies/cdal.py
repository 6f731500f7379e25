"""CDAL: a core-set of predictions, so that the query holds every kind of confusion."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelwise.evidence import Rows, check
from labelwise.kernels import Chosen, Euclidean, Generator, Progress, farthest_first, hold_limit
from labelwise.kernels.cost import Sizes, Work, farthest_work
from labelwise.strategies.registry import strategy


def _work(sizes: Sizes) -> Work:
    return farthest_work(sizes._replace(width=sizes.classes, classes=0))


@strategy(
    cite="Agarwal et al., ECCV 2020",
    cost=_work,
    costs="At most 2 N C (L + n) operations in products; 26 N bytes and the centers.",
    fails="Sees predictions only: rows the model confuses alike count as alike.",
)
def cdal(
    probs: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Chosen:
    """Pick rows one at a time, each with the prediction farthest from all labeled and picked.

    The core-set form (CDAL-CS), by the Euclidean distance of class distributions, as common
    implementations have it. The paper's text measures by the symmetric Kullback-Leibler
    divergence, which is no distance of points in any space and is not offered here.

    Args:
        probs: (N, C).
        labeled: (L,) rows whose predictions are covered already. With nothing labeled the
            first pick is the candidate whose prediction is nearest the mean.

    Returns:
        Rows in the order picked; the score of each is the squared distance of its prediction
        to that of the nearest labeled or earlier pick, infinity for a first one. Equal
        distances go to the lowest row; once every prediction is covered, as of a sure model it
        soon is, the rest is drawn at random. 2 N (L + n) C operations, O(N) memory beyond probs.

    Source:
        Agarwal, Arora, Anand & Arora, "Contextual Diversity for Active Learning", ECCV 2020.

    >>> from labelwise import select
    >>> select("cdal", 1, probs=[[0.9, 0.1], [0.8, 0.2], [0.1, 0.9]], labeled=[0]).rows
    array([2])
    """
    geometry = Euclidean(check("probs", probs), hold=hold_limit(memory))
    found = farthest_first(
        geometry, n, covered=labeled, candidates=candidates, memory=memory, progress=progress
    )
    apart = found.rows[found.gains > 0].cpu().numpy()
    rest = np.setdiff1d(candidates.cpu().numpy(), apart)
    order = np.argsort(generator.child("rest").uniform(rest), kind="stable")
    rows = np.concatenate([apart, rest[order[: n - len(apart)]]])
    return Chosen(torch.from_numpy(rows), found.gains)
