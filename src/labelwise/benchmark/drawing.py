"""How a picture of ours looks: colors, marks, labels at line ends, PNG files and inline SVG.

Everything is matplotlib's object-oriented interface: a figure belongs to whoever made it, and
nothing here touches pyplot's global state.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike

INK = "#1c2430"
MUTED = "#66707c"
GRID = "#e3e7eb"
PAPER = "#ffffff"
CELL_DARK, CELL_LIGHT = "#10161d", "#fefefe"
"""Text on tinted cells, which are the same on a light and on a dark page."""

RANDOM = "#7d8691"
SERIES = ("#0072b2", "#d55e00", "#00876c", "#a8448f", "#4fa3d9", "#b98900", "#7a4b2a")
"""Seven hues after Okabe & Ito, told apart under the common color blindnesses and at least
about 3:1 against white; the page maps each to a lighter one on a dark ground."""

MARKS = ("s", "^", "D", "v", "h", "p", "d")
DASHES = ("solid", (0, (5, 1.6)), (0, (1.2, 1.4)))
FONT_SIZE = 9.0
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


@dataclass(frozen=True)
class Look:
    """How one strategy is drawn in every picture of a report."""

    color: str
    mark: str
    dash: Any
    variable: str
    """The page's CSS variable of the color."""


PLAIN = Look(MUTED, "o", "solid", "--muted")
"""Of a strategy without a line of its own."""


def looks(strategies: Sequence[str]) -> dict[str, Look]:
    """A look per strategy: random in gray, the others by their place in the plan.

    Past seven strategies the hues come round again with another dash, so no two look alike
    up to twenty-one.

    >>> looks(["random", "margin"])["margin"].color
    '#0072b2'
    """
    assigned: dict[str, Look] = {}
    others = itertools.count()
    for name in strategies:
        if name == "random":
            assigned[name] = Look(RANDOM, "o", "solid", "--random")
            continue
        place = next(others)
        turn, hue = divmod(place, len(SERIES))
        mark, dash = MARKS[(hue + turn) % len(MARKS)], DASHES[turn % len(DASHES)]
        assigned[name] = Look(SERIES[hue], mark, dash, f"--series-{hue + 1}")
    return assigned


def css_variables() -> dict[str, str]:
    """Every color a picture may hold, mapped to the page's CSS variable for it."""
    series = {color: f"--series-{number}" for number, color in enumerate(SERIES, start=1)}
    return {
        INK: "--ink",
        MUTED: "--muted",
        GRID: "--grid",
        PAPER: "--paper",
        RANDOM: "--random",
        **series,
    }


def new_figure(width: float, height: float, columns: int = 1, **subplots: Any) -> tuple[Any, Any]:
    """A figure of ``width`` x ``height`` inches with one row of quiet axes.

    Returns:
        The figure and a (columns,) object array of its axes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, squeeze=False, **subplots)[0]
    for axis in axes:
        quiet(axis)
    return figure, axes


def quiet(axis: Any) -> None:
    """Only what is needed to read values: a faint grid, no box, no tick marks."""
    axis.set_facecolor("none")
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
    axis.spines["bottom"].set_color(MUTED)
    axis.spines["bottom"].set_linewidth(0.8)
    axis.tick_params(colors=MUTED, labelsize=FONT_SIZE - 0.5, length=0, pad=5)
    axis.grid(axis="y", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)


def title(axis: Any, text: str, below: str = "") -> None:
    """A left-aligned heading over one axes, with the unit in a muted second line."""
    axis.set_title(
        drawable(text),
        loc="left",
        fontsize=FONT_SIZE + 1.5,
        fontweight="bold",
        color=INK,
        pad=22 if below else 9,
        parse_math=False,
    )
    if below:
        axis.annotate(
            drawable(below),
            (0, 1),
            xytext=(0, 8),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=FONT_SIZE - 0.3,
            color=MUTED,
            parse_math=False,
        )


def label_line_ends(axis: Any, x: float, ends: Mapping[str, tuple[float, Look]]) -> None:
    """Name each line at its right end, moved apart where the ends are too close to read.

    Args:
        axis: its limits must be final, distances are measured in its height.
        x: where the lines end, in data units.
        ends: name -> (height of the end in data units, look).
    """
    if not ends:
        return
    from matplotlib.transforms import offset_copy

    low, high = axis.get_ylim()
    beside = offset_copy(axis.transData, axis.figure, x=16, y=0, units="points")
    height = axis.get_position().height * axis.figure.get_figheight() * 72
    gap = (FONT_SIZE + 3.2) / height * (high - low)
    names = list(ends)
    places = spread([ends[name][0] for name in names], gap, low, high)
    for name, place in zip(names, places, strict=True):
        value, look = ends[name]
        axis.annotate(
            drawable(name, NAME_LETTERS),
            xy=(x, value),
            xytext=(x, place),
            textcoords=beside,
            ha="left",
            va="center",
            fontsize=FONT_SIZE,
            color=look.color,
            fontweight="bold",
            annotation_clip=False,
            parse_math=False,
            arrowprops={
                "arrowstyle": "-",
                "color": look.color,
                "linewidth": 0.7,
                "alpha": 0.6,
                "shrinkA": 2,
                "shrinkB": 5,
                "relpos": (0, 0.5),
            },
        )


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels near ``values``: in the same order, ``gap`` apart, within low..high.

    Overlapping labels form a block centered on the mean of what they label; where there is no
    room for all of them the block runs over the top rather than overlap.

    >>> spread([0.0, 0.1, 5.0], gap=1.0, low=-1.0, high=6.0)
    [-0.45, 0.55, 5.0]
    """
    order = np.argsort(values, kind="stable")
    blocks: list[tuple[float, list[int]]] = []  # (center, members from low to high)
    for item in order:
        center, members = float(values[item]), [int(item)]
        center = _inside(center, len(members), gap, low, high)
        while blocks and center - blocks[-1][0] < gap * (len(members) + len(blocks[-1][1])) / 2:
            members = blocks.pop()[1] + members
            mean = float(np.mean([values[member] for member in members]))
            center = _inside(mean, len(members), gap, low, high)
        blocks.append((center, members))
    places = [0.0] * len(values)
    for center, members in blocks:
        for step, member in enumerate(members):
            places[member] = round(center + gap * (step - (len(members) - 1) / 2), 12)
    return places


