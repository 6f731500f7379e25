"""DIRECT against a plain loop over the line."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.kernels import Generator, derive
from labelwise.strategies import select
from labelwise.strategies.direct import interval, threshold


def line_of(probs, k):
    top = probs.max(1)
    return np.argsort(-(probs[:, k] - top + 1e-8 * top))


def by_definition(probs, labels, n, seed, quota_most=60):
    """The rule step by step on whole lines, with the same random numbers."""
    generator = Generator(derive(seed, "direct"))
    size, classes = probs.shape
    color, picks = dict(labels), []
    counts = [sum(c == k for c in labels.values()) for k in range(classes)]
    quota = min(n // classes // 2, quota_most)
    for k in sorted(range(classes), key=lambda c: -counts[c]):
        line = line_of(probs, k).tolist()
        first = 0
        for i, row in enumerate(line):
            if row in labels:
                if labels[row] != k:
                    break
                first = i
        last = size - 1
        for i, row in reversed(list(enumerate(line))):
            if row in labels:
                if labels[row] == k:
                    break
                last = i
        free = [row for row in line[first : last + 1] if row not in color]
        noise = generator.child("interval", k).uniform(np.array(free, dtype=np.int64))
        for i in np.argsort(noise)[:quota]:
            color[free[i]] = None
            picks.append(free[i])
    rest = n - len(picks)
    order = np.random.default_rng(generator.child("classes").seed).permutation(classes)
    for i, k in enumerate(order):
        line = line_of(probs, k).tolist()
        right = [
            sum((labels[r] == k) == (j < t) for j, r in enumerate(line) if r in labels)
            for t in range(size + 1)
        ]
        up = int(np.argmax(right))
        down, turn = up - 1, 0
        left = rest * (i + 1) // classes - rest * i // classes
        while left:
            at, turn = (down, 1) if turn == 0 else (up, 0)
            if turn == 1:
                down -= 1
            else:
                up += 1
            if 0 <= at < size and line[at] not in color:
                color[line[at]] = None
                picks.append(line[at])
                left -= 1
    return picks


def draw(seed, classes, size=70, known=12):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, size)
    logits = rng.normal(size=(size, classes)) + 1.5 * np.eye(classes)[truth]
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labeled = rng.permutation(size)[:known]
    return probs, {int(row): int(truth[row]) for row in labeled}


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("seed", range(6))
def test_direct_is_its_definition(seed, classes):
    probs, labels = draw(seed, classes)
    for n in (3, 20, 58):
        picks = select(
            "direct", n, probs=probs, labeled=[*labels], labels=[*labels.values()], seed=seed
        )
        assert picks.rows.tolist() == by_definition(probs, labels, n, seed)


def test_a_bound_for_each_class():
    probs, labels = draw(1, 3)
    more = {"probs": probs, "labeled": [*labels], "labels": [*labels.values()], "seed": 1}
    picks = select("direct", 30, per_class=2, **more)
    assert picks.rows.tolist() == by_definition(probs, labels, 30, 1, quota_most=2)
    assert picks.rows.tolist() != select("direct", 30, **more).rows.tolist()


def test_the_interval_ends_at_the_pure_ends_of_the_line():
    def ends(text, size=20):
        at = np.flatnonzero([c != "." for c in text])
        return interval(at, np.array([c == "k" for c in text if c != "."]), size)

    assert ends("..k.k.o.k.oo") == (4, 10)
    assert ends("..k.k..o.oo") == (4, 7)
    assert ends("..o..k") == (0, 19)
    assert ends("k..k") == (3, 19)
    assert ends("o..o") == (0, 0)


def test_the_first_of_equally_good_thresholds():
    at = np.array([2, 5, 7, 9])
    assert threshold(at, np.array([True, False, True, False])) == 3
    assert threshold(at, np.array([True, True, False, True])) == 6
    assert threshold(at, np.array([False, True, False, False])) == 0
    assert threshold(at, np.array([False, True, True, False])) == 8


def test_without_labels_picks_are_random_and_say_so():
    probs, labels = draw(0, 3)
    assert select("direct", 5, probs=probs).notes == ("nothing is labeled: picks are random",)
    assert len({tuple(select("direct", 5, probs=probs, seed=seed)) for seed in range(5)}) == 5
    only = select("direct", 9, probs=probs, labeled=[*labels], labels=[1] * len(labels))
    assert len(set(only)) == 9


@pytest.mark.parametrize("explore", [-0.1, 1.5, "half", True])
def test_shares_out_of_range_are_refused(explore):
    with pytest.raises(InputError, match=r"explore must be a (share|number)"):
        select("direct", 3, probs=draw(0, 3)[0], labeled=[0], labels=[1], explore=explore)
    with pytest.raises(InputError, match="per_class must be"):
        select("direct", 3, probs=draw(0, 3)[0], labeled=[0], labels=[1], per_class=-1)
