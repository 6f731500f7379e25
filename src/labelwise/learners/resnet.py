"""ResNet-18 in its form for small images, from uint8 pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch import nn

from labelwise.errors import InputError, nearest
from labelwise.kernels import Rows, torch_stream
from labelwise.learners.augment import CropFlip, Distort, ImageLook, RandAugment
from labelwise.learners.images import channels_first
from labelwise.learners.network import NetworkLearner, Objectives
from labelwise.learners.networks import SmallImageResNet, build_empty
from labelwise.learners.objectives import Augment, Looks
from labelwise.learners.recipe import Recipe, adapt, require_whole

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


OPTIONS = ("width", "pad", "flip", "strong", "distorted", "objectives")


class ResNet18(NetworkLearner):
    """ResNet-18 with a 3x3 stem and no pooling, channels last, crops and flips.

    Inputs are images as (N, H, W, channels) or (N, channels, H, W), uint8 or not, with 1, 3
    or 4 channels; they are standardized per channel by up to 16,384 images of the pool.

    Args:
        width: channels of the first stage; 64 is the published network.
        pad: pixels an image may shift by in training; 0 for none.
        flip: whether training images are mirrored half of the time (not for digits); without,
            no look mirrors them.
        strong: the strong look, after the shift and flip, for objectives that ask for it:
            `RandAugment`, or its options by name, such as ``{"cutout": 0.25}``.
        distorted: the views of self-supervision: `Distort`, or its options by name, such as
            ``{"crop": (0.2, 1.0), "solarize": 0.1}``. Like the strong look they need images of
            uint8, or of fractions between 0 and 1.
        objectives: summed; cross-entropy by default.
        recipe: fields of `Recipe` to change, such as ``precision="bf16"``.

    Raises:
        InputError: an option out of range, or inputs that are no images.
    """

    name = "resnet18"
    reads: Mapping[str, str] = MappingProxyType({"image": "pixels"})

    def __init__(
        self,
        *,
        width: int = 64,
        pad: int = 4,
        flip: bool = True,
        strong: RandAugment | Mapping[str, Any] | None = None,
        distorted: Distort | Mapping[str, Any] | None = None,
        objectives: Objectives = (),
        **recipe: Any,
    ) -> None:
        super().__init__(adapt(RECIPE, recipe, OPTIONS), objectives)
        require_whole("width", width, 1)
        require_whole("pad", pad, 0)
        self.width = width
        self.pad = pad
        self.flip = flip
        self.strong = _options("strong", RandAugment, strong)
        self.distorted = _options("distorted", Distort, distorted)

    def signature(self) -> dict[str, Any]:
        """Everything that decides a fit besides data and seed."""
        looks = {"strong": self.strong.signature(), "distorted": self.distorted.signature()}
        own = {"width": self.width, "pad": self.pad, "flip": self.flip}
        return super().signature() | own | looks

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
        """Weak: shifts and flips. Strong: RandAugment and cutout after them. Distorted: views."""
        first = channels_first(item_shape)
        weak: Augment | None = None
        if self.pad or self.flip:
            weak = CropFlip(self.pad, self.flip, first)
        distorted = self.distorted if self.flip else replace(self.distorted, flip=0.0)
        return Looks(weak, ImageLook(self.strong, first, weak), ImageLook(distorted, first))


Chosen = TypeVar("Chosen", RandAugment, Distort)


def _options(name: str, kind: type[Chosen], given: Chosen | Mapping[str, Any] | None) -> Chosen:
    """A look from its options by name, or as it is."""
    if isinstance(given, kind):
        return given
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"{name} must be {kind.__name__}(...) or its options, got {given!r}")
    options = {} if given is None else dict(given)
    known = [field.name for field in fields(kind)]
    for option in options:
        if option not in known:
            raise InputError(f"{name} has no option {option!r}; {nearest(option, known)}")
    return kind(**options)
