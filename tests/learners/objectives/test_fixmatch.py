"""FixMatch: its loss by hand, and what it gains on images with 20 labels."""

import math

import pytest
import torch
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import Network
from labelwise.learners.objectives.fixmatch import FixMatch

LABELED = {"logits": [[0.0, 0.0]], "labels": [0]}


def test_the_loss_by_hand(view):
    """The label is the weak look's; the mean is over all rows; the weak look has no gradient."""
    weak = torch.tensor([[math.log(19), 0.0], [0.0, math.log(9)]], requires_grad=True)
    strong = torch.tensor([[0.0, math.log(3)], [5.0, 0.0]], requires_grad=True)
    unlabeled = view(weak, strong=strong)
    loss = FixMatch(threshold=0.949, weight=3.0)(view(**LABELED), unlabeled)
    assert loss.item() == pytest.approx(3 * -math.log(0.25) / 2)
    loss.backward()
    assert weak.grad is None
    expected = 3 / 2 * torch.tensor([[0.25 - 1, 0.75], [0.0, 0.0]])
    torch.testing.assert_close(strong.grad, expected)


def test_a_threshold_that_is_reached_exactly_is_reached(view):
    unlabeled = view([[0.0, 0.0]], strong=[[0.0, 0.0]])
    assert FixMatch(threshold=0.5)(view(**LABELED), unlabeled).item() == pytest.approx(math.log(2))
    assert FixMatch(threshold=0.51)(view(**LABELED), unlabeled).item() == 0


def test_it_beats_supervision_alone_with_20_labels(gain):
    assert gain("cross_entropy+fixmatch:threshold=0.8", seeds=3) >= 5


def test_a_learner_without_a_strong_look_is_refused():
    inputs, rows = Rows(torch.eye(8)), torch.arange(4)
    objectives = "cross_entropy+fixmatch"
    learner = Network(lambda shape, c: nn.Linear(8, c), name="linear", objectives=objectives)
    with pytest.raises(InputError, match="wants strong rows"):
        learner.fit(inputs, rows, rows % 2, classes=2, seed=0)


def test_options_out_of_range():
    with pytest.raises(InputError, match=r"threshold must be in \[0, 1\], got -0.1"):
        FixMatch(threshold=-0.1)
    with pytest.raises(InputError, match="weight must be at least 0 and finite, got nan"):
        FixMatch(weight=float("nan"))
