"""Similarities of points, and those given as a matrix, against their formulas in float64."""

import numpy as np
import pytest
import scipy.sparse
import torch
from cases import KINDS, gradients, points

from labelwise.errors import InputError
from labelwise.kernels import (
    Cosine,
    Euclidean,
    GradientEmbedding,
    Precomputed,
    Similarity,
    SparseSimilarity,
    nearest_neighbors,
)

WIDTH = {"rbf": 1.5, "top_hat": 1.5, "complement": 9.0}
ALL = ("dot", "cosine", "cosine01", "rbf", "top_hat", "distance", "complement")


def by_definition(kind, x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    dot = x @ y.T
    length = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)
    distance = np.linalg.norm(x[:, None] - y, axis=2)
    width = WIDTH.get(kind, 0)
    return {
        "dot": lambda: dot,
        "cosine": lambda: np.divide(dot, length, out=np.zeros_like(dot), where=length > 0),
        "cosine01": lambda: (1 + by_definition("cosine", x, y)) / 2,
        "rbf": lambda: np.exp(-(distance**2) / (2 * width**2)),
        "top_hat": lambda: (distance < width).astype(float),
        "distance": lambda: distance,
        "complement": lambda: width - distance,
    }[kind]()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ALL)
def test_similarities_are_their_formulas(name, kind):
    for seed in range(3):
        x = points(name, seed)
        shift = kind not in ("dot", "cosine", "cosine01")
        s = Similarity(Euclidean(x, shift=shift), kind, width=WIDTH.get(kind))
        rows, others = torch.arange(len(x)), torch.arange(len(x) - 1, -1, -1)
        truth = by_definition(kind, x, x[::-1])
        found = s.between(s.take(rows), s.take(others), rows, others)
        off = 2 * s.geometry.error * float(s.geometry.squared_norms().max())
        if kind in ("distance", "complement"):
            off = np.sqrt(off)  # near zero a root is off by the root of what its square is
        np.testing.assert_allclose(found, truth, atol=off if "cos" not in kind else 2e-5)
        i, j = np.divmod(np.arange(truth.size), len(x))
        pairs = s.pairs(torch.tensor(i), torch.tensor(len(x) - 1 - j)).numpy()
        near = 1e-9 * max(1, np.abs(truth).max())
        np.testing.assert_allclose(pairs, truth.ravel(), rtol=1e-9, atol=near)
        own = by_definition(kind, x, x).diagonal()
        np.testing.assert_allclose(s.own(rows), own, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["cosine", "cosine01", "rbf", "top_hat"])
def test_directions_and_gradients(kind):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 7)) + 3
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    probs, h = rng.dirichlet(np.full(4, 0.3), size=50), rng.normal(size=(50, 5))
    wide = WIDTH.get(kind)
    for geometry, truth in (
        (Cosine(x), by_definition(kind, unit, unit)),
        (GradientEmbedding(probs, h), by_definition(kind, *[gradients(probs.copy(), h)] * 2)),
    ):
        s = Similarity(geometry, kind, width=wide)
        rows = torch.arange(50)
        found = s.between(s.take(rows), s.take(rows), rows, rows)
        np.testing.assert_allclose(found, truth, atol=2e-5)
        pairs = s.pairs(rows, rows.flip(0)).numpy()
        np.testing.assert_allclose(pairs, truth[np.arange(50), 49 - np.arange(50)], atol=1e-9)


