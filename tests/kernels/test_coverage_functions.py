"""Facility location, its measures and saturated coverage against their definitions."""

import sys

import numpy as np
import pytest
import torch
from cases import KINDS, points
from hypothesis import given, settings
from hypothesis import strategies as st

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import (
    Chosen,
    Cosine,
    Euclidean,
    Generator,
    GradientEmbedding,
    Precomputed,
    Progress,
    Similarity,
    SparseSimilarity,
    greedy,
)
from labelwise.kernels.functions import (
    FacilityLocation,
    FacilityLocationCG,
    FacilityLocationCMI,
    FacilityLocationQMI,
    FacilityLocationVMI,
    SaturatedCoverage,
)

COVERAGE = sys.modules["labelwise.kernels.functions.coverage"]
COMPUTED = sys.modules["labelwise.kernels.functions.windows_computed"]
WAYS = ("kept", "computed", "tiles")


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """Every test with similarities kept, computed on demand, and computed in small pieces."""
    if request.param != "kept":
        monkeypatch.setattr(COVERAGE, "HELD_BYTES", 0)
    if request.param == "computed":
        monkeypatch.setattr(COVERAGE, "PASS_SHARE", 2.0)
    if request.param == "tiles":
        monkeypatch.setattr(COMPUTED, "_TILE", 16)
        monkeypatch.setattr(COMPUTED, "_STRETCH", 64)
        monkeypatch.setattr(Euclidean, "block_size", 50)
    return request.param


def matrix(similarity):
    """(N, N) float64 as a function's definition has it."""
    rows = torch.arange(len(similarity))
    i, j = rows.repeat_interleave(len(rows)), rows.repeat(len(rows))
    return similarity.pairs(i, j).numpy().reshape(len(rows), len(rows))


def location(s, chosen, weights=1.0, low=0.0, high=np.inf, extra=0.0):
    """f(A) of rows represented (first) by elements."""
    most = np.maximum(s[:, chosen].max(1, initial=-np.inf), low)
    value = (weights * (np.clip(most, low, np.maximum(high, low)) - low)).sum()
    return value + np.broadcast_to(extra, s.shape[1])[chosen].sum()


def saturated(s, chosen, alpha, weights=1.0):
    return (weights * np.minimum(s[:, chosen].sum(1), alpha * s.sum(1))).sum()


def follows(function, chosen, of, covered=(), candidates=None, slack=0.0):
    """Whether picks are the definition's: each gains what it is told and none gains more."""
    taken = list(covered)
    left = set(range(len(function)) if candidates is None else candidates) - set(taken)
    start = value = of(taken)
    for row, gain in zip(chosen.rows.tolist(), chosen.gains.tolist()):
        gains = {j: of([*taken, j]) - value for j in left}
        close = 1e-5 * max(abs(value), *map(abs, gains.values()), 1e-9) + slack
        assert gain == pytest.approx(gains[row], abs=close)
        assert gains[row] >= max(gains.values()) - close
        left.remove(row)
        taken.append(row)
        value = of(taken)
    assert function.value == pytest.approx(value - start, rel=1e-5, abs=1e-6 + slack)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("kind", ["rbf", "complement", "top_hat"])
def test_facility_location_is_its_definition(name, kind, way):
    for seed in range(3):
        x = points(name, seed)
        size = np.linalg.norm(x.astype(float) - x.astype(float).mean(0), axis=1).mean() + 1e-6
        s = Similarity(Euclidean(x), kind, width=size if kind != "complement" else 4 * size)
        n = min(len(x), 12)
        function = FacilityLocation(s)
        truth = matrix(s)
        # A distance is a root: near zero it is off by the root of what its square is.
        norms = s.geometry.squared_norms().numpy()
        off = np.sqrt(2 * s.geometry.error * norms).sum() if kind == "complement" else 0.0
        chosen = greedy(function, n)
        follows(function, chosen, lambda a, t=truth: location(t, a), slack=off)


@pytest.mark.parametrize("kind", ["cosine", "cosine01", "dot"])
@pytest.mark.parametrize("seed", range(3))
def test_angles_products_and_all_the_knobs(kind, seed, way):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(70, 6)).astype(np.float32)
    s = Similarity(Euclidean(x, shift=False), kind)
    truth = matrix(s)
    weights, extra = rng.random(70), 3 * rng.random(70)
    low, high = 0.4 * rng.normal(size=70), rng.random(70)
    candidates, covered = rng.permutation(70)[:40], rng.permutation(70)[:5]
    left = sorted(set(candidates.tolist()) - set(covered.tolist()))
    function = FacilityLocation(
        s, weights=weights, low=low, high=high, extra=extra, covered=torch.tensor(covered)
    )
    chosen = greedy(function, len(left), candidates=torch.tensor(candidates))
    assert sorted(chosen.rows.tolist()) == left

    def of(a):
        return location(truth, a, weights, low, high, extra)

    follows(function, chosen, of, covered.tolist(), left)


