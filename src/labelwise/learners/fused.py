"""A network for several modalities: a branch for each, fused in front of one softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.kernels import Rows, torch_stream
from labelwise.learners.mlp import RECIPE
from labelwise.learners.network import NetworkLearner, Objectives
from labelwise.learners.networks import Dropout, Standardize, build_empty
from labelwise.learners.recipe import adapt, require_whole

OPTIONS = ("widths", "hidden", "dropout", "objectives")


class Branches(nn.Module):
    """Standardize, a hidden layer for each modality, their outputs side by side, a linear head.

    Args:
        widths: entries of each modality, in the order of the row.
        hidden: units of each branch. classes: C. dropout: after every branch.
    """

    def __init__(self, widths: Sequence[int], hidden: int, classes: int, dropout: float) -> None:
        super().__init__()
        self.widths = tuple(widths)
        self.standardize = Standardize((sum(widths),))
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), Dropout(dropout)) for width in widths
        )
        self.head = nn.Linear(len(self.widths) * hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) inputs to (n, C) logits."""
        parts = self.standardize(x.flatten(1)).split(self.widths, 1)
        return self.head(torch.cat([each(part) for each, part in zip(self.branches, parts)], 1))


class Fused(NetworkLearner):
    """A branch for each modality, fused and trained jointly.

    With ``objectives="cross_entropy+joint_entropy"`` it is the multimodal network of joint active
    learning: the fused probabilities are fitted to the labels and made sure of the unlabeled
    rows at once. (Its branches are networks of their own; here they see what encoders give.)

    Args:
        widths: entries of each modality in a row, as `Concat.widths` tells; by name, joined by
            ``+``, as in ``fused:512+768``.
        hidden: units of each branch.
        dropout: in [0, 1), after every branch; above 0 the model has posterior `draws`.
        objectives: summed; cross-entropy by default.
        recipe: fields of `Recipe` to change.

    Raises:
        InputError: fewer than two widths, a number out of range; at the fit, rows of another
            width than the sum.

    Source:
        Ranganathan, Venkateswara, Chakraborty & Panchanathan, "Deep Active Learning for Image
        Classification", ICIP 2017, and its multimodal form.
    """

    def __init__(
        self,
        widths: str | Sequence[int],
        *,
        hidden: int = 128,
        dropout: float = 0.0,
        objectives: Objectives = (),
        **recipe: Any,
    ) -> None:
        super().__init__(adapt(RECIPE, recipe, OPTIONS), objectives)
        parts = widths.split("+") if isinstance(widths, str) else widths
        numbers = [int(part) if str(part).isdecimal() else 0 for part in parts]
        if len(numbers) < 2 or min(numbers) < 1:
            raise InputError(f"widths must be those of two modalities or more, got {widths!r}")
        require_whole("hidden", hidden, 1)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {dropout}")
        self.widths = tuple(numbers)
        self.name = "fused:" + "+".join(map(str, numbers))
        self.hidden = hidden
        self.dropout = float(dropout)

    def signature(self) -> dict[str, Any]:
        """Everything that decides a fit besides data and seed."""
        own = {"widths": list(self.widths), "hidden": self.hidden, "dropout": self.dropout}
        return super().signature() | own

    def build(self, inputs: Rows, classes: int, seed: int) -> nn.Module:
        """A new network, its standardization measured on the whole pool."""
        network = self.empty(inputs.shape[1:], classes, seed)
        network.standardize.measure(inputs, (0,))
        return network

    def empty(self, item_shape: tuple[int, ...], classes: int, seed: int = 0) -> Branches:
        """The network before it has seen any data."""
        if math.prod(item_shape) != sum(self.widths):
            raise InputError(
                f"inputs must have rows of {' + '.join(map(str, self.widths))} entries, one part "
                f"for each modality, got shape {item_shape}"
            )

        def make() -> Branches:
            return Branches(self.widths, self.hidden, classes, self.dropout)

        return build_empty(make, torch_stream(seed, "parameters"))
