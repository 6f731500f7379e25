"""Random and balanced random."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.strategies import get_strategy, select


def test_random_is_uniform():
    counts = np.zeros(12)
    for seed in range(1500):
        counts[select("random", 3, ids=range(12), seed=seed).rows] += 1
    np.testing.assert_allclose(counts / 1500, 3 / 12, atol=0.05)


def test_random_order_is_uniform_too():
    first = [select("random", 4, ids=range(4), seed=s).rows[0] for s in range(1000)]
    np.testing.assert_allclose(np.bincount(first) / 1000, 0.25, atol=0.06)


def test_random_knows_the_probability_of_its_picks():
    picks = select("random", 3, ids=range(20), labeled=[0, 1], candidates=range(14))
    assert picks.probability.tolist() == [3 / 12] * 3
    assert picks.scores is None
    assert picks.why[0]["probability"] == 0.25


def balanced(truth, n, **more):
    def oracle_labels():
        return truth

    return select("balanced_random", n, providers=[oracle_labels], **more).rows


def test_balanced_random_has_equal_class_counts():
    truth = np.r_[np.zeros(500, int), np.ones(50, int), np.full(6, 2)]
    counts = np.bincount(truth[balanced(truth, 12)])
    assert counts.tolist() == [4, 4, 4]
    assert sorted(np.bincount(truth[balanced(truth, 14)]).tolist()) == [4, 5, 5]
    assert np.bincount(truth[balanced(truth, 26)]).tolist() == [10, 10, 6]  # a class is used up


def test_balanced_random_is_random_inside_a_class():
    truth = np.repeat([0, 1], 5)
    counts = np.zeros(10)
    for seed in range(600):
        counts[balanced(truth, 2, seed=seed)] += 1
    np.testing.assert_allclose(counts / 600, 0.2, atol=0.06)


def test_balanced_random_keeps_to_candidates():
    truth = np.repeat([0, 1], 5)
    assert set(balanced(truth, 4, candidates=[0, 1, 7, 8])) == {0, 1, 7, 8}


def test_balanced_random_is_for_simulations_only():
    assert get_strategy("balanced_random").simulation_only
    assert not get_strategy("random").simulation_only
    with pytest.raises(InputError, match="must be classes 0"):
        balanced(np.array([0, -1, 1]), 2)
