"""Learning curves: a measure against labels paid for, one line per seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labelwise.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Curve:
    """One strategy's learning curves, a line per seed.

    Attributes:
        strategy: the strategy's label, such as ``"badge:first=uniform"``.
        labels: (P,) float64, labels paid for at each point (the initial set included),
            increasing.
        seeds: (S,) the seeds, in order.
        values: (S, P) float64; NaN where a seed has not got that far.

    Raises:
        InputError: shapes that do not fit, or labels that do not increase.

    >>> curve = Curve("margin", [100, 200], (0, 1), [[0.5, 0.7], [0.6, 0.8]])
    >>> curve.mean().round(2).tolist()
    [0.55, 0.75]
    """

    strategy: str
    labels: Array
    seeds: tuple[int, ...]
    values: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.float64))
        object.__setattr__(self, "values", np.asarray(self.values, dtype=np.float64))
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in self.seeds))
        if self.values.shape != (len(self.seeds), len(self.labels)):
            raise InputError(
                f"values of the curve of {self.strategy} must be (seeds, points) = "
                f"({len(self.seeds)}, {len(self.labels)}), got shape {self.values.shape}"
            )
        if np.any(np.diff(self.labels) <= 0):
            raise InputError(f"labels of the curve of {self.strategy} must increase")

    def complete(self) -> NDArray[np.bool_]:
        """(S,) which seeds have a value at every point."""
        return np.asarray(~np.isnan(self.values).any(axis=1))

    def mean(self) -> Array:
        """(P,) mean over the seeds that have the point; NaN where none has."""
        return _over_seeds(self.values, lambda x: float(x.mean()), 1)

    def spread(self) -> Array:
        """(P,) sample standard deviation over seeds (ddof 1); NaN with fewer than two."""
        return _over_seeds(self.values, lambda x: float(x.std(ddof=1)), 2)

    def counts(self) -> NDArray[np.int64]:
        """(P,) how many seeds have the point."""
        return (~np.isnan(self.values)).sum(axis=0).astype(np.int64)

    def final(self) -> dict[int, float]:
        """Value at the last point, by seed; NaN for a seed that has not got there."""
        return dict(zip(self.seeds, self.values[:, -1].tolist()))

    def area(self, *, log: bool = False) -> dict[int, float]:
        """`aubc` of each seed's line; NaN for a seed that lacks a point."""
        whole = self.complete()
        return {
            seed: aubc(self.labels, line, log=log) if full else float("nan")
            for seed, line, full in zip(self.seeds, self.values, whole)
        }


def aubc(labels: ArrayLike, values: ArrayLike, *, log: bool = False) -> float:
    """Area under the budget curve: the mean height of a learning curve over its budget.

    The trapezoid rule over the labels actually paid for, divided by the span of labels, so that
    a constant curve has its own height as area, in the unit of ``values``, and steps may be
    uneven (the usual code multiplies every step but the last by the nominal batch size).

    Args:
        labels: (P,) labels paid for, increasing, P >= 2.
        values: (P,) measure at each point, finite.
        log: measure the budget in log(labels) instead, which weighs the early rounds more;
            every count of labels must then be positive.

    Raises:
        InputError: fewer than two points, lengths that differ, labels that do not increase, a
            value that is not finite, or a count of 0 on the log scale.

    Source:
        Zhan et al., "A Comparative Survey of Deep Active Learning", 2022 (their AUBC).

    >>> aubc([0, 100, 400], [0.0, 1.0, 1.0])
    0.875
    """
    x, y = np.asarray(labels, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"labels and values must be as long, got {x.shape} and {y.shape}")
    if len(x) < 2:
        raise InputError(f"an area needs at least 2 points, got {len(x)}: run more rounds")
    if np.any(np.diff(x) <= 0):
        raise InputError(f"labels must increase from point to point, got {x.tolist()}")
    if not np.isfinite(y).all():
        raise InputError(f"values must be finite, got {y.tolist()}")
    if log:
        if x[0] <= 0:
            raise InputError(f"labels must be positive on the log scale, got {x[0]:g}")
        x = np.log(x)
    heights = (y[1:] + y[:-1]) / 2
    return float(np.dot(heights, np.diff(x)) / (x[-1] - x[0]))


def labels_needed(labels: ArrayLike, values: ArrayLike, target: float) -> float:
    """Labels at which a curve first reaches a value, read off by linear interpolation.

    Args:
        labels: (P,) labels paid for, increasing.
        values: (P,) the curve; it need not rise steadily, the first crossing counts.
        target: the value to reach.

    Returns:
        Labels, between the first and the last point; ``inf`` when the curve never gets there.
        A curve that starts at or above the target needs at most its first point, which is
        what is returned.

    >>> labels_needed([100, 200, 300], [0.5, 0.75, 0.5], 0.625)
    150.0
    """
    x, y = np.asarray(labels, dtype=np.float64), np.asarray(values, dtype=np.float64)
    there = np.flatnonzero(y >= target)
    if len(there) == 0:
        return float("inf")
    i = int(there[0])
    if i == 0:
        return float(x[0])
    share = (target - y[i - 1]) / (y[i] - y[i - 1])
    return float(x[i - 1] + share * (x[i] - x[i - 1]))


def _over_seeds(values: Array, function: Callable[[Array], float], least: int) -> Array:
    """A function of each column's known entries; NaN where fewer than ``least`` are known."""
    known = [column[~np.isnan(column)] for column in values.T]
    return np.array([function(x) if len(x) >= least else np.nan for x in known], dtype=np.float64)
