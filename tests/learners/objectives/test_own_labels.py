"""What objectives share that let the network label rows, and bad input to all of them."""

import pytest
import torch
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import Checkpoint, Looks, Network, Objective, Recipe, make_objective, train
from labelwise.learners.objectives import parse_objectives
from labelwise.learners.objectives.own_labels import (
    Mixer,
    mixed,
    ramp,
    sharpen,
    soft_cross_entropy,
)


def test_sharpening_by_definition():
    probs = torch.tensor([[0.5, 0.3, 0.2], [1.0, 0.0, 0.0]])
    powers = probs.double() ** 4
    expected = (powers / powers.sum(1, keepdim=True)).float()
    torch.testing.assert_close(sharpen(probs, 0.25), expected)
    torch.testing.assert_close(sharpen(probs, 1.0), probs)
    assert sharpen(probs, 1e-6).tolist() == [[1, 0, 0], [1, 0, 0]]  # powers round to 0 / 0


def test_soft_cross_entropy_of_hard_targets_is_the_hard_one():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    hard = nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(soft_cross_entropy(logits, torch.eye(3)[labels]), hard)


def test_a_row_stays_more_like_itself():
    mixer = Mixer(0.75, torch.Generator().manual_seed(0))
    rows = torch.eye(2000)
    inputs, targets = mixer.mix(rows, rows)
    torch.testing.assert_close(inputs, targets)  # one share and one partner for both
    own = inputs.diagonal()
    assert own.min() >= 0.5
    torch.testing.assert_close(inputs.sum(1), torch.ones(2000))
    # Beta(0.75, 0.75), folded: twice its density on [0.5, 1]; the mean by 200,000 draws
    drawn = torch.distributions.Beta(0.75, 0.75).sample((200_000,))
    assert own.mean().item() == pytest.approx(
        torch.maximum(drawn, 1 - drawn).mean().item(), abs=0.01
    )
    others = inputs - own.diag()
    assert (others > 0).sum(0).max() == 1  # partners are drawn without replacement


def test_pixels_are_mixed_and_stay_pixels_and_tokens_are_refused():
    pixels = torch.tensor([[0], [203]], dtype=torch.uint8)
    partners, shares = torch.tensor([1, 0]), torch.tensor([0.25, 0.25])
    both, _ = mixed(pixels, torch.eye(2), partners, shares)
    assert both.dtype == torch.uint8
    assert both.tolist() == [[51], [152]]  # 50.75 and 152.25
    with pytest.raises(InputError, match=r"rows of torch\.int64 cannot be mixed"):
        mixed(pixels.long(), torch.eye(2), partners, shares)


def test_no_warmup_is_the_whole_weight(step):
    assert [ramp(step(n), 0.0) for n in (0, 50)] == [1.0, 1.0]
    assert [ramp(step(n), 1.0) for n in (0, 25, 99)] == [0.0, 0.25, 0.99]


class _Levels(nn.Module):
    """As pretrained networks take images: whole numbers are 0..255, fractions 0..1."""

    def forward(self, images):
        levels = images if images.is_floating_point() else images.float() / 255
        assert levels.max() <= 1
        return levels.flatten(1)


@pytest.mark.parametrize("objective", ["mixmatch", "remixmatch:strong=1"])
def test_networks_that_tell_pixels_from_fractions_by_type_see_mixtures_as_pixels(objective):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (30, 3, 5, 5), generator=generator).to(torch.uint8)
    learner = Network(
        lambda shape, classes: nn.Sequential(_Levels(), nn.Linear(75, classes)),
        name="levels",
        objectives=objective,
        looks=Looks(strong=lambda images, generator: 255 - images),
        epochs=1,
        min_steps=3,
    )
    rows = torch.arange(8)
    model = learner.fit(Rows(pixels), rows, rows % 2, classes=2, seed=0)
    assert torch.tensor(model.history.losses).max() < 100


NAMES = (
    "cross_entropy+joint_entropy",
    "cross_entropy+pseudo_label:threshold=0",
    "cross_entropy+fixmatch:threshold=0",
    "cross_entropy+flexmatch",
    "cross_entropy+freematch",
    "mixmatch",
    "remixmatch:strong=2",
)


