"""ALBL: the published bandit, draw by draw, and rewards that are not biased."""

import json
import math
from collections import defaultdict

import numpy as np
import pytest
from tests.test_battery import make_pool

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.albl import Exp4P


def test_exp4p_by_hand():
    bandit = Exp4P(np.zeros(2), horizon=8, delta=0.5)
    least = math.sqrt(math.log(2) / 16)
    assert bandit.least == pytest.approx(least)
    assert bandit.chances() == pytest.approx([0.5, 0.5])
    after = bandit.update(0.3, [1, 0.25], 0.625, np.array([0.5, 0.5]))
    bound = math.sqrt(math.log(2 / 0.5) / 16)
    expected = [least / 2 * (0.3 * a / 0.625 + 2 * bound) for a in (1, 0.25)]
    assert after.log_weights == pytest.approx(expected)
    w = np.exp(expected)
    assert after.chances() == pytest.approx((1 - 2 * least) * w / w.sum() + least)


def test_no_arm_is_ever_less_likely_than_the_least_chance():
    bandit = Exp4P(np.array([0.0, 900.0, -900.0]), horizon=1000, delta=0.1)
    assert bandit.chances().min() == pytest.approx(math.sqrt(math.log(3) / 3000))
    assert bandit.chances().sum() == pytest.approx(1)


def lowest(probs, *, n, candidates):
    return candidates[:n]


def highest(probs, *, n, candidates):
    return candidates.flip(0)[:n]


def binary(size, seed):
    return np.random.default_rng(seed).dirichlet([1, 1], size).astype(np.float64)


def by_definition(states, probs, truth, size, horizon, delta=0.1):
    """Weights of EXP4.P after the draws of each state, in the order drawn, from the formulas.

    states: each query's state; probs: the model that was there when its labels were in.
    """
    k = 3
    least = math.sqrt(math.log(k) / (k * horizon))
    w = [1.0] * k
    past = []
    for state, p in zip(states, probs):
        assert state["waiting"]
        for item, advised, chance, chances, _ in state["waiting"]:
            past.append((item, 1 / chance))
            right = sum(weight for i, weight in past if p[i].argmax() == truth[i])
            reward = right / (size * horizon)
            for arm in range(k):
                advice = 1 / 60 if arm == 2 else float(arm in advised)
                gain = reward * advice / chance
                bonus = math.sqrt(math.log(k / delta) / (k * horizon)) / chances[arm]
                w[arm] *= math.exp(least / 2 * (gain + bonus))
    total = sum(w)
    return [(1 - k * least) * x / total + least for x in w]


def ask(n, probs, truth=None, state=None, labeled=(), **more):
    labels = None if truth is None else truth[np.array(labeled, int)]
    return select(
        "albl",
        n,
        probs=probs,
        labeled=list(labeled),
        labels=labels,
        state=state,
        arms=[lowest, highest],
        **more,
    )


def rounds(n, count, seed=0):
    """States and models of a few rounds, and the last picks."""
    truth = np.random.default_rng(9).integers(0, 2, 60)
    labeled, state, states, models = [], None, [], []
    for round_ in range(count):
        probs = binary(60, round_)
        models.append(probs)
        picks = ask(n, probs, truth, state, labeled, horizon=40, seed=seed)
        state = json.loads(json.dumps(picks.state))
        states.append(state)
        labeled += picks.rows.tolist()
    return truth, states, models, picks


@pytest.mark.parametrize(("n", "count"), [(1, 2), (6, 2), (6, 3)])
def test_chances_follow_the_published_rule(n, count):
    found = 0
    for seed in range(20):
        truth, states, models, picks = rounds(n, count, seed)
        visible = sum(len(state["waiting"]) for state in states)
        if visible < states[-1]["count"]:
            continue  # a row was drawn again before the first pick: rewarded at once
        expected = by_definition(states[:-1], models[1:], truth, 60, 40)
        assert states[-1]["waiting"][0][3] == pytest.approx(expected, rel=1e-9)
        assert picks.probability[0] == pytest.approx(states[-1]["waiting"][0][2])
        found += 1
    assert found >= 5


def test_the_chance_of_a_draw_is_the_sum_over_the_arms():
    _, states, _, _ = rounds(6, 3)
    seen = set()
    for item, advised, chance, chances, size in states[-1]["waiting"]:
        expected = sum(chances[arm] for arm in advised) + chances[2] / size
        assert chance == pytest.approx(expected)
        assert len(advised) == 0 or item not in seen  # an arm never proposes a row twice
        seen.add(item)
    assert states[-1]["waiting"][0][4] == 60  # the whole pool, earlier picks included


