"""What makes image training fast is in the loop: layout, precision, the one-cycle schedule."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from labelwise.kernels import Rows
from labelwise.learners import Objective, Recipe, ResNet18, train

LAST = torch.channels_last


class Watched(ResNet18):
    """Notes of every convolution in training what it is given and makes."""

    def build(self, inputs, classes, seed):
        network = super().build(inputs, classes, seed)
        self.seen, self.made = [], network

        def see(layer, given, made):
            if layer.training:
                self.seen.append((given[0], layer.weight, made))

        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(see)
        return network


def watched(precision="float32", channels_first=False, **options):
    shape = (12, 3, 16, 16) if channels_first else (12, 16, 16, 3)
    pixels = torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).byte()
    learner = Watched(width=4, epochs=1, min_steps=0, minibatch=6, precision=precision, **options)
    rows = torch.arange(12)
    learner.fit(Rows(pixels), rows, rows % 2, classes=2, seed=0)
    # 17 convolutions and 3 shortcuts, twice
    assert len(learner.seen) == 2 * 20
    return learner


@pytest.mark.parametrize("channels_first", [False, True])
def test_channels_are_last_from_pixels_to_gradients(channels_first):
    learner = watched(channels_first=channels_first)
    for given, weight, made in learner.seen:
        assert given.is_contiguous(memory_format=LAST)
        assert weight.is_contiguous(memory_format=LAST)
        assert made.is_contiguous(memory_format=LAST)
        # Of one pixel, or to one channel, both layouts are one.
        assert not given.is_contiguous() or 1 in (given.shape[1], given.shape[2])
    gradients = [p.grad for p in learner.made.parameters() if p.ndim == 4]
    assert len(gradients) == 20
    assert all(each.is_contiguous(memory_format=LAST) for each in gradients)


@pytest.mark.parametrize(
    ("precision", "kind"), [("float32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_convolutions_run_in_the_precision_asked_for_and_weights_stay(precision, kind):
    learner = watched(precision)
    assert {made.dtype for _, _, made in learner.seen} == {kind}
    assert {weight.dtype for _, weight, _ in learner.seen} == {torch.float32}
    assert {each.dtype for each in learner.made.state_dict().values()} <= {
        torch.float32,
        torch.int64,
    }


class Slope(Objective):
    """A loss whose gradient is one everywhere, so that a step of SGD is its learning rate."""

    def __init__(self):
        super().__init__()
        self.weights, self.told = [], []

    def forward(self, network, step):
        self.told.append(step.learning_rate)
        return network.weight.sum() + network.bias.sum()

    def after_step(self, network):
        self.weights.append(network.weight.detach().clone())

    def signature(self):
        return {"name": "slope"}


def test_one_cycle_is_what_the_weights_move_by():
    peak = 0.5
    network = nn.Linear(3, 2).double()
    recipe = Recipe(
        optimizer="sgd",
        momentum=0.0,
        learning_rate=peak,
        schedule="one_cycle",
        warmup=0.25,
        epochs=8,
        minibatch=2,
    )
    start = network.weight.detach().clone()
    rows = torch.arange(10)
    trained = train(
        network,
        Rows(torch.zeros(10, 3, dtype=torch.float64)),
        rows,
        rows % 2,
        classes=2,
        seed=0,
        recipe=recipe,
        objectives=[Slope()],
    )
    (slope,) = trained.objectives
    weights = [start, *slope.weights]
    moved = [(a - b).mean().item() for a, b in pairwise(weights)]
    expected = [peak / 25 + (peak - peak / 25) * step / 10 for step in range(10)]
    expected += [peak / 2 * (1 + math.cos(math.pi * step / 30)) for step in range(30)]
    assert moved == pytest.approx(expected, abs=1e-9)
    assert slope.told == pytest.approx(moved, abs=1e-9)
    assert max(moved) == pytest.approx(peak)
