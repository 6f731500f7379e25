"""BIM: ask about the rows that small steps along the loss's gradient take to another class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

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


def bim_scores(
    inputs: Rows | Tensor,
    model: Model,
    rows: Tensor | None = None,
    *,
    eps: float = 0.05,
    steps: int = 100,
    units: Units = "deviation",
    minibatch: int | None = None,
) -> Tensor:
    """Minus the squared length of the move that takes each row to another class.

    From a row x, predicted a, the move grows by ``eps sign(gradient by x of the cross-entropy of
    a)`` until the prediction changes.

    Args:
        inputs: (N, ...), fractions or bytes (pixels).
        model: from (b, ...) float32 inputs to (b, C) logits, in evaluation mode, each row by
            itself.
        rows: (n,) which rows; all by default.
        eps: the length of a step in every entry, > 0.
        steps: how many at the most, >= 1.
        units: what eps and lengths are measured in: ``"deviation"``, the standard deviation of
            each entry over the pool, as the authors' networks have normalized inputs; or
            ``"input"``, inputs as they are.
        minibatch: rows at once, which bounds what the model holds; 1 MiB of inputs by default.

    Returns:
        (n,) float64 <= 0. Larger = asked first; minus infinity where the class holds for all
        steps, or the gradient is zero.

    Raises:
        InputError: an option out of range, one class, or a model that gives no gradient.

    Source:
        Kurakin, Goodfellow & Bengio, "Adversarial Examples in the Physical World", 2017 (the
        moves); as a score in the code of Ash et al., "Deep Batch Active Learning by Diverse,
        Uncertain Gradient Lower Bounds", ICLR 2020, which has no bound on the steps.

    >>> x, model = torch.tensor([[0.07], [1.98]]), lambda x: torch.cat([x, -x], 1)
    >>> bim_scores(x, model, units="input").round(decimals=3)
    tensor([-0.0100, -4.0000], dtype=torch.float64)
    """
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < float("inf"):
        raise InputError(f"eps must be a positive number, got {eps!r}")
    whole(steps, "steps")
    ascent = Ascent(inputs, model, units, minibatch)

    def cross(start: Tensor) -> Tensor:
        moved = torch.zeros(start.shape, dtype=torch.int32, device=start.device)
        found = torch.full((len(start),), torch.inf, dtype=torch.float64, device=start.device)
        active = torch.arange(len(start), device=start.device)
        for step in range(steps + 1):
            x, logits = ascent.look(start[active] + eps * moved[active] * ascent.unit)
            best = logits.detach().argmax(1)
            if step == 0:
                first = best
            crossed = best != first[active]
            over = active[crossed]
            found[over] = eps**2 * flat_sum(moved[over].double().square())
            if step == steps or bool(crossed.all()):
                break
            loss = functional.cross_entropy(logits, first[active], reduction="none")
            sign = gradient(loss, x).sign()
            going = ~crossed & (sign != 0).flatten(1).any(1)
            active = active[going]
            moved[active] += sign[going].to(torch.int32)
            if not len(active):
                break
        return found

    return -ascent.lengths(rows, cross)


@strategy(
    cite="Kurakin et al., 2017; Ash et al., ICLR 2020 (as a query)",
    costs="Up to 100 forward and backward passes of the model over the candidates, in minibatches.",
    fails=(
        "Slow, and on networks that are unsure everywhere no better than margin; steps of one "
        "size make many ties."
    ),
)
def bim(
    inputs: Rows,
    model: Model,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
    eps: float = 0.05,
    steps: int = 100,
    units: Units = "deviation",
    minibatch: int | None = None,
) -> Picks:
    """The n candidates with the largest `bim_scores`: soonest moved to another class.

    Args:
        inputs: (N, ...), what the model is given.
        model: a function from a block of inputs, float32, to logits.
        eps, steps, units, minibatch: see `bim_scores`.

    Returns:
        Picks with their scores. Rows that keep their class come last, at random; a note says how
        many there are.
    """
    scores = bim_scores(
        inputs, model, candidates, eps=eps, steps=steps, units=units, minibatch=minibatch
    )
    return nearest_first(
        scores, len(inputs), n=n, candidates=candidates, generator=generator, picker=picker
    )
