"""MASE and BASE against loops over classes with explicit weight differences."""

import numpy as np
import pytest

from labelwise.errors import InputError, ResourceError
from labelwise.strategies import select
from labelwise.strategies.base import base_distances
from labelwise.strategies.mase import mase_scores


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    h, w = rng.normal(size=(90, 6)), rng.normal(size=(5, 6))
    return h, w, rng.normal(size=5)


def by_definition(logits, w):
    """The (N, C) distances to each class's boundary, and the nearest of each row."""
    found = np.empty_like(logits)
    for i, z in enumerate(logits):
        a = z.argmax()
        for c in range(len(z)):
            gap = np.linalg.norm(w[a] - w[c])
            found[i, c] = (z[a] - z[c]) / gap if gap else np.inf
        found[i, a] = np.inf
        found[i, a] = found[i].min()
    return found, found.min(1)


def test_distances_are_their_definition(head):
    h, w, b = head
    logits = h @ w.T + b
    distances, nearest = by_definition(logits, w)
    np.testing.assert_allclose(base_distances(logits, w), distances, rtol=1e-9)
    np.testing.assert_allclose(mase_scores(logits, w), -nearest, rtol=1e-9)


def test_a_move_of_that_length_just_changes_the_prediction(head):
    h, w, b = head
    logits = h @ w.T + b
    length = -mase_scores(logits, w).numpy()
    a = logits.argmax(1)
    flipped = {0.999: 0, 1.001: 0}
    for share in flipped:
        for i in range(len(h)):
            ways = [w[c] - w[a[i]] for c in range(5) if c != a[i]]
            moved = [h[i] + share * length[i] * way / np.linalg.norm(way) for way in ways]
            flipped[share] += any((w @ m + b).argmax() != a[i] for m in moved)
    assert flipped == {0.999: 0, 1.001: 90}


def test_mase_is_not_the_probability_margin():
    w = np.array([[10.0, 0.0], [-10.0, 0.0], [9.9, 0.0]])
    logits = np.array([[2.0, 1.0, 0.0], [2.0, 0.0, 1.0]])  # equal margins, other classes
    assert mase_scores(logits, w).tolist() == pytest.approx([-0.05, -0.1])


@pytest.mark.parametrize("n", [3, 5, 12, 88])
def test_base_is_its_definition(head, n):
    h, w, b = head
    logits = h @ w.T + b
    distances, _ = by_definition(logits, w)
    free, expected = set(range(2, 90)), []
    for c in range(5):
        quota = n // 5 + (c < n % 5)
        best = sorted(free, key=lambda i: distances[i, c])[:quota]
        free -= set(best)
        expected += best
    picks = select("base", n, logits=logits, head_weight=w, labeled=[0, 1])
    assert picks.rows.tolist() == expected
    assert len(picks) == n


def test_a_class_that_nobody_predicts_still_gets_its_quota():
    w = np.eye(3)
    logits = np.array([[5.0, 1.0, 0.0], [5.0, 0.0, 4.0], [5.0, 3.0, 0.0], [9.0, 0.0, 0.0]])
    # No row is predicted as 1 or 2. Class 0 takes the row nearest any boundary.
    assert select("base", 3, logits=logits, head_weight=w).rows.tolist() == [1, 2, 0]


def test_equal_weights_make_no_boundary():
    w = np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]])
    logits = np.array([[3.0, 3.0, 0.0], [3.0, 1.0, 0.5]])
    distances = base_distances(logits, w).numpy()
    assert distances[0, 1] == np.inf
    assert np.isfinite(distances[:, [0, 2]]).all()
    assert not np.isnan(distances).any()
    assert len(set(select("base", 2, logits=logits, head_weight=w))) == 2
    same = np.ones((3, 2))
    assert (mase_scores(logits, same) == -np.inf).all()


def test_equal_weights_are_seen_through_rounding():
    w = np.random.default_rng(0).normal(size=(4, 300)) * 1e3
    w[1] = w[0]
    assert base_distances([[4.0, 3.0, 2.0, 1.0]], w)[0, 1] == np.inf


