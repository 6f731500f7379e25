"""GLISTER against its definition, on gradients built in full."""

import numpy as np
import pytest

from labelwise import select
from labelwise.errors import InputError

LABELED = np.array([7, 2, 30, 11, 19])
LABELS = np.array([0, 2, 1, 1, 0])


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def outer(away, h):
    return (away[:, :, None] * np.c_[h, np.ones(len(h))][:, None]).reshape(len(h), -1)


def by_definition(probs, h, validation, n, lr, candidates, labeled=None, first=1.0, diversity=0.0):
    """Steps of the whole head, logits anew at every pick."""
    one = np.eye(probs.shape[1])
    g = outer(probs - one[probs.argmax(1)], h)
    vp, vh, vy = validation
    head = np.zeros(g.shape[1])
    if labeled is not None:
        rows, labels = labeled
        head -= lr * first * outer(probs[rows] - one[labels], h[rows]).sum(0)
    picked, gains = [], []
    for _ in range(n):
        moved = np.log(vp) + np.c_[vh, np.ones(len(vh))] @ head.reshape(len(one), -1).T
        along = outer(softmax(moved) - one[vy], vh).mean(0)
        gain = g @ along
        for row in picked:
            gain -= diversity * np.exp(-np.square(g - g[row]).sum(1) / 2)
        best = max(set(candidates) - set(picked), key=lambda row: gain[row])
        picked.append(best)
        gains.append(gain[best])
        head -= lr * g[best]
    return picked, gains


def case(seed=1, size=40, classes=3):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(classes), size), rng.normal(size=(size, 4))


def query(seed=5):
    p, h = case(seed, 12)
    return {"query_probs": p, "query_embeddings": h, "query_labels": np.arange(12) % 3}


FREE = np.setdiff1d(np.arange(40), LABELED)


@pytest.mark.parametrize("lr", [0.01, 0.5])
@pytest.mark.parametrize("first_step", ["sum", "mean", "none"])
def test_query_points_are_the_validation_set(lr, first_step):
    probs, h = case()
    known = {"labeled": LABELED, "labels": LABELS}
    picks = select(
        "glister", 8, probs=probs, embeddings=h, lr=lr, first_step=first_step, **known, **query()
    )
    labeled = None if first_step == "none" else (LABELED, LABELS)
    first = 1 / 5 if first_step == "mean" else 1.0
    rows, gains = by_definition(probs, h, tuple(query().values()), 8, lr, FREE, labeled, first)
    assert picks.rows.tolist() == rows
    assert picks.scores == pytest.approx(gains, rel=1e-4)


@pytest.mark.parametrize("validation", ["labeled", "pool", "auto"])
def test_labeled_rows_count_at_their_labels_the_pool_at_predicted_ones(validation):
    probs, h = case()
    known = {"labeled": LABELED, "labels": LABELS}
    picks = select("glister", 8, probs=probs, embeddings=h, lr=0.2, validation=validation, **known)
    hallucinated = probs.argmax(1)
    hallucinated[LABELED] = LABELS
    inside = LABELED if validation == "labeled" else np.arange(40)
    those = probs[inside], h[inside], hallucinated[inside]
    rows, gains = by_definition(probs, h, those, 8, 0.2, FREE, (LABELED, LABELS))
    assert picks.rows.tolist() == rows
    assert picks.scores == pytest.approx(gains, rel=1e-4)


def test_steps_matter():
    probs, h = case()
    small, large = (select("glister", 8, probs=probs, embeddings=h, lr=x) for x in (1e-9, 1.0))
    assert (np.diff(small.scores) <= 0).all()  # no step worth the name: largest products first
    assert small.rows.tolist() != large.rows.tolist()


@pytest.mark.parametrize("lr", [1e-4, 0.05])
def test_bounds_leave_the_picks_as_they_are(lr, monkeypatch):
    """A pool large enough for bounds, with copies; few rows decided at a time or many."""
    probs, h = case(3, 3000)
    probs[1500:], h[1500:] = probs[:1500], h[:1500]
    rows, gains = by_definition(probs, h, tuple(query().values()), 12, lr, range(3000))
    for close in ((1024, 1 / 64), (8, 0.0)):
        monkeypatch.setattr("labelwise.strategies.validation_gain._CLOSE", close)
        picks = select("glister", 12, probs=probs, embeddings=h, lr=lr, **query())
        assert (picks.rows % 1500).tolist() == [row % 1500 for row in rows]
        assert picks.scores == pytest.approx(gains, rel=1e-4)


@pytest.mark.parametrize("size", [40, 3000])
@pytest.mark.parametrize("lr", [0.001, 0.2])
def test_likeness_to_earlier_picks_costs(size, lr):
    probs, h = case(2, size)
    validation = tuple(query().values())
    rows, gains = by_definition(probs, h, validation, 9, lr, range(size), diversity=0.3)
    picks = select("glister", 9, probs=probs, embeddings=h, lr=lr, diversity=0.3, **query())
    assert picks.rows.tolist() == rows
    assert picks.scores == pytest.approx(gains, rel=1e-3, abs=1e-5)
    plain = select("glister", 9, probs=probs, embeddings=h, lr=lr, **query())
    assert plain.rows.tolist() != rows


def test_some_picks_at_random():
    probs, h = case()
    whole = select("glister", 6, probs=probs, embeddings=h, **query())
    runs = [
        select("glister", 10, probs=probs, embeddings=h, random_share=0.4, seed=seed, **query())
        for seed in range(2)
    ]
    for found in runs:
        assert found.rows[:6].tolist() == whole.rows.tolist()
        assert len(set(found)) == 10
        assert found.scores[6:].tolist() == [0.0] * 4
        assert "4 of the picks are random" in found.notes[0]
    assert runs[0].rows.tolist() != runs[1].rows.tolist()


def test_labeled_rows_without_labels_are_said():
    probs, h = case()
    found = select("glister", 3, probs=probs, embeddings=h, labeled=LABELED)
    assert "labels are not given" in found.notes[0]


def test_certain_rows_gain_nothing_and_go_by_noise():
    sure = {"probs": [[1.0, 0.0]] * 20, "embeddings": np.random.default_rng(0).normal(size=(20, 3))}
    picks = [select("glister", 5, **sure, seed=seed) for seed in range(2)]
    assert picks[0].rows.tolist() != picks[1].rows.tolist()
    assert picks[0].scores.tolist() == [0.0] * 5


def test_what_is_refused():
    probs, h = case()
    call = {"probs": probs, "embeddings": h}
    with pytest.raises(InputError, match="lr must be"):
        select("glister", 1, **call, lr=0)
    with pytest.raises(InputError, match="diversity must be"):
        select("glister", 1, **call, diversity=-1)
    with pytest.raises(InputError, match="random_share must be"):
        select("glister", 1, **call, random_share=1.0)
    with pytest.raises(InputError, match="did you mean labeled"):
        select("glister", 1, **call, validation="labelled")
    with pytest.raises(InputError, match="first_step must be known"):
        select("glister", 1, **call, first_step="some")
    with pytest.raises(InputError, match='validation="labeled" needs labeled rows'):
        select("glister", 1, **call, validation="labeled")
    with pytest.raises(InputError, match="pass query_probs"):
        select("glister", 1, **call, query_labels=[0, 1])
    with pytest.raises(InputError, match=r"labels must be classes 0\.\.2, got 3"):
        select("glister", 1, **call, labeled=[0, 1], labels=[0, 3])
