"""LARS: every layer's step in proportion to its weights, for large minibatches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

TRUST = 0.02
"""The share of its weights' norm by which a layer may move, at learning rate 1."""


class LARS(torch.optim.Optimizer):
    """SGD with momentum whose gradient is scaled layer by layer.

    A parameter w with gradient g takes ``d = r (g + decay w)`` for its gradient, where
    ``r = min(1, TRUST |w| / (|g| + decay |w|) / learning_rate)``; then ``m = momentum m + d`` and
    ``w -= learning_rate m``. Groups without weight decay (biases, normalizations) keep r = 1, and
    so does a parameter whose weights or gradient are all zero. The bound of r by 1 makes LARS
    never faster than SGD; the paper has none, and moves by ``TRUST |w|`` also where gradients are
    small.

    Args:
        parameters: or groups of them, each with its ``weight_decay``.
        lr: learning rate. momentum: in [0, 1). weight_decay: at least 0.

    Source:
        You, Gitman & Ginsburg, "Large Batch Training of Convolutional Networks", 2017. The bound,
        TRUST = 0.02 and the groups are those with which solo-learn (da Costa et al., JMLR 2022)
        made its self-supervised results on CIFAR; the paper has TRUST = 0.001.
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            weights = [each for each in group["params"] if each.grad is not None]
            if not weights:
                continue
            moves = [each.grad.clone() for each in weights]
            if group["weight_decay"] > 0:
                moves = _scaled(weights, moves, group["weight_decay"], group["lr"])
            kept = []
            for weight, move in zip(weights, moves):
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(move)
                kept.append(state["momentum_buffer"])
            torch._foreach_mul_(kept, group["momentum"])
            torch._foreach_add_(kept, moves)
            torch._foreach_add_(weights, kept, alpha=-group["lr"])


def _scaled(weights: list[Tensor], moves: list[Tensor], decay: float, rate: float) -> list[Tensor]:
    """Gradients with weight decay, each scaled to its weights."""
    sizes = torch.stack(list(torch._foreach_norm(weights))).float()
    steps = torch.stack(list(torch._foreach_norm(moves))).float()
    ratios = TRUST * sizes / (steps + decay * sizes).clamp(min=1e-30)
    ratios = (ratios / rate if rate > 0 else torch.ones_like(ratios)).clamp(max=1)
    ratios = torch.where((sizes > 0) & (steps > 0), ratios, torch.ones_like(ratios))
    moves = list(torch._foreach_add(moves, weights, alpha=decay))
    torch._foreach_mul_(moves, list(ratios.unbind()))
    return moves
