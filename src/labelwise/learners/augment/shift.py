"""Shifts and flips of whole minibatches: the augmentation that leaves a class beyond doubt."""

from __future__ import annotations

import torch
from torch import Tensor


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
