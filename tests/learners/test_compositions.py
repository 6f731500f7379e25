"""Objectives add up: sums that train together, and those that exclude each other."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from labelwise.benchmark import simulate
from labelwise.cli import main
from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import (
    MLP,
    CrossEntropy,
    Job,
    Looks,
    Network,
    Objective,
    fit_many,
    list_objectives,
    model_evidence,
)
from labelwise.learners.objectives import objective_class, parse_objectives
from labelwise.learners.pretraining_recipes import list_methods
from labelwise.pools import ArrayPool, Data

SMALL = {
    "simclr": ":hidden=8:width=4",
    "moco": ":hidden=8:width=4:queue=16",
    "simsiam": ":hidden=8:width=8:predictor=4",
    "byol": ":hidden=8:width=4",
    "barlow_twins": ":hidden=8:width=4",
    "vicreg": ":hidden=8:width=4",
    "dino": ":hidden=8:prototypes=8",
    "vaal": ":hidden=8:latent=4:width=4",
    "learning_loss": ":width=4",
    "remixmatch": ":strong=1",
}
REFUSED = {
    "cross_entropy+mixmatch": "'cross_entropy' and 'mixmatch' exclude each other, since both learn "
    "the labels",
    "remixmatch+mixmatch": "since both learn the labels",
    "cross_entropy+cross_entropy:smoothing=0.1": "since both learn the labels",
    "cross_entropy+fixmatch+joint_entropy+flexmatch": "'fixmatch' and 'flexmatch' exclude each "
    "other, since both give unlabeled rows labels",
    "mixmatch+pseudo_label": "since both give unlabeled rows labels of the network's own",
    "cross_entropy+learning_loss+learning_loss:width=8": "since both give predicted_loss",
}
ALONE = {
    "fixmatch+joint_entropy": "objectives 'fixmatch+joint_entropy' do not learn the labels",
    "simclr": "add cross_entropy, as in 'cross_entropy+simclr'",
}


def convolutional(shape, classes):
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(),
        nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, classes),
    )  # fmt: skip


def noisy(inputs, generator):
    return inputs + 0.1 * torch.randn(inputs.shape, generator=generator)


def network(objectives, **recipe):
    quick = {"epochs": 1, "min_steps": 3, "minibatch": 6, "unlabeled_minibatch": 8} | recipe
    looks = Looks(noisy, noisy, noisy)
    return Network(convolutional, name="small", objectives=objectives, looks=looks, **quick)


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    pixels = torch.randn(60, 1, 8, 8, generator=generator)
    for label in range(3):
        pixels[labels == label, :, 2 * label : 2 * label + 3] += 1.5
    return Rows(pixels), labels


def excluded(*names):
    classes = [objective_class(name) for name in names]
    return (
        sum(bool(each.learns_labels) for each in classes) > 1
        or sum(each.guesses_labels for each in classes) > 1
        or len({given for each in classes for given in each.gives})
        < sum(len(each.gives) for each in classes)
    )


@pytest.mark.parametrize("first", list_objectives())
def test_every_pair_trains_together_or_is_refused_in_a_line(first, images):
    inputs, labels = images
    rows = torch.arange(12)
    names = list(list_objectives())
    for second in names[names.index(first) + 1 :]:
        pair = [name + SMALL.get(name, "") for name in (first, second)]
        if excluded(first, second):
            with pytest.raises(InputError, match="exclude each other") as refused:
                network("+".join(pair))
            assert "\n" not in str(refused.value)
            continue
        if not any(objective_class(name).learns_labels for name in (first, second)):
            pair.insert(0, "cross_entropy")
        model = network("+".join(pair)).fit(inputs, rows, labels[rows], classes=3, seed=0)
        losses = [*model.history.losses, *itertools.chain(*model.history.player_losses.values())]
        assert all(map(math.isfinite, losses)), pair
        gives = {name for each in (first, second) for name in objective_class(each).gives}
        found = {give.__name__: give for give in model_evidence(model, inputs, seed=0)}
        for name in gives:
            assert torch.as_tensor(found[name]()).isfinite().all()
            assert torch.as_tensor(found[name]()).shape == (60,)


def test_what_an_objective_gives_is_what_it_says(images):
    inputs, labels = images
    rows = torch.arange(12)
    for name in list_objectives():
        own = name + SMALL.get(name, "")
        text = own if objective_class(name).learns_labels else f"cross_entropy+{own}"
        model = network(text).fit(inputs, rows, labels[rows], classes=3, seed=0)
        found = {give.__name__ for give in model.objective_evidence(inputs)}
        assert found == set(objective_class(name).gives), name


@pytest.mark.parametrize(
    ("objectives", "strategies"),
    [
        ("cross_entropy+fixmatch:threshold=0.5+joint_entropy", "entropy"),
        ("cross_entropy+barlow_twins:hidden=16:width=8:weight=0.01", "dalbt,margin"),
        ("cross_entropy+tod+learning_loss:width=8", "tod,lpl"),
        ("cross_entropy+vaal:hidden=9:width=16+waal+learning_loss:width=8", "lpl,vaal,waal"),
        ("cross_entropy+vaal:hidden=16:latent=4", "vaal"),
        ("mixmatch:weight=5:warmup=0.4+waal", "waal"),
    ],
)
def test_sums_in_simulations(objectives, strategies, tmp_path):
    generator = np.random.default_rng(0)
    labels = np.arange(300) % 3
    rows = generator.normal(size=(300, 9)).astype(np.float32)
    rows += 2 * np.repeat(np.eye(3), 3, 1)[labels]
    test = ArrayPool(rows[200:], [f"test/{row}" for row in range(100)])
    data = Data(ArrayPool(rows[:200]), labels[:200], test, labels[200:], list("abc"), "blobs")
    learner = MLP(hidden=(16,), epochs=1, min_steps=30, learning_rate=0.01, objectives=objectives)
    results = simulate(
        data, strategies=strategies, initial=15, batch=10, rounds=1, seeds=1, learner=learner,
        full=False, cache=tmp_path / "cache", out=tmp_path / "run",
    )  # fmt: skip
    found = results.table.to_pylist()
    assert [each["labels"] for each in found] == [15, 25] * len(strategies.split(","))
    assert min(each["accuracy"] for each in found if each["round"]) > 0.8


@pytest.mark.parametrize("objectives", REFUSED)
def test_what_excludes_each_other_is_refused_before_anything_runs(objectives, capfd, tmp_path):
    with pytest.raises(InputError) as refused:
        parse_objectives(objectives)
    assert REFUSED[objectives] in str(refused.value)
    assert str(refused.value).endswith("keep one of them")
    with pytest.raises(SystemExit) as ended:
        main(
            ["simulate", "digits", "--out", str(tmp_path / "run"), "--learner", "mlp",
             "--learner-option", f"objectives={objectives}"]
        )  # fmt: skip
    assert ended.value.code == 2
    assert REFUSED[objectives] in capfd.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("objectives", ALONE)
def test_a_classifier_that_nobody_teaches_the_labels_is_refused(objectives, images):
    inputs, labels = images
    with pytest.raises(InputError) as refused:
        network(objectives).fit(inputs, torch.arange(9), labels[:9], classes=3, seed=0)
    assert ALONE[objectives] in str(refused.value)


class Pull(Objective):
    """One of a user's own, which does not say whether it learns labels."""

    def forward(self, labeled):
        return nn.functional.cross_entropy(labeled.logits, labeled.labels)

    def signature(self):
        return {"name": "pull"}


