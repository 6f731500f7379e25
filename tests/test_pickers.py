"""Pickers: their law, their ties, and that all keep to candidates."""

from functools import partial

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.kernels import Chosen, Generator
from labelwise.strategies.pickers import (
    PICKERS,
    per_class,
    per_cluster,
    pick,
    picker_signature,
    power,
    predicted,
    round_robin,
    soft_rank,
    softmax,
    top,
)

ALL = torch.arange(3)


def draws(picker, scores, trials=4000, n=1, **options):
    """How often each row is drawn first, over many seeds."""
    rows = torch.arange(len(scores))
    first = [
        int(picker(scores, n=n, candidates=rows, generator=Generator(seed), **options).rows[0])
        for seed in range(trials)
    ]
    return np.bincount(first, minlength=len(scores)) / trials


@pytest.mark.parametrize("seed", range(10))
def test_top_is_its_definition_with_many_ties(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 60))
    scores = torch.from_numpy(rng.integers(0, 4, size).astype(float))
    candidates = torch.from_numpy(np.flatnonzero(rng.random(size) < 0.7))
    if not len(candidates):
        candidates = torch.arange(size)
    n = int(rng.integers(1, len(candidates) + 1))
    generator = Generator(seed)
    chosen = top(scores, n=n, candidates=candidates, generator=generator)
    noise = generator.child("ties").uniform(candidates.numpy())
    order = sorted(
        zip(-scores[candidates].numpy(), noise, candidates.tolist(), strict=True),
    )
    assert chosen.rows.tolist() == [row for _, _, row in order[:n]]
    assert chosen.gains.tolist() == scores[chosen.rows].tolist()


def test_ties_do_not_follow_row_order():
    rows = torch.arange(1000)
    chosen = top(torch.zeros(1000), n=100, candidates=rows, generator=Generator(0)).rows
    assert 350 < chosen.double().mean() < 650
    again = top(torch.zeros(1000), n=100, candidates=rows, generator=Generator(1)).rows
    assert chosen.tolist() != again.tolist()


def test_ties_belong_to_items():
    ids = np.arange(50) * 7
    order = np.random.default_rng(0).permutation(50)
    rows = torch.arange(50)
    a = top(torch.zeros(50), n=9, candidates=rows, generator=Generator(0, ids)).rows
    b = top(torch.zeros(50), n=9, candidates=rows, generator=Generator(0, ids[order])).rows
    assert ids[a.numpy()].tolist() == ids[order][b.numpy()].tolist()


def test_minus_infinity_is_asked_last_and_nan_is_refused():
    scores = torch.tensor([-torch.inf, 1.0, 0.0])
    assert top(scores, n=3, candidates=ALL, generator=Generator(0)).rows.tolist() == [1, 2, 0]
    scores[2] = torch.nan
    with pytest.raises(InputError, match="row 2 is nan"):
        top(scores, n=1, candidates=ALL, generator=Generator(0))
    kept = top(scores, n=1, candidates=torch.tensor([0, 1]), generator=Generator(0))
    assert kept.rows.tolist() == [1]  # NaN elsewhere is nobody's business


def test_scores_cover_the_pool():
    for scores in (torch.zeros(2), torch.zeros(3, 1)):
        with pytest.raises(InputError, match="one number for each row of the pool"):
            top(scores, n=1, candidates=ALL, generator=Generator(0))


@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_power_draws_by_a_power_of_the_score(beta):
    scores = torch.tensor([1.0, 2.0, 5.0])
    law = (scores**beta / (scores**beta).sum()).numpy()
    np.testing.assert_allclose(draws(power, scores, beta=beta), law, atol=0.025)


def test_softmax_draws_by_the_exponential_of_the_score():
    scores = torch.tensor([-1.0, 0.0, 1.0])
    law = torch.softmax(2 * scores.double(), 0).numpy()
    np.testing.assert_allclose(draws(softmax, scores, beta=2.0), law, atol=0.025)


def test_soft_rank_draws_by_the_rank():
    scores = torch.tensor([0.1, 900.0, 0.2])
    law = np.array([1 / 3, 1.0, 1 / 2]) / (1 + 1 / 2 + 1 / 3)
    np.testing.assert_allclose(draws(soft_rank, scores), law, atol=0.025)
    law = law**2 / (law**2).sum()
    np.testing.assert_allclose(draws(soft_rank, scores, beta=2.0), law, atol=0.025)


