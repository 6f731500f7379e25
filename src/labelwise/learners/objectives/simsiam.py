"""SimSiam: from one view of a row the other is predicted, and only the predicting side learns."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from labelwise.learners.objectives.base import NETWORK, Losses, Player, Setting
from labelwise.learners.objectives.self_supervision import (
    SelfSupervised,
    count,
    make_projector,
    precisely,
)
from labelwise.learners.objectives.views import View


def negative_cosine(predicted: Tensor, target: Tensor) -> Tensor:
    """Minus the mean cosine of predictions and targets, in [-1, 1]; the targets get no gradient.

    Args:
        predicted, target: (n, d).

    Source:
        Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021, equation 1.

    >>> import torch
    >>> float(negative_cosine(torch.tensor([[2.0, 0.0]]), torch.tensor([[5.0, 0.0]])))
    -1.0
    """
    return -F.cosine_similarity(predicted, target.detach(), dim=1).mean()


def simsiam_loss(
    first_predicted: Tensor, second_predicted: Tensor, first: Tensor, second: Tensor
) -> Tensor:
    """The mean of `negative_cosine` both ways, in [-1, 1].

    Args:
        first_predicted, second_predicted: (n, d) predictions from the first and second view.
        first, second: (n, d) projections of them.

    Source:
        Chen & He, CVPR 2021, equations 2 to 4.
    """
    ways = negative_cosine(first_predicted, second), negative_cosine(second_predicted, first)
    return (ways[0] + ways[1]) / 2


class SimSiam(SelfSupervised):
    """`simsiam_loss` of projections of two distorted views.

    Args:
        weight: of the loss.
        hidden, width: of the projector, three layers with batch normalization, on its output too.
        predictor: width of the predictor's hidden layer, a bottleneck.
        constant: whether the predictor's learning rate stays at the recipe's largest, as the
            authors train; else it is scheduled as all the rest.

    Raises:
        InputError: an option out of range; at the fit, minibatches of one row.

    Source:
        Chen & He, CVPR 2021; widths as on ImageNet and in solo-learn for CIFAR-10.
    """

    name = "simsiam"

    def __init__(
        self,
        *,
        weight: float = 1.0,
        hidden: int = 2048,
        width: int = 2048,
        predictor: int = 512,
        constant: bool = True,
    ) -> None:
        super().__init__(weight)
        self.hidden, self.width = count("hidden", hidden), count("width", width)
        self.predictor, self.constant = count("predictor", predictor), constant

    def prepare(self, setting: Setting) -> None:
        """Make projector and predictor."""
        widths = (setting.embedding_width, self.hidden, self.hidden, self.width)
        self.projector = make_projector(widths, setting.generator, norm=True, end="norm")
        inside = (self.width, self.predictor, self.width)
        self.predict = make_projector(inside, setting.generator, norm=True)

    def players(self) -> Mapping[str, Player]:
        """The predictor, where its learning rate is its own."""
        if not self.constant:
            return {}
        return {"predictor": Player(self.predict, {"schedule": "constant"})}

    def forward(self, unlabeled: View, labeled: View | None = None) -> Losses:
        """The loss, or the same for network and predictor, each with its gradients alone."""
        seen = [self.projector(self.look(k, unlabeled, labeled)) for k in (1, 2)]
        loss = self._loss(seen)
        if not self.constant:
            return loss
        return {NETWORK: loss, "predictor": self._loss([each.detach() for each in seen])}

    def _loss(self, seen: list[Tensor]) -> Tensor:
        predicted = [self.predict(each) for each in seen]
        return self.weight * precisely(simsiam_loss, *predicted, *seen)
