"""DACS against its steps written out."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.kernels import Chosen, Generator, Progress, derive, natural_breaks
from labelwise.strategies import get_strategy, select
from labelwise.strategies.dacs import (
    budget_levels,
    budget_shares,
    dacs_density,
    dacs_weights,
    density_groups,
    share_out,
)
from labelwise.strategies.entropy import entropy_scores
from labelwise.strategies.pickers import pick


def by_definition(x, labeled, n, groups, temperature, neighbors):
    """Neighbors by all pairs, breaks, shares, and farthest-first in each group, in float64."""
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = np.sqrt(np.maximum(((x[:, None] - x) ** 2).sum(2), 0))
    near = np.sort(distance + np.diag(np.full(len(x), np.inf)), 1)[:, :neighbors]
    density = 1 / near.mean(1)
    free = np.setdiff1d(np.arange(len(x)), labeled)
    member = natural_breaks(density[free], groups)
    sizes = np.bincount(member)
    level = np.exp((1 - sizes / sizes.sum()) / temperature)
    quotas = share_out(n, np.log(level), sizes)
    picks = []
    for g, quota in enumerate(quotas):
        mine, seen = free[member == g].tolist(), list(labeled)
        for _ in range(quota):
            far = [distance[row, seen].min() for row in mine]
            picks.append(mine.pop(int(np.argmax(far))))
            seen.append(picks[-1])
    return picks


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.25, 2.0])
def test_dacs_is_its_definition(seed, temperature):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(150, 4)) * rng.lognormal(size=(1, 4))
    labeled = rng.permutation(150)[:5]
    picks = select(
        "dacs",
        20,
        embeddings=x,
        labeled=labeled,
        groups=3,
        neighbors=6,
        temperature=temperature,
        density="exact",
    )
    assert picks.rows.tolist() == by_definition(x, labeled, 20, 3, temperature, 6)


def test_sparse_rows_get_more_than_their_share():
    rng = np.random.default_rng(0)
    x = np.concatenate([0.02 * rng.normal(size=(900, 3)) + 1, rng.normal(size=(100, 3))])
    picks = select("dacs", 50, embeddings=x)
    assert (picks.rows >= 900).sum() > 15  # a tenth of the rows, over three tenths of the picks
    assert picks.notes[0].startswith("picks by density")


def test_shares_by_hand():
    # Sizes 10 and 30 of 40 at temperature 0.5: exp(1.5) to exp(0.5).
    np.testing.assert_allclose(budget_shares(np.array([10, 30]), 0.5), [0.731059, 0.268941], 1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_shares_become_whole_picks(seed):
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, 5)
    shares = rng.dirichlet(np.ones(5))
    for n in {1, int(sizes.sum()), int(rng.integers(1, sizes.sum() + 1))}:
        picks = share_out(n, np.log(shares), sizes)
        assert picks.sum() == n
        assert (picks >= 0).all()
        assert (picks <= sizes).all()
    roomy = share_out(100, np.log(shares), np.full(5, 1000))
    assert np.abs(roomy - 100 * shares).max() < 1


@pytest.mark.parametrize("temperature", [1e-2, 1e-4, 1e-20, 1e-310])
def test_shares_too_small_for_a_number_are_used_once_the_others_are(temperature):
    sizes = np.array([30, 900, 10, 60])
    levels = budget_levels(sizes, temperature)
    assert share_out(5, levels, sizes).tolist() == [0, 0, 5, 0] if temperature < 1e-3 else True
    assert share_out(150, levels, sizes).tolist() == [30, 50, 10, 60]
    assert share_out(1000, levels, sizes).tolist() == sizes.tolist()
    assert budget_shares(sizes, temperature).sum() == pytest.approx(1)
    x = np.random.default_rng(0).lognormal(sigma=2, size=(150, 3))
    assert len(set(select("dacs", 149, embeddings=x, temperature=temperature))) == 149


def test_groups_see_their_own_picks_unless_together():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(200, 3))
    labeled = [0]
    apart = select("dacs", 40, embeddings=x, labeled=labeled, density="exact")
    joined = select("dacs", 40, embeddings=x, labeled=labeled, density="exact", together=True)
    assert apart.rows.tolist() != joined.rows.tolist()
    u = x / np.linalg.norm(x, axis=1, keepdims=True)
    for i, row in enumerate(joined.rows):
        seen = [0, *joined.rows[:i]]
        assert joined.scores[i] == pytest.approx(((u[seen] - u[row]) ** 2).sum(1).min(), abs=1e-6)


def test_hashed_density_is_near_the_exact_one():
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(400, 6)))
    exact = dacs_density(x, generator=Generator(0), density="exact")
    hashed = dacs_density(x, generator=Generator(0), density="hashed")
    assert (hashed <= exact * 1.01).all()  # a missed neighbor can only make it look sparser
    assert np.corrcoef(exact, hashed)[0, 1] > 0.9


def test_weights_multiply_scores_of_other_strategies():
    rng = np.random.default_rng(4)
    x = torch.from_numpy(rng.normal(size=(300, 4)))
    density = dacs_density(x, generator=Generator(0), density="exact")
    weights = dacs_weights(density)
    assert float(weights.mean()) == pytest.approx(1)
    member = density_groups(density.numpy(), 4)
    shares = budget_shares(np.bincount(member), 0.25)
    for g in range(4):  # a group's weights add up to its share of the budget
        assert float(weights[member == g].sum()) == pytest.approx(300 * shares[g])
    probs = torch.from_numpy(rng.dirichlet(np.ones(3), size=300))

    def sparse_entropy(probs, embeddings, *, n, candidates, generator):
        found = dacs_density(embeddings, generator=generator, density="exact")
        scores = entropy_scores(probs) * dacs_weights(found)
        return pick(scores, n=n, candidates=candidates, generator=generator)

    picks = select(sparse_entropy, 10, probs=probs, embeddings=x)
    best = (entropy_scores(probs) * weights).topk(10).indices
    assert picks.rows.tolist() == best.tolist()


def test_copies_have_a_density():
    x = np.repeat(np.random.default_rng(5).normal(size=(10, 3)), 12, 0)
    density = dacs_density(torch.from_numpy(x), generator=Generator(0), neighbors=5)
    assert density.isfinite().all()
    assert len(set(select("dacs", 30, embeddings=x))) == 30


def test_resumed_in_a_later_group():
    x = np.random.default_rng(6).normal(size=(120, 3))
    whole = select("dacs", 30, embeddings=x)
    earlier = Chosen(torch.from_numpy(whole.rows[:25]), torch.from_numpy(whole.scores[:25]))
    again = get_strategy("dacs").function(
        torch.from_numpy(x),
        n=30,
        candidates=torch.arange(120),
        generator=Generator(derive(0, "dacs")),
        progress=Progress(earlier),
    )
    assert again.rows.tolist() == whole.rows.tolist()
    np.testing.assert_allclose(again.scores, whole.scores)


def test_bad_options():
    x = np.eye(3)
    for option, match in (
        ({"groups": 0}, "groups must be a whole number"),
        ({"neighbors": 1.5}, "neighbors must be a whole number"),
        ({"temperature": 0}, "temperature must be a positive number"),
        ({"density": "hash"}, "density must be known"),
    ):
        with pytest.raises(InputError, match=match):
            select("dacs", 1, embeddings=x, **option)
