"""What objectives without labels share: views of all rows, projectors, losses in full precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.learners.networks import build_empty
from labelwise.learners.objectives.base import Objective, Step
from labelwise.learners.objectives.views import View


class SelfSupervised(Objective):
    """The base of objectives that compare distorted views of rows.

    They see the unlabeled rows of a step and, where there are any, the labeled ones with them:
    alone they are pretraining, and beside cross-entropy they train the classifier along. There
    distorted views normalize by their minibatch and leave running statistics be.

    Args:
        weight: > 0, what the loss is multiplied by, for the sum with other objectives.
    """

    learns_labels = False

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = positive("weight", weight)

    def look(self, number: int, unlabeled: View, labeled: View | None) -> Tensor:
        """(n, D) embeddings of one distorted view of all rows, with gradient.

        Raises:
            InputError: fewer than two rows, of which nothing can be compared.
        """
        views = _distorted(number, unlabeled, labeled)
        if sum(map(len, views)) < 2:
            raise InputError(
                f"{self.name} compares the rows of a minibatch and got one row: it needs two "
                "unlabeled rows, and unlabeled_minibatch=2 or more"
            )
        views[0].together(*views[1:])
        return torch.cat([view.embeddings for view in views])

    @staticmethod
    def inputs(number: int, unlabeled: View, labeled: View | None) -> Tensor:
        """(n, ...) inputs of one distorted view of all rows, in the order of `look`."""
        return torch.cat([view.inputs for view in _distorted(number, unlabeled, labeled)])


def _distorted(number: int, unlabeled: View, labeled: View | None) -> list[View]:
    views = (unlabeled,) if labeled is None else (unlabeled, labeled)
    return [view.distorted(number) for view in views]


def make_projector(
    widths: Sequence[int],
    generator: torch.Generator,
    *,
    norm: bool,
    end: Literal["bias", "plain", "norm"] = "bias",
) -> nn.Sequential:
    """Linear layers with ReLU between them.

    Args:
        widths: entries of the input, of every hidden layer, of the output.
        generator: fills the parameters.
        norm: whether hidden layers have batch normalization, and then no bias.
        end: whether the last layer has a bias, none, or batch normalization without
            parameters.
    """

    def make() -> nn.Sequential:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths[:-1]):
            layers += [nn.Linear(inputs, outputs, bias=not norm)]
            layers += [nn.BatchNorm1d(outputs), nn.ReLU()] if norm else [nn.ReLU()]
        layers.append(nn.Linear(widths[-2], widths[-1], bias=end == "bias"))
        if end == "norm":
            layers.append(nn.BatchNorm1d(widths[-1], affine=False))
        return nn.Sequential(*layers)

    return build_empty(make, generator)


def precisely(loss: Callable[..., Tensor], *seen: Tensor, **options: Any) -> Tensor:
    """A loss of float32 tensors, whatever precision the network runs in.

    The differences that these losses are made of drown in bfloat16.
    """
    with torch.autocast(seen[0].device.type, enabled=False):
        return loss(*(each.float() for each in seen), **options)


def rising(start: float, end: float, step: Step) -> float:
    """The decay of a moving average at a step: from ``start`` to ``end`` along a half cosine.

    Source:
        Grill et al., "Bootstrap Your Own Latent", NeurIPS 2020.

    >>> [rising(0.5, 1.0, Step(number, 4, 0, 0.1)) for number in (0, 2)]
    [0.5, 0.75]
    """
    return end - (end - start) * (math.cos(math.pi * step.number / step.total) + 1) / 2


def positive(name: str, value: float) -> float:
    """The value, refused unless it is a number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InputError(f"{name} must be a number > 0, got {value!r}")
    return value


def count(name: str, value: int) -> int:
    """The value, refused unless it is a whole number above 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number >= 1, got {value!r}")
    return value


def share(name: str, value: float) -> float:
    """The value, refused unless it is in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise InputError(f"{name} must be a number in [0, 1], got {value!r}")
    return value
