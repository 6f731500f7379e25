"""LoRA: a frozen network's linear layers, changed by matrices of low rank."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from labelwise.errors import InputError


class LowRank(nn.Module):
    """A weight W seen as ``W + alpha / rank * B A``, with A (rank, inputs) and B (outputs, rank).

    A begins uniform within 1 / sqrt(inputs), B at zero: the network begins as it was.

    Args:
        weight: (outputs, inputs). rank: at least 1. alpha: scale, see above.
        generator: fills A.

    Source:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. The law of A
        is that of the authors' code (the paper says Gaussian).
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        bound = 1 / math.sqrt(inputs)
        a = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(torch.zeros(outputs, rank).to(weight))
        self.scale = alpha / rank

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer uses."""
        return torch.addmm(weight, self.b, self.a, alpha=self.scale)


def add_lora(
    network: nn.Module,
    *,
    rank: int,
    alpha: float,
    generator: torch.Generator,
    targets: Sequence[str] = (),
) -> list[str]:
    """Freeze a network and give its linear layers changes of low rank to train.

    The layers stay what they are, their ``weight`` becomes the changed one wherever it is read;
    so attention that reads its projections' weights is changed too.

    Args:
        network: changed in place.
        rank, alpha, generator: see `LowRank`.
        targets: endings of layers' names, such as ``("qkv", "fc1")``; none takes every
            ``torch.nn.Linear``.

    Returns:
        The names of the layers changed.

    Raises:
        InputError: no linear layer of such a name.
    """
    network.requires_grad_(False)
    linear = [name for name, each in network.named_modules() if isinstance(each, nn.Linear)]
    names = [name for name in linear if not targets or name.endswith(tuple(targets))]
    if not names:
        ending = f" whose name ends in {' or '.join(targets)}" if targets else ""
        has = f"it has {', '.join(linear[:6])}" if linear else "train it with tune='full'"
        raise InputError(f"lora needs a linear layer{ending}, and the network has none; {has}")
    for name in names:
        layer = network.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        change = LowRank(layer.weight.detach(), rank, alpha, generator)
        parametrize.register_parametrization(layer, "weight", change)
    return names


def merge_lora(network: nn.Module) -> nn.Module:
    """Put the changes into the weights: the same function in plain layers, in place."""
    for layer in list(network.modules()):
        if parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
    return network
