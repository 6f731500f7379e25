"""k-means++ against the race by definition, and statistically against the D^2 law."""

import numpy as np
import pytest
import torch
from cases import KINDS, gradients, points, squared_distances_to
from scipy import stats

from labelwise.errors import InputError
from labelwise.kernels import Euclidean, Generator, GradientEmbedding, kmeans_plus_plus


def by_definition(x, n, generator, first, covered=()):
    """One race a pick over all visits, with every distance in float64."""
    size = len(x)
    nearest = np.full(size, np.inf)
    for row in covered:
        nearest = np.minimum(nearest, squared_distances_to(x, row))
    picks = []
    if not len(covered):
        if first == "uniform":
            picks = [int(generator.child("first").uniform(size).argmin())]
        else:
            norms = (x.astype(np.float64) ** 2).sum(1)
            picks = [int(np.flatnonzero(norms >= norms.max() * (1 - 1e-12))[0])]
        nearest = squared_distances_to(x, picks[0])
    while len(picks) < n:
        free = np.ones(size, dtype=bool)
        free[[*covered, *picks]] = False
        weight = np.where(free, nearest, 0)
        if weight.max() <= 0:
            left = np.flatnonzero(free)
            order = np.argsort(generator.child("fill").uniform(left), kind="stable")
            return picks + left[order[: n - len(picks)]].tolist()
        gaps, rows = generator.arrivals(np.array([len(picks)]), 30 * size + 500, size)
        times, rows = np.cumsum(gaps[0]), rows[0]
        ratio = np.full(len(times), np.inf)
        live = weight[rows] > 0
        ratio[live] = times[live] / weight[rows[live]]
        picks.append(int(rows[ratio.argmin()]))
        nearest = np.minimum(nearest, squared_distances_to(x, picks[-1]))
    return picks


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_kmeans_plus_plus_is_its_definition_for_every_block_size(kind, seed):
    x = points(kind, seed)
    rng = np.random.default_rng(seed)
    covered = rng.choice(len(x), 2, replace=False) if seed % 2 else np.zeros(0, dtype=int)
    n = int(rng.integers(1, min(40, len(x) - len(covered)) + 1))
    first = "largest" if seed % 3 == 0 else "uniform"
    generator = Generator(seed)
    expected = by_definition(x, n, generator, first, covered)
    for block in (1, 7, 256):
        chosen = kmeans_plus_plus(
            Euclidean(x),
            n,
            generator=generator,
            first=first,
            covered=torch.tensor(covered) if len(covered) else None,
            block=block,
        )
        assert chosen.rows.tolist() == expected


@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_never_built_but_picks_are_theirs(bias):
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(4, 0.3), size=120).astype(np.float32)
    h = rng.normal(size=(120, 6)).astype(np.float32)
    expected = by_definition(gradients(probs, h, bias), 40, Generator(1), "largest")
    chosen = kmeans_plus_plus(
        GradientEmbedding(probs, h, bias), 40, generator=Generator(1), first="largest", block=16
    )
    assert chosen.rows.tolist() == expected


def test_gains_are_the_squared_distances_when_picked():
    x = points("gaussian", 0)
    chosen = kmeans_plus_plus(Euclidean(x), 12, generator=Generator(0), block=4)
    nearest = np.full(len(x), np.inf)
    for row, gain in zip(chosen.rows.tolist(), chosen.gains.tolist()):
        np.testing.assert_allclose(gain, nearest[row], rtol=1e-12)
        nearest = np.minimum(nearest, squared_distances_to(x, row))


