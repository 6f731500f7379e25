"""k-center greedy against its definition, one pick at a time."""

import numpy as np
import pytest

from labelwise.strategies import select


def by_definition(x, labeled, n):
    """Farthest from all labeled and picked rows; nearest the mean where there are none."""
    x = x.astype(np.float64)
    centers, picks, gains = list(labeled), [], []
    for _ in range(n):
        if centers:
            distance = ((x[:, None] - x[centers]) ** 2).sum(2).min(1)
        else:
            distance = -((x - x.mean(0)) ** 2).sum(1)
        distance[centers] = -np.inf
        picks.append(int(distance.argmax()))
        gains.append(distance[picks[-1]] if centers else np.inf)
        centers.append(picks[-1])
    return picks, gains


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("start", [0, 4])
def test_k_center_is_its_definition(seed, start):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(80, 3)).astype(np.float32)
    labeled = rng.permutation(80)[:start]
    picks = select("k_center", 15, embeddings=x, labeled=labeled)
    rows, gains = by_definition(x, labeled, 15)
    assert picks.rows.tolist() == rows
    np.testing.assert_allclose(picks.scores, gains, rtol=1e-6)


def test_the_cosine_looks_at_directions_only():
    x = np.array([[1.0, 0.0], [100.0, 1.0], [0.0, 0.1], [50.0, 0.0]])
    assert select("k_center", 1, embeddings=x, labeled=[0]).rows.tolist() == [1]
    assert select("k_center", 1, embeddings=x, labeled=[0], metric="cosine").rows.tolist() == [2]


def test_candidates_are_kept_to():
    x = np.arange(10.0)[:, None]
    picks = select("k_center", 2, embeddings=x, labeled=[0], candidates=range(6))
    assert picks.rows.tolist() == [5, 2]
