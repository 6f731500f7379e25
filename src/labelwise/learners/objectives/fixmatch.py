"""FixMatch: what the network is sure of in an easy look, it learns to say of a hard one."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from labelwise.learners.objectives.base import Objective
from labelwise.learners.objectives.own_labels import require, require_weight
from labelwise.learners.objectives.views import View


class FixMatch(Objective):
    """Cross-entropy of strong looks with the labels that weak looks get, where they are sure.

    The mean is over all unlabeled rows of the minibatch; one that is unsure counts 0. Needs
    `CrossEntropy` beside it and a learner with a strong look. The labeled rows, the weak and
    the strong looks pass through batch normalization as one minibatch.

    The authors train with 64 labeled and 448 unlabeled rows a step (``unlabeled_minibatch=448``),
    SGD 0.03 and a moving average of the weights (``average=0.999``) for a million steps. A
    threshold of 0.95 waits for a network that is sure: fits of a few hundred steps may do
    better with a lower one.

    Args:
        threshold: smallest probability of the likeliest class that is sure, in [0, 1]. The
            authors' on ImageNet is 0.7.
        weight: of the loss, at least 0. The authors' on ImageNet is 10.

    Raises:
        InputError: a value out of its range; at the fit, a learner without a strong look.

    Source:
        Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and
        Confidence", NeurIPS 2020, equations 3 and 4.
    """

    name = "fixmatch"
    learns_labels = False
    guesses_labels = True

    def __init__(self, *, threshold: float = 0.95, weight: float = 1.0) -> None:
        super().__init__()
        require(0 <= threshold <= 1, "threshold", "in [0, 1]", threshold)
        require_weight("weight", weight)
        self.threshold = threshold
        self.weight = weight

    def sure(self, probs: Tensor, rows: Tensor) -> Tensor:
        """(n,) bool: which rows are learned, by class distributions (n, C) of weak looks.

        Args:
            probs: (n, C). rows: (n,) int64 in the pool.
        """
        return probs.amax(1) >= self.threshold

    def forward(self, labeled: View, unlabeled: View) -> Tensor:
        """The loss, a single number."""
        return self.consistency(labeled, unlabeled)[0]

    def consistency(self, labeled: View, unlabeled: View) -> tuple[Tensor, Tensor]:
        """The weighted loss of the strong looks, and which rows it is of (n,)."""
        strong = unlabeled.strong()
        labeled.together(unlabeled, strong)
        probs = unlabeled.guess
        sure = self.sure(probs, unlabeled.rows)
        losses = F.cross_entropy(strong.logits.float(), probs.argmax(1), reduction="none")
        return self.weight * (losses * sure).mean(), sure
