"""Rotation as a pretext: turns, losses by hand, and what it learns of images."""

import math

import pytest
import torch
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import (
    CrossEntropy,
    Network,
    Recipe,
    ResNet18,
    load_model,
    make_objective,
    model_evidence,
    save_model,
    train,
)
from labelwise.learners.network import NetworkModel
from labelwise.learners.objectives.rotation import rotation_losses, turned


def test_turns_in_both_layouts():
    images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    first = turned(images, True)
    assert torch.equal(first[:2], images)
    for turns in range(4):
        expected = images.rot90(turns, (2, 3))
        assert torch.equal(first[2 * turns : 2 * turns + 2], expected)
    last = turned(images.permute(0, 2, 3, 1), False)
    assert torch.equal(last.permute(0, 3, 1, 2), first)
    corner = first[2, 0, -1, 0]  # a quarter turn takes the upper left corner down
    assert corner == images[0, 0, 0, 0]


def test_losses_by_hand():
    logits = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = rotation_losses(logits)
    for image in range(3):
        total = 0.0
        for turns in range(4):
            scores = [math.exp(float(v)) for v in logits[3 * turns + image]]
            total -= math.log(scores[turns] / sum(scores))
        assert float(found[image]) == pytest.approx(total / 4, rel=1e-12)


def images(count=240, hard=80):
    """Images that are bright above; the last ones have no up and down."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, 1, 8, 8, generator=generator)
    pixels[: count - hard, :, :3] += 1.5
    return pixels[torch.randperm(count, generator=generator)], count - hard


def convolutional(shape, classes):
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 32), nn.ReLU(),
        nn.Linear(32, classes),
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted():
    pixels, _ = images()
    torch.manual_seed(0)
    network = convolutional((1, 8, 8), 2)
    recipe = Recipe(epochs=12, unlabeled_minibatch=48, learning_rate=3e-3)
    none = torch.zeros(0, dtype=torch.int64)
    history, objectives = train(
        network, Rows(pixels), none, none, classes=2, seed=0, recipe=recipe,
        objectives=[make_objective("rotation")],
    )  # fmt: skip
    model = NetworkModel(
        network, classes=2, recipe=recipe, item_shape=(1, 8, 8), signature={}, history=history,
        objectives=objectives,
    )  # fmt: skip
    return model, pixels


def pretext_loss(model, inputs):
    providers = model_evidence(model, inputs, seed=0)
    return next(each for each in providers if each.__name__ == "pretext_loss")()


def test_it_learns_which_way_is_up_where_there_is_one(fitted):
    model, _ = fitted
    generator = torch.Generator().manual_seed(7)
    fresh = torch.randn(100, 1, 8, 8, generator=generator)
    fresh[:50, :, :3] += 1.5
    losses = pretext_loss(model, Rows(fresh))
    assert losses.shape == (100,)
    assert losses[:50].mean() < 0.5
    assert losses[50:].mean() > math.log(4)  # no better than a guess
    assert model.history.losses[-1] < model.history.losses[0]


def test_the_evidence_is_the_mean_of_the_four_losses(fitted):
    model, pixels = fitted
    found = pretext_loss(model, Rows(pixels))
    assert found.dtype == torch.float32
    total = torch.zeros(len(pixels))
    head = model.objectives[0].head
    with torch.no_grad():
        for turns in range(4):
            embeddings = model.network[:-1](pixels.rot90(turns, (2, 3)))
            total += -head(embeddings).log_softmax(1)[:, turns]
    torch.testing.assert_close(found, total / 4, rtol=1e-4, atol=1e-5)


def test_beside_cross_entropy_all_rows_are_turned_and_the_head_is_saved(tmp_path):
    sizes = []

    class Counting(type(make_objective("rotation"))):
        def forward(self, unlabeled, labeled=None):
            def through(inputs, **more):
                sizes.append(len(inputs))
                return type(unlabeled).through(unlabeled, inputs, **more)

            spy = _Spy(unlabeled.inputs, through)
            return super().forward(spy, labeled)

    pixels, _ = images()
    learner = Network(
        convolutional, name="convolutional", objectives=[CrossEntropy(), Counting()],
        epochs=1, min_steps=1, unlabeled_minibatch=30,
    )  # fmt: skip
    rows = torch.arange(20)
    model = learner.fit(Rows(pixels), rows, rows % 2, classes=2, seed=0)
    assert sizes == [4 * 50]
    again = load_model(save_model(model, tmp_path / "model"), learner=learner)
    before, after = (pretext_loss(each, Rows(pixels)) for each in (model, again))
    assert torch.equal(before, after)


def test_what_objectives_learned_is_where_the_network_is():
    moved = []

    class Moving(type(make_objective("rotation"))):
        def to(self, device):
            moved.append(device)
            return super().to(device)

    network = convolutional((1, 8, 8), 2)
    NetworkModel(
        network, classes=2, recipe=Recipe(device="cpu"), item_shape=(1, 8, 8), signature={},
        objectives=[Moving()],
    )  # fmt: skip
    assert moved == [torch.device("cpu")]


class _Spy:
    """A view whose passes are counted."""

    def __init__(self, inputs, through):
        self.inputs = inputs
        self.through = through


def test_pixels_of_a_resnet():
    pixels = torch.randint(0, 256, (40, 8, 8, 3), generator=torch.Generator().manual_seed(0))
    learner = ResNet18(
        width=4, objectives="cross_entropy+rotation:weight=0.5", epochs=1, min_steps=2,
        unlabeled_minibatch=8, device="cpu",
    )  # fmt: skip
    inputs = Rows(pixels.to(torch.uint8))
    rows = torch.arange(8)
    model = learner.fit(inputs, rows, rows % 2, classes=2, seed=0)
    losses = pretext_loss(model, inputs)
    assert losses.shape == (40,)
    assert losses.isfinite().all()
    assert (losses > 0).all()


@pytest.mark.parametrize(
    ("shape", "match"), [((12,), "images"), ((3, 8, 6), "square"), ((8, 6, 1), "square")]
)
def test_what_is_no_square_image_is_refused(shape, match):
    inputs = Rows(torch.randn(20, *shape))
    learner = Network(
        lambda shape, classes: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes)),
        name="flat", objectives="cross_entropy+rotation", epochs=1, min_steps=1,
    )  # fmt: skip
    with pytest.raises(InputError, match=match):
        learner.fit(inputs, torch.arange(4), torch.arange(4) % 2, classes=2, seed=0)
