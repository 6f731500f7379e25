"""Distorted views of images, as self-supervision compares them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.learners.augment.color import blend, luma, mean_luma, shift_hue, solarize
from labelwise.learners.augment.look import share
from labelwise.learners.augment.space import gaussian_blur, resize_crops

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

TRIES = 10
"""Boxes that are drawn for an image before it is taken whole."""


class Drawn(NamedTuple):
    """What decides a view, a row per image.

    Attributes:
        area: (n, 10) float32, share of the image's area, a column per try.
        ratio: (n, 10) float32, width by height.
        corner: (n, 2) float32 in [0, 1), where the box is among all places it fits.
        order: (n, 4) int64, the order of `BRIGHTNESS`, `CONTRAST`, `SATURATION` and `HUE`.
        factor: (n, 4) float32, three factors and a part of the circle of hues.
        chance: (n, 5) float32 in [0, 1), below which jitter, gray, blur, solarizing and
            flipping are done.
        sigma: (n,) float32, of the blur, in pixels.
    """

    area: Tensor
    ratio: Tensor
    corner: Tensor
    order: Tensor
    factor: Tensor
    chance: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class Distort:
    """Random resized crop, color jitter, gray, blur, solarize, flip.

    Args:
        crop: smallest and largest share of the area that is kept.
        ratio: smallest and largest width by height of a crop; its logarithm is uniform.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        jitter: probability that colors are changed: factors of brightness, contrast and
            saturation within 1 plus or minus their strength, the hue by up to ``hue`` of the
            circle, the four in random order.
        brightness, contrast, saturation: strengths, at least 0.
        hue: in [0, 0.5].
        gray: probability that colors are taken away.
        blur: probability of a Gaussian blur, of ``sigma`` pixels, from and to.
        solarize: probability that levels from 128 on are turned negative.
        flip: probability of mirroring left and right.

    Color operations change the first three channels of four; on one channel, those of
    saturation, hue and gray do nothing.

    Raises:
        InputError: an option out of range.

    Source:
        The defaults are solo-learn's on CIFAR-10 for MoCo, BYOL, SimSiam, Barlow Twins and DINO
        (da Costa et al., JMLR 2022). There SimCLR takes strengths of 0.8, 0.8, 0.8 and 0.2,
        VICReg crops from 0.2 on, and asymmetric sets solarize the second of two views with
        probability 0.2, in the mean over views ``solarize=0.1`` here. Crops: Szegedy et al.,
        2015; jitter: Chen et al., "SimCLR", ICML 2020; solarizing: Grill et al., "BYOL", 2020.
    """

    crop: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    gray: float = 0.2
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    flip: float = 0.5

    def __post_init__(self) -> None:
        for name in ("crop", "ratio", "sigma"):
            low, high = getattr(self, name)
            object.__setattr__(self, name, (float(low), float(high)))
            if not 0 < low <= high < math.inf:
                raise InputError(f"{name} must be two positive numbers in order, got {low}, {high}")
        if self.crop[1] > 1:
            raise InputError(f"crop must be at most 1, the whole area, got {self.crop[1]}")
        if self.interpolation not in ("bicubic", "bilinear"):
            raise InputError(
                f"interpolation must be 'bicubic' or 'bilinear', got {self.interpolation!r}"
            )
        for name in ("jitter", "gray", "blur", "solarize", "flip"):
            share(name, getattr(self, name))
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"{name} must be at least 0, got {getattr(self, name)!r}")
        if not 0 <= self.hue <= 0.5:
            raise InputError(f"hue must be in [0, 0.5], got {self.hue!r}")

    def signature(self) -> dict[str, Any]:
        """Every option."""
        pairs = {name: list(getattr(self, name)) for name in ("crop", "ratio", "sigma")}
        return asdict(self) | pairs

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """What is random in the views of ``count`` images."""

        def uniform(low: float, high: float, *shape: int) -> Tensor:
            return low + (high - low) * torch.rand((count, *shape), generator=generator)

        area = uniform(*self.crop, TRIES)
        ratio = uniform(math.log(self.ratio[0]), math.log(self.ratio[1]), TRIES).exp()
        corner = uniform(0, 1, 2)
        order = uniform(0, 1, 4).argsort(1)
        strengths = (self.brightness, self.contrast, self.saturation)
        factors = [uniform(max(0.0, 1 - s), 1 + s) for s in strengths]
        turn = uniform(-self.hue, self.hue)
        chance = uniform(0, 1, 5)
        sigma = uniform(*self.sigma)
        return Drawn(area, ratio, corner, order, torch.stack([*factors, turn], 1), chance, sigma)

    def apply(self, levels: Tensor, draws: Drawn) -> Tensor:
        """Change (n, c, H, W) levels, each image by its row of the draws."""
        device = levels.device
        chances = torch.tensor([self.jitter, self.gray, self.blur, self.solarize, self.flip])
        jittered, grayed, blurred, negative, mirrored = (draws.chance < chances).unbind(1)
        boxes = crop_boxes(draws, levels.shape[2], levels.shape[3], self.ratio)
        levels = resize_crops(levels, boxes.to(device), self.interpolation)
        colors, rest = levels[:, :3], levels[:, 3:]
        colors = _jitter(colors, draws.order, draws.factor, jittered)
        colors = torch.where(_mask(grayed, device), luma(colors), colors)
        levels = torch.cat([colors, rest], 1) if rest.shape[1] else colors
        at = blurred.nonzero()[:, 0]
        if len(at):
            sigma, at = draws.sigma[at].to(device), at.to(device)
            soft = gaussian_blur(levels[at], sigma, self.sigma[1])
            levels = levels.index_copy(0, at, soft)
        if bool(negative.any()):
            colors, rest = levels[:, :3], levels[:, 3:]
            turned = solarize(colors, torch.full((1,), 128.0, device=device))
            colors = torch.where(_mask(negative, device), turned, colors)
            levels = torch.cat([colors, rest], 1) if rest.shape[1] else colors
        return torch.where(_mask(mirrored, device), levels.flip(3), levels)


def crop_boxes(draws: Drawn, height: int, width: int, ratio: tuple[float, float]) -> Tensor:
    """(n, 4) int64 of top, left, height and width of each crop, inside the image.

    The first try that fits counts. Where none does, it is the largest box around the center
    whose width by height is within ``ratio``.
    """
    area = draws.area * height * width
    wide = (area * draws.ratio).sqrt().round().long().clamp(min=1)
    tall = (area / draws.ratio).sqrt().round().long().clamp(min=1)
    fits = (wide <= width) & (tall <= height)
    first = fits.to(torch.int8).argmax(1, keepdim=True)
    wide, tall = wide.gather(1, first)[:, 0], tall.gather(1, first)[:, 0]
    some = fits.any(1)
    tall = torch.where(some, tall, max(1, min(height, round(width / ratio[0]))))
    wide = torch.where(some, wide, max(1, min(width, round(height * ratio[1]))))
    room = torch.stack([height - tall, width - wide], 1)
    # A draw next to 1 may round to 1 in the product.
    corner = torch.minimum((draws.corner * (room + 1)).long(), room)
    corner = torch.where(some[:, None], corner, room // 2)
    return torch.cat([corner, tall[:, None], wide[:, None]], 1)


def _jitter(colors: Tensor, order: Tensor, factor: Tensor, jittered: Tensor) -> Tensor:
    """Brightness, contrast, saturation and hue, each image's in its own order.

    In each of the four steps three of the operations are one blend with different images, done
    for all at once; the fourth is done to those whose turn it is.
    """
    device = colors.device
    for step in range(4):
        kind = order[:, step]
        amount = factor.gather(1, kind[:, None])[:, 0]
        blends = torch.where(jittered & (kind != HUE), amount, 1.0).to(device)
        lightness = luma(colors)
        other = torch.where(_mask(kind == CONTRAST, device), mean_luma(colors), lightness)
        other = torch.where(_mask(kind == BRIGHTNESS, device), 0.0, other)
        colors = blend(colors, other, blends)
        at = (jittered & (kind == HUE)).nonzero()[:, 0]
        if len(at) and colors.shape[1] == 3:
            turn, at = amount[at].to(device), at.to(device)
            colors = colors.index_copy(0, at, shift_hue(colors[at], turn))
    return colors


def _mask(chosen: Tensor, device: torch.device) -> Tensor:
    return chosen.to(device).reshape(-1, 1, 1, 1)
