"""Facility location in two rounds, against its definition in float64."""

import itertools

import numpy as np
import pytest
import torch
from cases import points

from labelwise.engine import LocalShards, greedi
from labelwise.errors import InputError
from labelwise.kernels import Euclidean, Similarity, greedy
from labelwise.kernels.functions.facility_location import FacilityLocation


def similarities(x):
    unit = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    return (1 + unit @ unit.T) / 2


def by_definition(s, n, elements, represented):
    """Greedy on some rows and columns of all similarities."""
    best, picks = np.zeros(len(represented)), []
    part = s[np.ix_(represented, elements)]
    for _ in range(n):
        gains = np.maximum(part - best[:, None], 0).sum(0)
        gains[picks] = -1
        # Two rows that cover each other alone gain the same: the lower one is picked.
        picks.append(int(np.flatnonzero(gains >= gains.max() - 1e-7)[0]))
        best = np.maximum(best, part[:, picks[-1]])
    return np.asarray(elements)[picks], best.sum()


def value(s, rows):
    return s[:, rows].max(1).sum()


@pytest.mark.parametrize("shards", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_two_rounds_by_definition(seed, shards):
    x = np.random.default_rng(seed).normal(size=(80, 5)).astype(np.float32)
    s, n = similarities(x), 8
    with LocalShards(x, shards=shards, shift=False) as pool:
        chosen = greedi(pool, n)
        cuts = pool.cuts
    parts = [np.arange(start, stop) for start, stop in itertools.pairwise(cuts)]
    alone = [by_definition(s, n, part, part)[0] for part in parts]
    second, _ = by_definition(s, n, np.concatenate(alone), np.arange(len(x)))
    worth = [value(s, rows) for rows in (second, *alone)]
    assert value(s, chosen.rows.numpy()) == pytest.approx(max(worth), rel=1e-6)
    assert float(chosen.gains.sum()) == pytest.approx(max(worth), rel=1e-5)
    assert chosen.rows.tolist() == [second, *alone][int(np.argmax(worth))].tolist()


def test_it_is_worth_nearly_what_greedy_is():
    x = np.random.default_rng(3).normal(size=(300, 6)).astype(np.float32)
    whole = greedy(FacilityLocation(Similarity(Euclidean(x, shift=False))), 12)
    with LocalShards(x, shards=5, shift=False) as pool:
        parts = greedi(pool, 12)
    s = similarities(x)
    assert value(s, parts.rows.numpy()) >= 0.98 * value(s, whole.rows.numpy())
    assert value(s, parts.rows.numpy()) <= value(s, whole.rows.numpy()) * 1.02


def test_candidates_few_rows_a_shard_and_lost_shards(monkeypatch):
    x = points("gaussian", 1)
    candidates = torch.arange(0, len(x), 3)
    with LocalShards(x, shards=5) as pool:
        expected = greedi(pool, 3, kind="rbf", width=2.0, candidates=candidates)
        assert set(expected.rows.tolist()) <= set(candidates.tolist())
        ask, asked = pool.crew.ask, []

        def losing(calls):
            asked.append(1)
            pool.crew.replace(len(asked) % 5)
            return ask(calls)

        monkeypatch.setattr(pool.crew, "ask", losing)
        again = greedi(pool, 3, kind="rbf", width=2.0, candidates=candidates)
        assert again.rows.tolist() == expected.rows.tolist()
        np.testing.assert_allclose(again.gains.numpy(), expected.gains.numpy(), rtol=1e-6)
        assert len(asked) > 5


def test_what_does_not_fit_is_refused():
    with LocalShards(100 + points("gaussian", 0), shards=2) as pool:
        with pytest.raises(InputError, match="depends on the origin"):
            greedi(pool, 2)
        with pytest.raises(InputError, match="needs width"):
            greedi(pool, 2, kind="rbf")
