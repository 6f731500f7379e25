"""k-means and nearest neighbors against their definitions."""

import numpy as np
import pytest
import torch
from cases import KINDS, points
from sklearn.cluster import KMeans

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Euclidean, Generator, Progress, kmeans, nearest_neighbors
from labelwise.kernels.assign import Assignment


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


def sorted_neighbors(x, queries, k, exclude=None):
    """Rows and squared distances by sorting all, ties to the lowest row."""
    distance = ((queries.astype(np.float64)[:, None] - x.astype(np.float64)) ** 2).sum(-1)
    if exclude is not None:
        distance[np.arange(len(queries)), exclude] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distance, order, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("every", [True, False])
def test_tiles_blocks_and_memory_change_nothing(kind, every, monkeypatch):
    x = np.concatenate([points(kind, seed)[:, :1] for seed in range(3)] * 2).astype(np.float32)
    monkeypatch.setattr("labelwise.kernels.neighbors._QUERIES", 64)
    monkeypatch.setattr("labelwise.kernels.neighbors._ROWS", 64)
    monkeypatch.setattr(Euclidean, "block_size", 100)
    queries = None if every else torch.arange(len(x)).flip(0)[:70]
    rows = np.arange(len(x)) if every else queries.numpy()
    order, distance = sorted_neighbors(x, x[rows], 3, exclude=rows)
    for wave, memory in ((1 << 20, None), (0, None), (0, 70_000_000)):
        monkeypatch.setattr("labelwise.kernels.neighbors._WAVE_BYTES", wave)
        found = nearest_neighbors(x, 3, queries=queries, exclude_self=True, memory=memory)
        assert found.rows.tolist() == order.tolist()
        np.testing.assert_allclose(found.squared_distances, distance, rtol=1e-9, atol=1e-18)


@pytest.mark.parametrize("hold", [0, 1 << 20])
def test_neighbors_of_other_points(hold, tmp_path):
    rng = np.random.default_rng(0)
    x, other = rng.normal(size=(300, 6)).astype(np.float32), rng.normal(size=(40, 6))
    other[3] = x[7]
    np.save(tmp_path / "x.npy", x)
    g = Euclidean(tmp_path / "x.npy", hold=hold)
    other = other.astype(np.float32)
    order, distance = sorted_neighbors(x, other, 9)
    found = nearest_neighbors(g, 9, queries=g.points(other))
    assert found.rows.tolist() == order.tolist()
    np.testing.assert_allclose(found.squared_distances, distance, rtol=1e-9)
    assert found.squared_distances[3, 0] == 0


def test_many_copies_do_not_need_all_pairs(monkeypatch):
    measured = []
    exact = Euclidean.exact
    monkeypatch.setattr(
        Euclidean, "exact", lambda self, a, b: measured.append(len(a)) or exact(self, a, b)
    )
    monkeypatch.setattr(Euclidean, "block_size", 256)
    x = np.zeros((5000, 4), dtype=np.float32)
    found = nearest_neighbors(x, 5)
    assert (found.rows == torch.arange(5)).all()
    assert sum(measured) < 5000 * 400


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


@pytest.mark.parametrize("second", [0.0, 1000.0])
def test_an_empty_cluster_moves_to_the_point_that_weighs_most_by_squared_distance(second):
    x = np.array([[0.0], [0.1], [0.2], [5.0], [50.0]])
    start = torch.tensor([[0.0], [second]])
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0099])
    found = kmeans(x, 2, generator=Generator(0), init=start, iterations=20, weights=weights)
    assert found.assignment.tolist() == [0, 0, 0, 1, 1]
    plain = kmeans(x, 2, generator=Generator(0), init=start, iterations=20)
    assert plain.assignment.tolist() == [0, 0, 0, 0, 1]


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


def by_definition(x, centers, iterations):
    """Lloyd's iterations in float64: centers, assignment, squared distances."""
    x, centers = x.astype(np.float64), centers.copy()
    for step in range(iterations + 1):
        squared = ((x[:, None] - centers[None]) ** 2).sum(-1)
        member, distance = squared.argmin(1), squared.min(1)
        if step == iterations:
            return centers, member, distance
        empty = []
        for c in range(len(centers)):
            if (member == c).any():
                centers[c] = x[member == c].mean(0)
            else:
                empty.append(c)
        far = np.lexsort((np.arange(len(x)), -distance))
        centers[empty] = x[far[: len(empty)]]


