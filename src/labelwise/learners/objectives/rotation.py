"""Rotation: the network says by how many quarter turns an image was turned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from labelwise.errors import InputError
from labelwise.learners.images import channels_first
from labelwise.learners.networks import build_empty, find_head
from labelwise.learners.objectives.base import Setting
from labelwise.learners.objectives.self_supervision import SelfSupervised, precisely
from labelwise.learners.objectives.views import Tapped, View

if TYPE_CHECKING:
    from labelwise.kernels import Rows
    from labelwise.learners.network import NetworkModel

TURNS = 4


def turned(images: Tensor, first: bool) -> Tensor:
    """(4n, ...) square images by 0, 90, 180 and 270 degrees, counterclockwise, turn by turn.

    Args:
        images: (n, channels, H, H) where ``first``, else (n, H, H, channels).

    >>> turned(torch.tensor([[[[1], [2]], [[3], [4]]]]), first=False)[1, ..., 0]
    tensor([[2, 4],
            [1, 3]])
    """
    axes = (2, 3) if first else (1, 2)
    return torch.cat([images.rot90(turns, axes) for turns in range(TURNS)])


def rotation_losses(logits: Tensor) -> Tensor:
    """(n,) the mean cross-entropy over the four turns of each image, in nats.

    Args:
        logits: (4n, 4) of images that `turned` made.

    Source:
        Gidaris, Singh & Komodakis, "Unsupervised Representation Learning by Predicting Image
        Rotations", ICLR 2018, equation 3.
    """
    turns = torch.arange(TURNS, device=logits.device).repeat_interleave(len(logits) // TURNS)
    return F.cross_entropy(logits, turns, reduction="none").reshape(TURNS, -1).mean(0)


class Rotation(SelfSupervised):
    """The mean of `rotation_losses` of all rows, each seen under all four turns.

    The head is linear on the embeddings. What it learned is the evidence ``pretext_loss`` (N,):
    `rotation_losses` of the unchanged images, larger where the image is harder. PT4AL sorts by it.

    Args:
        weight: of the loss.

    Raises:
        InputError: a weight out of range; at the fit, rows that are no square images.

    Source:
        Gidaris, Singh & Komodakis, ICLR 2018; as a pretext for active learning: Yi, Seo, Park &
        Choi, "PT4AL: Using Self-Supervised Pretext Tasks for Active Learning", ECCV 2022 (SGD,
        0.1, momentum 0.9, weight decay 5e-4, minibatches of 256, 15 epochs, images as they are;
        here a learner's weak looks are turned, so ``pad=0, flip=False`` is theirs).
    """

    name = "rotation"
    gives = ("pretext_loss",)

    def __init__(self, *, weight: float = 1.0) -> None:
        super().__init__(weight)

    def prepare(self, setting: Setting) -> None:
        """Make the head."""
        shape = setting.item_shape
        self._first = channels_first(shape)
        height, width = shape[1:] if self._first else shape[:2]
        if height != width:
            raise InputError(f"rotation turns square images, and rows are of shape {shape}")

        def make() -> nn.Linear:
            return nn.Linear(setting.embedding_width, TURNS)

        self.head = build_empty(make, setting.generator)

    def forward(self, unlabeled: View, labeled: View | None = None) -> Tensor:
        """The loss, a single number."""
        views = [unlabeled] if labeled is None else [unlabeled, labeled]
        images = torch.cat([view.inputs for view in views])
        embeddings = unlabeled.through(turned(images, self._first))[1]
        return self.weight * precisely(rotation_losses, self.head(embeddings)).mean()

    def evidence(self, model: NetworkModel, inputs: Rows) -> Mapping[str, Callable[[], object]]:
        """``pretext_loss`` (N,), in nats."""

        def pretext_loss() -> Tensor:
            network = model.network
            with Tapped(network, find_head(network, model.classes)) as through:

                def losses(images: Tensor, _logits: Tensor, embeddings: Tensor) -> Tensor:
                    others = turned(images, self._first)[len(images) :]
                    seen = torch.cat([embeddings, through(others)[1]])
                    return precisely(rotation_losses, self.head(seen.float()))

                return model.per_row(inputs, losses)

        return {"pretext_loss": pretext_loss}
