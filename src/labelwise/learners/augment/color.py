"""Operations on the colors of many images at once, each image by an amount of its own.

Images are (n, c, H, W) of levels: float32 in [0, 255], with 1 channel or with red, green and
blue. Amounts are (n,) and results levels again. The operations are those of Pillow's `ImageOps`
and `ImageEnhance`, without their rounding to whole levels where that is no part of the operation.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
"""Share of red, green and blue in the lightness of a pixel (ITU-R BT.601)."""


def luma(images: Tensor) -> Tensor:
    """Lightness of every pixel, (n, 1, H, W); one channel is its own."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.split(1, 1)
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def mean_luma(images: Tensor) -> Tensor:
    """Mean lightness of each image, (n, 1, 1, 1).

    Summed in float64: in float32 it would depend, in its last bits, on how many images there are.
    """
    mean = luma(images).mean((2, 3), keepdim=True, dtype=torch.float64)
    return mean.to(images.dtype)


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """``factor`` of the image and the rest of another: 0 is the other, 1 the image, 2 beyond it.

    >>> image = torch.tensor([100.0, 20.0]).reshape(1, 1, 1, 2)
    >>> blend(image, torch.tensor(60.0), torch.tensor([1.5])).flatten()
    tensor([120.,   0.])
    """
    share = _column(factor)
    return (share * images + (1 - share) * other).clamp(0, 255)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with black."""
    return (_column(factor) * images).clamp(0, 255)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's mean lightness."""
    return blend(images, mean_luma(images), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with the lightness of each pixel."""
    return blend(images, luma(images), factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blend with a mean over 3x3 pixels in which the center counts five times.

    The outermost pixels stay as they are; so do images of less than 3 pixels.
    """
    if min(images.shape[2:]) < 3:
        return images
    down = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    total = down[..., :-2] + down[..., 1:-1] + down[..., 2:]
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = (total + 4 * images[:, :, 1:-1, 1:-1]) / 13
    return blend(images, smooth, factor)


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """The negative of every level that is not below the threshold."""
    return torch.where(images < _column(threshold), images, 255 - images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Whole levels with all but their first ``bits`` bits set to 0; ``bits`` is in 0..8."""
    step = torch.exp2(8 - _column(bits))
    return (images.round() / step).floor() * step


def autocontrast(images: Tensor) -> Tensor:
    """Every channel stretched to span 0 to 255; one of a single level stays as it is."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    width = high - low
    stretched = (images - low) * 255 / torch.where(width > 0, width, 1)
    return torch.where(width > 0, stretched.clamp(0, 255), images)


def equalize(images: Tensor) -> Tensor:
    """Every channel's whole levels replaced so that all are about equally frequent.

    With B pixels below a level and all but those of the highest level counted as T, the new
    level is (T // 255 // 2 + B) // (T // 255). Where T is less than 255 nothing changes.

    Source:
        Pillow, `ImageOps.equalize`.
    """
    count, channels, height, width = images.shape
    levels = images.round().long().reshape(count, channels, height * width)
    counts = torch.zeros(count, channels, 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    highest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (height * width - highest) // 255
    below = counts.cumsum(2) - counts
    safe = step.clamp(min=1)
    table = ((safe // 2 + below) // safe).clamp(max=255)
    changed = table.gather(2, levels).to(images.dtype).reshape(images.shape)
    return torch.where(step[..., None] > 0, changed, images)


def shift_hue(images: Tensor, turn: Tensor) -> Tensor:
    """Hues turned by a part of the circle, in [-0.5, 0.5]; lightness and saturation (HSV) stay.

    One channel has no hue and is returned as it is.
    """
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    high, low = images.amax(1), images.amin(1)
    width = high - low
    safe = torch.where(width > 0, width, 1)
    sixth = torch.where(
        red == high,
        (green - blue) / safe,
        torch.where(green == high, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    hue = sixth[:, None] + 6 * _column(turn)
    places = torch.tensor([5.0, 3.0, 1.0], device=images.device).reshape(1, 3, 1, 1)
    at = (places + hue) % 6
    return high[:, None] - width[:, None] * torch.minimum(at, 4 - at).clamp(0, 1)


def _column(amount: Tensor) -> Tensor:
    """(n,) as (n, 1, 1, 1)."""
    return amount.reshape(-1, 1, 1, 1)