@pytest.mark.parametrize("seed", range(3))
def test_the_represented_may_be_some_rows_or_other_points(seed, way):
    rng = np.random.default_rng(seed)
    x, q = rng.normal(size=(60, 5)), rng.normal(size=(25, 5))
    both = matrix(Similarity(Euclidean(np.r_[x, q]), "rbf", width=2.0))
    g = Euclidean(x)
    s = Similarity(g, "rbf", width=2.0)
    some = rng.permutation(60)[:20]
    weights = rng.random(20)
    rows = FacilityLocation(s, represented=torch.tensor(some), weights=weights)
    follows(rows, greedy(rows, 15), lambda a: location(both[some][:, :60], a, weights))
    others = FacilityLocation(s, represented=g.points(q), covered=torch.tensor([4]))
    follows(others, greedy(others, 15), lambda a: location(both[60:, :60], a), [4])


@pytest.mark.parametrize("knob", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("kind", ["rbf", "cosine01", "cosine"])
def test_information_measures_are_their_formulas(knob, kind, way):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 5)).astype(np.float32)
    q, p = x[:4] + 0.3, x[10:13] - 0.3
    width = 1.5 if kind == "rbf" else None
    full = matrix(Similarity(Euclidean(np.r_[x, q, p], shift=False), kind, width=width))
    v, to_q, to_p = full[:60, :60], full[:60, 60:64], full[:60, 64:]
    g = Euclidean(x, shift=False)
    s = Similarity(g, kind, width=width)
    near_q, near_p = knob * to_q.max(1), to_p.max(1) / knob

    def best(a):
        return v[:, a].max(1, initial=0 if kind != "cosine" else -np.inf)

    cases = {
        "VMI": (
            FacilityLocationVMI(s, g.points(q), knob),
            lambda a: np.maximum(np.minimum(best(a), near_q), 0).sum(),
        ),
        "QMI": (
            FacilityLocationQMI(s, g.points(q), knob),
            lambda a: np.maximum(to_q[a].max(0, initial=0), 0).sum() + near_q[a].sum(),
        ),
        "CG": (
            FacilityLocationCG(s, g.points(p), 1 / knob),
            lambda a: np.maximum(best(a) - near_p, 0).sum(),
        ),
        "CMI": (
            FacilityLocationCMI(s, g.points(q), g.points(p), knob, 0.4),
            lambda a: np.maximum(np.minimum(best(a), near_q) - 0.4 * to_p.max(1), 0).sum(),
        ),
    }
    for function, of in cases.values():
        follows(function, greedy(function, 10), of)


def test_query_rows_of_the_pool_and_of_a_given_matrix():
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    s = Similarity(Euclidean(x), "rbf", width=1.0)
    given = Precomputed(matrix(s))
    rows = torch.tensor([3, 17])
    for measure in (FacilityLocationVMI, FacilityLocationQMI, FacilityLocationCG):
        one = greedy(measure(s, rows), 8)
        assert one.rows.tolist() == greedy(measure(given, rows), 8).rows.tolist()
        points = greedy(measure(s, s.geometry.points(x[rows])), 8)
        assert one.rows.tolist() == points.rows.tolist()


@pytest.mark.parametrize("alpha", [0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(2))
def test_saturated_coverage_is_its_definition(alpha, seed, way):
    rng = np.random.default_rng(seed)
    x = points(["gaussian", "two scales"][seed], seed)
    s = Similarity(Euclidean(x), "rbf", width=float(x.std()))
    truth, n = matrix(s), min(len(x) - 2, 20)
    weights, covered = rng.random(len(x)), rng.permutation(len(x))[:2]
    function = SaturatedCoverage(s, alpha, weights=weights, covered=torch.tensor(covered))
    chosen = greedy(function, n)
    follows(function, chosen, lambda a: saturated(truth, a, alpha, weights), covered.tolist())
    some = rng.permutation(len(x))[:5]
    function = SaturatedCoverage(s, alpha, represented=torch.tensor(some))
    follows(function, greedy(function, n), lambda a: saturated(truth[some], a, alpha))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.sampled_from([0.3, 1.0]))
