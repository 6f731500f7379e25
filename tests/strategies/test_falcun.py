"""FALCUN against a plain loop with the same noise, and what it is for."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.kernels import Generator, derive
from labelwise.strategies import select


def by_definition(probs, left, n, gamma, seed, scaled):
    """Uncertainty plus diversity, to the power gamma, drawn as the largest perturbed log."""
    ordered = np.sort(probs, 1)
    u = 1 - (ordered[:, -1] - ordered[:, -2])
    d, picks, scores = u.copy(), [], []
    stream = Generator(derive(seed, "falcun")).child("draws")
    for turn in range(n):
        may = [row for row in left if row not in picks]
        to_one = d
        if scaled == "draw":
            to_one = (d - d[may].min()) / (d[may].max() - d[may].min())
        keys = np.full(len(probs), -np.inf)
        keys[may] = gamma * np.log((u + to_one)[may])
        keys[may] += stream.gumbel(np.array(may), draw=turn)
        picks.append(int(keys.argmax()))
        scores.append((u + to_one)[picks[-1]])
        d = np.minimum(d, np.abs(probs - probs[picks[-1]]).sum(1))
        if scaled == "kept":
            d = (d - d[left].min()) / (d[left].max() - d[left].min())
    return picks, scores


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gamma", [1.0, 10.0])
@pytest.mark.parametrize("scaled", ["draw", "kept"])
def test_falcun_is_its_definition(seed, gamma, scaled):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(4), size=60)
    left = np.sort(rng.permutation(60)[:45])
    call = {"candidates": left, "gamma": gamma, "seed": seed, "scaled": scaled}
    picks = select("falcun", 15, probs=probs, **call)
    rows, scores = by_definition(probs, left, 15, gamma, seed, scaled)
    assert picks.rows.tolist() == rows
    np.testing.assert_allclose(picks.scores, scores, rtol=1e-9)


def test_copies_of_what_is_drawn_are_drawn_uniformly():
    """Uncertain copies have no diversity left, and no more chance than certain ones."""
    probs = np.array([[0.5, 0.5]] * 4 + [[1.0, 0.0]] * 4)
    third = []
    for seed in range(200):
        picks = select("falcun", 3, probs=probs, seed=seed)
        assert picks.rows[0] < 4
        assert picks.scores.tolist() == [2, 0, 0]
        third.append(picks.rows[2])
    assert 60 < (np.array(third) < 4).sum() < 140


def test_near_copies_of_a_pick_fall_behind():
    tie = [0.5, 0.5, 0.0]
    probs = np.array([tie, tie, tie, [0.0, 0.4, 0.6], [1.0, 0.0, 0.0]])
    for seed in range(20):
        picks = select("falcun", 2, probs=probs, gamma=60, seed=seed)
        assert picks.rows[0] in (0, 1, 2)
        assert picks.rows[1] == 3


def test_a_power_of_zero_is_uniform():
    probs = np.array([[0.5, 0.5], [1.0, 0.0], [0.9, 0.1]])
    first = [select("falcun", 1, probs=probs, gamma=0, seed=seed).rows[0] for seed in range(300)]
    assert np.bincount(first, minlength=3).min() > 70
    assert select("falcun", 3, probs=probs, gamma=1e308).rows.tolist() == [0, 2, 1]
    with pytest.raises(InputError, match="gamma must be a number >= 0"):
        select("falcun", 1, probs=probs, gamma=-1)
    with pytest.raises(InputError, match='scaled must be "draw" or "kept"'):
        select("falcun", 1, probs=probs, scaled="no")
