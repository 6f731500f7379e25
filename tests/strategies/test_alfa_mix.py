"""ALFA-Mix against mixing column by column and asking the head."""

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.alfa_mix import class_means, flip_caps
from labelwise.strategies.learned_mixture import flips_on_the_way


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def flips(h, w, b, anchors, cap):
    """Which predictions some mixture changes: the closed form's share of each column, as coded."""
    before = (h @ w.T + b).argmax(1)
    pull = softmax(h @ w.T + b)
    pull[np.arange(len(h)), before] -= 1
    g = pull @ w
    flipped = np.zeros(len(h), bool)
    for anchor in anchors:
        away = anchor - h
        length = np.linalg.norm(away, axis=1) / np.linalg.norm(g, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = cap / np.sqrt(h.shape[1]) * length[:, None] * g / away
        share = np.where(away == 0, 0, share)
        mixed = (1 - share) * h + share * anchor
        flipped |= (mixed @ w.T + b).argmax(1) != before
    return flipped


def make(seed, zeros=0.0, size=80, classes=4, width=6):
    rng = np.random.default_rng(seed)
    h = rng.normal(size=(size, width))
    h[rng.random(h.shape) < zeros] = 0
    w, b = 0.5 * rng.normal(size=(classes, width)), 0.1 * rng.normal(size=classes)
    return h, w, b, rng.permutation(size)[:9]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("zeros", [0.0, 0.6])
def test_caps_are_those_from_which_mixing_flips(seed, zeros):
    h, w, b, labeled = make(seed, zeros)
    labels = np.arange(9) % 3
    anchors = np.stack([h[labeled[labels == c]].mean(0) for c in range(3)])
    caps = flip_caps(h @ w.T + b, h, w, torch.from_numpy(anchors)).numpy()
    assert 0.1 < (caps < 0.5).mean() < 0.95
    for cap in (0.05, 0.2, 0.5, 1.0, 3.0):
        assert (caps < cap).tolist() == flips(h, w, b, anchors, cap).tolist()


@pytest.mark.parametrize("gap", [1.0, 20.0, 40.0, 400.0, 1e4])
def test_sure_rows_move_towards_the_next_best_class(gap):
    """Far from a boundary a gradient is less than a number holds; its direction is the same."""
    h, w = (
        np.array([[2.0, 1.0, 0.5]]),
        np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 5.0]]),
    )
    anchors = torch.tensor([[1.0, 3.0, -1.0]], dtype=torch.float64)
    logits = np.array([[0.0, -gap, -gap - 800]])
    cap = flip_caps(logits, h, w, anchors).item()
    far, way = np.linalg.norm(anchors.numpy() - h), np.linalg.norm(w[1] - w[0])
    assert cap == pytest.approx(gap / way * np.sqrt(3) / far)


def test_anchors_are_class_means_and_that_of_all_for_a_class_without_labels():
    h = torch.arange(10.0)[:, None] ** 2
    rows, labels = torch.tensor([7, 2, 5]), torch.tensor([0, 2, 0])
    means = class_means_of(h, rows, labels, 3)
    assert means == [(49 + 25) / 2, 4.0, (49 + 4 + 25) / 3]
    assert class_means_of(h, rows, torch.tensor([0, 1, 0]), 2) == [37.0, 4.0]
    assert class_means_of(h, rows, None, 2) == [26.0]
    assert class_means_of(h, None, None, 2) == []


def class_means_of(h, rows, labels, classes):
    from labelwise.evidence import Rows

    return class_means(Rows(h), rows, labels, classes).flatten().tolist()


def test_the_cap_rises_until_more_than_n_flip():
    """Rows on a line, anchors at 10 and -10: row h flips at a cap of |h| / (10 + |h|)."""
    h = np.array([10.0, -10.0, 1.0, -1.0, 2.0, 3.0, 5.0, 9.0])[:, None]
    call = {"embeddings": h, "head_weight": [[1.0], [-1.0]], "labeled": [0, 1], "labels": [0, 1]}
    picks = select("alfa_mix", 1, cap=0.1, normalize=False, **call)
    assert picks.rows[0] in (2, 3)
    assert picks.notes == ("2 candidates flip with at most 0.1 mixed in",)
    picks = select("alfa_mix", 2, cap=0.1, normalize=False, **call)
    assert picks.notes == ("3 candidates flip with at most 0.2 mixed in",)
    assert set(picks) <= {2, 3, 4}
    np.testing.assert_allclose(sorted(-picks.scores)[0], 1 / 11)
    picks = select("alfa_mix", 5, cap=0.1, normalize=False, **call)
    assert picks.notes == ("6 candidates flip with at most 0.5 mixed in",)


