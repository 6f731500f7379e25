"""Every objective there is, through `simulate` or `pretrain` on 2,000 images.

The images are Fashion-MNIST's at half the side, or constructed ones where LABELWISE_DATA has none.
A new objective is covered by being listed.
"""

import inspect
import json
import math
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from labelwise.benchmark import TIMINGS, simulate
from labelwise.cli.pretrain import COLLAPSED
from labelwise.kernels import Rows
from labelwise.learners import (
    Network,
    ResNet18,
    list_objectives,
    make_encoder,
    make_objective,
    model_evidence,
    pretrain,
)
from labelwise.learners.objectives import objective_class, parse_objectives
from labelwise.learners.pretraining_recipes import list_methods
from labelwise.pools import Data, ImagePool, PixelImages, open_data
from labelwise.strategies import list_strategies

POOL, TEST = 2000, 300
METHODS = list(list_methods())
SUPERVISED = [name for name in list_objectives() if name not in METHODS]
SMALL = {"hidden": 32, "width": 16, "latent": 8, "prototypes": 32, "queue": 256, "predictor": 16}
SMALL |= {"strong": 2}
"""Options of objectives that make them quick, by name."""

SHORT = {"mixmatch": ":weight=5", "remixmatch": ":mixed=0.5:unmixed=0.1:warmup=1"}
SHORT |= {"flexmatch": ":weight=0.1", "freematch": ":weight=0.1"}
"""What suits 40 steps of a network that knows nothing; weights are made for a million of them."""

MOVING = {"moco", "byol", "dino"}
"""Methods whose targets move while they are learned, so that their loss need not fall."""


