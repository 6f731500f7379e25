"""DALBT queries by the uncertainty of a classifier that was trained along with Barlow Twins."""

import numpy as np
import pytest
import torch
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import Looks, Network, model_evidence
from labelwise.strategies import select


@pytest.mark.parametrize("criterion", ["entropy", "margin", "least_confidence"])
def test_it_picks_by_its_criterion(criterion):
    probs = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)).mul(2).softmax(1)
    picks = select("dalbt", 9, probs=probs, criterion=criterion)
    plain = select(criterion, 9, probs=probs)
    assert picks.rows.tolist() == plain.rows.tolist()
    assert picks.scores.tolist() == plain.scores.tolist()


def test_criteria_differ_and_entropy_is_the_default():
    probs = [[0.5, 0.5, 0.0], [0.52, 0.24, 0.24], [0.6, 0.2, 0.2]]
    firsts = [
        select("dalbt", 1, probs=probs, criterion=criterion).rows[0]
        for criterion in ("entropy", "margin")
    ]
    assert firsts == [1, 0]
    assert select("dalbt", 1, probs=probs).rows.tolist() == [1]
    with pytest.raises(InputError, match=r"criterion must be known, got 'entropi'.*entropy"):
        select("dalbt", 1, probs=probs, criterion="entropi")


def test_the_whole_of_it_on_a_small_pool():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(120) % 3
    inputs = 3 * torch.randn(3, 6, generator=generator)[labels]
    inputs += torch.randn(120, 6, generator=generator)

    def network(shape, classes):
        return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, classes))

    def distort(given, generator):
        return given + 0.5 * torch.randn(given.shape, generator=generator)

    learner = Network(
        network,
        name="small",
        objectives="cross_entropy+barlow_twins:hidden=16:width=8",
        looks=Looks(distorted=distort),
        min_steps=60,
    )
    rows = torch.arange(6)
    model = learner.fit(Rows(inputs), rows, labels[rows], classes=3, seed=0)
    picks = select(
        "dalbt", 10, providers=model_evidence(model, Rows(inputs), seed=0), labeled=rows.numpy()
    )
    entropy = torch.special.entr(model.predict(Rows(inputs)).probs).sum(1).numpy()
    free = np.arange(6, 120)
    assert set(picks) == set(free[np.argsort(-entropy[free])][:10])
