"""Average linkage on a graph against scipy's on the matrix that the graph stands for."""

import numpy as np
import pytest
import torch
from cases import points
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.cluster import AgglomerativeClustering

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import (
    Cosine,
    Euclidean,
    Generator,
    Progress,
    agglomerate,
    nearest_neighbors,
    typical_distance,
)

UNTIED = ("gaussian", "far from the origin", "one tight far cluster", "one dimension", "two scales")


def named(labels):
    """Labels renamed in the order they appear."""
    _, first, labels = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[labels]


def graph_distances(x, k, far):
    """The matrix of distances where those between no neighbors are far, condensed."""
    full = squareform(pdist(x.astype(np.float64)))
    np.fill_diagonal(full, np.inf)
    known = np.zeros(full.shape, dtype=bool)
    np.put_along_axis(known, np.argsort(full, 1, kind="stable")[:, :k], True, 1)
    known |= known.T
    full[~known] = far
    np.fill_diagonal(full, 0)
    return squareform(full, checks=False)


@pytest.mark.parametrize("kind", UNTIED)
@pytest.mark.parametrize("seed", range(2))
def test_with_all_neighbors_it_is_scipys_average_linkage(kind, seed):
    x = points(kind, seed)
    tree = linkage(pdist(x.astype(np.float64)), "average")
    options = {"generator": Generator(0), "neighbors": len(x)}
    for clusters in (1, 2, 5, len(x)):
        found = agglomerate(x, clusters=clusters, **options)
        assert found.clusters == clusters
        assert found.assignment.tolist() == named(fcluster(tree, clusters, "maxclust")).tolist()
        if clusters < len(x):
            assert found.height == pytest.approx(tree[len(x) - clusters - 1, 2])
    for height in (tree[0, 2] / 2, np.median(tree[:, 2]) * (1 + 1e-9), 2 * tree[-1, 2]):
        found = agglomerate(x, threshold=height, **options)
        assert found.assignment.tolist() == named(fcluster(tree, height, "distance")).tolist()


@pytest.mark.parametrize("kind", UNTIED)
@pytest.mark.parametrize("neighbors", [1, 3, 8])
def test_on_a_graph_unknown_distances_count_as_far(kind, neighbors):
    x = points(kind, 1)
    neighbors = min(neighbors, len(x) - 2)
    near = nearest_neighbors(x, neighbors, exclude_self=True).squared_distances.sqrt()
    far = 1.5 * float(near.max())
    tree = linkage(graph_distances(x, neighbors, far), "average")
    for height in (0.3 * far, 0.6 * far, 0.95 * far):
        found = agglomerate(
            x, generator=Generator(0), threshold=height, neighbors=neighbors, far=far
        )
        assert found.assignment.tolist() == named(fcluster(tree, height, "distance")).tolist()


def test_it_is_scikit_learns_on_directions():
    x = np.random.default_rng(0).normal(size=(80, 5))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    theirs = AgglomerativeClustering(7, linkage="average").fit_predict(unit)
    ours = agglomerate(Cosine(x), generator=Generator(0), clusters=7, neighbors=79)
    assert ours.assignment.tolist() == named(theirs).tolist()


def test_copies_and_ties_go_to_the_lowest_rows():
    x = np.array([[0.0], [1.0], [2.0], [3.0], [10.0], [10.0]])
    found = agglomerate(x, generator=Generator(0), clusters=4, neighbors=5)
    assert found.assignment.tolist() == [0, 0, 1, 2, 3, 3]
    same = agglomerate(np.zeros((50, 2)), generator=Generator(0), clusters=1, neighbors=49)
    assert same.clusters == 1
    assert same.height == 0


def test_the_default_stop_is_half_the_typical_distance():
    rng = np.random.default_rng(0)
    x = np.eye(10)[rng.integers(0, 10, 300)] + 0.01 * rng.normal(size=(300, 10))
    for scale in (1, 1000):
        found = agglomerate(Euclidean(scale * x), generator=Generator(0), neighbors=299)
        assert found.clusters == 10
        assert found.height <= typical_distance(Euclidean(scale * x), generator=Generator(0)) / 2


def test_typical_distance_is_the_median_and_a_sample_of_it():
    x = np.random.default_rng(0).normal(size=(3000, 4))
    some = typical_distance(Euclidean(x[:500]), generator=Generator(0))
    assert some == pytest.approx(np.median(pdist(x[:500])))
    order = np.random.default_rng(1).permutation(3000)
    a = typical_distance(Euclidean(x), generator=Generator(0, np.arange(3000)))
    b = typical_distance(Euclidean(x[order]), generator=Generator(0, order))
    assert a == pytest.approx(b, rel=1e-12)
    assert a == pytest.approx(np.median(pdist(x)), rel=0.05)


def test_mean_size_names_a_number_of_clusters():
    x = np.random.default_rng(0).normal(size=(103, 3))
    found = agglomerate(x, generator=Generator(0), mean_size=2, neighbors=102)
    assert found.clusters == 52
    assert found.assignment.max() == 51


def test_neighbors_are_told_as_progress_and_bounded_in_memory():
    shares = []
    x = np.random.default_rng(0).normal(size=(50, 3))
    agglomerate(x, generator=Generator(0), clusters=5, progress=Progress(passing=shares.append))
    assert shares
    with pytest.raises(ResourceError, match="memory must be at least"):
        agglomerate(x, generator=Generator(0), clusters=5, memory=10)


def test_nonsense_is_refused():
    x = np.concatenate([np.zeros((5, 1)), 100 + np.arange(5.0)[:, None]])
    g = Generator(0)
    with pytest.raises(InputError, match="name one stop"):
        agglomerate(x, generator=g, threshold=1, clusters=2)
    for clusters in (0, 11, 2.5, True):
        with pytest.raises(InputError, match=r"clusters must be a whole number in 1\.\.10"):
            agglomerate(x, generator=g, clusters=clusters)
    with pytest.raises(InputError, match=r"mean_size must be in 1\.\.10"):
        agglomerate(x, generator=g, mean_size=0.5)
    with pytest.raises(InputError, match="at least 2, the parts of the graph"):
        agglomerate(x, generator=g, clusters=1, neighbors=2)
    with pytest.raises(InputError, match="less than far"):
        agglomerate(x, generator=g, threshold=1e9, neighbors=2)
    with pytest.raises(InputError, match="threshold must be >= 0"):
        agglomerate(x, generator=g, threshold=float("nan"))
    with pytest.raises(InputError, match="far must be the largest known distance or more"):
        agglomerate(x, generator=g, clusters=3, far=1e-3)
    with pytest.raises(InputError, match="needs 2 points, got 1"):
        agglomerate(torch.zeros(1, 1), generator=g, clusters=1)
