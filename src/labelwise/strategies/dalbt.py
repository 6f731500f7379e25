"""DALBT: ask where a classifier that was trained along with Barlow Twins is unsure."""

from __future__ import annotations

from torch import Tensor

from labelwise.evidence import Rows
from labelwise.kernels import Chosen, Generator
from labelwise.kernels.cost import score_work
from labelwise.strategies.criteria import Criterion, criterion_scores
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy


@strategy(
    cite="Mandivarapu et al., arXiv 2022",
    cost=score_work,
    costs="One pass over N x C probabilities; 8 N bytes. Barlow Twins is trained with the network.",
    fails=(
        "As the criterion: large batches are redundant, outliers look unsure; distortions that "
        "change what a row is teach the classifier to overlook it."
    ),
    objectives="cross_entropy+barlow_twins",
)
def dalbt(
    probs: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    criterion: Criterion = "entropy",
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates of which the jointly trained classifier is least sure.

    What sets it apart is the training, of labeled and unlabeled rows together: a network with
    ``objectives="cross_entropy+barlow_twins"`` and distorted looks gives the probs.

    Args:
        probs: (N, C) of that classifier.
        criterion: ``"entropy"``, ``"margin"`` or ``"least_confidence"``. The authors query by
            the classifier's uncertainty; which measure of it they took could not be verified.

    Raises:
        InputError: another criterion, or a single class with ``criterion="margin"``.

    Source:
        Mandivarapu, Camp & Estrada, "Deep Active Learning Using Barlow Twins", arXiv
        2212.14658, 2022.

    >>> from labelwise import select
    >>> select("dalbt", 1, probs=[[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]).rows.tolist()
    [1]
    """
    scores = criterion_scores(criterion, probs)
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
