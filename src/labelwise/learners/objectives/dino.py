"""DINO: a student finds in one view the prototypes that its own average finds in the other."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.learners.networks import build_empty
from labelwise.learners.objectives.base import Setting, Step
from labelwise.learners.objectives.momentum import MomentumEncoder
from labelwise.learners.objectives.own_labels import ramp
from labelwise.learners.objectives.self_supervision import (
    SelfSupervised,
    count,
    positive,
    precisely,
    rising,
    share,
)
from labelwise.learners.objectives.views import View

BOTTLENECK = 256
"""Entries of the unit vectors that are compared with prototypes."""


def dino_loss(
    first: Tensor,
    second: Tensor,
    first_target: Tensor,
    second_target: Tensor,
    center: Tensor,
    temperature: float,
    teacher_temperature: float,
) -> Tensor:
    """Cross-entropy of the student's distributions under the teacher's, in nats.

    Args:
        first, second: (n, k) the student's similarities of two views to k prototypes.
        first_target, second_target: (n, k) the teacher's; they get no gradient.
        center: (k,) subtracted from the teacher's.
        temperature, teacher_temperature: > 0, what similarities are divided by.

    Returns:
        The mean over rows and the two pairs of different views.

    Source:
        Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021,
        equations 1 to 3 for two views.
    """
    losses = []
    for seen, target in ((first, second_target), (second, first_target)):
        teacher = ((target.detach() - center) / teacher_temperature).softmax(1)
        losses.append(-(teacher * (seen / temperature).log_softmax(1)).sum(1).mean())
    return (losses[0] + losses[1]) / 2


class Prototypes(nn.Module):
    """Three layers, a vector of length one, and its cosines with prototypes.

    Args:
        inputs: D. hidden: of the two hidden layers. prototypes: k.
    """

    def __init__(self, inputs: int, hidden: int, prototypes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(inputs, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, BOTTLENECK),
        )
        self.last = nn.Linear(BOTTLENECK, prototypes, bias=False)

    def forward(self, seen: Tensor, frozen: bool = False) -> Tensor:
        """(n, D) to (n, k) in [-1, 1]; frozen prototypes get a gradient of zeros."""
        # Of zeros and not none: torch's fused SGD fails where momentum begins later for some.
        weight = F.normalize(self.last.weight, dim=1)
        if frozen:
            weight = weight.detach() + 0 * weight
        return F.linear(F.normalize(self.body(seen), dim=1), weight)


class DINO(SelfSupervised):
    """`dino_loss` of two distorted views, the teacher a moving average of network and head.

    Args:
        weight: of the loss.
        hidden, prototypes: of the head.
        temperature: the student's.
        teacher_temperature: the teacher's; lower is sharper.
        first_temperature, warmup: the teacher's rises from the first linearly during this
            share of the steps. At the default both are one; a rise to 0.07 is recommended.
        center_momentum: decay of the moving average of the teacher's outputs, the center.
        momentum, final_momentum: decay of the teacher, at first and in the end. 0.9995 suits
            1,000 epochs; for a tenth of them or less take 0.99.
        frozen_epochs: during which prototypes stay as they are.

    There are two views, with no smaller crops beside them. The center is the one before the
    step. The defaults are those of solo-learn for CIFAR-10, temperatures the authors'.

    Raises:
        InputError: an option out of range; at the fit, minibatches of one row.

    Source:
        Caron et al., ICCV 2021.
    """

    name = "dino"
    center: Tensor

    def __init__(
        self,
        *,
        weight: float = 1.0,
        hidden: int = 2048,
        prototypes: int = 4096,
        temperature: float = 0.1,
        teacher_temperature: float = 0.04,
        first_temperature: float = 0.04,
        warmup: float = 0.3,
        center_momentum: float = 0.9,
        momentum: float = 0.9995,
        final_momentum: float = 1.0,
        frozen_epochs: int = 1,
    ) -> None:
        super().__init__(weight)
        self.hidden, self.prototypes = count("hidden", hidden), count("prototypes", prototypes)
        self.temperature = positive("temperature", temperature)
        self.teacher_temperature = positive("teacher_temperature", teacher_temperature)
        self.first_temperature = positive("first_temperature", first_temperature)
        self.warmup = share("warmup", warmup)
        self.center_momentum = share("center_momentum", center_momentum)
        self.momentum = share("momentum", momentum)
        self.final_momentum = share("final_momentum", final_momentum)
        self.frozen_epochs = (
            frozen_epochs if frozen_epochs == 0 else count("frozen_epochs", frozen_epochs)
        )

    def prepare(self, setting: Setting) -> None:
        """Make the head, and copy it and the network."""

        def make() -> Prototypes:
            return Prototypes(setting.embedding_width, self.hidden, self.prototypes)

        self.head = build_empty(make, setting.generator).to(setting.device)
        self.encoder = MomentumEncoder(setting, self.head)
        self.register_buffer("center", torch.zeros(self.prototypes))

    def sharpness(self, step: Step) -> float:
        """The teacher's temperature at a step."""
        rise = self.teacher_temperature - self.first_temperature
        return self.first_temperature + rise * ramp(step, self.warmup)

    def forward(self, unlabeled: View, step: Step, labeled: View | None = None) -> Tensor:
        """The loss, a single number."""
        self._decay = rising(self.momentum, self.final_momentum, step)
        frozen = step.epoch < self.frozen_epochs
        seen = [self.head(self.look(k, unlabeled, labeled), frozen) for k in (1, 2)]
        targets = [self.encoder(self.inputs(k, unlabeled, labeled)) for k in (1, 2)]
        loss = precisely(
            dino_loss,
            *seen,
            *targets,
            self.center,
            temperature=self.temperature,
            teacher_temperature=self.sharpness(step),
        )
        mean = torch.cat(targets).float().mean(0)
        self.center.lerp_(mean, 1 - self.center_momentum)
        return self.weight * loss

    def after_step(self, network: nn.Module) -> None:
        """Let the teacher follow."""
        self.encoder.follow(network, self.head, self._decay)
