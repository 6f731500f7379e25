"""Concatenated, multiplied and partial geometries: in every kernel what the built points give."""

import numpy as np
import pytest
import torch
from cases import KINDS, gradients, points
from test_geometry import check_bounds, pairwise

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import (
    Concatenated,
    Cosine,
    Euclidean,
    Generator,
    GradientEmbedding,
    Product,
    Similarity,
    Subset,
    farthest_first,
    kmeans_plus_plus,
    nearest_neighbors,
)


def unit(x):
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def outer(*parts):
    built = parts[0]
    for part in parts[1:]:
        built = np.einsum("ni,nj->nij", built, part).reshape(len(built), -1)
    return built


def beside(parts, weights):
    return np.hstack([np.sqrt(w) * part for w, part in zip(weights, parts)])


def pool(kind="gaussian", seed=0):
    """A point set of one kind, another beside it, and class distributions."""
    x = points(kind, seed)
    rng = np.random.default_rng(seed)
    y = rng.normal(size=(len(x), 3)).astype(np.float32)
    probs = rng.dirichlet(np.ones(4), size=len(x)).astype(np.float32)
    y[1], probs[1] = y[0], probs[0]
    return x, y, probs


def _subset_of_all(x, y, probs):
    rows = np.random.default_rng(5).permutation(len(x))[: len(x) // 2 + 2]
    g = Concatenated(Euclidean(x), Product(Cosine(y, shift=False), Euclidean(probs, shift=False)))
    built = beside([x.astype(np.float64), outer(unit(y), probs.astype(np.float64))], [1, 1])
    return Subset(g, torch.from_numpy(rows)), built[rows]


GEOMETRIES = {
    "euclidean": lambda x, y, p: (Euclidean(x), x),
    "cosine": lambda x, y, p: (Cosine(y), unit(y)),
    "gradient": lambda x, y, p: (GradientEmbedding(p, y), gradients(p, y)),
    "concatenated": lambda x, y, p: (
        Concatenated(Euclidean(x), Cosine(y), weights=[0.5, 3]),
        beside([x, unit(y)], [0.5, 3]),
    ),
    "concatenated with a gradient": lambda x, y, p: (
        Concatenated(GradientEmbedding(p, y), Euclidean(x, shift=False)),
        beside([gradients(p, y), x], [1, 1]),
    ),
    "product": lambda x, y, p: (
        Product(Euclidean(x, shift=False), Euclidean(p, shift=False)),
        outer(x.astype(np.float64), p.astype(np.float64)),
    ),
    "product of three": lambda x, y, p: (
        Product(GradientEmbedding(p, y), Cosine(y, shift=False)),
        outer(gradients(p, y), unit(y)),
    ),
    "product of a concatenation": lambda x, y, p: (
        Product(
            Concatenated(Euclidean(x, shift=False), Cosine(y, shift=False), weights=[2, 0.25]),
            Euclidean(y, shift=False),
        ),
        outer(beside([x, unit(y)], [2, 0.25]), y.astype(np.float64)),
    ),
    "ascending subset": lambda x, y, p: (
        Subset(Euclidean(x), torch.arange(1, len(x), 2)),
        x[1::2],
    ),
    "subset of all": _subset_of_all,
}
EVERY = pytest.mark.parametrize("name", GEOMETRIES)


def build(name, kind="gaussian", seed=0):
    geometry, built = GEOMETRIES[name](*pool(kind, seed))
    return geometry, built.astype(np.float64)


@EVERY
@pytest.mark.parametrize("kind", KINDS)
def test_errors_stay_within_their_bound_and_exact_distances_are_exact(name, kind):
    geometry, built = build(name, kind)
    assert len(geometry) == len(built)
    few = built[:50]
    check_bounds(
        geometry if len(built) <= 50 else Subset(geometry, torch.arange(50)), pairwise(few)
    )


@EVERY
@pytest.mark.parametrize("kind", ["gaussian", "copies"])
def test_farthest_first_is_that_of_the_built_points(name, kind):
    geometry, built = build(name, kind)
    covered, candidates = torch.tensor([2, 0]), torch.arange(len(built)).flip(0)[:-1]
    for given in (covered, None):
        mine = farthest_first(geometry, 4, covered=given, candidates=candidates, block=3)
        theirs = farthest_first(Euclidean(built), 4, covered=given, candidates=candidates)
        assert mine.rows.tolist() == theirs.rows.tolist()
        torch.testing.assert_close(mine.gains, theirs.gains, rtol=1e-9, atol=1e-18)


@EVERY
@pytest.mark.parametrize("first", ["uniform", "largest"])
@pytest.mark.parametrize("trials", [1, 3])
def test_kmeans_plus_plus_is_that_of_the_built_points(name, first, trials):
    geometry, built = build(name)
    options = {"generator": Generator(1), "first": first, "trials": trials}
    mine = kmeans_plus_plus(geometry, 5, **options)
    theirs = kmeans_plus_plus(Euclidean(built, shift=False), 5, **options)
    assert mine.rows.tolist() == theirs.rows.tolist()


@EVERY
@pytest.mark.parametrize("kind", ["gaussian", "copies"])
def test_neighbors_are_those_of_the_built_points(name, kind):
    geometry, built = build(name, kind)
    distance = pairwise(built)
    np.fill_diagonal(distance, np.inf)
    mine = nearest_neighbors(geometry, 2, exclude_self=True)
    np.testing.assert_allclose(
        mine.squared_distances, np.sort(distance, 1)[:, :2], rtol=1e-9, atol=1e-15
    )


@EVERY
@pytest.mark.parametrize("kind", ["cosine", "rbf", "distance"])
def test_similarities_are_those_of_the_built_points(name, kind):
    geometry, built = build(name)
    if geometry.shifted and kind == "cosine" and not geometry.directions:
        with pytest.raises(InputError, match="origin"):
            Similarity(geometry, kind)
        return
    similarity = Similarity(geometry, kind, width=2.0 if kind == "rbf" else None)
    everything = similarity.take(torch.arange(len(built)))
    squared = pairwise(built)
    length = np.linalg.norm(built, axis=1)
    expected = {
        "cosine": lambda: built @ built.T / np.outer(length, length),
        "rbf": lambda: np.exp(-squared / 8),
        "distance": lambda: np.sqrt(squared),
    }[kind]()
    found = similarity.between(everything, everything)
    if kind == "distance":  # a root turns an error of e at zero into one of sqrt(e)
        np.testing.assert_allclose(found**2, squared, atol=1e-5 * max(length) ** 2)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-4)
    own = similarity.own(torch.arange(len(built)))
    np.testing.assert_allclose(own, np.diag(expected), atol=1e-12)


