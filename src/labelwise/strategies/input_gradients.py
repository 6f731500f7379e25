"""How far inputs have to be moved until a model changes its mind, minibatch by minibatch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, check
from labelwise.kernels import Generator
from labelwise.strategies.pickers import Picker, pick
from labelwise.strategies.picks import Picks

Model = Callable[[Tensor], Tensor]
"""From (b, ...) float32 inputs to (b, C) logits, each row by itself."""

Units = Literal["deviation", "input"]

_MINIBATCH_BYTES = 1 << 20


class Ascent:
    """Inputs that are moved, each until the model predicts another class for it.

    Args:
        inputs: (N, ...), fractions or pixels.
        model: differentiable, see `Model`.
        units: ``"deviation"`` measures moves in standard deviations of each entry over the
            pool, ``"input"`` as they are.
        minibatch: rows at once; 1 MiB of inputs by default. It bounds what the model holds.

    Raises:
        InputError: an option out of range, or inputs of large whole numbers, such as tokens.
    """

    def __init__(self, inputs: Rows | Tensor, model: Model, units: str, minibatch: int | None):
        self.inputs = check("inputs", inputs)
        self.model: Model = check("model", model)
        kind = self.inputs.dtype
        if not kind.is_floating_point and kind.itemsize > 1:
            raise InputError(
                f"inputs must be fractions or bytes, which can be moved a little, got {kind}"
            )
        if units not in ("deviation", "input"):
            raise InputError(f'units must be "deviation" or "input", got {units!r}')
        if minibatch is None:
            entries = int(np.prod(self.inputs.shape[1:], dtype=np.int64))
            minibatch = max(1, min(1024, _MINIBATCH_BYTES // (4 * entries)))
        self._minibatch = whole(minibatch, "minibatch")
        self.unit = _deviations(self.inputs) if units == "deviation" else torch.ones(1)
        self.unit = self.unit.to(self.inputs.device)

    def lengths(self, rows: Tensor | None, cross: Callable[[Tensor], Tensor]) -> Tensor:
        """Squared lengths of the moves found for some rows, or for all: (n,) float64.

        Args:
            cross: from (b, ...) inputs to (b,) squared lengths, infinite where none is found.
        """
        rows = torch.arange(len(self.inputs)) if rows is None else rows.cpu()
        out = torch.empty(len(rows), dtype=torch.float64)
        with torch.enable_grad():
            for start in range(0, len(rows), self._minibatch):
                part = rows[start : start + self._minibatch]
                out[start : start + len(part)] = cross(self.inputs.take(part).float()).cpu()
        return out

    def look(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs ready to be differentiated by, and their logits, (b, C) with C >= 2."""
        x = x.detach().requires_grad_()
        logits = self.model(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise InputError(f"model must give logits ({len(x)}, C) for {len(x)} inputs, got {got}")
        if logits.shape[1] < 2:
            raise InputError("there is no other class to move to: model gives one column of logits")
        if not logits.requires_grad:
            raise InputError("model must be differentiable, but its logits carry no gradient")
        if not bool(logits.detach().isfinite().all()):
            raise InputError("model must give finite logits")
        return x, logits.to(x.device).float()


def gradient(of: Tensor, x: Tensor, keep: bool = False) -> Tensor:
    """The gradient of the sum of some numbers with respect to inputs, shaped as these."""
    (found,) = torch.autograd.grad(of.sum(), x, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(x) if found is None else found


def flat_sum(x: Tensor) -> Tensor:
    """The sum over all axes but the first, (b,) float64."""
    return x.flatten(1).double().sum(1)


def whole(value: int, name: str) -> int:
    """A whole number of at least one, or an error that names it."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number >= 1, got {value!r}")
    return value


def nearest_first(
    scores: Tensor,
    size: int,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker,
) -> Picks:
    """Picks from scores of the candidates, and a note of those that never change class.

    Args:
        scores: (M,), minus infinity where no move was found.
        size: N.
    """
    wide = torch.full((size,), -torch.inf, dtype=torch.float64)
    wide[candidates.cpu()] = scores
    found = pick(wide, n=n, candidates=candidates, generator=generator, picker=picker)
    firm = int(scores.isinf().sum())
    note = f"{firm} of {len(scores)} rows keep their class however far they were moved"
    notes = (note,) if firm else ()
    return Picks(found.rows.cpu().numpy(), scores=found.gains.cpu().numpy(), notes=notes)


def _deviations(inputs: Rows) -> Tensor:
    """The standard deviation of each entry over all rows, float32; 1 where an entry is constant."""
    shape = inputs.shape[1:]
    origin = inputs.block(0, 1)[0].double()
    total = torch.zeros(shape, dtype=torch.float64, device=inputs.device)
    squares = torch.zeros_like(total)
    for away in _away(inputs, origin):
        total += away.sum(0)
        squares += away.square().sum(0)
    mean = total / len(inputs)
    variance = (squares / len(inputs) - mean.square()).clamp(min=0)
    # What rounding leaves of a constant's variance is no variance.
    variance[variance <= 1e-14 * (squares / len(inputs))] = 0
    found = variance.sqrt().float()
    found[found == 0] = 1
    return found


def _away(inputs: Rows, origin: Tensor) -> Iterator[Tensor]:
    for _, block in inputs.blocks():
        yield block.double() - origin