def by_definition_weighted(x, centers, weights, iterations):
    """Lloyd's iterations with weights in float64: centers and assignment."""
    x, centers = x.astype(np.float64), centers.copy()
    for step in range(iterations + 1):
        squared = ((x[:, None] - centers[None]) ** 2).sum(-1)
        member, distance = squared.argmin(1), squared.min(1)
        if step == iterations:
            return centers, member, distance
        empty = []
        for c in range(len(centers)):
            mine = member == c
            if weights[mine].sum() > 0:
                centers[c] = np.average(x[mine], axis=0, weights=weights[mine])
            else:
                empty.append(c)
        far = np.lexsort((np.arange(len(x)), -weights * distance))
        centers[empty] = x[far[: len(empty)]]


TIED = ("grid of ties", "copies", "all the same", "one tight far cluster")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("iterations", [0, 1, 8])
def test_iterations_are_their_definition(kind, seed, iterations):
    x = points(kind, seed)
    k = max(2, len(x) // 4)
    start = x[np.random.default_rng(seed).permutation(len(x))[:k]].astype(np.float64)
    found = kmeans(
        x,
        k,
        generator=Generator(0),
        init=torch.from_numpy(start),
        iterations=iterations,
        tolerance=-1,
    )
    centers, member, _ = by_definition(x, start, iterations)
    if kind not in TIED or iterations == 0:
        assert found.assignment.tolist() == member.tolist()
        np.testing.assert_allclose(found.centers, centers, rtol=1e-6, atol=1e-5)
    # Whatever the centers: each point is with the nearest, at its true distance.
    _, _, distance = by_definition(x, found.centers.numpy(), 0)
    np.testing.assert_allclose(found.squared_distances, distance, rtol=1e-9, atol=1e-15)
    assert found.inertia == pytest.approx(distance.sum(), rel=1e-9, abs=1e-15)
    away = ((x.astype(np.float64) - found.centers.numpy()[found.assignment]) ** 2).sum(1)
    np.testing.assert_allclose(away, distance, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in TIED])
