"""FASS against its definition: filter by uncertainty, then a set function by hand."""

import numpy as np
import pytest

from labelwise import select
from labelwise.errors import InputError


def value(s, picked, function):
    """A set function's value, by its definition, with lam = 1."""
    if function == "fl":
        return s[:, picked].max(1).sum()
    inner = s[np.ix_(picked, picked)]
    if function == "gc":
        return s[:, picked].sum() - inner.sum()
    return np.linalg.slogdet(inner + np.eye(len(picked)))[1]


def check_by_definition(picks, probs, x, beta, function="fl"):
    """Each pick is of the most uncertain rows, and gains as much as any of them would."""
    entropy = -(probs * np.log(probs)).sum(1)
    kept = np.argsort(-entropy)[: int(np.ceil(beta * len(picks)))].tolist()
    unit = x / np.linalg.norm(x, axis=1)[:, None]
    s = (1 + unit[kept] @ unit[kept].T) / 2
    places = [kept.index(row) for row in picks]
    for t, place in enumerate(places):
        left = set(range(len(kept))) - set(places[:t])
        best = max(value(s, [*places[:t], j], function) for j in left)
        now = value(s, [*places[:t], place], function)
        before = value(s, places[:t], function) if t else 0.0
        # Two rows nearest each other gain the same: either may be picked.
        assert now == pytest.approx(best, abs=1e-9)
        assert picks.scores[t] == pytest.approx(now - before, abs=1e-5)


@pytest.mark.parametrize("function", ["fl", "gc", "logdet"])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_its_definition(seed, function):
    rng = np.random.default_rng(seed)
    probs, x = rng.dirichlet(np.ones(4), 60), rng.normal(size=(60, 5))
    picks = select("fass", 5, probs=probs, embeddings=x, beta=3.1, function=function)
    check_by_definition(picks, probs, x, 3.1, function)


def test_gradients_and_other_uncertainties():
    rng = np.random.default_rng(0)
    probs, x = rng.dirichlet(np.ones(4), 60), rng.normal(size=(60, 5))
    ordered = np.sort(probs, 1)
    doubtful = {"margin": ordered[:, -1] - ordered[:, -2], "least_confidence": ordered[:, -1]}
    for name, doubt in doubtful.items():
        picks = select("fass", 4, probs=probs, embeddings=x, uncertainty=name, beta=2)
        assert set(picks) <= set(np.argsort(doubt)[:8])
    a = probs - np.eye(4)[probs.argmax(1)]
    g = (a[:, :, None] * np.c_[x, np.ones(60)][:, None]).reshape(60, -1)
    one = select("fass", 4, probs=probs, embeddings=x, points="gradient")
    check_by_definition(one, probs, g, 5)


def test_a_single_candidate_is_picked_by_any_function():
    for function in ("fl", "gc", "logdet"):
        picks = select("fass", 1, probs=[[0.5, 0.5]], embeddings=[[1.0]], function=function)
        assert picks.rows.tolist() == [0]


def test_what_is_refused():
    case = {"probs": [[0.5, 0.5]] * 3, "embeddings": np.eye(3)}
    with pytest.raises(InputError, match="beta must be"):
        select("fass", 1, **case, beta=0.5)
    with pytest.raises(InputError, match="did you mean margin"):
        select("fass", 1, **case, uncertainty="margn")
    with pytest.raises(InputError, match="did you mean logdet"):
        select("fass", 1, **case, function="logdt")
    with pytest.raises(InputError, match="points must be"):
        select("fass", 1, **case, points="pixels")


def test_an_embedding_of_zeros_is_refused_by_its_row_of_the_pool():
    h = np.random.default_rng(0).normal(size=(30, 3))
    h[[4, 17]] = 0
    probs = np.full((30, 2), 0.5)
    with pytest.raises(InputError, match=r"embeddings: row 17 is all zeros.*candidates"):
        select("fass", 2, probs=probs, embeddings=h, candidates=range(10, 20))
    picks = select("fass", 2, probs=probs, embeddings=h, candidates=range(10, 17))
    assert set(picks) <= set(range(10, 17))
    select("fass", 2, probs=probs, embeddings=h, points="gradient")
