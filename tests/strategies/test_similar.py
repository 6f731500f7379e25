"""SIMILAR: every function against its definition, and where query and private sets come from."""

import numpy as np
import pytest

from labelwise import select
from labelwise.errors import InputError

SIZE, CLASSES, WIDTH, PICKS = 24, 3, 4, 4
ETA, NU, LAM = 0.9, 0.8, 1.3
FUNCTIONS = [
    *("fl", "gc", "logdet"),
    *("flqmi", "flvmi", "gcmi", "logdetmi"),
    *("flcg", "gccg", "logdetcg"),
    *("flcmi", "logdetcmi"),
]


def some_rows(count, rng):
    return rng.dirichlet(np.ones(CLASSES), count), rng.normal(size=(count, WIDTH))


def gradients(probs, embeddings, labels):
    """Built in full, bias and all."""
    a = probs - np.eye(CLASSES)[labels]
    h = np.c_[embeddings, np.ones(len(embeddings))]
    return (a[:, :, None] * h[:, None]).reshape(len(a), -1)


def alike(x, y):
    cosine = x @ y.T / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1)
    return (1 + cosine) / 2


def logdet(matrix):
    return np.linalg.slogdet(matrix)[1] if len(matrix) else 0.0


def volume(x, picks, given):
    """``log det`` of the picks given other points; each pair of sets has its multiplier."""
    rows = np.concatenate([x[picks], *(y for y, _ in given)])
    scale = np.concatenate([np.ones(len(picks)), *(np.full(len(y), k) for y, k in given)])
    kernel = alike(rows, rows)
    mine = np.arange(len(rows)) < len(picks)
    kernel[np.ix_(mine, ~mine)] *= scale[~mine]
    kernel[np.ix_(~mine, mine)] *= scale[~mine][:, None]
    kernel += LAM * np.eye(len(rows))
    return logdet(kernel) - logdet(kernel[~mine][:, ~mine])


def value(name, x, picks, q, p):
    """What a set of picks is worth, by the definitions."""
    if not picks:
        return 0.0
    best = alike(x, x[picks]).max(1)
    near, away = alike(x, q).max(1), alike(x, p).max(1)
    cut = alike(x, x[picks]).sum() - LAM * alike(x[picks], x[picks]).sum()
    with_q, with_p = [(q, ETA)], [(p, NU)]
    return {
        "fl": lambda: best.sum(),
        "gc": lambda: cut,
        "logdet": lambda: volume(x, picks, []),
        "flqmi": lambda: alike(q, x[picks]).max(1).sum() + ETA * near[picks].sum(),
        "flvmi": lambda: np.minimum(best, ETA * near).sum(),
        "gcmi": lambda: 2 * LAM * alike(x[picks], q).sum(),
        "logdetmi": lambda: volume(x, picks, []) - volume(x, picks, with_q),
        "flcg": lambda: np.maximum(best - NU * away, 0).sum(),
        "gccg": lambda: cut - 2 * LAM * NU * alike(x[picks], p).sum(),
        "logdetcg": lambda: volume(x, picks, with_p),
        "flcmi": lambda: np.maximum(np.minimum(best, ETA * near) - NU * away, 0).sum(),
        "logdetcmi": lambda: volume(x, picks, with_p) - volume(x, picks, with_p + with_q),
    }[name]()


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(4)
    probs, embeddings = some_rows(SIZE, rng)
    given = {"probs": probs, "embeddings": embeddings}
    for name, count in (("query", 3), ("private", 4)):
        p, h = some_rows(count, rng)
        labels = rng.integers(0, CLASSES, count)
        given |= {f"{name}_probs": p, f"{name}_embeddings": h, f"{name}_labels": labels}
    return given


def sets(case, points="gradient"):
    if points == "embedding":
        return [case[k] for k in ("embeddings", "query_embeddings", "private_embeddings")]
    pool = gradients(case["probs"], case["embeddings"], case["probs"].argmax(1))
    others = [
        gradients(case[f"{k}_probs"], case[f"{k}_embeddings"], case[f"{k}_labels"])
        for k in ("query", "private")
    ]
    return [pool, *others]


