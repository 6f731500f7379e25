"""A second encoder that nobody trains: a moving average of the first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from labelwise.learners.average import Average
from labelwise.learners.networks import dropouts, find_head
from labelwise.learners.objectives.base import Setting
from labelwise.learners.objectives.views import Tapped


def draw_apart(network: nn.Module, setting: Setting) -> None:
    """Give each dropout of a copied network a generator of its own, seeded by the fit's."""
    for layer in dropouts(network):
        seed = int(torch.randint(1 << 62, (), generator=setting.generator))
        layer.generator = torch.Generator(setting.device).manual_seed(seed)


class MomentumEncoder(nn.Module):
    """Copies of a network and its projector that follow the originals slowly.

    They start as exact copies and stay in training mode, so batch normalization goes by the
    minibatch; dropout draws from generators of its own.

    Args:
        setting: of the fit; its network is copied.
        projector: what turns embeddings into projections; copied.

    Source:
        He, Fan, Wu, Xie & Girshick, "Momentum Contrast for Unsupervised Visual Representation
        Learning", CVPR 2020.
    """

    def __init__(self, setting: Setting, projector: nn.Module) -> None:
        super().__init__()
        followed = (setting.network, projector)
        self._averages = [Average(module, 0.0, early_mean=False) for module in followed]
        self.network, self.projector = (average.module for average in self._averages)
        self._classes = setting.classes
        self._ranks = setting.ranks
        draw_apart(self.network, setting)

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Tensor:
        """Projections of some inputs, without gradient."""
        with Tapped(self.network, find_head(self.network, self._classes)) as through:

            def project(some: Tensor) -> Tensor:
                projected: Tensor = self.projector(through(some)[1])
                return projected

            return self._ranks.spread(project, inputs)

    def follow(self, network: nn.Module, projector: nn.Module, decay: float) -> None:
        """Keep ``decay`` of itself and take the rest from the originals."""
        for average, module in zip(self._averages, (network, projector)):
            average.decay = decay
            average.update(module)
