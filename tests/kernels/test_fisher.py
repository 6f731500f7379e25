"""Fisher forward-backward greedy against the direct formula on full (CD)^2 matrices."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Chosen, Progress, fisher, fisher_blocks
from labelwise.kernels.fisher import fisher_greedy
from labelwise.kernels.fisher_blocks import contrasts, roots


def pool(seed, n=40, c=3, d=4):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(c, 0.5), size=n), rng.normal(size=(n, d))


def information(p, h):
    """(N, CD, CD): the sum over labels of p_c g_c g_c', by definition."""
    found = []
    for prob, x in zip(p.astype(np.float64), h.astype(np.float64)):
        g = [np.kron(np.eye(len(prob))[c] - prob, x) for c in range(len(prob))]
        found.append(sum(prob[c] * np.outer(g[c], g[c]) for c in range(len(prob))))
    return np.array(found)


def by_definition(p, h, n, covered, candidates, lam, oversample):
    every = information(p, h)
    mean, labeled = every.mean(0), len(covered)
    share = n / (labeled + n)
    start = lam * np.eye(len(mean))
    if labeled:
        start = start + (1 - share) * every[list(covered)].mean(0)

    def trace(picks):
        return np.trace(np.linalg.solve(start + share * every[picks].sum(0), mean))

    free = [j for j in candidates if j not in covered]
    picks, gains = [], []
    for _ in range(min(len(free), int(np.ceil(oversample * n)))):
        now = trace(picks)
        fall = {j: now - trace([*picks, j]) for j in free if j not in picks}
        best = max(fall, key=fall.get)
        picks.append(best)
        gains.append(fall[best])
    kept = list(picks)
    while len(kept) > n:
        kept.remove(min(kept, key=lambda j: trace([k for k in kept if k != j])))
    return kept, [gains[picks.index(j)] for j in kept]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lam", [1.0, 0.01])
@pytest.mark.parametrize("oversample", [1.0, 2.0])
def test_fisher_greedy_is_the_direct_formula(seed, lam, oversample, monkeypatch):
    monkeypatch.setattr(fisher, "DRIFT", [-1.0, 1e-7][seed % 2])
    p, h = pool(seed)
    covered = [] if seed == 0 else [1, 5, 7]
    candidates = np.arange(0, 40, 1 + seed % 2)
    rows, gains = by_definition(p, h, 6, covered, candidates.tolist(), lam, oversample)
    chosen = fisher_greedy(
        p,
        h,
        6,
        covered=torch.tensor(covered, dtype=torch.int64),
        candidates=torch.from_numpy(candidates),
        lam=lam,
        oversample=oversample,
    )
    assert chosen.rows.tolist() == rows
    np.testing.assert_allclose(chosen.gains.numpy(), gains, rtol=1e-8)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_roots_are_of_the_information_across_the_ones(classes):
    p = torch.from_numpy(np.random.default_rng(classes).dirichlet(np.full(classes, 0.2), size=50))
    p[0], p[1] = 0, 0
    p[0, 0], p[1, -1] = 1, 1  # certain, at either end
    p[2, 1:] = 0
    p[2] /= p[2].sum()
    across = contrasts(classes)
    whole = p.diag_embed() - p[:, :, None] * p[:, None]
    root = roots(p)
    torch.testing.assert_close(across.T @ across, torch.eye(classes - 1, dtype=torch.float64))
    torch.testing.assert_close(root.mT @ root, across.T @ whole @ across, rtol=0, atol=1e-14)


@pytest.mark.parametrize("held", [True, False])
def test_blocks_and_a_held_copy_do_not_matter(held, monkeypatch):
    p, h = pool(5, n=60, c=4, d=9)
    whole = fisher_greedy(p, h, 8, covered=torch.tensor([3]))
    monkeypatch.setattr(fisher_blocks, "BLOCK_BYTES", 8 * 36 * 7)
    monkeypatch.setattr(fisher, "BLOCK_BYTES", 8 * 36 * 7)
    monkeypatch.setattr(fisher, "_HOLD_BYTES", 1 << 20 if held else 0)
    parts = fisher_greedy(p, h, 8, covered=torch.tensor([3]))
    assert parts.rows.tolist() == whole.rows.tolist()
    torch.testing.assert_close(parts.gains, whole.gains)


@pytest.mark.parametrize("scale", [1e6, 1e8, 1e38, 1e200])
@pytest.mark.parametrize("covered", [[], [0, 1]])
def test_embeddings_that_float64_cannot_tell_from_the_ridge_are_refused(scale, covered):
    p, h = pool(2)
    with pytest.raises(InputError, match="too large for lam"):
        fisher_greedy(p, h * scale, 4, covered=torch.tensor(covered, dtype=torch.int64))
    small = fisher_greedy(p, h / scale, 4, covered=torch.tensor(covered, dtype=torch.int64))
    assert len(small.rows.unique()) == 4


def test_two_classes_certain_points_and_half_precision():
    p, h = pool(9, n=30, c=2, d=5)
    p[:10] = [1.0, 0.0]
    p, h = p.astype(np.float32), h.astype(np.float16)
    rows, _ = by_definition(p, h, 5, [2], list(range(30)), 0.1, 2.0)
    chosen = fisher_greedy(p, h, 5, covered=torch.tensor([2]), lam=0.1)
    assert chosen.rows.tolist() == rows


def test_copies_go_to_the_lowest_row_and_a_run_can_be_resumed():
    p, h = pool(3, n=20)
    p, h = np.repeat(p, 2, 0), np.repeat(h, 2, 0)
    told = []
    whole = fisher_greedy(p, h, 6, progress=Progress(tell=told.append), oversample=2)
    forward = told[-1]
    assert len(forward.rows) == 12
    for row in forward.rows.tolist():
        assert row % 2 == 0 or row - 1 in forward.rows.tolist()
    earlier = Chosen(forward.rows[:5], forward.gains[:5])
    again = fisher_greedy(p, h, 6, progress=Progress(earlier, told.append), oversample=2)
    assert torch.equal(again.rows, whole.rows)
    assert torch.equal(told[-1].rows, forward.rows)


def test_bad_requests_name_the_rule_and_the_arithmetic():
    p, h = pool(0)
    with pytest.raises(InputError, match=r"n must be in 1\.\.40"):
        fisher_greedy(p, h, 41)
    with pytest.raises(InputError, match="lam must be"):
        fisher_greedy(p, h, 2, lam=0)
    with pytest.raises(InputError, match="oversample must be"):
        fisher_greedy(p, h, 2, oversample=0.5)
    with pytest.raises(InputError, match=r"same N, got \(39, 3\) and \(40, 4\)"):
        fisher_greedy(p[1:], h, 2)
    with pytest.raises(ResourceError, match=r"four matrices of \(2 \* 4\)\^2 numbers"):
        fisher_greedy(p, h, 2, memory=1000)
    with pytest.raises(ResourceError, match="999 x 999 blocks for each of 50 candidates"):
        fisher_greedy(np.full((50, 1000), 1e-3), np.ones((50, 2048)), 2)
    earlier = Chosen(torch.tensor([3]), torch.tensor([1.0]))
    with pytest.raises(InputError, match="checkpoint"):
        fisher_greedy(p, h, 2, candidates=torch.arange(5, 9), progress=Progress(earlier))