@pytest.mark.parametrize("law", ["pool", "covered"])
def test_the_second_pick_follows_the_squared_distances(law):
    """Chi-squared against the D^2 law over many seeds: wrong powers of D fail by far."""
    x = np.array([[0.0], [1.0], [2.0], [4.0], [4.5], [7.0]])
    geometry = Euclidean(x)
    counts = np.zeros(6)
    for seed in range(1500):
        covered = torch.tensor([0]) if law == "covered" else None
        n = 1 if law == "covered" else 2
        rows = kmeans_plus_plus(
            geometry, n, generator=Generator(seed), covered=covered, first="largest"
        ).rows
        counts[rows[-1]] += 1
    start = 0.0 if law == "covered" else 7.0
    weight = (x[:, 0] - start) ** 2
    expected = 1500 * weight / weight.sum()
    live = weight > 0
    assert counts[~live].sum() == 0
    assert stats.chisquare(counts[live], expected[live]).pvalue > 1e-3


def test_other_order_of_rows_draws_the_same_items():
    x = points("gaussian", 1)
    ids = np.arange(len(x)) * 7 + 3
    order = np.random.default_rng(0).permutation(len(x))
    one = kmeans_plus_plus(Euclidean(x), 20, generator=Generator(5, ids)).rows.numpy()
    two = kmeans_plus_plus(Euclidean(x[order]), 20, generator=Generator(5, ids[order])).rows.numpy()
    assert ids[one].tolist() == ids[order][two].tolist()


def test_greedy_trials_keep_the_candidate_that_lowers_the_potential_most():
    """By definition: the winners of each step's races, and the float64 potential of each."""
    x = points("gaussian", 2)
    generator, trials = Generator(3), 4
    chosen = kmeans_plus_plus(Euclidean(x), 15, generator=generator, trials=trials).rows.tolist()
    nearest = squared_distances_to(x, chosen[0])
    for step in range(1, 15):
        winners = []
        for draw in range(step * trials, (step + 1) * trials):
            gaps, rows = generator.arrivals(np.array([draw]), 4000, len(x))
            with np.errstate(divide="ignore"):
                ratio = np.cumsum(gaps[0]) / nearest[rows[0]]
            winners.append(int(rows[0][ratio.argmin()]))
        potentials = {
            row: np.minimum(nearest, squared_distances_to(x, row)).sum() for row in winners
        }
        assert chosen[step] in potentials
        assert potentials[chosen[step]] == pytest.approx(min(potentials.values()), rel=1e-9)
        nearest = np.minimum(nearest, squared_distances_to(x, chosen[step]))


def test_greedy_trials_reach_a_lower_potential():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))

    def potential(trials, seed):
        rows = kmeans_plus_plus(
            Euclidean(x), 20, generator=Generator(seed), trials=trials
        ).rows.numpy()
        return ((x[:, None] - x[rows]) ** 2).sum(-1).min(1).sum()

    plain = np.mean([potential(1, seed) for seed in range(12)])
    greedy = np.mean([potential(5, seed) for seed in range(12)])
    assert greedy < 0.97 * plain


def test_nonsense_is_refused():
    g = Euclidean(torch.zeros(3, 1))
    with pytest.raises(InputError, match="trials"):
        kmeans_plus_plus(g, 1, generator=Generator(0), trials=0)
    with pytest.raises(InputError, match=r"n must be in 1\.\.3"):
        kmeans_plus_plus(g, 4, generator=Generator(0))


def test_two_clumps_whose_rows_all_but_coincide(monkeypatch):
    """Once both have a center all stale bounds are a million times the distances that are left."""
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.uniform(-9, -5, size=(2000, 1))
    x = (np.arange(2000) % 2 * 10.0)[:, None] + scale * rng.normal(size=(2000, 16))
    asked = []
    arrivals = Generator.arrivals

    def counted(self, *args, **kwargs):
        asked.append(1)
        assert len(asked) < 1000, "a race that does not end"
        return arrivals(self, *args, **kwargs)

    monkeypatch.setattr(Generator, "arrivals", counted)
    found = kmeans_plus_plus(Euclidean(x), 20, generator=Generator(0))
    rows = found.rows.tolist()
    for k in range(1, 20):
        near = np.square(x[rows[k]] - x[rows[:k]]).sum(1).min()
        assert found.gains[k] == pytest.approx(near, rel=1e-9)
