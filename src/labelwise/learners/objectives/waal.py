"""WAAL: a critic tells unlabeled embeddings from labeled ones, and the network draws them near."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.learners.networks import build_empty
from labelwise.learners.objectives.base import NETWORK, Objective, Player, Setting, adam_player
from labelwise.learners.objectives.views import View

if TYPE_CHECKING:
    from labelwise.kernels import Rows
    from labelwise.learners.network import NetworkModel


def gradient_penalty(critic: nn.Module, ones: Tensor, others: Tensor, share: Tensor) -> Tensor:
    """How far the critic's slope is from 1 between pairs of points: its square, averaged.

    Args:
        critic: (n, D) to (n, 1).
        ones, others: (n, D) points, paired by row.
        share: (n, 1) in [0, 1], how much of the first is in each mixture.

    Returns:
        A number >= 0, with gradient by the critic's parameters.

    Source:
        Gulrajani et al., "Improved Training of Wasserstein GANs", NeurIPS 2017.

    >>> steep = nn.Linear(2, 1)
    >>> _ = steep.weight.data.copy_(torch.tensor([[3.0, 0.0]]))
    >>> ones, others, share = torch.ones(4, 2), torch.zeros(4, 2), torch.full((4, 1), 0.5)
    >>> round(gradient_penalty(steep, ones, others, share).item(), 3)
    4.0
    """
    mixed = (share * ones + (1 - share) * others).requires_grad_()
    (slopes,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
    return (slopes.square().sum(1).add(1e-12).sqrt() - 1).square().mean()


class Wasserstein(Objective):
    """The min-max game of Wasserstein adversarial active learning on embeddings.

    The critic h maximizes ``mean h(unlabeled) - balance * mean h(labeled)`` less ``penalty`` times
    the `gradient_penalty`; the network minimizes ``weight`` times that difference. What a strategy
    gets, as ``critic``, is h of every row: larger for rows unlike the labeled ones.

    It differs from the authors' code where that does not do what the paper says. There the
    penalty has the wrong sign in the critic's step, so steep slopes are rewarded, and is a constant
    in the network's step, so it is left out here. It is taken at points between those of the two
    kinds, as in its source; there at these themselves too. The critic's loss carries no ``weight``
    (under SGD with rate 0.01 that leaves it all but untrained): it has a recipe of its own, Adam
    at ``learning_rate``. Labeled and unlabeled rows share one minibatch of batch normalization.

    Args:
        weight: of the network's part, >= 0; 2e-3 in the authors' code, 1e-3 in DeepAL+.
        balance: what labeled rows count in the difference, > 0. None is the authors' L / U, by
            which labeled rows, fewer, count less; 1 is the Wasserstein distance.
        bounded: whether a sigmoid ends the critic, as in the authors' code. Without it, as in the
            paper, ``balance`` must be 1, else the difference has no bound.
        penalty: of the critic, >= 0; 2 in the authors' code, 10 in Gulrajani et al.
        learning_rate: of the critic.

    Raises:
        InputError: an option out of range.

    Source:
        Shui, Zhou, Gagne & Wang, "Deep Active Learning: Unified and Principled Method for Query
        and Training", AISTATS 2020.
    """

    name = "waal"
    learns_labels = False
    gives = ("critic",)

    def __init__(
        self,
        *,
        weight: float = 2e-3,
        balance: float | None = None,
        bounded: bool = True,
        penalty: float = 2.0,
        learning_rate: float = 1e-3,
    ) -> None:
        super().__init__()
        for name, value in (("weight", weight), ("penalty", penalty)):
            if not 0 <= value < float("inf"):
                raise InputError(f"{name} must be a number >= 0, got {value}")
        if balance is not None and not 0 < balance < float("inf"):
            raise InputError(f"balance must be a number > 0 or None, got {balance}")
        if not bounded and balance != 1:
            raise InputError(
                f"balance must be 1 with bounded=False, else the critic's difference has no "
                f"bound, got {balance}"
            )
        if not 0 < learning_rate < float("inf"):
            raise InputError(f"learning_rate must be positive, got {learning_rate}")
        self.weight, self.balance, self.bounded = weight, balance, bounded
        self.penalty, self.learning_rate = penalty, learning_rate

    def prepare(self, setting: Setting) -> None:
        """Make the critic."""
        width = setting.embedding_width
        end = [nn.Sigmoid()] if self.bounded else []

        def make() -> nn.Sequential:
            return nn.Sequential(
                nn.Linear(width, 512),
                nn.ReLU(),
                nn.Linear(512, 512),
                nn.ReLU(),
                nn.Linear(512, 1),
                *end,
            )

        self.critic = build_empty(make, setting.generator)
        self._noise = setting.generator
        even = len(setting.labels) / max(1, setting.unlabeled)
        self._balance = even if self.balance is None else self.balance

    def players(self) -> Mapping[str, Player]:
        """The critic."""
        return {"critic": adam_player(self.critic, self.learning_rate)}

    def forward(self, labeled: View, unlabeled: View) -> dict[str, Tensor]:
        """The loss of the network and that of the critic."""
        labeled.together(unlabeled)
        # A penalty on gradients needs their full precision.
        with torch.autocast(labeled.inputs.device.type, enabled=False):
            given, rest = labeled.embeddings.float(), unlabeled.embeddings.float()
            mine = self._difference(given, rest)
            given, rest = given.detach(), rest.detach()
            # Pairs as many as unlabeled rows; labeled ones are taken in turn.
            pairs = given[torch.arange(len(rest), device=given.device) % len(given)]
            share = torch.rand(len(rest), 1, generator=self._noise).to(given.device)
            steep = gradient_penalty(self.critic, pairs, rest, share)
            theirs = self.penalty * steep - self._difference(given, rest)
        return {NETWORK: self.weight * mine, "critic": theirs}

    def _difference(self, labeled: Tensor, unlabeled: Tensor) -> Tensor:
        return self.critic(unlabeled).mean() - self._balance * self.critic(labeled).mean()

    def evidence(self, model: NetworkModel, inputs: Rows) -> Mapping[str, Callable[[], object]]:
        """What the critic says of each row, (N,)."""

        def critic() -> Tensor:
            return model.per_row(
                inputs, lambda _, logits, embeddings: self.critic(embeddings)[:, 0]
            )

        return {"critic": critic}
