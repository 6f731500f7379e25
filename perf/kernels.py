"""Every kernel at 50,000 x 512 and 1,000 picks, and other codes on the same arrays.

Each line is a process of its own: wall seconds (libraries imported, one small call made before),
the peak of anonymous memory beyond the input, and the time over that of the matrix products that
the job cannot do without, at the best fp32 rate of this run (empty where there are none to speak
of). The second table runs each kernel beside others' codes at a size that those can hold, 5,000
rows and 100 picks, with the value of the objective that each reaches, from float64; ``sklearn``,
``faiss`` and ``apricot``'s feature-based function run at the full size.

``python -m perf kernels`` prints both; ``python -m perf.kernels NAME ...`` some of them.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from labelwise import kernels as k
from labelwise.kernels import functions as f
from perf.common import PeakMemory, gemm_rates, machine, table

FULL, SMALL = (50_000, 512, 1000), (5000, 512, 100)
QUICK = (2000, 64, 40)
CLASSES, NEIGHBORS, QUERY, LSH_BITS = 100, 20, 100, 12
LIMIT = 900


class Pool:
    """Arrays of one size, made when asked for: a mixture like the features of a network."""

    def __init__(self, rows: int, width: int, picks: int) -> None:
        self.rows, self.width, self.picks = rows, width, picks
        rng = np.random.default_rng(0)
        centers = rng.standard_normal((200, width), dtype=np.float32)
        noise = 0.7 * rng.standard_normal((rows, width), dtype=np.float32)
        self.x = np.maximum(centers[rng.integers(0, 200, rows)] + noise, 0)
        self.query = np.arange(QUERY)
        self.private = np.arange(QUERY, 2 * QUERY)

    def probs(self, classes: int) -> np.ndarray:
        rng = np.random.default_rng(1)
        logits = 3 * rng.standard_normal((self.rows, classes), dtype=np.float32)
        return torch.softmax(torch.from_numpy(logits), 1).numpy()

    def cosine(self) -> k.Similarity:
        return k.Similarity(k.Cosine(self.x), "cosine01")

    def kernel(self) -> np.ndarray:
        unit = self.x / np.linalg.norm(self.x, axis=1, keepdims=True)
        return (1 + unit @ unit.T) / 2

    def points(self, rows: np.ndarray, similarity: k.Similarity) -> Any:
        return similarity.take(torch.from_numpy(rows))


def _greedy(make: Callable[[Pool, k.Similarity], Any], **how: Any) -> Callable[[Pool], Any]:
    return lambda p: k.greedy(make(p, p.cosine()), p.picks, **how).rows


def _query(p: Pool, s: k.Similarity) -> Any:
    return p.points(p.query, s)


def _private(p: Pool, s: k.Similarity) -> Any:
    return p.points(p.private, s)


OURS: dict[str, Callable[[Pool], Any]] = {
    "farthest-first": lambda p: k.farthest_first(k.Euclidean(p.x), p.picks).rows,
    "farthest-first, 1 % outliers": lambda p: (
        k.farthest_first(k.Euclidean(p.x), p.picks, outliers=0.01, generator=k.Generator(0)).rows
    ),
    "k-means++": lambda p: (
        k.kmeans_plus_plus(k.Euclidean(p.x), p.picks, generator=k.Generator(0)).rows
    ),
    "k-means++, greedy, 9 trials": lambda p: (
        k.kmeans_plus_plus(k.Euclidean(p.x), p.picks, generator=k.Generator(0), trials=9).rows
    ),
    "k-means++, gradients of 100 classes": lambda p: (
        k.kmeans_plus_plus(
            k.GradientEmbedding(p.probs(CLASSES), p.x), p.picks, generator=k.Generator(0)
        ).rows
    ),
    "the same, 10 partitions": lambda p: _partitioned(p),
    "k-means, 20 iterations": lambda p: (
        k.kmeans(
            p.x, p.picks, generator=k.Generator(0), iterations=20, tolerance=0, init="random"
        ).centers
    ),
    "herding": lambda p: k.herding(k.Euclidean(p.x), p.picks).rows,
    "kernel herding": lambda p: k.kernel_herding(p.cosine(), p.picks).rows,
    "graph cut": _greedy(lambda p, s: f.GraphCut(s, lam=0.4)),
    "GCMI": _greedy(lambda p, s: f.GraphCutMI(s, _query(p, s))),
    "GCCG": _greedy(lambda p, s: f.GraphCutCG(s, _private(p, s), lam=0.4)),
    "feature-based, sqrt": lambda p: k.greedy(f.FeatureBased(p.x), p.picks).rows,
    "concave over modular": _greedy(lambda p, s: f.ConcaveOverModular(s, _query(p, s))),
    "matching pursuit": lambda p: k.matching_pursuit(k.Euclidean(p.x, shift=False), p.picks).rows,
    "matching pursuit, gradients of 10 classes": lambda p: (
        k.matching_pursuit(k.GradientEmbedding(p.probs(10), p.x), p.picks).rows
    ),
    "FLQMI": _greedy(lambda p, s: f.FacilityLocationQMI(s, _query(p, s))),
    "facility location": _greedy(lambda p, s: f.FacilityLocation(s)),
    "facility location, stochastic": _greedy(
        lambda p, s: f.FacilityLocation(s), method="stochastic", generator=k.Generator(0)
    ),
    "facility location, 20 neighbors": _greedy(
        lambda p, s: f.FacilityLocation(s, neighbors=NEIGHBORS)
    ),
    "FLVMI": _greedy(lambda p, s: f.FacilityLocationVMI(s, _query(p, s))),
    "FLCG": _greedy(lambda p, s: f.FacilityLocationCG(s, _private(p, s))),
    "FLCMI": _greedy(lambda p, s: f.FacilityLocationCMI(s, _query(p, s), _private(p, s))),
    "saturated coverage": _greedy(lambda p, s: f.SaturatedCoverage(s, alpha=0.1)),
    "ball coverage": lambda p: _balls(p),
    "log-determinant": _greedy(lambda p, s: f.LogDeterminant(s)),
    "LogDetMI": _greedy(lambda p, s: f.LogDeterminantMI(s, _query(p, s))),
    "LogDetCG": _greedy(lambda p, s: f.LogDeterminantCG(s, _private(p, s))),
    "LogDetCMI": _greedy(lambda p, s: f.LogDeterminantCMI(s, _query(p, s), _private(p, s))),
    "disparity-sum": lambda p: (
        k.greedy(f.DisparitySum(k.Similarity(k.Euclidean(p.x), "distance")), p.picks).rows
    ),
    "20 nearest neighbors": lambda p: k.nearest_neighbors(p.x, NEIGHBORS, exclude_self=True).rows,
    "density, 20 neighbors": lambda p: k.neighbor_density(p.x, NEIGHBORS),
    "density, hashed": lambda p: k.hashed_density(p.x, NEIGHBORS, generator=k.Generator(0)),
    "agglomerative clusters": lambda p: (
        k.agglomerate(
            k.Cosine(p.x), generator=k.Generator(0), neighbors=NEIGHBORS, clusters=p.picks
        ).assignment
    ),
    "Fisher greedy (BAIT), 5,000 of 64 x 5, 100 picks": lambda p: (
        k.fisher_greedy(p.probs(5)[:5000], p.x[:5000, :64], min(p.picks, 100)).rows
    ),
}


def _partitioned(p: Pool) -> Any:
    geometry = k.GradientEmbedding(p.probs(CLASSES), p.x)

    def seed(part: k.Part) -> k.Chosen:
        return k.kmeans_plus_plus(part.geometry, part.n, generator=part.generator)

    return k.partitioned(seed, geometry, p.picks, 10, generator=k.Generator(0)).rows


def _balls(p: Pool) -> Any:
    geometry = k.Cosine(p.x)
    sample = k.nearest_neighbors(geometry, 50, queries=torch.arange(0, p.rows, p.rows // 100))
    radius = float(sample.squared_distances[:, -1].median().sqrt())
    return k.greedy(
        f.FacilityLocation(k.Similarity(geometry, "top_hat", width=radius)), p.picks
    ).rows


def work(name: str, rows: int, width: int, picks: int) -> float:
    """Operations in matrix products that a job cannot do without; 0 for none to speak of."""
    column, all_pairs = 2.0 * rows * width, 2.0 * rows * rows * width
    if "gradients" in name or "partitions" in name:
        return (
            0.1 * column * picks if "partitions" in name else 2.0 * rows * (width + CLASSES) * picks
        )
    if name.startswith("k-means,"):
        return 20 * column * picks
    if any(
        part in name for part in ("farthest", "k-means++", "herding", "graph", "GCCG", "dispar")
    ):
        return column * picks
    if name in ("20 nearest neighbors", "density, 20 neighbors", "agglomerative clusters"):
        return all_pairs
    if name.startswith(("facility", "FLVMI", "FLCG", "FLCMI", "saturated")) and "stoch" not in name:
        return all_pairs
    return column * QUERY if name in ("GCMI", "FLQMI", "concave over modular") else 0.0


def value(name: str, p: Pool, rows: np.ndarray) -> float:
    """What a selection is worth under its own objective, in float64; NaN where it has none."""
    x = p.x.astype(np.float64)
    s = None if name in ("farthest-first", "feature-based, sqrt") else p.kernel().astype(np.float64)
    q, v = p.query, p.private
    inside = None if s is None else s[np.ix_(rows, rows)]
    eye = np.eye(len(rows))

    def logdet(given: np.ndarray) -> float:
        if not len(given):
            return float(np.linalg.slogdet(inside + eye)[1])
        cross = s[np.ix_(rows, given)]
        inner = s[np.ix_(given, given)] + np.eye(len(given))
        return float(np.linalg.slogdet(inside + eye - cross @ np.linalg.solve(inner, cross.T))[1])

    none = np.zeros(0, dtype=int)
    return {
        "farthest-first": lambda: -np.sqrt(_radius(x, rows)),
        "facility location": lambda: s[:, rows].max(1).sum(),
        "graph cut": lambda: s[:, rows].sum() - 0.4 * inside.sum(),
        "GCMI": lambda: 2 * s[np.ix_(rows, q)].sum(),
        "GCCG": lambda: s[:, rows].sum() - 0.4 * inside.sum() - 0.8 * s[np.ix_(rows, v)].sum(),
        "feature-based, sqrt": lambda: np.sqrt(x[rows].sum(0)).sum(),
        "FLQMI": lambda: s[np.ix_(q, rows)].max(1).sum() + s[np.ix_(rows, q)].max(1).sum(),
        "FLVMI": lambda: np.minimum(s[:, rows].max(1), s[:, q].max(1)).sum(),
        "FLCG": lambda: np.maximum(s[:, rows].max(1) - s[:, v].max(1), 0).sum(),
        "FLCMI": lambda: np.maximum(
            np.minimum(s[:, rows].max(1), s[:, q].max(1)) - s[:, v].max(1), 0
        ).sum(),
        "saturated coverage": lambda: np.minimum(s[:, rows].sum(1), 0.1 * s.sum(1)).sum(),
        "log-determinant": lambda: logdet(none),
        "LogDetMI": lambda: logdet(none) - logdet(q),
        "LogDetCG": lambda: logdet(v),
        "LogDetCMI": lambda: logdet(v) - logdet(np.concatenate([v, q])),
        "disparity-sum": lambda: _distances(x[rows]).sum() / 2,
        "concave over modular": lambda: (
            np.sqrt(s[np.ix_(rows, q)].sum(1)).sum() + np.sqrt(s[np.ix_(q, rows)].sum(1)).sum()
        ),
    }.get(name, lambda: float("nan"))()


def _distances(x: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import cdist

    return cdist(x, x)


def _radius(x: np.ndarray, rows: np.ndarray) -> float:
    from scipy.spatial.distance import cdist

    return float(cdist(x, x[rows], "sqeuclidean").min(1).max())


def one(name: str, code: str, sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Run one job here and say what it took."""
    warnings.simplefilter("ignore")
    from perf.others import OTHERS

    run = OURS[name] if code == "labelwise" else OTHERS[name][code]
    run(Pool(1000, 32, 10))  # libraries come with the first call
    pool = Pool(*sizes)
    pool.probs(10)
    with PeakMemory() as memory:
        start = time.perf_counter()
        found = run(pool)
        seconds = time.perf_counter() - start
    rows = np.asarray(found)
    worth = float("nan")
    if rows.ndim == 1 and sizes[0] <= 5000 and len(rows) == sizes[2]:
        worth = float(value(name, pool, rows))
    return {"seconds": seconds, "megabytes": memory.megabytes, "value": worth}


