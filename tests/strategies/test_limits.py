"""Costs, quotas, near-duplicates and excluded rows, with strategies that know nothing of them."""

from functools import partial

import numpy as np
import pytest
import torch

import labelwise as lw
from labelwise.errors import InputError
from labelwise.strategies.pickers import per_cost, pick

SIZE, CLASSES = 200, 4


@pytest.fixture(scope="module")
def probs():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(SIZE, CLASSES)) + np.array([1.5, 0.0, 0.0, -1.0])
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.fixture(scope="module")
def copies():
    """Embeddings of which every third is nearly the one before it, in direction."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(SIZE, 8))
    x[2::3] = 2 * x[1::3][: len(x[2::3])] + 1e-4 * rng.normal(size=x[2::3].shape)
    return x


def in_order(probs):
    """All rows, the smallest margin first."""
    best = np.sort(probs, 1)
    return np.argsort(best[:, -1] - best[:, -2], kind="stable")


def cosine(x):
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit @ unit.T


def test_excluded_rows_are_never_picked(probs):
    best = in_order(probs)
    picks = lw.select("margin", 10, probs=probs, exclude=best[:5])
    assert picks.rows.tolist() == best[5:15].tolist()
    everything = lw.select("margin", SIZE - 5, probs=probs, exclude=best[:5])
    assert not set(everything) & set(best[:5].tolist())


def test_excluded_and_candidates_together(probs):
    picks = lw.select("margin", 3, probs=probs, candidates=range(5), exclude=[1, 3])
    assert sorted(picks) == [0, 2, 4]


@pytest.mark.parametrize("quota", [3, [3, 3, 3, 3], {0: 3, 1: 3, 2: 3, 3: 3}, np.full(4, 3)])
def test_a_quota_cuts_the_order_of_the_strategy(probs, quota):
    left, expected = [3] * CLASSES, []
    for row in in_order(probs).tolist():
        if left[probs[row].argmax()]:
            left[probs[row].argmax()] -= 1
            expected.append(row)
    picks = lw.select("margin", 12, probs=probs, quota=quota)
    assert picks.rows.tolist() == expected[:12]
    assert (np.bincount(probs[picks.rows].argmax(1), minlength=CLASSES) == 3).all()


def test_classes_without_a_quota_are_not_limited(probs):
    free = lw.select("margin", 30, probs=probs)
    most = np.bincount(probs[free.rows].argmax(1)).argmax()
    picks = lw.select("margin", 30, probs=probs, quota={int(most): 2})
    assert (probs[picks.rows].argmax(1) == most).sum() == 2
    assert len(picks) == 30


def test_a_quota_that_leaves_too_few_is_said(probs):
    picks = lw.select("margin", 20, probs=probs, quota=2)
    assert len(picks) == 2 * CLASSES
    assert "8 picks, not 20: the limits leave no more" in picks.notes


def test_the_scores_belong_to_the_rows(probs):
    picks = lw.select("margin", 8, probs=probs, quota=2)
    best = np.sort(probs[picks.rows], 1)
    np.testing.assert_allclose(picks.scores, 1 - (best[:, -1] - best[:, -2]), atol=1e-6)


def test_no_two_picks_alike_and_none_like_a_labeled_row(probs, copies):
    labeled = [1, 4, 7]
    alike = cosine(copies) >= 0.99
    expected = []
    for row in in_order(probs).tolist():
        if row not in labeled and not alike[row, labeled + expected].any():
            expected.append(row)
    picks = lw.select(
        "margin", 60, probs=probs, embeddings=copies, labeled=labeled, duplicates=0.99
    )
    assert picks.rows.tolist() == expected[:60]
    assert any("near-duplicates" in note for note in picks.notes)


def test_near_duplicates_in_small_blocks(probs, copies, monkeypatch):
    whole = lw.select("margin", 80, probs=probs, embeddings=copies, duplicates=0.99)
    monkeypatch.setattr("labelwise.strategies.limits._PAIRS", 1000)
    parts = lw.select("margin", 80, probs=probs, embeddings=copies, duplicates=0.99)
    assert parts.rows.tolist() == whole.rows.tolist()


def test_copies_leave_one_each(probs):
    same = np.ones((SIZE, 3))
    picks = lw.select("margin", 5, probs=probs, embeddings=same, duplicates=1.0)
    assert picks.rows.tolist() == [in_order(probs)[0]]
    zeros = np.r_[np.zeros((SIZE - 1, 3)), np.ones((1, 3))]
    assert len(lw.select("margin", 5, probs=probs, embeddings=zeros, duplicates=0.9)) == 2


@pytest.mark.parametrize("scale", [1e-200, 1e-8, 1e8, 1e200])
def test_length_does_not_make_rows_alike(probs, copies, scale):
    expected = lw.select("margin", 60, probs=probs, embeddings=copies, duplicates=0.99)
    picks = lw.select("margin", 60, probs=probs, embeddings=scale * copies, duplicates=0.99)
    assert picks.rows.tolist() == expected.rows.tolist()


def test_a_quota_beyond_counting_is_none(probs):
    picks = lw.select("margin", 9, probs=probs, quota={0: 10**30})
    assert picks.rows.tolist() == lw.select("margin", 9, probs=probs).rows.tolist()


def test_a_budget_buys_in_order_what_it_can(probs):
    costs = np.random.default_rng(2).uniform(1, 5, SIZE)
    picks = lw.select("margin", probs=probs, costs=costs, budget=60.0)
    assert costs[picks.rows].sum() <= 60.0
    order = [row for row in in_order(probs).tolist() if row in set(picks)]
    assert picks.rows.tolist() == order
    # Whatever came before the last pick and was left out did not fit any more.
    spent = 0.0
    for row in in_order(probs).tolist()[: in_order(probs).tolist().index(order[-1]) + 1]:
        if row in set(picks):
            spent += costs[row]
        else:
            assert spent + costs[row] > 60.0
    assert any("of 60" in note for note in picks.notes)


def test_n_limits_a_budget(probs):
    costs = np.ones(SIZE)
    assert len(lw.select("margin", 7, probs=probs, costs=costs, budget=50)) == 7
    assert len(lw.select("margin", 70, probs=probs, costs=costs, budget=50)) == 50
    assert len(lw.select("margin", probs=probs, costs=costs, budget=50)) == 50


def test_a_budget_beyond_the_pool_buys_all(probs):
    picks = lw.select("margin", probs=probs, costs=np.full(SIZE, 0.5), budget=1e6)
    assert sorted(picks) == list(range(SIZE))


def test_a_joint_strategy_under_all_limits(probs, copies):
    costs = np.random.default_rng(3).uniform(1, 2, SIZE)
    picks = lw.select(
        "k_center",
        embeddings=copies,
        probs=probs,
        labeled=[0, 1],
        exclude=[5],
        costs=costs,
        budget=30,
        quota=6,
        duplicates=0.99,
    )
    assert len(set(picks)) == len(picks) > 10
    assert not {0, 1, 5} & set(picks)
    assert costs[picks.rows].sum() <= 30
    assert np.bincount(probs[picks.rows].argmax(1)).max() <= 6
    alike = cosine(copies)[np.ix_(picks.rows, picks.rows)] - np.eye(len(picks))
    assert alike.max() < 0.99


def test_the_picker_that_divides_by_costs(probs):
    costs = np.random.default_rng(4).uniform(1, 9, SIZE)
    picks = lw.select("entropy", 10, probs=probs, costs=costs, picker="per_cost")
    worth = -(probs * np.log(probs)).sum(1) / costs
    assert picks.rows.tolist() == np.argsort(-worth)[:10].tolist()
    with pytest.raises(InputError, match="per_cost picker needs scores >= 0"):
        pick(
            torch.tensor([-1.0, 2.0]),
            n=1,
            candidates=torch.arange(2),
            generator=lw.kernels.Generator(0),
            picker=partial(per_cost, costs=[1.0, 1.0]),
        )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"budget": 5.0}, "budget needs costs"),
        ({"budget": -1.0, "costs": np.ones(SIZE)}, "budget must be a positive number, got -1.0"),
        ({"budget": 0.5, "costs": np.ones(SIZE)}, "rule out every candidate"),
        ({"costs": np.zeros(SIZE)}, "costs must be > 0, but entry 0 is 0"),
        ({"costs": np.ones(3)}, "costs"),
        ({"costs": np.full(SIZE, np.nan)}, "costs must be finite"),
        ({"quota": -1}, "quota must be whole numbers >= 0, got -1"),
        ({"quota": 1.5}, "quota must be a whole number"),
        ({"quota": [1, 2]}, "one for each of the 4 classes"),
        ({"quota": [[1], [2, 3], 4, 5]}, r"quota must be whole numbers >= 0, got \[1\]"),
        ({"quota": np.ones((4, 1), int)}, r"quota must be whole numbers >= 0, got \[1\]"),
        ({"quota": {9: 1}}, "quota must name classes in 0..3, got 9"),
        ({"quota": {"cat": 1}}, "quota must name classes by number, got 'cat'"),
        ({"duplicates": 1.5}, "duplicates must be a cosine similarity in"),
        ({"duplicates": 0.9}, "duplicates needs embeddings"),
        ({"exclude": [SIZE]}, "exclude must be rows of the pool in 0..199"),
        ({"exclude": range(SIZE)}, "there is nothing to pick"),
        ({"quota": 1, "checkpoint": "x"}, "checkpoint= goes without budget, quota and duplicates"),
    ],
)
def test_limits_that_cannot_be_kept(probs, more, message):
    with pytest.raises(InputError, match=message):
        lw.select("margin", 3, probs=probs, **more)


def test_n_or_a_budget(probs):
    with pytest.raises(InputError, match="n must be a whole number"):
        lw.select("margin", probs=probs)


def affordable(order, costs, budget, n=None):
    """Rows in order, each bought where the money left is enough; the plain definition."""
    kept = []
    for row in order:
        if len(kept) != n and costs[row] <= budget:
            kept.append(row)
            budget -= costs[row]
    return kept


@pytest.mark.parametrize("n", [None, 3, 12, 60])
@pytest.mark.parametrize("seed", range(6))
def test_an_expensive_pick_does_not_end_the_shopping(probs, seed, n):
    """Costs of a long tail: what one row does not leave enough for, a later one may cost."""
    rng = np.random.default_rng(seed)
    costs = rng.choice([1.0, 1.0, 2.0, 7.0, 40.0], SIZE)
    budget = float(rng.integers(20, 90))
    picks = lw.select("margin", n, probs=probs, costs=costs, budget=budget)
    expected = affordable(in_order(probs).tolist(), costs, budget, n)
    assert picks.rows.tolist() == expected
    few = f"{len(expected)} picks, not {n}: the limits leave no more"
    assert (few in picks.notes) == (n is not None and len(expected) < n)


def test_what_is_passed_over_is_counted_once(probs):
    order = in_order(probs)
    costs = np.ones(SIZE)
    costs[order[1:4]] = 9.0
    picks = lw.select("margin", 6, probs=probs, costs=costs, budget=9.5)
    assert picks.rows.tolist() == order[[0, 4, 5, 6, 7, 8]].tolist()
    assert picks.notes[0] == "passed over: 3 that cost more than was left"
    assert picks.notes[1:] == ("the picks cost 6 of 9.5",)


def test_a_joint_strategy_goes_on_after_an_expensive_pick(copies):
    costs = np.ones(SIZE)
    costs[::2] = 50.0
    picks = lw.select("k_center", 30, embeddings=copies, costs=costs, budget=75.0)
    assert len(picks) == 26
    assert costs[picks.rows].sum() == 75.0
