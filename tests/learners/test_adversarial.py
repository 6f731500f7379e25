"""VAAL and WAAL: their losses by hand, and that both tell labeled rows from others."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import (
    MLP,
    Network,
    Player,
    Recipe,
    Setting,
    load_model,
    model_evidence,
    save_model,
)
from labelwise.learners.networks import SmallImageResNet, Standardize, build_empty
from labelwise.learners.objectives.autoencoders import ImageAutoencoder, Latent, Prepared
from labelwise.learners.objectives.vaal import VariationalAdversarial
from labelwise.learners.objectives.waal import Wasserstein, gradient_penalty
from labelwise.learners.opponents import Opponent
from labelwise.learners.parallel import Ranks
from labelwise.strategies import select


def setting(network=None, shape=(4,), width=4):
    generator = torch.Generator().manual_seed(0)
    network = network or nn.Linear(4, 3)
    return Setting(
        3, torch.arange(5), width, torch.device("cpu"), generator, network, shape, 25, 20
    )


def view(count, seed, shape=(4,)):
    inputs = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    seen = type("Seen", (SimpleNamespace,), {"__len__": lambda self: count})
    return seen(inputs=inputs, embeddings=inputs.clone().requires_grad_(), together=lambda *_: None)


def test_the_penalty_is_the_squared_distance_of_slopes_from_one():
    critic = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    draw = torch.Generator().manual_seed(3)
    one, other = torch.randn(2, 5, 4, generator=draw, dtype=torch.float64)
    share = torch.rand(5, 1, generator=draw, dtype=torch.float64)
    found = gradient_penalty(critic, one, other, share)
    expected, step = 0.0, 1e-6
    for row in share * one + (1 - share) * other:
        slopes = []
        for axis in range(4):
            ahead, behind = row.clone(), row.clone()
            ahead[axis] += step
            behind[axis] -= step
            slopes.append(((critic(ahead) - critic(behind)) / (2 * step)).item())
        expected += (math.sqrt(sum(slope**2 for slope in slopes)) - 1) ** 2 / 5
    assert found.item() == pytest.approx(expected, rel=1e-4)
    flat, steep = nn.Linear(4, 1), nn.Linear(4, 1)
    nn.init.constant_(flat.weight, 0.5)
    nn.init.constant_(steep.weight, 5.0)
    for layer in (flat, steep):
        gradient_penalty(layer, one.float(), other.float(), share.float()).backward()
    assert flat.weight.grad.abs().max() < 1e-4  # of slope 1 already
    assert (steep.weight.grad > 1).all()  # a step against it makes the slope smaller


def test_waal_losses_by_hand():
    waal = Wasserstein(weight=0.5, penalty=3.0)
    waal.prepare(setting())
    labeled, unlabeled = view(2, 0), view(6, 1)
    losses = waal(labeled, unlabeled)
    h = [waal.critic(each.embeddings).mean() for each in (unlabeled, labeled)]
    difference = h[0] - 5 / 20 * h[1]
    torch.testing.assert_close(losses["network"], 0.5 * difference)
    share = torch.rand(6, 1, generator=_after_critic())
    pairs = labeled.embeddings[torch.tensor([0, 1, 0, 1, 0, 1])]
    penalty = gradient_penalty(waal.critic, pairs.detach(), unlabeled.embeddings.detach(), share)
    torch.testing.assert_close(losses["critic"], 3 * penalty - difference)
    losses["critic"].backward()
    assert labeled.embeddings.grad is None  # the critic's loss does not reach the network
    losses["network"].backward()
    assert labeled.embeddings.grad.norm() > 0


def _after_critic():
    """The generator as it is once the critic has been filled from it."""
    same, given = Wasserstein(), setting()
    same.prepare(given)
    return given.generator


def test_vaal_losses_by_hand():
    vaal = VariationalAdversarial(latent=3, hidden=8, beta=0.5, adversarial=2.0)
    vaal.prepare(setting())
    before = vaal._noise.get_state()
    labeled, unlabeled = view(2, 0), view(6, 1)
    losses = vaal(labeled, unlabeled)
    vaal._noise.set_state(before)
    mine, told = 0.0, 0.0
    for seen, truth in ((labeled, 1.0), (unlabeled, 0.0)):
        mean, log_variance = vaal.autoencoder.encode(seen.inputs)
        spread = torch.randn(mean.shape, generator=vaal._noise) * (log_variance / 2).exp()
        made = vaal.autoencoder.decode(mean + spread)
        kl = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        belief = vaal.discriminator(mean)[:, 0].sigmoid()
        mine += ((made - seen.inputs) ** 2).mean() + 0.5 * kl - 2 * belief.log().mean()
        told += -(belief if truth else 1 - belief).log().mean()
    torch.testing.assert_close(losses["autoencoder"], mine)
    torch.testing.assert_close(losses["discriminator"], told)
    assert losses["network"].item() == 0
    losses["discriminator"].backward()
    assert all(p.grad is None for p in vaal.autoencoder.parameters())
    assert torch.equal(
        vaal.beliefs(labeled.inputs),
        vaal.discriminator(vaal.autoencoder.encode(labeled.inputs).mean)[:, 0].sigmoid(),
    )


def test_a_mean_divergence_is_by_entry_of_the_minibatch():
    found = []
    for reduction, beta in (("sum", 1.0), ("mean", 1.0), ("sum", 0.0)):
        vaal = VariationalAdversarial(latent=3, hidden=8, beta=beta, divergence=reduction)
        vaal.prepare(setting())
        found.append(vaal(view(5, 0), view(5, 1))["autoencoder"].item())
    total, mean, none = found
    assert mean - none == pytest.approx((total - none) / (5 * 4), rel=1e-4)


def test_the_autoencoder_moves_twice_as_often_as_the_discriminator():
    vaal = VariationalAdversarial(latent=3, hidden=8)
    vaal.prepare(setting())
    players = vaal.players()
    assert list(players) == ["autoencoder", "discriminator"]  # who moves first
    assert [player.every for player in players.values()] == [1, 2]
    assert all(player.changes["learning_rate"] == 5e-4 for player in players.values())


@pytest.mark.parametrize("size", [(28, 28), (8, 8), (5, 7), (32, 32)])
def test_images_come_back_in_their_size(size):
    made = build_empty(lambda: ImageAutoencoder((3, *size), 6, 4), torch.Generator())
    found = made.encode(torch.rand(2, 3, *size))
    assert found.mean.shape == found.log_variance.shape == (2, 6)
    assert made.decode(found.mean).shape == (2, 3, *size)


def test_rows_are_standardized_as_the_network_does():
    network = SmallImageResNet(3, 10, width=4)
    network.standardize.mean += 5
    prepared = Prepared(network, (8, 8, 3))
    pixels = torch.randint(0, 255, (2, 8, 8, 3), dtype=torch.uint8)
    torch.testing.assert_close(prepared(pixels), pixels.permute(0, 3, 1, 2).float() - 5)
    assert isinstance(prepared.standardize, Standardize)
    plain = Prepared(nn.Linear(4, 2), (8, 8, 3))
    torch.testing.assert_close(plain(pixels), pixels.permute(0, 3, 1, 2) / 255)
    assert Prepared(nn.Linear(6, 2), (2, 3))(torch.ones(4, 2, 3)).shape == (4, 6)
    assert float(Latent(torch.zeros(2, 3), torch.zeros(2, 3)).divergence()) == 0


def test_options_out_of_range_are_refused():
    for make, options, words in (
        (VariationalAdversarial, {"beta": -1.0}, "beta must be a number >= 0"),
        (VariationalAdversarial, {"latent": 0}, "latent must be a whole number >= 1"),
        (VariationalAdversarial, {"divergence": "max"}, "divergence must be one of sum, mean"),
        (Wasserstein, {"balance": 0.0}, "balance must be a number > 0 or None"),
        (Wasserstein, {"bounded": False}, "balance must be 1 with bounded=False"),
        (Wasserstein, {"penalty": math.inf}, "penalty must be a number >= 0"),
    ):
        with pytest.raises(InputError, match=words):
            make(**options)


def told_apart(objective, tmp_path):
    """AUC of unlabeled rows of a shifted pool over rows like the labeled that nobody trained on."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    x = 3 * torch.randn(3, 6, generator=generator)[labels]
    x += torch.randn(300, 6, generator=generator)
    x[120:, :3] += 2
    learner = MLP(hidden=(32,), min_steps=150, epochs=1, objectives=f"cross_entropy+{objective}")
    rows, inputs = torch.arange(60), Rows(x)
    model = learner.fit(
        inputs, rows, labels[rows], classes=3, seed=0, unlabeled=torch.arange(120, 300)
    )
    evidence = model_evidence(model, inputs, seed=0)
    save_model(model, tmp_path)
    again = model_evidence(load_model(tmp_path), inputs, seed=0)
    name = objective.partition(":")[0]
    wanted = {"vaal": "latent_discriminator", "waal": "critic"}[name]
    values, same = ({p.__name__: p for p in e}[wanted]() for e in (evidence, again))
    assert torch.equal(values, same)
    picks = select(name, 100, providers=evidence, labeled=rows, seed=0)
    assert len(picks) == 100
    unlike = values if name == "waal" else -values
    return mannwhitneyu(unlike[120:], unlike[60:120]).statistic / (180 * 60)


