"""Pseudo-labels: which rows are learned as what, by hand, and that sure rows become many."""

import math

import pytest
import torch

from labelwise.errors import InputError
from labelwise.learners.objectives.pseudo_label import PseudoLabel

LOGITS = [[math.log(9), 0.0], [0.0, math.log(3)], [200.0, -200.0]]
"""Sure to 0.9 and 0.75, and so sure that the other class rounds to nothing."""


def test_the_loss_by_hand(view, step):
    labeled = view([[0.0, 0.0]], labels=[0])
    expected = -math.log(0.9) / 3  # three rows in the mean; the second is unsure
    loss = PseudoLabel(threshold=0.8, warmup=0)(labeled, view(LOGITS), step(0))
    assert loss.item() == pytest.approx(expected)
    everything = PseudoLabel(threshold=0, warmup=0)(labeled, view(LOGITS), step(0))
    assert everything.item() == pytest.approx(-(math.log(0.9) + math.log(0.75)) / 3)
    half = PseudoLabel(threshold=0.8, weight=2.0, warmup=0.4)(labeled, view(LOGITS), step(10))
    assert half.item() == pytest.approx(2 * expected / 4)


def test_a_threshold_that_is_reached_exactly_is_reached():
    even = torch.tensor([[0.5, 0.5]])
    assert PseudoLabel(threshold=0.5).sure(even).tolist() == [True]
    assert PseudoLabel(threshold=0.51).sure(even).tolist() == [False]


def test_the_surest_rows_of_all_are_below_every_entropy(view):
    probs = torch.tensor(LOGITS).softmax(1)
    assert probs[2].tolist() == [1.0, 0.0]  # where 0 log 0 written plainly is no number
    entropies = [-(p * math.log(p) + (1 - p) * math.log(1 - p)) for p in (0.9, 0.75)]
    assert PseudoLabel(max_entropy=5e-5).sure(probs).tolist() == [False, False, True]
    between = sum(entropies) / 2
    assert PseudoLabel(max_entropy=between).sure(probs).tolist() == [True, False, True]


def test_sure_rows_become_many_and_stay_right(waves):
    plain, right = waves("cross_entropy", 0)
    own, still_right = waves("cross_entropy+pseudo_label:threshold=0.6:weight=2:warmup=0.2", 0)
    few, many = ((probs.amax(1) >= 0.9).double().mean().item() for probs in (plain, own))
    assert many > few + 0.1
    assert still_right > right - 3


def test_options_out_of_range():
    with pytest.raises(InputError, match=r"threshold must be in \[0, 1\], got 1.5"):
        PseudoLabel(threshold=1.5)
    with pytest.raises(InputError, match="max_entropy must be above 0 or None, got 0"):
        PseudoLabel(max_entropy=0)
