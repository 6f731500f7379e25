"""DeepFool: ask about the rows nearest to another class, boundaries taken as straight."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows
from labelwise.kernels import Generator
from labelwise.strategies.input_gradients import (
    Ascent,
    Model,
    Units,
    flat_sum,
    gradient,
    nearest_first,
    whole,
)
from labelwise.strategies.pickers import Picker
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy


def deep_fool_scores(
    inputs: Rows | Tensor,
    model: Model,
    rows: Tensor | None = None,
    *,
    steps: int = 50,
    classes: int | None = None,
    overshoot: float = 0.0,
    units: Units = "deviation",
    minibatch: int | None = None,
) -> Tensor:
    """Minus the squared length of a short move that takes each row to another class.

    From a row x, predicted a, each step goes to the nearest of the boundaries to other classes k
    as they are if the logits z were linear: with ``f_k = z_k - z_a`` and ``w_k`` its gradient by
    x, to the k of least ``|f_k| / |w_k|``, by ``|f_k| / |w_k|^2 w_k``; until the prediction
    changes. For a linear model that is the distance to the nearest boundary.

    Args:
        inputs: (N, ...), fractions or bytes (pixels).
        model: from (b, ...) float32 inputs to (b, C) logits, in evaluation mode, each row by
            itself.
        rows: (n,) which rows; all by default.
        steps: how many at the most, >= 1. A row that has not crossed by then counts as far as it
            went, as in the authors' code.
        classes: only boundaries to this many other classes, the likeliest at x, are looked at;
            None for all C - 1. Each costs a backward pass a step.
        overshoot: how much farther than the boundary moves go, >= 0; 0.02 in DeepFool itself.
        units: what lengths are measured in: ``"deviation"``, the standard deviation of each
            entry over the pool, as the authors' networks have normalized inputs; or
            ``"input"``, inputs as they are.
        minibatch: rows at once, which bounds what the model holds; 1 MiB of inputs by default.

    Returns:
        (n,) float64 <= 0. Larger = asked first; minus infinity where no gradient leads anywhere.

    Raises:
        InputError: an option out of range, one class, or a model that gives no gradient.

    Source:
        Ducoffe & Precioso, "Adversarial Active Learning for Deep Networks: a Margin Based
        Approach", 2018; Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool", CVPR 2016. Widely used
        codes go to the last class's boundary and not to the nearest; this goes to the nearest.

    >>> x, model = torch.tensor([[0.5], [2.0]]), lambda x: torch.cat([x, -x], 1)
    >>> deep_fool_scores(x, model, units="input").round(decimals=3)
    tensor([-0.2500, -4.0000], dtype=torch.float64)
    """
    whole(steps, "steps")
    if classes is not None:
        whole(classes, "classes")
    number = isinstance(overshoot, int | float) and not isinstance(overshoot, bool)
    if not number or not 0 <= overshoot < float("inf"):
        raise InputError(f"overshoot must be a number >= 0, got {overshoot!r}")
    ascent = Ascent(inputs, model, units, minibatch)

    def cross(start: Tensor) -> Tensor:
        moved = torch.zeros(start.shape, dtype=torch.float64, device=start.device)
        found = torch.full((len(start),), torch.inf, dtype=torch.float64, device=start.device)
        active = torch.arange(len(start), device=start.device)
        for step in range(steps + 1):
            move = (1 + overshoot) * moved[active]
            x, logits = ascent.look(start[active] + (move * ascent.unit).float())
            if step == 0:
                order = logits.detach().argsort(dim=1, descending=True, stable=True)
                others = order[:, 1:] if classes is None else order[:, 1 : 1 + classes]
                first = order[:, 0]
            there = logits.detach().argmax(1) != first[active]
            if step == steps or bool(there.all()):
                found[active] = flat_sum(move.square())
                break
            distance, change = _nearest(x, logits, first[active], others[active], ascent.unit)
            there |= distance == 0  # on the boundary no move is left to make
            found[active[there]] = flat_sum(move[there].square())
            going = ~there & distance.isfinite()
            active = active[going]
            moved[active] += change[going]
            if not len(active):
                break
        return found

    return -ascent.lengths(rows, cross)


def _nearest(
    x: Tensor, logits: Tensor, first: Tensor, others: Tensor, unit: Tensor
) -> tuple[Tensor, Tensor]:
    """Of each row the distance to the nearest straight boundary, and the move there, in float64."""
    own = gradient(logits.gather(1, first[:, None]), x, keep=True)
    z = logits.detach().double()
    least = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    move = torch.zeros(x.shape, dtype=torch.float64, device=x.device)
    for column in others.T:
        theirs = gradient(logits.gather(1, column[:, None]), x, keep=True)
        w = (theirs - own).double() * unit
        gap = (z.gather(1, first[:, None]) - z.gather(1, column[:, None]))[:, 0].abs()
        squared = flat_sum(w.square())
        distance = torch.where(gap > 0, gap / squared.sqrt(), 0.0)
        nearer = distance < least
        least[nearer] = distance[nearer]
        step = (gap / squared)[nearer].reshape(-1, *[1] * (x.ndim - 1))
        move[nearer] = step.nan_to_num_(nan=0.0) * w[nearer]
    return least, move


@strategy(
    cite="Ducoffe & Precioso, arXiv 2018",
    costs="C backward passes of the model over the candidates a step, a few steps as a rule.",
    fails=(
        "Slow with many classes; like margin it ignores likeness within the batch, and noisy rows "
        "are near boundaries."
    ),
)
def deep_fool(
    inputs: Rows,
    model: Model,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
    steps: int = 50,
    classes: int | None = None,
    overshoot: float = 0.0,
    units: Units = "deviation",
    minibatch: int | None = None,
) -> Picks:
    """The n candidates with the largest `deep_fool_scores`: nearest to another class.

    The paper also trains on the moved rows, with the label of the row; here they are not kept.

    Args:
        inputs: (N, ...), what the model is given.
        model: a function from a block of inputs, float32, to logits.
        steps, classes, overshoot, units, minibatch: see `deep_fool_scores`.

    Returns:
        Picks with their scores. Rows that no gradient moves come last, at random; a note says
        how many there are.
    """
    scores = deep_fool_scores(
        inputs,
        model,
        candidates,
        steps=steps,
        classes=classes,
        overshoot=overshoot,
        units=units,
        minibatch=minibatch,
    )
    return nearest_first(
        scores, len(inputs), n=n, candidates=candidates, generator=generator, picker=picker
    )
