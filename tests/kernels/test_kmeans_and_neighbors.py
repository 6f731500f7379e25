"""k-means and nearest neighbors against their definitions."""

import numpy as np
import pytest
import torch
from cases import KINDS, points
from sklearn.cluster import KMeans

from labelwise.errors import InputError
from labelwise.kernels import Euclidean, Generator, kmeans, nearest_neighbors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("exclude_self", [False, True])
def test_neighbors_are_the_sorted_distances(kind, seed, exclude_self):
    x = points(kind, seed)
    wide = x.astype(np.float64)
    distance = ((wide[:, None] - wide[None]) ** 2).sum(-1)
    if exclude_self:
        np.fill_diagonal(distance, np.inf)
    k = min(5, len(x) - 1)
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    found = nearest_neighbors(x, k, exclude_self=exclude_self)
    assert found.rows.tolist() == order.tolist()
    np.testing.assert_allclose(
        found.squared_distances, np.take_along_axis(distance, order, 1), rtol=1e-9, atol=1e-18
    )


def test_neighbors_of_some_rows():
    x = points("gaussian", 0)
    every = nearest_neighbors(x, 3)
    some = nearest_neighbors(x, 3, queries=torch.tensor([4, 1]))
    assert torch.equal(some.rows, every.rows[[4, 1]])


def test_one_iteration_is_assign_then_average():
    x = points("gaussian", 0).astype(np.float64)
    start = torch.from_numpy(x[:4].copy())
    found = kmeans(x, 4, generator=Generator(0), init=start, iterations=1)
    nearest = ((x[:, None] - x[None, :4]) ** 2).sum(-1).argmin(1)
    means = np.stack([x[nearest == c].mean(0) for c in range(4)])
    np.testing.assert_allclose(found.centers, means, atol=1e-5)
    assert found.iterations == 1
    distance = ((x[:, None] - means[None]) ** 2).sum(-1)
    assert found.assignment.tolist() == distance.argmin(1).tolist()
    assert found.inertia == pytest.approx(distance.min(1).sum(), rel=1e-5)


def test_the_optimum_is_as_good_as_scikit_learns_from_the_same_start():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 5)) + 6 * rng.integers(0, 3, size=(600, 1))
    start = x[:8].copy()
    theirs = KMeans(8, init=start, n_init=1, max_iter=200, tol=1e-8).fit(x)
    ours = kmeans(
        x, 8, generator=Generator(0), init=torch.from_numpy(start), iterations=200, tolerance=1e-8
    )
    assert ours.inertia == pytest.approx(theirs.inertia_, rel=1e-4)


def test_an_empty_cluster_moves_to_the_worst_served_point():
    x = np.array([[0.0], [0.1], [0.2], [50.0]])
    start = torch.tensor([[0.0], [1000.0]])
    found = kmeans(x, 2, generator=Generator(0), init=start, iterations=20)
    assert sorted(found.assignment.tolist()) == [0, 0, 0, 1]


def test_more_clusters_than_distinct_points():
    found = kmeans(np.ones((5, 2)), 5, generator=Generator(0))
    assert found.inertia == 0
    assert found.centers.shape == (5, 2)


@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_minibatches_come_close_to_the_whole_pool(init):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 4)) + 8 * rng.integers(0, 5, size=(2000, 1))
    whole = kmeans(x, 5, generator=Generator(0)).inertia
    some = kmeans(x, 5, generator=Generator(0), init=init, minibatch=200, iterations=60)
    assert some.inertia < 6 * whole if init == "random" else some.inertia < 1.2 * whole


def test_far_from_the_origin_the_centers_are_in_the_points_own_coordinates():
    x = 1000 + np.random.default_rng(0).normal(size=(50, 3))
    found = kmeans(x, 1, generator=Generator(0))
    np.testing.assert_allclose(found.centers[0], x.mean(0), atol=1e-3)


def test_nonsense_is_refused():
    with pytest.raises(InputError, match=r"k must be in 1\.\.3"):
        kmeans(np.zeros((3, 1)), 4, generator=Generator(0))
    with pytest.raises(InputError, match="init must be"):
        kmeans(np.zeros((3, 1)), 2, generator=Generator(0), init="best")
    with pytest.raises(InputError, match=r"init must be \(k, D\)"):
        kmeans(np.zeros((3, 1)), 2, generator=Generator(0), init=torch.zeros(1, 1))
    with pytest.raises(InputError, match=r"k must be in 1\.\.2"):
        nearest_neighbors(Euclidean(np.zeros((3, 1))), 3, exclude_self=True)
