"""POAL: fronts, distances and the search against their definitions, and foreign rows left out."""

from itertools import combinations

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.kernels import Generator
from labelwise.strategies import select
from labelwise.strategies.pareto import (
    discrepancy,
    drawn_batch,
    front_of,
    fronts,
    weighed_batch,
)
from labelwise.strategies.poal import in_distribution_scores


def dominates(a, b):
    return a[0] >= b[0] and a[1] >= b[1] and (a[0] > b[0] or a[1] > b[1])


@pytest.mark.parametrize("seed", range(8))
def test_fronts_are_peeled_one_after_another(seed):
    rng = np.random.default_rng(seed)
    aims = rng.integers(0, 6 + 10 * seed, size=(70, 2)).astype(float)  # ties in one aim and both
    expected, left, number = np.full(70, -1), set(range(70)), 0
    while left:
        best = {i for i in left if not any(dominates(aims[j], aims[i]) for j in left)}
        expected[list(best)] = number
        left, number = left - best, number + 1
    assert fronts(aims).tolist() == expected.tolist()
    first = [i for i in range(70) if expected[i] == 0]
    copies = {tuple(aims[i]): i for i in first}  # the last of each
    assert sorted(front_of(aims)) == sorted(copies.values())


@pytest.mark.parametrize("width", [3, 30])
def test_distances_are_their_definition(width):
    rng = np.random.default_rng(0)
    h = rng.normal(size=(80, width)) @ rng.normal(size=(width, width)) + 5
    labeled, labels = rng.permutation(80)[:20], np.arange(20) % 3
    means = np.stack([h[labeled[labels == c]].mean(0) for c in range(3)])
    away = h[labeled] - means[labels]
    precision = np.linalg.pinv(away.T @ away / 20, rcond=1e-12, hermitian=True)
    gap = h[:, None] - means
    expected = (-np.einsum("ncd,de,nce->nc", gap, precision, gap) / 2).max(1)
    found, spread = in_distribution_scores(h, torch.tensor(labeled), torch.tensor(labels))
    assert spread
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    more = away.T @ away / 20
    more += 0.3 * np.trace(more) / width * np.eye(width)
    expected = (-np.einsum("ncd,de,nce->nc", gap, np.linalg.inv(more), gap) / 2).max(1)
    found, _ = in_distribution_scores(h, torch.tensor(labeled), torch.tensor(labels), ridge=0.3)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-9)


def test_far_from_every_class_is_foreign():
    h = torch.tensor([[0.0], [1.0], [10.0], [11.0], [0.4], [5.0], [40.0]])
    found, _ = in_distribution_scores(h, torch.arange(4), torch.tensor([0, 0, 1, 1]))
    assert found[4] > found[5] > found[6]


def test_the_discrepancy_is_its_definition():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 2)), rng.normal(size=(7, 2)) + 1
    both = [*a, *b]
    pairs = [np.sum((x - y) ** 2) for x in both for y in both]
    mean = sum(pairs) / (11 * 10)

    def kernel(x, y):
        return sum(np.exp(-np.sum((x - y) ** 2) / (mean * w)) for w in (0.25, 0.5, 1, 2, 4))

    def average(some, others):
        return np.mean([kernel(x, y) for x in some for y in others])

    expected = average(a, a) + average(b, b) - 2 * average(a, b)
    assert discrepancy(a, b) == pytest.approx(expected)
    assert discrepancy(a, a) == pytest.approx(0, abs=1e-12)


