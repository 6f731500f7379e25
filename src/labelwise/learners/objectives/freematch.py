"""FreeMatch: FixMatch with thresholds that follow how sure the network is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from labelwise.learners.objectives.base import Setting
from labelwise.learners.objectives.fixmatch import FixMatch
from labelwise.learners.objectives.own_labels import require, require_weight
from labelwise.learners.objectives.views import View


class FreeMatch(FixMatch):
    """FixMatch with a threshold that follows the mean confidence, scaled for each class.

    Three moving averages over the weak looks start from 1 / C: of the largest probability (the
    threshold), of the distribution over classes, and of the shares of classes predicted. A
    class's threshold is the first, times its share of the second by the largest share. They
    take a minibatch in before it is judged, as in the authors' code. The loss's mean and its
    needs are those of `FixMatch`. At first nearly every row is learned: what is said of a network
    that knows nothing at `FlexMatch` holds here.

    The fairness loss is the negative cross-entropy between two distributions over classes, each
    divided by the shares of predictions and normalized: the second average, and the mean of the
    strong looks that are learned; the authors mean it to keep predictions diverse. Classes that
    no strong look of the minibatch is predicted as have no part in it (the authors' code adds a
    constant for each).

    Args:
        weight: of the consistency loss, at least 0.
        fairness: weight of the fairness loss, at least 0.
        decay: of the moving averages, in [0, 1). The authors' 0.999 is made for a million
            steps: after 300 a quarter of the way from 1 / C is done. For fits of some hundred
            steps give 0.99 or less.
        clamp: lowest and highest threshold of any class, once it is scaled; the authors' code
            gives SVHN ``(0.9, 0.95)``. None leaves it.

    Raises:
        InputError: a value out of its range; at the fit, a learner without a strong look.

    Source:
        Wang et al., "FreeMatch: Self-adaptive Thresholding for Semi-supervised Learning",
        ICLR 2023, equations 5 to 12.
    """

    name = "freematch"
    confidence: Tensor
    distribution: Tensor
    predicted: Tensor

    def __init__(
        self,
        *,
        weight: float = 1.0,
        fairness: float = 0.01,
        decay: float = 0.999,
        clamp: Sequence[float] | None = None,
    ) -> None:
        super().__init__(weight=weight)
        require_weight("fairness", fairness)
        require(0 <= decay < 1, "decay", "in [0, 1)", decay)
        if clamp is not None:
            clamp = tuple(float(bound) for bound in clamp)
            holds = len(clamp) == 2 and 0 <= clamp[0] <= clamp[1] <= 1
            require(holds, "clamp", "two bounds, lowest first, in [0, 1]", clamp)
        self.fairness = fairness
        self.decay = decay
        self.clamp = clamp

    def prepare(self, setting: Setting) -> None:
        """Averages as of a network that knows nothing."""
        even = torch.full((setting.classes,), 1 / setting.classes)
        self.register_buffer("confidence", even[0].clone(), persistent=False)
        self.register_buffer("distribution", even.clone(), persistent=False)
        self.register_buffer("predicted", even.clone(), persistent=False)

    def thresholds(self) -> Tensor:
        """(C,) the threshold of each class now."""
        scaled = self.confidence * self.distribution / self.distribution.max()
        return scaled if self.clamp is None else scaled.clamp(*self.clamp)

    def sure(self, probs: Tensor, rows: Tensor) -> Tensor:
        """(n,) bool, by thresholds that have taken note of these rows."""
        largest, classes = probs.max(1)
        new = 1 - self.decay
        self.confidence.lerp_(largest.mean(), new)
        self.distribution.lerp_(probs.mean(0), new)
        shares = torch.zeros_like(self.predicted)
        shares.scatter_add_(0, classes, torch.full_like(largest, 1 / len(largest)))
        self.predicted.lerp_(shares, new)
        return largest >= self.thresholds()[classes]

    def forward(self, labeled: View, unlabeled: View) -> Tensor:
        """Consistency and fairness, a single number."""
        loss, sure = self.consistency(labeled, unlabeled)
        probs = unlabeled.strong().logits.float().softmax(1)
        uneven = unfairness(probs, sure, self.distribution, self.predicted)
        return loss + self.fairness * uneven

    def signature(self) -> dict[str, Any]:
        """Name and options."""
        return {
            "name": self.name,
            "weight": self.weight,
            "fairness": self.fairness,
            "decay": self.decay,
            "clamp": None if self.clamp is None else list(self.clamp),
        }


def unfairness(probs: Tensor, sure: Tensor, distribution: Tensor, predicted: Tensor) -> Tensor:
    """Negative cross-entropy between what is expected of all rows and what these say.

    Args:
        probs: (n, C) of strong looks, with gradient.
        sure: (n,) bool, those that count; with none the result is 0.
        distribution: (C,) expected, normalized after a division by ``predicted``.
        predicted: (C,) shares of classes predicted.

    Returns:
        A number, in nats.
    """
    counted = sure[:, None].float()
    mean = (probs * counted).sum(0) / counted.sum().clamp(min=1)
    votes = torch.zeros_like(mean).scatter_add_(0, probs.argmax(1), sure.float())
    shown = votes > 0
    shares = votes / votes.sum().clamp(min=1)
    expected = distribution / predicted.clamp(min=torch.finfo(predicted.dtype).tiny)
    expected = torch.where(predicted > 0, expected, 0)
    expected = expected / expected.sum()
    said = torch.where(shown, mean, 0) / torch.where(shown, shares, 1)
    said = said / said.sum().clamp(min=torch.finfo(said.dtype).tiny)
    logs = torch.where(shown, said, 1).log()
    return (expected * logs).sum()
