"""Farthest-first against its definition, and the data that broke other implementations."""

import numpy as np
import pytest
import torch
from cases import KINDS, gradients, points, squared_distances_to

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Cosine, Euclidean, GradientEmbedding, farthest_first


def by_definition(x, covered, n, candidates=None):
    allowed = np.zeros(len(x), dtype=bool)
    allowed[np.arange(len(x)) if candidates is None else candidates] = True
    allowed[list(covered)] = False
    picks, gains = [], []
    nearest = np.full(len(x), np.inf)
    for row in covered:
        nearest = np.minimum(nearest, squared_distances_to(x, row))
    if not len(covered):
        wide = x.astype(np.float64)
        to_mean = ((wide - wide.mean(0)) ** 2).sum(1)
        free = np.flatnonzero(allowed)
        near = to_mean[free] <= to_mean[free].min() + 1e-12 * to_mean.max()
        picks, gains = [int(free[near][0])], [np.inf]
        nearest = squared_distances_to(x, picks[0])
        allowed[picks[0]] = False
    while len(picks) < n:
        row = int(np.where(allowed, nearest, -np.inf).argmax())
        picks.append(row)
        gains.append(nearest[row])
        allowed[row] = False
        nearest = np.minimum(nearest, squared_distances_to(x, row))
    return picks, gains


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_farthest_first_is_its_definition_for_every_block_size(kind, seed):
    x = points(kind, seed)
    rng = np.random.default_rng(seed)
    covered = rng.choice(len(x), int(rng.integers(1, 4)), replace=False)
    n = int(rng.integers(1, len(x) - len(covered) + 1))
    expected, gains = by_definition(x, covered, n)
    for block in (1, 7, 64, 768):
        chosen = farthest_first(Euclidean(x), n, covered=torch.tensor(covered), block=block)
        assert chosen.rows.tolist() == expected
        np.testing.assert_allclose(chosen.gains.numpy(), gains, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("kind", ["gaussian", "grid of ties", "copies", "one tight far cluster"])
@pytest.mark.parametrize("seed", range(3))
def test_candidates_are_a_fence_and_the_mean_starts_when_nothing_is_covered(kind, seed):
    x = points(kind, seed)
    candidates = np.random.default_rng(seed).permutation(len(x))[: len(x) // 2]
    n = len(candidates)
    expected, _ = by_definition(x, [], n, np.sort(candidates))
    chosen = farthest_first(Euclidean(x), n, candidates=torch.tensor(candidates), block=7)
    assert chosen.rows.tolist() == expected
    assert chosen.gains[0] == np.inf


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_gradients_are_never_built_but_picks_are_theirs(seed, bias):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(4, 0.3), size=90).astype(np.float32)
    h = rng.normal(size=(90, 6)).astype(np.float32)
    expected, gains = by_definition(gradients(probs, h, bias), [3, 5], 40)
    chosen = farthest_first(
        GradientEmbedding(probs, h, bias), 40, covered=torch.tensor([3, 5]), block=16
    )
    assert chosen.rows.tolist() == expected
    np.testing.assert_allclose(chosen.gains.numpy(), gains, rtol=1e-6, atol=1e-12)


def test_cosine_forgets_lengths():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 5))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected, _ = by_definition(unit, [0], 30)
    scaled = x * rng.uniform(0.1, 10, size=(80, 1))
    assert farthest_first(Cosine(scaled), 30, covered=torch.tensor([0])).rows.tolist() == expected


def test_a_memory_map_picks_as_memory_does(tmp_path):
    x = points("far from the origin", 0)
    np.save(tmp_path / "x.npy", x)
    covered = torch.tensor([0])
    here = farthest_first(Euclidean(x), 5, covered=covered).rows
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert torch.equal(here, farthest_first(Euclidean(mapped), 5, covered=covered).rows)
    path = str(tmp_path / "x.npy")
    assert torch.equal(here, farthest_first(Euclidean(path), 5, covered=covered).rows)


def test_larger_pools_agree_with_one_product_a_pick():
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(30, 24))
    x = (centers[rng.integers(0, 30, 6000)] + 0.3 * rng.normal(size=(6000, 24))).astype(np.float32)
    expected, _ = by_definition(x, [0, 1, 2], 400)
    for block in (32, 768):
        chosen = farthest_first(Euclidean(x), 400, covered=torch.tensor([0, 1, 2]), block=block)
        assert chosen.rows.tolist() == expected


def test_bad_requests_name_the_rule_and_the_value():
    g = Euclidean(torch.zeros(5, 2))
    with pytest.raises(InputError, match=r"n must be in 1\.\.4 .* got 5"):
        farthest_first(g, 5, covered=torch.tensor([0]))
    with pytest.raises(InputError, match=r"covered must be rows in 0\.\.4, got 9"):
        farthest_first(g, 1, covered=torch.tensor([9]))
    with pytest.raises(ResourceError, match="at least"):
        farthest_first(g, 1, memory=10)
    with pytest.raises(InputError, match="row 1 is all zeros"):
        Cosine([[1.0, 0.0], [0.0, 0.0]])
