"""GradMatch against its definition, on gradients built in full."""

import numpy as np
import pytest
from scipy.optimize import nnls

from labelwise import select
from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Generator, derive
from labelwise.strategies.grad_match import quotas


def gradients(probs, h, bias=True, labels=None):
    labels = probs.argmax(1) if labels is None else labels
    a = probs - np.eye(probs.shape[1])[labels]
    h = np.c_[h, np.ones(len(h))] if bias else h
    return (a[:, :, None] * h[:, None]).reshape(len(a), -1)


def by_definition(g, target, n, lam, signed):
    """Matching pursuit: rows of positive weight, and the weights."""
    picked, left = [], target
    for _ in range(n):
        inner = g @ left
        inner[picked] = -np.inf
        picked.append(int(inner.argmax()))
        some = np.r_[g[picked].T, np.sqrt(lam) * np.eye(len(picked))]
        goal = np.r_[target, np.zeros(len(picked))]
        weights = nnls(some, goal)[0]
        used = np.linalg.lstsq(some, goal, rcond=None)[0] if signed else weights
        left = target - used @ g[picked]
    return np.array(picked)[weights > 0].tolist(), weights[weights > 0]


def case(seed=1, size=40, classes=3):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), size), rng.normal(size=(size, 4))


@pytest.mark.parametrize("refit", ["signed", "nonnegative"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_its_definition(refit, bias, seed):
    probs, h = case(seed)
    labeled = [3, 11]
    picks = select(
        "grad_match",
        8,
        probs=probs,
        embeddings=h,
        labeled=labeled,
        refit=refit,
        bias=bias,
        lam=0.1,
    )
    pool = np.setdiff1d(np.arange(40), labeled)
    g = gradients(probs, h, bias)[pool]
    rows, weights = by_definition(g, g.mean(0), 8, 0.1, refit == "signed")
    used = len(rows)
    assert picks.rows[:used].tolist() == pool[rows].tolist()
    assert picks.weights[:used] == pytest.approx(38 * weights, rel=1e-4)
    assert picks.weights[used:].tolist() == [1.0] * (8 - used)
    assert picks.scores[used:].tolist() == [0.0] * (8 - used)
    assert any(f"{8 - used} of the picks are random" in note for note in picks.notes) == (used < 8)


def test_rows_of_no_use_give_way_to_random_ones():
    # Two directions: once both are matched no row helps, whatever the seed.
    probs = np.tile([[0.6, 0.4], [0.4, 0.6]], (20, 1))
    h = np.random.default_rng(0).uniform(1, 2, size=(40, 1))
    picks = [
        select("grad_match", 12, probs=probs, embeddings=h, bias=False, seed=s) for s in (0, 1)
    ]
    assert picks[0].rows.tolist() != picks[1].rows.tolist()
    for found in picks:
        assert len(set(found)) == 12
        assert (found.weights > 0).all()
        assert (found.weights == 1).sum() >= 10
        assert "are random" in found.notes[-1]


@pytest.mark.parametrize("share", [None, 1.0, 0.3])
@pytest.mark.parametrize("query", [False, True])
def test_equal_weights_are_their_definition(share, query):
    probs, h = case()
    qp, qh = case(5, 12)
    qy = np.arange(12) % 3
    g, target = gradients(probs, h), gradients(qp, qh, labels=qy).mean(0)
    goal = 40 * (5 / 40 if share is None else share) * (target if query else g.mean(0))
    picked = []
    for _ in range(5):
        away = np.linalg.norm(g[picked].sum(0) + g - goal, axis=1)
        away[picked] = np.inf
        picked.append(int(away.argmin()))
    more = {"query_probs": qp, "query_embeddings": qh, "query_labels": qy} if query else {}
    target_name = "query" if query else "pool"
    picks = select(
        "grad_match",
        5,
        probs=probs,
        embeddings=h,
        weights="equal",
        share=share,
        target=target_name,
        **more,
    )
    assert picks.rows.tolist() == picked
    assert picks.weights.tolist() == [1.0] * 5
    left = np.linalg.norm(g[picked].sum(0) - goal) / np.linalg.norm(goal)
    assert f"{left:.3g} of its length" in picks.notes[0]


@pytest.mark.parametrize("query", [False, True])
def test_a_class_by_itself(query):
    probs, h = case(size=60)
    qp, qh = case(5, 12)
    qy = np.arange(12) % 3
    more = {"query_probs": qp, "query_embeddings": qh, "query_labels": qy} if query else {}
    name = "query" if query else "pool"
    picks = select("grad_match", 9, probs=probs, embeddings=h, per="class", target=name, **more)
    g, of = gradients(probs, h), probs.argmax(1)
    counts = quotas(np.bincount(of), np.bincount(of), 9)
    rows, weights = [], []
    for c in range(3):
        mine = np.flatnonzero(of == c)
        goal = gradients(qp, qh, labels=qy)[qy == c].mean(0) if query else g[mine].mean(0)
        found, fitted = by_definition(g[mine], goal, int(counts[c]), 0.0, False)
        rows += mine[found].tolist()
        weights += (len(mine) * fitted).tolist()
    assert picks.rows[: len(rows)].tolist() == rows
    assert picks.weights[: len(rows)] == pytest.approx(weights, rel=1e-4)


@pytest.mark.parametrize("query", [False, True])
def test_whole_batches(query):
    probs, h = case(size=60)
    qp, qh = case(5, 12)
    qy = np.arange(12) % 3
    more = {"query_probs": qp, "query_embeddings": qh, "query_labels": qy} if query else {}
    name = "query" if query else "pool"
    given = {"probs": probs, "embeddings": h, "labeled": [5, 50], "target": name, **more}
    picks = select("grad_match", 18, per="batch", batch_size=7, **given)
    pool = np.setdiff1d(np.arange(60), [5, 50])
    noise = Generator(derive(0, "grad_match")).of(pool).child("batches").uniform(58)
    batches = np.split(pool[np.argsort(noise)], range(7, 58, 7))
    g = gradients(probs, h)
    means = np.stack([g[batch].mean(0) for batch in batches])
    goal = gradients(qp, qh, labels=qy).mean(0) if query else g[pool].mean(0)
    found, weights = by_definition(means, goal, 3, 0.0, False)
    rows = np.concatenate([batches[k] for k in found])[:18]
    sizes = [len(batches[k]) for k in found]  # the last batch is what is left
    each = np.repeat(58 * weights / sizes, sizes)[:18]
    assert picks.rows[: len(rows)].tolist() == rows.tolist()
    assert picks.weights[: len(rows)] == pytest.approx(each, rel=1e-4)
    assert len(set(picks)) == 18


def test_too_many_batches_to_hold_are_refused(monkeypatch):
    monkeypatch.setattr("labelwise.strategies.gradient_matching.MOST_NUMBERS", 100)
    probs, h = case()
    with pytest.raises(ResourceError, match="larger batches"):
        select("grad_match", 4, probs=probs, embeddings=h, per="batch", batch_size=2)


def test_query_points_at_true_labels_are_the_target():
    probs, h = case()
    qp, qh = case(5, 12)
    qy = np.arange(12) % 3
    g, goal = gradients(probs, h), gradients(qp, qh, labels=qy).mean(0)
    rows, _ = by_definition(g, goal, 4, 0.0, False)
    query = {"query_probs": qp, "query_embeddings": qh, "query_labels": qy}
    picks = select("grad_match", 4, probs=probs, embeddings=h, target="query", **query)
    assert picks.rows[: len(rows)].tolist() == rows


def test_quotas_reach_as_far_as_there_is_room():
    assert quotas(np.array([50, 30, 20]), np.array([50, 30, 20]), 10).tolist() == [5, 3, 2]
    assert quotas(np.array([50, 30, 20]), np.array([1, 30, 2]), 10).tolist() == [1, 7, 2]
    assert quotas(np.array([1, 1, 1]), np.array([1, 1, 1]), 2).tolist() == [1, 1, 0]


def test_a_gradient_of_zero_is_said():
    sure = {"probs": [[1.0, 0.0]] * 20, "embeddings": np.random.default_rng(0).normal(size=(20, 3))}
    for option in ({}, {"per": "class"}, {"weights": "equal"}):
        picks = [select("grad_match", 5, **sure, seed=seed, **option) for seed in range(2)]
        assert picks[0].rows.tolist() != picks[1].rows.tolist()
        assert picks[0].weights.tolist() == [1.0] * 5
        assert "5 of the picks are random" in picks[0].notes[0]


def test_what_is_refused():
    half = {"probs": [[0.5, 0.5]] * 3, "embeddings": np.eye(3)}
    with pytest.raises(InputError, match="did you mean signed"):
        select("grad_match", 1, **half, refit="sined")
    with pytest.raises(InputError, match="did you mean batch"):
        select("grad_match", 1, **half, per="batches")
    with pytest.raises(InputError, match="batch_size must be"):
        select("grad_match", 1, **half, batch_size=0)
    with pytest.raises(InputError, match="picks by fitted weights"):
        select("grad_match", 1, **half, per="batch", weights="equal")
    with pytest.raises(InputError, match="lam must be"):
        select("grad_match", 1, **half, lam=-1)
    with pytest.raises(InputError, match="share must be"):
        select("grad_match", 1, **half, share=0)
    with pytest.raises(InputError, match="needs query_probs, query_embeddings and query_labels"):
        select("grad_match", 1, **half, target="query")
