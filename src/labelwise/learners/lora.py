"""LoRA: a frozen network's projections, changed by matrices of low rank.

The change is of a *weight*, wherever it is read. Libraries that put another module in a layer's
place change nothing where attention reads its layers' weights itself, and say nothing of it: of
the projections of queries, keys and values in BEiT, EVA-02, Swin v2 and some DINOv3 of timm, and of
attention in open_clip. The price is the gradient of the whole weight, in every step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

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
        turned: whether the weight is (inputs, outputs), as GPT-2 has them.

    Source:
        Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022. The law of A
        is that of the authors' code (the paper says Gaussian).
    """

    def __init__(
        self,
        weight: Tensor,
        rank: int,
        alpha: float,
        generator: torch.Generator,
        *,
        turned: bool = False,
    ) -> None:
        super().__init__()
        outputs, inputs = weight.T.shape if turned else weight.shape
        bound = 1 / math.sqrt(inputs)
        a = torch.empty(rank, inputs).uniform_(-bound, bound, generator=generator)
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(torch.zeros(outputs, rank).to(weight))
        self.scale = alpha / rank
        self.turned = turned

    def forward(self, weight: Tensor) -> Tensor:
        """The weight that the layer uses."""
        left, right = (self.a.T, self.b.T) if self.turned else (self.b, self.a)
        return torch.addmm(weight, left, right, alpha=self.scale)


def add_lora(
    network: nn.Module,
    *,
    rank: int,
    alpha: float,
    generator: torch.Generator,
    targets: Sequence[str] = (),
) -> list[str]:
    """Freeze a network and give its projections changes of low rank to train.

    Projections are weights of two axes that are no embeddings: those of linear layers, and those
    that attention holds itself. Modules stay what they are, and their weight becomes the changed
    one wherever it is read.

    Args:
        network: changed in place.
        rank, alpha, generator: see `LowRank`.
        targets: endings of names, such as ``("qkv", "fc1", "attn.in_proj_weight")``: a layer's,
            or a weight's that is not called ``weight``. None takes every projection.

    Returns:
        The names of what was changed.

    Raises:
        InputError: no projection of such a name.
    """
    network.requires_grad_(False)
    known = {name: (module, own) for name, module, own in _projections(network)}
    names = [name for name in known if not targets or name.endswith(tuple(targets))]
    if not names:
        ending = f" whose name ends in {' or '.join(targets)}" if targets else ""
        has = f"it has {', '.join(list(known)[:6])}" if known else "train it with tune='full'"
        raise InputError(f"lora needs a linear layer{ending}, and the network has none; {has}")
    for name in names:
        module, own = known[name]
        turned = type(module).__name__ == "Conv1D"  # a linear layer of transformers
        weight = getattr(module, own).detach()
        change = LowRank(weight, rank, alpha, generator, turned=turned)
        parametrize.register_parametrization(module, own, change)
    return names


def merge_lora(network: nn.Module) -> nn.Module:
    """Put the changes into the weights: the same function in plain layers, in place."""
    for module in list(network.modules()):
        for own in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, own, leave_parametrized=True)
    return network


def _projections(network: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Name, module and the module's own name of every weight of two axes, but of embeddings."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding):
            continue
        for own, value in module.named_parameters(recurse=False):
            if value.ndim == 2 and own.endswith("weight"):
                yield f"{name}.{own}".removeprefix(".").removesuffix(".weight"), module, own
