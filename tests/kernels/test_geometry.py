"""Geometries: products, bounds on their error, exact distances."""

import numpy as np
import pytest
import torch
from cases import KINDS, gradients, points

from labelwise.errors import InputError
from labelwise.kernels import Cosine, Euclidean, GradientEmbedding, Rows, fast_mm, linear
from labelwise.kernels import gemm as gemm_module


def pairwise(x):
    x = x.astype(np.float64)
    return ((x[:, None] - x[None]) ** 2).sum(-1)


def check_bounds(geometry, true):
    """Computed distances are within the proven bound, exact ones exact."""
    size = len(geometry)
    everything = geometry.block(0, size)
    near = geometry.offsets(everything, everything).double() + everything.norms[:, None]
    slack = geometry.error * (everything.norms[:, None] + everything.norms)
    assert ((near - torch.from_numpy(true)).abs() <= slack + 1e-300).all()
    left, right = (torch.from_numpy(i.ravel()) for i in np.indices((size, size)))
    exact = geometry.exact(left, right).reshape(size, size).numpy()
    np.testing.assert_allclose(exact, true, rtol=1e-9, atol=1e-18)
    assert (exact[np.arange(size), np.arange(size)] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_euclidean_errors_stay_within_their_bound(kind, seed):
    x = points(kind, seed)[:60]
    check_bounds(Euclidean(x), pairwise(x))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bias", [False, True])
def test_gradient_distances_are_those_of_the_built_matrix(seed, bias):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(5, 0.2), size=50).astype(np.float32)
    h = rng.normal(size=(50, 7)).astype(np.float32)
    probs[3], h[3] = probs[4], h[4]
    check_bounds(GradientEmbedding(probs, h, bias), pairwise(gradients(probs, h, bias)))


def test_inner_products_of_gradients():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(3), size=9).astype(np.float32)
    h = rng.normal(size=(9, 4)).astype(np.float32)
    g = GradientEmbedding(probs, h)
    flat = gradients(probs, h)
    np.testing.assert_allclose(
        g.inner(g.block(0, 9), g.take(torch.tensor([2, 5]))), flat @ flat[[2, 5]].T, atol=1e-5
    )
    np.testing.assert_allclose(g.squared_norms(), (flat**2).sum(1), rtol=1e-5)


def test_points_far_from_the_origin_keep_their_distances():
    x = (1e4 + np.random.default_rng(0).uniform(-1, 1, size=(40, 8))).astype(np.float32)
    g = Euclidean(x)
    everything = g.block(0, 40)
    np.testing.assert_allclose(
        g.squared_distances(everything, everything).numpy(), pairwise(x), atol=1e-4
    )


def test_cosine_distance():
    x = np.random.default_rng(0).normal(size=(30, 4))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    check_bounds(Cosine(x * 3), pairwise(unit))


def test_blocks_of_a_large_file_are_converted_and_shifted_one_by_one(tmp_path):
    x = (50 + np.random.default_rng(0).normal(size=(300, 5))).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    g = Euclidean(np.load(tmp_path / "x.npy", mmap_mode="r"), hold=0)
    assert g._held is None
    check_bounds(g, pairwise(x))
    probs = np.random.default_rng(1).dirichlet(np.ones(3), size=300).astype(np.float16)
    lazy = GradientEmbedding(probs, x, bias=True, hold=0)
    assert lazy._held is None
    check_bounds(lazy, pairwise(gradients(probs, x, bias=True)))


def test_linear_agrees_with_plain_products_with_and_without_the_fused_route(monkeypatch):
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(33, 17, generator=rng), torch.randn(5, 17, generator=rng)
    bias = torch.randn(5, generator=rng)
    expected = a.double() @ b.double().T
    torch.testing.assert_close(linear(a, b).double(), expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(linear(a, b, bias).double(), expected + bias, atol=1e-4, rtol=0)
    torch.testing.assert_close(fast_mm(a, b.T).double(), expected, atol=1e-4, rtol=0)
    monkeypatch.setattr(gemm_module, "_fused_linear", lambda: None)
    torch.testing.assert_close(linear(a, b, bias).double(), expected + bias, atol=1e-4, rtol=0)


def test_shorter_formats_widen_the_bound():
    g = Euclidean(torch.randn(10, 4, generator=torch.Generator().manual_seed(0)))
    plain = g.error
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert g.error > plain + 2**-7
    finally:
        torch.set_float32_matmul_precision(before)


def test_rows_read_slices_of_memory_maps_where_they_are(tmp_path):
    x = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(tmp_path / "x.npy", x)
    part = np.load(tmp_path / "x.npy", mmap_mode="r")[5:15]
    assert Rows(part).tensor().tolist() == x[5:15].tolist()
    assert Rows(part).take(torch.tensor([9, 0])).tolist() == x[[14, 5]].tolist()
    whole = Rows(np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert whole.is_file
    assert whole.tensor().tolist() == x.tolist()


def test_shapes_are_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"\(N, D\)"):
        Euclidean(torch.zeros(3))
    with pytest.raises(InputError, match="same N"):
        GradientEmbedding(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(InputError, match="must hold numbers"):
        Rows(np.array(["a"]), "embeddings")
    (tmp_path / "x.npy").write_bytes(b"not an array")
    with pytest.raises(InputError, match="cannot read"):
        Rows(tmp_path / "x.npy", "embeddings")


def test_gradients_of_sure_rows_keep_their_direction():
    sure = torch.tensor([[1 - 1e-9, 1e-9], [0.6, 0.4]], dtype=torch.float64)
    points = GradientEmbedding(sure, torch.ones(2, 1)).block(0, 2)
    a = points.factors[0].double()
    torch.testing.assert_close(
        a[0], torch.tensor([-1e-9, 1e-9], dtype=torch.float64), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(points.norms[0].item(), 2e-18, rtol=1e-6, atol=0)


@pytest.mark.parametrize("hold", [0, 1 << 20])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_squares_that_leave_single_precision_are_refused(hold, dtype):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(dtype)
    x[7] = 1e20
    with pytest.raises(InputError, match=r"x: row 7 is longer than 3e\+18"):
        Euclidean(x, hold=hold).squared_norms()
    x[7] = 0
    for scale in (1e18, 1e-15, 0):
        assert len(Euclidean(x * dtype(scale), hold=hold).squared_norms()) == 40
    for shift in (0, 3):
        with pytest.raises(InputError, match="every row is shorter than 1e-16"):
            Euclidean((x + dtype(shift)) * dtype(1e-20))
    assert len(Euclidean(np.full((40, 3), 1e-10, dtype)).squared_norms()) == 40


@pytest.mark.parametrize("scale", [1e-300, 1e-160, 1e160, 1e300])
def test_directions_have_length_one_at_any_scale(scale):
    x = np.random.default_rng(0).normal(size=(20, 4))
    rows = torch.arange(20)
    plain, scaled = (Cosine(y).exact(rows, rows.flip(0)) for y in (x, x * scale))
    torch.testing.assert_close(scaled, plain, rtol=1e-9, atol=1e-12)
