"""Matching pursuit against its definition with SciPy's non-negative least squares."""

import numpy as np
import pytest
import torch
from cases import KINDS, gradients, points
from scipy.optimize import nnls

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Chosen, Euclidean, GradientEmbedding, Progress
from labelwise.kernels.matching_pursuit import Residual, matching_pursuit
from labelwise.kernels.nonnegative import NonNegativeFit


def fit(g, b, lam, signed=False):
    """argmin |b - x' g|^2 + lam |x|^2, with x >= 0 unless signed."""
    a = np.vstack([g.T, np.sqrt(lam) * np.eye(len(g))])
    right = np.concatenate([b, np.zeros(len(g))])
    return np.linalg.lstsq(a, right, rcond=None)[0] if signed else nnls(a, right)[0]


def check(found, g, b, lam=0.0, signed=False, candidates=None):
    """Every pick has the largest inner product with the residual of the picks before it."""
    scale = np.linalg.norm(b) * np.linalg.norm(g, axis=1).max()
    picked = []
    allowed = np.zeros(len(g), dtype=bool)
    allowed[np.arange(len(g)) if candidates is None else candidates] = True
    for row, gain in zip(found.rows.tolist(), found.gains.tolist()):
        r = b - (fit(g[picked], b, lam, signed) @ g[picked] if picked else 0)
        gains = np.where(allowed, g @ r, -np.inf)
        assert gain == pytest.approx(gains[row], abs=1e-6 * scale)
        assert gains[row] >= gains.max() - 1e-6 * scale
        allowed[row] = False
        picked.append(row)
    x = found.weights.numpy()
    assert (x >= 0).all()
    best = fit(g[picked], b, lam)
    cost = [((b - w @ g[picked]) ** 2).sum() + lam * (w**2).sum() for w in (x, best)]
    assert cost[0] <= cost[1] + 1e-7 * (b**2).sum()
    left = np.linalg.norm(b - x @ g[picked]) / np.linalg.norm(b)
    assert found.residual == pytest.approx(left, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lam", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(2))
def test_matching_pursuit_is_its_definition(kind, lam, seed):
    x = points(kind, seed)
    g = x.astype(np.float32).astype(np.float64)
    found = matching_pursuit(Euclidean(x, shift=False), min(8, len(x)), lam=lam)
    check(found, g, g.mean(0), lam)


@pytest.mark.parametrize("lam", [0.0, 0.5])
def test_signed_while_picking_as_published(lam):
    rng = np.random.default_rng(0)
    g = rng.normal(size=(200, 30)).astype(np.float32)
    found = matching_pursuit(Euclidean(g, shift=False), 25, lam=lam, refit="signed")
    wide = g.astype(np.float64)
    check(found, wide, wide.mean(0), lam, signed=True)


@pytest.mark.parametrize("memory", [None, 3000 * 40 + 3000 * 64 + 3000 * 4 * 30 + 10**5])
def test_gradients_a_target_and_columns_that_do_not_fit(memory):
    rng = np.random.default_rng(1)
    probs, h = rng.dirichlet(np.full(5, 0.3), size=3000), rng.normal(size=(3000, 6))
    probs, h = probs.astype(np.float32), h.astype(np.float32)
    geometry = GradientEmbedding(probs, h)
    target = geometry.take(torch.arange(40))
    candidates = np.arange(100, 3000)
    found = matching_pursuit(
        geometry, 35, target=target, candidates=torch.from_numpy(candidates), memory=memory
    )
    g = gradients(probs, h)
    check(found, g, g[:40].mean(0), candidates=candidates)


def test_one_pass_serves_many_picks():
    rng = np.random.default_rng(2)
    centers = rng.normal(size=(30, 40))
    g = (centers[rng.integers(0, 30, 9000)] + 0.3 * rng.normal(size=(9000, 40))).astype(np.float32)
    geometry = Euclidean(g, shift=False)
    found = matching_pursuit(geometry, 60)
    check(found, g.astype(np.float64), g.astype(np.float64).mean(0))
    earlier = Chosen(found.rows[:20], found.gains[:20])
    again = matching_pursuit(geometry, 60, progress=Progress(earlier))
    assert torch.equal(again.rows, found.rows)
    torch.testing.assert_close(again.weights, found.weights)
    function = Residual(geometry)
    for row, gain in zip(found.rows.tolist(), found.gains.tolist()):
        function.gains()
        function.add(row, gain)
    assert function._columns.passes < 45


def test_copies_share_no_weight_and_useless_picks_have_none():
    g = Euclidean([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, -1.0]], shift=False)
    found = matching_pursuit(g, 4, target=g.points([[2.0, 1.0]]))
    assert found.rows.tolist()[:2] == [0, 1]
    assert found.weights.tolist() == [2.0, 0.0, 0.0, 0.0]
    assert found.gains[0] > 0
    assert (found.gains[1:] <= 1e-12).all()


@pytest.mark.parametrize("seed", range(30))
def test_non_negative_fits_are_scipys_at_every_step(seed):
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(25, int(rng.integers(2, 20))))
    if seed % 3 == 0:
        g[5:10] = g[:5]
    b, lam = g.mean(0) + 0.3 * rng.normal(size=g.shape[1]), [0.0, 0.1][seed % 2]
    mine = NonNegativeFit(lam)
    for t in range(len(g)):
        mine.add(torch.from_numpy(g[: t + 1] @ g[t]), float(g[t] @ b))
        x = mine.weights.numpy()
        best = fit(g[: t + 1], b, lam)
        assert (x >= 0).all()
        cost = [((b - w @ g[: t + 1]) ** 2).sum() + lam * (w**2).sum() for w in (x, best)]
        assert cost[0] <= cost[1] + 1e-10 * (b**2).sum()


def test_bad_requests_name_the_rule_and_the_value():
    g = Euclidean(torch.eye(3), shift=False)
    with pytest.raises(InputError, match=r"n must be in 1\.\.3"):
        matching_pursuit(g, 4)
    with pytest.raises(InputError, match="target is 0"):
        matching_pursuit(g, 1, target=g.points([[0.0, 0.0, 0.0]]))
    with pytest.raises(InputError, match="at least one point"):
        matching_pursuit(g, 1, target=g.points(np.zeros((0, 3))))
    with pytest.raises(InputError, match="lam must be"):
        matching_pursuit(g, 1, lam=-1)
    with pytest.raises(InputError, match="refit must be known"):
        matching_pursuit(g, 1, refit="nnls")
    with pytest.raises(InputError, match="shift=False"):
        matching_pursuit(Euclidean(100 + torch.eye(3)), 1)
    with pytest.raises(ResourceError, match="at least"):
        matching_pursuit(g, 1, memory=100)
