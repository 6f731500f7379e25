"""Robust k-center: what outliers do to it, and the plain rule where there are none."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.strategies import get_strategy, select


def test_without_outliers_it_is_k_center():
    x = np.random.default_rng(0).normal(size=(80, 3)).astype(np.float32)
    plain = select("k_center", 12, embeddings=x, labeled=[3, 9])
    for outliers in (0, 1e-4):
        # A share of 1e-4 of 78 rows with eta = 1 rounds up to a draw of one row.
        picks = select("robust_k_center", 12, embeddings=x, labeled=[3, 9], outliers=outliers)
        assert picks.rows.tolist() == plain.rows.tolist()


def test_the_defaults_of_robust_k_center():
    options = get_strategy("robust_k_center").options
    assert options == {"outliers": 1e-4, "eta": 1.0, "metric": "euclidean"}


def test_the_cosine_looks_at_directions_only():
    x = np.array([[1.0, 0.0], [100.0, 1.0], [0.0, 0.1], [50.0, 0.0]])
    for metric, row in (("euclidean", 1), ("cosine", 2)):
        picks = select("robust_k_center", 1, embeddings=x, labeled=[0], metric=metric)
        assert picks.rows.tolist() == [row]


@pytest.mark.parametrize("seed", range(10))
def test_each_pick_is_among_the_farthest_few(seed):
    x = np.random.default_rng(seed).normal(size=(60, 2))
    picks = select("robust_k_center", 10, embeddings=x, labeled=[0], outliers=3, eta=0.5, seed=seed)
    centers, places = [0], []
    for row, score in zip(picks.rows.tolist(), picks.scores.tolist(), strict=True):
        distance = ((x[:, None] - x[centers]) ** 2).sum(2).min(1)
        assert score == pytest.approx(distance[row], rel=1e-6)
        places.append(int((distance > distance[row]).sum()))
        centers.append(row)
    assert max(places) < 5  # ceil(1.5 * 3)
    assert max(places) > 0


def test_stray_points_do_not_take_every_pick():
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.normal(size=(400, 2)), 1e3 * rng.normal(size=(4, 2))])
    labeled = [0]
    assert set(select("k_center", 4, embeddings=x, labeled=labeled)) == {400, 401, 402, 403}
    strays = [
        sum(
            row >= 400
            for row in select(
                "robust_k_center", 4, embeddings=x, labeled=labeled, outliers=4, eta=9.0, seed=seed
            )
        )
        for seed in range(20)
    ]
    assert np.mean(strays) < 1  # each of the 40 farthest is as likely


def test_options_out_of_range():
    x = np.eye(4)
    with pytest.raises(InputError, match="eta"):
        select("robust_k_center", 1, embeddings=x, labeled=[0], outliers=1, eta=0)
    with pytest.raises(InputError, match="eta must be > 0 and finite, got inf"):
        select("robust_k_center", 1, embeddings=x, labeled=[0], outliers=1, eta=np.inf)
    with pytest.raises(InputError, match="outliers"):
        select("robust_k_center", 1, embeddings=x, labeled=[0], outliers=9)
    with pytest.raises(InputError, match="metric must be known"):
        select("robust_k_center", 1, embeddings=x, metric="cosin")
    for name in ("k_center", "robust_k_center"):
        for metric in (3, ["cosine"], None):
            with pytest.raises(InputError, match="metric must be known, got"):
                select(name, 1, embeddings=x, metric=metric)