def waves(count, seed):
    """Stripes in ten directions, shifted at random, in noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 10
    y, x = np.mgrid[:14, :14]
    angle = (np.pi * labels / 10)[:, None, None]
    phase = rng.uniform(0, 2 * np.pi, (count, 1, 1))
    light = np.sin(0.9 * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    noisy = 127 + 60 * light + 40 * rng.normal(size=light.shape)
    return noisy.clip(0, 255).astype(np.uint8), labels


def fashion(pool, labels, count):
    rows = np.arange(count) * (len(pool) // count)
    return pool.images(rows)[:, ::2, ::2, :1], labels[rows]


@pytest.fixture(scope="module")
def data():
    folder = os.environ.get("LABELWISE_DATA")
    if folder and os.path.isdir(os.path.join(folder, "fashion_mnist")):
        found = open_data("fashion_mnist")
        (x, y), (others, truth) = (
            fashion(found.pool, found.labels, POOL),
            fashion(found.test, found.test_labels, TEST),
        )
    else:
        (x, y), (others, truth) = waves(POOL, 0), waves(TEST, 1)
    return Data(
        pool=ImagePool(PixelImages(x), [f"a{i}" for i in range(POOL)]),
        labels=y.astype(np.int64),
        test=ImagePool(PixelImages(others), [f"b{i}" for i in range(TEST)]),
        test_labels=truth.astype(np.int64),
        classes=[str(c) for c in range(10)],
        name="images",
    )


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def written(name):
    """An objective with options that make it quick, and the labels learned beside it."""
    known = inspect.signature(objective_class(name)).parameters
    options = [f"{option}={value}" for option, value in SMALL.items() if option in known]
    text = ":".join([name, *options]) + SHORT.get(name, "")
    return text if objective_class(name).learns_labels else f"cross_entropy+{text}"


class Small(nn.Module):
    """Two convolutions and a hidden layer on pixels."""

    def __init__(self, classes):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2), nn.ReLU(), nn.Flatten(),
            nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, classes),
        )  # fmt: skip

    def forward(self, x):
        return self.body(x.permute(0, 3, 1, 2).float() / 255 - 0.5)


class Seen(Network):
    """A learner of it whose models are looked at."""

    def __init__(self, models=None, objectives=(), unlabeled_minibatch=30):
        super().__init__(
            lambda shape, classes: Small(classes), name="small", objectives=objectives,
            looks=ResNet18(pad=1, flip=False).looks((14, 14, 3)), epochs=1, min_steps=40,
            minibatch=30, unlabeled_minibatch=unlabeled_minibatch, learning_rate=5e-3,
        )  # fmt: skip
        self.models = [] if models is None else models

    def wrap(self, *args, **kwargs):
        self.models.append(super().wrap(*args, **kwargs))
        return self.models[-1]


class Gone(Exception):
    """The process has ended."""


def lasting(results):
    return results.table.drop_columns(list(TIMINGS)).to_pylist()


def asking(objectives):
    """The strategies that these objectives are for, and one for any."""
    gives = {name for each in parse_objectives(objectives) for name in each.gives}
    names = {objective.signature()["name"] for objective in parse_objectives(objectives)}
    theirs = [
        one.name
        for one in list_strategies()
        if gives & set(one.needs) or set(one.objectives.split("+")) - {"cross_entropy"} & names
    ]
    return ",".join(theirs) or "margin"


def run(data, cache, out, learner, strategies, progress=None, **plan):
    options = {"initial": 60, "batch": 20, "rounds": 1, "seeds": 1, "full": False} | plan
    options.setdefault("encoder", "pixels")
    return simulate(
        data, strategies=strategies, learner=learner, cache=cache, out=out, progress=progress,
        **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", SUPERVISED)
def test_an_objective_learns_in_a_simulation_that_can_be_resumed(name, data, cache, tmp_path):
    models, objectives = [], written(name)
    learner, strategies = Seen(models, objectives), asking(objectives)
    whole = run(data, cache, tmp_path / "whole", learner, strategies)
    rounds = whole.table.to_pylist()
    assert [each["labels"] for each in rounds] == [60, 80] * len(strategies.split(","))
    labels = torch.from_numpy(data.labels)
    row = {item: place for place, item in enumerate(data.pool.ids)}
    given = torch.tensor([row[item] for item in rounds[0]["picked_ids"]])
    inputs = make_encoder("pixels").fit(data.pool, seed=0).encode(data.pool)
    pixels = Rows(inputs)
    model = models[0]
    assert all(map(math.isfinite, model.history.losses))
    untrained = learner.untrained(pixels, classes=10, seed=0)
    before, after = (
        F.cross_entropy(each.predict(pixels, given).logits, labels[given]).item()
        for each in (untrained, model)
    )
    assert after < before - 0.3
    assert max(each["accuracy"] for each in rounds) > 0.2
    evidence = {give.__name__ for give in model_evidence(model, pixels, seed=0)}
    assert set(objective_class(name).gives) <= evidence

    def stop(event):
        if event.step == "round":
            raise Gone

    with pytest.raises(Gone):
        run(data, cache, tmp_path / "broken", learner, strategies, progress=stop)
    broken = run(data, cache, tmp_path / "broken", learner, strategies)
    assert lasting(broken) == lasting(whole)
    assert broken.notes == []


@pytest.mark.parametrize("method", METHODS)
def test_a_method_pretrains_goes_on_and_is_an_encoder(method, data, cache, tmp_path):
    known = inspect.signature(objective_class(method)).parameters
    options = {option: value for option, value in SMALL.items() if option in known}
    call = {
        "method": make_objective(method, **options),
        "network": Seen(unlabeled_minibatch=100),
        "epochs": 2,
        "cache": cache,
    }

    def stop(seen):
        if seen.passed.epoch == 2:  # what is kept is of the first
            raise Gone

    with pytest.raises(Gone):
        pretrain(data, tmp_path / "broken", listener=stop, every=1, **call)
    pretrain(data, tmp_path / "broken", **call)
    done = pretrain(data, tmp_path / "whole", **call)
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert files[0] == files[1]
    lines = (tmp_path / "whole" / "log.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]
    assert all(map(math.isfinite, losses))
    assert losses[-1] < losses[0] or method in MOVING
    assert done.found["spread"] > 2 * COLLAPSED
    assert done.found["effective_rank"] > 2
    encoder = make_encoder(f"pretrained:{tmp_path / 'whole'}", learner=call["network"])
    results = run(data, cache, tmp_path / "run", "logistic", "margin", encoder=encoder)
    gives = objective_class(method).gives
    assert {file.stem for file in (tmp_path / "whole").glob("*.npy")} == set(gives)
    for name in gives:
        found = np.load(tmp_path / "whole" / f"{name}.npy")
        assert found.shape == (POOL,)
        assert found.std() > 0
    assert results.table.to_pylist()[-1]["accuracy"] > 0.14