def searched(aims, n, generator, most):
    """Batch after batch, with an archive that holds what no other dominates."""
    rng = np.random.default_rng(generator.child("batches").seed)
    archive, looks, told = [], [], []
    for drawn in range(1, most + 1):
        batch = rng.choice(len(aims), n, replace=False, shuffle=False)
        total = aims[batch].sum(0)
        if any(dominates(other, total) for _, other in archive):
            pass
        else:
            archive = [e for e in archive if not (total >= e[1]).all()] + [(batch, total)]
        if drawn % 200 == 0:
            front = np.array([e[1] for e in archive])
            apart = [discrepancy(front, look) for look in looks[-10:]] or [0.0]
            told.append((np.mean(apart), np.std(apart)))
            looks.append(front)
            last = np.array(told[-10:])
            if len(last) == 10 and (last.max(0) - last.min(0) <= 0.01).all():
                break
    shared = np.zeros(len(aims))
    for batch, _ in archive:
        shared[batch] += 1
    archive.sort(key=lambda e: -e[1][0])
    overlap = [shared[batch].sum() for batch, _ in archive]
    most = [i for i, value in enumerate(overlap) if value == max(overlap)]
    return archive[min(most, key=lambda i: abs(i - (len(archive) - 1) / 2))][0], drawn


@pytest.mark.parametrize(
    ("size", "n", "most", "early"), [(60, 3, 3000, False), (60, 8, 333, False), (12, 2, 9000, True)]
)
def test_the_search_is_its_definition(size, n, most, early):
    for seed in range(3):
        aims = np.random.default_rng(seed).normal(size=(size, 2))
        found, drawn = drawn_batch(aims, n, Generator(seed), most)
        expected, count = searched(aims, n, Generator(seed), most)
        assert found.tolist() == expected.tolist()
        assert drawn == count
        assert 2000 <= drawn < most if early else drawn == most


@pytest.mark.parametrize("seed", range(8))
def test_batches_best_by_some_weights_are_found_exactly(seed):
    aims = np.random.default_rng(seed).normal(size=(9, 2))
    every = [list(batch) for batch in combinations(range(9), 3)]
    sums = np.array([aims[batch].sum(0) for batch in every])
    best = set()
    for angle in np.linspace(0, np.pi / 2, 20001):
        best.add(int((sums @ [np.cos(angle), np.sin(angle)]).argmax()))
    found, count = weighed_batch(aims, 3)
    assert count == len(best)
    shared = np.bincount(np.concatenate([every[i] for i in best]), minlength=9)
    overlap = {tuple(every[i]): shared[every[i]].sum() for i in best}
    assert overlap[tuple(sorted(found.tolist()))] == max(overlap.values())


def test_few_weights_and_points_that_are_all_alike():
    aims = np.random.default_rng(0).normal(size=(200, 2))
    assert weighed_batch(aims, 20)[1] > weighed_batch(aims, 20, most=5)[1] == 5
    found, count = weighed_batch(np.ones((6, 2)), 2)
    assert (found.tolist(), count) == ([0, 1], 1)


def test_weights_find_batches_that_dominate_random_ones():
    probs, h, labeled, labels = open_pool()
    more = {"probs": probs, "embeddings": h, "labeled": labeled, "labels": labels}
    entropy = -(probs * np.log(probs)).sum(1)
    known, _ = in_distribution_scores(h, torch.tensor(labeled), torch.tensor(labels))
    for seed in range(3):
        drawn, weighed = (
            select("poal", 15, seed=seed, search=how, **more).rows for how in ("random", "weights")
        )
        assert entropy[weighed].sum() > entropy[drawn].sum()
        assert known[weighed].sum() > known[drawn].sum()


def open_pool():
    """Two classes, rows between them, and foreign rows whose predictions are widest of all."""
    rng = np.random.default_rng(0)
    known = np.concatenate([rng.normal(size=(60, 2)) + 4, rng.normal(size=(60, 2)) - 4])
    unsure = rng.normal(size=(40, 2))
    foreign = rng.normal(size=(40, 2)) + np.array([30, -30])
    h = np.concatenate([known, unsure, foreign])
    side = np.concatenate([np.full(60, 0.95), np.full(60, 0.05), rng.uniform(0.3, 0.7, 40)])
    first = np.concatenate([side, np.full(40, 0.5)])
    labeled = np.concatenate([np.arange(0, 20), np.arange(60, 80), np.arange(120, 130)])
    labels = np.concatenate([np.zeros(20, int), np.ones(20, int), np.arange(10) % 2])
    return np.stack([first, 1 - first], 1), h, labeled, labels


