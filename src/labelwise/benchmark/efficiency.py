"""Label efficiency: labels the baseline needs over labels the strategy needs.

The number users ask for, and the one most easily bent: a strategy or a baseline that never
reaches the accuracy in question has no ratio, only a bound. Nothing is dropped here: who did not
get there is said in words, and counted in the interval as the worst it could be.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from labelwise.benchmark.curves import Array, Curve, labels_needed
from labelwise.errors import InputError
from labelwise.kernels import numpy_stream

Reached = Literal["both", "strategy", "baseline", "neither"]


@dataclass(frozen=True)
class Efficiency:
    """How many labels a strategy saves, at one accuracy.

    Attributes:
        target: the value both have to reach.
        baseline_labels: labels the baseline's mean curve needs; ``inf`` when not reached.
        strategy_labels: labels the strategy's mean curve needs; ``inf`` when not reached.
        ratio: baseline_labels / strategy_labels; above 1 the strategy saves labels. A bound
            where one of them does not get there, NaN where neither does.
        reached: what ``ratio`` is: ``"both"`` exact; ``"strategy"`` only, the true ratio is
            larger (at least ``ratio``); ``"baseline"`` only, it is smaller (at most
            ``ratio``); ``"neither"``.
        low, high: bootstrap interval over seeds. 0 as ``low`` says that the strategy may not
            get there at all, ``inf`` as ``high`` the same of the baseline; a resample that
            reaches neither counts as both. NaN with fewer than two shared seeds.
        seeds: shared complete seeds it is computed from.
        unreached: share of the resamples in which at least one did not get there.
    """

    target: float
    baseline_labels: float
    strategy_labels: float
    ratio: float
    reached: Reached
    low: float
    high: float
    seeds: int
    unreached: float


def label_efficiency(
    strategy: Curve,
    baseline: Curve,
    target: float | None = None,
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Efficiency:
    """Labels the baseline needs over labels the strategy needs, to reach the same value.

    Both numbers are read off the mean over shared complete seeds, by linear interpolation. The
    interval resamples seeds, the same ones for both curves.

    Args:
        strategy: the curves in question.
        baseline: usually random's.
        target: the value to reach; by default the baseline's mean at its last point (in a
            resample: the resampled mean), which asks how much of its budget was needed.
        confidence: of the interval.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The ratio, or which of them did not get there and the bound that follows.

    Raises:
        InputError: no seed that both finished.

    Source:
        Beck et al., "Effective Evaluation of Deep Active Learning on Image Classification
        Tasks", 2021 (labeling efficiency).

    >>> a = Curve("margin", [100, 200, 300], (0,), [[0.5, 0.75, 1.0]])
    >>> b = Curve("random", [100, 200, 300], (0,), [[0.5, 0.625, 0.75]])
    >>> label_efficiency(a, b).ratio
    1.5
    """
    shared = complete_seeds(strategy, baseline)
    if not shared:
        raise InputError(
            f"no seed of {strategy.strategy} and {baseline.strategy} is complete in both: "
            "let the run finish first"
        )
    ours, theirs = _lines(strategy, shared), _lines(baseline, shared)
    everyone = np.arange(len(shared))
    base, need, height = _needs(baseline, theirs, strategy, ours, everyone, target)
    reached, ratio = _ratio(base, need, float(baseline.labels[-1]), float(strategy.labels[-1]))
    low = high = unreached = float("nan")
    if len(shared) > 1:
        draws = numpy_stream(seed, "label efficiency").integers(
            len(shared), size=(resamples, len(shared))
        )
        ratios = np.empty(resamples)
        for i, drawn in enumerate(draws):
            b, s, _ = _needs(baseline, theirs, strategy, ours, drawn, target)
            ratios[i] = np.nan if np.isinf(s) and np.isinf(b) else b / s
        unreached = float(np.mean(~((ratios > 0) & np.isfinite(ratios))))
        low, high = _interval(ratios, confidence)
    return Efficiency(height, base, need, ratio, reached, low, high, len(shared), unreached)


def complete_seeds(first: Curve, second: Curve) -> list[int]:
    """The seeds for which both curves have every point, in order."""
    whole = [
        {seed for seed, full in zip(curve.seeds, curve.complete()) if full}
        for curve in (first, second)
    ]
    return sorted(whole[0] & whole[1])


def _lines(curve: Curve, seeds: list[int]) -> Array:
    """(len(seeds), P) a curve's lines, for some seeds, in their order."""
    return curve.values[[curve.seeds.index(seed) for seed in seeds]]


def _needs(
    baseline: Curve,
    theirs: Array,
    strategy: Curve,
    ours: Array,
    drawn: NDArray[np.int64],
    target: float | None,
) -> tuple[float, float, float]:
    """Labels both need, by their means over some seeds, and the value that had to be reached."""
    mean = theirs[drawn].mean(axis=0)
    height = float(mean[-1]) if target is None else target
    base = labels_needed(baseline.labels, mean, height)
    return base, labels_needed(strategy.labels, ours[drawn].mean(axis=0), height), height


def _ratio(base: float, need: float, base_end: float, need_end: float) -> tuple[Reached, float]:
    """Who reached the target, and the ratio or its bound: an end stands in for "not reached"."""
    if np.isinf(base) and np.isinf(need):
        return "neither", float("nan")
    if np.isinf(need):
        return "baseline", base / need_end
    if np.isinf(base):
        return "strategy", base_end / need
    return "both", base / need


def _interval(ratios: Array, confidence: float) -> tuple[float, float]:
    """Percentiles of ratios among which 0 and inf are values and NaN may be either."""
    tail = (1 - confidence) / 2
    worst, best = np.nan_to_num(ratios, nan=0.0, posinf=np.inf), ratios.copy()
    best[np.isnan(best)] = np.inf
    # An order statistic, not an interpolation: between 5 and inf there is nothing to average.
    low = np.quantile(worst, tail, method="inverted_cdf")
    high = np.quantile(best, 1 - tail, method="inverted_cdf")
    return float(low), float(high)
