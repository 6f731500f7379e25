"""A multi-layer perceptron: the learner of tables, and of vectors in general."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows, torch_stream
from labelwise.learners.network import NetworkLearner, Objectives
from labelwise.learners.networks import Perceptron, build_empty
from labelwise.learners.recipe import Recipe, adapt

RECIPE = Recipe(
    epochs=60,
    min_steps=600,
    minibatch=64,
    optimizer="adam",
    learning_rate=5e-3,
    schedule="cosine",
)
"""Chosen on the letter set with 260 to 2,600 labels; see ``perf/training.py``."""


class MLP(NetworkLearner):
    """Hidden layers of ReLU over standardized inputs.

    Args:
        hidden: widths of the hidden layers, or the width of the only one.
        dropout: in [0, 1), after every hidden layer; above 0 the model has posterior `draws`.
        objectives: summed; cross-entropy by default.
        recipe: fields of `Recipe` to change, such as ``epochs=100``.

    Raises:
        InputError: a width below 1, a dropout out of range, or an unknown option.
    """

    name = "mlp"

    def __init__(
        self,
        *,
        hidden: int | Sequence[int] = (256,),
        dropout: float = 0.0,
        objectives: Objectives = (),
        **recipe: Any,
    ) -> None:
        super().__init__(adapt(RECIPE, recipe, ("hidden", "dropout")), objectives)
        widths = hidden if isinstance(hidden, list | tuple) else (hidden,)
        if not all(isinstance(units, int) and units >= 1 for units in widths):
            raise InputError(f"hidden must be widths of at least 1, got {hidden!r}")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {dropout}")
        self.hidden = tuple(widths)
        self.dropout = float(dropout)

    def signature(self) -> dict[str, Any]:
        """Everything that decides a fit besides data and seed."""
        return super().signature() | {"hidden": list(self.hidden), "dropout": self.dropout}

    def build(self, inputs: Rows, classes: int, seed: int) -> nn.Module:
        """A new network, its standardization measured on the whole pool."""
        network = self.empty(inputs.shape[1:], classes, seed)
        network.standardize.measure(inputs, (0,))
        return network

    def empty(self, item_shape: tuple[int, ...], classes: int, seed: int = 0) -> Perceptron:
        """The network before it has seen any data."""
        width = math.prod(item_shape)

        def make() -> Perceptron:
            return Perceptron(width, self.hidden, classes, self.dropout)

        return build_empty(make, torch_stream(seed, "parameters"))
