"""Promised minutes as a number of epochs: the sum, and a pretraining by a clock of its own."""

import json
import random
import time

import pytest
from tests.learners.test_pretraining import blobs

from labelwise.learners import Objective, checkpoint, pretrain, pretraining
from labelwise.learners.duration import Costs


@pytest.mark.parametrize("seed", range(30))
def test_one_epoch_more_would_be_too_late(seed):
    draw = random.Random(seed)
    costs = Costs(*(draw.choice([0.0, draw.uniform(0, 30)]) for _ in range(4)))
    costs = costs._replace(epoch=draw.uniform(0.1, 20))
    every, seconds = draw.randint(1, 12), draw.uniform(1, 2000)
    epochs = costs.epochs(seconds, every, 1000)
    assert 1 <= epochs <= 1000
    assert epochs == 1 or costs.seconds(epochs, every) <= seconds
    assert epochs == 1000 or costs.seconds(epochs + 1, every) > seconds


def test_the_sum_is_that_of_its_parts():
    costs = Costs(start=5.0, epoch=10.0, stop=2.0, end=3.0)
    for epochs, every in ((1, 1), (6, 4), (8, 4), (9, 4)):
        total = 5.0 + 3.0
        for epoch in range(1, epochs + 1):
            total += 10.0 + (2.0 if epoch % every == 0 or epoch == epochs else 0.0)
        assert costs.seconds(epochs, every) == total


class Clock:
    """Goes on only where something is done."""

    now = 1000.0
    step = 2.0

    @classmethod
    def read(cls):
        return cls.now


class Timed(Objective):
    """A step takes 2 seconds, the first of a fit 9 more."""

    def forward(self, unlabeled, step):
        Clock.now += Clock.step + 9.0 * (step.number == 0)
        return unlabeled.embeddings.square().mean()

    def signature(self):
        return {"name": "timed"}


@pytest.fixture
def clock(monkeypatch):
    """Time as this file's parts take it: 2 s a step, 30 s a look, 5 s a checkpoint."""
    looks, save = pretraining.knn_accuracy, checkpoint.Keeper.save

    def look(*given, **options):
        Clock.now += 50.0 if options else 30.0  # of 90 rows; of 90 that vote on 60 others
        return looks(*given, **options)

    def kept(self, *given):
        Clock.now += 5.0
        return save(self, *given)

    monkeypatch.setattr(pretraining, "knn_accuracy", look)
    monkeypatch.setattr(checkpoint.Keeper, "save", kept)
    monkeypatch.setattr(time, "perf_counter", Clock.read)


OPTIONS = {"method": Timed(), "network_options": {"hidden": 4}, "unlabeled_minibatch": 32}


@pytest.mark.parametrize(("minutes", "every"), [(20, 2), (20, 7), (60, 1), (6, 50)])
def test_a_pretraining_ends_when_it_was_promised(clock, tmp_path, minutes, every):
    """150 rows are 5 steps an epoch, 10 s; looks come to as much as training where often."""
    began = Clock.now
    done = pretrain(blobs(), tmp_path, minutes=minutes, every=every, **OPTIONS)
    took = Clock.now - began
    assert 60 * minutes - 51 < took <= 60 * minutes  # one more epoch with a stop would not fit
    card = json.loads((tmp_path / "pretraining.json").read_text())
    assert card["epochs"] == done.epochs
    assert card["expected"]["epoch"] == pytest.approx(10.0)
    assert card["expected"]["stop"] == pytest.approx(35.0)
    assert not (tmp_path / "timing").exists()


def test_what_is_settled_stays_settled(clock, monkeypatch, tmp_path):
    """Broken off, it goes on to the same number of epochs, however slow the machine is then."""
    options = {**OPTIONS, "minutes": 10, "every": 3}
    whole = pretrain(blobs(), tmp_path / "whole", **options)

    def listener(seen):
        if seen.passed.epoch == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(blobs(), tmp_path / "broken", listener=listener, **options)
    monkeypatch.setattr(Clock, "step", 20.0)
    resumed = pretrain(blobs(), tmp_path / "broken", **options)
    assert resumed.epochs == whole.epochs > 5
    assert resumed.loss == whole.loss