def test_given_matrices_are_what_is_summed(seed, size, alpha):
    rng = np.random.default_rng(seed)
    s = rng.integers(0, 4, (size, size)).astype(float)
    s = s + s.T + np.eye(size)
    weights = rng.integers(0, 3, size).astype(float)
    weights[0] = 1
    for similarity in (Precomputed(s), SparseSimilarity(_sparse(s))):
        function = FacilityLocation(similarity, weights=weights)
        chosen = greedy(function, size)
        follows(function, chosen, lambda a: location(s, a, weights))
        function = SaturatedCoverage(similarity, alpha, weights=weights)
        follows(function, greedy(function, size), lambda a: saturated(s, a, alpha, weights))


def _sparse(s):
    from scipy.sparse import csr_array

    return csr_array(s)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_matrices_of_other_rows_and_sparse_ones(dtype, tmp_path):
    rng = np.random.default_rng(0)
    wide = (rng.random((50, 30)) * (rng.random((50, 30)) < 0.3)).astype(dtype)
    np.save(tmp_path / "s.npy", wide)
    truth = wide.astype(np.float64).T
    for s in (Precomputed(wide), Precomputed(str(tmp_path / "s.npy"))):
        function = FacilityLocation(s)
        follows(function, greedy(function, 20), lambda a: location(truth, a))
    function = FacilityLocation(SparseSimilarity(_sparse(wide.astype(np.float32))), low=0.2)
    follows(function, greedy(function, 20), lambda a: location(truth, a, low=0.2))
    with pytest.raises(InputError, match=r"floor must be >= 0, got -1"):
        greedy(FacilityLocation(SparseSimilarity(_sparse(wide.astype(float))), low=-1), 2)


def test_neighbors_are_an_explicit_choice():
    x = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    s = Similarity(Euclidean(x), "rbf", width=0.7)
    sparse = SparseSimilarity.nearest(s, 6).matrix.toarray().astype(np.float64)
    function = FacilityLocation(s, neighbors=6)
    follows(function, greedy(function, 30), lambda a: location(sparse, a))
    everything = greedy(FacilityLocation(s, neighbors=79), 30)
    assert everything.rows.tolist() == greedy(FacilityLocation(s), 30).rows.tolist()
    with pytest.raises(InputError, match="neighbors= is for a pool"):
        FacilityLocation(s, neighbors=3, represented=torch.tensor([1]))


def test_large_pools_are_refused_unless_asked_twice():
    s = Similarity(Euclidean(np.ones((200_001, 1), np.float32)), "rbf", width=1.0)
    with pytest.raises(ResourceError, match=r"neighbors=.*represent a sample.*dense=True"):
        FacilityLocation(s)
    with pytest.raises(ResourceError, match="200001 x 200001 similarities"):
        SaturatedCoverage(s)
    FacilityLocation(s, dense=True)
    FacilityLocation(s, represented=torch.arange(100), memory=1 << 30)


def test_gradients_cosines_and_memory_maps(tmp_path, way):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(4, 0.3), size=60).astype(np.float32)
    h = rng.normal(size=(60, 6)).astype(np.float32)
    np.save(tmp_path / "h.npy", h.astype(np.float16))
    half = np.load(tmp_path / "h.npy", mmap_mode="r")
    for geometry, kind, width in (
        (GradientEmbedding(probs, h), "complement", 9.0),
        (GradientEmbedding(probs, h), "cosine01", None),
        (Cosine(h + 2), "cosine01", None),
        (Cosine(half, hold=0), "cosine", None),
        (Euclidean(half, hold=0), "rbf", 2.0),
    ):
        s = Similarity(geometry, kind, width=width)
        truth = matrix(s)
        function = FacilityLocation(s)
        follows(function, greedy(function, 20), lambda a, t=truth: location(t, a))


def test_larger_pools_are_picked_from_as_a_plain_loop_does(way):
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(30, 24))
    size = 700 if way == "tiles" else 1500
    x = (centers[rng.integers(0, 30, size)] + 0.3 * rng.normal(size=(size, 24))).astype(np.float32)
    s = Similarity(Cosine(x), "cosine01")
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    truth, best, value = (1 + unit @ unit.T) / 2, np.zeros(size), 0.0
    for _ in range(150):
        gain = np.maximum(truth - best[:, None], 0).sum(0)
        best = np.maximum(best, truth[:, gain.argmax()])
    value = best.sum()
    picks = {}
    for method in ("lazy", "naive"):
        function = FacilityLocation(s)
        picks[method] = greedy(function, 150, method=method)
        assert function.value == pytest.approx(value, rel=1e-6)
        assert location(truth, picks[method].rows.numpy()) == pytest.approx(value, rel=1e-6)
    assert picks["lazy"].rows.tolist() == picks["naive"].rows.tolist()
    stochastic = FacilityLocation(s)
    greedy(stochastic, 150, method="stochastic", generator=Generator(0))
    assert 0.98 * value < stochastic.value < value


