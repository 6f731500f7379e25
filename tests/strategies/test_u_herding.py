"""UHerding against its definition, and how it adapts."""

import numpy as np
import pytest
import torch
from tests.strategies.test_max_herding import check, unit

from labelwise.errors import InputError
from labelwise.evidence import Rows
from labelwise.strategies import get_strategy, select
from labelwise.strategies.u_herding import (
    calibrated_temperature,
    calibration_error,
    closest_pair,
)


@pytest.mark.parametrize("seed", range(5))
def test_u_herding_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    x, labeled = rng.normal(size=(70, 3)), rng.permutation(70)[:6]
    logits = 6 * rng.normal(size=(70, 3))
    tempered = torch.from_numpy(logits / 2.5).softmax(1).sort(1).values.numpy()
    weights = 1 - (tempered[:, 2] - tempered[:, 1])
    u = unit(x)
    distance = np.sqrt(((u[labeled][:, None] - u[labeled]) ** 2).sum(2))
    sigma = distance[np.triu_indices(6, 1)].min()
    picks = select("u_herding", 12, logits=logits, embeddings=x, labeled=labeled, temperature=2.5)
    check(picks, u, sigma, 1.0, weights, labeled)
    assert picks.notes[0] == f"sigma = {sigma:.4g}"


def test_temperature_and_width_are_fitted_to_the_labeled_rows_in_any_order():
    rng = np.random.default_rng(6)
    x, logits = rng.normal(size=(80, 3)), 8 * rng.normal(size=(80, 3))
    labeled = rng.permutation(80)[:30]
    labels = (logits + 4 * rng.normal(size=(80, 3))).argmax(1)[labeled]
    probs = torch.from_numpy(logits).softmax(1)
    temperature = calibrated_temperature(probs[labeled], torch.from_numpy(labels))
    assert 1.5 < temperature < 10
    fitted = select(
        "u_herding", 9, probs=probs, embeddings=x, labeled=labeled, labels=labels, sigma=0.3
    )
    said = select(
        "u_herding",
        9,
        probs=probs,
        embeddings=x,
        labeled=labeled,
        sigma=0.3,
        temperature=temperature,
    )
    assert f"temperature = {temperature:.4g}" in fitted.notes
    assert fitted.rows.tolist() == said.rows.tolist()
    cold = select("u_herding", 9, probs=probs, embeddings=x, labeled=labeled, sigma=0.3)
    assert cold.rows.tolist() != said.rows.tolist()
    assert get_strategy("u_herding").options == {
        "temperature": None,
        "sigma": None,
        "first_sigma": 1.0,
        "divisor": 1.0,
        "normalize": True,
        "dense": False,
    }


def test_with_nothing_labeled_u_herding_is_max_herding():
    rng = np.random.default_rng(3)
    x, logits = rng.normal(size=(60, 3)), 9 * rng.normal(size=(60, 4))
    one = select("u_herding", 9, embeddings=x, logits=logits)
    two = select("max_herding", 9, embeddings=x)
    np.testing.assert_allclose(one.scores, two.scores, rtol=1e-5)  # rows may differ by a tie
    assert any("count alike" in note for note in one.notes)


def test_when_no_row_is_uncertain_all_count_alike():
    x = np.random.default_rng(7).normal(size=(40, 3))
    sure = np.tile([1.0, 0.0], (40, 1))
    picks = select("u_herding", 6, embeddings=x, probs=sure, labeled=[3], temperature=1.0, sigma=1)
    alike = select("max_herding", 6, embeddings=x, labeled=[3])
    np.testing.assert_allclose(picks.scores, alike.scores, rtol=1e-5)  # rows may differ by a tie
    assert picks.notes == ("no row is uncertain, so all rows count alike",)


def test_balls_of_one_row_make_u_herding_margin():
    rng = np.random.default_rng(4)
    x, logits = rng.normal(size=(60, 3)), rng.normal(size=(60, 4))
    picks = select(
        "u_herding", 9, embeddings=x, logits=logits, labeled=[0], sigma=1e-5, temperature=1.0
    )
    margin = select("margin", 9, logits=logits, labeled=[0])
    assert picks.rows.tolist() == margin.rows.tolist()


def test_the_temperature_undoes_overconfidence():
    rng = np.random.default_rng(5)
    logits = torch.from_numpy(rng.normal(size=(4000, 3)) * 1.5)
    truth = torch.multinomial(
        logits.softmax(1), 1, generator=torch.Generator().manual_seed(0)
    ).flatten()
    for scale in (1.0, 4.0):
        found = calibrated_temperature((scale * logits).softmax(1), truth)
        assert found == pytest.approx(scale, rel=0.15)
    # With no guess right the flattest predictions err least.
    wrong = torch.tensor([[0.99, 0.01]] * 4)
    assert calibrated_temperature(wrong, torch.ones(4, dtype=torch.int64)) == 20.0


def test_the_calibration_error_by_hand():
    confidence = np.array([0.2, 0.4, 0.9, 1.0])
    right = np.array([False, True, True, False])
    # Bins (0, 0.5] and (0.5, 1]: |0.6 - 1| + |1.9 - 1|, of 4.
    assert calibration_error(confidence, right, 2) == pytest.approx((0.4 + 0.9) / 4)


def test_sigma_is_the_smallest_distance_that_is_not_zero():
    x = np.array([[0.0], [0.0], [0.0], [5.0], [5.0], [7.0], [0.1]])
    rows = Rows(x, "embeddings")
    assert closest_pair(rows, torch.arange(6), False) == pytest.approx(2.0)
    assert closest_pair(rows, torch.arange(3), False) is None
    assert closest_pair(rows, torch.tensor([3]), False) is None


def test_bad_options():
    x = np.eye(3)
    with pytest.raises(InputError, match="temperature must be a positive number"):
        select("u_herding", 1, embeddings=x, probs=x, temperature=0)
    assert len(select("u_herding", 1, embeddings=x, probs=x, temperature=10**30)) == 1
    with pytest.raises(InputError, match="first_sigma must be a positive number"):
        select("u_herding", 1, embeddings=x, probs=x, first_sigma=0)
    with pytest.raises(InputError, match="u_herding compares the two likeliest classes"):
        select("u_herding", 1, embeddings=x, probs=[[1.0]] * 3)
    with pytest.raises(InputError, match="labels must be columns of probs"):
        select("u_herding", 1, embeddings=x, probs=x, labeled=[0], labels=[7])
