"""One loop for oracles and people: what it asks, learns, remembers and refuses."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import balanced_accuracy_score

from labelwise.errors import InputError
from labelwise.kernels import Rows, derive
from labelwise.learners import Outputs
from labelwise.loop import (
    Loop,
    Oracle,
    SharedEvidence,
    SingleLabel,
    State,
    accuracy,
    class_balance,
    macro_accuracy,
    random_initial,
    stratified_initial,
)
from labelwise.strategies import Picks, Strategy

N, CLASSES = 60, 3


class MeansModel:
    """Nearest class mean, as a linear head: h . m - |m|^2 / 2."""

    def __init__(self, weight, bias):
        self.head_weight, self.head_bias, self.classes = weight, bias, len(weight)

    def predict(self, inputs, rows=None):
        x = (inputs.tensor() if rows is None else inputs.take(rows)).float()
        logits = x @ self.head_weight.T + self.head_bias
        return Outputs(logits, logits.softmax(1), inputs if rows is None else x)


class Means:
    """A learner that remembers what it was given."""

    name = "means"

    def __init__(self):
        self.fits = []

    def signature(self):
        return {}

    def fit(self, inputs, rows, labels, *, classes, seed, unlabeled=None):
        self.fits.append(SimpleNamespace(rows=rows, labels=labels, seed=seed, unlabeled=unlabeled))
        x = inputs.take(rows).float()
        far = torch.full((x.shape[1],), 1e3)
        weight = torch.stack(
            [x[labels == c].mean(0) if (labels == c).any() else far for c in range(classes)]
        )
        return MeansModel(weight, -(weight**2).sum(1) / 2)


@pytest.fixture
def world():
    rng = np.random.default_rng(0)
    truth = np.arange(N) % CLASSES
    x = rng.normal(size=(N, 4)) + 2 * np.eye(4)[truth]
    ids = [f"item-{row}" for row in range(N)]
    labels = dict(zip(ids, truth.tolist()))
    learner = Means()

    def loop(**options):
        options = {"test": (Rows(x[:30]), truth[:30].tolist()), "seed": 1} | options
        return Loop(ids, Rows(x), learner, SingleLabel(CLASSES), **options)

    return SimpleNamespace(
        ids=ids, x=x, truth=truth, learner=learner, loop=loop, oracle=Oracle(labels), labels=labels
    )


def play(world, loop, strategy="margin", rounds=3, n=5):
    current = loop.start(world.ids[:6], world.oracle)
    for _ in range(rounds):
        current = loop.run_round(
            current.state, world.oracle, strategy=strategy, n=n, fitted=current.fitted
        )
    return current


def test_a_round_asks_labels_fits_and_evaluates(world):
    loop = world.loop()
    start = loop.start(world.ids[:6], world.oracle)
    assert (start.state.round, start.state.ids) == (0, tuple(world.ids[:6]))
    assert start.picked == start.state.ids
    assert start.scores is None
    done = loop.run_round(start.state, world.oracle, strategy="margin", n=5, fitted=start.fitted)
    assert done.state.round == 1
    assert done.state.ids == start.state.ids + done.picked
    assert len(set(done.state.ids)) == 11
    assert done.state.labels == tuple(world.labels[item] for item in done.state.ids)
    assert (np.diff(done.scores) <= 0).all()
    assert sum(done.balance.counts) == 5
    fit = world.learner.fits[-1]
    assert [world.ids[row] for row in fit.rows] == list(done.state.ids)
    assert sorted([*fit.rows.tolist(), *fit.unlabeled.tolist()]) == list(range(N))
    predicted = done.fitted.model.predict(Rows(world.x[:30])).probs.argmax(1).numpy()
    assert done.measures["accuracy"] == np.mean(predicted == world.truth[:30])


def test_the_strategy_sees_the_labels_paid_for_and_no_others(world):
    seen = []

    def spy(probs, labeled, labels, round, rounds, *, n, candidates):
        seen.append((labeled.tolist(), labels.tolist(), candidates.tolist(), round, rounds))
        return candidates[:n]

    play(world, world.loop(rounds=3), Strategy(spy), rounds=2)
    labeled, labels, candidates, round_, rounds = seen[1]
    assert labels == world.truth[labeled].tolist()
    assert len(labeled) == 11
    assert sorted(labeled + candidates) == list(range(N))
    assert (round_, rounds) == (1, 3)


def test_fits_depend_on_seed_and_round_never_on_the_strategy(world):
    play(world, world.loop(), "margin")
    play(world, world.loop(), "random")
    seeds = [fit.seed for fit in world.learner.fits]
    assert seeds[:4] == seeds[4:] == [derive(1, "fit", r) for r in range(4)]
    assert len(set(seeds[:4])) == 4


def sure(probs, round, *, n, candidates):
    """Asks for the first candidates, and takes predictions of the last 3 - round for true."""
    rows = candidates.numpy()
    last = rows[len(rows) - 3 + round :]
    labels = probs.tensor().argmax(1)[torch.from_numpy(last)]
    return Picks(rows[:n], pseudo_rows=last, pseudo_labels=labels)


def test_pseudo_labels_are_trained_on_until_the_next_query(world):
    loop = world.loop()
    start = loop.start(world.ids[:6], world.oracle)
    believed = start.fitted.model.predict(Rows(world.x)).probs.argmax(1).tolist()
    first = loop.run_round(
        start.state, world.oracle, strategy=Strategy(sure), n=4, fitted=start.fitted
    )
    fit = world.learner.fits[-1]
    assert fit.rows.tolist() == [*range(10), 57, 58, 59]
    assert fit.labels.tolist() == [*world.truth[:10], *believed[57:]]
    assert fit.unlabeled.tolist() == list(range(10, 57))
    assert first.state.ids == tuple(world.ids[:10])  # nobody paid for the others
    assert 57 in loop.candidates(first.state)
    second = loop.run_round(
        first.state, world.oracle, strategy=Strategy(sure), n=4, fitted=first.fitted
    )
    assert world.learner.fits[-1].rows.tolist() == [*range(14), 58, 59]
    again = State.from_dict(json.loads(json.dumps(second.state.to_dict())))
    assert again == second.state
    assert loop.resume(again).measures == second.measures
    assert world.learner.fits[-1].labels.tolist() == world.learner.fits[-2].labels.tolist()
    # Another strategy has none: the model is fitted to what was paid for.
    loop.run_round(second.state, world.oracle, strategy="margin", n=1, fitted=second.fitted)
    assert len(world.learner.fits[-1].rows) == 15


def test_states_of_before_there_were_pseudo_labels(world):
    record = State(("a",), (1,), ("b",), 2).to_dict()
    del record["pseudo"]
    assert State.from_dict(record) == State(("a",), (1,), ("b",), 2)


def test_an_item_is_not_asked_for_and_pseudo_labeled_at_once():
    with pytest.raises(InputError, match="item 'a' is labeled or asked for already"):
        State().ask(["a"], pseudo=[("a", 0)])


def test_only_candidates_are_asked_for(world):
    loop = world.loop(candidates=np.arange(0, N, 2))
    done = play(world, loop, "random", rounds=2)
    assert all(world.ids.index(item) % 2 == 0 for item in done.state.ids[6:])
    with pytest.raises(InputError, match="n"):
        loop.query(done.state, done.fitted, "random", 60)


def test_another_order_of_the_pool_asks_for_the_same_items(world):
    order = np.random.default_rng(1).permutation(N)
    loop = Loop(
        [world.ids[row] for row in order],
        Rows(world.x[order]),
        world.learner,
        SingleLabel(CLASSES),
        seed=1,
    )
    for name in ("random", "margin", "badge"):
        here = play(world, world.loop(), name, rounds=2).state
        assert play(world, loop, name, rounds=2).state == here


def test_people_may_answer_later(world):
    class Slow:
        def __init__(self):
            self.asked = []

        def annotate(self, ids):
            self.asked.append(list(ids))
            return {item: world.labels[item] for item in ids[-2:]}

    loop, slow = world.loop(), Slow()
    start = loop.start(world.ids[:6], world.oracle)
    first = loop.run_round(start.state, slow, strategy="margin", n=5, fitted=start.fitted)
    assert first.waiting
    assert first.measures == {}
    assert len(first.state.pending) == 3
    with pytest.raises(InputError, match="3 items of round 1 wait for labels"):
        loop.run_round(first.state, slow, strategy="margin", n=5, fitted=start.fitted)
    later = State.from_dict(json.loads(json.dumps(first.state.to_dict())))
    assert later == first.state
    second = loop.finish(later, slow)
    assert second.waiting
    third = loop.finish(second.state, slow)
    assert not third.waiting
    assert [len(asked) for asked in slow.asked] == [5, 3, 1]
    assert sorted(third.state.ids[6:]) == sorted(first.picked)
    assert third.state.round == 1


def test_items_nobody_answered_can_be_given_up(world):
    loop = world.loop()
    silent = SimpleNamespace(annotate=lambda ids: {})
    start = loop.start(world.ids[:6], world.oracle)
    asked = loop.run_round(start.state, silent, strategy="margin", n=5, fitted=start.fitted)
    assert len(loop.candidates(asked.state)) == N - 11
    assert len(loop.candidates(asked.state.drop_pending())) == N - 6


def test_a_state_on_file_goes_on_as_if_nothing_had_happened(world):
    whole = play(world, world.loop(), rounds=3)
    half = play(world, world.loop(), rounds=2)
    loop = world.loop()
    again = loop.resume(State.from_dict(json.loads(json.dumps(half.state.to_dict()))))
    assert again.measures == half.measures
    done = loop.run_round(again.state, world.oracle, strategy="margin", n=5, fitted=again.fitted)
    assert done.state == whole.state
    assert done.measures == whole.measures
    assert done.scores.tolist() == whole.scores.tolist()


def test_a_cold_start_queries_the_encoding(world):
    loop = world.loop()
    start = loop.start([], world.oracle)
    assert (start.state, start.measures, start.fitted.model) == (State(), {}, None)
    done = loop.run_round(start.state, world.oracle, strategy="k_center", n=4, fitted=start.fitted)
    assert (done.state.round, len(done.state.ids)) == (1, 4)
    with pytest.raises(InputError, match="probs"):
        loop.query(State(), start.fitted, "margin", 4)


def test_options_reach_the_strategy(world):
    seen = []

    def mine(*, n, candidates, flavor="plain"):
        seen.append(flavor)
        return candidates[:n]

    loop = world.loop()
    start = loop.start(world.ids[:6], world.oracle)
    loop.query(start.state, start.fitted, Strategy(mine), 2, options={"flavor": "sweet"})
    assert seen == ["sweet"]


def test_evidence_of_one_model_is_computed_once():
    calls = []

    def probs(logits):
        calls.append("probs")
        return torch.full((2, 2), 0.5)

    shared = SharedEvidence([probs])
    assert shared.providers[0](None) is shared.providers[0](None)
    assert calls == ["probs"]
    assert shared.owed() > 0
    assert shared.owed() == 0


def test_strategies_that_query_the_same_model_share_its_prediction(world, monkeypatch):
    loop = world.loop()
    start = loop.start(world.ids[:6], world.oracle)
    calls = []
    predict = MeansModel.predict
    monkeypatch.setattr(
        MeansModel, "predict", lambda *args: calls.append(1) or predict(*args), raising=True
    )
    for name in ("margin", "entropy", "badge"):
        loop.query(start.state, start.fitted, name, 3)
    assert len(calls) == 1


def test_who_asks_later_is_charged_for_shared_evidence_too(world, monkeypatch):
    predict = MeansModel.predict

    def slow(*args):
        time.sleep(0.05)
        return predict(*args)

    loop = world.loop()
    start = loop.start(world.ids[:6], world.oracle)
    monkeypatch.setattr(MeansModel, "predict", slow)
    for _ in range(2):
        done = loop.run_round(
            start.state, world.oracle, strategy="margin", n=3, fitted=start.fitted
        )
        assert done.select_seconds >= 0.05


def test_every_round_draws_anew(world):
    loop = world.loop()
    start = loop.start(world.ids[:6], world.oracle)
    later = replace(start.state, round=3)
    first = loop.query(start.state, start.fitted, "random", 20).rows.tolist()
    assert loop.query(start.state, start.fitted, "random", 20).rows.tolist() == first
    assert loop.query(later, start.fitted, "random", 20).rows.tolist() != first


class TestRefusals:
    def test_lengths(self, world):
        with pytest.raises(InputError, match="60 rows"):
            Loop(world.ids[:-1], Rows(world.x), world.learner, SingleLabel(3))
        with pytest.raises(InputError, match="test labels must be one a test row: 1"):
            world.loop(test=(Rows(world.x), [0]))

    def test_unknown_items(self, world):
        with pytest.raises(InputError, match="item 'who' is not in the pool of 60"):
            world.loop().rows(["who"])
        with pytest.raises(InputError, match="no label for item 'who'"):
            world.oracle.annotate(["who"])

    def test_a_label_the_task_does_not_know(self, world):
        wrong = SimpleNamespace(annotate=lambda ids: {ids[0]: "daisy"})
        with pytest.raises(InputError, match=r"item 'item-0' must be .* 0..2, got 'daisy'"):
            world.loop().start(world.ids[:2], wrong)

    @pytest.mark.parametrize("label", [-1, 3, 1.0, True, None])
    def test_labels_are_class_numbers(self, label):
        with pytest.raises(InputError, match=r"class number in 0\.\.2"):
            SingleLabel(3).check("a", label)

    def test_an_answer_nobody_asked_for(self, world):
        stray = SimpleNamespace(annotate=lambda ids: {"item-9": 0})
        with pytest.raises(InputError, match="item 'item-9' has a label but is not among the 2"):
            world.loop().start(world.ids[:2], stray)

    def test_asking_twice(self):
        with pytest.raises(InputError, match="item 'a' is labeled or asked for already"):
            State().ask(["a"]).ask(["a"])
        with pytest.raises(InputError, match="item 'a'"):
            State().ask(["a", "a"])

    def test_pending_items_are_not_resumed(self, world):
        with pytest.raises(InputError, match="wait for labels"):
            world.loop().resume(State().ask(["item-0"], initial=True))


class TestMeasures:
    @pytest.mark.parametrize("seed", range(10))
    def test_against_scikit_learn_and_scipy(self, seed):
        rng = np.random.default_rng(seed)
        truth, predicted = rng.integers(0, 4, 50), rng.integers(0, 4, 50)
        assert accuracy(predicted, truth) == np.mean(predicted == truth)
        expected = balanced_accuracy_score(truth, predicted)
        assert macro_accuracy(predicted, truth) == pytest.approx(expected)
        counts = np.bincount(truth, minlength=7)
        assert class_balance(counts) == pytest.approx(stats.entropy(counts, base=7))

    def test_classes_that_the_test_set_lacks_do_not_count(self):
        assert macro_accuracy(np.array([0, 1, 3]), np.array([0, 0, 3])) == 0.75

    def test_class_balance_by_hand(self):
        assert class_balance(np.array([2, 2, 0, 0])) == pytest.approx(0.5)
        assert class_balance(np.array([0, 0])) == 0.0


class TestInitialSet:
    ids = tuple(f"{i:03d}" for i in range(100))
    labels = np.array([0] * 70 + [1] * 27 + [2] * 3)

    def draw(self, n, seed=0, order=None):
        order = np.arange(100) if order is None else order
        ids = [self.ids[i] for i in order]
        rows = stratified_initial(ids, np.arange(100), n, labels=self.labels[order], seed=seed)
        return [ids[row] for row in rows]

    def test_random_is_seeded_distinct_and_nested(self):
        few = random_initial(self.ids, np.arange(100), 10, seed=0)
        many = random_initial(self.ids, np.arange(100), 40, seed=0)
        assert few.tolist() == many[:10].tolist()
        assert len(set(many.tolist())) == 40
        assert few.tolist() != random_initial(self.ids, np.arange(100), 10, seed=1).tolist()

    def test_the_order_of_the_pool_does_not_matter(self):
        order = np.random.default_rng(0).permutation(100)
        ids = [self.ids[i] for i in order]
        shuffled = random_initial(ids, np.arange(100), 10, seed=0)
        straight = random_initial(self.ids, np.arange(100), 10, seed=0)
        assert [ids[row] for row in shuffled] == [self.ids[row] for row in straight]
        assert self.draw(20, order=order) == self.draw(20)

    def test_every_candidate_is_as_likely(self):
        counts = np.zeros(100)
        for seed in range(400):
            counts[random_initial(self.ids, np.arange(100), 25, seed=seed)] += 1
        assert stats.chisquare(counts).pvalue > 0.001

    @pytest.mark.parametrize(
        ("n", "expected"),
        [(100, [70, 27, 3]), (10, [7, 2, 1]), (3, [1, 1, 1]), (20, [14, 5, 1]), (2, [1, 1, 0])],
    )
    def test_stratified_by_hand(self, n, expected):
        # n = 10: shares 7.0 2.7 0.3, floors 7 2 0, the rare class gets its one: 7 + 2 + 1
        rows = [self.ids.index(item) for item in self.draw(n)]
        assert np.bincount(self.labels[rows], minlength=3).tolist() == expected

    def test_only_candidates(self):
        candidates = np.array([3, 50, 99])
        assert set(random_initial(self.ids, candidates, 3, seed=0)) == set(candidates)
        with pytest.raises(InputError, match=r"initial must be in 0..3 \(the candidates\), got 4"):
            random_initial(self.ids, candidates, 4, seed=0)
        with pytest.raises(InputError, match="got 4"):
            stratified_initial(self.ids, candidates, 4, labels=self.labels, seed=0)
