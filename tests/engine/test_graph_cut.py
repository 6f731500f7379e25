"""Graph cut on shards picks what one machine picks."""

import numpy as np
import pytest
import torch
from cases import points

from labelwise.engine import LocalShards, graph_cut
from labelwise.errors import InputError
from labelwise.kernels import (
    Chosen,
    Cosine,
    Euclidean,
    GradientEmbedding,
    Progress,
    Similarity,
    greedy,
)
from labelwise.kernels.functions import GraphCut

KINDS = ["gaussian", "grid of ties", "copies", "two scales", "all the same", "one dimension"]


def same(one, other):
    assert one.rows.tolist() == other.rows.tolist()
    np.testing.assert_allclose(one.gains.numpy(), other.gains.numpy(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("line", [1, 4, 512])
@pytest.mark.parametrize("lam", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("similarity", ["dot", "cosine", "cosine01"])
@pytest.mark.parametrize("kind", KINDS)
def test_any_number_of_shards_picks_as_one_machine(kind, similarity, lam, line):
    x = points(kind, 1)
    n = min(20, len(x) - 2)
    function = GraphCut(Similarity(Euclidean(x, shift=False), similarity), lam)
    expected = greedy(function, n)
    for shards in (1, 3):
        with LocalShards(x, shards=shards, shift=False) as pool:
            same(graph_cut(pool, n, kind=similarity, lam=lam, line=line), expected)


def test_other_geometries_covered_rows_candidates_and_resuming():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(3, 0.5), size=60).astype(np.float32)
    h = rng.normal(size=(60, 5)).astype(np.float32)
    covered = torch.tensor([4, 9])
    candidates = torch.arange(0, 60, 2)
    options = {"covered": covered, "candidates": candidates}
    for arrays, kind, geometry, similarity in (
        ((probs, h), "gradient", GradientEmbedding(probs, h), "dot"),
        ((h,), "cosine", Cosine(h), "cosine01"),
    ):
        function = GraphCut(Similarity(geometry, similarity), 1.0, covered=covered)
        expected = greedy(function, 15, candidates=candidates)
        with LocalShards(*arrays, shards=4, kind=kind) as pool:
            same(graph_cut(pool, 15, kind=similarity, lam=1.0, **options), expected)
            for most in range(1, 15, 3):
                earlier = Progress(Chosen(expected.rows[:most], expected.gains[:most]))
                again = graph_cut(pool, 15, kind=similarity, lam=1.0, progress=earlier, **options)
                same(again, expected)


def test_a_round_makes_many_picks_and_lost_shards_change_nothing(monkeypatch):
    x = points("gaussian", 3)
    n = len(x) // 2
    expected = greedy(GraphCut(Similarity(Euclidean(x, shift=False)), 0.5), n)
    with LocalShards(x, shards=3, shift=False) as pool:
        ask, asked = pool.crew.ask, []

        def losing(calls):
            asked.append(str(next(iter(calls.values()))[1][:1]))
            pool.crew.replace(len(asked) % 3)
            return ask(calls)

        monkeypatch.setattr(pool.crew, "ask", losing)
        same(graph_cut(pool, n), expected)
    assert asked.count("('front',)") < n / 2


def test_what_is_not_linear_or_has_been_moved_is_refused():
    x = 100 + points("gaussian", 0)
    with LocalShards(x, shards=2) as pool:
        with pytest.raises(InputError, match="kind must be linear, got 'rbf'"):
            graph_cut(pool, 2, kind="rbf")
        with pytest.raises(InputError, match="lam must be a finite number >= 0, got -1"):
            graph_cut(pool, 2, lam=-1)
        with pytest.raises(InputError, match="depends on the origin"):
            graph_cut(pool, 2, kind="dot")
