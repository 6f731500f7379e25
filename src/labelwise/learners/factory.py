"""A learner from any torch network: a factory makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from labelwise.learners.network import NetworkLearner, Objectives
from labelwise.learners.networks import adopt_dropout, isolated_random_state
from labelwise.learners.objectives import Looks
from labelwise.learners.recipe import Recipe, adapt

Factory = Callable[[tuple[int, ...], int], nn.Module]
"""Makes a network from the shape of one input row and the number of classes."""


class Network(NetworkLearner):
    """A learner from any ``torch.nn.Module`` that ends in a linear layer.

    Args:
        factory: called as ``factory(item_shape, classes)``; returns a new network that turns
            (n, *item_shape) inputs (fractions as float32, whole numbers as they are) into
            (n, classes) logits. Its last ``torch.nn.Linear`` in
            order of registration must give them: what that layer is given are the embeddings.
            Whatever it draws from torch's global generator is seeded by the fit and leaves the
            generator as it was. Its ``torch.nn.Dropout`` become `Dropout`.
        name: stands for the factory in signatures; change it with the factory.
        objectives: summed; cross-entropy by default.
        looks: how minibatches are changed at random, each as ``change(inputs, generator)``.
        recipe: fields of `Recipe` to change.

    >>> from labelwise.kernels import Rows
    >>> def linear(shape, classes):
    ...     return nn.Linear(shape[0], classes)
    >>> learner = Network(linear, name="linear", learning_rate=0.1)
    >>> inputs, rows = Rows(torch.eye(4)), torch.arange(4)
    >>> model = learner.fit(inputs, rows, rows % 2, classes=2, seed=0)
    >>> model.predict(inputs).probs.argmax(1)
    tensor([0, 1, 0, 1])
    """

    def __init__(
        self,
        factory: Factory,
        *,
        name: str,
        objectives: Objectives = (),
        looks: Looks | None = None,
        **recipe: Any,
    ) -> None:
        super().__init__(adapt(Recipe(min_steps=300), recipe), objectives)
        self.name = f"network:{name}"
        self._factory = factory
        self._looks = looks or Looks()

    def empty(self, item_shape: tuple[int, ...], classes: int, seed: int = 0) -> nn.Module:
        """Call the factory with torch's global generator seeded, and put that back."""
        with isolated_random_state(seed, torch.device("cpu")):
            return adopt_dropout(self._factory(item_shape, classes))

    def looks(self, item_shape: tuple[int, ...]) -> Looks:
        """The looks given."""
        return self._looks
