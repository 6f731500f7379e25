"""The same picks on a real cluster of two nodes, and what happens when part of it goes."""

import os
import signal
import sys

import numpy as np
import pytest
import torch

from labelwise.errors import InputError, MissingDependencyError, ResourceError
from labelwise.kernels import (
    Euclidean,
    Generator,
    GradientEmbedding,
    farthest_first,
    kmeans_plus_plus,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(scope="module")
def pool_of_clusters():
    rng = np.random.default_rng(0)
    centers = 4 * rng.normal(size=(30, 24))
    return (centers[rng.integers(0, 30, 3000)] + rng.normal(size=(3000, 24))).astype(np.float16)


@pytest.fixture(scope="class")
def shards(cluster, pool_of_clusters):
    from labelwise.engine import RayShards

    with RayShards(pool_of_clusters, shards=3, address=cluster.address) as pool:
        yield pool


def same(one, other):
    assert one.rows.tolist() == other.rows.tolist()
    np.testing.assert_allclose(one.gains.numpy(), other.gains.numpy(), rtol=1e-12)


def process_of(pool, shard):
    """The process id of a shard's actor."""
    return pool.crew._ray.get(pool.crew._actors[shard].__ray_call__.remote(_own_process))


def _own_process(_):
    return os.getpid()


class TestThreeShardsOnTwoNodes:
    def test_shards_lie_on_both_nodes_and_pick_as_one_machine(self, shards, pool_of_clusters):
        ray, x = shards.crew._ray, Euclidean(pool_of_clusters)
        where = {
            ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))
            for actor in shards.crew._actors
        }
        assert len(where) == 2
        same(farthest_first(shards, 150), farthest_first(x, 150))
        covered = torch.arange(40)
        same(farthest_first(shards, 60, covered=covered), farthest_first(x, 60, covered=covered))
        same(
            kmeans_plus_plus(shards, 150, generator=Generator(0)),
            kmeans_plus_plus(x, 150, generator=Generator(0)),
        )

    def test_a_worker_killed_in_the_middle_is_replaced_and_the_picks_are_the_same(
        self, shards, pool_of_clusters, monkeypatch
    ):
        expected = farthest_first(Euclidean(pool_of_clusters), 150, block=16)
        crew, asked = shards.crew, []
        ask = crew.ask

        def killing(calls):
            asked.append(calls)
            if len(asked) == 4:
                os.kill(process_of(shards, 0), signal.SIGKILL)
            if len(asked) == 9:
                crew._ray.kill(crew._actors[2])
            return ask(calls)

        before = [actor._actor_id for actor in crew._actors]
        monkeypatch.setattr(crew, "ask", killing)
        same(farthest_first(shards, 150, block=16), expected)
        assert len(asked) > 9
        after = [actor._actor_id for actor in crew._actors]
        assert [one == other for one, other in zip(before, after)] == [False, True, False]


def test_actors_read_their_own_stretch_of_files(cluster, tmp_path):
    from labelwise.engine import RayShards

    rng = np.random.default_rng(1)
    probs = rng.dirichlet(np.full(5, 0.2), size=400).astype(np.float32)
    h = rng.normal(size=(400, 12)).astype(np.float16)
    np.save(tmp_path / "probs.npy", probs)
    np.save(tmp_path / "h.npy", h)
    expected = kmeans_plus_plus(
        GradientEmbedding(probs, h), 60, generator=Generator(3), first="largest"
    )
    files = tmp_path / "probs.npy", tmp_path / "h.npy"
    with RayShards(*files, shards=2, kind="gradient", address=cluster.address) as pool:
        same(kmeans_plus_plus(pool, 60, generator=Generator(3), first="largest"), expected)
        (tmp_path / "h.npy").unlink()
        os.kill(process_of(pool, 1), signal.SIGKILL)
        with pytest.raises(InputError, match=r"a shard cannot read .*h\.npy"):
            kmeans_plus_plus(pool, 60, generator=Generator(3))


def test_a_cluster_without_room_says_so(cluster):
    from labelwise.engine import RayShards

    with pytest.raises(ResourceError, match=r"no room for 1 shards within 2 s.* 1 GPUs, it has"):
        RayShards(np.zeros((4, 2)), shards=1, address=cluster.address, device="cuda", patience=2.0)


def test_a_worker_that_is_always_lost_is_given_up(cluster, monkeypatch):
    from labelwise.engine import RayShards, ray_crew

    monkeypatch.setattr(ray_crew, "MOST_LOSSES", 1)
    with RayShards(np.zeros((4, 2)), shards=1, address=cluster.address) as pool:
        actors = pool.crew._actors
        hire = pool.crew._hire

        def doomed(shard):
            actor = hire(shard)
            pool.crew._ray.kill(actor)
            return actor

        monkeypatch.setattr(pool.crew, "_hire", doomed)
        pool.crew._ray.kill(actors[0])
        with pytest.raises(ResourceError, match="rows 0 to 3 was lost 2 times in a row"):
            farthest_first(pool, 2)


def test_a_cluster_that_cannot_be_reached_is_one_clear_line(monkeypatch):
    from labelwise.engine import RayShards
    from labelwise.engine.cluster import Session, import_ray

    import_ray().shutdown()
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:port"):
        with pytest.raises(ResourceError, match="cannot be reached") as caught:
            RayShards(np.zeros((4, 2)), shards=1, address=address)
        assert "\n" not in str(caught.value)
        assert address in str(caught.value)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ResourceError, match=r"127\.0\.0\.1:1"):
        Session()


def test_without_ray_the_extra_is_named(monkeypatch):
    from labelwise.engine.cluster import import_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'labelwise\[ray\]'"):
        import_ray()