def test_what_flips_is_clustered():
    """Three groups flip: the row nearest the middle of each is asked for."""
    rng = np.random.default_rng(0)
    middles = np.array([[0.01, 9.0, 0.0], [0.01, 0.0, 9.0], [0.01, -9.0, -9.0]])
    h = np.concatenate([middles[np.repeat([0, 1, 2], 8)] + 0.02 * rng.normal(size=(24, 3))])
    h[:, 0] = np.abs(h[:, 0])
    h = np.concatenate([h, [[50.0, 1.0, 1.0], [-50.0, 1.0, 1.0], [70.0, 1.0, 1.0]]])
    call = {"labeled": [24, 25], "labels": [0, 1], "head_weight": [[1.0, 0, 0], [-1.0, 0, 0]]}
    picks = select("alfa_mix", 3, embeddings=h, **call)
    assert sorted(row // 8 for row in picks) == [0, 1, 2]
    unit = h / np.linalg.norm(h, axis=1, keepdims=True)
    for row in picks:
        mine = np.arange(8) + row // 8 * 8
        distance = ((unit[mine] - unit[mine].mean(0)) ** 2).sum(1)
        assert mine[distance.argmin()] == row


def test_the_rest_is_drawn_at_random_and_said():
    h, w, b, labeled = make(0)
    call = {"logits": h @ w.T + b, "embeddings": h, "head_weight": w}
    none = [select("alfa_mix", 5, seed=seed, **call) for seed in range(3)]
    assert len({tuple(picks.rows) for picks in none}) == 3
    assert none[0].notes[-1] == "5 of 5 picks are drawn at random"
    assert (none[0].scores == -np.inf).all()
    many = select("alfa_mix", 70, labeled=labeled, labels=np.arange(9) % 4, **call)
    drawn = np.isinf(many.scores) | (many.scores <= -1)
    assert drawn.any()
    assert many.notes[-1] == f"{drawn.sum()} of 70 picks are drawn at random"
    assert not drawn[: 70 - drawn.sum()].any()
    flip = many.scores[: 70 - drawn.sum()]  # all of them are asked for, those that flip first
    assert (np.diff(flip) <= 0).all()


@pytest.mark.parametrize("seed", range(3))
def test_learned_mixtures_are_those_of_adam(seed):
    """Five fresh first steps of torch's own Adam, through its own derivatives."""
    h, w, b, labeled = make(seed)
    z, weight = torch.from_numpy(h @ w.T + b), torch.from_numpy(w)
    away = torch.from_numpy(h[labeled].mean(0) - h)
    start = torch.from_numpy(np.random.default_rng(seed).normal(size=h.shape))
    best, some = z.argmax(1), 0
    for cap in (0.03125, 0.1, 0.3, 0.6):
        share = (cap / 2 + cap / 2 * start).clamp(1e-8, cap)
        flipped = torch.zeros(len(h), dtype=torch.bool)
        for turn in range(5):
            share = share.detach().requires_grad_()
            adam = torch.optim.Adam([share], lr=0.1 if turn < 10 / 3 else 0.01)
            mixed = z + (share * away) @ weight.T
            flipped |= mixed.argmax(1) != best
            loss = torch.nn.functional.cross_entropy(mixed, best, reduction="none")
            (0.01 * share.norm(dim=1) - loss).sum().backward()
            adam.step()
            share = share.detach().clamp(1e-8, cap)
        assert flips_on_the_way(z, away, weight, cap, start).tolist() == flipped.tolist()
        some += int(flipped.sum())
    assert 0 < some < 4 * len(h)


def test_the_cap_of_learned_mixtures_rises_until_more_than_n_flip():
    """Row h flips once a share of |h| / (10 + |h|) is mixed in, which the steps always reach."""
    h = np.array([10.0, -10.0, 1.0, -1.0, 2.0, 3.0, 5.0])[:, None]
    call = {"embeddings": h, "head_weight": [[0.1], [-0.1]], "labeled": [0, 1], "labels": [0, 1]}
    call |= {"cap": 0.1, "normalize": False, "mixture": "learned"}
    picks = select("alfa_mix", 1, **call)
    assert picks.rows[0] in (2, 3)
    assert picks.scores.tolist() == [-0.1]
    assert picks.notes == ("2 candidates flip with at most 0.1 mixed in",)
    assert select("alfa_mix", 2, **call).notes == ("3 candidates flip with at most 0.2 mixed in",)
    levels = select("alfa_mix", 5, **call)
    order = levels.scores[np.argsort(levels.rows)]
    np.testing.assert_allclose(order, [-0.1, -0.1, -0.2, -0.3, -0.4])


def test_options_out_of_range():
    h, w, b, _ = make(0)
    call = {"logits": h @ w.T + b, "embeddings": h, "head_weight": w}
    for cap in (0, 1e-310, 1.5, True):
        with pytest.raises(InputError, match="cap must be a number in"):
            select("alfa_mix", 2, cap=cap, **call)
    with pytest.raises(InputError, match="mixture must be"):
        select("alfa_mix", 2, mixture="best", **call)
    with pytest.raises(InputError, match="iterations must be a whole number"):
        select("alfa_mix", 2, iterations=-1, **call)