def test_a_ball_holds_what_is_truly_inside():
    x = np.arange(5.0)[:, None]
    rows = torch.arange(5)
    for width, reach in ((1.0, 0), (np.nextafter(1.0, 2), 1), (2.0, 1), (np.inf, 4)):
        s = Similarity(Euclidean(x), "top_hat", width=width)
        found = s.between(s.take(rows), s.take(rows), rows, rows).numpy()
        assert found.tolist() == (np.abs(x - x.T) <= reach).tolist()
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 3)) + 1e3).astype(np.float32)
    x[7], x[50:60] = 1e6, x[50]
    rows = torch.arange(200)
    s = Similarity(Euclidean(x), "top_hat", width=0.7)
    wide = x.astype(np.float64)
    truth = np.linalg.norm(wide[:, None] - wide, axis=2) < 0.7
    assert s.between(s.take(rows), s.take(rows), rows, rows).bool().numpy().tolist() == (
        truth.tolist()
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_given_matrix_is_read_as_it_is(dtype, tmp_path):
    rng = np.random.default_rng(0)
    full = rng.random((9, 9)).astype(dtype)
    full = (full + full.T) / 2
    wide = rng.random((9, 4)).astype(dtype)
    np.save(tmp_path / "s.npy", full)
    rows, others = torch.tensor([5, 0, 7]), torch.tensor([1, 2, 3, 8])
    for s in (Precomputed(full), Precomputed(str(tmp_path / "s.npy"))):
        assert len(s) == 9
        found = s.between(s.take(rows), s.take(others))
        np.testing.assert_array_equal(found, full[rows][:, others].astype(np.float32))
        assert s.own(rows).tolist() == full[rows, rows].astype(float).tolist()
        assert torch.equal(s.between(s.block(2, 5), s.take(rows)), _single(full[2:5][:, rows]))
    s = Precomputed(wide)
    found = s.between(s.take(rows), s.represented())
    assert torch.equal(found, _single(wide[rows]))
    assert torch.equal(s.between(s.represented(), s.take(rows)), found.T)
    found.zero_()
    assert torch.equal(s.between(s.take(rows), s.represented()), _single(wide[rows]))


def _single(array):
    return torch.from_numpy(array.astype(np.float32))


def test_matrices_that_cannot_be_are_refused_in_one_line():
    s = np.eye(2500, dtype=np.float32)
    s[2100, 30] = np.nan
    with pytest.raises(InputError, match=r"similarity\[2100, 30\] is nan"):
        Precomputed(s)
    s[2100, 30] = 0.5
    with pytest.raises(InputError, match=r"\[2100, 30\] is 0.5 and \[30, 2100\] is 0; pass"):
        Precomputed(s)
    s[30, 2100] = np.float32(0.5) * (1 + 2e-6)
    Precomputed(s)
    with pytest.raises(InputError, match=r"must be a matrix \(N, M\), got \(3,\)"):
        Precomputed(np.zeros(3))
    some = scipy.sparse.random_array((6, 6), density=0.3, rng=np.random.default_rng(0)).tocsr()
    with pytest.raises(InputError, match="must be symmetric, but"):
        SparseSimilarity(some)
    bad = some + some.T
    bad.data[3] = np.inf
    with pytest.raises(InputError, match=r"similarity\[0, \d\] is inf"):
        SparseSimilarity(bad)
    with pytest.raises(InputError, match=r"must be a sparse .* got ndarray"):
        SparseSimilarity(np.eye(2))
    with pytest.raises(InputError, match="similarity must be known, got 'given'"):
        Similarity(Euclidean(np.eye(2)), "given")


@pytest.mark.parametrize("kind", ["cosine01", "rbf", "complement", "dot"])
def test_sparse_similarities_are_those_of_near_rows(kind):
    x = np.random.default_rng(1).normal(size=(60, 4)).astype(np.float32)
    s = Similarity(Euclidean(x, shift=False), kind, width=WIDTH.get(kind))
    sparse = SparseSimilarity.nearest(s, 5)
    by = x / np.linalg.norm(x, axis=1, keepdims=True) if kind == "cosine01" else x
    near = nearest_neighbors(by, 5, exclude_self=True).rows.numpy()
    kept = np.eye(60, dtype=bool)
    kept[np.arange(60)[:, None], near] = True
    truth = np.where(kept | kept.T, by_definition(kind, x, x), 0)
    np.testing.assert_allclose(sparse.matrix.toarray(), truth, rtol=1e-5, atol=1e-6)
    rows, others = torch.tensor([3, 50, 1]), torch.arange(60)
    found = sparse.between(sparse.take(rows), sparse.take(others))
    np.testing.assert_allclose(found, truth[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sparse.pairs(rows, rows), truth[rows, rows], rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "width"), [("rbf", 1e-4), ("distance", None), ("complement", 1.0)]
)
def test_rows_are_at_no_distance_from_themselves(kind, width):
    x = np.random.default_rng(0).normal(size=(40, 64)).astype(np.float32)
    s = Similarity(Euclidean(x), kind, width=width)
    rows, others = torch.arange(5, 25), torch.randperm(40, generator=torch.Generator())[:30]
    found = s.between(s.take(rows), s.take(others), rows, others)
    same = rows[:, None] == others
    assert int(same.sum()) > 10
    assert (found[same] == s.own(torch.tensor([0])).float()).all()
    plain = s.between(s.take(rows), s.take(others))
    assert torch.equal(found[~same], plain[~same])
    away = s.between(s.take(rows), s.take(torch.arange(30, 40)), rows, torch.arange(30, 40))
    assert torch.equal(away, s.between(s.take(rows), s.take(torch.arange(30, 40))))


@pytest.mark.parametrize("width", [1e-2, 1e-4, 1e-7])
def test_a_narrow_kernel_tells_copies_from_near_copies(width):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 40))
    x = np.concatenate([x, x, x + rng.normal(size=x.shape) * width / 9])
    s = Similarity(Euclidean(x, shift=False), "rbf", width=width)
    rows, others = torch.arange(36), torch.arange(35, -1, -1)
    found = s.between(s.take(rows), s.take(others), rows, others)
    squared = ((x[:, None] - x[::-1]) ** 2).sum(2)
    np.testing.assert_allclose(found, np.exp(-squared / (2 * width**2)), atol=1e-3)


@pytest.mark.parametrize("width", [1e-300, 1e-160, 1e-30, 1e160, 1e300, 10**30])
def test_a_width_out_of_single_precision_is_a_limit(width):
    x = np.array([[0.0, 1.0], [0.0, 1.0], [3.0, 1.0]])
    s = Similarity(Euclidean(x), "rbf", width=width)
    rows = torch.arange(3)
    alike = [[1, 1, 0], [1, 1, 0], [0, 0, 1]] if width < 1 else np.ones((3, 3))
    np.testing.assert_array_equal(s.between(s.take(rows), s.take(rows), rows, rows), alike)
    np.testing.assert_array_equal(s.pairs(rows, rows.flip(0)), np.array(alike)[rows, rows.flip(0)])


def test_near_by_angle_is_not_near_by_distance():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)) * 10.0 ** rng.uniform(-3, 3, (40, 1))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T - 2 * np.eye(40)
    near = np.zeros((40, 40), bool)
    np.put_along_axis(near, np.argsort(-cosine, axis=1)[:, :4], True, 1)
    sparse = SparseSimilarity.nearest(Similarity(Euclidean(x, shift=False), "cosine01"), 4)
    found = sparse.matrix.toarray()
    assert ((found > 0) == (near | near.T | np.eye(40, dtype=bool))).all()
    np.testing.assert_allclose(found[near], (1 + cosine[near]) / 2, atol=1e-6)
