"""Pretrained networks under a new linear head, on the rows that encoders make."""

from __future__ import annotations

from abc import abstractmethod
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from labelwise.errors import InputError
from labelwise.learners.backbones import Backbone
from labelwise.learners.hub_transformers import NO_TOKEN, TextNetwork
from labelwise.learners.networks import dropouts

PASS_BYTES = 64 << 20
"""Bytes of float32 that a pass without gradients feeds a pretrained network at once."""


class Adapted(nn.Module):
    """A backbone and a new linear head on its features.

    Args:
        backbone: to (n, D) features.
        width: D.
        classes: C.
        entries: numbers that the backbone is given of one row.

    Attributes:
        rows_at_once: how many rows a pass without gradients should hold.
    """

    def __init__(self, backbone: nn.Module, width: int, classes: int, entries: int) -> None:
        super().__init__()
        self.rows_at_once = max(1, PASS_BYTES // (4 * entries))
        self.backbone = backbone
        self.head = nn.utils.skip_init(nn.Linear, width, classes)

    @abstractmethod
    def prepared(self, x: Tensor) -> Tensor:
        """Rows as the backbone takes them."""

    def forward(self, x: Tensor) -> Tensor:
        """(n, ...) rows to (n, C) logits."""
        return self.head(self.backbone(self.prepared(x)))

    def train(self, mode: bool = True) -> Self:
        """Training mode; what is frozen as a whole stays in evaluation mode.

        A frozen normalization that went on measuring its minibatches would not be frozen.
        """
        super().train(mode)
        if not any(p.requires_grad for p in self.backbone.parameters()):
            self.backbone.eval()
        for module in self.backbone.modules():
            own = list(module.parameters(recurse=False))
            frozen = bool(own) and not any(p.requires_grad for p in own)
            if isinstance(module, _BatchNorm) and frozen:
                module.eval()
        return self


class AdaptedImages(Adapted):
    """Images to what a backbone expects, the backbone, and a new linear head.

    Args:
        backbone: features of standardized images.
        classes: C.
        size: (height, width) that images are scaled to.
        channels_first: whether rows are (channels, H, W) and not (H, W, channels).
    """

    mean: Tensor
    spread: Tensor

    def __init__(
        self, backbone: Backbone, classes: int, size: tuple[int, int], channels_first: bool
    ) -> None:
        super().__init__(backbone.network, backbone.width, classes, 3 * size[0] * size[1])
        self.size = size
        self.channels_first = channels_first
        self.register_buffer("mean", torch.tensor(backbone.mean).reshape(3, 1, 1))
        self.register_buffer("spread", torch.tensor(backbone.spread).reshape(3, 1, 1))

    def prepared(self, x: Tensor) -> Tensor:
        """(n, 3, height, width) standardized; whole numbers are 0..255, fractions 0..1."""
        x = x.float() if x.is_floating_point() else x.float() / 255
        if not self.channels_first:
            x = x.permute(0, 3, 1, 2)
        if x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if tuple(x.shape[2:]) != self.size:
            x = functional.interpolate(
                x, self.size, mode="bilinear", antialias=True, align_corners=False
            )
        return (x - self.mean) / self.spread


class AdaptedTexts(Adapted):
    """Tokens to the features of a text network, and a new linear head.

    Args:
        backbone: features of rows of tokens; see `TextNetwork`.
        width: D, of the features.
        classes: C.
        length: L, tokens of a row.

    Attributes:
        vocabulary: how many tokens it knows.
    """

    def __init__(self, backbone: TextNetwork, width: int, classes: int, length: int) -> None:
        super().__init__(backbone, width, classes, length * width)
        self.vocabulary = backbone.vocabulary

    def prepared(self, x: Tensor) -> Tensor:
        """(n, L) tokens, in evaluation without the end where no text of the minibatch has any.

        Posterior samples hold masks of whole rows. (Training minibatches are cut by `shortened`
        as they are made, which is the same for all ranks of a fit.)

        Raises:
            InputError: fractions, of which tokens have none.
        """
        if x.is_floating_point():
            raise InputError(
                "a text network takes tokens, whole numbers as the 'tokens:<name>' encoder makes "
                f"them, got {x.dtype}"
            )
        if self.training or any(layer.masks is not None for layer in dropouts(self)):
            return x
        return shortened(x)


def shortened(tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Tokens without the end of the rows where no text has any; nothing is drawn.

    >>> shortened(torch.tensor([[5, -1, -1], [6, 7, -1]]))
    tensor([[ 5, -1],
            [ 6,  7]])
    """
    longest = int((tokens != NO_TOKEN).any(0).sum())
    return tokens[:, : max(1, longest)]
