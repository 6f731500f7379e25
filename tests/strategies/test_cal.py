"""CAL both ways: divergences from neighbors, against plain loops."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.cal import cal_scores
from labelwise.strategies.cal_lowest import cal_lowest_scores


def divergence(p, q):
    return float((p * np.log(p / q)).sum())


def make(seed, size=60):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(4), size=size)
    return probs, rng.normal(size=(size, 3)), rng.permutation(size)[:14]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("neighbors", [1, 10, 40])
@pytest.mark.parametrize("normalize", [True, False])
def test_cal_is_the_divergence_of_the_nearest_labeled_rows(seed, neighbors, normalize):
    p, h, labeled = make(seed)
    expected, x_of = [], h / np.linalg.norm(h, axis=1, keepdims=True) if normalize else h
    for x in range(60):
        near = labeled[np.argsort(((x_of[labeled] - x_of[x]) ** 2).sum(1))][:neighbors]
        expected.append(np.mean([divergence(p[row], p[x]) for row in near]))
    scores = cal_scores(*map(torch.from_numpy, (p, h, labeled)), neighbors, normalize)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)
    call = {"labeled": labeled, "neighbors": neighbors, "normalize": normalize}
    picks = select("cal", 7, probs=p, embeddings=h, **call)
    left = np.setdiff1d(np.arange(60), labeled)
    assert picks.rows.tolist() == left[np.argsort(-np.array(expected)[left])][:7].tolist()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("neighbors", [1, 10, 80])
def test_cal_lowest_is_the_agreement_with_the_pools_nearest_rows(seed, neighbors):
    p, h, labeled = make(seed)
    expected = []
    for x in range(60):
        near = [row for row in np.argsort(((h - h[x]) ** 2).sum(1)) if row != x][:neighbors]
        both = [divergence(p[row], p[x]) + divergence(p[x], p[row]) for row in near]
        expected.append(-np.mean(both) / 2)
    scores = cal_lowest_scores(torch.from_numpy(p), torch.from_numpy(h), neighbors)
    np.testing.assert_allclose(scores, expected, rtol=1e-9, atol=1e-12)
    picks = select("cal_lowest", 7, probs=p, embeddings=h, labeled=labeled, neighbors=neighbors)
    # Two rows that are each other's nearest score the same, so rows may change places.
    left = np.delete(expected, labeled)
    np.testing.assert_allclose(picks.scores, np.sort(left)[::-1][:7], rtol=1e-9)
    np.testing.assert_allclose(np.array(expected)[picks.rows], picks.scores, rtol=1e-9)


def test_the_two_ask_for_opposite_rows():
    """Row 2 contradicts the labeled row beside it; rows 3 and 4 agree with it and each other."""
    sure, other = [0.9, 0.1], [0.1, 0.9]
    call = {"probs": [sure, other, other, sure, sure], "neighbors": 1}
    call |= {"embeddings": [[0.0], [9.0], [0.1], [0.3], [0.35]], "labeled": [0, 1]}
    assert select("cal", 1, **call, normalize=False).rows == [2]
    assert set(select("cal_lowest", 2, **call)) == {3, 4}


def test_probabilities_of_zero_leave_numbers():
    p = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    h = torch.arange(1.0, 4.0)[:, None]
    scores = cal_scores(p, h, torch.tensor([0]))
    assert scores.tolist() == [0.0, pytest.approx(126 * np.log(2)), pytest.approx(np.log(2))]
    assert cal_lowest_scores(p, h).isfinite().all()


@pytest.mark.parametrize("row", [4, 8])
def test_a_row_of_zeros_has_no_direction_labeled_or_not(row):
    p, h, _ = make(0)
    h[row] = 0
    call = {"probs": p, "embeddings": h, "labeled": [2, 3, 8]}
    with pytest.raises(InputError, match=f"embeddings: row {row} is all zeros"):
        select("cal", 5, **call)
    assert len(select("cal", 5, normalize=False, **call)) == 5
    assert len(select("cal", 5, **call | {"labeled": []})) == 5


def test_with_nothing_labeled_rows_are_drawn_and_it_is_said():
    p, h, _ = make(0)
    picks = [select("cal", 5, probs=p, embeddings=h, seed=seed) for seed in range(3)]
    assert len({tuple(found.rows) for found in picks}) == 3
    assert picks[0].scores.tolist() == [0] * 5
    assert "nothing is labeled" in picks[0].notes[0]


@pytest.mark.parametrize("name", ["cal", "cal_lowest"])
def test_neighbors_out_of_range(name):
    p, h, labeled = make(0)
    for neighbors in (0, 2.5, True):
        with pytest.raises(InputError, match="neighbors must be a whole number >= 1"):
            select(name, 3, probs=p, embeddings=h, labeled=labeled, neighbors=neighbors)
