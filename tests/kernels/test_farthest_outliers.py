"""Farthest-first under outliers against its definition, and that strays do not attract it."""

import math

import numpy as np
import pytest
import torch
from cases import KINDS, points, squared_distances_to
from scipy import stats

from labelwise.errors import InputError
from labelwise.kernels import (
    Chosen,
    Euclidean,
    Generator,
    Progress,
    derive,
    farthest_first,
)


def by_definition(x, covered, n, count, eta, generator):
    """Sort all rows at every pick, in float64, and take the one of the drawn rank."""
    free = np.ones(len(x), dtype=bool)
    free[list(covered)] = False
    width, picks = math.ceil((1 + eta) * count), []
    if not len(covered):
        picks = [int(generator.child("first").uniform(len(x)).argmin())]
        free[picks[0]] = False
    shares = Generator(derive(generator.seed, "outliers")).uniform(n)
    while len(picks) < n:
        nearest = np.min([squared_distances_to(x, row) for row in [*covered, *picks]], axis=0)
        left = np.flatnonzero(free)
        line = left[np.lexsort((left, -nearest[left]))]
        picks.append(
            int(line[int(shares[len(picks)] * min(width, len(x) - len(covered) - len(picks)))])
        )
        free[picks[-1]] = False
    return picks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_each_pick_has_the_drawn_rank_for_every_block_size(kind, seed):
    x = points(kind, seed)
    rng = np.random.default_rng(seed)
    covered = [] if seed % 2 else rng.choice(len(x), 2, replace=False).tolist()
    n = int(rng.integers(2, len(x) - len(covered) + 1))
    count, eta = int(rng.integers(1, max(2, len(x) // 3))), [1.0, 0.25][seed % 2]
    generator = Generator(seed)
    expected = by_definition(x, covered, n, count, eta, generator)
    for block in (1, 7, 768):
        chosen = farthest_first(
            Euclidean(x),
            n,
            covered=torch.tensor(covered, dtype=torch.int64),
            outliers=count,
            eta=eta,
            generator=generator,
            block=block,
        )
        assert chosen.rows.tolist() == expected


def test_a_share_is_of_the_rows_that_may_be_picked():
    x = points("gaussian", 5)
    free = len(x) - 2
    options = {"covered": torch.tensor([0, 1]), "generator": Generator(1)}
    shared = farthest_first(Euclidean(x), 5, outliers=4 / free, **options)
    counted = farthest_first(Euclidean(x), 5, outliers=4, **options)
    assert shared.rows.tolist() == counted.rows.tolist()


def test_the_draw_is_uniform_among_the_farthest():
    x = np.arange(12.0)[:, None] ** 1.5
    counts = np.zeros(12)
    for seed in range(900):
        chosen = farthest_first(
            Euclidean(x), 1, covered=torch.tensor([0]), outliers=3, generator=Generator(seed)
        )
        counts[chosen.rows[0]] += 1
    assert counts[:6].sum() == 0
    assert stats.chisquare(counts[6:]).pvalue > 1e-3


def test_strays_are_picked_by_the_plain_rule_and_mostly_left_alone_by_this_one():
    rng = np.random.default_rng(0)
    clusters = np.concatenate(
        [rng.normal(size=(200, 4)) + 12 * rng.normal(size=4) for _ in range(4)]
    )
    x = np.concatenate([clusters, 1e3 * rng.normal(size=(12, 4))])
    covered = torch.tensor([0])
    plain = farthest_first(Euclidean(x), 8, covered=covered).rows
    assert (plain >= 800).sum() == 8
    strays = [
        (
            farthest_first(
                Euclidean(x), 8, covered=covered, outliers=12, eta=4.0, generator=Generator(seed)
            ).rows
            >= 800
        )
        .sum()
        .item()
        for seed in range(10)
    ]
    assert np.mean(strays) < 3


def test_no_draw_depends_on_the_order_of_rows_and_a_run_can_be_resumed():
    x = points("gaussian", 1)
    order = np.random.default_rng(0).permutation(len(x))
    options = {"outliers": 5, "generator": Generator(3)}
    start = {"covered": torch.tensor([4])}
    one = farthest_first(Euclidean(x), 20, **start, **options)
    there = int(np.flatnonzero(order == 4)[0])
    two = farthest_first(Euclidean(x[order]), 20, covered=torch.tensor([there]), **options)
    assert one.rows.tolist() == order[two.rows].tolist()
    for most in range(1, 20, 4):
        earlier = Progress(Chosen(one.rows[:most], one.gains[:most]))
        again = farthest_first(Euclidean(x), 20, progress=earlier, **start, **options)
        assert again.rows.tolist() == one.rows.tolist()


def test_more_rows_in_line_than_all_their_distances_are_worth():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6000, 3)).astype(np.float32)
    expected = by_definition(x, [0], 12, 2500, 1.0, Generator(0))
    chosen = farthest_first(
        Euclidean(x), 12, covered=torch.tensor([0]), outliers=2500, generator=Generator(0)
    )
    assert chosen.rows.tolist() == expected


def test_bad_requests_name_the_rule_and_the_value():
    g, generator = Euclidean(torch.zeros(5, 2)), Generator(0)
    for outliers in (5, 1.5, -1, math.nan, math.inf):
        with pytest.raises(InputError, match=r"outliers must be a count below 5"):
            farthest_first(g, 1, outliers=outliers, generator=generator)
    with pytest.raises(InputError, match="eta must be > 0 and finite, got 0"):
        farthest_first(g, 1, outliers=1, eta=0, generator=generator)
    with pytest.raises(InputError, match="needs a generator"):
        farthest_first(g, 1, outliers=1)
