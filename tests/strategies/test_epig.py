"""EPIG: mutual information of labels, summed over all pairs of classes by hand."""

import numpy as np
import pytest
import torch
from tests.test_battery import make_pool

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.bald import bald_scores
from labelwise.strategies.epig import epig_scores


def by_definition(draws, targets):
    """mean_t KL(joint || product of marginals), class by class."""
    scores = np.zeros(draws.shape[1])
    for i in range(draws.shape[1]):
        for t in range(targets.shape[1]):
            for y in range(draws.shape[2]):
                for z in range(draws.shape[2]):
                    joint = np.mean([d[i, y] * e[t, z] for d, e in zip(draws, targets)])
                    apart = draws[:, i, y].mean() * targets[:, t, z].mean()
                    scores[i] += joint * np.log(joint / apart) if joint > 0 else 0
    return scores / targets.shape[1]


def make(seed, samples=5, size=9, classes=3):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), size=(samples, size))


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_their_definition(seed):
    draws, targets = make(seed), make(seed + 100, size=4)
    scores = epig_scores(draws, targets).numpy()
    np.testing.assert_allclose(scores, by_definition(draws, targets), atol=1e-12)


def test_by_hand():
    """Two draws that know: the row's label says which draw it is, and so the target's."""
    a, b = [1.0, 0.0], [0.0, 1.0]
    draws = np.array([[a, a, [0.5, 0.5]], [b, a, [0.5, 0.5]]])
    knows = np.array([[a], [b]])
    np.testing.assert_allclose(epig_scores(draws, knows), [np.log(2), 0, 0], atol=1e-12)
    # The same row, where the draws agree about the target: nothing to gain there.
    np.testing.assert_allclose(epig_scores(draws, knows[:1].repeat(2, 0)), [0, 0, 0], atol=1e-12)


def test_irrelevant_disagreement_is_not_asked_about():
    """Draws 0, 1 and 2, 3 differ about row 0, but all four agree in pairs about the target."""
    a, b, c = [0.99, 0.01], [0.01, 0.99], [0.8, 0.2]
    obscure = np.array([[a, c], [b, c], [a, c[::-1]], [b, c[::-1]]])
    target = np.array([[a], [a], [b], [b]])
    assert bald_scores(obscure).argmax() == 0
    assert epig_scores(obscure, target).argmax() == 1
    assert select("bald", 1, draws=obscure).rows.tolist() == [0]
    assert select("epig", 1, draws=obscure, target_draws=target).rows.tolist() == [1]


def test_blocks_do_not_matter(monkeypatch):
    draws, targets = make(1, size=30), make(2, size=13)
    whole = epig_scores(draws, targets)
    monkeypatch.setattr("labelwise.strategies.epig._BLOCK_NUMBERS", 40)
    torch.testing.assert_close(epig_scores(draws, targets), whole)


def test_rounded_draws_are_divided_by_their_sum():
    draws, targets = make(3), make(4)
    scaled = epig_scores(draws * 1.005, targets * 0.995)
    torch.testing.assert_close(scaled, epig_scores(draws, targets))


def test_without_targets_rows_of_the_pool_are_taken():
    draws = make_pool()[0]["draws"]
    picks = select("epig", 5, draws=draws, targets=7)
    assert picks.notes == ("no target_draws: 7 rows of the pool are the targets",)
    whole = select("epig", 5, draws=draws, targets=None)
    assert whole.notes == ("no target_draws: 120 rows of the pool are the targets",)
    expected = epig_scores(draws, draws)
    assert whole.rows.tolist() == expected.argsort(descending=True)[:5].tolist()
    np.testing.assert_allclose(whole.scores, expected[whole.rows])
    assert select("epig", 5, draws=draws).notes[0].startswith("no target_draws: 100 rows")


def test_more_targets_than_wanted_are_sampled():
    draws, targets = make(5, size=40), make(6, size=30)
    every = select("epig", 4, draws=draws, target_draws=targets)
    assert every.notes == ()
    np.testing.assert_allclose(every.scores, epig_scores(draws, targets)[every.rows])
    one = [select("epig", 4, draws=draws, target_draws=targets, targets=1, seed=s) for s in (1, 2)]
    assert one[0].scores.tolist() != one[1].scores.tolist()
    singles = torch.stack([epig_scores(draws, targets[:, [t]]) for t in range(30)])
    for picks in one:
        near = np.isclose(singles[:, picks.rows].numpy(), picks.scores).all(1)
        assert near.sum() == 1


def test_files(tmp_path):
    draws, targets = make(7, size=40), make(8, size=30)
    np.save(tmp_path / "t.npy", targets)
    picks = select("epig", 4, draws=draws, target_draws=targets, targets=9)
    told = select("epig", 4, draws=draws, target_draws=str(tmp_path / "t.npy"), targets=9)
    assert told.rows.tolist() == picks.rows.tolist()


def test_what_is_refused():
    draws = make(0)
    with pytest.raises(InputError, match="targets must be a whole number >= 1 or None, got 0"):
        select("epig", 2, draws=draws, targets=0)
    with pytest.raises(InputError, match="says the number of draws is 4, but draws"):
        select("epig", 2, draws=draws, target_draws=make(1, samples=4))
    with pytest.raises(InputError, match="number of classes is"):
        epig_scores(draws, make(1, classes=4))
    wrong = make(1)
    wrong[1, 0] *= 2
    with pytest.raises(InputError, match="target_draws: row 0 of draw 1"):
        select("epig", 2, draws=draws, target_draws=wrong)
