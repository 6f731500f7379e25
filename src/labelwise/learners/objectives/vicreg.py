"""VICReg: two views agree, entries of the projection vary, and none repeats another."""

from __future__ import annotations

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

_LEAST_VARIANCE = 1e-4
"""Added to variances, so that the root has a slope at zero."""


def vicreg_loss(
    first: Tensor, second: Tensor, invariance: float, variance: float, covariance: float
) -> Tensor:
    """The weighted sum of three terms, no unit.

    Args:
        first, second: (n, d) projections of two views of the same rows, n >= 2.
        invariance: weight of the mean squared difference of the views.
        variance: weight of how far below 1 standard deviations over the rows are, the mean
            over entries and the two views.
        covariance: weight of the squared covariances of different entries, summed, over d,
            and summed over the two views.

    Source:
        Bardes, Ponce & LeCun, "VICReg: Variance-Invariance-Covariance Regularization for
        Self-Supervised Learning", ICLR 2022, equations 1 to 6. The paper sums the variance
        term over the views, and squared differences over entries; the authors' code takes the
        mean of both, and so do we.
    """
    views = [seen - seen.mean(0) for seen in (first, second)]
    deviations = [(seen.var(0) + _LEAST_VARIANCE).sqrt() for seen in views]
    narrow = [F.relu(1 - deviation).mean() for deviation in deviations]
    redundant = [_off_diagonal(seen.T @ seen / (len(seen) - 1)) for seen in views]
    return (
        invariance * F.mse_loss(first, second)
        + variance * (narrow[0] + narrow[1]) / 2
        + covariance * (redundant[0] + redundant[1])
    )


def _off_diagonal(matrix: Tensor) -> Tensor:
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / len(matrix)


class VICReg(SelfSupervised):
    """`vicreg_loss` of projections of two distorted views.

    Args:
        weight: of the loss.
        hidden, width: of the projector (the authors' expander, 8192 wide on ImageNet), three
            layers with batch normalization.
        invariance, variance, covariance: weights of the three terms.

    Raises:
        InputError: an option out of range; at the fit, minibatches of one row.

    Source:
        Bardes, Ponce & LeCun, ICLR 2022; widths of solo-learn for CIFAR-10.
    """

    name = "vicreg"

    def __init__(
        self,
        *,
        weight: float = 1.0,
        hidden: int = 2048,
        width: int = 2048,
        invariance: float = 25.0,
        variance: float = 25.0,
        covariance: float = 1.0,
    ) -> None:
        super().__init__(weight)
        self.hidden, self.width = count("hidden", hidden), count("width", width)
        self.invariance = positive("invariance", invariance)
        self.variance = positive("variance", variance)
        self.covariance = positive("covariance", covariance)

    def prepare(self, setting: Setting) -> None:
        """Make the projector."""
        widths = (setting.embedding_width, self.hidden, self.hidden, self.width)
        self.projector = make_projector(widths, setting.generator, norm=True, end="plain")

    def forward(self, unlabeled: View, labeled: View | None = None) -> Tensor:
        """The loss, a single number."""
        first, second = (self.projector(self.look(k, unlabeled, labeled)) for k in (1, 2))
        return self.weight * precisely(
            vicreg_loss,
            first,
            second,
            invariance=self.invariance,
            variance=self.variance,
            covariance=self.covariance,
        )
