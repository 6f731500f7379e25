"""ADMA: ask what a pretrained network transforms unusually, and by and by what is uncertain."""

from __future__ import annotations

import math

from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check
from labelwise.kernels import Chosen, Generator
from labelwise.kernels.cost import score_work
from labelwise.strategies.entropy import entropy_scores
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.registry import strategy


def adma_scores(distinctiveness: Rows | Tensor, probs: Rows | Tensor, weight: float) -> Tensor:
    """Distinctiveness and uncertainty, mixed: ``(1 - weight) d + weight H / log C``.

    Args:
        distinctiveness: (N,) in [0, 1].
        probs: (N, C) of the model that is being adapted.
        weight: in [0, 1], of the uncertainty.

    Returns:
        (N,) float64 in [0, 1], no unit. Larger = asked first.

    Raises:
        InputError: shapes that do not fit, a value out of range, or a weight out of range.

    Source:
        Huang, Zhao & Liu, "Cost-Effective Training of Deep CNNs with Active Model Adaptation",
        KDD 2018.

    >>> import torch
    >>> even = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    >>> adma_scores(torch.tensor([0.0, 1.0]), even, 0.25)
    tensor([0.2500, 0.7500], dtype=torch.float64)
    """
    if not 0 <= weight <= 1:
        raise InputError(f"weight must be in [0, 1], got {weight!r}")
    sizes: dict[str, tuple[int, str]] = {}
    rows = check("probs", probs, sizes)
    unusual = as_float(check("distinctiveness", distinctiveness, sizes).tensor()).double().cpu()
    # A single class is no question: its entropy is 0, whatever it is divided by.
    uncertain = entropy_scores(rows).cpu() / math.log(max(rows.shape[1], 2))
    return (1 - weight) * unusual + weight * uncertain


@strategy(
    cite="Huang et al., KDD 2018",
    cost=score_work,
    costs="One pass over N x C probabilities; 16 N bytes. Distinctiveness is computed once.",
    fails=(
        "Networks that were not pretrained on classes, or whose source classes are nothing like "
        "the pool's; ignores likeness within the batch."
    ),
)
def adma(
    distinctiveness: Rows,
    probs: Rows,
    round: int | None = None,
    rounds: int | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    rate: float | None = None,
    picker: str | Picker = "top",
) -> Chosen:
    """The n candidates with the largest `adma_scores`, whose weight grows from round to round.

    The weight of the uncertainty is ``rate * round``, and 1 at most: the first rounds ask for
    rows that the pretrained features fit badly, later ones for rows the classifier is unsure of.

    Args:
        distinctiveness: (N,) in [0, 1], see `labelwise.learners.source.distinctiveness`.
        probs: (N, C).
        round: which round this is, the first is 0; taken as 0 where it is not given.
        rounds: T, how many there will be.
        rate: growth of the weight in a round, >= 0. None takes 1 / T, or 0.1 where T is not
            given. (The paper leaves its value to the task; another implementation takes 0.8.)

    Raises:
        InputError: a value or an option out of range, or shapes that do not fit.
    """
    if rate is None:
        rate = 1 / rounds if rounds else 0.1
    if isinstance(rate, bool) or not 0 <= rate < math.inf:
        raise InputError(f"rate must be a number >= 0, got {rate!r}")
    scores = adma_scores(distinctiveness, probs, min(1.0, rate * (round or 0)))
    return pick(scores, n=n, candidates=candidates, generator=generator, picker=picker)
