"""FALCUN against a plain loop with the same noise, and what it is for."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.kernels import Generator, derive
from labelwise.strategies import select


def by_definition(probs, left, n, gamma, seed):
    """Uncertainty plus diversity, to the power gamma, drawn as the largest perturbed log."""
    ordered = np.sort(probs, 1)
    u = 1 - (ordered[:, -1] - ordered[:, -2])
    d, picks, scores = u.copy(), [], []
    stream = Generator(derive(seed, "falcun")).child("draws")
    for turn in range(n):
        chances = (u + d) ** gamma
        chances[picks] = 0
        keys = np.full(len(probs), -np.inf)
        may = [row for row in left if row not in picks]
        keys[may] = np.log(chances[may]) + stream.gumbel(np.array(may), draw=turn)
        picks.append(int(keys.argmax()))
        scores.append((u + d)[picks[-1]])
        d = np.minimum(d, np.abs(probs - probs[picks[-1]]).sum(1))
        some = d[left]
        d = (d - some.min()) / (some.max() - some.min())
    return picks, scores


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gamma", [1.0, 10.0])
def test_falcun_is_its_definition(seed, gamma):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(4), size=60)
    left = np.sort(rng.permutation(60)[:45])
    picks = select("falcun", 15, probs=probs, candidates=left, gamma=gamma, seed=seed)
    rows, scores = by_definition(probs, left, 15, gamma, seed)
    assert picks.rows.tolist() == rows
    np.testing.assert_allclose(picks.scores, scores, rtol=1e-9)


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
    with pytest.raises(InputError, match="gamma must be a number >= 0"):
        select("falcun", 1, probs=probs, gamma=-1)