def _apart(name: str, code: str, sizes: tuple[int, int, int]) -> dict[str, Any] | str:
    """`one` in a process of its own; a short text where it fails."""
    command = [sys.executable, "-m", "perf.kernels", "--one", name, code, *map(str, sizes)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"over {LIMIT} s"
    if ran.returncode:
        lines = ran.stderr.strip().splitlines()
        return "killed, out of memory" if ran.returncode < 0 else lines[-1][:90]
    return json.loads(ran.stdout.splitlines()[-1])


def run(quick: bool = False, names: tuple[str, ...] = ()) -> list[dict[str, object]]:
    """Our kernels at the full size, a row each, then each beside the other codes."""
    from perf.others import AT_FULL_SIZE, OTHERS

    full, small = (QUICK, QUICK) if quick else (FULL, SMALL)
    rate = max(gemm_rates(full[0], full[1]).values())
    rows: list[dict[str, object]] = []

    def line(name: str, code: str, sizes: tuple[int, int, int], beside: Any = None) -> Any:
        got = _apart(name, code, sizes)
        row: dict[str, object] = {
            "kernel": name,
            "code": code if code == "labelwise" else version(code),
            "size": f"{sizes[0]:,} x {sizes[1]}, {sizes[2]} picks",
        }
        if isinstance(got, str):
            row["seconds"] = got
        else:
            floor = work(name, *sizes) / 1e9 / rate
            row |= {"seconds": got["seconds"], "MB": got["megabytes"]}
            row["seconds / floor"] = got["seconds"] / floor if floor else ""
            row["objective"] = "" if np.isnan(got["value"]) else f"{got['value']:.7g}"
            if isinstance(beside, dict):
                row["times ours"] = got["seconds"] / beside["seconds"]
                row["memory, times ours"] = got["megabytes"] / max(beside["megabytes"], 1.0)
        rows.append(row)
        print(row, file=sys.stderr, flush=True)
        return got

    for name in names or OURS:
        mine = line(name, "labelwise", full)
        others = OTHERS.get(name, {})
        for code in (c for c in others if (name, c) in AT_FULL_SIZE):
            line(name, code, full, mine)
        rest = [c for c in others if (name, c) not in AT_FULL_SIZE]
        if rest:
            mine = line(name, "labelwise", small)
            for code in rest:
                line(name, code, small, mine)
    return rows


def version(code: str) -> str:
    """A code with its version."""
    return f"{code} {importlib.metadata.version(code)}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.kernels", description=__doc__)
    parser.add_argument("names", nargs="*", help="kernels; all by default")
    parser.add_argument("--one", nargs=5, metavar=("NAME", "CODE", "ROWS", "WIDTH", "PICKS"))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    if given.one:
        name, code, *sizes = given.one
        print(json.dumps(one(name, code, tuple(map(int, sizes)))))
        return
    print(machine())
    print(table(run(given.quick, tuple(given.names))))


if __name__ == "__main__":
    main()
