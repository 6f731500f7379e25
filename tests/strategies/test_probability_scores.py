"""Margin, least confidence, entropy: by hand, by definition, and where precision ends."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.entropy import entropy_scores
from labelwise.strategies.least_confidence import least_confidence_scores
from labelwise.strategies.margin import margin_scores

BY_HAND = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.4, 0.2], [1.0, 0.0, 0.0]])


def test_margin_by_hand():
    expected = torch.tensor([0.7, 1.0, 0.0]).double()
    torch.testing.assert_close(margin_scores(BY_HAND), expected)


def test_least_confidence_by_hand():
    expected = torch.tensor([0.4, 0.6, 0.0]).double()
    torch.testing.assert_close(least_confidence_scores(BY_HAND), expected)


def test_entropy_by_hand():
    expected = [-(0.6 * np.log(0.6) + 0.3 * np.log(0.3) + 0.1 * np.log(0.1)), 1.0549, 0.0]
    np.testing.assert_allclose(entropy_scores(BY_HAND), expected, atol=1e-4)
    certain = entropy_scores([[1.0, 0.0]])
    assert not torch.signbit(certain).any()
    even = np.full((1, 7), 1 / 7)
    assert float(entropy_scores(even)) == pytest.approx(np.log(7))  # nats


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [None, 7])
def test_scores_are_their_definitions_in_every_type_and_block(kind, size, monkeypatch):
    if size:
        monkeypatch.setattr("labelwise.kernels.rows.BLOCK_BYTES", 4 * 5 * size)
    probs = np.random.default_rng(0).dirichlet(np.ones(5), size=40).astype(kind)
    exact = probs.astype(np.float64)
    ordered = np.sort(exact, 1)
    np.testing.assert_allclose(
        margin_scores(probs), 1 - ordered[:, -1] + ordered[:, -2], atol=1e-12
    )
    np.testing.assert_allclose(least_confidence_scores(probs), 1 - ordered[:, -1], atol=1e-12)
    np.testing.assert_allclose(entropy_scores(probs), -(exact * np.log(exact)).sum(1), atol=1e-6)


def test_a_saturated_softmax_still_orders_rows_by_entropy():
    logits = torch.tensor([[40.0, 0.0, 0.0], [60.0, 0.0, 0.0], [30.0, 0.0, 0.0]])
    assert float(torch.softmax(logits, 1)[1].max()) == 1.0  # float32 has no digits left
    assert select("entropy", 3, logits=logits).rows.tolist() == [2, 0, 1]


def test_ties_of_a_saturated_softmax_do_not_follow_row_order():
    logits = np.zeros((2000, 3), np.float32)
    logits[:, 0] = 500
    for name in ("entropy", "margin", "least_confidence"):
        picks = select(name, 200, logits=logits)
        assert 700 < picks.rows.mean() < 1300
        assert np.ptp(picks.scores) == 0


def test_the_three_agree_on_two_classes():
    p = np.random.default_rng(1).random(50)
    probs = np.stack([p, 1 - p], 1)
    expected = np.argsort(np.abs(p - 0.5))[:10].tolist()
    for name in ("entropy", "margin", "least_confidence"):
        assert select(name, 10, probs=probs).rows.tolist() == expected


def test_the_three_differ_on_more():
    probs = np.array([[0.5, 0.49, 0.01], [0.36, 0.33, 0.31], [0.35, 0.345, 0.305]])
    assert select("margin", 1, probs=probs).rows.tolist() == [2]
    probs[2] = [0.6, 0.2, 0.2]
    assert select("margin", 1, probs=probs).rows.tolist() == [0]
    assert select("least_confidence", 1, probs=probs).rows.tolist() == [1]
    assert select("entropy", 2, probs=probs).rows.tolist() == [1, 2]


def test_margin_needs_two_classes():
    with pytest.raises(InputError, match="two likeliest classes, but probs has one column"):
        margin_scores([[1.0], [1.0]])


@pytest.mark.parametrize("name", ["entropy", "margin", "least_confidence"])
@pytest.mark.parametrize("picker", ["power", "per_cost"])
def test_a_row_that_holds_a_little_more_than_one_scores_zero(name, picker):
    probs = np.array([[1.004, 0.0], [0.9, 0.1], [1.0, 0.0]])
    picks = select(name, 3, probs=probs, picker=picker, costs=np.ones(3))
    assert picks.rows[0] == 1
    assert picks.scores[1:].tolist() == [0, 0]


@pytest.mark.parametrize("score", [margin_scores, least_confidence_scores, entropy_scores])
def test_scores_refuse_logits(score):
    with pytest.raises(InputError, match=r"row 1 .* pass them as logits="):
        score([[0.5, 0.5], [3.0, 1.0]])
