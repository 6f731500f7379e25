"""FlexMatch and FreeMatch do their work: a class that is learned slowly is not left behind.

Both need a network that knows something already. In fits of some hundred steps from new weights
FlexMatch learns every row as labeled by chance (its thresholds begin at 0 and stay there until
most rows have been sure once), and loses to supervision alone; so does a loop written by hand.
"""

from collections import Counter

import numpy as np
import pytest
import torch

from labelwise.learners import CrossEntropy
from labelwise.learners.objectives.flexmatch import FlexMatch
from labelwise.learners.objectives.freematch import FreeMatch

SEEDS = range(2)
FLEX = {"noise": 1.1, "warm": 60, "steps": 300}
FREE = {"noise": 1.2, "warm": 40, "steps": 200}


class Notes:
    """Keeps what `sure` was given and said at every step."""

    def sure(self, probs, rows):
        said = super().sure(probs, rows)
        self.notes = [*getattr(self, "notes", []), (probs, rows, said)]
        return said

    def __repr__(self):
        return type(self).__name__


class NotedFlexMatch(Notes, FlexMatch):
    pass


class NotedFreeMatch(Notes, FreeMatch):
    pass


def means(slow_class, objectives, **setup):
    """Accuracies of all rows and of those of the slow class, the mean of the seeds."""
    found = [slow_class(objectives, seed, **setup)[:2] for seed in SEEDS]
    return np.mean(found, 0)


@pytest.fixture(scope="module")
def flex():
    return [CrossEntropy(), NotedFlexMatch(threshold=0.8)]


@pytest.fixture(scope="module")
def free():
    return [CrossEntropy(), NotedFreeMatch(decay=0.95)]


def test_flexmatch_brings_the_slow_class_along(slow_class, flex):
    plain, _ = means(slow_class, "cross_entropy", **FLEX)
    _, slow_fixed = means(slow_class, "cross_entropy+fixmatch:threshold=0.8", **FLEX)
    every, slow = means(slow_class, flex, **FLEX)
    assert every >= plain + 5
    assert slow >= slow_fixed + 20  # one threshold for all leaves it to the other classes


def test_thresholds_of_flexmatch_in_a_fit_are_those_of_a_simulation(slow_class, flex):
    for seed in SEEDS:
        objective = slow_class(flex, seed, **FLEX)[2][1]
        decided, lowest, highest = {}, [], []
        for probs, rows, said in objective.notes:
            counts = Counter(decided.values())
            best = max(*(counts[c] for c in range(4)), 580 - len(decided))
            betas = [counts[c] / best for c in range(4)]
            thresholds = [0.8 * beta / (2 - beta) for beta in betas]
            lowest.append(min(thresholds))
            highest.append(max(thresholds))
            for row, each, one in zip(rows.tolist(), probs.tolist(), said.tolist()):
                likeliest = each.index(max(each))
                if abs(max(each) - thresholds[likeliest]) > 1e-6:
                    assert one == (max(each) > thresholds[likeliest])
                if max(each) >= 0.8:
                    decided[row] = likeliest
        assert len(objective.notes) == 300
        assert highest[0] == 0
        assert highest[-1] == pytest.approx(0.8)  # most rows have been sure
        assert lowest[-1] < 0.7
        assert min(thresholds) == thresholds[3]  # of the slow class


def test_freematch_beats_supervision_one_threshold_and_none(slow_class, free):
    """None is what thresholds that stay at 1 / C are."""
    every, slow = means(slow_class, free, **FREE)
    for other, gain in (("", 5), ("+fixmatch:threshold=0.95", 4), ("+fixmatch:threshold=0", 5)):
        theirs, slow_theirs = means(slow_class, f"cross_entropy{other}", **FREE)
        assert every >= theirs + gain
        assert slow >= slow_theirs


def test_thresholds_of_freematch_in_a_fit_are_those_of_a_simulation(slow_class, free):
    for seed in SEEDS:
        objective = slow_class(free, seed, **FREE)[2][1]
        overall, shares, course = 0.25, np.full(4, 0.25), []
        for probs, _, said in objective.notes:
            p = probs.double().numpy()
            overall = 0.95 * overall + 0.05 * p.max(1).mean()
            shares = 0.95 * shares + 0.05 * p.mean(0)
            thresholds = overall * shares / shares.max()
            away = p.max(1) - thresholds[p.argmax(1)]
            clear = np.abs(away) > 1e-5
            assert (said.numpy() == (away > 0))[clear].all()
            course.append(overall)
        assert len(course) == 200
        assert course[0] < 0.3
        assert course[-1] > 0.6  # it rises with how sure the network is
        np.testing.assert_allclose(objective.thresholds(), thresholds, rtol=1e-4)
        used = torch.cat([said for _, _, said in objective.notes[-50:]]).double().mean()
        assert 0.3 < used < 0.95