def test_foreign_rows_are_left_out_where_entropy_asks_for_them():
    probs, h, labeled, labels = open_pool()
    entropy = select("entropy", 20, probs=probs, labeled=labeled)
    assert (entropy.rows >= 160).all()
    shares = []
    for seed in range(5):
        picks = select(
            "poal", 20, probs=probs, embeddings=h, labeled=labeled, labels=labels, seed=seed
        )
        shares.append((picks.rows >= 160).mean())
        assert (np.diff(picks.scores) <= 0).all()
        assert picks.notes[0].endswith("rows compared")
    assert np.mean(shares) < 0.35


def test_rows_found_to_be_foreign_say_nothing_of_what_belongs():
    probs, h, labeled, labels = open_pool()
    labeled, labels = np.append(labeled, [160, 161, 162]), np.append(labels, [2, 2, 2])
    more = {"probs": probs, "embeddings": h, "labeled": labeled, "labels": labels}
    with pytest.raises(InputError, match=r"classes 0\.\.1 or of private_classes, but one is 2"):
        select("poal", 10, **more)
    without = dict(more, labeled=labeled[:-3], labels=labels[:-3])
    rest = [row for row in range(200) if row not in set(labeled)]
    apart = select("poal", 10, private_classes=2, **more)
    assert apart.rows.tolist() == select("poal", 10, candidates=rest, **without).rows.tolist()
    for same in ("2", np.array([2]), np.int64(2)):
        assert select("poal", 10, private_classes=same, **more).rows.tolist() == apart.rows.tolist()
    assert (
        "every row counts as known"
        in select("poal", 10, private_classes=[0, 1, 2], **more).notes[0]
    )


def test_only_the_first_fronts_are_drawn_from():
    probs, h, labeled, labels = open_pool()
    more = {"probs": probs, "embeddings": h, "labeled": labeled, "labels": labels}
    rest = np.setdiff1d(np.arange(200), labeled)
    entropy = -(probs * np.log(probs)).sum(1)
    known, _ = in_distribution_scores(h, torch.tensor(labeled), torch.tensor(labels))
    front = fronts(np.stack([entropy, known.numpy()], 1)[rest])
    sizes = np.cumsum(np.bincount(front))
    last = int((sizes < 6 * 4).sum())
    drawn_from = set(rest[front <= last].tolist())
    assert 24 <= len(drawn_from) < len(rest)
    for seed in range(5):
        picks = select("poal", 4, seed=seed, **more)
        assert set(picks) <= drawn_from
        assert picks.notes[0].endswith(f"of {len(drawn_from)} rows compared")
    assert (
        select("poal", 4, preselect=None, **more).notes[0].endswith(f"of {len(rest)} rows compared")
    )


def test_labeled_rows_at_their_means_and_none_at_all():
    probs, h, labeled, _ = open_pool()
    one_each = select("poal", 5, probs=probs, embeddings=h, labeled=[0, 70], labels=[0, 1])
    assert one_each.notes[0] == (
        "labeled rows are all at their classes' means: distances are Euclidean"
    )
    copies = np.tile(h[:1] / 3, (200, 1))
    same = select("poal", 5, probs=probs, embeddings=copies, labeled=[0, 1, 2], labels=[0, 0, 1])
    assert "Euclidean" in same.notes[0]
    assert "nothing is labeled" in select("poal", 5, probs=probs, embeddings=h).notes[0]
    unsaid = select("poal", 5, probs=probs, embeddings=h, labeled=labeled)
    assert "labels were not passed" in unsaid.notes[0]


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"preselect": 0}, "preselect must be"),
        ({"search": "all"}, "search must be"),
        ({"max_draws": 0}, "max_draws must be"),
        ({"ridge": -1}, "ridge must be"),
        ({"private_classes": -1}, "private_classes must be"),
        ({"private_classes": "dog"}, "private_classes must be"),
    ],
)
def test_what_it_refuses(option, match):
    probs, h, labeled, labels = open_pool()
    with pytest.raises(InputError, match=match):
        select("poal", 5, probs=probs, embeddings=h, labeled=labeled, labels=labels, **option)
