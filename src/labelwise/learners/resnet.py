"""ResNet-18 in its form for small images, from uint8 pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from labelwise.errors import InputError
from labelwise.kernels import Rows, torch_stream
from labelwise.learners.images import channels_first
from labelwise.learners.network import NetworkLearner, Objectives
from labelwise.learners.networks import SmallImageResNet, build_empty
from labelwise.learners.objectives import Augment, Looks
from labelwise.learners.recipe import Recipe, adapt

RECIPE = Recipe(
    epochs=100,
    min_steps=1000,
    minibatch=128,
    optimizer="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,
    schedule="one_cycle",
)
"""SGD 0.1, momentum 0.9, weight decay 5e-4: the usual one on CIFAR-10 (He et al., CVPR 2016)."""


class ResNet18(NetworkLearner):
    """ResNet-18 with a 3x3 stem and no pooling, channels last, crops and flips.

    Inputs are images as (N, H, W, channels) or (N, channels, H, W), uint8 or not, with 1, 3
    or 4 channels; they are standardized per channel by up to 16,384 images of the pool.

    Args:
        width: channels of the first stage; 64 is the published network.
        pad: pixels an image may shift by in training; 0 for none.
        flip: whether training images are mirrored half of the time (not for digits).
        objectives: summed; cross-entropy by default.
        recipe: fields of `Recipe` to change, such as ``precision="bf16"``.

    Raises:
        InputError: an option out of range, or inputs that are no images.
    """

    name = "resnet18"

    def __init__(
        self,
        *,
        width: int = 64,
        pad: int = 4,
        flip: bool = True,
        objectives: Objectives = (),
        **recipe: Any,
    ) -> None:
        super().__init__(adapt(RECIPE, recipe, ("width", "pad", "flip")), objectives)
        if width < 1 or pad < 0:
            raise InputError(f"width must be at least 1 and pad at least 0, got {width} and {pad}")
        self.width = width
        self.pad = pad
        self.flip = flip

    def signature(self) -> dict[str, Any]:
        """Everything that decides a fit besides data and seed."""
        own = {"width": self.width, "pad": self.pad, "flip": self.flip}
        return super().signature() | own

    def build(self, inputs: Rows, classes: int, seed: int) -> nn.Module:
        """A new network, its standardization measured on the whole pool."""
        network = self.empty(inputs.shape[1:], classes, seed)
        axes = (0, 2, 3) if network.channels_first else (0, 1, 2)
        network.standardize.measure(inputs, axes)
        return network

    def empty(self, item_shape: tuple[int, ...], classes: int, seed: int = 0) -> SmallImageResNet:
        """The network before it has seen any data."""
        first = channels_first(item_shape)
        channels = item_shape[0] if first else item_shape[2]

        def make() -> SmallImageResNet:
            return SmallImageResNet(channels, classes, self.width, first)

        network = build_empty(make, torch_stream(seed, "parameters"))
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                filters = layer.weight.detach().contiguous(memory_format=torch.channels_last)
                layer.weight = nn.Parameter(filters)
        return network

    def looks(self, item_shape: tuple[int, ...]) -> Looks:
        """Shifts and flips of whole minibatches."""
        weak: Augment | None = None
        if self.pad or self.flip:
            weak = CropFlip(self.pad, self.flip, channels_first(item_shape))
        return Looks(weak)


class CropFlip:
    """Shift each image of a minibatch by up to ``pad`` pixels, and mirror half of them.

    The border is filled by reflection. All images are cut in one indexing of a view that holds
    every possible cut.

    Args:
        pad: pixels, at least 0; at most the image's side less one is used.
        flip: whether to mirror left and right with probability one half.
        channels_first: whether images are (channels, H, W) and not (H, W, channels).
    """

    def __init__(self, pad: int, flip: bool, channels_first: bool) -> None:
        self.pad = pad
        self.flip = flip
        self.channels_first = channels_first

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(n, ...) images of any dtype to as many of the same shape; the generator is CPU's."""
        high, wide = (2, 3) if self.channels_first else (1, 2)
        count, height, width = len(images), images.shape[high], images.shape[wide]
        pad = min(self.pad, height - 1, width - 1)
        every = torch.arange(count, device=images.device)
        if pad:
            shifts = torch.randint(2 * pad + 1, (2, count), generator=generator)
            down, right = shifts.to(images.device)
            padded = images.index_select(high, _reflected(height, pad, images.device))
            padded = padded.index_select(wide, _reflected(width, pad, images.device))
            cuts = padded.unfold(high, height, 1).unfold(wide, width, 1)
            # (n, ..., h, w) with the cut's place where height and width were
            if self.channels_first:
                images = cuts[every, :, down, right]
            else:
                images = cuts[every, down, right].permute(0, 2, 3, 1)
        if self.flip:
            mirrored = torch.rand(count, generator=generator) < 0.5
            mask = mirrored.to(images.device).reshape(count, 1, 1, 1)
            images = torch.where(mask, images.flip(wide), images)
        return images


def _reflected(length: int, pad: int, device: torch.device) -> Tensor:
    """Positions that continue ``length`` pixels by ``pad`` mirrored ones on both sides."""
    places = torch.arange(-pad, length + pad, device=device).abs()
    return torch.where(places < length, places, 2 * (length - 1) - places)