def test_copies_are_a_tie_and_the_lowest_row_wins(way):
    x = np.repeat(np.random.default_rng(0).normal(size=(20, 6)), 5, 0).astype(np.float32)
    x = x[np.random.default_rng(1).permutation(100)]
    first = {tuple(row): i for i, row in reversed(list(enumerate(x)))}
    chosen = greedy(FacilityLocation(Similarity(Cosine(x), "cosine01")), 20).rows.tolist()
    assert chosen == [first[tuple(x[row])] for row in chosen]
    assert len({tuple(x[row]) for row in chosen}) == 20


def test_a_resumed_run_ends_with_the_same_picks(way):
    x = np.random.default_rng(0).normal(size=(200, 8)).astype(np.float32)
    s = Similarity(Euclidean(x), "rbf", width=2.0)
    for make in (lambda: FacilityLocation(s), lambda: SaturatedCoverage(s, 0.05)):
        whole, function = greedy(make(), 40), make()
        earlier = Chosen(whole.rows[:17], whole.gains[:17])
        again = greedy(function, 40, progress=Progress(earlier))
        assert again.rows.tolist() == whole.rows.tolist()


def test_all_zero_similarity_and_other_bad_input():
    s = Similarity(Euclidean(np.eye(6)), "rbf", width=1.0)
    with pytest.raises(InputError, match="no candidate gains anything"):
        greedy(FacilityLocation(Precomputed(np.zeros((5, 5)))), 2)
    with pytest.raises(InputError, match="no candidate gains anything"):
        greedy(FacilityLocationVMI(s, torch.tensor([0]), eta=0.0), 2)
    with pytest.raises(InputError, match=r"alpha must be in \(0, 1\], got 0"):
        SaturatedCoverage(s, 0)
    with pytest.raises(InputError, match=r"similarities >= 0, but that of represented row \d"):
        SaturatedCoverage(Similarity(Euclidean(-np.eye(3) + 0.1, shift=False), "dot"))
    with pytest.raises(InputError, match=r"weights must be numbers >= 0.0, got -1.0 at 2"):
        FacilityLocation(s, weights=[1, 1, -1, 1, 1, 1])
    with pytest.raises(InputError, match=r"weights must be 6 numbers, got shape \(2,\)"):
        FacilityLocation(s, weights=[1, 1])
    with pytest.raises(InputError, match="extra must be numbers"):
        FacilityLocation(s, extra=[np.nan] * 6)
    with pytest.raises(InputError, match="low must be finite"):
        FacilityLocation(s, low=np.inf)
    with pytest.raises(InputError, match=r"covered must be rows in 0\.\.5, got 6"):
        FacilityLocation(s, covered=torch.tensor([6]))
    with pytest.raises(InputError, match="covered must be distinct"):
        FacilityLocation(s, covered=torch.tensor([2, 2]))
    with pytest.raises(InputError, match="represented must be at least one"):
        FacilityLocation(s, represented=torch.tensor([], dtype=torch.int64))
    with pytest.raises(InputError, match="eta must be a finite number >= 0, got -1"):
        FacilityLocationQMI(s, torch.tensor([0]), eta=-1)
    with pytest.raises(InputError, match="nu must be a finite number >= 0, got nan"):
        FacilityLocationCG(s, torch.tensor([0]), nu=float("nan"))
    with pytest.raises(InputError, match="private must be at least one point, got none"):
        FacilityLocationCG(s, torch.tensor([], dtype=torch.int64))
    with pytest.raises(ResourceError, match="memory must be at least"):
        FacilityLocation(s, memory=100)


@pytest.mark.parametrize("kind", ["cosine01", "cosine", "rbf"])
def test_first_gains_of_computed_similarities(kind, monkeypatch):
    """Those of cosine01 come from one sum of all points."""
    monkeypatch.setattr(COVERAGE, "HELD_BYTES", 0)
    x = np.random.default_rng(3).normal(size=(90, 5))
    like = (
        Similarity(Euclidean(x), "rbf", width=1.0) if kind == "rbf" else Similarity(Cosine(x), kind)
    )
    function = FacilityLocation(like)
    assert (function._linear() is not None) == (kind == "cosine01")
    truth = matrix(like).clip(0).sum(0)
    np.testing.assert_allclose(function.gains().numpy(), truth, rtol=2e-6, atol=1e-5)