@pytest.mark.parametrize("span", [1.0, 30.0])
@pytest.mark.parametrize("iterations", [1, 8])
def test_weighted_iterations_are_their_definition(kind, span, iterations):
    """Also where weights differ by a factor of e^30: sums of small ones are as exact."""
    x = points(kind, 0)
    rng = np.random.default_rng(1)
    weights = 7e5 * np.exp(-span * rng.random(len(x)))
    weights[rng.permutation(len(x))[:4]] = 0
    k = max(2, len(x) // 4)
    start = x[rng.permutation(len(x))[:k]].astype(np.float64)
    found = kmeans(
        x,
        k,
        generator=Generator(0),
        init=torch.from_numpy(start),
        iterations=iterations,
        tolerance=-1,
        weights=torch.from_numpy(weights),
    )
    centers, member, distance = by_definition_weighted(x, start, weights, iterations)
    assert found.assignment.tolist() == member.tolist()
    np.testing.assert_allclose(found.centers, centers, rtol=1e-6, atol=1e-5)
    assert found.inertia == pytest.approx((weights * distance).sum(), rel=1e-4)


def test_a_weight_counts_as_so_many_copies():
    rng = np.random.default_rng(0)
    x, times = rng.normal(size=(40, 3)).astype(np.float32), rng.integers(0, 5, 40)
    start = torch.from_numpy(x[:6].astype(np.float64))
    weighted = kmeans(
        x, 6, generator=Generator(0), init=start, weights=torch.from_numpy(times), tolerance=-1
    )
    copies = kmeans(np.repeat(x, times, 0), 6, generator=Generator(0), init=start, tolerance=-1)
    torch.testing.assert_close(weighted.centers, copies.centers, rtol=1e-12, atol=1e-12)
    assert weighted.inertia == pytest.approx(copies.inertia, rel=1e-12)
    assert (
        weighted.assignment[times > 0]
        .repeat_interleave(torch.from_numpy(times[times > 0]))
        .tolist()
        == copies.assignment.tolist()
    )


def test_the_order_of_rows_and_blocks_change_no_weighted_clusters(monkeypatch):
    rng = np.random.default_rng(0)
    x = (3 + rng.integers(0, 3, size=(300, 4)) / 3).astype(np.float32)
    weights = torch.from_numpy(np.exp(-9 * rng.random(300)))
    order = rng.permutation(300)

    def run(x, ids, weights, **options):
        generator = Generator(0, ids)
        return kmeans(
            x, 20, generator=generator, iterations=6, tolerance=0, weights=weights, **options
        )

    for minibatch in (None, 50):
        plain = run(x, np.arange(300), weights, minibatch=minibatch)
        moved = run(x[order], order, weights[order], minibatch=minibatch)
        assert torch.equal(plain.centers, moved.centers)
        assert torch.equal(plain.assignment[order], moved.assignment)
        with monkeypatch.context() as patch:
            patch.setattr(Euclidean, "block_size", 37)
            patch.setattr("labelwise.kernels.cluster_sums._PAIRS", 100)
            blocked = run(x, np.arange(300), weights, minibatch=minibatch)
        assert torch.equal(plain.centers, blocked.centers)
        assert torch.equal(plain.assignment, blocked.assignment)


def test_weights_of_some_rows_and_in_minibatches():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 4)) + 8 * rng.integers(0, 5, size=(2000, 1))
    weights = torch.from_numpy(rng.random(2000))
    rows = torch.from_numpy(rng.permutation(2000)[:900])
    start = torch.from_numpy(x[:5].copy())
    call = {"generator": Generator(0), "init": start}
    some = kmeans(x, 5, candidates=rows, weights=weights, **call)
    copy = kmeans(x[rows.numpy()], 5, weights=weights[rows], **call)
    torch.testing.assert_close(some.centers, copy.centers)
    assert some.inertia == pytest.approx(copy.inertia)
    call = {"generator": Generator(0), "iterations": 60, "weights": weights}
    few = kmeans(x, 5, minibatch=200, **call)
    assert few.inertia < 1.2 * kmeans(x, 5, **call).inertia
    far = torch.where(torch.from_numpy(x[:, 0] > 20), 1.0, 0.0)
    only = kmeans(x, 1, generator=Generator(0), minibatch=200, weights=far)
    np.testing.assert_allclose(only.centers[0], x[x[:, 0] > 20].mean(0), atol=0.3)


def test_nonsense_weights_are_refused():
    x, generator = np.zeros((3, 1)), Generator(0)
    for weights, said in (
        (torch.ones(2), r"weights must be \(N,\) = \(3,\), got \(2,\)"),
        (torch.tensor([1.0, -1.0, 1.0]), "row 1 has -1.0"),
        (torch.tensor([1.0, 1.0, torch.nan]), "row 2 has nan"),
        (torch.zeros(3), "must not all be zero"),
    ):
        with pytest.raises(InputError, match=said):
            kmeans(x, 2, generator=generator, weights=weights)


@pytest.mark.parametrize("seed", range(10))
def test_an_assignment_kept_up_to_date_is_a_fresh_one(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, size=(200, 3)).astype(np.float32)
    if seed % 2:
        x += 1e-4 * rng.normal(size=x.shape).astype(np.float32)
    g = Euclidean(x, shift=False)
    kept = Assignment(g, lambda rows: g.double(rows)[0])
    centers = torch.from_numpy(x[:40].astype(np.float64))
    told = []

    def count(rows, points, new, old):
        assert len(rows) == len(points) == len(new)
        assert kept.member[rows].tolist() == new.tolist()
        assert (new != old).all()
        told.append(len(new))

    for few in (40, 3, 1, 0, 12, 5, 40, 2):
        which = torch.from_numpy(rng.permutation(40)[:few])
        centers = centers.clone()
        centers[which] = torch.from_numpy(x[rng.integers(0, 200, few)].astype(np.float64))
        before = kept.member.clone()
        kept.update(centers, count)
        _, member, distance = by_definition(x, centers.numpy(), 0)
        assert kept.member.tolist() == member.tolist()
        np.testing.assert_allclose(kept.distances(), distance, rtol=1e-12, atol=1e-18)
        assert sum(told) == int((before != kept.member).sum())
        told.clear()


