"""Herding against its definition."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.strategies import select


def by_definition(x, labeled, n, allowed):
    """The row that brings the sum nearest to as many times the mean, one at a time."""
    mean, taken = x.mean(0), list(labeled)
    for t in range(len(labeled), len(labeled) + n):
        off = np.linalg.norm((t + 1) * mean - x[taken].sum(0) - x, axis=1)
        off[[i for i in range(len(x)) if i in taken or i not in allowed]] = np.inf
        taken.append(int(off.argmin()))
    return taken[len(labeled) :]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("normalize", [False, True])
def test_herding_is_its_definition(seed, normalize):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(90, 4)) + 2
    labeled, allowed = rng.permutation(90)[: 3 * seed], set(range(70))
    picks = select(
        "herding", 15, embeddings=x, labeled=labeled, candidates=range(70), normalize=normalize
    )
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if normalize else x
    assert picks.rows.tolist() == by_definition(x, labeled, 15, allowed)


@pytest.mark.parametrize("seed", range(3))
def test_with_a_kernel_the_discrepancy_is_least_at_every_pick(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(60, 2))
    kernel = np.exp(-((x[:, None] - x) ** 2).sum(2) / (2 * 0.7**2))

    def discrepancy(rows):
        return kernel[np.ix_(rows, rows)].mean() - 2 * kernel[rows].mean()

    picks = select("herding", 10, embeddings=x, sigma=0.7).rows.tolist()
    for t in range(10):
        others = [discrepancy([*picks[:t], j]) for j in range(60) if j not in picks[:t]]
        assert discrepancy(picks[: t + 1]) == pytest.approx(min(others), abs=1e-7)
    assert picks[:1] == [int(kernel.sum(0).argmax())]


def test_bad_options():
    with pytest.raises(InputError, match="sigma must be a positive number"):
        select("herding", 1, embeddings=np.eye(3), sigma=0)


@pytest.mark.parametrize("sigma", [1e-4, 1e-30])
def test_a_row_is_like_itself_and_its_copies_however_narrow_the_kernel(sigma):
    x = np.random.default_rng(0).normal(size=(30, 8)) + 3
    x[20:] = x[:10]
    picks = select("herding", 8, embeddings=x, sigma=sigma)
    count = np.where((np.arange(30) < 10) | (np.arange(30) >= 20), 2, 1)
    mean, total = count / 30, (count / 30).mean()
    copy = np.arange(30) % 20

    def value(rows):
        t = len(rows)
        alike = (copy[rows][:, None] == copy[rows]).sum()
        return -(t * t * total - 2 * t * mean[rows].sum() + alike) / 2

    for t in range(8):
        rows = picks.rows.tolist()[:t]
        gains = [value([*rows, j]) - value(rows) for j in range(30) if j not in rows]
        assert picks.scores[t] == pytest.approx(max(gains), abs=1e-6)
