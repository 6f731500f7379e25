"""The pictures of a report, each a matplotlib figure made from curves and comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from labelwise.benchmark.curves import Curve
from labelwise.benchmark.drawing import (
    CELL_DARK,
    CELL_LIGHT,
    FONT_SIZE,
    GRID,
    INK,
    MUTED,
    NAME_LETTERS,
    PAPER,
    RANDOM,
    Look,
    draw_grid,
    drawable,
    label_line_ends,
    new_figure,
    settle,
    title,
)
from labelwise.benchmark.efficiency import Efficiency
from labelwise.benchmark.statistics import Comparison, Paired, paired

FEW_SEEDS, FEW_STRATEGIES = 5, 8
"""Up to this many seeds and strategies every single run is drawn too, as a thin line."""

Looks = Mapping[str, Look]


def learning_curves(curves: Mapping[str, Curve], looks: Looks, full: float | None) -> Any:
    """Accuracy against labels paid for: mean, a band of one standard deviation, thin seeds.

    Args:
        curves: of accuracy in 0..1, by strategy.
        looks: by strategy.
        full: accuracy with every label of the pool, drawn as a line across; or None.
    """
    figure, (axis,) = new_figure(8.2, 4.6)
    for name, curve in curves.items():
        _draw_curve(axis, curve, looks[name], many=len(curves))
    if full is not None:
        axis.axhline(100 * full, color=INK, linewidth=1, dashes=(6, 3), zorder=1)
        axis.annotate(
            f"all labels of the pool: {100 * full:.1f}%",
            (0.01, 100 * full),
            xytext=(0, -4),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="top",
            fontsize=FONT_SIZE - 0.5,
            color=INK,
        )
    title(axis, "Learning curves", _spread_note(curves))
    _finish_curves(axis, curves, looks, scale=100)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    return settle(figure)


def advantage(curves: Mapping[str, Curve], looks: Looks, baseline: str) -> Any:
    """Accuracy minus the baseline's at the same labels, paired by seed, in points.

    The band is the pointwise 95% interval of the mean difference: to look at, not to test by.
    """
    figure, (axis,) = new_figure(8.2, 4.0)
    reference = curves[baseline]
    axis.axhline(0, color=RANDOM, linewidth=2.2, zorder=2)
    differences: dict[str, Curve] = {}
    for name, curve in curves.items():
        if name == baseline:
            continue
        points = _differences(curve, reference)
        values = np.array([[point.mean for point in points]])
        differences[name] = Curve(name, curve.labels[: len(points)], (0,), values)
        look, x = looks[name], differences[name].labels
        low = np.array([100 * point.low for point in points])
        high = np.array([100 * point.high for point in points])
        axis.fill_between(x, low, high, color=look.color, alpha=0.10, linewidth=0, zorder=1)
        _draw_mean(axis, x, 100 * values[0], look)
    title(
        axis,
        f"Better or worse than {baseline}, at the same labels",
        "points of accuracy, mean over paired seeds; band: 95% interval at each point alone",
    )
    everyone = {baseline: Curve(baseline, reference.labels, (0,), 0 * reference.values[:1])}
    _finish_curves(axis, everyone | differences, looks, scale=100)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:+g}" if value else "0")
    return settle(figure)


def dots(comparisons: Sequence[Comparison], looks: Looks, baseline: str) -> Any:
    """Final accuracy and area under the curve against the baseline: dots with intervals."""
    rows = [row for row in comparisons if row.final_difference is not None]
    figure, axes = new_figure(
        8.2, 1.35 + (0.34 if len(rows) <= 20 else 0.24) * len(rows), columns=2
    )
    panels = (
        ("Final accuracy", [row.final_difference for row in rows]),
        ("Area under the curve", [row.area_difference for row in rows]),
    )
    for axis, (heading, differences) in zip(axes, panels, strict=True):
        _dot_axis(axis, [row.strategy for row in rows], looks, named=axis is axes[0])
        for place, (row, difference) in enumerate(zip(rows, differences, strict=True)):
            _draw_dot(axis, place, difference, looks[row.strategy])
        note = f"points above {baseline}; bar: 95% interval, paired by seed"
        title(axis, heading, note if axis is axes[0] else " ")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:+g}" if value else "0")
    return settle(figure)


def label_savings(savings: Mapping[str, Mapping[str, Efficiency]], looks: Looks) -> Any:
    """Labels the baseline needs for one label of a strategy, to the same accuracy.

    Args:
        savings: what has to be reached -> strategy -> efficiency; a panel each.
        looks: by strategy.
    """
    names = list(next(iter(savings.values())))
    figure, axes = new_figure(8.2, 1.35 + 0.34 * len(names), columns=len(savings))
    for axis, (target, efficiencies) in zip(axes, savings.items(), strict=True):
        _dot_axis(axis, names, looks, named=axis is axes[0])
        axis.axvline(1, color=RANDOM, linewidth=2.2, zorder=2)
        left, right = _ratio_limits(efficiencies.values())
        axis.set_xlim(left, right)
        axis.locator_params(axis="x", nbins=5)
        for place, name in enumerate(names):
            _draw_saving(axis, place, efficiencies[name], looks[name], left, right)
        title(axis, target, "right of 1 saves labels; bar: 95% interval")
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g} ×")
    return settle(figure)


def class_balance(
    curves: Mapping[str, Curve],
    looks: Looks,
    shares: Mapping[str, NDArray[np.float64]],
    classes: Sequence[str],
) -> Any:
    """Balance of the picks of each round, and the share of each class among all picks.

    Args:
        curves: of class balance in 0..1, by strategy.
        looks: by strategy.
        shares: (C,) shares of the classes among all picks, by strategy, summing to 1.
        classes: C names.
    """
    grid = 2 <= len(classes) <= 40
    height = max(3.6, 1.4 + 0.3 * len(shares))
    if not grid:
        figure, (axis,) = new_figure(8.2, height)
        right = None
    else:
        figure, (axis, right) = new_figure(9.6, height, columns=2, width_ratios=(1, 1.15))
    for name, curve in curves.items():
        _draw_mean(axis, curve.labels, 100 * curve.mean(), looks[name])
    title(axis, "Class balance of the picks", "per round; 100%: every class equally often")
    _finish_curves(axis, curves, looks, scale=100)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}%")
    if right is not None:
        _share_grid(right, shares, classes)
    return settle(figure)


def seconds(times: Mapping[str, Mapping[str, float]], looks: Looks) -> Any:
    """Mean seconds a round, one panel a kind of work, one bar a strategy.

    Args:
        times: heading -> strategy -> mean seconds a round.
        looks: by strategy.
    """
    names = list(next(iter(times.values())))
    figure, axes = new_figure(8.2, 1.1 + 0.31 * len(names), columns=len(times))
    for axis, (heading, by_name) in zip(axes, times.items(), strict=True):
        _dot_axis(axis, names, looks, named=axis is axes[0])
        values = [by_name[name] for name in names]
        axis.barh(range(len(names)), values, height=0.62, color=[looks[n].color for n in names])
        axis.set_xlim(0, 1.28 * max([value for value in values if value > 0], default=1.0))
        for place, value in enumerate(values):
            axis.annotate(
                duration(value), (value, place), xytext=(4, 0), textcoords="offset points",
                va="center", fontsize=FONT_SIZE - 0.5, color=INK,
            )  # fmt: skip
        axis.xaxis.set_visible(False)
        axis.grid(visible=False)
        title(axis, heading, "mean seconds a round")
    return settle(figure)


def duration(value: float) -> str:
    """Seconds in the shortest honest form.

    >>> duration(0.00042), duration(0.31), duration(75), duration(7300)
    ('0.4 ms', '0.31 s', '1 min 15 s', '2 h 1 min')
    """
    if not np.isfinite(value):
        return "–"
    if value < 0.01:
        return f"{1000 * value:.1f} ms"
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _draw_curve(axis: Any, curve: Curve, look: Look, *, many: int) -> None:
    mean, spread = 100 * curve.mean(), 100 * curve.spread()
    if many <= FEW_STRATEGIES and 1 < len(curve.seeds) <= FEW_SEEDS:
        for line in curve.values:
            axis.plot(curve.labels, 100 * line, color=look.color, linewidth=0.6, alpha=0.30)
    axis.fill_between(
        curve.labels,
        mean - spread,
        mean + spread,
        color=look.color,
        alpha=0.14 if many < 5 else 0.07,  # many bands on top of each other turn to mud
        linewidth=0,
    )
    _draw_mean(axis, curve.labels, mean, look)


def _draw_mean(axis: Any, x: NDArray[np.float64], y: NDArray[np.float64], look: Look) -> None:
    axis.plot(
        x,
        y,
        color=look.color,
        linestyle=look.dash,
        linewidth=2.2 if look.variable == "--random" else 1.8,
        marker=look.mark,
        markersize=4.2,
        markeredgecolor=PAPER,
        markeredgewidth=0.7,
        zorder=3,
    )


def _finish_curves(axis: Any, curves: Mapping[str, Curve], looks: Looks, scale: float) -> None:
    """Axis of labels, then the names at the ends of the lines."""
    last = max(float(curve.labels[-1]) for curve in curves.values())
    axis.set_xlim(right=last)
    _tick_at_labels(axis, curves)
    axis.set_xlabel("labels paid for, the initial set included", fontsize=FONT_SIZE, color=MUTED)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axis.figure.draw_without_rendering()  # settles the limits and the height labels need
    axis.set_ylim(axis.get_ylim())
    ends: dict[str, tuple[float, Look]] = {}
    for name, curve in curves.items():
        known = scale * curve.mean()
        known = known[np.isfinite(known)]
        if len(known):
            ends[name] = (float(known[-1]), looks[name])
    label_line_ends(axis, last, ends)


def _tick_at_labels(axis: Any, curves: Mapping[str, Curve]) -> None:
    """Ticks where the curves have points, thinned to what fits."""
    points = np.unique(np.concatenate([curve.labels for curve in curves.values()]))
    step = -(-len(points) // 8)
    axis.set_xticks(points[::-1][::step][::-1])


def _spread_note(curves: Mapping[str, Curve]) -> str:
    seeds = max(len(curve.seeds) for curve in curves.values())
    if seeds == 1:
        return "accuracy on the test set; one seed, so no spread can be shown"
    note = f"accuracy on the test set; mean of {seeds} seeds, band: ± 1 standard deviation"
    return (
        f"{note}; thin: each seed" if seeds <= FEW_SEEDS and len(curves) <= FEW_STRATEGIES else note
    )


def _differences(curve: Curve, reference: Curve) -> list[Paired]:
    """The paired difference at each point that both curves have."""
    points = min(len(curve.labels), len(reference.labels))
    return [
        paired(
            dict(zip(curve.seeds, curve.values[:, point].tolist(), strict=True)),
            dict(zip(reference.seeds, reference.values[:, point].tolist(), strict=True)),
        )
        for point in range(points)
    ]


def _dot_axis(axis: Any, names: Sequence[str], looks: Looks, *, named: bool = True) -> None:
    """Strategies down the side in their colors, values along the bottom."""
    axis.grid(axis="y", visible=False)
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_yticks(range(len(names)))
    if named:
        labels = axis.set_yticklabels(
            [drawable(name, NAME_LETTERS) for name in names], parse_math=False
        )
        for label, name in zip(labels, names, strict=True):
            label.set(color=looks[name].color, fontweight="bold", fontsize=FONT_SIZE)
    else:
        axis.set_yticklabels([])
    axis.spines["bottom"].set_visible(False)


def _draw_dot(axis: Any, place: int, difference: Paired | None, look: Look) -> None:
    axis.axvline(0, color=RANDOM, linewidth=2.2, zorder=2)
    if difference is None or not np.isfinite(difference.mean):
        return
    if np.isfinite(difference.low):
        ends = [100 * difference.low, 100 * difference.high]
        axis.plot(ends, [place, place], color=look.color, linewidth=3, alpha=0.35, zorder=3)
    axis.plot(100 * difference.mean, place, look.mark, color=look.color, markersize=7, zorder=4)


def _draw_saving(
    axis: Any, place: int, efficiency: Efficiency, look: Look, left: float, right: float
) -> None:
    """One ratio with its interval; an end that is not reached runs to the edge with a caret."""
    if not np.isfinite(efficiency.ratio):
        axis.annotate(
            "neither got there", (1, place), xytext=(8, 0), textcoords="offset points",
            va="center", fontsize=FONT_SIZE - 0.5, color=MUTED,
        )  # fmt: skip
        return
    if not np.isnan(efficiency.low):
        ends = [max(efficiency.low, left), min(efficiency.high, right)]
        axis.plot(ends, [place, place], color=look.color, linewidth=3, alpha=0.35, zorder=3)
        for outside, edge, caret in (
            (efficiency.low < left, left, 4),  # matplotlib's caret to the left
            (efficiency.high > right, right, 5),
        ):
            if outside:
                axis.plot(
                    edge, place, marker=caret, color=look.color, alpha=0.6, markersize=6,
                    clip_on=False,
                )  # fmt: skip
    bound = {"strategy": ">", "baseline": "<"}.get(efficiency.reached, look.mark)
    axis.plot(efficiency.ratio, place, bound, color=look.color, markersize=7, zorder=4)


def _ratio_limits(efficiencies: Iterable[Efficiency]) -> tuple[float, float]:
    """Ends of a savings axis: intervals may be unbounded, the picture may not."""
    seen = [1.0]
    for efficiency in efficiencies:
        ends = (efficiency.low, efficiency.ratio, efficiency.high)
        seen += [end for end in ends if np.isfinite(end) and end > 0]
    pad = 0.08 * max(max(seen) - min(seen), 0.5)
    return max(0.0, min(seen) - pad), max(seen) + pad


def _share_grid(
    axis: Any, shares: Mapping[str, NDArray[np.float64]], classes: Sequence[str]
) -> None:
    """Strategies x classes, each cell tinted by its share of the picks."""
    matrix = np.array([shares[name] for name in shares])
    even = 1 / len(classes)
    draw_grid(axis, np.minimum(matrix / (2 * even), 1.0))
    axis.spines["bottom"].set_visible(False)
    axis.set_yticks(np.arange(len(shares)) + 0.5, [drawable(name, NAME_LETTERS) for name in shares])
    axis.set_xticks(
        np.arange(len(classes)) + 0.5,
        [drawable(name, 14) for name in classes],
        rotation=90 if max(map(len, classes)) > 2 else 0,
        parse_math=False,
    )
    if matrix.size <= 160:
        for (row, column), share in np.ndenumerate(matrix):
            axis.annotate(
                f"{100 * share:.0f}", (column + 0.5, row + 0.5), ha="center", va="center",
                fontsize=FONT_SIZE - 1.5, color=CELL_LIGHT if share > 1.3 * even else CELL_DARK,
            )  # fmt: skip
    title(
        axis,
        "Share of each class among all picks",
        "percent of a strategy's picks; darkest: twice an even share",
    )
