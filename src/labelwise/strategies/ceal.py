"""CEAL: ask about the unsure rows, and train with the sure ones at their predicted class."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows, check
from labelwise.kernels import Generator
from labelwise.kernels.cost import Sizes, Work, score_work
from labelwise.strategies.entropy import entropy_scores
from labelwise.strategies.least_confidence import least_confidence_scores
from labelwise.strategies.margin import margin_scores
from labelwise.strategies.pickers import Picker, pick, predicted
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

_CRITERIA = {
    "least_confidence": least_confidence_scores,
    "margin": margin_scores,
    "entropy": entropy_scores,
}


def ceal_threshold(round: int, threshold: float = 0.005, decay: float = 0.00033) -> float:
    """The entropy in nats below which CEAL takes a prediction for the truth; at least 0.

    It goes down by ``decay`` after the first round, by twice that after the second, and so on:
    ``threshold - decay * round * (round + 1) / 2``.

    Args:
        round: the first is 0.
        threshold: of the first round.
        decay: see above.

    Source:
        Wang, Zhang, Li, Zhang & Lin, "Cost-Effective Active Learning for Deep Image
        Classification", IEEE Trans. Circuits and Systems for Video Technology 2017.

    >>> [round(ceal_threshold(r), 5) for r in range(7)]
    [0.005, 0.00467, 0.00401, 0.00302, 0.0017, 5e-05, 0.0]
    """
    return max(0.0, threshold - decay * round * (round + 1) / 2)


def _work(sizes: Sizes) -> Work:
    return score_work(sizes) + score_work(sizes)


@strategy(
    cite="Wang et al., IEEE TCSVT 2017",
    cost=_work,
    costs="Three passes over N x C probabilities; 24 N bytes.",
    fails=(
        "Models that are sure and wrong: their errors are trained on; thresholds have to suit "
        "the model's calibration; ignores likeness within the batch."
    ),
)
def ceal(
    probs: Rows,
    round: int | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    criterion: Literal["least_confidence", "margin", "entropy"] = "entropy",
    threshold: float = 0.005,
    decay: float = 0.00033,
    picker: str | Picker = "top",
) -> Picks:
    """The n least sure candidates to ask about; those that are surest get pseudo-labels.

    Of the candidates not picked, those with an entropy below `ceal_threshold` are the picks'
    ``pseudo_rows``, with their likeliest class. They are to train with until the next query,
    which finds them anew: they stay unlabeled. The loop does so; it gives them the weight of
    other labels.

    Args:
        probs: (N, C).
        round: which round this is, the first is 0. Without it the threshold is the first
            round's, and the notes say so.
        criterion: what is asked about first: ``"entropy"``, ``"least_confidence"`` or
            ``"margin"``; the paper compares the three.
        threshold, decay: see `ceal_threshold`. The defaults are the paper's for CACD; some
            toolkits take a hundredth and a thousandth of them, 5e-5 and 3.3e-7. With a
            threshold of 0 there are no pseudo-labels.

    Returns:
        Picks by the criterion's score, with pseudo-labels.

    Raises:
        InputError: an option out of range, or a single class with ``criterion="margin"``.
    """
    if not isinstance(criterion, str) or criterion not in _CRITERIA:
        raise InputError(
            f"criterion must be known, got {criterion!r}; {nearest(criterion, _CRITERIA)}"
        )
    for name, value in (("threshold", threshold), ("decay", decay)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not (number and 0 <= value < float("inf")):
            raise InputError(f"{name} must be a number >= 0, got {value!r}")
    rows = check("probs", probs)
    scores = _CRITERIA[criterion](rows)
    found = pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
    limit = ceal_threshold(round or 0, threshold, decay)
    notes = [] if round is not None else ["no round given: the threshold is the first round's"]
    entropy = scores if criterion == "entropy" else entropy_scores(rows)
    left = np.setdiff1d(candidates.cpu().numpy(), found.rows.cpu().numpy())
    sure = left[entropy.cpu().numpy()[left] < limit]
    notes.append(f"{len(sure):,} rows of entropy below {limit:.3g} nats have pseudo-labels")
    return Picks(
        found.rows.cpu().numpy(),
        scores=found.gains.cpu().numpy(),
        pseudo_rows=sure,
        pseudo_labels=predicted(rows)[torch.from_numpy(sure)].numpy(),
        notes=tuple(notes),
    )