def test_later_draws_follow_the_law_of_what_is_left():
    scores, pairs = torch.tensor([1.0, 1.0, 2.0]), []
    for seed in range(3000):
        rows = power(scores, n=2, candidates=ALL, generator=Generator(seed)).rows.tolist()
        if rows[0] == 0:
            pairs.append(rows[1])
    assert np.mean(np.array(pairs) == 2) == pytest.approx(2 / 3, abs=0.06)


def test_power_takes_rounding_below_zero_for_zero_but_refuses_negative_scores():
    scores = torch.tensor([-1e-9, 0.0, 1.0])
    chosen = power(scores, n=3, candidates=ALL, generator=Generator(0))
    assert chosen.rows[0] == 2
    assert sorted(chosen.rows.tolist()) == [0, 1, 2]
    assert chosen.gains[0] == 1.0
    with pytest.raises(InputError, match=r'row 1 scores -2; use picker="softmax"'):
        power(torch.tensor([1.0, -2.0]), n=1, candidates=ALL[:2], generator=Generator(0))


@pytest.mark.parametrize("picker", [power, softmax, soft_rank])
def test_a_large_beta_is_top_and_scores_are_reported_unperturbed(picker):
    scores = torch.rand(30, generator=torch.Generator().manual_seed(0)).double()
    rows = torch.arange(30)
    chosen = picker(scores, n=6, candidates=rows, generator=Generator(2), beta=1e6)
    assert chosen.rows.tolist() == scores.topk(6).indices.tolist()
    assert chosen.gains.tolist() == scores[chosen.rows].tolist()
    for beta in (0, -1.0, np.inf, True, "1"):
        with pytest.raises(InputError, match="beta must be a positive number"):
            picker(scores, n=1, candidates=rows, generator=Generator(0), beta=beta)


def test_round_robin_by_hand():
    scores = torch.tensor([9.0, 8.0, 7.0, 6.0, 5.0, 1.0])
    groups = torch.tensor([0, 0, 0, 1, 1, 2])
    chosen = round_robin(scores, groups, n=5, candidates=torch.arange(6), generator=Generator(0))
    assert chosen.rows.tolist() == [0, 3, 5, 1, 4]
    some = torch.tensor([1, 2, 4])
    chosen = round_robin(scores, groups, n=3, candidates=some, generator=Generator(0))
    assert chosen.rows.tolist() == [1, 4, 2]


def test_per_class_takes_predicted_classes_in_turn():
    probs = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
    assert predicted(probs).tolist() == [0, 0, 0, 1]
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0])
    chosen = per_class(scores, probs, n=3, candidates=torch.arange(4), generator=Generator(0))
    assert chosen.rows.tolist() == [0, 3, 1]


def test_per_cluster_takes_clusters_in_turn():
    rng = np.random.default_rng(0)
    middle = np.repeat([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]], 10, axis=0)
    x = middle + rng.normal(size=(30, 2))
    scores = torch.arange(30.0)
    rows = torch.arange(30)
    chosen = per_cluster(scores, x, n=6, candidates=rows, generator=Generator(0), clusters=3)
    assert chosen.rows.tolist() == [29, 19, 9, 28, 18, 8]


def test_pick_takes_names_functions_and_partials():
    scores, generator = torch.tensor([0.0, 3.0, 2.0]), Generator(0)

    def last(scores, *, n, candidates, generator):
        return candidates[-n:]

    for picker in ("top", top, partial(power, beta=1e6)):
        chosen = pick(scores, n=1, candidates=ALL, generator=generator, picker=picker)
        assert chosen.rows.tolist() == [1]
    chosen = pick(scores, n=2, candidates=ALL, generator=generator, picker=last)
    assert isinstance(chosen, Chosen)
    assert (chosen.rows.tolist(), chosen.gains.tolist()) == ([1, 2], [3.0, 2.0])


def test_every_picker_has_one_name_and_a_signature():
    plain = ["top", "power", "softmax", "soft_rank"]
    assert list(PICKERS) == [*plain, "per_class", "per_cluster", "per_cost"]
    assert picker_signature("per_cluster").needs == ("embeddings",)
    assert dict(picker_signature("power").options) == {"beta": 1.0}
