"""PT4AL: batches by pretext loss, hardest first; evenly spaced, then the least sure inside."""

import math

import numpy as np
import pytest
import torch

from labelwise.errors import InputError
from labelwise.strategies import select
from labelwise.strategies.pt4al import direction_scores

N = 103


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(0)
    return {"pretext_loss": rng.permutation(N) / 7, "logits": rng.normal(size=(N, 3)) * 4}


def in_order(pool):
    return np.argsort(-pool["pretext_loss"])


def batch(pool, number, batches=10):
    order = in_order(pool)
    return order[number * N // batches : (number + 1) * N // batches]


def by_definition(logits):
    """The authors' score, one row at a time."""
    out = []
    for row in logits:
        length = math.sqrt(sum(v * v for v in row))
        powers = [math.exp(v / length) for v in row]
        out.append(1 - max(powers) / sum(powers))
    return np.array(out)


def test_direction_scores_are_their_definition(pool):
    found = direction_scores(pool["logits"])
    np.testing.assert_allclose(found.numpy(), by_definition(pool["logits"]), rtol=1e-12)
    np.testing.assert_allclose(direction_scores(1e-200 * pool["logits"]), found, rtol=1e-9)
    np.testing.assert_allclose(direction_scores(1e300 * pool["logits"]), found, rtol=1e-9)
    assert direction_scores(torch.zeros(1, 4)).tolist() == [0.75]


def test_the_direction_is_not_the_probability():
    logits = torch.tensor([[9.0, 8.0], [1.0, 0.0]])  # the second is surer by direction alone
    assert direction_scores(logits).argmax() == 0
    near = 1 - logits.softmax(1).amax(1)
    torch.testing.assert_close(near[0], near[1])


def test_round_0_is_evenly_spaced_over_the_hardest_batch(pool):
    picks = select("pt4al", 5, pretext_loss=pool["pretext_loss"], round=0, rounds=10)
    assert picks.rows.tolist() == batch(pool, 0)[[0, 2, 4, 6, 8]].tolist()
    assert picks.scores.tolist() == pool["pretext_loss"][picks.rows].tolist()
    picks = select("pt4al", 4, pretext_loss=pool["pretext_loss"], round=0, batches=2)
    assert picks.rows.tolist() == in_order(pool)[[0, 12, 25, 38]].tolist()
    # every fifth of a batch of fifty, as the authors take every fifth of 5,000
    picks = select("pt4al", 10, pretext_loss=np.arange(500.0), round=0)
    assert picks.rows.tolist() == list(range(499, 449, -5))


@pytest.mark.parametrize("turn", [1, 4, 9])
def test_later_rounds_take_the_least_sure_inside_their_batch(pool, turn):
    picks = select("pt4al", 4, **pool, round=turn, rounds=10)
    inside = batch(pool, turn)
    expected = inside[np.argsort(-by_definition(pool["logits"][inside]))][:4]
    assert picks.rows.tolist() == expected.tolist()
    assert picks.notes == (f"batch {turn + 1} of 10 by pretext loss, hardest first",)


def test_ten_rounds_see_every_batch_once_whatever_the_size(pool):
    sizes, seen = [], []
    for turn in range(10):
        size = len(batch(pool, turn))
        picks = select("pt4al", size, **pool, round=turn, rounds=10, labeled=seen)
        assert set(picks) == set(batch(pool, turn))
        sizes.append(size)
        seen += picks.rows.tolist()
    assert sorted(sizes) == [10] * 7 + [11] * 3
    assert sorted(seen) == list(range(N))


def test_fewer_rounds_than_batches_leave_the_easiest_alone(pool):
    rows = [row for turn in range(5) for row in select("pt4al", 5, **pool, round=turn, batches=10)]
    assert set(rows) <= set(in_order(pool)[: 5 * N // 10])
    five = {row for turn in range(5) for row in select("pt4al", 5, **pool, round=turn, rounds=5)}
    assert five & set(batch(pool, 4, 5))


def test_more_rounds_than_batches_start_again_with_the_model(pool):
    asked = select("pt4al", 3, **pool, round=0, batches=4).rows
    again = select("pt4al", 3, **pool, round=4, batches=4, labeled=asked)
    left = np.setdiff1d(batch(pool, 0, 4), asked)
    expected = left[np.argsort(-by_definition(pool["logits"][left]))][:3]
    assert again.rows.tolist() == expected.tolist()


def test_a_batch_with_too_few_left_is_taken_whole_and_then_the_next(pool):
    gone = batch(pool, 3)[:8]
    picks = select("pt4al", 6, **pool, round=3, rounds=10, labeled=gone)
    left, after = batch(pool, 3)[8:], batch(pool, 4)
    assert set(picks.rows[: len(left)]) == set(left)
    unsure = after[np.argsort(-by_definition(pool["logits"][after]))]
    assert picks.rows[len(left) :].tolist() == unsure[: 6 - len(left)].tolist()
    assert "more batches were asked" in picks.notes[1]
    last = select("pt4al", 15, **pool, round=9, rounds=10)  # after the last comes the first
    assert set(last) <= set(batch(pool, 9)) | set(batch(pool, 0))
    first = select("pt4al", 15, pretext_loss=pool["pretext_loss"], round=0, rounds=10)
    assert first.rows[:10].tolist() == batch(pool, 0).tolist()
    assert first.rows[10:].tolist() == batch(pool, 1)[[0, 2, 4, 6, 8]].tolist()


def test_probs_serve_where_there_are_no_logits(pool):
    probs = torch.from_numpy(pool["logits"]).softmax(1).numpy()
    picks = select("pt4al", 3, pretext_loss=pool["pretext_loss"], probs=probs, round=2)
    inside = batch(pool, 2)
    assert picks.rows.tolist() == inside[np.argsort(probs[inside].max(1))][:3].tolist()
    assert picks.notes[1] == "no logits: ranked by the largest probability"


def test_equal_losses_fall_by_noise_and_not_by_row():
    loss = np.ones(1000)
    picks = select("pt4al", 100, pretext_loss=loss, round=0, rounds=10)
    other = select("pt4al", 100, pretext_loss=loss, round=0, rounds=10, seed=1)
    assert 300 < np.mean(picks.rows) < 700
    assert len(set(picks) & set(other)) < 40
    ids = np.array([f"item {i}" for i in range(1000)])
    order = np.random.default_rng(0).permutation(1000)
    one, two = (select("pt4al", 50, pretext_loss=loss, ids=each) for each in (ids, ids[order]))
    assert one.ids.tolist() == two.ids.tolist()


def test_numbers_are_sorted_as_numbers():
    loss = [9e-05, 0.5, 12.0, 3.0]  # as text 9e-05 is the largest
    assert select("pt4al", 4, pretext_loss=loss, batches=1).rows.tolist() == [2, 3, 1, 0]


def test_what_is_missing_is_said(pool):
    alone = {"pretext_loss": pool["pretext_loss"]}
    assert "no round given" in " ".join(select("pt4al", 3, **alone).notes)
    with pytest.raises(InputError, match="after round 0 and needs logits or probs"):
        select("pt4al", 3, **alone, round=1)
    with pytest.raises(InputError, match="pretext_loss"):
        select("pt4al", 3, logits=pool["logits"], round=1)
    with pytest.raises(InputError, match="batches must be a whole number >= 1, got 0"):
        select("pt4al", 3, **alone, batches=0)
    with pytest.raises(InputError, match="pretext_loss must be finite, but row 1"):
        select("pt4al", 1, pretext_loss=[0.5, math.nan])
