"""Barlow Twins: entries of two views' projections agree, and no two entries say the same."""

from __future__ import annotations

from torch import Tensor

from labelwise.learners.objectives.base import Setting
from labelwise.learners.objectives.self_supervision import (
    SelfSupervised,
    count,
    make_projector,
    positive,
    precisely,
)
from labelwise.learners.objectives.views import View

_LEAST_VARIANCE = 1e-5
"""Added to variances; what batch normalization adds, by which the authors standardize."""


def cross_correlation(first: Tensor, second: Tensor) -> Tensor:
    """(d, d) correlations over the rows of each entry of one view with each of the other.

    Args:
        first, second: (n, d) projections of two views of the same rows, n >= 2.

    Source:
        Zbontar, Jing, Misra, LeCun & Deny, "Barlow Twins", ICML 2021, equation 2.

    >>> import torch
    >>> line = torch.tensor([[1.0, -1.0], [2.0, -2.0], [6.0, -6.0]])
    >>> cross_correlation(line, line).round(decimals=3)
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    return _standardized(first).T @ _standardized(second) / len(first)


def _standardized(seen: Tensor) -> Tensor:
    centered = seen - seen.mean(0)
    return centered / (centered.square().mean(0) + _LEAST_VARIANCE).sqrt()


def barlow_loss(first: Tensor, second: Tensor, off_diagonal: float) -> Tensor:
    """How far the cross-correlation is from the identity: squares summed, no unit.

    Args:
        first, second: (n, d) projections of two views of the same rows, n >= 2.
        off_diagonal: what the squares off the diagonal are multiplied by.

    Source:
        Zbontar et al., ICML 2021, equation 1.
    """
    found = cross_correlation(first, second)
    agree = found.diagonal()
    redundant = found.square().sum() - agree.square().sum()
    return (1 - agree).square().sum() + off_diagonal * redundant


class BarlowTwins(SelfSupervised):
    """`barlow_loss` of projections of two distorted views.

    Beside cross-entropy, where it sees the labeled rows too, this is the training of DALBT:
    ``"cross_entropy+barlow_twins:weight=0.01"``.

    Args:
        weight: of the loss. 0.1 is solo-learn's for CIFAR-10; the authors take 1 with a
            learning rate of theirs. (With Adam alone it makes no difference.) The weight that
            DALBT's authors give it beside cross-entropy is not known.
        hidden, width: of the projector, three layers with batch normalization.
        off_diagonal: of the squares off the diagonal.

    Raises:
        InputError: an option out of range; at the fit, minibatches of one row.

    Source:
        Zbontar et al., ICML 2021. DALBT: Mandivarapu, Camp & Estrada, "Deep Active Learning
        Using Barlow Twins", arXiv 2212.14658, 2022.
    """

    name = "barlow_twins"

    def __init__(
        self,
        *,
        weight: float = 0.1,
        hidden: int = 2048,
        width: int = 2048,
        off_diagonal: float = 5e-3,
    ) -> None:
        super().__init__(weight)
        self.hidden, self.width = count("hidden", hidden), count("width", width)
        self.off_diagonal = positive("off_diagonal", off_diagonal)

    def prepare(self, setting: Setting) -> None:
        """Make the projector."""
        widths = (setting.embedding_width, self.hidden, self.hidden, self.width)
        self.projector = make_projector(widths, setting.generator, norm=True, end="plain")

    def forward(self, unlabeled: View, labeled: View | None = None) -> Tensor:
        """The loss, a single number."""
        first, second = (self.projector(self.look(k, unlabeled, labeled)) for k in (1, 2))
        return self.weight * precisely(barlow_loss, first, second, off_diagonal=self.off_diagonal)
