"""LSA: contexts, LinUCB, rewards and what is handed on, each against its definition."""

import json

import numpy as np
import pytest
import torch
from tests.test_battery import make_pool

from labelwise.errors import InputError
from labelwise.kernels.greedy import greedy
from labelwise.strategies import Experience, select
from labelwise.strategies.aggregate import rank_scores, standardized
from labelwise.strategies.entropy import entropy_scores
from labelwise.strategies.linucb import UpperConfidence, learned_weights
from labelwise.strategies.margin import margin_scores

ARMS = "margin+entropy+k_center"


@pytest.fixture(scope="module")
def pool():
    return make_pool()[0]


def test_scales_by_hand():
    scores = np.array([1.0, 2.0, 6.0])
    assert standardized(scores, "unit").tolist() == [0, 0.2, 1]
    found = standardized(scores, "zscore")
    assert found == pytest.approx((scores - 3) / np.sqrt((4 + 1 + 9) / 3))
    assert standardized(np.full(3, 7.0), "zscore").tolist() == [0, 0, 0]


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e200, 1.7e308])
def test_scores_of_any_size_are_scaled(size):
    """Entropies of a saturated softmax in float64 are as small, and their squares are 0."""
    for scale in ("zscore", "unit"):
        expected = standardized(np.array([-1.0, 0.5, 1.0]), scale)
        found = standardized(size * np.array([-1.0, 0.5, 1.0]), scale)
        assert found == pytest.approx(expected, abs=1e-3 if size < 1e-300 else 1e-12)


def test_ranks_by_hand():
    found = rank_scores(np.array([9, 4, 5]), np.array([4, 5, 6, 9]))
    assert found == pytest.approx([2 / 3, 1 / 3, 0, 1])


def test_weights_minimize_what_they_should():
    rng = np.random.default_rng(0)
    s, r, prior, ridge = rng.normal(size=(20, 3)), rng.normal(size=20), rng.normal(size=3), 0.7
    w = learned_weights(s.T @ s, s.T @ r, prior, ridge)

    def loss(w):
        return np.sum((r - s @ w) ** 2) + ridge * np.sum((w - prior) ** 2)

    for step in np.eye(3) * 1e-4:
        assert loss(w) < min(loss(w + step), loss(w - step))


def test_linucb_is_its_definition():
    rng = np.random.default_rng(1)
    s, w, a = rng.normal(size=(60, 4)), 0.3 * rng.normal(size=4), 2.0 * np.eye(4)
    chosen = greedy(UpperConfidence(s, w, a, 0.8), 12)
    covariance, rows = a.copy(), []
    for _ in range(12):
        bound = s @ w + 0.8 * np.sqrt([x @ np.linalg.inv(covariance) @ x for x in s])
        bound[rows] = -np.inf
        rows.append(int(bound.argmax()))
        covariance += np.outer(s[rows[-1]], s[rows[-1]])
    assert chosen.rows.tolist() == rows


def test_a_ridge_that_rounding_loses_is_refused():
    with pytest.raises(InputError, match="ridge must be larger, got 1e-12"):
        learned_weights(np.full((2, 2), 1e5), np.ones(2), np.zeros(2), 1e-12)


def ask(pool, n=6, state=None, labeled=(), labels=None, **more):
    given = {"arms": ARMS, "state": state, "labeled": list(labeled), "labels": labels}
    return select("lsa", n, **{**pool, **given, **more})


def contexts(pool, n, left, seed=0):
    """By definition: z-scores of margin and entropy, and of k-center's ranks."""
    probs, h = torch.from_numpy(pool["probs"]), pool["embeddings"]
    near = select("k_center", n, embeddings=h, candidates=left, labeled=[*LABELED]).rows
    ranks = np.zeros(len(h))
    ranks[near] = 1 - np.arange(n) / n
    columns = [margin_scores(probs).numpy(), entropy_scores(probs).numpy(), ranks]
    x = np.stack([c[left] for c in columns], 1)
    return (x - x.mean(0)) / x.std(0)


LABELED = (3, 50)


