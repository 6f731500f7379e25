"""Cluster-Margin: which candidates are kept, and the round over clusters."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.cluster_margin import smallest_first


def two_class(margins):
    first = (1 + np.asarray(margins)) / 2
    return np.stack([first, 1 - first], 1)


PLACE = np.array([0.0, 0.1, 0.2, 0.3, 9.0, 9.1, 30.0])[:, None]
MARGINS = np.array([0.10, 0.05, 0.15, 0.20, 0.40, 0.30, 0.50])
CALL = {"probs": two_class(MARGINS), "embeddings": PLACE, "normalize": False, "clusters": 3}


def test_one_a_cluster_in_turn_the_smallest_first():
    picks = select("cluster_margin", 7, within="margin", **CALL)
    assert picks.rows.tolist() == [6, 5, 1, 4, 0, 2, 3]
    np.testing.assert_allclose(picks.scores, 1 - MARGINS[[6, 5, 1, 4, 0, 2, 3]])


def test_within_a_cluster_the_paper_draws():
    firsts = set()
    for seed in range(30):
        rows = select("cluster_margin", 3, seed=seed, **CALL).rows.tolist()
        assert rows[0] == 6
        assert rows[1] in (4, 5)
        assert rows[2] in (0, 1, 2, 3)
        firsts.add(rows[2])
    assert firsts == {0, 1, 2, 3}


def test_only_the_smallest_margins_are_kept_and_sizes_are_theirs():
    # 1.25 * 4 rows: 1, 0, 2, 3 of the first cluster and 5 of the second.
    picks = select("cluster_margin", 4, factor=1.25, **CALL)
    assert picks.rows[0] == 5
    assert set(picks.rows[1:]) <= {0, 1, 2, 3}
    only = select("cluster_margin", 4, factor=1, **CALL)
    assert set(only) == {0, 1, 2, 3}


def test_the_round_by_hand():
    groups, keys = np.array([5, 5, 5, 2, 2, 9]), np.array([3.0, 1.0, 2.0, 8.0, 7.0, 0.0])
    assert smallest_first(groups, keys, np.arange(6.0)).tolist() == [5, 4, 1, 3, 2, 0]


def test_the_default_stop_finds_clusters_that_stand_apart():
    rng = np.random.default_rng(0)
    centers = np.repeat(np.eye(4), [50, 30, 12, 8], axis=0)
    x = centers + 0.01 * rng.normal(size=centers.shape)
    call = {"embeddings": x, "probs": two_class(rng.random(100)), "factor": 25}
    picks = select("cluster_margin", 4, neighbors=99, **call)
    assert np.argmax(x[picks.rows], 1).tolist() == [3, 2, 1, 0]


def test_clusters_are_of_directions_by_default():
    """Five rows on one ray and two on another: the one farthest out is alone by distance only."""
    ray = np.array([1.0, 2, 3, 4, 90, 1, 2])
    x = np.stack([ray * (np.arange(7) < 5), ray * (np.arange(7) >= 5)], 1)
    call = {"embeddings": x, "probs": two_class(MARGINS), "clusters": 2, "within": "margin"}
    assert select("cluster_margin", 1, **call).rows.tolist() == [5]
    assert select("cluster_margin", 1, normalize=False, **call).rows.tolist() == [4]


def test_options_out_of_range():
    with pytest.raises(InputError, match="factor must be a number >= 1"):
        select("cluster_margin", 1, factor=0.5, **CALL)
    with pytest.raises(InputError, match='within must be "random" or "margin"'):
        select("cluster_margin", 1, within="best", **CALL)
    for clusters in (0, 8, 2.5, True):
        with pytest.raises(InputError, match=r"clusters must be a whole number in 1\.\.7"):
            select("cluster_margin", 1, **CALL | {"clusters": clusters})
    for neighbors in (0, 2.5, True):
        with pytest.raises(InputError, match="neighbors must be a whole number >= 1"):
            select("cluster_margin", 1, neighbors=neighbors, **CALL)
    assert len(select("cluster_margin", 2, factor=1e308, **CALL)) == 2
    with pytest.raises(InputError, match="name one stop"):
        select("cluster_margin", 1, threshold=1.0, **CALL)
