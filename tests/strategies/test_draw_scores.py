"""Scores over draws: mean STD, variation ratio, and the three that average the draws first."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.entropy import entropy_scores
from labelwise.strategies.least_confidence import least_confidence_scores
from labelwise.strategies.margin import margin_scores
from labelwise.strategies.mean_std import mean_std_scores
from labelwise.strategies.variation_ratio import variation_ratio_scores


@pytest.fixture
def draws():
    return np.random.default_rng(0).dirichlet(np.full(4, 0.5), size=(6, 30))


def votes_by_definition(draws):
    out = []
    for row in draws.transpose(1, 0, 2):
        votes = [int(np.argmax(p)) for p in row]
        out.append(1 - max(votes.count(c) for c in votes) / len(votes))
    return np.array(out)


def test_mean_std_by_hand():
    """Class 0 is 0.2, 0.4, 0.6 and class 1 always 0.3: variances 0.08 / 3, 0, 0.08 / 3."""
    draws = [[[0.2, 0.3, 0.5]], [[0.4, 0.3, 0.3]], [[0.6, 0.3, 0.1]]]
    assert float(mean_std_scores(draws)) == pytest.approx(2 * np.sqrt(0.08 / 3) / 3)


def test_variation_ratio_by_hand():
    zero, one, two = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]
    draws = np.array([[zero, zero], [one, zero], [zero, zero], [two, zero], [zero, zero]])
    np.testing.assert_allclose(variation_ratio_scores(draws), [0.4, 0.0], atol=1e-15)


@pytest.mark.parametrize("size", [None, 7])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_both_are_their_definitions(draws, size, kind, monkeypatch):
    if size:
        monkeypatch.setattr("labelwise.kernels.rows.BLOCK_BYTES", 4 * 24 * size)
    rounded = draws.astype(kind)
    exact = rounded.astype(np.float64)
    np.testing.assert_allclose(mean_std_scores(rounded), exact.std(0).mean(1), atol=1e-14)
    np.testing.assert_allclose(
        variation_ratio_scores(rounded), votes_by_definition(exact), atol=1e-15
    )


def test_variation_ratio_counts_votes_and_not_confidence():
    """A tie that every draw breaks alike is no disagreement; least confidence asks for it."""
    unsure, split = [[0.51, 0.49]] * 2, [[0.99, 0.01], [0.01, 0.99]]
    draws = np.array([unsure, split]).transpose(1, 0, 2)
    assert variation_ratio_scores(draws).tolist() == [0.0, 0.5]
    assert select("variation_ratio", 1, draws=draws).rows.tolist() == [1]
    assert select("mean_std", 1, draws=draws).rows.tolist() == [1]


def test_a_single_draw_says_nothing_of_variation(draws):
    assert not mean_std_scores(draws[:1]).any()
    assert not variation_ratio_scores(draws[:1]).any()


@pytest.mark.parametrize(
    ("name", "score"),
    [
        ("entropy", entropy_scores),
        ("margin", margin_scores),
        ("least_confidence", least_confidence_scores),
    ],
)
def test_predictions_are_averaged_before_they_are_scored(name, score, draws):
    """Averaging scores instead would ask for other rows."""
    picks = select(name, 5, draws=draws)
    of_mean = score(draws.mean(0))
    assert picks.rows.tolist() == np.argsort(-of_mean.numpy())[:5].tolist()
    np.testing.assert_allclose(picks.scores, of_mean[picks.rows], atol=1e-12)
    mean_of = np.mean([score(draw).numpy() for draw in draws], 0)
    assert picks.rows.tolist() != np.argsort(-mean_of)[:5].tolist()


@pytest.mark.parametrize("score", [mean_std_scores, variation_ratio_scores])
def test_draws_that_are_no_distributions_are_refused(score):
    with pytest.raises(InputError, match="row 0 of draw 1"):
        score([[[0.5, 0.5]], [[2.0, 1.0]]])
