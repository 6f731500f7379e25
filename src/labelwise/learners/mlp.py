"""A multi-layer perceptron: the learner of tables, and of vectors in general."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows, torch_stream
from labelwise.learners.augment import Corrupt
from labelwise.learners.network import NetworkLearner, Objectives
from labelwise.learners.networks import Perceptron, build_empty
from labelwise.learners.objectives import Looks
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

OPTIONS = ("hidden", "dropout", "corruption", "objectives")


class MLP(NetworkLearner):
    """Hidden layers of ReLU over standardized inputs.

    Args:
        hidden: widths of the hidden layers, or the width of the only one.
        dropout: in [0, 1), after every hidden layer; above 0 the model has posterior `draws`.
        corruption: in [0, 1], the share of a row's entries that strong and distorted looks, for
            objectives that ask for them, replace by entries of other rows; see `Corrupt`.
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
        corruption: float = 0.6,
        objectives: Objectives = (),
        **recipe: Any,
    ) -> None:
        super().__init__(adapt(RECIPE, recipe, OPTIONS), objectives)
        widths = hidden if isinstance(hidden, list | tuple) else (hidden,)
        if not all(isinstance(units, int) and units >= 1 for units in widths):
            raise InputError(f"hidden must be widths of at least 1, got {hidden!r}")
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be in [0, 1), got {dropout}")
        self.hidden = tuple(widths)
        self.dropout = float(dropout)
        self.corruption = Corrupt(float(corruption))

    def signature(self) -> dict[str, Any]:
        """Everything that decides a fit besides data and seed."""
        own = {"hidden": list(self.hidden), "dropout": self.dropout}
        return super().signature() | own | {"corruption": self.corruption.rate}

    def build(self, inputs: Rows, classes: int, seed: int) -> nn.Module:
        """A new network, its standardization measured on the whole pool."""
        return self.build_many(inputs, classes, [seed])[0]

    def build_many(self, inputs: Rows, classes: int, seeds: Sequence[int]) -> list[nn.Module]:
        """Networks that share one measured standardization."""
        networks = [self.empty(inputs.shape[1:], classes, seed) for seed in seeds]
        for at, network in enumerate(networks):
            if at == 0:
                network.standardize.measure(inputs, (0,))
            else:
                network.standardize.load_state_dict(networks[0].standardize.state_dict())
        return [*networks]

    def empty(self, item_shape: tuple[int, ...], classes: int, seed: int = 0) -> Perceptron:
        """The network before it has seen any data."""
        width = math.prod(item_shape)

        def make() -> Perceptron:
            return Perceptron(width, self.hidden, classes, self.dropout)

        return build_empty(make, torch_stream(seed, "parameters"))

    def looks(self, item_shape: tuple[int, ...]) -> Looks:
        """Weak: as they are. Strong and distorted: corrupted by entries of other rows."""
        return Looks(None, self.corruption, self.corruption)
