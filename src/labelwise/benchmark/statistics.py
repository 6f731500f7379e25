"""Is a strategy better than random? Paired by seed, with its uncertainty and its power.

Two strategies that start from the same initial set, split and weights share most of their luck,
so only differences within a seed are compared. A seed that one of the two has not finished is
left out of that pair and counted, never filled in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from labelwise.benchmark.curves import Curve
from labelwise.benchmark.efficiency import Efficiency, complete_seeds, label_efficiency
from labelwise.errors import InputError, nearest
from labelwise.kernels import numpy_stream


@dataclass(frozen=True)
class Paired:
    """Differences between two strategies, a value per seed.

    Attributes:
        n: seeds that both finished; everything else is computed from these.
        excluded: seeds that only one of them, or neither, finished.
        mean: mean difference, first minus second, in the measure's unit; NaN with n = 0.
        std: sample standard deviation of the differences (ddof 1); NaN with n < 2.
        low, high: confidence interval of the mean; NaN with n < 2.
        confidence: of that interval, such as 0.95.
        p_t: two-sided p value of the paired t test; NaN with n < 2.
        p_wilcoxon: two-sided p value of the exact signed-rank test; NaN with n = 0.
        detectable: the smallest mean difference that would have been significant at
            1 - ``confidence``, given this ``std``: `detectable_effect` times ``std``.
    """

    n: int
    excluded: int
    mean: float
    std: float
    low: float
    high: float
    confidence: float
    p_t: float
    p_wilcoxon: float
    detectable: float


def paired(
    first: Mapping[int, float],
    second: Mapping[int, float],
    *,
    confidence: float = 0.95,
    interval: Literal["t", "bootstrap"] = "t",
    resamples: int = 10_000,
    seed: int = 0,
) -> Paired:
    """Compare two strategies by the seeds they share.

    Args:
        first: value by seed; NaN where the seed was not finished.
        second: value by seed.
        confidence: of the interval, in (0, 1).
        interval: ``"t"``, Student's interval of the mean difference; ``"bootstrap"``,
            percentiles of the mean over resampled seeds (narrow with few seeds).
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        First minus second: a positive mean says that the first is larger. Differences that are
        all equal and not zero have p_t = 0, all zero p_t = 1.

    Raises:
        InputError: a confidence outside (0, 1).

    >>> paired({0: 0.50, 1: 0.75, 2: 0.5}, {0: 0.25, 1: 0.25, 3: 0.1}).mean
    0.375
    """
    from scipy import stats

    if not 0 < confidence < 1:
        raise InputError(f"confidence must be in (0, 1), got {confidence:g}")
    seeds = sorted(set(first) | set(second))
    pairs = np.array([(first.get(s, np.nan), second.get(s, np.nan)) for s in seeds])
    z = pairs[:, 0] - pairs[:, 1] if len(seeds) else np.empty(0)
    z = z[~np.isnan(z)]
    n, nan = len(z), float("nan")
    mean, std = (float(z.mean()) if n else nan), (float(z.std(ddof=1)) if n > 1 else nan)
    low = high = p_t = detectable = nan
    if n > 1:
        detectable = detectable_effect(n, alpha=1 - confidence) * std
        low, high = mean - detectable, mean + detectable
        if interval == "bootstrap":
            low, high = _bootstrap_mean(z, confidence, resamples, seed)
        if np.ptp(z) == 0:  # std is rounding error at best, and t 0/0
            p_t = 1.0 if z[0] == 0 else 0.0
        else:
            p_t = float(2 * stats.t.sf(abs(mean) / (std / np.sqrt(n)), n - 1))
    return Paired(
        n=n,
        excluded=len(seeds) - n,
        mean=mean,
        std=std,
        low=low,
        high=high,
        confidence=confidence,
        p_t=p_t,
        p_wilcoxon=signed_rank(z),
        detectable=detectable,
    )


def signed_rank(differences: ArrayLike) -> float:
    """Two-sided p value of Wilcoxon's signed-rank test, exact also with ties.

    Zeros are dropped, sizes equal to 1e-12 of the largest share their mean rank, and the p value
    is read off the distribution of the rank sum over all sign assignments.

    Args:
        differences: (n,) finite.

    Returns:
        In (0, 1]; 1 when every difference is zero, NaN without any difference. With n
        differences it cannot be below 2 / 2**n: with five seeds it never reaches 0.05.

    Source:
        Wilcoxon, "Individual Comparisons by Ranking Methods", Biometrics Bulletin 1945.

    >>> signed_rank([1, 2, 3, 4, 5])
    0.0625
    """
    z = np.asarray(differences, dtype=np.float64)
    if len(z) == 0:
        return float("nan")
    if not z.any():
        return 1.0
    # 0.15 - 0.1 and 0.1 - 0.05 are a tie that rounding hides; accuracies are full of these.
    z = np.round(z / np.abs(z).max(), 12)
    z = z[z != 0]
    size = np.abs(z)
    _, inverse, counts = np.unique(size, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    doubled = (2 * last - counts + 1)[inverse].astype(np.int64)  # twice the mean rank: an integer
    total = int(doubled.sum())
    ways = np.zeros(total + 1)
    ways[0] = 1.0
    for rank in doubled:  # each item's rank joins the positive sum or does not, at odds of 1/2
        joined = np.zeros_like(ways)
        joined[rank:] = ways[: total + 1 - rank]
        ways = (ways + joined) / 2
    positive = int(doubled[z > 0].sum())
    smaller = min(positive, total - positive)
    return float(min(1.0, 2 * ways[: smaller + 1].sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction: p values as large as several tests make them.

    Args:
        p_values: one a test; NaN stands for a test that could not be made, stays NaN and is
            not counted.

    Returns:
        Adjusted p values in the order given, at most 1. Those below alpha may be called
        significant together, with probability of any false one at most alpha.

    Source:
        Holm, "A Simple Sequentially Rejective Multiple Test Procedure", 1979.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    tests = sorted((p, i) for i, p in enumerate(p_values) if not np.isnan(p))
    adjusted = [float("nan")] * len(p_values)
    largest = 0.0
    for step, (p, i) in enumerate(tests):
        largest = max(largest, min(1.0, p * (len(tests) - step)))
        adjusted[i] = largest
    return adjusted


def detectable_effect(n: int, *, alpha: float = 0.05) -> float:
    """The smallest mean difference that n pairs can call significant, in standard deviations.

    It is the critical t over the root of n: what just reaches two-sided significance, which a
    true difference of that size does half of the time.

    Raises:
        InputError: n below 2.

    >>> [round(detectable_effect(n), 2) for n in (3, 5, 10, 20, 50)]
    [2.48, 1.24, 0.72, 0.47, 0.28]
    """
    from scipy import stats

    if n < 2:
        raise InputError(f"n must be at least 2 seeds for any test, got {n}")
    return float(stats.t.ppf(1 - alpha / 2, n - 1) / np.sqrt(n))


@dataclass(frozen=True)
class Comparison:
    """One strategy of a benchmark against the baseline.

    Attributes:
        strategy: its label.
        final: mean of the measure at the last point, over the seeds that got there.
        final_std: sample standard deviation of it over seeds.
        area: mean `aubc` over complete seeds; NaN with a single point.
        area_std: sample standard deviation of it.
        seeds: complete seeds.
        final_difference: against the baseline, by seed; None for the baseline itself.
        area_difference: the same for the area; None also with a single point.
        p_holm: `holm` over the strategies' paired t tests on the primary endpoint; None for
            the baseline.
        efficiency: `label_efficiency` at the baseline's final mean; None for the baseline, or
            without a seed that both finished.
    """

    strategy: str
    final: float
    final_std: float
    area: float
    area_std: float
    seeds: int
    final_difference: Paired | None = None
    area_difference: Paired | None = None
    p_holm: float | None = None
    efficiency: Efficiency | None = None


def compare(
    curves: Mapping[str, Curve],
    *,
    baseline: str = "random",
    primary: Literal["area", "final"] = "area",
    confidence: float = 0.95,
    interval: Literal["t", "bootstrap"] = "t",
) -> list[Comparison]:
    """Every strategy of a run against one of them.

    Args:
        curves: by strategy, of one measure (`Results.curves`).
        baseline: which strategy the others are compared with.
        primary: the endpoint whose tests are corrected together; declare it beforehand.
        confidence: of all intervals.
        interval: of the paired differences, see `paired`.

    Returns:
        One `Comparison` a strategy, in the order of ``curves``.

    Raises:
        InputError: the baseline is not among the curves.
    """
    if baseline not in curves:
        raise InputError(f"baseline {baseline!r} is no strategy here: {nearest(baseline, curves)}")
    reference = curves[baseline]
    rows = [_alone(curve) for curve in curves.values()]
    tests: list[Paired] = []
    for i, curve in enumerate(curves.values()):
        if curve.strategy == reference.strategy:
            continue
        final = paired(curve.final(), reference.final(), confidence=confidence, interval=interval)
        area = None
        if len(curve.labels) > 1 and len(reference.labels) > 1:
            area = paired(curve.area(), reference.area(), confidence=confidence, interval=interval)
        efficiency = None
        if complete_seeds(curve, reference):
            efficiency = label_efficiency(curve, reference, confidence=confidence)
        rows[i] = replace(
            rows[i], final_difference=final, area_difference=area, efficiency=efficiency
        )
        tests.append(area if primary == "area" and area is not None else final)
    corrected = iter(holm([test.p_t for test in tests]))
    return [
        row if row.final_difference is None else replace(row, p_holm=next(corrected))
        for row in rows
    ]


def _alone(curve: Curve) -> Comparison:
    """A strategy's own numbers, before it is compared with anything."""
    areas = np.full(len(curve.seeds), np.nan)
    if len(curve.labels) > 1:
        areas = np.array(list(curve.area().values()))
    whole = areas[~np.isnan(areas)]
    return Comparison(
        strategy=curve.strategy,
        final=float(curve.mean()[-1]),
        final_std=float(curve.spread()[-1]),
        area=float(whole.mean()) if len(whole) else float("nan"),
        area_std=float(whole.std(ddof=1)) if len(whole) > 1 else float("nan"),
        seeds=int(curve.complete().sum()),
    )


def _bootstrap_mean(
    z: NDArray[np.float64], confidence: float, resamples: int, seed: int
) -> tuple[float, float]:
    """Percentile interval of the mean of z over resampled entries."""
    draws = numpy_stream(seed, "bootstrap").integers(len(z), size=(resamples, len(z)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(z[draws].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)