@pytest.mark.parametrize("apart", [1.0, 1e-5, 1e-8])
@pytest.mark.parametrize("shared", [0.0, 1e4, 1e8])
def test_boundaries_between_classes_of_much_the_same_weights(shared, apart):
    """What all classes share, and how close two of them are, takes no digits from a distance."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(5, 6))
    w[1] = w[0] + apart * rng.normal(size=6)
    w += shared
    logits = rng.normal(size=(40, 5))
    distances, nearest = by_definition(logits, w)
    np.testing.assert_allclose(base_distances(logits, w), distances, rtol=1e-9)
    np.testing.assert_allclose(mase_scores(logits, w), -nearest, rtol=1e-9)


@pytest.mark.parametrize("unit", [1e-200, 1e-30, 1e30, 1e200])
def test_weights_of_any_length(head, unit):
    h, w, b = head
    logits = h @ w.T + b
    length = mase_scores(logits, w).numpy()
    np.testing.assert_allclose(mase_scores(logits, unit * w) * unit, length, rtol=1e-9)


def test_memory_changes_no_pick(head):
    h, w, b = head
    logits = h @ w.T + b
    whole = select("base", 30, logits=logits, head_weight=w)
    parts = select("base", 30, logits=logits, head_weight=w, memory=90 * 192)
    assert parts.rows.tolist() == whole.rows.tolist()
    assert parts.scores.tolist() == whole.scores.tolist()
    with pytest.raises(ResourceError, match="memory must be at least 17280 bytes"):
        select("base", 30, logits=logits, head_weight=w, memory=17279)


@pytest.mark.parametrize("kind", ["ties", "copies", "equal weights"])
def test_ties_do_not_break_the_shortlists(kind):
    rng = np.random.default_rng(0)
    logits, w = rng.integers(0, 3, (400, 6)).astype(np.float32), rng.normal(size=(6, 4))
    if kind == "copies":
        logits[:] = logits[0]
    if kind == "equal weights":
        w[:3] = w[0]
    distances, _ = by_definition(logits.astype(float), w)
    whole = select("base", 200, logits=logits, head_weight=w)
    least = select("base", 200, logits=logits, head_weight=w, memory=400 * 192)
    assert whole.rows.tolist() == least.rows.tolist()
    free = np.ones(400, dtype=bool)
    for c, rows in enumerate(np.split(whole.rows, np.cumsum([34, 34, 33, 33, 33]))):
        mine = distances[rows, c]
        assert sorted(mine) == sorted(distances[free, c])[: len(rows)]
        free[rows] = False


def test_a_pool_of_many_merges_keeps_rows_of_the_class_itself():
    """Once lists have limits, a row near its own class's boundary is still looked at."""
    rng = np.random.default_rng(1)
    logits, w = rng.normal(size=(30_000, 4)), rng.normal(size=(4, 3))
    distances = base_distances(logits, w).numpy()
    free, expected = np.ones(len(logits), dtype=bool), []
    for c in range(4):
        best = np.flatnonzero(free)[distances[free, c].argsort()[:20]]
        free[best] = False
        expected += best.tolist()
    assert (logits[expected].argmax(1) == np.repeat(np.arange(4), 20)).mean() > 0.1
    assert select("base", 80, logits=logits, head_weight=w).rows.tolist() == expected


def test_a_class_whose_nearest_are_taken_reads_again():
    """All classes want the same few rows, so lists run short."""
    rng = np.random.default_rng(0)
    w = np.eye(8)
    logits = np.sort(rng.uniform(size=(500, 1)), 0) * np.arange(8) + 1e-9 * rng.normal(
        size=(500, 8)
    )
    distances, _ = by_definition(logits, w)
    free, expected = set(range(500)), []
    for c in range(8):
        best = sorted(free, key=lambda i: distances[i, c])[:60]
        free -= set(best)
        expected += best
    assert select("base", 480, logits=logits, head_weight=w).rows.tolist() == expected


def test_logits_follow_from_embeddings_and_the_head(head):
    h, w, b = head
    for name in ("base", "mase"):
        one = select(name, 10, logits=h @ w.T + b, head_weight=w)
        two = select(name, 10, embeddings=h, head_weight=w, head_bias=b)
        assert one.rows.tolist() == two.rows.tolist()


def test_one_class_has_no_boundary():
    for name in ("base", "mase"):
        with pytest.raises(InputError, match="no boundary between classes"):
            select(name, 1, logits=np.zeros((4, 1)), head_weight=np.ones((1, 2)))
