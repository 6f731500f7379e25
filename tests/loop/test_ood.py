"""Rows out of distribution: asked for and paid, never trained or tested on, told to strategies."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from labelwise.benchmark import simulate
from labelwise.errors import InputError
from labelwise.kernels import Rows
from labelwise.learners import make_learner
from labelwise.loop import Loop, Oracle, SingleLabel
from labelwise.pools import ArrayPool, Data
from labelwise.pools.data import OOD

N, CLASSES = 90, 3


class Watched:
    """A ridge learner that remembers the labels it was given."""

    name = "watched"

    def __init__(self):
        self.inner, self.fits = make_learner("ridge"), []

    def signature(self):
        return {}

    def fit(self, inputs, rows, labels, *, classes, seed, unlabeled=None):
        self.fits.append((rows, labels, classes, unlabeled))
        return self.inner.fit(inputs, rows, labels, classes=classes, seed=seed, unlabeled=unlabeled)


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    truth = np.arange(N) % (CLASSES + 1)  # the last is out of distribution
    x = (rng.normal(size=(N, 5)) + 3 * np.eye(5)[truth]).astype(np.float32)
    ids = [f"item-{row}" for row in range(N)]
    learner = Watched()
    loop = Loop(
        ids,
        Rows(x),
        learner,
        SingleLabel(CLASSES, ood=True),
        test=(Rows(x[truth < CLASSES]), truth[truth < CLASSES].tolist()),
    )
    return loop, learner, Oracle(dict(zip(ids, truth.tolist()))), x, truth


def seen(loop, oracle, strategy, **options):
    """What a strategy is given after a first round."""
    given = {}

    def watching(
        probs, embeddings, labeled, labels, private_embeddings=None, private_probs=None,
        *, n, candidates,
    ):  # fmt: skip
        given.update(locals())
        return candidates[:n]

    start = loop.start(loop.ids[:12], oracle)
    done = loop.run_round(start.state, oracle, strategy=watching, n=6, fitted=start.fitted)
    return given, start, done


def test_nothing_is_trained_on_them(world):
    loop, learner, oracle, _, truth = world
    loop.start(loop.ids[:12], oracle)
    rows, labels, classes, unlabeled = learner.fits[-1]
    assert rows.tolist() == [row for row in range(12) if truth[row] < CLASSES]
    assert labels.tolist() == truth[rows].tolist()
    assert classes == CLASSES
    assert not set(unlabeled.tolist()) & set(range(12))


def test_they_are_paid_for_and_never_asked_again(world):
    loop, _, oracle, _, truth = world
    given, start, done = seen(loop, oracle, "random")
    assert len(start.state.ids) == 12
    assert not set(given["candidates"].tolist()) & set(range(12))
    assert done.balance.counts == tuple(np.bincount(truth[12:18], minlength=4).tolist())


def test_strategies_see_them_as_private_points_only(world):
    loop, _, oracle, x, truth = world
    given, *_ = seen(loop, oracle, "random")
    foreign = [row for row in range(12) if truth[row] == CLASSES]
    assert given["labeled"].tolist() == [r for r in range(12) if truth[r] < CLASSES]
    assert given["labels"].max() < CLASSES
    assert torch.equal(given["private_embeddings"].tensor(), torch.from_numpy(x[foreign]))
    assert given["private_probs"].shape == (len(foreign), CLASSES)


@pytest.mark.parametrize("strategy", ["similar:function=flcg", "similar:function=gccg", "poal"])
def test_strategies_that_turn_away_from_them(world, strategy):
    loop, _, oracle, _, truth = world
    name, _, option = strategy.partition(":")
    start = loop.start(loop.ids[:40], oracle)
    picks = loop.query(
        start.state,
        start.fitted,
        name,
        10,
        options=dict([option.split("=")]) if option else {},
    )
    assert (truth[picks.rows] == CLASSES).mean() < 0.25  # random: a quarter


def test_before_any_is_found_the_private_set_is_there_and_empty(world):
    loop, _, oracle, _, truth = world
    inside = np.flatnonzero(truth < CLASSES)
    start = loop.start([loop.ids[row] for row in inside[:9]], oracle)
    options = {"function": "flcmi", "query_classes": "0+1+2"}
    picks = loop.query(start.state, start.fitted, "similar", 5, options=options)
    assert "flcmi without it is flvmi" in picks.notes[0]
    start = loop.start(loop.ids[:12], oracle)
    picks = loop.query(start.state, start.fitted, "similar", 5, options=options)
    assert not picks.notes


def test_a_label_must_be_a_class_or_the_one_mark():
    task = SingleLabel(3, ood=True)
    assert task.check("a", 3) == 3
    with pytest.raises(InputError, match=r"in 0\.\.2, or 3 for out of distribution, got 4"):
        task.check("a", 4)
    with pytest.raises(InputError, match=r"in 0\.\.2, got 3"):
        SingleLabel(3).check("a", 3)


def test_balance_is_of_the_classes():
    assert SingleLabel(2, ood=True).balance([0, 1, 2, 2, 2]).counts == (1, 1, 3)
    assert SingleLabel(2, ood=True).balance([0, 1, 2, 2, 2]).balance == 1.0


def data():
    rng = np.random.default_rng(1)
    truth, test = np.arange(120) % 4, np.arange(40) % 4
    pools = [
        ArrayPool((rng.normal(size=(len(t), 6)) + 2 * np.eye(6)[t]).astype(np.float32))
        for t in (truth, test)
    ]
    classes = ["ant", "bee", "cat", "dog"]
    return Data(pools[0], truth, pools[1], test, classes, "animals")


def test_classes_of_a_data_set_go_out():
    found = data().with_ood(["bee", "ant"])
    assert found.classes == ["cat", "dog", OOD]
    assert found.labels.tolist() == [{0: 2, 1: 2, 2: 0, 3: 1}[c] for c in data().labels.tolist()]
    assert len(found.pool) == 120
    assert len(found.test) == 20
    assert set(found.test_labels.tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cow"], "ood must name classes"),
        (["ant", "bee", "cat"], "two classes or more"),
    ],
)
def test_classes_that_cannot_go(names, message):
    with pytest.raises(InputError, match=message):
        data().with_ood(names)


def test_some_rows_of_a_pool():
    found = data().subset([3, 0])
    assert found.labels.tolist() == [3, 0]
    assert found.pool.ids == [data().pool.ids[row] for row in (3, 0)]


def test_a_simulation_with_classes_out(tmp_path):
    def run(ood):
        return simulate(
            data(),
            strategies="random,margin,poal,similar:function=flcg",
            initial=20,
            batch=10,
            rounds=2,
            seeds=1,
            out=tmp_path / "-".join(ood or ["none"]),
            learner="ridge",
            ood=ood,
            cache=tmp_path / "cache",
        )

    run(["dog"])
    table = pq.read_table(tmp_path / "dog" / "results.parquet").to_pylist()
    assert {row["labels"] for row in table} == {20, 30, 40}
    assert all(len(row["class_counts"]) == 4 for row in table)
    assert any(row["class_counts"][3] for row in table)
    with pytest.raises(InputError, match="ood must name classes"):
        run(["cow"])


@pytest.mark.parametrize(
    ("initial", "batch", "message"),
    [
        (2, 3, "all 2 items of seed 0's initial set are out of distribution"),
        (0, 1, "random, seed 0: all 1 labels so far are out of distribution"),
    ],
)
def test_nothing_to_train_on_is_said(initial, batch, message, tmp_path):
    given = data()
    labels = np.array([3] * 114 + [0, 1, 2] * 2)
    given = Data(given.pool, labels, given.test, given.test_labels, given.classes, "foreign")
    budget = {"initial": initial, "batch": batch, "rounds": 2, "seeds": 1, "ood": ["dog"]}
    with pytest.raises(InputError, match=message):
        simulate(
            given,
            strategies="random",
            out=tmp_path / "out",
            learner="ridge",
            cache=tmp_path / "cache",
            **budget,
        )
