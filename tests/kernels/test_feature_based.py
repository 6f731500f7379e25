"""Feature-based functions and concave over modular against their definitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph_cut import check, matrix

from labelwise.errors import InputError
from labelwise.kernels import Chosen, Euclidean, Precomputed, Progress, Similarity
from labelwise.kernels.functions import ConcaveOverModular, FeatureBased
from labelwise.kernels.greedy import greedy

PSI = {"sqrt": np.sqrt, "log1p": np.log1p, "power": lambda x: x**0.3}


def exponent(name):
    return {"exponent": 0.3} if name == "power" else {}


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64])
@pytest.mark.parametrize("method", ["naive", "lazy"])
def test_feature_based_is_its_definition(name, dtype, method):
    rng = np.random.default_rng(0)
    x = (rng.gamma(0.5, 20.0, size=(80, 7)) * (rng.random((80, 7)) < 0.5)).astype(dtype)
    w = rng.random(7)
    wide = x.astype(np.float64)
    function = FeatureBased(x, name, weights=w, **exponent(name))
    chosen = greedy(function, 30, method=method)
    check(chosen, lambda a: (w * PSI[name](wide[a].sum(0))).sum(), 30, 1e-7, range(80))
    assert function.value == pytest.approx((w * PSI[name](wide[chosen.rows].sum(0))).sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(sorted(PSI)))
def test_gains_are_never_negative_and_only_fall(seed, name):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 4, size=(12, 3)) * 10.0 ** rng.integers(-3, 6)
    function = FeatureBased(x, name, **exponent(name))
    before = function.gains()
    for row in rng.permutation(12)[:5]:
        function.add(int(row), float(before[row]))
        now = function.gains()
        assert (now >= 0).all()
        assert (now <= before + 1e-9 * before.max()).all()
        before = now


def test_a_small_gain_beside_large_sums_is_not_lost():
    function = FeatureBased([[1e16, 0.0], [0.0, 1e-3], [0.0, 0.0]])
    assert greedy(function, 2).rows.tolist() == [0, 1]


def test_a_file_covered_rows_and_a_resumed_run(tmp_path):
    x = np.random.default_rng(1).random((500, 9)).astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    whole = greedy(FeatureBased(str(tmp_path / "x.npy")), 40)
    assert torch.equal(whole.rows, greedy(FeatureBased(x), 40).rows)
    rest = greedy(FeatureBased(x, covered=whole.rows[:15]), 25)
    assert torch.equal(rest.rows, whole.rows[15:])
    earlier = Chosen(whole.rows[:15], whole.gains[:15])
    again = greedy(FeatureBased(x), 40, progress=Progress(earlier))
    assert torch.equal(again.rows, whole.rows)


@pytest.mark.parametrize("name", PSI)
@pytest.mark.parametrize("eta", [0.0, 0.5, 3.0])
def test_concave_over_modular_is_its_definition(name, eta):
    rng = np.random.default_rng(2)
    x, q = rng.normal(size=(60, 5)), rng.normal(size=(6, 5))
    geometry = Euclidean(x, shift=False)
    s, psi = matrix(x, q, "cosine01"), PSI[name]
    for method in ("naive", "lazy"):
        function = ConcaveOverModular(
            Similarity(geometry, "cosine01"), geometry.points(q), eta, name, **exponent(name)
        )
        chosen = greedy(function, 15, method=method)
        of = lambda a: eta * psi(s[a].sum(1)).sum() + psi(s[a].sum(0)).sum()  # noqa: E731
        check(chosen, of, 15, 5.0, range(60))
        given_s = Precomputed(s)
        function = ConcaveOverModular(given_s, given_s.represented(), eta, name, **exponent(name))
        check(greedy(function, 15, method=method), of, 15, 5.0, range(60))


def test_bad_input_is_named():
    with pytest.raises(InputError, match=r"finite numbers >= 0, got -1 in row 1"):
        FeatureBased([[0.0], [-1.0]])
    with pytest.raises(InputError, match="row 0"):
        FeatureBased([[np.nan]])
    with pytest.raises(InputError, match="got inf in row 0"):
        FeatureBased([[np.inf]])
    with pytest.raises(InputError, match="concave must be known"):
        FeatureBased([[1.0]], "root")
    with pytest.raises(InputError, match="needs exponent"):
        FeatureBased([[1.0]], "power")
    with pytest.raises(InputError, match=r"exponent must be in \(0, 1\], got 2"):
        FeatureBased([[1.0]], "power", exponent=2)
    with pytest.raises(InputError, match="takes no exponent"):
        FeatureBased([[1.0]], exponent=0.5)
    with pytest.raises(InputError, match="weights must be 1"):
        FeatureBased([[1.0]], weights=[1.0, 2.0])
    g = Euclidean([[1.0], [-1.0]], shift=False)
    with pytest.raises(InputError, match="got -1 in row 1; use cosine01"):
        ConcaveOverModular(Similarity(g, "dot"), g.points([[1.0]]))
    with pytest.raises(InputError, match="at least one point"):
        ConcaveOverModular(Similarity(g, "rbf", width=1.0), g.points(np.zeros((0, 1))))
    with pytest.raises(InputError, match="eta must be"):
        ConcaveOverModular(Similarity(g, "rbf", width=1.0), g.points([[1.0]]), -1)