def test_an_objective_of_one_s_own_goes_with_all(images):
    inputs, labels = images
    rows = torch.arange(30)
    for objectives in ([Pull()], [Pull(), CrossEntropy()], [Pull(), "fixmatch"]):
        model = network(objectives, min_steps=60, learning_rate=0.01).fit(
            inputs, rows, labels[rows], classes=3, seed=0
        )
        assert (model.predict(inputs).probs.argmax(1) == labels).float().mean() > 0.6


@pytest.mark.parametrize("name", [n for n in list_objectives() if n not in list_methods()])
def test_methods_of_pretraining_are_named_where_an_objective_needs_labels(name, capfd, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["pretrain", "digits", "--out", str(tmp_path / "run"), "--method", name])
    said = capfd.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2
    assert said.startswith(f"error: method must learn without labels, and {name!r} needs them: ")
    assert all(method in said for method in list_methods())


def test_sums_are_fitted_one_after_another_and_why_is_said(images, tmp_path):
    inputs = Rows(images[0].tensor().flatten(1))
    labels = images[1]
    jobs = [Job(torch.arange(n), labels[:n], seed=n) for n in (9, 12)]
    learner = MLP(hidden=(8,), epochs=1, min_steps=5, objectives="cross_entropy+tod")
    models, apart = fit_many(learner, inputs, jobs, classes=3)
    assert apart == (
        "it minimizes CrossEntropy + TemporalDiscrepancy, and only CrossEntropy goes together"
    )
    alone = jobs[1].fit(learner, inputs, 3)
    assert torch.equal(models[1].predict(inputs).logits, alone.predict(inputs).logits)