def test_weights_count_the_whole_pool():
    """The mean weight of a draw is the number of rows that could be drawn: no bias.

    It holds because rows that were drawn before can be drawn again, for no label.
    """
    size, weights, count = 12, 0.0, 0
    truth = np.zeros(size, int)
    for seed in range(150):
        labeled, state = [], None
        for round_ in range(4):
            picks = ask(2, binary(size, round_), truth, state, labeled, horizon=8, seed=seed)
            state = picks.state
            labeled += picks.rows.tolist()
        each = defaultdict(float, dict(state["weights"]))
        for item, _, chance, _, _ in state["waiting"]:
            each[item] += 1 / chance
        weights += sum(each.values())
        count += state["count"]
    assert count > 150 * 8 * 1.05  # rows were drawn again
    assert weights / count == pytest.approx(size, rel=0.08)


def test_rows_without_a_label_are_forgotten():
    truth, probs = np.zeros(30, int), binary(30, 0)
    first = ask(4, probs, truth)
    again = ask(4, probs, truth, first.state, first.rows[:2].tolist())
    assert {item for item, _ in again.state["weights"]} <= set(first.rows[:2].tolist())
    assert [item for item, _ in again.state["weights"]] == first.rows[:2].tolist()


def test_ids_make_the_state_independent_of_the_order_of_rows():
    truth, probs = np.arange(40) % 2, binary(40, 0)
    names = np.array([f"item {row}" for row in range(40)])
    order = np.random.default_rng(3).permutation(40)
    place = np.argsort(order)
    pool = {"probs": probs, "ids": names, "arms": "margin+entropy", "seed": 2}
    moved = {**pool, "probs": probs[order], "ids": names[order]}
    one, two = select("albl", 5, **pool), select("albl", 5, **moved)
    assert one.state == two.state
    rows = one.rows
    again = select("albl", 5, labeled=rows, labels=truth[rows], state=one.state, **pool)
    other = select("albl", 5, labeled=place[rows], labels=truth[rows], state=two.state, **moved)
    assert again.ids.tolist() == other.ids.tolist()
    assert again.state["log_weights"] == other.state["log_weights"] != one.state["log_weights"]


def test_the_horizon_comes_from_the_rounds():
    pool, _ = make_pool()
    assert select("albl", 7, round=0, rounds=5, **pool).state["horizon"] == 35
    assert select("albl", 7, round=2, rounds=5, **pool).state["horizon"] == 21
    short = select("albl", 2, rounds=1, round=0, **pool)
    assert "too short" in short.notes[1]


def test_what_does_not_fit_is_refused():
    pool, truth = make_pool()
    state = select("albl", 3, arms="margin", **pool).state
    rows = {"labeled": [0, 1], "labels": truth[:2]}
    with pytest.raises(InputError, match="arms margin, uniform, and now they are entropy"):
        select("albl", 3, arms="entropy", state=state, **rows, **pool)
    with pytest.raises(InputError, match="version 7"):
        select("albl", 3, arms="margin", state={**state, "version": 7}, **rows, **pool)
    with pytest.raises(InputError, match="of 'tailor', not of albl"):
        select("albl", 3, arms="margin", state={**state, "strategy": "tailor"}, **rows, **pool)
    with pytest.raises(InputError, match="pass labels="):
        select("albl", 3, arms="margin", state=state, labeled=[0, 1], **pool)
    with pytest.raises(InputError, match="what earlier picks have as their state, got int"):
        select("albl", 3, state=3, **pool)
    for options in ({"delta": 1.0}, {"delta": 0}, {"horizon": 0}, {"horizon": 2.5}):
        with pytest.raises(InputError, match=next(iter(options))):
            select("albl", 3, **options, **pool)


def test_a_damaged_state_is_one_clear_line():
    """Whatever entry is gone or of another kind: no error of NumPy's, and no guess."""
    truth, probs = np.zeros(30, int), binary(30, 0)
    first = ask(4, probs, truth)
    state, rows = json.loads(json.dumps(first.state)), first.rows.tolist()
    for name in state:
        for value in (None, "x", [[1, 2], [3]], float("nan")):
            with pytest.raises(InputError, match="state is") as error:
                ask(4, probs, truth, {**state, name: value}, rows)
            assert "\n" not in str(error.value)
        left = {key: value for key, value in state.items() if key != name}
        with pytest.raises(InputError, match="state is"):
            ask(4, probs, truth, left, rows)
