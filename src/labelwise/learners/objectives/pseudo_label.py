"""Pseudo-labels: rows that the network is sure of are learned as it labels them itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.learners.objectives.base import Objective, Step
from labelwise.learners.objectives.own_labels import ramp, require, require_weight
from labelwise.learners.objectives.views import View


class PseudoLabel(Objective):
    """Cross-entropy of unlabeled rows with the network's own labels, where it is sure of them.

    The mean is over all unlabeled rows of the minibatch; one it is unsure of counts 0. Needs
    `CrossEntropy` beside it.

    CEAL labels rows by the model of the round before, once, as those whose entropy is below a
    bound that falls from round to round, and drops these labels after the fit. Here the network
    that is trained labels them anew at every step, so nothing wrong is kept; ``max_entropy`` is
    CEAL's rule, and a caller who wants its bound to fall gives each round's fit a smaller one.

    Args:
        threshold: smallest probability of the likeliest class that is sure, in [0, 1]; 0 is
            every row, as Lee has it.
        max_entropy: CEAL's rule in its place: entropy below this many nats (paper: 5e-3 on
            CACD, and in round t 3.3e-4 t less than in the round before). A row whose
            probabilities round to one class has entropy 0 and is among the surest.
        weight: of the loss, at least 0.
        warmup: share of the steps, in [0, 1], during which the weight grows from 0.

    Raises:
        InputError: a value out of its range.

    Source:
        Lee, "Pseudo-Label", ICML workshop 2013 (all rows; the weight grows); Wang et al.,
        "Cost-Effective Active Learning for Deep Image Classification", TCSVT 2017. Threshold
        and warm-up are TorchSSL's.
    """

    name = "pseudo_label"
    learns_labels = False
    guesses_labels = True

    def __init__(
        self,
        *,
        threshold: float = 0.95,
        max_entropy: float | None = None,
        weight: float = 1.0,
        warmup: float = 0.4,
    ) -> None:
        super().__init__()
        require(0 <= threshold <= 1, "threshold", "in [0, 1]", threshold)
        if max_entropy is not None:
            require(max_entropy > 0, "max_entropy", "above 0 or None", max_entropy)
        require_weight("weight", weight)
        require(0 <= warmup <= 1, "warmup", "in [0, 1]", warmup)
        self.threshold = threshold
        self.max_entropy = max_entropy
        self.weight = weight
        self.warmup = warmup

    def sure(self, probs: Tensor) -> Tensor:
        """(n,) bool: which rows of class distributions (n, C) are learned."""
        if self.max_entropy is not None:
            return torch.special.entr(probs).sum(1) < self.max_entropy
        return probs.amax(1) >= self.threshold

    def forward(self, labeled: View, unlabeled: View, step: Step) -> Tensor:
        """The loss, a single number."""
        labeled.together(unlabeled)
        logits = unlabeled.logits.float()
        probs = logits.detach().softmax(1)
        losses = F.cross_entropy(logits, probs.argmax(1), reduction="none")
        return self.weight * ramp(step, self.warmup) * (losses * self.sure(probs)).mean()
