"""PT4AL: a pretext task's loss cuts the pool into batches, hardest first; one serves each round."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Generator, per_row
from labelwise.kernels.cost import score_work
from labelwise.strategies.least_confidence import least_confidence_scores
from labelwise.strategies.pickers import top
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

BATCHES = 10
"""The authors', who ask for a tenth of the budget in each."""


def direction_scores(logits: Rows | Tensor) -> Tensor:
    """How unsure the direction of the logits is: ``1 - max softmax(z / |z|)``, per row.

    How long the logits are, which is how sure a softmax would be, plays no part. Logits that
    are all 0 have no direction and count as equal classes.

    Args:
        logits: (N, C), anything `Rows` takes.

    Returns:
        (N,) float64 in [0, 1 - 1/C], no unit. Larger = asked first.

    Raises:
        InputError: wrong shape, or a value that is not finite.

    Source:
        Yi, Seo, Park & Choi, "PT4AL: Using Self-Supervised Pretext Tasks for Active Learning",
        ECCV 2022, as in the authors' code; the paper writes the top probability.

    >>> direction_scores(torch.tensor([[3.0, 0.0], [300.0, 0.0], [0.0, 0.0]])).round(decimals=4)
    tensor([0.2689, 0.2689, 0.5000], dtype=torch.float64)
    """
    rows = check("logits", logits)

    def unsure(block: Tensor) -> Tensor:
        values = as_float(block).double()
        # By the largest entry first: squares of large or small logits leave the range.
        values = values / values.abs().amax(1, keepdim=True).clamp(min=5e-324)
        lengths = values.norm(dim=1, keepdim=True).clamp(min=1)
        return 1 - (values / lengths).softmax(1).amax(1)

    return per_row(rows.blocks(), len(rows), unsure)


@strategy(
    cite="Yi et al., ECCV 2022",
    cost=score_work,
    costs="A sort of N losses and a pass over N x C; 32 N bytes. The pretext is trained once.",
    fails=(
        "A pretext that says nothing of the task, such as turns of round things; outliers are "
        "the hardest rows and come first; what a round leaves of its batch is not asked again."
    ),
)
def pt4al(
    pretext_loss: Rows,
    round: int | None = None,
    rounds: int | None = None,
    logits: Rows | None = None,
    probs: Rows | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    batches: int | None = None,
) -> Picks:
    """Round t asks within batch t of the pool, hardest first: the rows that are least sure.

    All rows, labeled ones too, are sorted by the pretext loss, largest first, and cut into
    batches of equal size (to within one row). Round 0 needs no model: it asks for evenly spaced
    rows of the hardest batch. Where a batch has too few candidates left, all of them are taken,
    then the next batch is asked in the same way, after the last the first.

    Args:
        pretext_loss: (N,) of a task that needs no labels, such as that of the objective
            ``rotation``; larger is harder. It should be the same in every round.
        round: which round this is, the first is 0. Without it this is the first round, and the
            notes say so.
        rounds: how many there will be.
        logits: (N, C), needed after round 0; scored by `direction_scores`.
        probs: (N, C), taken where there are no logits, scored by 1 less the largest; another
            order, and the notes say so.
        batches: T. By default as many as there are rounds, or 10. With fewer rounds than
            batches the easiest rows are never asked about; in round T it starts again.

    Returns:
        Picks with their score: the pretext loss in round 0, then how unsure they are.

    Raises:
        InputError: neither logits nor probs after round 0, or batches below 1.

    Source:
        Yi, Seo, Park & Choi, "PT4AL: Using Self-Supervised Pretext Tasks for Active Learning",
        ECCV 2022. The authors' code sorts the losses as text, which misplaces those written with
        an exponent; here they are numbers.

    >>> from labelwise import select
    >>> loss = [0.1, 0.9, 0.5, 0.7, 0.3, 0.8]
    >>> select("pt4al", 1, pretext_loss=loss, round=0, rounds=2).rows.tolist()
    [1]
    >>> sure = [[0.6, 0.4], [0.5, 0.5], [0.9, 0.1], [0.5, 0.5], [0.8, 0.2], [0.5, 0.5]]
    >>> select("pt4al", 1, pretext_loss=loss, round=1, rounds=2, probs=sure).rows.tolist()
    [0]
    """
    if batches is None:
        batches = rounds or BATCHES
    if isinstance(batches, bool) or not isinstance(batches, int) or batches < 1:
        raise InputError(f"batches must be a whole number >= 1, got {batches!r}")
    losses = as_float(check("pretext_loss", pretext_loss).tensor()).double().cpu().numpy()
    turn = (round or 0) % batches
    notes = [] if round is not None else ["no round given: this is the first"]
    scores = losses
    if round:
        scores, more = _unsure(logits, probs)
        notes += more
    allowed = candidates.cpu().numpy()
    free = np.zeros(len(losses), dtype=bool)
    free[allowed] = True
    size = len(losses)
    # Equal losses in an order of noise: that of rows is often that of classes.
    order = np.lexsort((generator.uniform(np.arange(size)), -losses))
    parts: list[NDArray[np.int64]] = []
    for step in range(batches):
        asked = sum(map(len, parts))
        if asked == n:
            break
        number = (turn + step) % batches
        batch = order[number * size // batches : (number + 1) * size // batches]
        left = batch[free[batch]]
        count = min(n - asked, len(left))
        if count == 0:
            continue
        if round:
            rows = torch.from_numpy(left)
            found = top(torch.from_numpy(scores), n=count, candidates=rows, generator=generator)
            left = found.rows.cpu().numpy()
        else:
            left = left[np.arange(count) * len(left) // count]
        parts.append(left)
    notes.insert(0, f"batch {turn + 1} of {batches} by pretext loss, hardest first")
    if len(parts) > 1:
        notes.insert(1, f"it had {len(parts[0]):,} candidates left: more batches were asked")
    picked = np.concatenate(parts)
    return Picks(picked, scores=scores[picked], notes=tuple(notes))


def _unsure(logits: Rows | None, probs: Rows | None) -> tuple[NDArray[np.float64], list[str]]:
    """A score of every row, and what to say of it."""
    if logits is not None:
        return direction_scores(logits).cpu().numpy(), []
    if probs is None:
        raise InputError("pt4al asks for unsure rows after round 0 and needs logits or probs")
    notes = ["no logits: ranked by the largest probability"]
    return least_confidence_scores(probs).cpu().numpy(), notes
