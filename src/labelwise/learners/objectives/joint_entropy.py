"""Joint entropy: be sure of the rows without a label, while the labels are learned."""

from __future__ import annotations

from torch import Tensor

from labelwise.learners.objectives.base import Objective, Step
from labelwise.learners.objectives.own_labels import ramp, require, require_weight
from labelwise.learners.objectives.views import View


def mean_entropy(logits: Tensor) -> Tensor:
    """The mean entropy of logits (n, C) in nats; its gradient is finite where a class has none.

    >>> import torch
    >>> mean_entropy(torch.tensor([[0.0, 0.0], [500.0, -500.0]]))
    tensor(0.3466)
    """
    logs = logits.float().log_softmax(1)
    return -(logs.exp() * logs).sum(1).mean()


class JointEntropy(Objective):
    """A weight times the mean entropy of the unlabeled rows, in nats.

    With `CrossEntropy` it is the objective of joint active learning, whose queries are the rows
    it could not become sure of: the strategy ``entropy`` on the same pool.

    Args:
        weight: lambda, at least 0. The authors tune it for each data set, between 0.01 and 1.
        warmup: share of the steps, in [0, 1], during which the weight grows from 0. The
            authors have none. A network that is made sure before it has learned is sure of
            errors; with a large weight give it 0.3 or so.

    Raises:
        InputError: a value out of its range.

    Source:
        Ranganathan, Venkateswara, Chakraborty & Panchanathan, "Deep Active Learning for Image
        Classification", ICIP 2017, equation 3; before them Grandvalet & Bengio, "Semi-supervised
        Learning by Entropy Minimization", NeurIPS 2004.
    """

    name = "joint_entropy"
    learns_labels = False

    def __init__(self, *, weight: float = 0.1, warmup: float = 0.0) -> None:
        super().__init__()
        require_weight("weight", weight)
        require(0 <= warmup <= 1, "warmup", "in [0, 1]", warmup)
        self.weight = weight
        self.warmup = warmup

    def forward(self, labeled: View, unlabeled: View, step: Step) -> Tensor:
        """The loss, a single number."""
        labeled.together(unlabeled)
        return self.weight * ramp(step, self.warmup) * mean_entropy(unlabeled.logits)