@pytest.mark.parametrize("objective", ["vaal", "waal", "waal:bounded=no:balance=1.0"])
def test_rows_unlike_the_labeled_are_told_apart(objective, tmp_path):
    assert told_apart(objective, tmp_path) > 0.65


def test_vaal_beside_a_network_of_images():
    def factory(shape, classes):
        return build_empty(lambda: SmallImageResNet(1, classes, width=2), torch.Generator())

    learner = Network(
        factory,
        name="tiny",
        epochs=1,
        min_steps=3,
        minibatch=5,
        objectives="cross_entropy+vaal:width=2:latent=4+waal",
    )
    pixels = torch.randint(0, 255, (20, 8, 8, 1), dtype=torch.uint8)
    model = learner.fit(Rows(pixels), torch.arange(6), torch.arange(6) % 2, classes=2, seed=0)
    found = {p.__name__: p for p in model_evidence(model, Rows(pixels), seed=0)}
    assert found["latent_discriminator"]().shape == found["critic"]().shape == (20,)
    some = {p.__name__: p for p in model_evidence(model, Rows(pixels[:5]), seed=0)}
    for name in ("latent_discriminator", "critic"):  # of each row, whatever the others are
        torch.testing.assert_close(some[name](), found[name]()[:5])


def test_a_player_rests_between_its_moves():
    layer = nn.Linear(1, 1, bias=False)
    opponent = Opponent(Player(layer, every=3), Recipe(), Ranks())
    weights = [layer.weight.item()]
    for number in range(7):
        opponent.step(layer(torch.ones(1, 1)).sum(), number, 7)
        weights.append(layer.weight.item())
    moved = [before != after for before, after in pairwise(weights)]
    assert moved == [True, False, False, True, False, False, True]
    assert opponent.mean("player", 7) == pytest.approx(sum(weights[:-1]) / 7)
