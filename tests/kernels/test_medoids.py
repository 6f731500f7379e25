"""Exchanges of medoids against all of them written out."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Euclidean, Generator, Similarity
from labelwise.kernels.medoids import _State, swap_medoids


def case(seed, size=60, n=5, fixed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, 3)) + 3 * rng.normal(size=(4, 3))[rng.integers(0, 4, size)]
    distance = np.sqrt(((x[:, None] - x) ** 2).sum(2))
    rows = torch.from_numpy(rng.permutation(size)[: n + fixed])
    return Similarity(Euclidean(x), "distance"), distance, rows[:n], rows[n:]


def cost(distance, *medoids):
    return distance[:, np.concatenate(medoids)].min(1).sum()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fixed", [0, 3])
def test_every_change_is_that_of_its_exchange(seed, fixed):
    s, distance, medoids, stay = case(seed, fixed=fixed)
    others = np.setdiff1d(np.arange(60), torch.cat([medoids, stay]))
    state = _State(s, medoids, stay if fixed else None)
    found = state._changes(torch.from_numpy(distance[:, others]).float())
    before = cost(distance, medoids, stay)
    for m in range(5):
        for j, row in enumerate(others):
            exchanged = medoids.numpy().copy()
            exchanged[m] = row
            change = cost(distance, exchanged, stay) - before
            assert float(found[m, j]) == pytest.approx(change, abs=1e-4)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("fixed", [0, 3])
def test_no_exchange_is_left(seed, fixed, monkeypatch):
    monkeypatch.setattr("labelwise.kernels.medoids._HELD", 60 * 16)  # several blocks
    s, distance, medoids, stay = case(seed, fixed=fixed)
    allowed = np.setdiff1d(np.arange(0, 50), stay)
    found = swap_medoids(
        s,
        medoids,
        generator=Generator(seed),
        fixed=stay if fixed else None,
        candidates=torch.from_numpy(allowed),
        passes=50,
    )
    rows = found.chosen.rows.numpy()
    assert found.settled
    assert found.swaps > 0
    assert len(set(rows.tolist())) == 5
    end = cost(distance, rows, stay)
    assert end < cost(distance, medoids, stay)
    assert found.cost == pytest.approx(end, rel=1e-5)
    for m in range(5):
        kept = np.delete(rows, m)
        for row in np.setdiff1d(allowed, rows):
            assert cost(distance, [*kept, row], stay) > end * (1 - 1e-5)
        missed = cost(distance, kept, stay) - end
        assert float(found.chosen.gains[m]) == pytest.approx(missed, rel=1e-4)
    assert (found.chosen.gains.diff() <= 0).all()


def test_one_medoid_is_the_row_of_least_sum():
    s, distance, medoids, _ = case(3, n=1)
    found = swap_medoids(s, medoids, generator=Generator(0))
    assert found.chosen.rows.tolist() == [int(distance.sum(0).argmin())]
    assert found.chosen.gains.tolist() == [np.inf]


def test_no_passes_no_exchanges():
    s, distance, medoids, _ = case(1)
    found = swap_medoids(s, medoids, generator=Generator(0), passes=0)
    assert sorted(found.chosen.rows.tolist()) == sorted(medoids.tolist())
    assert found.cost == pytest.approx(cost(distance, medoids), rel=1e-5)


def test_refusals():
    s, _, medoids, _ = case(0)
    with pytest.raises(InputError, match="medoids need distances"):
        swap_medoids(Similarity(s.geometry, "rbf", width=1.0), medoids, generator=Generator(0))
    with pytest.raises(ResourceError, match="memory must be at least"):
        swap_medoids(s, medoids, generator=Generator(0), memory=1000)
