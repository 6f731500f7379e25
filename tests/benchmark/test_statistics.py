"""Statistics of learning curves against hand-computed cases and SciPy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from labelwise.benchmark import (
    Curve,
    aubc,
    compare,
    detectable_effect,
    holm,
    label_efficiency,
    labels_needed,
    paired,
    signed_rank,
)
from labelwise.errors import InputError


def line(name, values, labels=(100, 200, 300), seeds=None):
    values = np.atleast_2d(np.asarray(values, dtype=float))
    return Curve(name, np.array(labels), tuple(seeds or range(len(values))), values)


class TestArea:
    def test_by_hand_with_uneven_steps(self):
        # (0.5 + 0.7)/2 * 100 + (0.7 + 0.9)/2 * 300 = 60 + 240, over a span of 400
        assert aubc([100, 200, 500], [0.5, 0.7, 0.9]) == pytest.approx(300 / 400)

    def test_even_steps_are_the_mean_of_the_trapezoids(self):
        y = np.random.default_rng(0).uniform(size=11)
        assert aubc(np.arange(11) * 50 + 30, y) == pytest.approx((y[1:] + y[:-1]).sum() / 2 / 10)

    @pytest.mark.parametrize("log", [False, True])
    def test_a_constant_curve_has_its_own_height(self, log):
        assert aubc([10, 11, 500], [0.3, 0.3, 0.3], log=log) == pytest.approx(0.3)

    def test_log_budget_by_hand(self):
        # log2 labels are 0, 1, 3: (0 + 1)/2 * 1 + (1 + 1)/2 * 2, over 3
        assert aubc([1, 2, 8], [0.0, 1.0, 1.0], log=True) == pytest.approx(2.5 / 3)

    @pytest.mark.parametrize(
        ("labels", "values", "log", "says"),
        [
            ([1], [1.0], False, "at least 2 points"),
            ([1, 1], [1.0, 1.0], False, "must increase"),
            ([1, 2], [1.0, float("nan")], False, "finite"),
            ([1, 2], [1.0], False, "as long"),
            ([0, 2], [1.0, 1.0], True, "positive on the log scale"),
        ],
    )
    def test_refusals(self, labels, values, log, says):
        with pytest.raises(InputError, match=says):
            aubc(labels, values, log=log)


class TestCurve:
    def test_mean_spread_and_counts_skip_what_is_missing(self):
        curve = line("a", [[0.1, 0.2, 0.3], [0.3, 0.6, math.nan]])
        np.testing.assert_allclose(curve.mean(), [0.2, 0.4, 0.3])
        np.testing.assert_allclose(curve.spread(), [math.sqrt(0.02), math.sqrt(0.08), math.nan])
        assert curve.counts().tolist() == [2, 2, 1]
        assert curve.complete().tolist() == [True, False]

    def test_area_and_final_of_an_unfinished_seed_are_nan(self):
        curve = line("a", [[0.0, 1.0, 1.0], [0.3, 0.6, math.nan]], seeds=(4, 7))
        assert curve.area()[4] == pytest.approx(0.75)
        assert math.isnan(curve.area()[7])
        assert math.isnan(curve.final()[7])

    def test_shapes_are_checked(self):
        with pytest.raises(InputError, match=r"\(2, 3\), got shape \(1, 3\)"):
            Curve("a", np.arange(3), (0, 1), np.zeros((1, 3)))
        with pytest.raises(InputError, match="must increase"):
            Curve("a", np.array([2, 1]), (0,), np.zeros((1, 2)))


class TestPaired:
    def test_agrees_with_scipy(self):
        rng = np.random.default_rng(1)
        a, b = rng.normal(0.5, 0.1, 12), rng.normal(0.45, 0.1, 12)
        ours = paired(dict(enumerate(a)), dict(enumerate(b)))
        theirs = stats.ttest_rel(a, b)
        interval = theirs.confidence_interval(0.95)
        assert ours.p_t == pytest.approx(theirs.pvalue)
        assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
        assert ours.std == pytest.approx((a - b).std(ddof=1))
        assert ours.p_wilcoxon == pytest.approx(stats.wilcoxon(a, b, method="exact").pvalue)

    def test_pairs_by_seed_not_by_position(self):
        first = {3: 0.9, 1: 0.5, 2: 0.7}
        second = {1: 0.4, 2: 0.6, 3: 0.8}
        found = paired(first, second)
        assert found.mean == pytest.approx(0.1)
        assert found.std == pytest.approx(0, abs=1e-12)

    def test_incomplete_pairs_are_left_out_and_counted(self):
        found = paired({0: 0.5, 1: 0.6, 2: math.nan, 5: 0.1}, {0: 0.4, 1: 0.4, 2: 0.3, 4: 0.2})
        assert (found.n, found.excluded) == (2, 3)
        assert found.mean == pytest.approx(0.15)

    def test_equal_differences(self):
        same = paired({0: 0.5, 1: 0.5}, {0: 0.5, 1: 0.5})
        better = paired({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25})
        assert (same.p_t, better.p_t) == (1.0, 0.0)
        assert (better.low, better.high) == (0.25, 0.25)

    def test_too_few_seeds(self):
        one = paired({0: 0.5}, {0: 0.4})
        assert one.n == 1
        assert one.mean == pytest.approx(0.1)
        assert math.isnan(one.low)
        assert math.isnan(one.p_t)
        none = paired({0: 0.5}, {1: 0.4})
        assert (none.n, none.excluded) == (0, 2)
        assert math.isnan(none.mean)
        assert math.isnan(none.p_wilcoxon)

    def test_bootstrap_agrees_with_scipy(self):
        rng = np.random.default_rng(2)
        z = rng.normal(0.1, 0.1, 20)
        ours = paired(dict(enumerate(z)), dict.fromkeys(range(20), 0.0), interval="bootstrap")
        theirs = stats.bootstrap((z,), np.mean, method="percentile", rng=rng).confidence_interval
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=3e-3)
        assert ours == paired(
            dict(enumerate(z)), dict.fromkeys(range(20), 0.0), interval="bootstrap"
        )

    def test_confidence_is_checked(self):
        with pytest.raises(InputError, match=r"confidence must be in \(0, 1\), got 95"):
            paired({0: 1.0}, {0: 1.0}, confidence=95)

    def test_detectable_is_the_half_width(self):
        found = paired({0: 0.1, 1: 0.5, 2: 0.3}, dict.fromkeys(range(3), 0.0))
        assert found.detectable == pytest.approx((found.high - found.low) / 2)
        assert found.detectable == pytest.approx(2.484 * 0.2, rel=1e-3)


class TestSignedRank:
    @pytest.mark.parametrize("seed", range(20))
    def test_agrees_with_scipy_without_ties(self, seed):
        z = np.random.default_rng(seed).normal(0.3, 1, size=seed + 3)
        assert signed_rank(z) == pytest.approx(stats.wilcoxon(z, method="exact").pvalue)

    @pytest.mark.parametrize("seed", range(20))
    def test_is_its_definition_with_ties_and_zeros(self, seed):
        z = np.random.default_rng(seed).integers(-2, 4, size=9).astype(float)
        kept = z[z != 0]
        ranks = stats.rankdata(np.abs(kept))
        center, seen = ranks.sum() / 2, abs(ranks[kept > 0].sum() - ranks.sum() / 2)
        sums = [ranks @ np.array(s) for s in itertools.product([0, 1], repeat=len(kept))]
        expected = np.mean([abs(total - center) >= seen - 1e-9 for total in sums])
        assert signed_rank(z) == pytest.approx(expected)

    def test_five_seeds_never_reach_five_percent(self):
        assert signed_rank([0.1, 0.2, 0.3, 0.4, 0.5]) == 0.0625

    def test_rounding_does_not_break_ties(self):
        # 0.15 - 0.1 is not 0.1 - 0.05 in floating point, but they are a tie
        rounded = np.array([0.1 - 0.15, 0.1 - 0.05, 0.2])
        assert signed_rank(rounded) == signed_rank([-1, 1, 4]) == 0.75

    def test_zeros_only_and_nothing(self):
        assert signed_rank([0.0, 0.0]) == 1.0
        assert math.isnan(signed_rank([]))


class TestHolm:
    def test_by_hand(self):
        # sorted 0.01*4, 0.02*3, 0.03*2 -> never below the one before, 0.5*1
        assert holm([0.03, 0.5, 0.01, 0.02]) == pytest.approx([0.06, 0.5, 0.04, 0.06])

    def test_at_most_one_and_missing_tests_do_not_count(self):
        found = holm([0.6, math.nan, 0.7])
        assert found[0] == found[2] == 1.0
        assert math.isnan(found[1])
        assert holm([0.04, math.nan])[0] == 0.04


class TestPower:
    def test_the_known_table(self):
        known = {3: 2.48, 5: 1.24, 10: 0.72, 20: 0.47, 50: 0.28}
        assert {n: round(detectable_effect(n), 2) for n in known} == known

    def test_one_seed_detects_nothing(self):
        with pytest.raises(InputError, match="at least 2 seeds"):
            detectable_effect(1)


class TestEfficiency:
    def test_labels_needed(self):
        assert labels_needed([100, 200, 300], [0.4, 0.5, 0.9], 0.7) == pytest.approx(250)
        assert labels_needed([100, 200, 300], [0.4, 0.9, 0.5], 0.65) == pytest.approx(150)
        assert labels_needed([100, 200], [0.4, 0.5], 0.5) == 200
        assert labels_needed([100, 200], [0.4, 0.5], 0.1) == 100
        assert labels_needed([100, 200], [0.4, 0.5], 0.6) == math.inf

    def test_by_hand(self):
        random = line("random", [[0.4, 0.5, 0.6], [0.5, 0.6, 0.7]])  # mean 0.45 0.55 0.65
        margin = line("margin", [[0.4, 0.6, 0.8], [0.5, 0.7, 0.9]])  # mean 0.45 0.65 0.85
        found = label_efficiency(margin, random)
        assert (found.reached, found.seeds) == ("both", 2)
        assert found.target == pytest.approx(0.65)
        assert found.strategy_labels == pytest.approx(200)
        assert found.ratio == pytest.approx(1.5)

    def test_a_strategy_that_does_not_get_there_is_bounded_not_dropped(self):
        random = line("random", [[0.4, 0.6, 0.8], [0.4, 0.6, 0.8]])
        worse = line("worse", [[0.4, 0.45, 0.5], [0.4, 0.45, 0.5]])
        found = label_efficiency(worse, random, 0.6)
        assert found.reached == "baseline"
        assert found.strategy_labels == math.inf
        assert found.ratio == pytest.approx(200 / 300)  # at most
        assert (found.low, found.unreached) == (0.0, 1.0)

    def test_a_baseline_that_does_not_get_there(self):
        random = line("random", [[0.4, 0.45, 0.5], [0.4, 0.45, 0.5]])
        better = line("better", [[0.4, 0.6, 0.8], [0.4, 0.6, 0.8]])
        found = label_efficiency(better, random, 0.6)
        assert (found.reached, found.high) == ("strategy", math.inf)
        assert found.ratio == pytest.approx(300 / 200)  # at least

    def test_neither_gets_there(self):
        both = line("a", [[0.1, 0.2, 0.3]] * 2)
        found = label_efficiency(both, both, 0.9)
        assert found.reached == "neither"
        assert math.isnan(found.ratio)
        assert (found.low, found.high) == (0.0, math.inf)

    def test_the_interval_resamples_the_same_seeds_of_both(self):
        rng = np.random.default_rng(3)
        level = rng.normal(0, 0.2, size=(10, 1))  # luck that both share cancels
        rise = np.array([0.0, 1.0, 2.0])
        random, same = line("random", level + rise), line("same", level + rise)
        found = label_efficiency(same, random)
        assert (found.ratio, found.low, found.high, found.unreached) == (1.0, 1.0, 1.0, 0.0)
        fixed = label_efficiency(same, random, found.target)
        # Half of the resamples of either miss a target that does not move with them.
        assert (fixed.low, fixed.high) == (0.0, math.inf)
        assert 0.2 < fixed.unreached < 0.8

    def test_the_interval_covers_as_often_as_it_says(self):
        rise, budget = np.array([0.0, 1.0, 2.0, 3.0]), (100, 200, 300, 400)
        truth, hits = 400 / 300, 0  # the strategy is a whole step of 100 labels ahead
        for seed in range(60):
            noise = np.random.default_rng(seed).normal(0, 0.2, size=(2, 15, 4))
            random = line("random", rise + noise[0], budget)
            ahead = line("ahead", rise + 1 + noise[1], budget)
            found = label_efficiency(ahead, random, resamples=300)
            hits += found.low <= truth <= found.high
        assert hits >= 50

    def test_needs_a_shared_seed(self):
        a, b = line("a", [[0.1, 0.2, 0.3]], seeds=(1,)), line("b", [[0.1, 0.2, 0.3]], seeds=(2,))
        with pytest.raises(InputError, match="no seed of a and b"):
            label_efficiency(a, b)


class TestCompare:
    def curves(self):
        rng = np.random.default_rng(4)
        luck = rng.normal(0, 0.05, size=(6, 1))
        base = np.array([0.5, 0.6, 0.7])
        noise = [rng.normal(0, 0.005, size=(6, 3)) for _ in range(3)]
        return {
            "random": line("random", base + luck + noise[0]),
            "better": line("better", base + luck + noise[1] + [0, 0.05, 0.05]),
            "same": line("same", base + luck + noise[2]),
        }

    def test_against_the_baseline(self):
        curves = self.curves()
        rows = {row.strategy: row for row in compare(curves)}
        assert rows["random"].area_difference is rows["random"].p_holm is None
        better = rows["better"]
        a = np.array(list(curves["better"].area().values()))
        b = np.array(list(curves["random"].area().values()))
        assert better.area_difference.mean == pytest.approx((a - b).mean())
        assert better.area_difference.p_t == pytest.approx(stats.ttest_rel(a, b).pvalue)
        assert better.p_holm == pytest.approx(2 * better.area_difference.p_t)
        assert better.p_holm < 0.01 < rows["same"].p_holm
        assert better.efficiency.ratio > 1.1
        assert better.final == pytest.approx(curves["better"].values[:, -1].mean())

    def test_the_primary_endpoint_is_the_one_corrected(self):
        rows = {row.strategy: row for row in compare(self.curves(), primary="final")}
        tests = [rows["better"].final_difference.p_t, rows["same"].final_difference.p_t]
        assert [rows["better"].p_holm, rows["same"].p_holm] == pytest.approx(holm(tests))

    def test_an_unfinished_strategy_is_shown(self):
        curves = self.curves()
        curves["late"] = line("late", np.full((6, 3), np.nan))
        late = compare(curves)[-1]
        assert (late.seeds, late.area_difference.n, late.area_difference.excluded) == (0, 0, 6)
        assert late.efficiency is None
        assert math.isnan(late.p_holm)

    def test_a_single_point_has_no_area(self):
        curves = {name: line(name, [[0.5], [0.6]], labels=(10,)) for name in ("random", "margin")}
        row = compare(curves)[1]
        assert row.area_difference is None
        assert math.isnan(row.area)
        assert row.p_holm == 1.0

    def test_an_unknown_baseline(self):
        with pytest.raises(InputError, match="did you mean random"):
            compare(self.curves(), baseline="randon")
