"""TAILOR: which arm a draw favors, and what it learns from labels."""

import json

import numpy as np
import pytest
from scipy import stats

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.tailor import class_values, discounted, promising

SIZE, CLASSES = 400, 3


def low(probs, *, n, candidates):
    return candidates[:n]


def high(probs, *, n, candidates):
    return candidates.flip(0)[:n]


def ask(n, state=None, labeled=(), truth=None, **more):
    probs = np.full((SIZE, CLASSES), 1 / CLASSES)
    labels = None if truth is None else truth[list(labeled)]
    given = {"labeled": list(labeled), "labels": labels, "state": state, "arms": [low, high]}
    return select("tailor", n, probs=probs, **{**given, **more})


def test_values_of_classes_by_hand():
    assert class_values([0, 1, 4, 6]).tolist() == [1, 1, 0.25, -1 / 6]
    assert class_values([5, 5]).tolist() == [0.2, 0.2]  # half is not more than half
    assert class_values([0, 0, 0]).tolist() == [1, 1, 1]


def test_counts_by_hand():
    found = discounted([[1.0, 2.0], [4.0, 0.0]], [0, 0, 1], [1, 1, 0], 0.5)
    assert found.tolist() == [[0.5, 3.0], [3.0, 0.0]]


def test_labels_are_counted_for_the_arm_that_picked():
    truth = np.zeros(SIZE, int)
    truth[SIZE // 2 :] = 2
    first = ask(30, truth=truth)
    state = json.loads(json.dumps(first.state))
    rows = first.rows.tolist()
    by = dict(state["waiting"])
    assert {by[row] for row in rows if row < SIZE // 2} == {0}
    assert {by[row] for row in rows if row >= SIZE // 2} == {1}
    second = ask(5, state, rows, truth)
    each = [sum(arm == k for arm in by.values()) for k in (0, 1)]
    expected = [[0.9 + each[0], 0.9, 0.9], [0.9, 0.9, 0.9 + each[1]]]
    np.testing.assert_allclose(second.state["counts"], expected)
    third = ask(5, second.state, rows, truth)  # nobody answered: nothing is learned
    assert third.state["counts"] == second.state["counts"]


@pytest.mark.parametrize(
    "counts",
    [[[8.0, 1.0, 1.0], [4.0, 2.0, 1.5]], [[0.1, 0.1, 0.1], [30.0, 9.0, 9.0]]],
)
def test_arms_are_drawn_as_often_as_their_dirichlet_says(counts):
    """By definition: theta ~ Dirichlet(a + 1) drawn by SciPy, the larger theta . v wins."""
    v = np.array([-1 / 6, 1 / 3, 1.0])
    rng = np.random.default_rng(0)
    theta = [stats.dirichlet(np.array(row) + 1).rvs(40_000, random_state=rng) for row in counts]
    expected = np.mean(theta[1] @ v > theta[0] @ v)
    arms = promising(np.array(counts), v, 40_000, np.random.default_rng(1))
    assert 0.1 < expected < 0.9
    assert arms.mean() == pytest.approx(expected, abs=0.012)  # 3.5 standard errors


def test_draws_in_parts_are_those_at_once(monkeypatch):
    """For a tenth of ImageNet they would take gigabytes at once."""
    counts, values = np.random.default_rng(3).uniform(0, 9, (3, 4)), np.array([1, 0.5, 0.1, -0.1])
    whole = promising(counts, values, 50, np.random.default_rng(1))
    monkeypatch.setattr("labelwise.strategies.tailor._ENTRIES", 7 * counts.size + 1)
    assert promising(counts, values, 50, np.random.default_rng(1)).tolist() == whole.tolist()
    assert len(set(whole.tolist())) > 1


def test_the_state_decides_which_arm_picks():
    truth = np.array([0] * 6 + [1] * 3 + [2] * 1 + [0] * (SIZE - 10))
    state = {"strategy": "tailor", "version": 1, "arms": ["low", "high"], "count": 7}
    state |= {"counts": [[90.0, 1.0, 1.0], [1.0, 1.0, 90.0]], "waiting": []}
    picks = ask(50, state, range(10), truth)
    assert picks.rows.tolist() == list(range(SIZE - 1, SIZE - 51, -1))
    assert picks.notes == ("picks of each arm: low 0, high 50",)


def test_another_query_is_another_draw():
    one = ask(20)
    two = ask(20, {**one.state, "waiting": []})
    assert [a for _, a in one.state["waiting"]] != [a for _, a in two.state["waiting"]]


def test_what_does_not_fit_is_refused():
    state = ask(3).state
    with pytest.raises(InputError, match="state is of tailor with the arms low, high"):
        ask(3, state, arms=[high])
    with pytest.raises(InputError, match="with 2 classes, and probs have 3"):
        ask(3, {**state, "counts": [[1, 1], [1, 1]]}, [0], np.zeros(SIZE, int))
    with pytest.raises(InputError, match="pass labels="):
        ask(3, state, [0])
    with pytest.raises(InputError, match=r"labels must be in 0\.\.2"):
        ask(3, None, [0], np.full(SIZE, 3))
    for discount in (1.5, -0.1, float("nan"), "x", None, True):
        with pytest.raises(InputError, match="discount must be"):
            ask(3, discount=discount)


def test_a_damaged_state_is_one_clear_line():
    """Whatever entry is gone or of another kind: no error of NumPy's, and no guess."""
    truth, first = np.zeros(SIZE, int), ask(4)
    state, rows = json.loads(json.dumps(first.state)), first.rows.tolist()
    for name in state:
        for value in (None, "x", [[1, 2], [3]], float("nan")):
            with pytest.raises(InputError, match="state is") as error:
                ask(4, {**state, name: value}, rows, truth)
            assert "\n" not in str(error.value)
        left = {key: value for key, value in state.items() if key != name}
        with pytest.raises(InputError, match="state is"):
            ask(4, left, rows, truth)
