"""ReMixMatch: alignment and loss by twins, rotations, and what it gains with 20 labels."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.learners.objectives.remixmatch import WINDOW, ReMixMatch


def softmax(x):
    return np.exp(x) / np.exp(x).sum(1, keepdims=True)


def prepared(setting, **options):
    objective = ReMixMatch(rotation=0, **options)
    objective.prepare(setting(3, labels=(0, 0, 1, 2)))
    return objective


def test_guesses_get_the_shares_of_the_labels(setting):
    """Twin: a list of the mean guesses of the last minibatches, even ones at first."""
    objective = prepared(setting)
    recent = [np.full(3, 1 / 3)] * WINDOW
    generator = torch.Generator().manual_seed(0)
    for _ in range(WINDOW + 20):
        guess = (torch.randn(6, 3, generator=generator) + torch.tensor([0, 0, 2])).softmax(1)
        p = guess.double().numpy()
        ratio = (np.array([0.5, 0.25, 0.25]) + 1e-6) / (np.mean(recent, 0) + 1e-6)
        expected = p * ratio / (p * ratio).sum(1, keepdims=True)
        np.testing.assert_allclose(objective.align(guess), expected, rtol=1e-4)
        recent = [*recent[1:], p.mean(0)]
    shares = objective.align(guess).mean(0)
    assert abs(shares[2] - 0.25) < abs(guess.mean(0)[2] - 0.25) / 2
    even = prepared(setting, shares="even")
    torch.testing.assert_close(even.wanted, torch.full((3,), 1 / 3))


def test_the_loss_by_definition(view, setting, step):
    generator = torch.Generator().manual_seed(1)
    known, weak, strong = (2 * torch.randn(n, 3, generator=generator) for n in (2, 4, 4))
    labels = torch.tensor([2, 0])
    objective = prepared(setting, strong=2, mixed=3.0, unmixed=0.7, warmup=0.5)
    seed = int(torch.randint(2**62, (1,), generator=setting().generator))
    loss = objective(view(known, labels=labels), view(weak, strong=strong), step(25))

    noise = np.random.default_rng(seed)
    partners = noise.permutation(14)
    own = noise.beta(0.75, 0.75, 14)
    own = np.maximum(own, 1 - own)[:, None]
    guess = softmax(weak.double().numpy())
    guess = guess * (np.array([0.5, 0.25, 0.25]) + 1e-6) / (1 / 3 + 1e-6)
    guess = (guess / guess.sum(1, keepdims=True)) ** 2
    guess = guess / guess.sum(1, keepdims=True)
    x = np.concatenate([known, strong, strong, weak]).astype(np.float64)
    y = np.concatenate([np.eye(3)[labels], guess, guess, guess])
    x, y = own * x + (1 - own) * x[partners], own * y + (1 - own) * y[partners]
    losses = -(y * np.log(softmax(x))).sum(1)
    alone = -(guess * np.log(softmax(strong.double().numpy()))).sum(1).mean()
    expected = losses[:2].mean() + 0.5 * (3 * losses[2:].mean() + 0.7 * alone)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_it_looks_back_at_128_minibatches(setting):
    objective = prepared(setting)
    sure = torch.tensor([[0.0, 0.0, 1.0]])
    for _ in range(64):
        objective.align(sure)
    half = torch.tensor([1 / 6, 1 / 6, 2 / 3])
    torch.testing.assert_close(objective.recent.mean(0), half)


def test_rotations_are_of_the_first_strong_look_and_count_from_the_first_step(
    view, setting, step, monkeypatch
):
    turned = []

    def rotations(self, look):
        turned.append(look)
        return torch.tensor(10.0)

    monkeypatch.setattr(ReMixMatch, "_rotations", rotations)
    strong = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    losses = []
    for weight in (0.0, 0.3):
        objective = prepared(setting, strong=2, warmup=0.5)
        objective.rotation = weight
        unlabeled = view(torch.zeros(4, 3), strong=strong)
        losses.append(objective(view(torch.zeros(2, 3), labels=[0, 1]), unlabeled, step(0)).item())
    assert losses[1] == pytest.approx(losses[0] + 3.0, rel=1e-5)
    assert [look is unlabeled.strong(1) for look in turned] == [True]


def test_rotations_are_told_apart_by_a_head_of_its_own(setting):
    """A network whose embedding is one corner of the image; the head reads the turn off it."""
    objective = ReMixMatch()
    objective.prepare(setting(3, item_shape=(1, 2, 2)))
    corner = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]).repeat(40, 1, 1, 1)
    found = []

    def through(inputs, *, still):
        assert still
        found.append(inputs[:, 0, 0, 0].long())
        return None, inputs[:, 0, :1, 0]

    class Turned:
        inputs = corner

        def __len__(self):
            return 40

    turned = Turned()
    turned.through = through
    objective.turned = torch.nn.Linear(1, 4)
    loss = objective._rotations(turned)
    # Counterclockwise turns bring 0, 1, 3 and 2 to the first corner.
    turns = torch.tensor([0, 1, 3, 2])[found[0]]
    logits = objective.turned(found[0][:, None].float())
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits, turns))
    assert set(turns.tolist()) == {0, 1, 2, 3}


def test_it_beats_supervision_alone_with_20_labels(gain):
    assert gain("remixmatch:strong=2:rotation=0") >= 5


def test_options_out_of_range(setting):
    with pytest.raises(InputError, match="shares must be 'labels' or 'even', got 'pool'"):
        ReMixMatch(shares="pool")
    with pytest.raises(InputError, match=r"rotates images: .*; or set rotation=0"):
        ReMixMatch().prepare(setting())
    with pytest.raises(InputError, match=r"square images, got \(1, 2, 3\): set rotation=0"):
        ReMixMatch().prepare(setting(item_shape=(1, 2, 3)))
