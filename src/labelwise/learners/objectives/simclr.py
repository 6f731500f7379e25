"""SimCLR: two views of a row are nearer to each other than to any other row of the minibatch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.learners.objectives.base import Setting
from labelwise.learners.objectives.self_supervision import (
    SelfSupervised,
    count,
    make_projector,
    positive,
    precisely,
)
from labelwise.learners.objectives.views import View


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding a row's other view among all other views, in nats.

    Args:
        first, second: (n, d) projections of two views of the same rows, n >= 2.
        temperature: > 0, what cosine similarities are divided by.

    Returns:
        The mean over the 2n views, each compared with the 2n - 1 others.

    Source:
        Chen, Kornblith, Norouzi & Hinton, "A Simple Framework for Contrastive Learning of
        Visual Representations", ICML 2020, equation 1.

    >>> apart = torch.eye(2)
    >>> round(float(nt_xent(apart, apart, 1.0)), 4)  # -log(e / (e + 2))
    0.5514
    """
    n = len(first)
    seen = F.normalize(torch.cat([first, second]), dim=1)
    similar = seen @ seen.T / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=seen.device)
    other = torch.arange(2 * n, device=seen.device).roll(n)
    return F.cross_entropy(similar.masked_fill(itself, -torch.inf), other)


class SimCLR(SelfSupervised):
    """`nt_xent` of projections of two distorted views.

    Args:
        weight: of the loss.
        hidden, width: of the projector, Linear-ReLU-Linear.
        temperature: > 0.

    The defaults are those of solo-learn for CIFAR-10: a temperature of 0.2, and no batch
    normalization in the projector. The paper takes 0.5 there (0.1 on ImageNet), and the authors'
    code normalizes.

    Raises:
        InputError: an option out of range; at the fit, minibatches of one row.

    Source:
        Chen, Kornblith, Norouzi & Hinton, ICML 2020.
    """

    name = "simclr"

    def __init__(
        self,
        *,
        weight: float = 1.0,
        hidden: int = 2048,
        width: int = 256,
        temperature: float = 0.2,
    ) -> None:
        super().__init__(weight)
        self.hidden, self.width = count("hidden", hidden), count("width", width)
        self.temperature = positive("temperature", temperature)

    def prepare(self, setting: Setting) -> None:
        """Make the projector."""
        widths = (setting.embedding_width, self.hidden, self.width)
        self.projector = make_projector(widths, setting.generator, norm=False)

    def forward(self, unlabeled: View, labeled: View | None = None) -> Tensor:
        """The loss, a single number."""
        first, second = (self.projector(self.look(k, unlabeled, labeled)) for k in (1, 2))
        return self.weight * precisely(nt_xent, first, second, temperature=self.temperature)
