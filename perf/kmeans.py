"""k-means, nearest neighbors and what is built on them, beside faiss and scikit-learn.

All k-means codes start from the same rows and may move the centers equally often; ours ends with
one more assignment, to the final centers, which the inertia of the others is measured by as well.
The pool has the falling spectrum of principal components. Threads are the same for all.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable

import faiss
import numpy as np
import torch
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

from labelwise.kernels import (
    Generator,
    agglomerate,
    hashed_density,
    kmeans,
    nearest_neighbors,
    neighbor_density,
)
from perf.common import PeakMemory, machine, table

ITERATIONS = 20


def _pool(n: int, d: int) -> np.ndarray:
    scale = 1 / np.sqrt(1 + np.arange(d, dtype=np.float32))
    return np.random.default_rng(0).standard_normal((n, d), dtype=np.float32) * scale


def _timed(call: Callable[[], object]) -> tuple[float, float, object]:
    """Seconds, MB beyond the input and the answer."""
    with PeakMemory() as memory:
        start = time.perf_counter()
        found = call()
        seconds = time.perf_counter() - start
    return seconds, memory.megabytes, found


def _faiss_kmeans(x: np.ndarray, start: np.ndarray) -> np.ndarray:
    found = faiss.Kmeans(
        x.shape[1],
        len(start),
        niter=ITERATIONS,
        max_points_per_centroid=len(x),
        min_points_per_centroid=1,
    )
    found.train(x, init_centroids=start)
    return found.centroids


def _inertia(x: np.ndarray, centers: np.ndarray) -> float:
    given = torch.from_numpy(np.ascontiguousarray(centers))
    found = kmeans(x, len(centers), generator=Generator(0), init=given, iterations=0)
    return found.inertia


def _clusterings(x: np.ndarray, k: int) -> list[dict[str, object]]:
    start = x[np.random.default_rng(1).permutation(len(x))[:k]].copy()
    given = torch.from_numpy(start)
    options = {"n_init": 1, "max_iter": ITERATIONS, "tol": 0}
    codes: dict[str, Callable[[], np.ndarray]] = {
        "labelwise": lambda: kmeans(
            x, k, generator=Generator(0), init=given, iterations=ITERATIONS, tolerance=0
        ).centers.numpy(),
        f"faiss {faiss.__version__}": lambda: _faiss_kmeans(x, start),
        f"scikit-learn {importlib.metadata.version('scikit-learn')}": lambda: (
            KMeans(k, init=start, algorithm="lloyd", **options).fit(x).cluster_centers_
        ),
    }
    job = f"k-means, {len(x):,} x {x.shape[1]}, k = {k}, {ITERATIONS} iterations"
    rows = []
    for name, call in codes.items():
        seconds, megabytes, centers = _timed(call)
        rows.append(_row(job, name, seconds, megabytes, _inertia(x, np.asarray(centers))))
    return rows


def _neighbors(x: np.ndarray, k: int) -> list[dict[str, object]]:
    def theirs() -> np.ndarray:
        index = faiss.IndexFlatL2(x.shape[1])
        index.add(x)
        return index.search(x, k)[1]

    job = f"{k} nearest neighbors of all, {len(x):,} x {x.shape[1]}"
    seconds, megabytes, mine = _timed(lambda: nearest_neighbors(x, k).rows.numpy())
    rows = [_row(job, "labelwise, exact", seconds, megabytes, 1.0)]
    seconds, megabytes, other = _timed(theirs)
    agree = float((np.sort(mine, 1) == np.sort(other, 1)).mean())
    return [*rows, _row(job, f"faiss {faiss.__version__} flat", seconds, megabytes, agree)]


def _densities(x: np.ndarray, k: int) -> list[dict[str, object]]:
    job = f"density of {k} neighbors, {len(x):,} x {x.shape[1]}"
    seconds, megabytes, exact = _timed(lambda: neighbor_density(x, k))
    rows = [_row(job, "exact", seconds, megabytes, 1.0)]
    seconds, megabytes, hashed = _timed(lambda: hashed_density(x, k, generator=Generator(0)))
    assert isinstance(exact, torch.Tensor)
    assert isinstance(hashed, torch.Tensor)
    return [*rows, _row(job, "hashed", seconds, megabytes, float((hashed / exact).mean()))]


def _row(
    job: str, code: str, seconds: float, megabytes: float, quality: float
) -> dict[str, object]:
    return {
        "job": job,
        "code": code,
        "seconds": seconds,
        "MB beyond the input": megabytes,
        "inertia, or share of the exact answer": quality,
    }


def run(quick: bool = False) -> list[dict[str, object]]:
    """A row per job and code."""
    n, d, small = (4000, 64, 2000) if quick else (50_000, 512, 20_000)
    x = _pool(n, d)
    rows = []
    with threadpool_limits(torch.get_num_threads()):
        faiss.omp_set_num_threads(torch.get_num_threads())
        for k in (50,) if quick else (100, 500, 1000, 2000):
            rows += _clusterings(x, k)
        rows += _neighbors(x[:small], 20)
        for size in (small // 2, small, n):
            rows += _densities(x[:size], 20)
        wide = _pool(small, 720 if quick else 7200)
        seconds, megabytes, found = _timed(
            lambda: (
                kmeans(
                    wide,
                    50 if quick else 500,
                    generator=Generator(0),
                    minibatch=1000,
                    iterations=30,
                ).inertia
            )
        )
        job = f"k-means in 30 minibatches, {wide.shape[0]:,} x {wide.shape[1]:,}"
        assert isinstance(found, float)
        rows.append(_row(job, "labelwise", seconds, megabytes, found))
        seconds, megabytes, _ = _timed(lambda: agglomerate(x, generator=Generator(0), mean_size=2))
        rows.append(
            _row(f"average linkage on a graph, {n:,} x {d}", "labelwise", seconds, megabytes, 1.0)
        )
    return rows


if __name__ == "__main__":
    print(machine())
    print(table(run()))
