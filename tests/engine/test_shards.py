"""A pool on shards picks what one machine picks, whoever is lost on the way."""

import numpy as np
import pytest
import torch
from cases import KINDS, points

from labelwise.engine import LocalShards
from labelwise.errors import InputError
from labelwise.kernels import (
    Cosine,
    Euclidean,
    Generator,
    GradientEmbedding,
    farthest_first,
    kmeans_plus_plus,
)

KERNELS = {
    "farthest-first": farthest_first,
    "with outliers": lambda g, n, **more: farthest_first(
        g, n, outliers=3, generator=Generator(2), **more
    ),
    "k-means++": lambda g, n, **more: kmeans_plus_plus(g, n, generator=Generator(4), **more),
    "from the largest": lambda g, n, **more: kmeans_plus_plus(
        g, n, generator=Generator(5), first="largest", **more
    ),
    "greedy k-means++": lambda g, n, **more: kmeans_plus_plus(
        g, n, generator=Generator(6), trials=3, **more
    ),
}


def gradients(seed, rows=90, classes=4, width=6):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.3), size=rows).astype(np.float32)
    return probs, rng.normal(size=(rows, width)).astype(np.float16)


def same(one, other):
    assert one.rows.tolist() == other.rows.tolist()
    np.testing.assert_allclose(one.gains.numpy(), other.gains.numpy(), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", KERNELS)
def test_any_number_of_shards_picks_as_one_machine(name, seed, kind):
    x = points(kind, seed)
    n = min(len(x) - 3, 25)
    covered = torch.tensor([1, len(x) - 1]) if seed % 2 else None
    expected = KERNELS[name](Euclidean(x), n, covered=covered, block=5)
    for shards in (1, 2, 5):
        with LocalShards(x, shards=shards) as pool:
            same(KERNELS[name](pool, n, covered=covered, block=5), expected)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("shards", [1, 3])
def test_gradients_and_angles_on_shards(name, shards):
    probs, h = gradients(0)
    labels = np.random.default_rng(1).integers(0, 4, len(h))
    for arrays, geometry, options in (
        ((probs, h), GradientEmbedding(probs, h), {"kind": "gradient"}),
        ((probs, h), GradientEmbedding(probs, h, bias=True), {"kind": "gradient", "bias": True}),
        (
            (probs, h, labels),
            GradientEmbedding(probs, h, labels=torch.tensor(labels)),
            {"kind": "gradient"},
        ),
        ((h,), Cosine(h), {"kind": "cosine"}),
    ):
        with LocalShards(*arrays, shards=shards, **options) as pool:
            same(KERNELS[name](pool, 30, block=4), KERNELS[name](geometry, 30, block=4))


@pytest.mark.parametrize("name", KERNELS)
def test_candidates_and_ids_mean_the_same_on_shards(name):
    x = points("gaussian", 6)
    candidates = torch.from_numpy(np.random.default_rng(0).permutation(len(x))[: len(x) // 2])
    ids = [f"item {i}" for i in range(len(x))]

    def run(geometry):
        if "++" not in name and "largest" not in name:
            return KERNELS[name](geometry, 10, candidates=candidates)
        trials = 3 if "greedy" in name else 1
        return kmeans_plus_plus(
            geometry, 10, generator=Generator(1, ids), candidates=candidates, trials=trials
        )

    with LocalShards(x, shards=4) as pool:
        same(run(pool), run(Euclidean(x)))


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("kind", ["gaussian", "copies", "grid of ties"])
def test_shards_that_are_lost_at_any_time_change_nothing(name, kind, monkeypatch):
    x = points(kind, 2)
    n = min(len(x) - 2, 25)
    expected = KERNELS[name](Euclidean(x), n, block=4)
    rng = np.random.default_rng(0)
    with LocalShards(x, shards=3) as pool:
        ask, lost = pool.crew.ask, []

        def losing(calls):
            if rng.random() < 0.3:
                lost.append(int(rng.integers(3)))
                pool.crew.replace(lost[-1])
            return ask(calls)

        monkeypatch.setattr(pool.crew, "ask", losing)
        same(KERNELS[name](pool, n, block=4), expected)
    assert len(lost) > 3


def test_one_pool_serves_one_selection_after_another():
    x = points("gaussian", 4)
    with LocalShards(x, shards=2) as pool:
        for covered in (None, torch.tensor([3]), None):
            same(
                farthest_first(pool, 7, covered=covered),
                farthest_first(Euclidean(x), 7, covered=covered),
            )


def test_files_memory_maps_and_lists_of_files_are_read_by_the_shards(tmp_path):
    x = points("far from the origin", 0)
    expected = farthest_first(Euclidean(x), 5)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "a.npy", x[:7])
    np.save(tmp_path / "b.npy", x[7:])
    raw = np.memmap(tmp_path / "x.raw", x.dtype, "w+", offset=64, shape=x.shape)
    raw[:] = x
    raw.flush()
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for source in (tmp_path / "x.npy", mapped, raw, [tmp_path / "a.npy", tmp_path / "b.npy"]):
        with LocalShards(source, shards=3) as pool:
            same(farthest_first(pool, 5), expected)
            assert len(pool.crew) == 3


def test_a_copy_to_an_accelerator_is_asked_for_by_name():
    x = points("gaussian", 0)
    with LocalShards(x, shards=3, devices=["cpu"]) as pool:
        same(farthest_first(pool, 5), farthest_first(Euclidean(x), 5))


def test_numbers_travel_in_the_shortest_form_that_holds_them():
    x = points("gaussian", 2)
    assert x.dtype == np.float16
    with LocalShards(x, shards=2) as pool:
        asked = []
        gather = pool.gather

        def watched(method, rows):
            answer = gather(method, rows)
            asked.append((method, {array.dtype for array in answer}))
            return answer

        pool.gather = watched
        farthest_first(pool, 5)
    assert ("factors", {np.dtype(np.float16)}) in asked


def test_what_does_not_fit_is_refused(tmp_path):
    x = points("gaussian", 0)
    with pytest.raises(InputError, match="shards must be >= 1, got 0"):
        LocalShards(x, shards=0)
    with pytest.raises(InputError, match="made of probs and embeddings, got 1"):
        LocalShards(x, kind="gradient")
    with pytest.raises(InputError, match="did you mean cosine"):
        LocalShards(x, kind="cosin")
    with pytest.raises(InputError, match="one number of rows"):
        LocalShards(np.full((3, 2), 0.5), x, kind="gradient")
    with pytest.raises(InputError, match="at least 1"):
        LocalShards(np.zeros((0, 2)))
    np.save(tmp_path / "f.npy", np.asfortranarray(x))
    with pytest.raises(InputError, match="save it as a C-ordered"):
        LocalShards(tmp_path / "f.npy")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[:, 1:])
    with pytest.raises(InputError, match="files must be of one width"):
        LocalShards([tmp_path / "x.npy", tmp_path / "y.npy"])
    with LocalShards(x, shards=2) as pool, pytest.raises(InputError, match="rows on shards stay"):
        next(pool.blocks())