@pytest.mark.parametrize("points", ["gradient", "embedding"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_pick_gains_most_by_the_definition(name, points, case):
    x, q, p = sets(case, points)
    picks = select("similar", PICKS, **case, function=name, points=points, eta=ETA, nu=NU, lam=LAM)
    made = []
    for row, score in zip(picks.rows, picks.scores, strict=True):
        now = value(name, x, made, q, p)
        gains = {j: value(name, x, [*made, j], q, p) - now for j in set(range(SIZE)) - set(made)}
        assert gains[row] == pytest.approx(max(gains.values()), abs=1e-6)
        assert score == pytest.approx(gains[row], abs=1e-5)
        made.append(row)


def test_first_gains_that_are_all_nothing_still_leave_volumes_to_tell_apart(case):
    x = sets(case)[0]
    picks = select("similar", 5, **case, function="logdet", lam=0)
    assert not picks.notes
    kernel = alike(x, x)
    for n in range(2, 6):
        made = picks.rows[: n - 1].tolist()
        worth = {
            j: logdet(kernel[np.ix_([*made, j], [*made, j])]) for j in set(range(SIZE)) - {*made}
        }
        assert worth[picks.rows[n - 1]] == pytest.approx(max(worth.values()), abs=1e-6)
    assert picks.scores.sum() == pytest.approx(max(worth.values()), abs=1e-5)


def test_labeled_rows_are_not_of_the_pool_but_may_be_the_sets(case):
    pool = {k: case[k] for k in ("probs", "embeddings")}
    labeled, labels = np.array([7, 2, 20, 11]), np.array([0, 1, 1, 2])
    rest = np.setdiff1d(np.arange(SIZE), labeled)
    same = {k: v[rest] for k, v in pool.items()}
    for name, rows in (("query", labeled[1:3]), ("private", labeled[3:])):
        same[f"{name}_probs"], same[f"{name}_embeddings"] = (pool[k][rows] for k in pool)
        same[f"{name}_labels"] = labels[1:3] if name == "query" else labels[3:]
    knobs = {"function": "flcmi", "nu": 0.7}
    known = {"labeled": labeled, "labels": labels, "query_classes": 1, "private_classes": [2]}
    one = select("similar", 5, **pool, **known, **knobs, ids=np.arange(SIZE))
    two = select("similar", 5, **same, **knobs, ids=rest)
    assert one.rows.tolist() == rest[two.rows].tolist()


def test_with_no_private_set_named_it_is_all_labeled_rows(case):
    pool = {k: case[k] for k in ("probs", "embeddings")}
    known = {"labeled": np.arange(5), "labels": np.array([0, 1, 2, 1, 0])}
    one = select("similar", 6, **pool, **known, function="logdetcg")
    two = select("similar", 6, **pool, **known, function="logdetcg", private_classes=[0, 1, 2])
    assert one.rows.tolist() == two.rows.tolist()
    assert not one.notes


@pytest.mark.parametrize(
    ("name", "plain"), [("flcmi", "flvmi"), ("logdetcmi", "logdetmi"), ("flcg", "fl")]
)
def test_an_empty_private_set_is_said(name, plain, case):
    given = {k: v for k, v in case.items() if not k.startswith("private")}
    known = {"labeled": [0, 1], "labels": [1, 1]}
    picks = select("similar", 4, **given, **known, function=name, private_classes=2)
    assert (
        picks.rows.tolist() == select("similar", 4, **given, **known, function=plain).rows.tolist()
    )
    assert plain in picks.notes[0]


@pytest.mark.parametrize(
    ("name", "plain"), [("flcmi", "flvmi"), ("logdetcmi", "logdetmi"), ("gccg", "gc")]
)
@pytest.mark.parametrize("points", ["gradient", "embedding"])
def test_a_private_set_of_no_points_is_not_the_labeled_rows(name, plain, points, case):
    given = {k: v for k, v in case.items() if not k.startswith("private")}
    known = {"labeled": [0, 1], "labels": [1, 1], "points": points}
    none = {"private_probs": np.zeros((0, CLASSES)), "private_embeddings": np.zeros((0, WIDTH))}
    none["private_labels"] = np.zeros(0, int)
    picks = select("similar", 4, **given, **known, **none, function=name)
    alone = select("similar", 4, **given, **known, function=plain)
    assert picks.rows.tolist() == alone.rows.tolist()
    assert "the private set is empty" in picks.notes[0]


@pytest.mark.parametrize("classes", ["1 + 2", (2, 1), np.array([1, 2])])
def test_classes_of_a_set_may_be_joined_in_text(classes, case):
    pool = {k: case[k] for k in ("probs", "embeddings")}
    known = {"labeled": np.arange(5), "labels": np.array([0, 1, 2, 1, 0]), "function": "gcmi"}
    one, two = (select("similar", 6, **pool, **known, query_classes=c) for c in (classes, [1, 2]))
    assert one.rows.tolist() == two.rows.tolist()


def test_where_nothing_gains_the_picks_are_random_and_that_is_said(case):
    given = dict(case)
    for part in ("probs", "embeddings"):
        given[f"private_{part}"] = case[part]
    given["private_labels"] = case["probs"].argmax(1)
    picks = [select("similar", 8, **given, function="flcg", nu=2.0, seed=s) for s in (0, 1)]
    assert picks[0].rows.tolist() != picks[1].rows.tolist()
    assert len(set(picks[0])) == 8
    assert "random" in picks[0].notes[0]


def test_picks_that_gain_nothing_any_more_are_counted(case):
    call = {**case, "function": "flvmi", "eta": 0.5, "n": 12}
    one, two = (select("similar", **call, seed=seed) for seed in (0, 1))
    gained = int((one.scores > 1e-6).sum())
    assert 0 < gained < 12
    assert one.notes == (f"{12 - gained} of 12 picks gain nothing by flvmi: they are random",)
    assert one.rows[0] == two.rows[0]
    assert set(one.rows[gained:]) != set(two.rows[gained:])
    assert not select("similar", 12, **case, function="fl").notes


def test_rare_classes_are_found():
    rng = np.random.default_rng(0)
    truth = np.r_[np.zeros(190, int), np.full(10, 1)]
    centers = np.array([[3.0, 0, 0, 0], [0, 3.0, 0, 0]])
    h = centers[truth] + 0.3 * rng.normal(size=(200, 4))
    probs = np.full((200, 2), 0.5) + 0.02 * rng.normal(size=(200, 1)) * [1, -1]
    query = {"query_probs": [[0.4, 0.6]], "query_embeddings": [[0, 3.0, 0, 0]], "query_labels": [1]}
    for name in ("flqmi", "gcmi", "logdetmi"):
        picks = select(
            "similar", 5, probs=probs, embeddings=h, **query, function=name, points="embedding"
        )
        assert (truth[picks.rows] == 1).mean() >= 0.8


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"function": "flqm"}, "function must be known, got 'flqm'; did you mean"),
        ({"function": "flqmi"}, "a query set is needed: pass query_probs, query_embeddings"),
        ({"function": "flcmi", "query_classes": 0}, "a private set is needed"),
        ({"function": "flqmi", "query_classes": 2}, "no labeled row is of query_classes"),
        ({"function": "flqmi", "query_classes": 5}, r"query_classes must be classes 0\.\.2"),
        ({"function": "flqmi", "query_classes": []}, r"query_classes must be classes 0\.\.2"),
        ({"function": "flqmi", "query_classes": "ant"}, r"query_classes must be .* got 'ant'"),
        ({"function": "flqmi", "query_classes": 0.5}, r"query_classes must be .* got 0\.5"),
        (
            {"function": "flqmi", "query_classes": [True, False]},
            r"query_classes must be .* got True",
        ),
        ({"points": "pixels"}, "points must be"),
        ({"nu": -1.0}, "nu must be a finite number >= 0, got -1"),
        ({"lam": True, "function": "gc"}, "lam must be a finite number >= 0, got True"),
        ({"neighbors": 1.5}, r"neighbors must be a whole number in 1\.\.21 .* got 1.5"),
        ({"neighbors": 22}, r"neighbors must be a whole number in 1\.\.21 .* got 22"),
        (
            {"function": "gcmi", "query_probs": np.full((1, 3), 1 / 3)},
            "pass query_embeddings, query_labels$",
        ),
        (
            {"function": "gcmi", "query_probs": np.zeros((0, 3))},
            "query_probs must be .* with no axis empty",
        ),
    ],
)
def test_what_is_refused_is_one_line(more, message, case):
    pool = {k: case[k] for k in ("probs", "embeddings")}
    with pytest.raises(InputError, match=message):
        select("similar", 3, **pool, labeled=[0, 1], labels=[0, 1], **more)
