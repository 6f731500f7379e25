"""k-center greedy against its definition, one pick at a time."""

import numpy as np
import pytest
from tests.kernels.test_partition import twin

from labelwise.errors import InputError
from labelwise.kernels import Generator, derive
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


@pytest.mark.parametrize("known", [0, 7])
def test_in_partitions_each_part_covers_itself(known):
    rng = np.random.default_rng(0)
    x, labeled = rng.normal(size=(90, 3)).astype(np.float32), rng.permutation(90)[:known]
    candidates = np.arange(70)
    call = {"embeddings": x, "labeled": labeled, "candidates": candidates, "seed": 3}
    picks = select("k_center", 11, partitions=4, **call)
    generator = Generator(derive(3, "k_center"))
    assert picks.rows.tolist() == twin(x, 11, 4, generator, candidates, labeled, "split")
    assert picks.rows.tolist() != select("k_center", 11, **call).rows.tolist()


@pytest.mark.parametrize("name", ["k_center", "badge"])
def test_partitions_that_cannot_be(name):
    call = {"embeddings": np.eye(6), "probs": np.full((6, 2), 0.5)}
    for partitions in (0, 2.5, True):
        with pytest.raises(InputError, match="partitions must be a whole number >= 1"):
            select(name, 2, partitions=partitions, **call)
    with pytest.raises(InputError, match=r"parts must be in 1\.\.6"):
        select(name, 2, partitions=7, **call)
    with pytest.raises(InputError, match="leave partitions out"):
        select(name, 2, partitions=2, engine="ray", **call)


@pytest.mark.parametrize("name", ["k_center", "robust_k_center", "kmeans", "kmedoids", "herding"])
def test_embeddings_that_cannot_be_measured_are_refused_by_name(name):
    x = np.random.default_rng(0).normal(size=(30, 3))
    with pytest.raises(InputError, match="embeddings: row 0 is longer than"):
        select(name, 3, embeddings=x * 1e20)
    with pytest.raises(InputError, match="embeddings: every row is shorter than"):
        select(name, 3, embeddings=x * 1e-20)