def test_neither_blocks_nor_the_order_of_rows_change_clusters(monkeypatch):
    rng = np.random.default_rng(0)
    x = (3 + rng.integers(0, 3, size=(300, 4)) / 3).astype(np.float32)
    order = rng.permutation(300)
    ids = np.arange(300)

    def run(x, ids, **options):
        return kmeans(x, 20, generator=Generator(0, ids), iterations=6, tolerance=0, **options)

    for minibatch in (None, 50):
        plain = run(x, ids, minibatch=minibatch)
        moved = run(x[order], order, minibatch=minibatch)
        assert torch.equal(plain.centers, moved.centers)
        assert torch.equal(plain.assignment[order], moved.assignment)
        with monkeypatch.context() as patch:
            patch.setattr(Euclidean, "block_size", 37)
            patch.setattr("labelwise.kernels.assign._PRODUCTS", 100)
            blocked = run(x, ids, minibatch=minibatch)
        assert torch.equal(plain.centers, blocked.centers)
        assert torch.equal(plain.assignment, blocked.assignment)


def test_clusters_of_some_rows_are_those_of_a_copy(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    rows = torch.from_numpy(np.random.default_rng(1).permutation(200)[:90])
    start = torch.from_numpy(x[:7].astype(np.float64))
    copy = kmeans(x[rows.numpy()], 7, generator=Generator(0), init=start)
    for memory in (None, 10**9):
        file = Euclidean(tmp_path / "x.npy", hold=0)
        some = kmeans(file, 7, generator=Generator(0), init=start, candidates=rows, memory=memory)
        assert torch.equal(some.assignment, copy.assignment)
        torch.testing.assert_close(some.centers, copy.centers)
    for init in ("k-means++", "random"):
        found = kmeans(x, 7, generator=Generator(0), init=init, candidates=rows)
        assert found.assignment.shape == (90,)
        assert found.inertia < 1.3 * copy.inertia


def test_sums_of_long_runs_do_not_drift():
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float32)
    found = kmeans(x, 30, generator=Generator(0), iterations=60, tolerance=-1)
    for c in range(30):
        mine = x[found.assignment.numpy() == c].astype(np.float64)
        np.testing.assert_allclose(found.centers[c], mine.mean(0), atol=1e-9)


def test_progress_of_passes_is_told():
    shares = []
    kmeans(
        np.arange(20.0)[:, None],
        3,
        generator=Generator(0),
        iterations=2,
        progress=Progress(passing=shares.append),
    )
    assert shares
    assert all(share == 1 for share in shares)


def test_too_little_memory_is_refused_with_the_least_that_works():
    with pytest.raises(ResourceError, match=r"memory must be at least .* MB for 9 points and 3"):
        kmeans(np.zeros((9, 1)), 3, generator=Generator(0), memory=1000)


def test_nonsense_is_refused():
    with pytest.raises(InputError, match=r"k must be in 1\.\.3"):
        kmeans(np.zeros((3, 1)), 4, generator=Generator(0))
    with pytest.raises(InputError, match="init must be"):
        kmeans(np.zeros((3, 1)), 2, generator=Generator(0), init="best")
    with pytest.raises(InputError, match=r"init must be \(k, D\)"):
        kmeans(np.zeros((3, 1)), 2, generator=Generator(0), init=torch.zeros(1, 1))
    with pytest.raises(InputError, match=r"k must be in 1\.\.2"):
        nearest_neighbors(Euclidean(np.zeros((3, 1))), 3, exclude_self=True)
    with pytest.raises(InputError, match=r"queries must be rows in 0\.\.2, got -1"):
        nearest_neighbors(np.zeros((3, 1)), 1, queries=torch.tensor([0, -1]))
    g = Euclidean(np.zeros((3, 1)))
    with pytest.raises(InputError, match="exclude_self needs queries that are rows"):
        nearest_neighbors(g, 1, queries=g.points(np.zeros((1, 1))), exclude_self=True)
    with pytest.raises(ResourceError, match=r"memory must be at least .* MB for 3 queries"):
        nearest_neighbors(g, 1, memory=10)
