"""MaxHerding against its definition."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.strategies import select


def follow(x, sigma, divisor, weights, labeled, picks):
    """How far each pick is from the best by definition, and the coverage that it adds.

    Coverage is the mean of weight times the kernel value of the nearest pick.
    """
    squared = ((x.astype(float)[:, None] - x.astype(float)) ** 2).sum(2)
    kernel = np.exp(-squared / (divisor * sigma**2))
    best = kernel[:, labeled].max(1) if len(labeled) else np.zeros(len(x))
    missed, gains, taken = [], [], list(labeled)
    for pick in picks:
        gain = (weights[:, None] * np.maximum(kernel - best[:, None], 0)).mean(0)
        gain[taken] = -1
        missed.append(gain.max() - gain[pick])
        gains.append(gain[pick])
        best = np.maximum(best, kernel[:, pick])
        taken.append(int(pick))
    return np.array(missed), np.array(gains)


def check(picks, *args):
    # Exact ties occur, where two rows are each other's only gain.
    missed, gains = follow(*args, picks.rows)
    assert missed.max() < 1e-6
    np.testing.assert_allclose(picks.scores, gains, rtol=1e-4, atol=1e-7)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("sigma", "divisor"), [(1.0, 1.0), (0.4, 2.0)])
def test_max_herding_is_its_definition(seed, sigma, divisor):
    rng = np.random.default_rng(seed)
    x, labeled = rng.normal(size=(70, 4)), rng.permutation(70)[: 2 * seed]
    picks = select("max_herding", 12, embeddings=x, labeled=labeled, sigma=sigma, divisor=divisor)
    check(picks, unit(x), sigma, divisor, np.ones(70), labeled)


def test_the_defaults_of_max_herding():
    x = np.random.default_rng(0).normal(size=(50, 3))
    check(select("max_herding", 8, embeddings=x), unit(x), 1.0, 1.0, np.ones(50), [])


def test_bad_options():
    x = np.eye(3)
    with pytest.raises(InputError, match="sigma must be a positive number"):
        select("max_herding", 1, embeddings=x, sigma=0)


@pytest.mark.parametrize("sigma", [1e-4, 1e-160])
def test_a_narrow_kernel_covers_copies_whole(sigma):
    x = np.random.default_rng(1).normal(size=(40, 12))
    x[20:] = x[:20]
    picks = select("max_herding", 20, embeddings=x, sigma=sigma)
    assert sorted(row % 20 for row in picks) == list(range(20))
    np.testing.assert_allclose(picks.scores, 2 / 40)
