"""Self-supervised objectives in the loop: what they do, momentum encoders, queues, labeled rows."""

import math

import pytest
import torch
from torch import nn

from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import (
    Checkpoint,
    CrossEntropy,
    Looks,
    Network,
    Recipe,
    Step,
    load_model,
    make_objective,
    save_model,
    train,
)
from labelwise.learners.average import Average
from labelwise.learners.objectives import Objective
from labelwise.learners.objectives.barlow_twins import cross_correlation
from labelwise.learners.objectives.moco import Queue
from labelwise.learners.objectives.self_supervision import make_projector, rising
from labelwise.learners.state import capture

SMALL = {
    "simclr": {"hidden": 64, "width": 32},
    "moco": {"hidden": 64, "width": 32, "queue": 200},
    "simsiam": {"hidden": 64, "width": 64, "predictor": 16},
    "byol": {"hidden": 64, "width": 32, "momentum": 0.9},
    "barlow_twins": {"hidden": 64, "width": 32},
    "vicreg": {"hidden": 64, "width": 32},
    "dino": {"hidden": 64, "prototypes": 64, "momentum": 0.9},
}
"""Options that fit the small pool of these tests."""


def distort(inputs, generator):
    """Another row of the same class of rows: the last six entries say nothing."""
    noise = torch.randn(inputs.shape, generator=generator)
    keep = (torch.arange(12) < 6).float()
    return inputs * keep + noise * (0.3 * keep + 2 * (1 - keep))


def clusters(count=320):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 4
    signal = 2 * torch.randn(4, 6, generator=generator)[labels]
    signal += 0.7 * torch.randn(count, 6, generator=generator)
    return torch.cat([signal, 2 * torch.randn(count, 6, generator=generator)], 1), labels


def perceptron(shape=(12,), classes=4):
    layers = nn.Linear(*shape, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes)
    return nn.Sequential(*layers)


def start():
    """The same network each time."""
    torch.manual_seed(0)
    return perceptron()


def pretrain(objectives, *, labeled=0, network=None, minibatch=64, inputs=None, **more):
    found, labels = clusters()
    rows = torch.arange(labeled)
    loop = {name: more.pop(name) for name in ("looks", "checkpoint") if name in more}
    recipe = {"epochs": 1, "unlabeled_minibatch": minibatch, "learning_rate": 3e-3, **more}
    return train(
        network or start(),
        Rows(found if inputs is None else inputs),
        rows,
        labels[rows],
        classes=4,
        seed=0,
        recipe=Recipe(**recipe),
        objectives=objectives,
        **{"looks": Looks(distorted=distort), **loop},
    )


def embedded(network, inputs=None):
    """Embeddings of two views of all rows."""
    generator = torch.Generator().manual_seed(9)
    inputs = clusters()[0] if inputs is None else inputs
    body = network.eval()[:-1]
    with torch.no_grad():
        return body(distort(inputs, generator)), body(distort(inputs, generator))


def quality(network):
    """How far apart views of a row are as a share of different rows, and directions in use."""
    first, second = embedded(network)
    same = (first - second).square().sum(1).mean()
    different = (first - second.roll(1, 0)).square().sum(1).mean()
    values = torch.linalg.svdvals(first - first.mean(0))
    shares = values / values.sum()
    return float(same / different), float(torch.special.entr(shares).sum().exp())


@pytest.mark.parametrize("name", SMALL)
def test_views_come_together_and_rows_stay_apart(name):
    network = start()
    before, _ = quality(network)
    pretrain([make_objective(name, **SMALL[name])], epochs=20, network=network)
    apart, directions = quality(network)
    assert before > 0.5
    assert apart < 0.2
    assert directions > 8


