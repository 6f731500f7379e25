"""k-medoids against brute force."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.strategies import select


def follow(x, labeled, picks):
    """How far each pick is from the best by definition, and what it lowers the sum by.

    The first of all is the row of the least sum of distances.
    """
    distance = np.sqrt(((x.astype(float)[:, None] - x.astype(float)) ** 2).sum(2))
    near = distance[:, labeled].min(1) if len(labeled) else np.full(len(x), 1e3)
    missed, gains, taken = [], [], list(labeled)
    for pick in picks:
        gain = np.maximum(near[:, None] - distance, 0).sum(0)
        gain[taken] = -1
        missed.append(gain.max() - gain[pick])
        gains.append(gain[pick])
        near = np.minimum(near, distance[:, pick])
        taken.append(int(pick))
    return np.array(missed), np.array(gains)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("start", [0, 5])
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_kmedoids_is_its_definition(seed, start, shift):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(80, 3)) + shift).astype(np.float32)
    labeled = rng.permutation(80)[:start]
    picks = select("kmedoids", 10, embeddings=x, labeled=labeled)
    missed, gains = follow(x, labeled, picks.rows)
    assert missed.max() < 1e-4  # exact ties occur: two rows that are each other's only gain
    first = 0 if start else 1  # what the first lowers depends on a bound
    np.testing.assert_allclose(picks.scores[first:], gains[first:], rtol=1e-5, atol=1e-5)


def test_by_hand():
    # Sums of distances: 25, 22, 21, 26, 50. From 2, the row at 15 lowers the sum by 13,
    # the row at 7 by 5 + 5.
    x = np.array([[0.0], [1.0], [2.0], [7.0], [15.0]])
    picks = select("kmedoids", 2, embeddings=x)
    assert picks.rows.tolist() == [2, 4]
    assert picks.scores[1] == pytest.approx(13)


@pytest.mark.parametrize("start", [0, 4])
def test_after_exchanges_no_exchange_is_left(start):
    rng = np.random.default_rng(8)
    x = rng.normal(size=(90, 2)) + 4 * rng.normal(size=(5, 2))[rng.integers(0, 5, 90)]
    labeled = rng.permutation(90)[:start]
    distance = np.sqrt(((x[:, None] - x) ** 2).sum(2))

    def cost(rows):
        return distance[:, [*rows, *labeled]].min(1).sum()

    greedy = select("kmedoids", 6, embeddings=x, labeled=labeled)
    picks = select("kmedoids", 6, embeddings=x, labeled=labeled, rounds_of_swaps=20)
    assert cost(picks) < cost(greedy)
    assert "none is left" in picks.notes[0]
    for m in range(6):
        kept = np.delete(picks.rows, m)
        assert picks.scores[m] == pytest.approx(cost(kept) - cost(picks), rel=1e-4)
        for row in np.setdiff1d(np.arange(90), [*picks, *labeled]):
            assert cost([*kept, row]) > cost(picks) * (1 - 1e-5)
    with pytest.raises(InputError, match="rounds_of_swaps must be a whole number"):
        select("kmedoids", 1, embeddings=x, rounds_of_swaps=-1)


def test_directions():
    x = np.array([[1.0, 0], [9.0, 0], [0, 1.0], [0, 2.0], [0, 30.0]])
    picks = select("kmedoids", 2, embeddings=x, normalize=True)
    assert picks.rows[0] in (2, 3, 4)
    assert picks.rows[1] in (0, 1)


@pytest.mark.parametrize("seed", [12, 16, 18, 21])
def test_exchanges_among_copies_come_to_an_end(seed):
    # Copies are as good as each other, and rounding made each look better than the other.
    x = np.repeat(np.random.default_rng(seed).normal(size=(5, 130)), 4, axis=0).astype(np.float32)
    picks = select("kmedoids", 1, embeddings=x, rounds_of_swaps=3)
    distance = np.sqrt(((x.astype(float)[:, None] - x) ** 2).sum(2)).sum(0)
    assert distance[picks[0]] == pytest.approx(distance.min(), rel=1e-5)
    assert "none is left" in picks.notes[0]