def _inside(center: float, count: int, gap: float, low: float, high: float) -> float:
    half = gap * (count - 1) / 2
    return max(min(center, high - half), low + half)


def mix(color: str, share: float, ground: str = PAPER) -> str:
    """``share`` of a color on a ground, as hex: a tint that needs no transparency."""
    front, back = (
        np.array([int(text[start : start + 2], 16) for start in (1, 3, 5)])
        for text in (color, ground)
    )
    blended = np.rint(share * front + (1 - share) * back).astype(int)
    return "#" + "".join(f"{value:02x}" for value in blended)


NAME_LETTERS = 28
"""So long a strategy's name is in a picture; a longer one would leave no room for the lines."""


def drawable(text: str, longest: int = 0) -> str:
    """Text that the bundled font can draw: what it lacks becomes the replacement sign.

    The page shows every name in full; a picture may also shorten it to ``longest`` characters.
    """
    known = _drawable_letters()
    if longest and len(text) > longest:
        text = text[: longest - 1] + "…"
    return "".join(letter if ord(letter) in known else "�" for letter in text)


@cache
def _drawable_letters() -> frozenset[int]:
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())


def settle(figure: Any) -> Any:
    """Compute the layout once and for all: every format then shows the same, in half the time."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    return figure


def draw_grid(axis: Any, values: ArrayLike) -> None:
    """A matrix of shares in 0..1 as tinted cells, darker = more."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = LinearSegmentedColormap.from_list("shares", [mix(SERIES[0], 0.04), SERIES[0]])
    axis.pcolormesh(np.asarray(values), cmap=shades, vmin=0, vmax=1, edgecolors=PAPER, linewidth=2)
    axis.invert_yaxis()
    axis.grid(visible=False)


def save_png(figure: Any, file: Path | IO[bytes], dpi: int = 160) -> None:
    """Write a figure to a PNG file, the same bytes for the same figure and library version."""
    figure.savefig(file, format="png", dpi=dpi, facecolor=PAPER, metadata={"Software": None})


def inline_svg(figure: Any, name: str, alt: str) -> str:
    """The figure as one ``<svg>`` element for a page: real text, the page's colors, no script.

    Args:
        figure: a matplotlib figure.
        name: prefixes every id, so that several pictures fit in one page.
        alt: what a screen reader says instead of the picture.
    """
    import matplotlib

    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    written = io.StringIO()
    # Text stays text: it can be selected and searched, and takes the page's font.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", facecolor="none", metadata=_NO_METADATA)
    root = ElementTree.fromstring(written.getvalue())
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    variables = css_variables()
    for element in root.iter():
        _rewrite(element, name, variables)
    for size in ("width", "height"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    root.set("class", "figure")
    return ElementTree.tostring(root, encoding="unicode")


_FONT = re.compile(r"font: ([^;]*?px)[^;]*")
_FAMILY = re.compile(r"font-family: [^;]*")
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def _rewrite(element: ElementTree.Element, name: str, variables: Mapping[str, str]) -> None:
    """Prefix ids and references, and let the page decide colors and fonts."""
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key in ("href", f"{{{_XLINK}}}href") and value.startswith("#"):
            element.set(key, f"#{name}-{value[1:]}")
        elif value.startswith("url(#"):
            element.set(key, f"url(#{name}-{value[5:]}")
    style = element.get("style")
    if style is None:
        return
    for color, variable in variables.items():
        style = style.replace(color, f"var({variable}, {color})")
    style = style.replace("url(#", f"url(#{name}-")
    style = _FAMILY.sub("font-family: var(--font, sans-serif)", style)
    element.set("style", _FONT.sub(r"font: \1 var(--font, sans-serif)", style))
