"""BatchBALD: joint entropies by enumeration, exact and sampled; lazily as naively."""

from itertools import product

import numpy as np
import pytest
import torch

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Generator, greedy
from labelwise.strategies import select
from labelwise.strategies.bald import bald_scores
from labelwise.strategies.joint_information import JointInformation, ScreenedInformation


def information(draws, rows):
    """H[y_A] - sum_i mean_s H[y_i | s], summing over every labeling; the plain definition."""
    total = 0.0
    for labels in product(range(draws.shape[2]), repeat=len(rows)):
        q = np.mean([np.prod([d[i, c] for i, c in zip(rows, labels)]) for d in draws])
        total -= q * np.log(q) if q > 0 else 0.0
    each = -(draws * np.log(np.maximum(draws, 1e-300))).sum(2).mean(0)
    return total - sum(each[i] for i in rows)


def by_definition(draws, n):
    picks = []
    for _ in range(n):
        left = [i for i in range(draws.shape[1]) if i not in picks]
        values = [information(draws, [*picks, i]) for i in left]
        picks.append(left[int(np.argmax(values))])
    return picks


def make(seed, samples=5, size=12, classes=3):
    return np.random.default_rng(seed).dirichlet(np.full(classes, 0.4), size=(samples, size))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", ["lazy", "naive"])
def test_the_exact_rule_is_its_definition(seed, method):
    draws = make(seed)
    expected = by_definition(draws, 4)
    picks = select("batch_bald", 4, draws=draws, method=method, num_samples=27)
    assert picks.rows.tolist() == expected
    assert picks.notes == ()
    values = [0, *(information(draws, expected[:i]) for i in range(1, 5))]
    np.testing.assert_allclose(picks.scores, np.diff(values), atol=1e-9)


def test_sampled_gains_approach_the_exact_ones():
    draws = make(7, samples=8)
    chosen = [0, 3, 5, 9]
    exact = JointInformation(draws, generator=Generator(0))
    drawn = JointInformation(draws, generator=Generator(0), num_samples=60_000)
    drawn._sample(7500, [])
    for row in chosen:
        exact.add(row, 0.0)
        drawn.add(row, 0.0)
    assert exact.exact
    assert not drawn.exact
    left = torch.tensor([i for i in range(12) if i not in chosen])
    truth = [information(draws, [*chosen, int(i)]) - information(draws, chosen) for i in left]
    np.testing.assert_allclose(exact.gains(left), truth, atol=1e-12)
    # 60,000 labelings: a standard error of at most log(3) / 2 / sqrt(60,000) = 0.0022.
    np.testing.assert_allclose(drawn.gains(left), truth, atol=0.007)


def test_the_sample_takes_over_when_labelings_no_longer_fit():
    draws = make(1)
    function = JointInformation(draws, generator=Generator(0), num_samples=9)
    sizes = []
    for row in range(4):
        function.add(row, 0.0)
        function.gains()
        sizes.append((function.exact, function.configurations))
    assert sizes == [(True, 3), (True, 9), (False, 10), (False, 10)]
    picks = select("batch_bald", 6, draws=draws, num_samples=9)
    assert len(set(picks)) == 6
    assert picks.notes == ("joint entropies are estimates from 10 sampled labelings",)


def test_copies_tell_nothing_new_once_the_label_is_sure():
    """Rows 0 and 1 are one question; BALD asks it twice, the batch asks another."""
    sure, opposed, mild = [1.0, 0.0], [0.0, 1.0], [0.7, 0.3]
    draws = np.array([[sure, sure, mild], [sure, sure, sure], [opposed, opposed, mild],
                      [opposed, opposed, sure]])  # fmt: skip
    assert set(select("bald", 2, draws=draws).rows) == {0, 1}
    picks = select("batch_bald", 2, draws=draws)
    assert picks.rows[0] in (0, 1)
    assert picks.rows[1] == 2
    assert picks.scores[0] == pytest.approx(np.log(2))


@pytest.mark.parametrize("kind", [np.float16, np.float32])
def test_the_first_pick_is_balds(kind):
    draws = make(3, size=200).astype(kind)
    picks = select("batch_bald", 1, draws=draws)
    assert picks.rows.tolist() == select("bald", 1, draws=draws).rows.tolist()
    assert picks.scores[0] == pytest.approx(float(bald_scores(draws).max()), abs=2e-3)


def test_a_batch_tells_no_more_than_which_draw_it_is():
    draws = make(4, samples=4, size=60)
    picks = select("batch_bald", 40, draws=draws, num_samples=2000)
    assert len(set(picks)) == 40
    # Sampled entropies err by log(3) / 2 / sqrt(2000) a pick at most, and less with little left.
    assert np.log(4) - 0.1 < picks.scores.sum() < np.log(4) + 0.1


