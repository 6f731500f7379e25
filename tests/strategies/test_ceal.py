"""CEAL: what it asks about, what it takes for sure, and how that gets less by the round."""

import numpy as np
import pytest

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.ceal import ceal_threshold

SURE = [1 - 1e-4, 1e-4, 0.0]  # entropy 0.00102
SURER = [0.0, 1 - 1e-5, 1e-5]  # 0.000125
SAME = [0.0, 0.0, 1.0]  # 0, where a log of a rounded 0 would be NaN
PROBS = np.array([[0.5, 0.3, 0.2], SURE, [0.4, 0.35, 0.25], SURER, [0.9, 0.1, 0.0], SAME])


def test_unsure_rows_are_asked_about_and_sure_ones_get_pseudo_labels():
    picks = select("ceal", 2, probs=PROBS, round=0)
    assert picks.rows.tolist() == [2, 0]
    assert picks.pseudo_rows.tolist() == [1, 3, 5]
    assert picks.pseudo_labels.tolist() == [0, 1, 2]
    assert picks.notes == ("3 rows of entropy below 0.005 nats have pseudo-labels",)


def test_the_threshold_by_hand():
    assert ceal_threshold(0) == 0.005
    assert ceal_threshold(1) == pytest.approx(0.005 - 0.00033)
    assert ceal_threshold(3) == pytest.approx(0.005 - 0.00033 * (1 + 2 + 3))
    assert ceal_threshold(2, threshold=1, decay=0.1) == pytest.approx(0.7)
    assert ceal_threshold(9) == 0


def test_later_rounds_are_sure_of_less():
    found = [select("ceal", 1, probs=PROBS, round=r).pseudo_rows.tolist() for r in (0, 4, 5, 6)]
    assert found == [[1, 3, 5], [1, 3, 5], [5], []]
    picks = select("ceal", 1, probs=PROBS)
    assert picks.pseudo_rows.tolist() == found[0]
    assert picks.notes[0] == "no round given: the threshold is the first round's"


def test_a_threshold_of_one_own():
    assert select("ceal", 1, probs=PROBS, threshold=0.4).pseudo_rows.tolist() == [1, 3, 4, 5]
    assert select("ceal", 1, probs=PROBS, threshold=5e-4).pseudo_rows.tolist() == [3, 5]
    assert select("ceal", 1, probs=PROBS, threshold=0).pseudo_rows.tolist() == []


def test_what_is_picked_labeled_or_ruled_out_gets_no_pseudo_label():
    picks = select("ceal", 4, probs=PROBS, labeled=[3], ids=list("abcdef"))
    assert set(picks) == {0, 1, 2, 4}
    assert picks.pseudo_rows.tolist() == [5]
    assert picks.pseudo_ids.tolist() == ["f"]
    assert select("ceal", 1, probs=PROBS, candidates=[0, 1]).pseudo_rows.tolist() == [1]


@pytest.mark.parametrize("criterion", ["entropy", "margin", "least_confidence"])
def test_the_criterion_is_the_score_of_that_name(criterion):
    probs = np.random.default_rng(0).dirichlet(np.full(4, 0.5), size=200)
    picks = select("ceal", 12, probs=probs, criterion=criterion)
    other = select(criterion, 12, probs=probs)
    assert set(picks) == set(other)
    assert picks.scores.tolist() == other.scores.tolist()


def test_what_is_refused():
    with pytest.raises(InputError, match=r"criterion must be known, got 'margins'; .*margin"):
        select("ceal", 1, probs=PROBS, criterion="margins")
    with pytest.raises(InputError, match=r"criterion must be known, got \['margin'\]"):
        select("ceal", 1, probs=PROBS, criterion=["margin"])
    with pytest.raises(InputError, match="threshold must be a number >= 0, got -1"):
        select("ceal", 1, probs=PROBS, threshold=-1)
    with pytest.raises(InputError, match="decay must be a number >= 0, got nan"):
        select("ceal", 1, probs=PROBS, decay=float("nan"))
