"""CDAL is the core-set rule in the space of predictions."""

import numpy as np
import pytest
from tests.strategies.test_k_center import by_definition

from labelwise.strategies import select


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("start", [0, 4])
def test_cdal_is_its_definition(seed, start):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(5), size=80)
    labeled = rng.permutation(80)[:start]
    picks = select("cdal", 15, probs=probs, labeled=labeled)
    rows, gains = by_definition(probs, labeled, 15)
    assert picks.rows.tolist() == rows
    np.testing.assert_allclose(picks.scores, gains, rtol=1e-5)


def test_once_all_predictions_are_covered_the_rest_is_drawn():
    """Of a saturated softmax: row order, often class order, must not choose."""
    probs = np.eye(3)[np.arange(60) // 20]
    rest = set()
    for seed in range(4):
        picks = select("cdal", 9, probs=probs, labeled=[0], seed=seed)
        assert picks.scores.tolist() == [2, 2] + [0] * 7
        assert picks.rows[:2].tolist() == [20, 40]
        rest |= set(picks.rows[2:] // 20)
    assert rest == {0, 1, 2}


def test_predictions_go_in_as_they_are():
    """A second softmax, a known slip, would make the sure and opposed rows near neighbors."""
    probs = np.array([[1.0, 0, 0], [0.6, 0.2, 0.2], [0, 1.0, 0]])
    assert select("cdal", 1, probs=probs, labeled=[0]).scores.tolist() == [2.0]
