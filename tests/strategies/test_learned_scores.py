"""Scores of what training leaves behind: changes of predictions, predicted losses, critics."""

import math

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.kernels import Generator
from labelwise.strategies import select
from labelwise.strategies.lpl import lpl_scores
from labelwise.strategies.subsets import drawn
from labelwise.strategies.tod import tod_scores
from labelwise.strategies.vaal import vaal_scores
from labelwise.strategies.waal import waal_scores


def distributions(count, classes, seed):
    draws = torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))
    return (2 * draws).double().softmax(1)


def test_discrepancy_is_half_the_squared_distance():
    now, before = distributions(50, 4, 0), distributions(50, 4, 1)
    expected = [
        0.5 * sum((float(p) - float(q)) ** 2 for p, q in zip(one, two))
        for one, two in zip(now, before)
    ]
    torch.testing.assert_close(tod_scores(now, before), torch.tensor(expected).double())
    with pytest.raises(InputError, match="pool rows is 49"):
        tod_scores(now, before[:49])
    with pytest.raises(InputError, match="previous_probs: row 0 must be >= 0"):
        tod_scores(now, before - 1)


def test_the_largest_change_is_asked_for_and_in_round_0_the_smallest():
    now, before = distributions(50, 4, 0).numpy(), distributions(50, 4, 1).numpy()
    changes = ((now - before) ** 2).sum(1)
    call = {"probs": now, "previous_probs": before}
    for more in ({}, {"round": 1}, {"round": 7}):
        picks = select("tod", 3, **call, **more)
        assert picks.rows.tolist() == np.argsort(-changes)[:3].tolist()
    first = select("tod", 3, **call, round=0)
    assert first.rows.tolist() == np.argsort(changes)[:3].tolist()
    assert first.scores == pytest.approx(1 - 0.5 * np.sort(changes)[:3])


def test_the_largest_predicted_loss_is_asked_for():
    losses = np.array([0.3, -2.0, 5.0, 1.0])
    assert lpl_scores(losses).tolist() == losses.tolist()
    assert select("lpl", 2, predicted_loss=losses).rows.tolist() == [2, 3]
    with pytest.raises(InputError, match="predicted_loss must be finite, but row 1"):
        select("lpl", 1, predicted_loss=[0.0, math.nan])


def test_the_least_labeled_looking_row_is_asked_for():
    beliefs = np.array([0.5, 0.25, 0.75])
    assert vaal_scores(beliefs).tolist() == [0.5, 0.75, 0.25]
    assert select("vaal", 2, latent_discriminator=beliefs).rows.tolist() == [1, 0]
    with pytest.raises(InputError, match=r"latent_discriminator must be in \[0, 1\], but row 2"):
        select("vaal", 1, latent_discriminator=[0.5, 0.5, 1.5])


def test_waal_is_two_norms_of_the_logarithms_and_the_critic():
    probs, critic = distributions(40, 5, 2), torch.linspace(-1, 1, 40).double()
    expected = []
    for p, unlike in zip(probs.tolist(), critic.tolist()):
        logs = [math.log(each) for each in p]
        norm = math.sqrt(sum(log**2 for log in logs))
        expected.append(-(0.5 * norm + 0.5 * sum(-log for log in logs) - 10 * unlike))
    torch.testing.assert_close(waal_scores(probs, critic), torch.tensor(expected).double())
    alike = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.9, 0.1], [0.1, 0.9]])
    critic = torch.tensor([0.1, 0.1, 0.9, 0.0])
    assert select("waal", 4, probs=alike, critic=critic).rows.tolist() == [2, 1, 0, 3]
    assert select("waal", 1, probs=alike, critic=critic, critic_weight=0.0).rows.tolist() == [1]
    with pytest.raises(InputError, match="critic_weight must be a number >= 0"):
        select("waal", 1, probs=alike, critic=critic, critic_weight=-1.0)


def test_impossible_classes_leave_scores_finite():
    scores = waal_scores(torch.tensor([[1.0, 0.0], [0.5, 0.5]]), torch.zeros(2))
    assert scores.isfinite().all()
    assert scores[1] > scores[0]


def test_a_subset_is_drawn_by_item_and_never_too_small():
    rows = torch.arange(1000)
    part = drawn(rows, 100, 5, Generator(3))
    assert len(part) == len(set(part.tolist())) == 100
    assert part.tolist() == drawn(rows.flip(0), 100, 5, Generator(3)).flip(0).tolist()
    assert part.tolist() != drawn(rows, 100, 5, Generator(4)).tolist()
    assert len(drawn(rows, 100, 300, Generator(3))) == 300
    assert drawn(rows, None, 1, Generator(3)) is rows
    assert drawn(rows, 1000, 1, Generator(3)) is rows
    hits = [int((drawn(rows, 100, 1, Generator(seed)) < 500).sum()) for seed in range(40)]
    assert 46 < np.mean(hits) < 54
    for size in (0, 2.5, True):
        with pytest.raises(InputError, match="subset must be a whole number >= 1 or None"):
            select("lpl", 1, predicted_loss=[0.0, 1.0], subset=size)


@pytest.mark.parametrize("name", ["lpl", "tod"])
def test_only_the_subset_is_looked_at(name):
    losses = np.arange(400.0)
    now = np.stack([losses / 400, 1 - losses / 400], 1)
    call = {"predicted_loss": losses, "probs": now, "previous_probs": np.tile([0.0, 1.0], (400, 1))}
    whole = select(name, 5, **call, subset=None)
    assert sorted(whole) == [395, 396, 397, 398, 399]
    best = [max(select(name, 5, **call, subset=40, seed=seed)) for seed in range(20)]
    assert len(set(best)) > 5
    assert min(best) > 300