def test_two_rounds_by_definition(pool):
    """Contexts, first weights 0, the reward of new labels, and ridge regression on them."""
    later, _ = make_pool(seed=8)
    truth = later["probs"].argmax(1)
    truth[::5] = 0
    n, alpha, ridge = 6, 0.4, 0.5
    options = {"alpha": alpha, "ridge": ridge}
    first = ask(pool, n, labeled=LABELED, labels=truth[list(LABELED)], **options)
    left = np.setdiff1d(np.arange(120), LABELED)
    s = contexts(pool, n, left)
    at = np.searchsorted(left, first.rows)
    assert first.scores[0] == pytest.approx(
        alpha / np.sqrt(ridge) * np.linalg.norm(s, axis=1).max()
    )
    np.testing.assert_allclose(first.state["waiting"][1], s[at], atol=1e-6)
    now = np.array([*LABELED, *first.rows])
    state = json.loads(json.dumps(first.state))
    second = ask(later, n, state, now, truth[now], **options)
    before, after = (p["probs"].argmax(1)[now] == truth[now] for p in (pool, later))
    reward = after.mean() - before.mean()
    assert reward != 0
    expected = learned_weights(s[at].T @ s[at], reward * s[at].sum(0), np.zeros(3), ridge)
    np.testing.assert_allclose(second.state["experience"]["weights"], expected, atol=1e-6)
    one = np.array(second.state["waiting"][1][0])
    known = np.linalg.inv(ridge * np.eye(3) + s[at].T @ s[at])  # also of the first batch
    bound = one @ expected + alpha * np.sqrt(one @ known @ one)
    assert second.scores[0] == pytest.approx(bound, abs=1e-6)
    share = ask(later, n, ask(pool, n, reward="accuracy", **options).state, now, truth[now],
                reward="accuracy", **options)  # fmt: skip
    assert np.abs(share.state["moment"]).sum() > 0


def test_the_reward_of_validation(pool):
    truth = np.zeros(120, int)
    first = ask(pool, reward="validation", validation_accuracy=0.5)
    rows = first.rows
    more = {"labeled": rows, "labels": truth[rows], "reward": "validation"}
    second = ask(pool, state=first.state, validation_accuracy=0.75, **more)
    s = np.array(first.state["waiting"][1])
    np.testing.assert_allclose(second.state["moment"], 0.25 * s.sum(0))
    with pytest.raises(InputError, match="needs validation_accuracy="):
        ask(pool, state=first.state, **more)
    with pytest.raises(InputError, match=r"validation_accuracy must be a number in \[0, 1\]"):
        ask(pool, state=first.state, validation_accuracy=7.0, **more)


def test_only_answered_picks_are_credited(pool):
    truth = np.zeros(120, int)
    first = ask(pool, reward="accuracy")
    rows = first.rows[:2]
    second = ask(pool, state=first.state, labeled=rows, labels=truth[rows], reward="accuracy")
    s = np.array(first.state["waiting"][1])[:2]
    np.testing.assert_allclose(second.state["gram"], s.T @ s)
    nobody = ask(pool, state=first.state, reward="accuracy")
    assert np.abs(nobody.state["gram"]).sum() == 0


def test_experience_is_handed_from_run_to_run(pool, tmp_path):
    """Without exploration the picks of known weights are the top of the weighted sum."""
    Experience(("margin", "entropy", "k_center"), (0.5, -1.0, 2.0)).save(tmp_path / "a.json")
    picks = ask(pool, 8, alpha=0, experience=str(tmp_path / "a.json"), labeled=LABELED)
    left = np.setdiff1d(np.arange(120), LABELED)
    total = contexts(pool, 8, left) @ [0.5, -1.0, 2.0]
    assert picks.rows.tolist() == left[np.argsort(-total)][:8].tolist()
    np.testing.assert_allclose(picks.scores, np.sort(total)[::-1][:8], atol=1e-6)
    Experience.from_dict(picks.state["experience"]).save(tmp_path / "b.json")
    other = ask(pool, 8, alpha=0, experience=str(tmp_path / "b.json"), labeled=LABELED)
    assert other.rows.tolist() == picks.rows.tolist()
    turned = ask(
        pool, 8, alpha=0, experience=str(tmp_path / "a.json"), labeled=LABELED,
        arms="k_center+margin+entropy",
    )  # fmt: skip
    assert turned.rows.tolist() == picks.rows.tolist()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"version": 2}, "version 2, and this labelwise reads version 1"),
        ({"format": "other"}, "is no experience of labelwise"),
        ({"arms": ["margin", "badge", "random"]}, "of the arms margin, badge, random, and not"),
        ({"scale": "unit"}, "scaled by 'unit', and not by 'zscore'"),
        ({"weights": [1.0]}, "a weight for each arm, got 1 for 3"),
        ({"weights": [1.0, "x", 2.0]}, "the weight of entropy is no number"),
        ({"weights": [1.0, float("nan"), 2.0]}, "must be finite"),
        ({"weights": [1.0, 10**400, 2.0]}, "experience: the weight of entropy must be finite"),
        ({"weights": [1.0, 1e308, 2.0]}, "must be finite, below 1e"),
        ({"arms": ["margin"] * 3}, "name each arm once"),
    ],
)
def test_an_experience_that_does_not_fit_is_one_clear_line(pool, tmp_path, change, says):
    good = Experience(("margin", "entropy", "k_center"), (1.0, 2.0, 3.0)).to_dict()
    path = tmp_path / "experience.json"
    path.write_text(json.dumps({**good, **change}))
    with pytest.raises(InputError, match=says) as error:
        ask(pool, experience=str(path))
    assert "\n" not in str(error.value)


