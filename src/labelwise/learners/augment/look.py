"""Images of either layout and any type, taken to levels, changed, and taken back."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from labelwise.errors import InputError


class Change(Protocol):
    """A random change of images in two parts: what is drawn, and what it does."""

    def draw(self, count: int, generator: torch.Generator) -> Any:
        """Tensors of ``count`` rows each, on the CPU, that decide everything."""

    def apply(self, levels: Tensor, draws: Any) -> Tensor:
        """(n, c, H, W) float32 levels in [0, 255] changed, each image by its row of the draws."""


class ImageLook:
    """A random change of minibatches of images, as `Looks` holds it.

    Whole minibatches are changed on the device they are on. What is random is drawn on the CPU
    beforehand, so it does not depend on the device, and an image's result does not depend on the
    others in its minibatch.

    Args:
        change: what is done.
        channels_first: whether images are (channels, H, W) and not (H, W, channels).
        before: another change of the raw images, done first.

    Raises:
        InputError: when called with whole numbers that are not uint8, or with fractions
            outside of [0, 1].
    """

    def __init__(self, change: Change, channels_first: bool, before: Any = None) -> None:
        self.change = change
        self.channels_first = channels_first
        self.before = before

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """(n, ...) uint8, or fractions in [0, 1], to as many of the same shape and type."""
        if self.before is not None:
            images = self.before(images, generator)
        draws = self.change.draw(len(images), generator)
        # An objective may ask for a look inside autocast, which would blur products to bf16.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            levels = self.change.apply(to_levels(images, self.channels_first), draws)
            return from_levels(levels, images.dtype, self.channels_first)


def to_levels(images: Tensor, channels_first: bool) -> Tensor:
    """Images as (n, c, H, W) float32 in [0, 255].

    Raises:
        InputError: whole numbers that are not uint8, or fractions outside of [0, 1].
    """
    if not channels_first:
        images = images.permute(0, 3, 1, 2)
    if images.dtype == torch.uint8:
        return images.float()
    if not images.is_floating_point():
        raise InputError(f"colors are changed in images of uint8 or fractions, got {images.dtype}")
    if images.numel():
        low, high = (float(value) for value in images.aminmax())
        if not (low >= 0 and high <= 1):
            raise InputError(
                f"colors are changed in fractions between 0 and 1, got {low:g} to {high:g}; keep "
                f"images as uint8, or divide them by their largest level"
            )
    return images.float() * 255


def from_levels(levels: Tensor, dtype: torch.dtype, channels_first: bool) -> Tensor:
    """The images of `to_levels` back in their type, uint8 rounded, and layout."""
    if dtype == torch.uint8:
        images = levels.round().clamp(0, 255).to(dtype)
    else:
        images = (levels / 255).clamp(0, 1).to(dtype)
    return images if channels_first else images.permute(0, 2, 3, 1)


def share(name: str, value: float) -> None:
    """Refuse what is no probability.

    Raises:
        InputError: a value outside of [0, 1]; the message names it.
    """
    if not 0 <= value <= 1:
        raise InputError(f"{name} must be in [0, 1], got {value!r}")
