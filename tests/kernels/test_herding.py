"""Herding against its definition: the smallest distance, not the widely copied largest."""

import numpy as np
import pytest
import torch
from cases import KINDS, gradients, points

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Chosen, Euclidean, GradientEmbedding, Progress, Similarity
from labelwise.kernels.herding import herding, kernel_herding


def distances(x, picked):
    """(N,) squared distances to (t + 1) mu - sum of the picks, from differences."""
    mean = x.mean(0)
    target = mean - (x[picked] - mean).sum(0)  # (t + 1) mu - sum, without cancellation
    return ((x - target) ** 2).sum(1)


def check(chosen, x, candidates, covered=()):
    x = x.astype(np.float64)
    x = x - x[0]  # exact: herding does not depend on the origin, rounding does
    picked = list(covered)
    size = ((x - x.mean(0)) ** 2).sum(1).max()
    mean = x.mean(0)
    for row, gain in zip(chosen.rows.tolist(), chosen.gains.tolist()):
        d = distances(x, picked)
        open_rows = [j for j in candidates if j not in picked]
        assert row in open_rows
        slack = 1e-9 * (1 + len(picked)) ** 2 * size + 1e-6 * np.abs(mean).max() * 1e-9
        assert d[row] <= min(d[j] for j in open_rows) + 1e-5 * slack + 1e-7 * size
        before = ((x[picked] - mean).sum(0) ** 2).sum()
        after = ((x[[*picked, row]] - mean).sum(0) ** 2).sum()
        assert gain == pytest.approx((before - after) / 2, abs=1e-5 * size * (1 + len(picked)))
        picked.append(row)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_herding_is_its_definition(kind, seed):
    x = points(kind, seed)
    rng = np.random.default_rng(seed)
    candidates = np.sort(rng.permutation(len(x))[: max(4, len(x) // 2)])
    covered = tuple(candidates[:2].tolist()) if seed == 1 else ()
    n = min(12, len(candidates) - len(covered))
    chosen = herding(
        Euclidean(x),
        n,
        candidates=torch.from_numpy(candidates),
        covered=torch.tensor(covered, dtype=torch.int64),
    )
    check(chosen, x, candidates, covered)


def test_the_mean_of_the_picks_follows_the_pools():
    x = np.random.default_rng(0).normal(size=(3000, 8))
    picks = herding(Euclidean(x), 50).rows.numpy()
    assert np.linalg.norm(x[picks].mean(0) - x.mean(0)) < 0.02  # 50 at random: about 0.4


def test_gradients_are_never_built():
    rng = np.random.default_rng(0)
    probs, h = rng.dirichlet(np.full(4, 0.3), size=300), rng.normal(size=(300, 6))
    chosen = herding(GradientEmbedding(probs, h), 40)
    check(chosen, gradients(probs, h), range(300))


def test_one_pass_serves_many_picks_and_none_changes():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(30, 32))
    x = (centers[rng.integers(0, 30, 8000)] + 0.3 * rng.normal(size=(8000, 32))).astype(np.float32)
    wide = x.astype(np.float64)
    expected = []
    for _ in range(150):
        d = distances(wide, expected)
        d[expected] = np.inf
        expected.append(int(d.argmin()))
    # one column at a time, some, and as many as are of use
    for memory in (8000 * (53 + 64), 8000 * (90 + 64), None):
        chosen = herding(Euclidean(x), 150, memory=memory)
        assert chosen.rows.tolist() == expected
    earlier = Chosen(chosen.rows[:60], chosen.gains[:60])
    again = herding(Euclidean(x), 150, progress=Progress(earlier))
    assert again.rows.tolist() == expected
    half = herding(Euclidean(x), 90, covered=torch.tensor(expected[:60]))
    assert half.rows.tolist() == expected[60:]


@pytest.mark.parametrize("name", ["rbf", "dot", "cosine01"])
@pytest.mark.parametrize("rule", ["inner", "distance"])
def test_kernel_herding_is_its_definition(name, rule):
    x = points("gaussian", 1).astype(np.float64)
    s = Similarity(Euclidean(x, shift=False), name, width=2.0 if name == "rbf" else None)
    units = x / np.linalg.norm(x, axis=1, keepdims=True)
    k = {
        "rbf": np.exp(-((x[:, None] - x[None]) ** 2).sum(2) / 8),
        "dot": x @ x.T,
        "cosine01": (1 + units @ units.T) / 2,
    }[name]
    n = len(x) // 2
    chosen = kernel_herding(s, n, rule=rule)
    picked = []
    for row in chosen.rows.tolist():
        score = (len(picked) + 1) * k.mean(0) - k[:, picked].sum(1)
        if rule == "distance":
            score -= np.diag(k) / 2
        score[picked] = -np.inf
        assert score[row] >= score.max() - 1e-5 * np.abs(k).max()
        picked.append(row)
    discrepancy = k.mean() - 2 * k[picked].mean() + k[np.ix_(picked, picked)].mean()
    own = 0 if rule == "distance" else np.diag(k)[picked].sum() / 2
    total = float(chosen.gains.sum()) - own
    assert -2 * total / n**2 == pytest.approx(discrepancy, abs=1e-5 * np.abs(k).max())


def test_bad_requests_name_the_rule_and_the_value():
    g = Euclidean(torch.zeros(5, 2))
    with pytest.raises(InputError, match=r"n must be in 1\.\.5"):
        herding(g, 6)
    with pytest.raises(ResourceError, match="at least"):
        herding(g, 1, memory=10)
    with pytest.raises(InputError, match="rule must be"):
        kernel_herding(Similarity(g, "rbf", width=1.0), 1, rule="argmax")
