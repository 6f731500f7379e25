"""Addressed randomness: laws, independence, and the same number for the same item."""

import numpy as np
import pytest
from scipy import stats

from labelwise.errors import InputError
from labelwise.kernels import Generator, derive, numpy_stream, torch_stream


def test_numbers_follow_items_not_rows():
    ids = np.array(["a", "b", "c", "d"])
    order = np.array([2, 0, 3, 1])
    assert (Generator(1, ids).uniform()[order] == Generator(1, ids[order]).uniform()).all()
    assert (Generator(1, ids).uniform(np.array([1])) == Generator(1, ids).uniform()[1]).all()


def test_laws():
    g = Generator(0)
    assert stats.kstest(g.uniform(20000), "uniform").pvalue > 1e-3
    assert stats.kstest(g.exponential(20000), "expon").pvalue > 1e-3
    assert stats.kstest(g.gumbel(20000), "gumbel_r").pvalue > 1e-3


@pytest.mark.parametrize("pair", ["draws", "seeds", "children", "neighbors"])
def test_streams_are_uncorrelated(pair):
    g = Generator(0)
    one = g.uniform(20000)
    two = {
        "draws": lambda: g.uniform(20000, draw=1),
        "seeds": lambda: Generator(1).uniform(20000),
        "children": lambda: g.child("x").uniform(20000),
        "neighbors": lambda: np.roll(one, 1),
    }[pair]()
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03


def test_arrivals_are_unit_rate_processes_whatever_the_stretch():
    g = Generator(0, ids=np.arange(50) + 1000)
    gaps, rows = g.arrivals(np.array([3, 4]), 5000, 50)
    assert stats.kstest(gaps[0] * 50, "expon").pvalue > 1e-3
    assert stats.chisquare(np.bincount(rows[0], minlength=50)).pvalue > 1e-3
    assert abs(np.corrcoef(gaps[0], gaps[1])[0, 1]) < 0.05
    later_gaps, later_rows = g.arrivals(np.array([3]), 1000, 50, start=4000)
    assert (later_gaps[0] == gaps[0, 4000:]).all()
    assert (later_rows[0] == rows[0, 4000:]).all()


def test_seeds_for_purposes_differ_and_are_stable():
    names = [("split",), ("weights",), ("weights", 1), ("weights", "1"), ()]
    seeds = {derive(7, *parts) for parts in names}
    assert len(seeds) == len(names)
    assert derive(0, "weights") == 459904764875825427
    assert numpy_stream(0, "a").random() == numpy_stream(0, "a").random()
    assert torch_stream(0, "a").initial_seed() == torch_stream(0, "a").initial_seed()


def test_equal_ids_are_refused_by_name():
    with pytest.raises(InputError, match="'b' \\(row 1\\) occurs again"):
        Generator(0, ids=["a", "b", "b"])
