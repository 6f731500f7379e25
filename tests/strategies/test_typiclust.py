"""TypiClust: typicality, the order of clusters, and what the authors' code breaks on."""

import numpy as np
import pytest
import torch

from labelwise.evidence import Rows
from labelwise.kernels import Generator, derive
from labelwise.strategies import get_strategy, select
from labelwise.strategies.clusters import cluster, unit_rows
from labelwise.strategies.typiclust import typicality


def typicality_by_definition(x, k, squared=True):
    if k < 1:
        return np.zeros(len(x))
    distance = ((x[:, None] - x) ** 2).sum(2)
    distance = distance if squared else np.sqrt(distance)
    np.fill_diagonal(distance, np.inf)
    return 1 / (np.sort(distance, 1)[:, :k].mean(1) + 1e-5)


def by_definition(x, member, labeled, n, noise, neighbors=20, min_size=5):
    """The authors' loop, in float64, on clusters that are given; ties by noise."""
    counts = {c: (member == c).sum() for c in np.unique(member)}
    have = {c: sum(member[row] == c for row in labeled) for c in counts}
    order = sorted((c for c in counts if counts[c] > min_size), key=lambda c: (have[c], -counts[c]))
    taken, picks, turn = set(labeled), [], 0
    while len(picks) < n:
        c = order[turn % len(order)]
        turn += 1
        inside = np.array([i for i in np.flatnonzero(member == c) if i not in taken])
        if len(inside):
            score = typicality_by_definition(x[inside], min(neighbors, len(inside) // 2))
            ties = inside[score >= score.max() * (1 - 1e-9)]
            picks.append(int(ties[noise[ties].argmin()]))
            taken.add(picks[-1])
    return picks


@pytest.mark.parametrize("distance", ["squared", "plain"])
@pytest.mark.parametrize("dense", [2048, 8])
def test_typicality_is_its_definition(distance, dense, monkeypatch):
    monkeypatch.setattr("labelwise.strategies.typiclust._DENSE", dense)
    x = np.random.default_rng(0).normal(size=(40, 3))
    expected = typicality_by_definition(x, 7, distance == "squared")
    np.testing.assert_allclose(typicality(x, 7, distance), expected, rtol=1e-9)
    assert typicality(x[:1], 0).tolist() == [0.0]


def test_copies_and_pairs_are_exact_ties():
    x = np.random.default_rng(0).normal(size=(2, 5)) * 1e3 + 1e3
    pair = typicality(x, 1)
    assert pair[0] == pair[1]
    middles = np.random.default_rng(1).normal(size=(10, 64)) * 9
    pairs = np.concatenate([middles, middles + np.random.default_rng(2).normal(size=(10, 64))])
    mutual = typicality(pairs, 1)
    assert mutual[:10].tolist() == mutual[10:].tolist()
    assert (typicality(np.repeat(x, 4, axis=0), 3) == 1 / 1e-5).all()


@pytest.mark.parametrize("seed", range(6))
def test_typiclust_is_its_definition(seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(150, 4)).astype(np.float32)
    labeled = rng.permutation(150)[: seed * 2].tolist()
    n = 9 + 4 * seed
    k = n + len(labeled)
    generator = Generator(derive(seed, "typiclust"))
    rows = unit_rows(Rows(x))
    minibatch = 5000 if k > 50 else None
    member = cluster(rows, k, generator=generator, minibatch=minibatch).assignment.numpy()
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    # Without clusters of 5 and fewer nothing here would test that they step back.
    assert seed < 3 or (np.bincount(member)[np.unique(member)] <= 5).any()
    noise = generator.child("ties").uniform(150)
    picks = select("typiclust", n, embeddings=x, labeled=labeled, seed=seed)
    assert picks.rows.tolist() == by_definition(unit, member, labeled, n, noise)


def planted(sizes, rng, spread=0.5):
    middle = np.stack([np.cos(np.arange(len(sizes))), np.sin(np.arange(len(sizes)))], 1) * 100
    member = np.repeat(np.arange(len(sizes)), sizes)
    return member, (middle[member] + rng.normal(size=(len(member), 2)) * spread)


def test_the_defaults_are_those_of_the_authors():
    options = get_strategy("typiclust").options
    assert options == {
        "neighbors": 20,
        "max_clusters": 500,
        "min_size": 5,
        "distance": "squared",
        "normalize": True,
    }


def test_unlabeled_clusters_come_first_then_large_ones():
    member, x = planted([30, 20, 12, 10], np.random.default_rng(0))
    picks = select("typiclust", 3, embeddings=x, labeled=[0], normalize=False)
    assert member[picks.rows].tolist() == [1, 2, 3]
    assert not picks.notes


def test_small_clusters_come_last_and_are_told_of():
    member, x = planted([8, 4], np.random.default_rng(0))
    picks = select("typiclust", 10, embeddings=x, max_clusters=2, normalize=False)
    assert member[picks.rows].tolist() == [0] * 8 + [1] * 2
    assert picks.notes == ("2 of 10 picks come from clusters of at most 5 rows",)


def test_the_last_row_of_a_cluster_has_no_neighbors_and_is_still_picked():
    _, x = planted([8, 7], np.random.default_rng(0))
    picks = select("typiclust", 15, embeddings=x, max_clusters=2, normalize=False)
    assert sorted(picks) == list(range(15))
    assert sorted(picks.scores)[:2] == [0.0, 0.0]


def test_squared_distances_are_the_default_and_change_the_picks():
    line = np.array([[0.0], [1.0], [2.1], [3.0], [10.0], [12.0], [12.1], [12.4], [12.9], [19.0]])
    scores = {
        d: select("typiclust", 1, embeddings=line, normalize=False, neighbors=3, distance=d).scores
        for d in ("squared", "plain")
    }
    default = select("typiclust", 1, embeddings=line, normalize=False, neighbors=3)
    assert default.scores == scores["squared"] != scores["plain"]


def test_length_does_not_matter_unless_asked():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    longer = x * rng.uniform(0.5, 20, size=(80, 1))
    a = select("typiclust", 6, embeddings=x)
    assert a.rows.tolist() == select("typiclust", 6, embeddings=longer).rows.tolist()
    b = select("typiclust", 6, embeddings=longer, normalize=False)
    assert a.rows.tolist() != b.rows.tolist()


def test_neighbors_are_unlabeled_but_only_candidates_are_picked():
    _, x = planted([30], np.random.default_rng(0))
    free = torch.arange(20, 30)
    picks = select("typiclust", 1, embeddings=x, max_clusters=1, normalize=False, candidates=free)
    score = typicality_by_definition(x, 15)
    assert picks.rows.tolist() == [20 + int(score[20:].argmax())]
    np.testing.assert_allclose(picks.scores, score[20:].max(), rtol=1e-4)
