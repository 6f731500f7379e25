"""`select` on an engine: the same picks, and clear refusals."""

import sys
from contextlib import contextmanager

import numpy as np
import pytest

from labelwise.engine import Engine, LocalShards, OnRay, find_engine
from labelwise.errors import InputError, MissingDependencyError, ResourceError
from labelwise.strategies import select


class InShards(Engine):
    """Shards in this process, and what was asked of them."""

    name = "shards"

    def __init__(self):
        self.asked = []

    @contextmanager
    def points(self, kind, *arrays, bias=False, hold=0):
        self.asked.append((kind, len(arrays), bias))
        with LocalShards(*arrays, shards=3, kind=kind, bias=bias) as pool:
            yield pool


@pytest.fixture
def pool():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.full(4, 0.3), size=120).astype(np.float32)
    return {"probs": probs, "embeddings": rng.normal(size=(120, 6)).astype(np.float32)}


@pytest.mark.parametrize(
    ("name", "options", "asked"),
    [
        ("badge", {}, ("gradient", 2, False)),
        ("badge", {"bias": True, "first": "uniform"}, ("gradient", 2, True)),
        ("k_center", {"labeled": [3, 7]}, ("euclidean", 1, False)),
        ("k_center", {"metric": "cosine", "candidates": range(10, 100)}, ("cosine", 1, False)),
    ],
)
def test_an_engine_changes_where_and_not_what(name, options, asked, pool):
    here = select(name, 25, seed=4, **pool, **options)
    engine = InShards()
    there = select(name, 25, seed=4, engine=engine, **pool, **options)
    assert engine.asked == [asked]
    assert here.rows.tolist() == there.rows.tolist()
    np.testing.assert_allclose(here.scores, there.scores, rtol=1e-12)


def test_a_strategy_that_cannot_use_an_engine_says_which_can(pool):
    with pytest.raises(InputError, match=r"which margin cannot use; badge, .*k_center can"):
        select("margin", 2, probs=pool["probs"], engine=InShards())


def test_the_environment_names_an_engine(pool, monkeypatch):
    monkeypatch.setenv("LABELWISE_ENGINE", "rey")
    with pytest.raises(InputError, match="LABELWISE_ENGINE must be known, got 'rey'; did you mean"):
        select("k_center", 2, **pool)
    assert len(select("k_center", 2, engine="local", **pool).rows) == 2
    monkeypatch.setenv("LABELWISE_ENGINE", "ray")
    assert isinstance(find_engine(), OnRay)
    with pytest.raises(InputError, match="LABELWISE_ENGINE is 'ray', which margin cannot use"):
        select("margin", 2, probs=pool["probs"])
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"labelwise\[ray\]"):
        select("k_center", 2, **pool)


@pytest.mark.slow
def test_ray_by_name_with_the_cluster_that_the_environment_names(cluster, pool, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    here = select("badge", 20, **pool)
    assert select("badge", 20, engine="ray", **pool).rows.tolist() == here.rows.tolist()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ResourceError, match="cannot be reached"):
        select("badge", 20, engine="ray", **pool)
