"""MixMatch: its loss by a float64 twin, its statistics, and what it gains with 20 labels."""

import numpy as np
import pytest
import torch
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import Recipe, train
from labelwise.learners.objectives.mixmatch import MixMatch


def test_the_loss_by_definition(view, setting, step):
    """The network gives its inputs back, so the twin needs only the same shares and partners."""
    generator = torch.Generator().manual_seed(1)
    known, first, second = (2 * torch.randn(n, 3, generator=generator) for n in (2, 4, 4))
    labels = torch.tensor([2, 0])
    objective = MixMatch(weight=10.0, temperature=0.5, beta=0.6, warmup=0.5)
    objective.prepare(setting(3))
    loss = objective(view(known, labels=labels), view(first, weak=second), step(25))

    seed = int(torch.randint(2**62, (1,), generator=setting().generator))
    noise = np.random.default_rng(seed)
    partners = noise.permutation(10)
    own = noise.beta(0.6, 0.6, 10)
    own = np.maximum(own, 1 - own)[:, None]

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    x = np.concatenate([known, first, second]).astype(np.float64)
    guess = (softmax(x[2:6]) + softmax(x[6:])) / 2
    guess = guess**2 / (guess**2).sum(1, keepdims=True)
    y = np.concatenate([np.eye(3)[labels], guess, guess])
    x, y = own * x + (1 - own) * x[partners], own * y + (1 - own) * y[partners]
    supervised = -(y[:2] * np.log(softmax(x[:2]))).sum(1).mean()
    apart = np.square(softmax(x[2:]) - y[2:]).mean()
    assert loss.item() == pytest.approx(supervised + 10 * 0.5 * apart, rel=1e-5)


def test_one_pass_counts_for_the_running_statistics():
    """Guesses leave them be; the mixtures of all rows are one minibatch."""
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
    sizes = []
    network[0].register_forward_hook(lambda layer, given, made: sizes.append(len(made)))
    inputs, rows = Rows(torch.randn(40, 3)), torch.arange(6)
    recipe = Recipe(epochs=5, minibatch=8, unlabeled_minibatch=10)
    train(
        network,
        inputs,
        rows,
        rows % 2,
        classes=2,
        seed=0,
        recipe=recipe,
        objectives=[MixMatch()],
    )
    assert sizes == [10, 10, 26] * 5
    assert network[1].num_batches_tracked == 5


def test_it_beats_supervision_alone_with_20_labels(gain):
    assert gain("mixmatch:weight=10:warmup=0.4") >= 5


def test_options_out_of_range():
    with pytest.raises(InputError, match="looks must be at least 1, got 0"):
        MixMatch(looks=0)
    with pytest.raises(InputError, match="temperature must be above 0, got 0"):
        MixMatch(temperature=0)
    with pytest.raises(InputError, match="beta must be above 0 and finite, got -1"):
        MixMatch(beta=-1)
