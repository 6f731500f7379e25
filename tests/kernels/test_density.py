"""Densities from neighbors and from hashes; natural breaks against trying everything."""

from itertools import combinations

import numpy as np
import pytest
import torch
from cases import KINDS, points
from hypothesis import given, settings
from hypothesis import strategies as st

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import (
    Concatenated,
    Cosine,
    Euclidean,
    Generator,
    Progress,
    Subset,
    hashed_density,
    natural_breaks,
    neighbor_density,
)


def by_definition(x, k):
    x = x.astype(np.float64)
    distance = np.sqrt(((x[:, None] - x[None]) ** 2).sum(-1))
    np.fill_diagonal(distance, np.inf)
    with np.errstate(divide="ignore"):
        return k / np.sort(distance, 1)[:, :k].mean(1)


@pytest.mark.parametrize("kind", KINDS)
def test_density_is_its_definition(kind):
    x = points(kind, 0)
    np.testing.assert_allclose(neighbor_density(x, 3), by_definition(x, 3), rtol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_one_window_over_all_points_is_exact_up_to_rounding(kind):
    x = points(kind, 0)
    found = hashed_density(x, 3, generator=Generator(0), tables=2, window=1000)
    true = by_definition(x, 3)
    assert (found.numpy() <= true * (1 + 1e-3)).all()
    if kind != "one tight far cluster":  # single precision tells those apart no more
        np.testing.assert_allclose(found, true, rtol=1e-3)


def clusters(n=4000, d=16, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(40, d))
    scale = rng.uniform(0.05, 0.5, size=40)
    which = rng.integers(0, 40, n)
    return (centers[which] + scale[which, None] * rng.normal(size=(n, d))).astype(np.float32)


def test_hashed_densities_are_never_too_large_and_mostly_right():
    x = clusters()
    true = neighbor_density(x, 10).numpy()
    shares = []
    for tables in (1, 4, 8):
        found = hashed_density(x, 10, generator=Generator(0), tables=tables, window=128).numpy()
        assert (found <= true * (1 + 1e-3)).all()
        shares.append((found / true).mean())
    assert shares[0] < shares[1] < shares[2]
    assert shares[2] > 0.97
    order = np.corrcoef(np.argsort(np.argsort(found)), np.argsort(np.argsort(true)))
    assert order[0, 1] > 0.99


def test_hashes_depend_on_seed_and_items_alone(monkeypatch):
    x = clusters(600)
    order = np.random.default_rng(1).permutation(600)

    def run(x, ids, seed=0):
        return hashed_density(x, 4, generator=Generator(seed, ids), window=32, tables=2)

    plain = run(x, np.arange(600))
    torch.testing.assert_close(run(x[order], order), plain[order], rtol=1e-5, atol=0)
    monkeypatch.setattr(Euclidean, "block_size", 37)
    monkeypatch.setattr("labelwise.kernels.density._WINDOWS_BYTES", 1)
    assert torch.equal(run(x, np.arange(600)), plain)
    assert not torch.equal(run(x, np.arange(600), seed=1), plain)


def test_hashing_works_in_parts_directions_and_files(tmp_path):
    x = clusters(500)
    np.save(tmp_path / "x.npy", x.astype(np.float16))
    rows = torch.arange(0, 500, 2)
    some = Subset(Euclidean(tmp_path / "x.npy", hold=0), rows)
    found = hashed_density(some, 4, generator=Generator(0), window=600)
    np.testing.assert_allclose(found, by_definition(x[::2].astype(np.float16), 4), rtol=1e-3)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = hashed_density(Cosine(x), 4, generator=Generator(0), window=600)
    np.testing.assert_allclose(found, by_definition(unit, 4), rtol=1e-3)


def test_progress_is_told_by_tables():
    shares = []
    hashed_density(
        clusters(50),
        2,
        generator=Generator(0),
        tables=4,
        progress=Progress(passing=shares.append),
    )
    assert shares == [0.25, 0.5, 0.75, 1]


def test_nonsense_is_refused():
    x = np.random.default_rng(0).normal(size=(30, 3))
    g = Generator(0)
    for k in (0, 30):
        with pytest.raises(InputError, match=r"k must be in 1\.\.29"):
            hashed_density(x, k, generator=g)
    for options in ({"tables": 0}, {"bits": 0}, {"bits": 63}, {"window": 7}):
        with pytest.raises(InputError, match="window >= 8"):
            hashed_density(x, 3, generator=g, **options)
    with pytest.raises(InputError, match="Concatenated of 2 factors"):
        hashed_density(Concatenated(Euclidean(x), Euclidean(x)), 3, generator=g)
    for call in (neighbor_density, lambda *a, **o: hashed_density(*a, generator=g, **o)):
        with pytest.raises(ResourceError, match=r"memory must be at least"):
            call(x, 3, memory=1000)


def deviation(values, labels):
    return sum(
        ((values[labels == g] - values[labels == g].mean()) ** 2).sum() for g in np.unique(labels)
    )


def least_deviation(values, groups):
    """By trying every way to cut the sorted distinct values."""
    distinct = np.unique(values)
    best = np.inf
    for cuts in combinations(range(1, len(distinct)), groups - 1):
        labels = np.searchsorted(distinct[list(cuts)], values, side="right")
        best = min(best, deviation(values, labels))
    return best


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(-20, 20), min_size=1, max_size=11),
    st.integers(1, 5),
    st.sampled_from([0.0, 1e6]),
)
def test_breaks_are_the_best_of_all(numbers, groups, far):
    values = np.array(numbers, dtype=float) / 4 + far
    if groups > len(np.unique(values)):
        with pytest.raises(InputError, match="groups must be in"):
            natural_breaks(values, groups)
        return
    labels = natural_breaks(values, groups)
    assert sorted(set(labels.tolist())) == list(range(groups))
    order = np.argsort(values, kind="stable")
    assert (np.diff(labels[order]) >= 0).all()
    for value in values:
        assert len(set(labels[values == value].tolist())) == 1
    assert deviation(values, labels) == pytest.approx(least_deviation(values, groups), abs=1e-6)


def test_breaks_of_many_numbers_are_not_improved_by_moving_a_border():
    values = np.random.default_rng(0).gamma(2, size=20000)
    labels = natural_breaks(values, 5)
    best, ordered = deviation(values, labels), np.sort(values)
    borders = np.searchsorted(np.sort(labels), np.arange(1, 5))
    for border in range(4):
        for step in (-1, 1):
            moved = borders.copy()
            moved[border] += step
            other = np.searchsorted(ordered[moved], values, side="right")
            assert deviation(values, other) >= best * (1 - 1e-12)


def test_numbers_that_cannot_be_grouped_are_refused():
    with pytest.raises(InputError, match=r"finite numbers.*inf"):
        natural_breaks(np.array([1.0, np.inf]), 1)
    with pytest.raises(InputError, match=r"shape \(1, 1\)"):
        natural_breaks(np.zeros((1, 1)), 1)
    with pytest.raises(InputError, match=r"1\.\.2 \(the distinct values\), got 3"):
        natural_breaks(np.array([1.0, 2.0, 2.0]), 3)