def tiny(shape, classes):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, classes)
    )


def noisy(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


@pytest.mark.parametrize("objectives", NAMES)
@pytest.mark.parametrize(("labeled", "unlabeled"), [(3, 2), (1, 1), (2, 50), (40, 3)])
def test_few_labels_and_small_pools(objectives, labeled, unlabeled):
    generator = torch.Generator().manual_seed(0)
    inputs = Rows(torch.randn(labeled + unlabeled, 1, 5, 5, generator=generator))
    rows = torch.arange(labeled)
    learner = Network(
        tiny,
        name="tiny",
        objectives=objectives,
        looks=Looks(noisy, noisy),
        epochs=2,
        min_steps=3,
        minibatch=16,
        unlabeled_minibatch=16,
    )
    fits = [learner.fit(inputs, rows, rows % 2, classes=3, seed=4) for _ in range(2)]
    assert fits[0].history.steps >= 3
    assert torch.tensor(fits[0].history.losses).isfinite().all()
    probs = [fit.predict(inputs).probs for fit in fits]
    assert torch.equal(*probs)  # the seed decides everything
    assert probs[0].isfinite().all()


@pytest.mark.parametrize(
    ("objective", "sizes"),
    [
        ("joint_entropy", [16]),
        ("pseudo_label", [16]),
        ("tod", [16, 16]),
        ("waal", [16]),
        ("fixmatch", [26]),
        ("flexmatch", [26]),
        ("freematch", [26]),
    ],
)
def test_all_rows_of_a_step_are_one_minibatch_of_batch_normalization(objective, sizes):
    """Labeled rows, unlabeled ones and hard looks at them; TOD's average sees what they do."""
    network = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    seen = []
    network[1].register_forward_hook(lambda layer, given, made: seen.append(len(made)))
    train(
        network,
        Rows(torch.randn(30, 3)),
        torch.arange(6),
        torch.arange(6) % 2,
        classes=2,
        seed=0,
        recipe=Recipe(epochs=1, unlabeled_minibatch=10),
        objectives=parse_objectives(f"cross_entropy+{objective}"),
        looks=Looks(strong=noisy),
    )
    assert seen == sizes


@pytest.mark.parametrize("objectives", NAMES)
def test_options_come_back_from_the_signature(objectives):
    name = objectives.split("+")[-1].split(":")[0]
    signature = make_objective(name).signature()
    assert signature["name"] == name
    assert make_objective(**signature).signature() == signature


class Gone(Exception):
    """The process is no more."""


END = []  # outside of what a checkpoint restores


class Breaking(Objective):
    """Breaks a fit off at a step."""

    def forward(self, labeled, step):
        if step.number in END:
            raise Gone
        return 0 * labeled.logits.sum()

    def signature(self):
        return {"name": "breaking"}


@pytest.mark.parametrize("objectives", NAMES[3:])
def test_a_fit_broken_off_goes_on_with_counts_averages_and_mixtures(objectives, tmp_path):
    generator = torch.Generator().manual_seed(0)
    inputs = Rows(torch.randn(40, 1, 5, 5, generator=generator))
    rows = torch.arange(6)

    def weights(folder, *end):
        END[:] = end
        network = tiny((1, 5, 5), 3)
        for each in network.parameters():
            each.data.copy_(torch.linspace(-0.5, 0.5, each.numel()).reshape(each.shape))
        train(
            network,
            inputs,
            rows,
            rows % 3,
            classes=3,
            seed=0,
            recipe=Recipe(epochs=6, unlabeled_minibatch=10, learning_rate=0.05),
            objectives=[*parse_objectives(objectives), Breaking()],
            looks=Looks(noisy, noisy),
            checkpoint=Checkpoint(folder),
        )
        return network.state_dict()

    whole = weights(tmp_path / "whole")
    with pytest.raises(Gone):
        weights(tmp_path / "broken", 3)
    again = weights(tmp_path / "broken")
    assert all(torch.equal(whole[name], again[name]) for name in whole)