@EVERY
def test_true_norms_and_distances_to_the_mean(name):
    geometry, built = build(name)
    rows = torch.arange(len(built)).flip(0)[:5]
    if not isinstance(geometry, GradientEmbedding):
        np.testing.assert_allclose(
            geometry.true_norms(rows), (built[rows.numpy()] ** 2).sum(1), rtol=1e-12
        )
    true = ((built - built.mean(0)) ** 2).sum(1)[rows.numpy()]
    mine = geometry.to_mean(rows).numpy()
    np.testing.assert_allclose(mine - mine[0], true - true[0], atol=1e-5 * true.max())
    assert geometry.nearest_mean(torch.arange(len(built))) == int(
        ((built - built.mean(0)) ** 2).sum(1).argmin()
    )


@EVERY
def test_points_travel_as_float64_factors(name):
    geometry, built = build(name)
    rows = torch.tensor([4, 2])
    mine, sent = geometry.take(rows), geometry.rounded(geometry.double(rows))
    torch.testing.assert_close(sent.factors, mine.factors)
    torch.testing.assert_close(sent.norms, mine.norms)
    half = [Subset(geometry, torch.arange(i, len(built), 2)) for i in (0, 1)]
    if not isinstance(geometry, GradientEmbedding | Euclidean):
        torch.testing.assert_close(half[0].total() + half[1].total(), geometry.total())


