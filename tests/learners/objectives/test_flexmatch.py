"""FlexMatch: thresholds by hand, counts by their definition, and that slow classes are learned."""

from collections import Counter

import pytest
import torch

from labelwise.learners.objectives.flexmatch import FlexMatch, flexible_thresholds


def test_thresholds_by_hand():
    """Counts 6, 3, 0 and one row undecided: shares 1, 1/2, 0, mapped by x / (2 - x)."""
    counts = torch.tensor([6, 3, 0])
    found = flexible_thresholds(counts, torch.tensor(1), 0.95)
    torch.testing.assert_close(found, torch.tensor([0.95, 0.95 / 3, 0.0]))
    found = flexible_thresholds(counts, torch.tensor(12), 0.95)  # the undecided are the most
    torch.testing.assert_close(found, 0.95 * torch.tensor([1 / 3, 1 / 7, 0.0]))
    assert flexible_thresholds(torch.zeros(3), torch.tensor(0), 0.9).tolist() == [0, 0, 0]


def test_counts_are_of_the_last_class_each_row_was_sure_to_be(setting):
    """Twin: a dictionary from row to class, and thresholds from a Counter of it."""
    objective = FlexMatch(threshold=0.7)
    pool, unlabeled = 30, torch.arange(5, 30)
    objective.prepare(setting(3, pool=pool, unlabeled=len(unlabeled)))
    generator = torch.Generator().manual_seed(0)
    decided, used = {}, 0
    for _ in range(40):
        rows = unlabeled[torch.randperm(len(unlabeled), generator=generator)[:6]]
        probs = (2 * torch.randn(6, 3, generator=generator)).softmax(1)
        counts = Counter(decided.values())
        best = max([*counts.values(), len(unlabeled) - len(decided)])
        expected = []
        for row, each in zip(rows.tolist(), probs.tolist()):
            likeliest = each.index(max(each))
            share = counts[likeliest] / best
            expected.append(max(each) >= 0.7 * share / (2 - share))
            if max(each) >= 0.7:
                decided[row] = likeliest
        assert objective.sure(probs, rows).tolist() == expected
        used += sum(expected)
    assert objective.learned.tolist() == [Counter(decided.values())[c] for c in range(3)]
    assert 0 < used < 240


def test_at_first_every_row_is_learned(view, setting):
    objective = FlexMatch()
    objective.prepare(setting(2, pool=4, unlabeled=2))
    unlabeled = view([[0.1, 0.0], [0.0, 3.0]], rows=[1, 3], strong=[[0.0, 0.0], [0.0, 0.0]])
    loss = objective(view([[0.0, 0.0]], labels=[0]), unlabeled)
    assert loss.item() == pytest.approx(torch.tensor(2.0).log().item())
    assert objective.decided.tolist() == [-1, -1, -1, 1]


def test_what_it_counted_is_not_saved(setting):
    objective = FlexMatch()
    objective.prepare(setting())
    assert not objective.state_dict()
