"""k-means sampling: nearest members, empty clusters, copies."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.evidence import Rows
from labelwise.kernels import Generator
from labelwise.strategies import select
from labelwise.strategies.clusters import cluster, unit_rows


def test_the_member_nearest_each_center_is_picked():
    rng = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0], [100.0, 100.0]])
    member = np.repeat(np.arange(4), 25)
    x = (centers[member] + rng.normal(size=(100, 2))).astype(np.float32)
    picks = select("kmeans", 4, embeddings=x)
    expected = set()
    for c in range(4):
        inside = np.flatnonzero(member == c)
        mean = x[inside].astype(float).mean(0)
        expected.add(int(inside[((x[inside] - mean) ** 2).sum(1).argmin()]))
    assert set(picks) == expected
    distance = [((x[r] - x[member == member[r]].astype(float).mean(0)) ** 2).sum() for r in picks]
    np.testing.assert_allclose(picks.scores, -np.array(distance), rtol=1e-3)
    assert (np.diff(picks.scores) <= 0).all()


def test_only_candidates_are_clustered():
    x = np.concatenate([np.zeros((50, 1)), np.full((50, 1), 10.0), np.full((50, 1), 20.0)])
    x += np.linspace(0, 0.1, 150)[:, None]
    picks = select("kmeans", 2, embeddings=x, candidates=range(100))
    assert sorted(row // 50 for row in picks) == [0, 1]


def test_clusters_that_stay_empty_are_made_up_for():
    x = np.repeat([[0.0, 1.0], [5.0, 0.0]], 10, axis=0)
    picks = select("kmeans", 7, embeddings=x)
    assert len(set(picks)) == 7
    assert sorted(row // 10 for row in picks[:2]) == [0, 1]


def test_a_subset_is_clustered_the_same_in_any_order_of_the_pool():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 3)).astype(np.float32)
    order, some = rng.permutation(60), torch.arange(0, 60, 2)
    moved = torch.from_numpy(np.argsort(order))[some]
    a = cluster(Rows(x), 5, generator=Generator(0, np.arange(60)), candidates=some)
    b = cluster(Rows(x[order]), 5, generator=Generator(0, order), candidates=moved)
    assert len(a.assignment) == 30
    assert a.assignment.tolist() == b.assignment.tolist()


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_rows_have_length_one_at_any_scale(scale):
    x = (np.random.default_rng(0).normal(size=(9, 4)) * scale).astype(np.float32)
    lengths = unit_rows(Rows(x)).tensor().norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(9))


def test_iterations_are_a_whole_number():
    for iterations in (-1, 1.5, True):
        with pytest.raises(InputError, match="iterations must be a whole number >= 0"):
            select("kmeans", 2, embeddings=np.eye(5), iterations=iterations)
