"""CLUE: weights, weighted clusters and the rows nearest their centers, against a plain loop."""

import numpy as np
import pytest
import torch
from tests.kernels.test_kmeans_and_neighbors import by_definition_weighted

from labelwise.errors import InputError
from labelwise.kernels import Euclidean, Generator, derive, kmeans_plus_plus
from labelwise.strategies import select
from labelwise.strategies.clue import clue_weights, nearest_in_turn


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def by_definition(z, h, left, n, temperature, seed):
    p = softmax(z[left] / temperature)
    weights = -(p * np.log(p)).sum(1)
    stream = Generator(derive(seed, "clue")).child("clusters").child("init")
    seeds = kmeans_plus_plus(Euclidean(h), n, generator=stream, candidates=torch.tensor(left))
    start = h[seeds.rows.numpy()]
    centers, _, _ = by_definition_weighted(h[left], start, weights, 300)
    picks = []
    for center in centers:
        order = np.argsort(((h[left] - center) ** 2).sum(1), kind="stable")
        picks.append(next(row for row in left[order] if row not in picks))
    return picks, dict(zip(left, weights))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_clue_is_its_definition(seed, temperature):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(120, 3)) + 6 * rng.normal(size=(5, 3))[rng.integers(0, 5, 120)]
    z = 2 * rng.normal(size=(120, 4))
    left = np.sort(rng.permutation(120)[:90])
    call = {"temperature": temperature, "candidates": left, "seed": seed}
    picks = select("clue", 6, logits=z, embeddings=h, iterations=300, **call)
    rows, weights = by_definition(z, h, left, 6, temperature, seed)
    assert picks.rows.tolist() == rows
    np.testing.assert_allclose(picks.scores, [weights[row] for row in rows], rtol=1e-9)


def test_centers_follow_the_uncertain_rows():
    h = np.array([[0.0], [1.0], [2.0], [10.0]])
    sure, unsure = [0.999, 0.001], [0.5, 0.5]
    assert select("clue", 1, probs=[sure, unsure, sure, sure], embeddings=h).rows == [1]
    assert select("clue", 1, probs=[sure, sure, sure, unsure], embeddings=h).rows == [3]


def test_where_all_are_certain_they_count_alike():
    h, sure = np.array([[0.0], [1.0], [5.0]]), [[1.0, 0.0]] * 3
    picks = select("clue", 1, probs=sure, embeddings=h)
    assert picks.rows == [1]
    assert picks.notes == ("all candidates are certain and count alike",)
    assert picks.scores.tolist() == [0]


def test_certain_rows_that_have_to_be_asked_for_are_spread():
    """Two rows of 90 are unsure, beside each other; the other picks go by place, not by number."""
    h = np.repeat([[0.0], [50.0], [100.0]], 30, axis=0) + np.linspace(0, 1, 90)[:, None]
    probs = np.tile([1.0, 0.0], (90, 1))
    probs[[88, 89]] = 0.5
    picks = select("clue", 5, probs=probs, embeddings=h)
    assert {88, 89} & set(picks)
    assert {int(row) // 30 for row in picks} == {0, 1, 2}
    assert picks.notes == ("2 candidates are not certain; the others count a little each",)


def test_centers_that_share_their_nearest_rows():
    x = np.arange(30.0)[:, None]
    rows = nearest_in_turn(Euclidean(x), torch.full((30, 1), 14.1, dtype=torch.float64))
    assert rows.tolist() == np.argsort(np.abs(x[:, 0] - 14.1)).tolist()
    rows = nearest_in_turn(Euclidean(x), torch.tensor([[3.2], [3.4], [20.0], [2.9]]))
    assert rows.tolist() == [3, 4, 20, 2]


@pytest.mark.parametrize("iterations", [-1, 2.5, True])
def test_iterations_out_of_range(iterations):
    call = {"probs": [[1.0, 0.0]] * 3, "embeddings": [[0.0], [1.0], [5.0]]}
    with pytest.raises(InputError, match="iterations must be a whole number >= 0"):
        select("clue", 1, iterations=iterations, **call)


def test_a_prediction_of_zeros_has_no_share_at_any_temperature():
    probs = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    for temperature in (0.01, 1, 7):
        assert clue_weights(probs, temperature).tolist() == [0, pytest.approx(np.log(2))]
    for temperature in (0, -1, np.inf, True, "hot"):
        with pytest.raises(InputError, match="temperature must be a positive number"):
            clue_weights(probs, temperature)
