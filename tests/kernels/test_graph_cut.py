"""Graph cut, its measures, disparity-sum and row sums against their definitions."""

import numpy as np
import pytest
import torch
from cases import KINDS, gradients, points
from scipy.sparse import csr_array

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import (
    Chosen,
    Cosine,
    Euclidean,
    GradientEmbedding,
    Precomputed,
    Progress,
    Similarity,
    SparseSimilarity,
    kernel_herding,
)
from labelwise.kernels.functions import DisparitySum, GraphCut, GraphCutCG, GraphCutMI
from labelwise.kernels.functions.pairwise import row_sums
from labelwise.kernels.greedy import greedy


def matrix(x, y, kind, width=None):
    """(n, m) float64 similarities by definition."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    if kind == "dot":
        return x @ y.T
    if kind in ("cosine", "cosine01"):
        lengths = [np.linalg.norm(z, axis=1, keepdims=True) for z in (x, y)]
        units = [
            np.divide(z, length, out=np.zeros_like(z), where=length > 0)
            for z, length in zip((x, y), lengths)
        ]
        cosine = units[0] @ units[1].T
        return cosine if kind == "cosine" else (1 + cosine) / 2
    d = np.sqrt(((x[:, None] - y[None]) ** 2).sum(2))
    return {"distance": d, "rbf": np.exp(-(d**2) / (2 * (width or 1) ** 2))}[kind]


def cut(s, chosen, lam):
    return s[:, chosen].sum() - lam * s[np.ix_(chosen, chosen)].sum()


def check(chosen, of, n, scale, candidates, covered=()):
    """Every pick gains as much as the best one by definition, and says how much."""
    picked = list(covered)
    assert len(set(chosen.rows.tolist())) == n
    for row, gain in zip(chosen.rows.tolist(), chosen.gains.tolist()):
        now = of(picked)
        gains = {j: of([*picked, j]) - now for j in candidates if j not in picked}
        assert gains[row] >= max(gains.values()) - 1e-5 * scale
        assert gain == pytest.approx(gains[row], abs=1e-5 * scale)
        picked.append(row)


def make(kind, name, seed):
    x = points(kind, seed)
    if name == "rbf":
        geometry, width = Euclidean(x), float(x.astype(float).std()) + 1.0
    else:
        geometry, width = Euclidean(x, shift=name == "distance"), None
    s = Similarity(geometry, name, width=width)
    return x, s, matrix(x, x, name, width)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["dot", "cosine", "cosine01", "rbf", "distance"])
def test_graph_cut_is_its_definition(kind, name):
    if name == "distance" and kind in ("one tight far cluster", "all the same"):
        pytest.skip("a root amplifies rounding; nothing to gain")
    x, s, full = make(kind, name, 1)
    rng = np.random.default_rng(0)
    candidates = np.sort(rng.choice(len(x), max(4, len(x) // 2), replace=False))
    n = min(6, len(candidates))
    for lam, covered in ((0.7, ()), (0.0, ()), (2.0, (int(candidates[0]),))):
        function = GraphCut(s, lam, covered=torch.tensor(covered, dtype=torch.int64))
        n_left = min(n, len(candidates) - len(covered))
        for method in ("naive", "auto"):
            function = GraphCut(s, lam, covered=torch.tensor(covered, dtype=torch.int64))
            chosen = greedy(
                function, n_left, candidates=torch.from_numpy(candidates), method=method
            )
            scale = np.abs(full).max() * (1 + len(x))
            check(chosen, lambda a, lam=lam: cut(full, a, lam), n_left, scale, candidates, covered)


def test_a_cosine_geometry_that_was_shifted_sums_the_same():
    x = points("far from the origin", 0)
    full = matrix(x, x, "cosine01")
    geometry = Cosine(x)
    assert geometry.shifted
    sums, own = row_sums(Similarity(geometry, "cosine01"))
    np.testing.assert_allclose(sums.numpy(), full.sum(1), rtol=1e-12)
    np.testing.assert_allclose(own.numpy(), 1, rtol=1e-12)


@pytest.mark.parametrize("name", ["dot", "cosine01"])
def test_gradients_are_never_built(name):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(4, 0.3), size=90)
    h = rng.normal(size=(90, 6))
    full = matrix(gradients(probs, h), gradients(probs, h), name)
    s = Similarity(GradientEmbedding(probs, h), name)
    np.testing.assert_allclose(row_sums(s)[0].numpy(), full.sum(1), rtol=1e-6, atol=1e-5)
    chosen = greedy(GraphCut(s, 1.5), 20, method="naive")
    check(chosen, lambda a: cut(full, a, 1.5), 20, np.abs(full).max() * 90, range(90))


@pytest.mark.parametrize("name", ["dot", "cosine01", "rbf"])
def test_mutual_information_and_conditional_gain(name):
    rng = np.random.default_rng(3)
    x, q = rng.normal(size=(60, 5)), rng.normal(size=(7, 5))
    width = 2.0 if name == "rbf" else None
    geometry = Euclidean(x, shift=False)
    s = Similarity(geometry, name, width=width)
    full, to_q = matrix(x, x, name, width), matrix(x, q, name, width)
    extra = geometry.points(q)
    scale = 60 * np.abs(full).max()
    mutual = greedy(GraphCutMI(s, extra, 0.4), 9)
    check(mutual, lambda a: 2 * 0.4 * to_q[a].sum(), 9, scale, range(60))
    away = greedy(GraphCutCG(s, extra, 0.4, 3.0), 9, method="naive")
    check(away, lambda a: cut(full, a, 0.4) - 2 * 0.4 * 3 * to_q[a].sum(), 9, scale, range(60))


@pytest.mark.parametrize("kind", ["gaussian", "copies", "two scales"])
def test_disparity_sum(kind):
    x, s, d = make(kind, "distance", 2)
    n = min(9, len(x))
    chosen = greedy(DisparitySum(s), n)
    assert chosen.rows[0] == 0
    check(chosen, lambda a: d[np.ix_(a, a)].sum() / 2, n, np.abs(d).max() * n, range(len(x)))


@pytest.mark.parametrize("make", [Precomputed, lambda k: SparseSimilarity(csr_array(k))])
def test_given_matrices(make):
    rng = np.random.default_rng(4)
    x = rng.normal(size=(60, 3))
    k = matrix(x, x, "rbf", 0.7) * 5
    k[k < 0.5] = 0
    chosen = greedy(GraphCut(make(k), 2.0), 12, method="naive")
    check(chosen, lambda a: cut(k, a, 2.0), 12, k.sum(1).max(), range(60))
    chosen = greedy(DisparitySum(make(5 - k)), 12)
    d = 5 - k
    check(chosen, lambda a: d[np.ix_(a, a)].sum() / 2, 12, 60.0, range(60))
    picks = kernel_herding(make(k), 10).rows.tolist()
    for t, row in enumerate(picks):
        score = (t + 1) * k.mean(0) - k[:, picks[:t]].sum(1)
        score[picks[:t]] = -np.inf
        assert score[row] >= score.max() - 1e-5
    to_q = make(k[:, :7])
    chosen = greedy(GraphCutMI(to_q, to_q.represented(), 0.5), 9)
    check(chosen, lambda a: k[a, :7].sum(), 9, 5.0, range(60))
    with pytest.raises(InputError, match="needs similarities of 60 rows to each other"):
        GraphCut(to_q)


def mixture(n=6000, d=24, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(20, d))
    return (centers[rng.integers(0, 20, n)] + 0.4 * rng.normal(size=(n, d))).astype(np.float32)


def slow(base, weight, full, n):
    """Picks of a pairwise function, column by column in float64."""
    score, picks = base.copy(), []
    for _ in range(n):
        row = int(score.argmax())
        picks.append(row)
        score = score + weight * full[row]
        score[picks] = -np.inf
    return picks


@pytest.mark.parametrize("memory", [None, 6000 * 53, 6000 * 90])
def test_columns_fetched_ahead_never_change_a_pick(memory):
    x = mixture()
    full = x.astype(np.float64) @ x.T.astype(np.float64)
    # A cut whose redundancy counts for so much that picks change at every step.
    lam = 400.0
    expected = slow(full.sum(1) - lam * np.diag(full), -2 * lam, full, 80)
    s = Similarity(Euclidean(x, shift=False), "dot")
    function = GraphCut(s, lam, memory=memory)
    assert greedy(function, 80, method="naive").rows.tolist() == expected
    assert function.passes <= (79 if memory == 6000 * 53 else 55)


def test_a_resumed_run_ends_with_the_same_picks():
    x = mixture()
    for name, width in (("dot", None), ("rbf", 1.0)):
        s = Similarity(Euclidean(x, shift=name == "rbf"), name, width=width)
        whole = greedy(GraphCut(s, 200.0), 30, method="naive")
        earlier = Chosen(whole.rows[:11], whole.gains[:11])
        again = greedy(GraphCut(s, 200.0), 30, method="naive", progress=Progress(earlier))
        assert torch.equal(whole.rows, again.rows)
        torch.testing.assert_close(whole.gains, again.gains, rtol=1e-6, atol=1e-6 * 6000)


def test_copies_come_in_the_order_of_their_rows():
    x = np.repeat(mixture(40, 6, 1), 150, 0)
    s = Similarity(Euclidean(x, shift=False), "dot")
    for covered in (None, torch.tensor([3])):
        rows = greedy(GraphCut(s, 50.0, covered=covered), 40, method="naive").rows
        for group in range(40):
            mine = [row for row in rows.tolist() if row // 150 == group]
            start = [row for row in range(group * 150, group * 150 + 150) if row != 3]
            allowed = start if covered is not None else range(group * 150, group * 150 + 150)
            assert mine == list(allowed)[: len(mine)]


def test_a_memory_map_picks_as_memory_does(tmp_path):
    x = mixture().astype(np.float16)
    np.save(tmp_path / "x.npy", x)
    picks = [
        greedy(GraphCut(Similarity(Euclidean(source, shift=False), "cosine01"), 300.0), 20).rows
        for source in (x, str(tmp_path / "x.npy"))
    ]
    assert torch.equal(*picks)


def test_submodular_is_said_only_where_it_holds():
    g = Euclidean([[1.0, 0.0], [0.0, 1.0]], shift=False)
    assert GraphCut(Similarity(g, "cosine01")).submodular
    assert not GraphCut(Similarity(g, "dot")).submodular
    assert GraphCut(Similarity(g, "dot"), 0.0).submodular
    assert not DisparitySum(Similarity(g, "distance")).submodular


def test_bad_knobs_are_named():
    s = Similarity(Euclidean(torch.eye(3), shift=False), "dot")
    with pytest.raises(InputError, match="lam must be a finite number >= 0, got -1"):
        GraphCut(s, -1)
    with pytest.raises(InputError, match="lam must be a finite number > 0, got 0"):
        GraphCutMI(s, s.take(torch.tensor([0])), 0)
    with pytest.raises(InputError, match="nu must be"):
        GraphCutCG(s, s.take(torch.tensor([0])), nu=float("nan"))
    with pytest.raises(InputError, match=r"covered must be rows in 0\.\.2, got 7"):
        GraphCut(s, covered=torch.tensor([7]))
    with pytest.raises(InputError, match="distinct"):
        GraphCut(s, covered=torch.tensor([1, 1]))
    with pytest.raises(ResourceError, match="at least"):
        GraphCut(s, memory=10)
