"""What each strategy picked first, to look at: images side by side, texts and rows as lists."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from labelwise.benchmark.drawing import FONT_SIZE, MUTED, Look, drawable, new_figure, settle, title
from labelwise.benchmark.results import Results

if TYPE_CHECKING:
    from labelwise.pools import Data

FIRST = {"image": 16, "text": 8, "table": 8, "ids": 16}
"""How many picks of a strategy are shown, by kind of item."""

THUMBNAIL = 96
"""Longest side of a shown image, in pixels; smaller images keep their own."""

PIXELATED = 48
"""Up to this size in pixels an image is enlarged pixel by pixel, not smoothed."""

COLUMNS = 8
LONGEST_TEXT = 240


@dataclass(frozen=True)
class Pick:
    """One picked item as shown.

    Attributes:
        item: its id.
        label: its class, or ``""`` where that is not known.
        image: RGB pixels of its thumbnail (h, w, 3), or None.
        source: the same as a data URI for the page, or ``""``.
        pixels: whether the image is so small that its pixels should be seen when enlarged.
        text: the item as text, or ``""``.
        values: (columns,) its values as text, for tables.
    """

    item: str
    label: str = ""
    image: NDArray[np.uint8] | None = None
    source: str = ""
    pixels: bool = False
    text: str = ""
    values: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sheet:
    """The first picks of every strategy, in one round of one seed.

    Attributes:
        kind: ``"image"``, ``"text"``, ``"table"``, or ``"ids"`` where only ids can be shown.
        seed, round: where the picks are from.
        columns: names of what ``Pick.values`` holds.
        picks: by strategy, in pick order.
    """

    kind: str
    seed: int
    round: int
    columns: list[str]
    picks: dict[str, list[Pick]]

    @property
    def labeled(self) -> bool:
        """Whether the class of any pick is known."""
        return any(pick.label for picks in self.picks.values() for pick in picks)


def first_picks(results: Results, data: Data | None) -> Sheet | None:
    """The first items that each strategy asked for after the initial set.

    Args:
        results: of a simulation.
        data: what it ran on, to show the items themselves; without it only ids are shown.

    Returns:
        The picks of round 1 of the first seed that has any, or None when no round has run.
    """
    for seed in results.plan.seeds:
        found = {
            name: ids
            for name in results.strategies
            if (ids := results.picks(name, seed=seed, round=1))
        }
        if found:
            break
    else:
        return None
    rows = {} if data is None else {item: row for row, item in enumerate(data.pool.ids)}
    if data is None or not all(item in rows for ids in found.values() for item in ids):
        shown_ids = {name: ids[: FIRST["ids"]] for name, ids in found.items()}
        picks = {name: [Pick(item) for item in ids] for name, ids in shown_ids.items()}
        return Sheet("ids", seed, 1, [], picks)
    kind = data.pool.kind if data.pool.kind in ("image", "text", "table") else "ids"
    columns: list[str] = []
    picks = {}
    for name, every in found.items():
        ids = every[: FIRST[kind]]
        chosen = [rows[item] for item in ids]
        items: list[Any] = [None] * len(ids) if kind == "ids" else data.pool.items(chosen)
        if kind == "table":
            columns = columns or list(items[0])[:COLUMNS]
        picks[name] = [
            _pick(item, _class_name(data, row), kind, shown, columns)
            for item, row, shown in zip(ids, chosen, items, strict=True)
        ]
    return Sheet(kind, seed, 1, columns, picks)


def contact_sheet(sheet: Sheet, looks: Mapping[str, Look]) -> Any:
    """One picture of every strategy's first picks, a row of images each with their classes.

    Args:
        sheet: of images.
        looks: by strategy.
    """
    names = list(sheet.picks)
    width = max(len(picks) for picks in sheet.picks.values())
    row = 1.32 if sheet.labeled else 1.08
    figure, (axis,) = new_figure(1.5 + 0.56 * width, 0.75 + 0.56 * row * len(names))
    axis.set(xlim=(-0.04, width), ylim=(row * len(names) - 0.1, -0.04), aspect="equal")
    axis.grid(visible=False)
    axis.spines["bottom"].set_visible(False)
    axis.xaxis.set_visible(False)
    axis.set_yticks([row * place + 0.46 for place in range(len(names))])
    ticks = axis.set_yticklabels([drawable(name, 22) for name in names], parse_math=False)
    for tick, name in zip(ticks, names, strict=True):
        tick.set(color=looks[name].color, fontweight="bold", fontsize=FONT_SIZE)
    for place, name in enumerate(names):
        for column, pick in enumerate(sheet.picks[name]):
            _draw_thumbnail(axis, pick, column, row * place)
    title(
        axis,
        "What each strategy picked first",
        f"the first {width} of round {sheet.round}, seed {sheet.seed}, in pick order",
    )
    # Images set the limits to their own extent.
    axis.set(xlim=(-0.04, width), ylim=(row * len(names) - 0.1, -0.04))
    return settle(figure)


def _draw_thumbnail(axis: Any, pick: Pick, column: int, top: float) -> None:
    if pick.image is None:
        return
    height, width = pick.image.shape[:2]
    side = 0.92
    half = np.array([width, height]) / max(width, height) * side / 2
    center = np.array([column + side / 2, top + side / 2])
    (left, upper), (right, lower) = center - half, center + half
    smooth = not pick.pixels
    axis.imshow(
        pick.image,
        extent=(left, right, lower, upper),
        interpolation="antialiased" if smooth else "nearest",
        aspect="equal",
    )
    if pick.label:
        axis.annotate(
            drawable(pick.label, 10), (column + side / 2, top + side), xytext=(0, -2),
            textcoords="offset points", ha="center", va="top", fontsize=FONT_SIZE - 2.8,
            color=MUTED, parse_math=False,
        )  # fmt: skip


def _pick(item: str, label: str, kind: str, shown: Any, columns: Sequence[str]) -> Pick:
    if kind == "image":
        image, source = _thumbnail(shown)
        return Pick(item, label, image, source, pixels=max(image.shape[:2]) <= PIXELATED)
    if kind == "text":
        text = " ".join(str(shown).split())
        short = text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
        return Pick(item, label, text=short)
    if kind == "table":
        return Pick(item, label, values=[_value(shown[column]) for column in columns])
    return Pick(item, label)


def _thumbnail(image: Any) -> tuple[NDArray[np.uint8], str]:
    """A small RGB copy of an image: its pixels, and itself as a data URI."""
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    # Photographs are smaller as JPEG; pixels that are shown enlarged must stay as they are.
    photograph = max(small.size) > PIXELATED
    written = io.BytesIO()
    if photograph:
        small.save(written, format="JPEG", quality=85)
    else:
        small.save(written, format="PNG", optimize=True)
    kind = "jpeg" if photograph else "png"
    encoded = base64.b64encode(written.getvalue()).decode("ascii")
    return np.asarray(small), f"data:image/{kind};base64,{encoded}"


def _class_name(data: Data, row: int) -> str:
    label = int(data.labels[row])
    return data.classes[label] if label >= 0 else ""


def _value(value: Any) -> str:
    """A table's value as a person writes it."""
    if value is None or value != value:  # NaN is missing too
        return "–"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"
