"""BYOL: from one view of a row a moving average's projection of the other is predicted."""

from __future__ import annotations

from torch import Tensor, nn

from labelwise.learners.objectives.base import Setting, Step
from labelwise.learners.objectives.momentum import MomentumEncoder
from labelwise.learners.objectives.self_supervision import (
    SelfSupervised,
    count,
    make_projector,
    precisely,
    rising,
    share,
)
from labelwise.learners.objectives.simsiam import negative_cosine
from labelwise.learners.objectives.views import View


def byol_loss(
    first_predicted: Tensor, second_predicted: Tensor, first: Tensor, second: Tensor
) -> Tensor:
    """Squared distance of unit predictions to unit targets, summed over both ways, in [0, 8].

    Args:
        first_predicted, second_predicted: (n, d) predictions from the first and second view.
        first, second: (n, d) the target's projections of them; they get no gradient.

    Source:
        Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020, equation 2 and its symmetric
        form.

    >>> import torch
    >>> one, other = torch.eye(2)[:1], torch.eye(2)[1:]
    >>> float(byol_loss(one, one, one, other))  # 2 - 2 cos 90 degrees, and 0
    2.0
    """
    ways = negative_cosine(first_predicted, second), negative_cosine(second_predicted, first)
    return 4 + 2 * (ways[0] + ways[1])


class BYOL(SelfSupervised):
    """`byol_loss` of predictions from two distorted views and a moving average's projections.

    Args:
        weight: of the loss.
        hidden, width: of projector and predictor, each Linear-BatchNorm-ReLU-Linear.
        momentum, final_momentum: decay of the moving average, at first and in the end.

    The defaults are those of solo-learn for CIFAR-10; on ImageNet the authors start the momentum
    at 0.996.

    Raises:
        InputError: an option out of range; at the fit, minibatches of one row.

    Source:
        Grill et al., NeurIPS 2020.
    """

    name = "byol"

    def __init__(
        self,
        *,
        weight: float = 1.0,
        hidden: int = 4096,
        width: int = 256,
        momentum: float = 0.99,
        final_momentum: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.hidden, self.width = count("hidden", hidden), count("width", width)
        self.momentum = share("momentum", momentum)
        self.final_momentum = share("final_momentum", final_momentum)

    def prepare(self, setting: Setting) -> None:
        """Make projector and predictor, and copy the network."""
        widths = (setting.embedding_width, self.hidden, self.width)
        self.projector = make_projector(widths, setting.generator, norm=True)
        self.projector.to(setting.device)
        widths = (self.width, self.hidden, self.width)
        self.predict = make_projector(widths, setting.generator, norm=True)
        self.encoder = MomentumEncoder(setting, self.projector)

    def forward(self, unlabeled: View, step: Step, labeled: View | None = None) -> Tensor:
        """The loss, a single number."""
        self._decay = rising(self.momentum, self.final_momentum, step)
        predicted = [self.predict(self.projector(self.look(k, unlabeled, labeled))) for k in (1, 2)]
        targets = [self.encoder(self.inputs(k, unlabeled, labeled)) for k in (1, 2)]
        return self.weight * precisely(byol_loss, *predicted, *targets)

    def after_step(self, network: nn.Module) -> None:
        """Let the moving average follow."""
        self.encoder.follow(network, self.projector, self._decay)