def test_a_missing_or_torn_experience(pool, tmp_path):
    with pytest.raises(InputError, match="cannot read the experience"):
        ask(pool, experience=str(tmp_path / "none.json"))
    (tmp_path / "torn.json").write_text('{"format": "labelw')
    with pytest.raises(InputError, match="is no experience of labelwise"):
        ask(pool, experience=str(tmp_path / "torn.json"))
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is no experience of labelwise"):
        ask(pool, experience=str(tmp_path / "deep.json"))
    with pytest.raises(InputError, match="must be a path, a record or 'shipped', got 3"):
        ask(pool, experience=3)


def test_what_does_not_fit_is_refused(pool):
    state = ask(pool).state
    with pytest.raises(InputError, match="state is of lsa with scale 'zscore'"):
        ask(pool, state=state, scale="unit")
    with pytest.raises(InputError, match="state is of lsa with the arms"):
        ask(pool, state=state, arms="margin+entropy")
    with pytest.raises(InputError, match="pass labels="):
        ask(pool, state=state, labeled=[1])
    for name, value in (("alpha", -1), ("ridge", 0), ("scale", "z"), ("reward", "gain")):
        with pytest.raises(InputError, match=name):
            ask(pool, **{name: value})


def test_scores_that_are_not_finite_are_named(pool):
    def endless(probs, *, n, candidates, picker="top"):
        from labelwise.kernels import Chosen

        return Chosen(candidates[:n], torch.full((n,), torch.inf))

    with pytest.raises(InputError, match="endless cannot be an arm: its score of row 0"):
        ask(pool, arms=[endless])


def test_rows_that_no_arm_tells_apart_are_drawn_by_item():
    probs = np.full((50, 2), 0.5)
    one = select("lsa", 5, probs=probs, arms="margin+entropy", seed=0)
    two = select("lsa", 5, probs=probs, arms="margin+entropy", seed=1)
    assert one.rows.tolist() != two.rows.tolist()
    assert one.scores.tolist() == [0] * 5


@pytest.mark.parametrize("value", [3, 0.5, None, True])
def test_a_choice_that_is_no_text_is_refused(pool, value):
    for name in ("scale", "reward"):
        with pytest.raises(InputError, match=f"{name} must be known, got {value}; known: "):
            ask(pool, **{name: value})


def test_a_damaged_state_is_one_clear_line(pool):
    """Whatever entry is gone or of another kind: no error of NumPy's, and no guess."""
    truth = np.zeros(120, int)
    state = json.loads(json.dumps(ask(pool).state))
    rows = list(state["waiting"][0])
    for name in state:
        for value in (None, "x", [[1, 2], [3]], float("nan")):
            if (name, value) == ("validation_accuracy", None):
                continue
            with pytest.raises(InputError, match="state is") as error:
                ask(pool, state={**state, name: value}, labeled=rows, labels=truth[rows])
            assert "\n" not in str(error.value)
        left = {key: value for key, value in state.items() if key != name}
        with pytest.raises(InputError, match="state is"):
            ask(pool, state=left, labeled=rows, labels=truth[rows])
    with pytest.raises(InputError, match="is a damaged state of lsa"):
        ask(pool, state={**state, "gram": [[float("inf")] * 3] * 3})
