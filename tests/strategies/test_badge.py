"""BADGE against explicit gradients, which our kernel never builds."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.kernels import Generator, GradientEmbedding, derive
from labelwise.strategies import select


def gradients(probs, h, bias=False):
    """The (N, C * D) matrix of last-layer gradients at the predicted label."""
    residual = probs.astype(np.float64).copy()
    residual[np.arange(len(probs)), probs.argmax(1)] -= 1
    inputs = np.hstack([h, np.ones((len(h), 1))]) if bias else h
    return (residual[:, :, None] * inputs[:, None, :]).reshape(len(probs), -1)


@pytest.fixture
def case():
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(4), size=60), rng.normal(size=(60, 5))


@pytest.mark.parametrize("bias", [False, True])
def test_the_first_pick_has_the_longest_gradient_and_scores_are_distances(case, bias):
    probs, h = case
    g = gradients(probs, h, bias)
    picks = select("badge", 12, probs=probs, embeddings=h, bias=bias)
    assert picks.rows[0] == (g**2).sum(1).argmax()
    for i in range(1, 12):
        distance = ((g[picks.rows[i]] - g[picks.rows[:i]]) ** 2).sum(1).min()
        assert picks.scores[i] == pytest.approx(distance, rel=1e-5)


def test_the_bias_changes_the_gradient():
    probs = np.array([[0.5, 0.5], [0.9, 0.1]])
    h = np.array([[0.1], [1.0]])
    assert select("badge", 1, probs=probs, embeddings=h).rows.tolist() == [1]
    assert select("badge", 1, probs=probs, embeddings=h, bias=True).rows.tolist() == [0]


def test_the_second_pick_follows_the_squared_distance(case):
    probs, h = case[0][:6], case[1][:6]
    g = gradients(probs, h)
    first = (g**2).sum(1).argmax()
    law = ((g - g[first]) ** 2).sum(1)
    law /= law.sum()
    second = [select("badge", 2, probs=probs, embeddings=h, seed=s).rows[1] for s in range(600)]
    np.testing.assert_allclose(np.bincount(second, minlength=6) / 600, law, atol=0.08)


def test_a_uniform_first_pick_is_uniform(case):
    probs, h = case[0][:4], case[1][:4]
    rows = [
        select("badge", 1, probs=probs, embeddings=h, first="uniform", seed=s).rows[0]
        for s in range(500)
    ]
    np.testing.assert_allclose(np.bincount(rows, minlength=4) / 500, 0.25, atol=0.08)


def test_labeled_rows_play_no_part(case):
    probs, h = case
    picks = select("badge", 5, probs=probs, embeddings=h, candidates=range(50))
    again = select("badge", 5, probs=probs, embeddings=h, labeled=range(50, 60))
    assert picks.rows.tolist() == again.rows.tolist()


def test_a_model_that_is_sure_of_everything_still_gets_n_rows():
    probs = np.zeros((20, 3))
    probs[:, 1] = 1
    assert len(set(select("badge", 20, probs=probs, embeddings=np.ones((20, 2))))) == 20


@pytest.mark.parametrize(
    "name", ["badge", "glister", "grad_match", "sparse_greedy", "sparse_iht", "fass"]
)
@pytest.mark.parametrize("scale", [1e20, 1e30])
def test_gradients_too_long_for_single_precision_are_refused(case, name, scale):
    """For whatever is made of gradients: squares were infinite, and differences no numbers."""
    probs, h = case
    more = {"points": "gradient"} if name == "fass" else {}
    for n in (1, 12):
        with pytest.raises(InputError, match="row 0 is longer than 3e"):
            select(name, n, probs=probs, embeddings=h * scale, **more)
    picks = select(name, 12, probs=probs, embeddings=h * 1e12, **more)
    assert len(set(picks)) == 12
    assert np.isfinite(picks.scores[1:]).all()


def test_what_a_sure_model_leaves_open_counts_in_float64():
    """In single precision 1 - 1e-9 is 1, and its gradient nothing."""
    rng = np.random.default_rng(1)
    doubt = 10.0 ** rng.uniform(-12, -8, 30)
    probs, h = np.c_[1 - doubt, doubt], rng.normal(size=(30, 4))
    g = gradients(probs, h)
    norms = GradientEmbedding(probs, h).squared_norms()
    np.testing.assert_allclose(norms, (g**2).sum(1), rtol=1e-5)
    picks = select("badge", 5, probs=probs, embeddings=h)
    assert picks.rows[0] == (g**2).sum(1).argmax()
    for i in range(1, 5):
        distance = ((g[picks.rows[i]] - g[picks.rows[:i]]) ** 2).sum(1).min()
        assert picks.scores[i] == pytest.approx(distance, rel=1e-5)


def test_in_partitions_each_part_is_seeded_by_itself(case):
    """11 picks in 3 parts: 4, 4 and 3, each from its own longest gradient on."""
    probs, h = case
    g, candidates = gradients(probs, h), np.arange(5, 60)
    call = {"probs": probs, "embeddings": h, "candidates": candidates}
    picks = select("badge", 11, partitions=3, seed=2, **call)
    noise = Generator(derive(2, "badge")).child("parts").uniform(candidates)
    parts = np.array_split(candidates[np.argsort(noise)], 3)
    for part, mine, scores in zip(
        parts, np.split(picks.rows, [4, 8]), np.split(picks.scores, [4, 8]), strict=True
    ):
        assert set(mine) <= set(part)
        assert mine[0] == part[(g[part] ** 2).sum(1).argmax()]
        assert scores[0] == np.inf
        for i in range(1, len(mine)):
            distance = ((g[mine[i]] - g[mine[:i]]) ** 2).sum(1).min()
            assert scores[i] == pytest.approx(distance, rel=1e-5)
    again = select("badge", 3, partitions=3, first="uniform", seed=2, **call)
    assert again.rows.tolist() != picks.rows[[0, 4, 8]].tolist()