@pytest.mark.parametrize("sampled", [False, True])
def test_bounds_of_merged_labelings_rule_out_only_losers(sampled, monkeypatch):
    monkeypatch.setattr("labelwise.strategies.joint_information._MERGED", (16, 64))
    draws = make(11, samples=6, size=600)
    exact, screened = (
        kind(draws, generator=Generator(0), num_samples=3000)
        for kind in (JointInformation, ScreenedInformation)
    )
    if sampled:
        exact._sample(500, [])
        screened._sample(500, [])
    rows = torch.randperm(600, generator=torch.Generator().manual_seed(0))[:250]
    ruled_out = 0
    for _ in range(12):
        truth, found = exact.gains(rows), screened.gains(rows)
        assert found.argmax() == truth.argmax()
        assert found.max() == pytest.approx(float(truth.max()), abs=1e-12)
        assert (found - truth).min() > -1e-12
        ruled_out += int((found - truth > 1e-9).sum())
        some = rows[:20]
        again = screened.gains(some)  # asked once more: bounded by the best of all so far
        assert (again - exact.gains(some)).min() > -1e-12
        for function in (exact, screened):
            function.add(int(rows[truth.argmax()]), 0.0)
        rows = rows[torch.arange(len(rows)) != truth.argmax()]
    assert ruled_out > 0.6 * 250 * (10 if sampled else 5)
    assert screened.left == exact.left


def test_lazy_picks_as_naive_does():
    for draws in (make(5, size=2000), make(6, samples=8, size=2000)):
        picks = select("batch_bald", 12, draws=draws, num_samples=2000)
        other = select("batch_bald", 12, draws=draws, num_samples=2000, method="naive")
        # From the eighth pick on of a sample, whose gains may rise from pick to pick.
        assert picks.rows[:8].tolist() == other.rows[:8].tolist()
        np.testing.assert_allclose(picks.scores[:8], other.scores[:8], atol=1e-12)


def test_blocks_do_not_matter(monkeypatch):
    function = JointInformation(make(6), generator=Generator(0))
    function.add(2, 0.0)
    rows = torch.tensor([11, 0, 5])
    whole = function.gains(rows)
    monkeypatch.setattr("labelwise.strategies.joint_information._BLOCK_NUMBERS", 20)
    torch.testing.assert_close(function.gains(rows), whole)
    torch.testing.assert_close(function.gains()[rows], whole)


def test_what_is_left_to_tell_goes_down_to_nothing():
    draws = make(8, samples=6, size=40)
    function = JointInformation(draws, generator=Generator(0), num_samples=3000)
    assert function.left == pytest.approx(np.log(6))
    for row in range(30):
        function.add(row, 0.0)
    gains = function.gains(torch.arange(30, 40))
    assert function.told is not None
    assert 3 < function.told < 30
    assert function.left < 0.01 * np.log(6)
    # No gain is negative, or more than what is left to tell.
    assert 0 <= gains.min() <= gains.max() <= function.left


def test_little_is_lost_by_looking_at_few_labelings():
    draws = make(9, samples=6, size=40)
    function = JointInformation(draws, generator=Generator(0), num_samples=6000)
    for row in range(16):
        function.add(row, 0.0)
    rows = torch.arange(20, 40)
    few = function.gains(rows)
    assert len(function._asked[0]) < 0.7 * function.configurations
    function._asked = function._chance, function._posterior
    every = function.gains(rows)
    assert (every - few).min() >= 0
    assert (every - few).max() <= 1e-3 * function.left


def test_a_shortlist_has_the_largest_bald():
    draws = make(10, size=60)
    picks = select("batch_bald", 5, draws=draws, shortlist=8, candidates=np.arange(50))
    assert set(picks) <= set(bald_scores(draws)[:50].topk(8).indices.tolist())
    assert picks.notes[0] == "only the 8 candidates with the largest BALD were looked at"
    whole = select("batch_bald", 5, draws=draws)
    assert select("batch_bald", 5, draws=draws, shortlist=60).rows.tolist() == whole.rows.tolist()


def test_the_notes_say_when_all_is_told():
    picks = select("batch_bald", 30, draws=make(4, samples=4, size=60))
    assert picks.notes[0] == "joint entropies are estimates from 40,000 sampled labelings"
    said = picks.notes[1].split()
    assert said[:2] == ["the", "first"]
    assert " ".join(said[3:]) == "picks tell 99% of what 4 draws can: later ones are near random"
    told = int(said[2])
    assert picks.scores[:told].sum() > 0.98 * np.log(4) > picks.scores[: told - 2].sum()


def test_draws_that_agree_are_picked_from_at_random():
    picks = select("batch_bald", 5, draws=np.full((4, 30, 3), 1 / 3))
    assert len(set(picks)) == 5
    assert picks.notes == ("the draws agree on every candidate: picked at random",)


def test_it_is_a_set_function():
    function = JointInformation(make(2), generator=Generator(0))
    found = greedy(function, 3)
    assert function.chosen == found.rows.tolist()
    assert function.value == pytest.approx(float(found.gains.sum()))


def test_what_is_refused():
    draws = make(0)
    with pytest.raises(InputError, match="num_samples must be a whole number >= 1, got 0"):
        select("batch_bald", 2, draws=draws, num_samples=0)
    with pytest.raises(InputError, match=r"shortlist must be a whole number >= n \(2\), got 1"):
        select("batch_bald", 2, draws=draws, shortlist=1)
    with pytest.raises(InputError, match="method must be"):
        select("batch_bald", 2, draws=draws, method="stochastic")
    with pytest.raises(ResourceError, match=r"num_samples must be such .* 1,000,0"):
        select("batch_bald", 2, draws=draws, num_samples=10**15)
    with pytest.raises(ResourceError, match="memory must be at least"):
        select("batch_bald", 2, draws=draws, memory=1000)