@pytest.mark.parametrize("penalty", [1.0, 1e-9])
def test_barlow_twins_takes_redundancy_out(penalty):
    network = start()
    options = {"hidden": 64, "width": 6, "off_diagonal": penalty}
    recipe = {"epochs": 30, "minibatch": 160, "learning_rate": 1e-2}
    barlow = make_objective("barlow_twins", **options)
    inputs = torch.randn(320, 12, generator=torch.Generator().manual_seed(3))
    inputs[:, 6:] *= 2
    trained = pretrain([barlow], network=network, inputs=inputs, **recipe).objectives[0]
    with torch.no_grad():
        found = cross_correlation(*(trained.projector(each) for each in embedded(network, inputs)))
    redundant = found[~torch.eye(6, dtype=torch.bool)].abs().mean()
    assert found.diagonal().mean() > 0.8
    assert redundant < 0.1 if penalty == 1.0 else redundant > 0.5


class Watched(Objective):
    """Runs an objective and keeps what the network and it were after every step."""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def prepare(self, setting):
        self.body.prepare(setting)
        self.weights = [self.copy(setting.network, self.body)]
        self.start = [each.clone() for each in self.body.encoder.parameters()]

    @staticmethod
    def copy(network, body):
        head = body.head if hasattr(body, "head") else body.projector
        return [p.detach().clone() for module in (network, head) for p in module.parameters()]

    def forward(self, unlabeled, step):
        return self.body(unlabeled, step)

    def after_step(self, network):
        self.body.after_step(network)
        self.weights.append(self.copy(network, self.body))

    def signature(self):
        return {"name": "watched"}


@pytest.mark.parametrize(
    ("name", "start", "end"), [("moco", 0.9, 0.99), ("byol", 0.5, 1.0), ("dino", 0.8, 0.9)]
)
def test_momentum_encoders_follow_by_their_schedule(name, start, end):
    options = {**SMALL[name], "momentum": start, "final_momentum": end}
    watched = pretrain([Watched(make_objective(name, **options))], epochs=2).objectives[0]
    assert len(watched.weights) == 11
    for copied, original in zip(watched.start, watched.weights[0]):
        assert torch.equal(copied, original)  # of the network and what follows it
    for place, parameter in enumerate(watched.body.encoder.parameters()):
        assert not parameter.requires_grad
        expected = watched.weights[0][place]
        for number, weights in enumerate(watched.weights[1:]):
            keep = end - (end - start) * (math.cos(math.pi * number / 10) + 1) / 2
            expected = keep * expected + (1 - keep) * weights[place]
        torch.testing.assert_close(parameter, expected)
    moved = zip(watched.weights[0], watched.weights[-1])
    assert sum(not torch.equal(a, b) for a, b in moved) >= 6


def test_an_average_without_an_early_mean_is_exponential_from_the_start():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(8.0)
    average = Average(layer, 0.75, early_mean=False)
    layer.weight.data.fill_(0.0)
    average.update(layer)
    assert average.module.weight.item() == 6.0
    average.decay = 0.5
    average.update(layer)
    assert average.module.weight.item() == 3.0


def test_a_queue_holds_the_newest_keys():
    queue = Queue(7, 2, torch.Generator().manual_seed(0))
    noise = queue.keys.clone()
    torch.testing.assert_close(noise.norm(dim=1), torch.ones(7))
    angles = torch.arange(13.0) / 3
    keys = torch.stack([angles.cos(), angles.sin()], 1)
    queue.put(5 * keys[:4])
    torch.testing.assert_close(queue.keys[:4], keys[:4])
    assert torch.equal(queue.keys[4:], noise[4:])
    queue.put(keys[4:9])
    expected = torch.cat([keys[7:9], keys[2:7]])
    torch.testing.assert_close(queue.keys, expected)
    queue.put(keys)  # more than it holds
    order = queue.keys[:, 0].argsort()
    torch.testing.assert_close(queue.keys[order], keys[6:][keys[6:, 0].argsort()])


