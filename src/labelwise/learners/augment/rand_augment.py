"""RandAugment with cutout, as FixMatch uses it: the strong look at an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.learners.augment import color
from labelwise.learners.augment.look import share
from labelwise.learners.augment.space import rotation, warp

OPERATIONS = (
    "identity",
    "autocontrast",
    "equalize",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "rotate",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
"""The 14 of FixMatch; the last five move pixels and are done together."""

MOVES = OPERATIONS.index("rotate")

GRAY = 127.5
"""Level of what comes from outside of an image, and of cut-out pixels."""

Amount = Callable[[Tensor, Tensor], Tensor]

COLORS: tuple[Amount, ...] = (
    lambda images, amount: images,
    lambda images, amount: color.autocontrast(images),
    lambda images, amount: color.equalize(images),
    color.brightness,
    color.saturation,
    color.contrast,
    color.sharpness,
    color.posterize,
    color.solarize,
)


class Drawn(NamedTuple):
    """What decides a strong look, a row per image.

    Attributes:
        operation: (n, k) int64, positions in `OPERATIONS`.
        level: (n, k) int64, 1 to 9.
        sign: (n, k) float32, 1 or -1, for moves.
        center: (n, 2) float32 in [0, 1): where the cut-out square is, down and across.
    """

    operation: Tensor
    level: Tensor
    sign: Tensor
    center: Tensor


@dataclass(frozen=True)
class RandAugment:
    """``operations`` of 14 at random, one after the other, then a gray square.

    Args:
        operations: how many each image draws, with replacement.
        probability: that a drawn operation is done.
        ranges: how far levels 1 to 9 go. ``"code"``: enhancements by factors of 0.28 to 1.72,
            posterizing to 4 down to 1 bits. ``"paper"``: factors of 0.14 to 0.86, 4 to 7 bits,
            and translations by 3 and not 3.125 hundredths of the side per level.
        cutout: side of the square, as a share of the image's shorter side; 0 for none. Its
            center is any pixel, and what is outside of the image is lost.

    Color operations change the first three channels of four. On one channel ``color`` does
    nothing.

    Raises:
        InputError: an option out of range.

    Source:
        Sohn et al., "FixMatch", NeurIPS 2020, table 12 and section D, after Cubuk et al.,
        "RandAugment", 2020. The authors' results were made with ranges other than the table's:
        those are the default. In their code what an operation brings in from outside is gray in
        the end unless a later one reads it as black; here it is gray at once.
    """

    operations: int = 2
    probability: float = 0.5
    ranges: str = "code"
    cutout: float = 0.5

    def __post_init__(self) -> None:
        if self.operations < 0:
            raise InputError(f"operations must be at least 0, got {self.operations}")
        if self.ranges not in ("code", "paper"):
            raise InputError(f"ranges must be 'code' or 'paper', got {self.ranges!r}")
        share("probability", self.probability)
        share("cutout", self.cutout)

    def signature(self) -> dict[str, Any]:
        """Every option."""
        return asdict(self)

    def draw(self, count: int, generator: torch.Generator) -> Drawn:
        """What is random in the looks at ``count`` images."""
        shape = (count, self.operations)
        operation = torch.randint(len(OPERATIONS), shape, generator=generator)
        level = torch.randint(1, 10, shape, generator=generator)
        done = torch.rand(shape, generator=generator) < self.probability
        sign = 1.0 - 2.0 * torch.randint(2, shape, generator=generator)
        center = torch.rand((count, 2), generator=generator)
        return Drawn(torch.where(done, operation, 0), level, sign, center)

    def apply(self, levels: Tensor, draws: Drawn) -> Tensor:
        """Change (n, c, H, W) levels, each image by its row of the draws."""
        size = (levels.shape[2], levels.shape[3])
        place = torch.arange(len(levels))
        for number in range(self.operations):
            operation, level = draws.operation[place, number], draws.level[place, number]
            order = operation.argsort(stable=True)
            place, operation, level = place[order], operation[order], level[order]
            amount = self._amounts(operation, level)
            maps = self._maps(operation, level, draws.sign[place, number], size)
            kinds = operation.clamp(max=MOVES)
            counts = kinds.bincount(minlength=MOVES + 1).tolist()
            levels = levels[order.to(levels.device)]
            levels = _each(levels, counts, amount.to(levels.device), maps.to(levels.device))
        levels = levels[place.argsort().to(levels.device)] if self.operations else levels
        return self._cut(levels, draws.center)

    def _amounts(self, operation: Tensor, level: Tensor) -> Tensor:
        """(n,) float32: what the color operation is given, in its own unit."""
        code = self.ranges == "code"
        factor = 0.1 + 0.18 * level if code else 0.05 + 0.09 * level
        bits = 4 - level * 4 // 10 if code else 4 + level * 4 // 10
        amount = torch.where(operation == OPERATIONS.index("posterize"), bits, factor)
        threshold = 256 - level * 256 // 10
        return torch.where(operation == OPERATIONS.index("solarize"), threshold, amount).float()

    def _maps(
        self, operation: Tensor, level: Tensor, sign: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """(m, 6) the affine maps of those images that are moved, which come last."""
        moved = operation >= MOVES
        kind, level, sign = operation[moved] - MOVES, level[moved], sign[moved]
        maps = torch.tensor([1.0, 0, 0, 0, 1, 0]).repeat(len(kind), 1)
        turned = kind == 0
        maps[turned] = rotation(sign[turned] * 3 * level[turned], *size)
        shear = sign * level * 0.03
        per_level = (10, 320) if self.ranges == "code" else (3, 100)
        down, across = (sign * (level * side * per_level[0] // (per_level[1])) for side in size)
        for move, at, amount in ((1, 1, shear), (2, 3, shear), (3, 2, across), (4, 5, down)):
            maps[kind == move, at] = amount[kind == move]
        return maps

    def _cut(self, levels: Tensor, center: Tensor) -> Tensor:
        """A gray square in each image."""
        height, width = levels.shape[2:]
        half = int(self.cutout * min(height, width)) // 2
        if half == 0:
            return levels
        row, column = (center * torch.tensor([height, width])).long().to(levels.device).unbind(1)
        down, across = torch.arange(height, device=levels.device), torch.arange(width)
        across = across.to(levels.device)
        rows = (down >= row[:, None] - half) & (down < row[:, None] + half)
        columns = (across >= column[:, None] - half) & (across < column[:, None] + half)
        return torch.where((rows[:, :, None] & columns[:, None])[:, None], GRAY, levels)


def _each(levels: Tensor, counts: list[int], amount: Tensor, maps: Tensor) -> Tensor:
    """Images sorted by operation, each group changed at once; moves are the last group."""
    done = []
    groups = zip(COLORS, levels.split(counts), amount.split(counts))
    for operation, images, amounts in groups:
        if len(images):
            colors, rest = images[:, :3], images[:, 3:]
            done.append(torch.cat([operation(colors, amounts), rest], 1))
    if len(maps):
        done.append(warp(levels[-len(maps) :], maps, GRAY))
    return torch.cat(done) if done else levels