def test_a_gradient_embedding_is_the_product_of_residuals_and_embeddings():
    _, y, probs = pool()
    a = probs.astype(np.float64)
    a[np.arange(len(a)), a.argmax(1)] -= 1
    product = Product(Euclidean(a, shift=False), Euclidean(y, shift=False))
    gradient = GradientEmbedding(probs, y)
    left, right = torch.arange(0, 9), torch.arange(9, 0, -1)
    torch.testing.assert_close(
        product.exact(left, right), gradient.exact(left, right), rtol=1e-12, atol=0
    )
    torch.testing.assert_close(product.to_mean(left), gradient.to_mean(left), rtol=1e-5, atol=1e-6)


def test_near_copies_keep_their_distance_in_products():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4)), rng.normal(size=(2, 3))
    a[1], b[1] = a[0] + 1e-9 * rng.normal(size=4), b[0] + 1e-9 * rng.normal(size=3)
    g = Product(Euclidean(a, shift=False), Euclidean(b, shift=False))
    from fractions import Fraction

    total = Fraction(0)
    for i in range(4):
        for j in range(3):
            x = Fraction(a[0, i]) * Fraction(b[0, j]) - Fraction(a[1, i]) * Fraction(b[1, j])
            total += x * x
    found = g.exact(torch.tensor([0]), torch.tensor([1])).item()
    assert found == pytest.approx(float(total), rel=1e-6)


def test_points_of_other_sets():
    x, y, probs = pool()
    g = Concatenated(GradientEmbedding(probs, y), Euclidean(x))
    rows = torch.tensor([3, 4])
    mine, other = g.take(rows), g.points((probs[3:5], y[3:5]), x[3:5])
    torch.testing.assert_close(other.norms, mine.norms)
    block = g.block(0, len(g))
    torch.testing.assert_close(g.offsets(block, other), g.offsets(block, mine))
    some = Subset(g, torch.tensor([4, 3]))
    torch.testing.assert_close(some.points((probs[3:4], y[3:4]), x[3:4]).norms, mine.norms[:1])
    with pytest.raises(InputError, match="2 parts, got 1"):
        g.points(x)
    with pytest.raises(InputError, match=r"every part, got \[2, 1\]"):
        g.points((probs[:2], y[:2]), x[:1])


def test_blocks_of_a_subset_are_cut_from_stretches_of_a_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 3)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    whole = Euclidean(tmp_path / "x.npy", hold=0)
    reads = []
    block, take = whole.block, whole.take
    whole.block = lambda *a: reads.append("block") or block(*a)
    whole.take = lambda *a: reads.append("take") or take(*a)
    for rows, kind in (
        (torch.arange(100, 400), "block"),
        (torch.arange(0, 400, 2), "block"),
        (torch.arange(0, 400, 5), "take"),
        (torch.arange(399, -1, -1), "take"),
    ):
        some = Subset(whole, rows)
        found = torch.cat([points.factors[0] for _, points in some.blocks()])
        assert torch.equal(found, torch.from_numpy(x[rows.numpy()].astype(np.float32)))
        assert set(reads) == {kind}
        reads.clear()


def test_what_does_not_fit_is_refused():
    x = np.zeros((3, 1))
    with pytest.raises(InputError, match=r"same rows, got lengths \[3, 2\]"):
        Concatenated(Euclidean(x), Euclidean(x[:2]))
    with pytest.raises(InputError, match="at least one"):
        Product()
    for weights in ([1], [1, 0], [1, np.inf], [1, np.nan]):
        with pytest.raises(InputError, match="2 finite numbers > 0"):
            Concatenated(Euclidean(x), Euclidean(x), weights=weights)
    far = 100 + np.random.default_rng(0).normal(size=(9, 2))
    with pytest.raises(InputError, match=r"part 1 has moved; build it with Euclidean"):
        Product(Euclidean(np.zeros((9, 1))), Euclidean(far))
    for rows, match in (
        ([0, 3], r"0\.\.2, got 3"),
        ([-1], "got -1"),
        ([1, 0, 1], "got 1 twice"),
        ([[0]], "int64"),
        ([0.5], "int64"),
    ):
        with pytest.raises(InputError, match=match):
            Subset(Euclidean(x), torch.tensor(rows))
    wide = Euclidean(np.ones((2, 12000), np.float32), shift=False)
    with pytest.raises(ResourceError, match="name covered rows"):
        farthest_first(Product(wide, wide), 1)
