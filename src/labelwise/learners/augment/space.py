"""Where the pixels of many images come from: affine maps, crops, blur; each image by its own.

Images are (n, c, H, W) of floating-point levels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def warp(images: Tensor, maps: Tensor, fill: float) -> Tensor:
    """Each pixel from the one that an affine map of its center falls in.

    Args:
        images: (n, c, H, W).
        maps: (n, 6), rows (a, b, c, d, e, f): the pixel at column x and row y is fetched from
            (a (x + 1/2) + b (y + 1/2) + c, d (x + 1/2) + e (y + 1/2) + f), in pixels from the
            upper left corner: Pillow's `Image.transform` with AFFINE and NEAREST.
        fill: level of what comes from outside.
    """
    count, channels, height, width = images.shape
    across = torch.arange(width, device=images.device) + 0.5
    down = (torch.arange(height, device=images.device) + 0.5)[:, None]
    a, b, c, d, e, f = maps.reshape(count, 6, 1, 1).unbind(1)
    column = (a * across + b * down + c).floor().long()
    row = (d * across + e * down + f).floor().long()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    flat = images.reshape(count, channels, height * width)
    found = flat.gather(2, place.reshape(count, 1, -1).expand(-1, channels, -1))
    return torch.where(inside[:, None], found.reshape(images.shape), fill)


def rotation(degrees: Tensor, height: int, width: int) -> Tensor:
    """(n, 6) maps that turn images counterclockwise about their center."""
    angle = degrees.double().deg2rad()
    cos, sin, x, y = angle.cos(), angle.sin(), width / 2, height / 2
    rows = [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y]
    return torch.stack(rows, 1).float()


def resize_crops(images: Tensor, boxes: Tensor, interpolation: str) -> Tensor:
    """A box of each image, scaled up to the size of the whole.

    As in Pillow, only pixels inside the box are looked at: the weights of others are given to
    them in proportion.

    Args:
        images: (n, c, H, W) levels in [0, 255].
        boxes: (n, 4) of top, left, height and width: whole pixels, inside the image.
        interpolation: ``"bilinear"`` or ``"bicubic"`` (Keys' kernel of a = -1/2).
    """
    top, left, tall, wide = boxes.unbind(1)
    rows = _weights(top, tall, images.shape[2], interpolation)
    columns = _weights(left, wide, images.shape[3], interpolation)
    return _both(images, rows, columns).clamp(0, 255)


def gaussian_blur(images: Tensor, sigmas: Tensor, largest: float) -> Tensor:
    """Gaussian mean of neighbors; the image goes on mirrored about its outermost pixels.

    Args:
        images: (n, c, H, W).
        sigmas: (n,) in pixels; positive, at most ``largest``.
        largest: decides how many neighbors are looked at: those within 4 of it.
    """
    height, width = images.shape[2:]
    reach = int(4 * largest + 0.5)
    offsets = torch.arange(-reach, reach + 1, device=images.device)
    kernel = torch.exp(-0.5 * (offsets / sigmas[:, None]) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    return _both(images, _mirrored(kernel, height), _mirrored(kernel, width))


def _weights(start: Tensor, size: Tensor, length: int, interpolation: str) -> Tensor:
    """(n, length, length) weights of an axis's pixels in those of a stretch of it, scaled up."""
    places = torch.arange(length, device=start.device)
    centers = start[:, None] + (places + 0.5) * size[:, None] / length
    away = (places + 0.5 - centers[..., None]).abs()
    if interpolation == "bilinear":
        weights = (1 - away).clamp(min=0)
    else:
        near = (1.5 * away - 2.5) * away**2 + 1
        far = ((-0.5 * away + 2.5) * away - 4) * away + 2
        weights = torch.where(away < 1, near, torch.where(away < 2, far, 0.0))
    inside = (places >= start[:, None]) & (places < (start + size)[:, None])
    weights = weights * inside[:, None]
    return weights / weights.sum(2, keepdim=True)


def _mirrored(kernel: Tensor, length: int) -> Tensor:
    """(n, length, length) weights of a mean over neighbors, from (n, 2 reach + 1)."""
    reach, places = kernel.shape[1] // 2, torch.arange(length, device=kernel.device)
    period = max(1, 2 * (length - 1))
    offsets = torch.arange(-reach, reach + 1, device=kernel.device)
    source = (places[:, None] + offsets) % period
    source = torch.where(source < length, source, period - source)
    # A product and no scattered sum, whose order would differ from run to run on a GPU.
    chosen = (source[..., None] == places).to(kernel.dtype).permute(1, 0, 2)
    return (kernel @ chosen.reshape(kernel.shape[1], -1)).reshape(-1, length, length)


def _both(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Weighted sums along the height (n, H, H), then the width (n, W, W)."""
    count, channels, height, width = images.shape
    by_row = rows @ images.permute(0, 2, 3, 1).reshape(count, height, width * channels)
    by_column = by_row.reshape(count, height, width, channels).permute(0, 1, 3, 2)
    done = by_column.reshape(count, height * channels, width) @ columns.transpose(1, 2)
    return done.reshape(count, height, channels, width).permute(0, 2, 1, 3)
