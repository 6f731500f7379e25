"""Players beside the network, each with modules, an optimizer and a loss of its own."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.learners.objectives import Player
from labelwise.learners.parallel import Ranks
from labelwise.learners.recipe import Recipe, adapt, learning_rate, make_optimizer


class Opponent:
    """One player of a fit.

    Args:
        player: its modules, and how its recipe differs.
        recipe: the fit's.
        ranks: the processes of the fit.
    """

    def __init__(self, player: Player, recipe: Recipe, ranks: Ranks) -> None:
        self.ranks = ranks
        self.every = player.every
        self.recipe = adapt(recipe, dict(player.changes))
        self.parameters = [p for p in player.module.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.recipe, self.parameters)
        self._losses: list[Tensor] = []

    def step(self, loss: Tensor, number: int, total: int) -> None:
        """One update, from gradients of its own loss alone, unless it rests at this step."""
        self._losses.append(loss.detach())
        if number % self.every:
            return
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.recipe, number, total)
        self.optimizer.zero_grad(set_to_none=True)
        self.ranks.backward(loss, self.parameters)
        if self.recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters, self.recipe.clip)
        self.optimizer.step()

    def mean(self, name: str, number: int) -> float:
        """The mean loss since the last call.

        Raises:
            InputError: it is not finite.
        """
        value = float(torch.stack(self._losses).float().mean())
        self._losses.clear()
        if not math.isfinite(value):
            raise InputError(
                f"the loss of player {name!r} is {value} by step {number} with learning rate "
                f"{self.recipe.learning_rate:.3g}: lower it, or set clip=1.0"
            )
        return value