def test_moco_queues_the_keys_of_each_view():
    moco = pretrain([make_objective("moco", **SMALL["moco"])]).objectives[0]
    assert [tuple(queue.keys.shape) for queue in moco.queues] == [(200, 32), (200, 32)]
    assert [int(queue.at) for queue in moco.queues] == [5 * 64 % 200] * 2
    assert not torch.equal(moco.queues[0].keys, moco.queues[1].keys)
    alone = pretrain([make_objective("moco", hidden=8, width=4, symmetric=False)]).objectives[0]
    assert [len(queue.keys) for queue in alone.queues] == [2 * 320 // 3]


def test_the_center_of_dino_is_an_average_of_the_teachers_outputs():
    objective = make_objective("dino", **SMALL["dino"], center_momentum=0.0)
    found = pretrain([objective], minibatch=320, learning_rate=1e-9).objectives[0]
    assert found.center.abs().max() > 1e-3
    # One step without a memory is the mean over rows and views; a tenth of it with the usual one.
    again = pretrain([make_objective("dino", **SMALL["dino"])], minibatch=320).objectives[0]
    torch.testing.assert_close(again.center, 0.1 * found.center)


def test_dino_freezes_prototypes_in_its_first_epoch_and_warms_up():
    untrained = pretrain([make_objective("dino", **SMALL["dino"])], learning_rate=1e-9)
    still = untrained.objectives[0].head.last.weight
    for optimizer in ("adam", "sgd"):
        dino = make_objective("dino", **SMALL["dino"])
        frozen = pretrain([dino], optimizer=optimizer).objectives[0].head
        assert torch.equal(frozen.last.weight, still)
        later = pretrain([dino], optimizer=optimizer, epochs=2).objectives[0].head
        assert not torch.equal(later.last.weight, still)
    free = pretrain([make_objective("dino", **SMALL["dino"], frozen_epochs=0)]).objectives[0].head
    assert not torch.equal(free.last.weight, still)
    warm = make_objective("dino", teacher_temperature=0.08, warmup=0.5)
    found = [warm.sharpness(Step(number, 8, 0, 0.1)) for number in (0, 2, 4, 7)]
    assert found == pytest.approx([0.04, 0.06, 0.08, 0.08])
    assert rising(0.2, 0.4, Step(8, 8, 0, 0.1)) == pytest.approx(0.4)


def test_the_predictor_of_simsiam_keeps_its_learning_rate():
    network = start()
    constant = pretrain([make_objective("simsiam", **SMALL["simsiam"])], epochs=2, network=network)
    assert list(constant.history.player_losses) == ["0 SimSiam predictor"]
    mine, theirs = constant.history.losses, constant.history.player_losses["0 SimSiam predictor"]
    assert mine == pytest.approx(theirs, abs=1e-5)
    one = make_objective("simsiam", **SMALL["simsiam"], constant=False)
    assert not pretrain([one], epochs=2).history.player_losses
    # Where the schedule is constant, both ways of training are one.
    fits = []
    for option in (True, False):
        network = start()
        objective = make_objective("simsiam", **SMALL["simsiam"], constant=option)
        pretrain([objective], epochs=2, network=network, schedule="constant")
        fits.append(network[0].weight.detach().clone())
    torch.testing.assert_close(*fits)


@pytest.mark.parametrize("name", SMALL)
def test_a_pretraining_broken_off_ends_with_the_same_bits(name, tmp_path):
    calls = []

    def breaking(inputs, generator):
        calls.append(len(inputs))
        if len(calls) == 16:  # two views a step, five steps an epoch
            raise KeyboardInterrupt
        return distort(inputs, generator)

    options = {"epochs": 3, "network": (whole := start())}
    trained = pretrain([make_objective(name, **SMALL[name])], **options)
    options |= {"checkpoint": Checkpoint(tmp_path), "network": start()}
    with pytest.raises(KeyboardInterrupt):
        pretrain([make_objective(name, **SMALL[name])], **options, looks=Looks(distorted=breaking))
    options |= {"network": (resumed := start())}
    again = pretrain([make_objective(name, **SMALL[name])], **options)
    assert again.history.losses == trained.history.losses
    for one, other in ((whole, resumed), (trained.objectives[0], again.objectives[0])):
        (node, tensors), (node_again, tensors_again) = capture(one), capture(other)
        assert node == node_again
        assert all(torch.equal(tensors[key], tensors_again[key]) for key in tensors)


@pytest.mark.parametrize("name", SMALL)
def test_labeled_rows_are_seen_too(name):
    sizes = []

    class Counting(type(make_objective(name))):
        def look(self, number, unlabeled, labeled):
            seen = super().look(number, unlabeled, labeled)
            sizes.append((len(unlabeled), 0 if labeled is None else len(labeled), len(seen)))
            assert len(self.inputs(number, unlabeled, labeled)) == len(seen)
            return seen

    trained = pretrain([CrossEntropy(), Counting(**SMALL[name])], labeled=40, minibatch=50)
    assert trained.history.steps == 1
    assert set(sizes) == {(50, 40, 90)}
    sizes.clear()
    pretrain([Counting(**SMALL[name])], minibatch=50)
    assert set(sizes) == {(50, 0, 50)}


def test_dalbt_is_cross_entropy_and_barlow_twins():
    inputs, labels = clusters()
    rows = torch.arange(4)
    learner = Network(
        perceptron,
        name="perceptron",
        objectives="cross_entropy+barlow_twins:hidden=64:width=32:weight=1",
        looks=Looks(distorted=distort),
        min_steps=100,
        learning_rate=3e-3,
    )
    model = learner.fit(Rows(inputs), rows, labels[rows], classes=4, seed=0)
    plain = Network(perceptron, name="perceptron", min_steps=100, learning_rate=3e-3)
    alone = plain.fit(Rows(inputs), rows, labels[rows], classes=4, seed=0)

    def right(found):
        return float((found.predict(Rows(inputs)).probs.argmax(1) == labels).float().mean())

    assert right(model) > right(alone) + 0.05


@pytest.mark.parametrize("name", [*SMALL, "rotation"])
def test_signatures_make_the_same_objective(name):
    made = make_objective(name, **SMALL.get(name, {}), weight=2.0)
    signature = made.signature()
    assert signature["name"] == name
    assert make_objective(**signature).signature() == signature


def test_a_pretrained_model_is_saved_with_what_follows_it(tmp_path):
    inputs, labels = clusters()
    learner = Network(
        perceptron,
        name="perceptron",
        objectives=[CrossEntropy(), make_objective("byol", **SMALL["byol"])],
        looks=Looks(distorted=distort),
        epochs=1,
        min_steps=1,
    )
    model = learner.fit(Rows(inputs), torch.arange(20), labels[:20], classes=4, seed=0)
    again = load_model(save_model(model, tmp_path / "model"), learner=learner)
    mine, theirs = (each.objectives[1].state_dict() for each in (model, again))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_weights_multiply_losses():
    once, thrice = (
        pretrain([make_objective("vicreg", **SMALL["vicreg"], weight=weight)], learning_rate=1e-9)
        for weight in (1.0, 3.0)
    )
    assert thrice.history.losses[0] > 2 * once.history.losses[0]


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("simclr", {"temperature": 0.0}, "temperature must be a number > 0"),
        ("simclr", {"weight": -1.0}, "weight must be a number > 0"),
        ("moco", {"queue": 0}, "queue must be a whole number >= 1"),
        ("moco", {"momentum": 1.5}, r"momentum must be a number in \[0, 1\]"),
        ("byol", {"hidden": 2.5}, "hidden must be a whole number"),
        ("barlow_twins", {"off_diagonal": True}, "off_diagonal must be a number > 0"),
        ("vicreg", {"covariance": 0}, "covariance must be a number > 0"),
        ("dino", {"frozen_epochs": -1}, "frozen_epochs"),
    ],
)
def test_options_out_of_range_are_refused(name, options, match):
    with pytest.raises(InputError, match=match):
        make_objective(name, **options)


def test_one_row_cannot_be_compared():
    with pytest.raises(InputError, match="simclr compares the rows of a minibatch and got one row"):
        pretrain([make_objective("simclr", **SMALL["simclr"])], minibatch=1)


def test_projectors_come_from_their_generator():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    made = [
        make_projector((4, 3, 2), torch.Generator().manual_seed(1), norm=True, end="norm")
        for _ in range(2)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(made[0][0].weight, made[1][0].weight)
    assert [type(layer).__name__ for layer in made[0]] == [
        "Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d",
    ]  # fmt: skip
    assert made[0][0].bias is None
    assert made[0][3].bias is None
