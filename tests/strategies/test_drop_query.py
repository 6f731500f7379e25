"""DropQuery: flips by hand, the bound that comes down, and the row in the middle."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.drop_query import drop_query_scores

A, B = [0.8, 0.2], [0.3, 0.7]


def pool(flips, samples=3):
    """Draws that flip a row's class, which is A without dropout, so many times each."""
    draws = np.array([[B if s < count else A for count in flips] for s in range(samples)])
    return {"draws": draws, "probs": np.array([A] * len(flips))}


def test_flips_by_hand():
    given = pool([0, 3, 1, 2])
    assert drop_query_scores(**given).tolist() == [0, 3, 1, 2]
    given["probs"][1] = B  # now all three draws agree with the prediction
    assert drop_query_scores(**given).tolist() == [0, 0, 1, 2]


def directions(degrees, lengths):
    angle = np.deg2rad(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * np.array(lengths)[:, None]


def test_each_cluster_gives_the_row_nearest_its_center():
    """Three directions of four rows that flip; row 12 never does, though it is in the middle."""
    degrees = [0, 2, 3, 9, 120, 121, 123, 132, 240, 244, 245, 249, 3]
    lengths = [1, 9, 1, 5, 2, 2, 7, 1, 3, 1, 1, 6, 1]
    x = directions(degrees, lengths)
    given = pool([2] * 12 + [0])
    picks = select("drop_query", 3, **given, embeddings=x, wanted=1)
    # Means of the unit vectors lie at 3.5, 124.0 and 244.5 degrees.
    assert set(picks) == {2, 6, 9} or set(picks) == {2, 6, 10}
    assert picks.notes == ("12 candidates that flip in more than 1 draws were clustered",)
    assert picks.scores.tolist() == [2, 2, 2]
    # By length the long ones pull the centers to themselves.
    long = select("drop_query", 3, **given, embeddings=x, wanted=1, normalize=False)
    assert set(long) != set(picks)


def test_the_bound_comes_down_until_rows_are_enough():
    flips = [5, 4, 3, 2, 2, 1, 1, 1, 0, 0]
    x = np.random.default_rng(0).normal(size=(10, 3))

    def kept(n, wanted):
        (note,) = select("drop_query", n, **pool(flips, 5), embeddings=x, wanted=wanted).notes
        return [int(word) for word in note.split() if word.isdigit()]

    assert kept(2, 1) == [3, 2]  # more than half of 5 draws: 3 rows are enough
    assert kept(2, 2) == [5, 1]  # 4 wanted, 3 flip more than twice
    assert kept(2, 3) == [8, 0]  # 6 wanted
    assert kept(2, 25) == [8, 0]  # 50 wanted: any flip, and no more


def test_most_flips_first():
    flips = [1, 3, 2, 1, 3, 2, 0, 0]
    x = np.random.default_rng(1).normal(size=(8, 3))
    picks = select("drop_query", 5, **pool(flips), embeddings=x)
    assert sorted(picks.scores, reverse=True) == picks.scores.tolist()
    assert picks.scores.tolist() == [flips[row] for row in picks]
    assert 0 not in picks.scores


def test_too_few_that_flip_are_all_picked():
    flips = [0, 2, 0, 0, 1, 0, 0, 0]
    x = np.random.default_rng(2).normal(size=(8, 3))
    picks = select("drop_query", 4, **pool(flips), embeddings=x)
    assert picks.rows[:2].tolist() == [1, 4]
    assert picks.scores.tolist() == [2, 1, 0, 0]
    assert picks.notes == ("only 2 candidates flip in a draw: the rest is drawn at random",)
    other = [tuple(select("drop_query", 4, **pool(flips), embeddings=x, seed=s)) for s in range(6)]
    assert len(set(other)) > 1
    assert select("drop_query", 2, **pool(flips), embeddings=x).notes == ()


def test_only_flips_of_candidates_count():
    flips = [2, 2, 2, 2, 1, 0]
    x = np.random.default_rng(3).normal(size=(6, 3))
    picks = select("drop_query", 1, **pool(flips), embeddings=x, candidates=[4, 5])
    assert picks.rows.tolist() == [4]


def test_what_is_refused():
    given = pool([1, 2, 2])
    x = np.array([[1.0, 0], [0, 0], [0, 1]])
    with pytest.raises(InputError, match="embeddings: row 1 is a zero vector"):
        select("drop_query", 1, **given, embeddings=x)
    assert len(select("drop_query", 1, **given, embeddings=x, normalize=False)) == 1
    with pytest.raises(InputError, match="wanted must be a whole number >= 1, got 0"):
        select("drop_query", 1, **given, embeddings=x, wanted=0)
    for bad in (1.5, -1):
        with pytest.raises(InputError, match=f"iterations must be a whole number >= 0, got {bad}"):
            select("drop_query", 1, **given, embeddings=x, normalize=False, iterations=bad)
