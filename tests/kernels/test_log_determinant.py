"""Log-determinants against determinants in float64."""

import numpy as np
import pytest
import torch
from cases import KINDS, points
from test_graph_cut import check, matrix

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Chosen, Euclidean, Precomputed, Progress, Similarity
from labelwise.kernels.functions import (
    LogDeterminant,
    LogDeterminantCG,
    LogDeterminantCMI,
    LogDeterminantMI,
)
from labelwise.kernels.greedy import greedy


def volume(k, rows):
    return np.linalg.slogdet(k[np.ix_(rows, rows)])[1] if len(rows) else 0.0


def space(seed, name="rbf", size=70, q=5, p=4):
    """A geometry, its similarity, Q and P, and the (N + q + p)^2 matrix of them all."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size + q + p, 6))
    width = 2.0 if name == "rbf" else None
    geometry = Euclidean(x[:size], shift=False)
    s = Similarity(geometry, name, width=width)
    query, private = geometry.points(x[size : size + q]), geometry.points(x[size + q :])
    return s, query, private, matrix(x, x, name, width)


def scaled(full, size, q, lam, eta, nu):
    """K with the blocks of the pool and Q, and of the pool and P, multiplied."""
    k = full.copy()
    for block, scale in ((slice(size, size + q), eta), (slice(size + q, None), nu)):
        k[:size, block] *= scale
        k[block, :size] *= scale
    return k + lam * np.eye(len(k))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["cosine01", "rbf", "dot"])
@pytest.mark.parametrize("method", ["naive", "lazy"])
def test_log_determinant_is_its_definition(kind, name, method):
    x = points(kind, 1)
    width = float(x.astype(float).std()) + 0.5 if name == "rbf" else None
    s = Similarity(Euclidean(x, shift=name == "rbf"), name, width=width)
    full = matrix(x, x, name, width)
    lam = 0.5 * np.abs(full).max()
    k = full + lam * np.eye(len(x))
    n = min(12, len(x))
    chosen = greedy(LogDeterminant(s, lam), n, method=method)
    check(chosen, lambda a: volume(k, a), n, 5.0, range(len(x)))


@pytest.mark.parametrize("name", ["rbf", "cosine01", "dot"])
@pytest.mark.parametrize(("eta", "nu"), [(1.0, 1.0), (0.5, 0.7), (0.0, 0.0)])
def test_information_measures_are_their_definitions(name, eta, nu):
    s, query, private, full = space(0, name)
    lam = 1.0 if name != "dot" else 20.0
    k = scaled(full, 70, 5, lam, eta, nu)
    q, p = list(range(70, 75)), list(range(75, 79))

    def given(a, b):
        return volume(k, [*a, *b]) - volume(k, b)

    cases = {
        LogDeterminantCG(s, private, lam, nu): lambda a: given(a, p),
        LogDeterminantMI(s, query, lam, eta): lambda a: given(a, []) - given(a, q),
        LogDeterminantCMI(s, query, private, lam, eta, nu): lambda a: (
            given(a, p) - given(a, [*p, *q])
        ),
    }
    for function, of in cases.items():
        if eta == 0 and not function.submodular:
            assert not function.gains().abs().max() > 1e-12
            continue
        chosen = greedy(function, 12)
        check(chosen, of, 12, 5.0, range(70))
        assert function.value == pytest.approx(of(chosen.rows.tolist()), abs=1e-4)


def test_lazy_and_naive_agree_and_lazy_touches_little():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(40, 16))
    x = (centers[rng.integers(0, 40, 3000)] + 0.2 * rng.normal(size=(3000, 16))).astype(np.float32)
    x[:2800] *= 0.1  # short: never worth a second look
    for s, few in (
        (Similarity(Euclidean(x), "rbf", width=3.0), False),
        (Similarity(Euclidean(x, shift=False), "dot"), True),
    ):
        lazy, naive = LogDeterminant(s, 0.1), LogDeterminant(s, 0.1)
        picks = greedy(lazy, 150, method="lazy")
        assert torch.equal(picks.rows, greedy(naive, 150, method="naive").rows)
        k = matrix(x, x, s.kind, s.width)
        rows = picks.rows.numpy()
        exact = np.linalg.slogdet(k[np.ix_(rows, rows)] + 0.1 * np.eye(150))[1]
        assert lazy.value == pytest.approx(exact, rel=1e-5)
        assert (lazy._fill[:2800].clamp(min=0).double().mean() < 40) == few


def test_covered_rows_count_as_chosen_and_runs_resume():
    s, _, _, _ = space(3)
    whole = greedy(LogDeterminant(s, 0.3), 20)
    rest = greedy(LogDeterminant(s, 0.3, covered=whole.rows[:8]), 12)
    assert torch.equal(rest.rows, whole.rows[8:])
    earlier = Chosen(whole.rows[:8], whole.gains[:8])
    again = greedy(LogDeterminant(s, 0.3), 20, progress=Progress(earlier))
    assert torch.equal(again.rows, whole.rows)
    torch.testing.assert_close(again.gains, whole.gains)


def test_a_given_matrix_with_queries_among_its_rows():
    _, _, _, full = space(5)
    s = Precomputed(full)
    k = scaled(full, 70, 5, 0.5, 0.6, 0.8)
    q, p = list(range(70, 75)), list(range(75, 79))
    function = LogDeterminantCMI(s, s.take(torch.tensor(q)), s.take(torch.tensor(p)), 0.5, 0.6, 0.8)
    chosen = greedy(function, 10, candidates=torch.arange(70))

    def given(a, b):
        return volume(k, [*a, *b]) - volume(k, b)

    check(chosen, lambda a: given(a, p) - given(a, [*p, *q]), 10, 5.0, range(70))


def test_copies_add_nothing_without_a_regularizer():
    x = np.repeat(np.eye(4), 3, 0) * [1.0, 2.0, 3.0, 4.0]
    function = LogDeterminant(Similarity(Euclidean(x, shift=False), "dot"), 0.0)
    assert greedy(function, 4).rows.tolist() == [9, 6, 3, 0]
    assert (function.gains() == -torch.inf).all()
    with pytest.raises(InputError, match="not positive definite with lam=0"):
        greedy(function, 1)


@pytest.mark.parametrize("method", ["naive", "lazy"])
def test_without_a_regularizer_first_gains_are_nothing_and_volumes_differ(method):
    s, _, private, full = space(3, "cosine01", p=0)
    chosen = greedy(LogDeterminant(s, 0.0), 5, method=method)
    check(chosen, lambda a: volume(full[:70, :70], a), 5, 1.0, range(70))
    assert chosen.gains[0] == 0 > chosen.gains[1]
    assert not len(private)
    again = greedy(LogDeterminantCG(s, private, 0.0), 5, method=method)
    assert again.rows.tolist() == chosen.rows.tolist()


def test_what_is_not_positive_definite_is_refused_by_name():
    s, query, private, _ = space(1, "cosine01")
    with pytest.raises(InputError, match=r"eta=3\.0; use a larger lam or smaller knobs"):
        greedy(LogDeterminantMI(s, query, 0.1, 3.0), 5)
    with pytest.raises(InputError, match="nu=9"):
        greedy(LogDeterminantCG(s, private, 0.1, 9), 5)
    twice = s.geometry.points(np.ones((2, 6)))
    with pytest.raises(InputError, match="given twice"):
        LogDeterminantCG(s, twice, 0.0)
    with pytest.raises(InputError, match="lam must be"):
        LogDeterminant(s, -1.0)
    with pytest.raises(InputError, match="eta must be"):
        LogDeterminantMI(s, query, eta=float("inf"))
    apart = Similarity(Euclidean(np.arange(6.0)[:, None]), "distance")
    with pytest.raises(InputError, match="another similarity"):
        greedy(LogDeterminant(apart, 0.1), 3)
    with pytest.raises(ResourceError, match="at least"):
        greedy(LogDeterminant(s), 5, memory=1000)
