"""Moving averages of a module's weights."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class Average:
    """A moving average of the parameters of a module; buffers are copied.

    After t updates the decay is ``min(decay, 1 - 1 / (t + 1))``: a plain mean at first, so that
    what the weights started from is forgotten.

    Args:
        module: where it starts.
        decay: in [0, 1], of a step; it may be set anew between steps.
        early_mean: False takes the decay as it is from the first step on.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = layer.weight.data.fill_(0.0)
    >>> average = Average(layer, 0.9)
    >>> for value in (2.0, 4.0):
    ...     _ = layer.weight.data.fill_(value)
    ...     average.update(layer)
    >>> average.module.weight.item()
    3.0
    """

    def __init__(self, module: nn.Module, decay: float, *, early_mean: bool = True) -> None:
        self.decay = decay
        self.early_mean = early_mean
        self.updates = 0
        self.module = copy.deepcopy(module)
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in a module's weights after a step."""
        keep = min(self.decay, 1 - 1 / (self.updates + 1)) if self.early_mean else self.decay
        self.updates += 1
        mine: list[Tensor] = list(self.module.parameters())
        theirs: list[Tensor] = [each.detach() for each in module.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - keep)
        for kept, new in zip(self.module.buffers(), module.buffers()):
            kept.copy_(new)

    @torch.no_grad()
    def put(self, module: nn.Module) -> None:
        """Give a module the average's weights."""
        for theirs, mine in zip(module.parameters(), self.module.parameters()):
            theirs.copy_(mine)

    @contextlib.contextmanager
    def inside(self, module: nn.Module) -> Iterator[None]:
        """For as long as the ``with`` lasts a module has the average's weights."""
        own: list[Tensor] = [each.detach().clone() for each in module.parameters()]
        self.put(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for theirs, mine in zip(module.parameters(), own):
                    theirs.copy_(mine)
