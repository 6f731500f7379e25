"""MixMatch: guess labels, sharpen them, and learn mixtures of rows and of labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from labelwise.learners.objectives.base import Objective, Setting, Step
from labelwise.learners.objectives.own_labels import (
    Mixer,
    ramp,
    require,
    require_weight,
    sharpen,
    soft_cross_entropy,
)
from labelwise.learners.objectives.views import View


class MixMatch(Objective):
    """Cross-entropy of mixed labeled rows, and squared error of mixed unlabeled ones.

    An unlabeled row's label is the mean of the distributions that its weak looks get, sharpened.
    Labeled rows and all looks at unlabeled ones are mixed with each other. The labels are
    learned here: `CrossEntropy` beside it would learn them a second time.

    Two traps of batch normalization: the guesses normalize by their own minibatch and leave
    the running statistics be, and all mixtures, of labeled and unlabeled rows, pass as one
    minibatch (the authors' code interleaves them in equal ones and counts the first). So the
    statistics of evaluation are those of what is learned. Minibatches of labeled and unlabeled
    rows may differ in size.

    Args:
        weight: of the squared error, the mean over rows and classes, at least 0. 75 is the
            paper's for CIFAR-10; the FixMatch authors ran it with 100.
        looks: weak looks at an unlabeled row, at least 1.
        temperature: of the sharpening, above 0.
        beta: of the mixing shares, above 0. 0.75 is the paper's; the FixMatch authors ran it
            with 0.5.
        warmup: share of the steps, in [0, 1], during which the weight grows from 0. 1/64 is
            the authors' code's, of a million steps; TorchSSL has 0.4, which suits short fits.

    Raises:
        InputError: a value out of its range; at the fit, inputs that cannot be mixed.

    Source:
        Berthelot et al., "MixMatch: A Holistic Approach to Semi-Supervised Learning", NeurIPS
        2019, algorithm 1 and equations 2 to 5.
    """

    name = "mixmatch"
    learns_labels = True
    guesses_labels = True

    def __init__(
        self,
        *,
        weight: float = 75.0,
        looks: int = 2,
        temperature: float = 0.5,
        beta: float = 0.75,
        warmup: float = 1 / 64,
    ) -> None:
        super().__init__()
        require_weight("weight", weight)
        require(looks >= 1, "looks", "at least 1", looks)
        require(temperature > 0, "temperature", "above 0", temperature)
        require(0 < beta < float("inf"), "beta", "above 0 and finite", beta)
        require(0 <= warmup <= 1, "warmup", "in [0, 1]", warmup)
        self.weight = weight
        self.looks = looks
        self.temperature = temperature
        self.beta = beta
        self.warmup = warmup

    def prepare(self, setting: Setting) -> None:
        """The shares and partners come from a stream of this fit."""
        self._classes = setting.classes
        self._mixer = Mixer(self.beta, setting.generator)

    def forward(self, labeled: View, unlabeled: View, step: Step) -> Tensor:
        """The loss, a single number."""
        views = [unlabeled, *(unlabeled.weak(number) for number in range(1, self.looks))]
        guess = torch.stack([view.guess for view in views]).mean(0)
        guess = sharpen(guess, self.temperature)
        given = F.one_hot(labeled.labels, self._classes).float()
        inputs = torch.cat([labeled.inputs, *(view.inputs for view in views)])
        targets = torch.cat([given, *[guess] * len(views)])
        inputs, targets = self._mixer.mix(inputs, targets)
        logits = labeled.through(inputs)[0].float()
        known = len(labeled)
        supervised = soft_cross_entropy(logits[:known], targets[:known]).mean()
        apart = (logits[known:].softmax(1) - targets[known:]).square().mean()
        return supervised + self.weight * ramp(step, self.warmup) * apart
