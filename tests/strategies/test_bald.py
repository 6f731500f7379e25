"""BALD: zero where draws agree, log C where sure draws disagree; PowerBALD by its picker."""

import numpy as np
import pytest
import torch

from labelwise.strategies import select
from labelwise.strategies.bald import bald_scores


def by_definition(draws):
    mean = draws.mean(0)
    total = -(mean * np.log(mean)).sum(1)
    each = -(draws * np.log(draws)).sum(2).mean(0)
    return total - each


@pytest.fixture
def draws():
    return np.random.default_rng(0).dirichlet(np.ones(4) * 0.5, size=(6, 30)) * 0.999 + 0.00025


@pytest.mark.parametrize("size", [None, 7])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_bald_is_its_definition(draws, size, kind, monkeypatch):
    if size:
        monkeypatch.setattr("labelwise.kernels.rows.BLOCK_BYTES", 4 * 24 * size)
    rounded = draws.astype(kind)
    np.testing.assert_allclose(
        bald_scores(rounded), by_definition(rounded.astype(np.float64)), atol=1e-12
    )


def test_bald_by_hand():
    agree = [[[0.3, 0.7]], [[0.3, 0.7]]]
    oppose = [[[1.0, 0.0]], [[0.0, 1.0]]]
    assert float(bald_scores(agree)) == pytest.approx(0, abs=1e-15)
    assert float(bald_scores(oppose)) == pytest.approx(np.log(2))


def test_a_sure_disagreement_goes_before_shared_doubt():
    draws = np.array([[[0.5, 0.5], [0.99, 0.01]], [[0.5, 0.5], [0.01, 0.99]]])
    assert select("bald", 1, draws=draws).rows.tolist() == [1]


def test_draws_on_disk_are_read_in_place(draws, tmp_path):
    np.save(tmp_path / "draws.npy", draws)
    picks = select("bald", 5, draws=tmp_path / "draws.npy")
    assert picks.rows.tolist() == np.argsort(-by_definition(draws))[:5].tolist()


def test_power_bald_draws_in_proportion_to_the_score(draws):
    scores = by_definition(draws)[:3]
    first = [
        select("bald", 1, draws=draws[:, :3], picker="power", seed=s).rows[0] for s in range(1500)
    ]
    law = scores / scores.sum()
    np.testing.assert_allclose(np.bincount(first, minlength=3) / 1500, law, atol=0.05)


def test_power_bald_survives_draws_that_agree():
    draws = torch.full((8, 20, 3), 1 / 3)  # rounding may take BALD below zero
    assert len(set(select("bald", 20, draws=draws, picker="power"))) == 20


def test_per_class_uses_the_mean_of_the_draws(draws):
    picks = select("bald", 8, draws=draws, picker="per_class")
    predicted = draws.mean(0).argmax(1)
    assert len(set(predicted[picks.rows[: len(set(predicted))]])) == len(set(predicted))
