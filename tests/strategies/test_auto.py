"""auto: `lsa` held to the experience that the package ships."""

import numpy as np
import pytest
from tests.test_battery import make_pool

from labelwise.errors import InputError
from labelwise.strategies import Experience, call_needs, get_strategy, select


@pytest.fixture(scope="module")
def pool():
    return make_pool()[0]


def test_the_shipped_experience_says_what_it_is_of():
    found = Experience.shipped()
    assert found.learned["command"] == "python -m perf.experience learn"
    assert len(found.learned["data"]) >= 5
    assert set(call_needs(get_strategy("auto"), {})) == {"probs", "embeddings"}
    assert np.linalg.norm(found.weights) > 0


def test_it_is_lsa_that_explores_nothing(pool):
    found = Experience(("margin", "k_center", "entropy"), (0.9, 0.3, -0.1))
    asked = {"n": 9, "labeled": [5, 6], "seed": 3, "experience": found, **pool}
    auto = select("auto", **asked)
    lsa = select("lsa", arms="+".join(found.arms), alpha=0.0, ridge=1e6, **asked)
    assert auto.rows.tolist() == lsa.rows.tolist()
    assert auto.scores.tolist() == lsa.scores.tolist()
    shipped = select("auto", **(asked | {"experience": "shipped"}))
    assert shipped.state["prior"] == list(Experience.shipped().weights)
    assert shipped.rows.tolist() != auto.rows.tolist()


def test_it_holds_on_to_what_it_knows(pool):
    truth = np.zeros(120, int)
    first = select("auto", 8, **pool)
    rows = first.rows
    other, _ = make_pool(seed=4)
    second = select("auto", 8, labeled=rows, labels=truth[rows], state=first.state, **other)
    moved = np.array(second.state["experience"]["weights"]) - Experience.shipped().weights
    assert 0 < np.abs(moved).max() < 0.05 * np.linalg.norm(Experience.shipped().weights)


def test_other_arms_are_refused(pool):
    with pytest.raises(InputError, match="the experience is of the arms"):
        select("auto", 3, arms="margin+random", **pool)
    own = Experience(("margin", "random"), (1.0, 0.0))
    picks = select("auto", 3, experience=own, **pool)
    assert picks.rows.tolist() == select("margin", 3, **pool).rows.tolist()
    with pytest.raises(InputError, match="arms must be strategies"):
        select("auto", 3, experience=None, **pool)
