"""Farthest-first and BADGE at 50,000 x 512: seconds against the fp32 floor, and other codes.

The floor is the useful work alone, 2 N n D operations (D + C for BADGE), at the best fp32 rate
that any library reached in the same run. ``covered`` rows cost as much again and are in the
floor of their row. Other codes are timed on fewer picks where a whole run takes minutes; the
column ``scaled`` says so.
"""

from __future__ import annotations

import importlib.metadata
import time

import numpy as np
import torch

from labelwise.kernels import (
    Euclidean,
    Generator,
    GradientEmbedding,
    farthest_first,
    kmeans_plus_plus,
)
from labelwise.strategies import select
from perf.common import PeakMemory, gemm_rates, machine, median_seconds, table


def _pool(n: int, d: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((200, d), dtype=np.float32)
    x = 0.5 * rng.standard_normal((n, d), dtype=np.float32)
    return x + centers[rng.integers(0, 200, n)]


def _probs(n: int, c: int) -> np.ndarray:
    logits = 3 * np.random.default_rng(1).standard_normal((n, c), dtype=np.float32)
    return torch.softmax(torch.from_numpy(logits), 1).numpy()


def naive_farthest(x: np.ndarray, n: int, covered: np.ndarray) -> list[int]:
    """One matrix-vector product a pick, float32, as the usual code does at its best."""
    norms = np.einsum("ij,ij->i", x, x)
    nearest = np.full(len(x), np.inf, dtype=np.float32)
    for row in covered:
        nearest = np.minimum(nearest, norms + norms[row] - 2 * (x @ x[row]))
    nearest[covered] = -np.inf
    picks = []
    for _ in range(n):
        row = int(nearest.argmax())
        picks.append(row)
        nearest = np.minimum(nearest, norms + norms[row] - 2 * (x @ x[row]))
        nearest[picks] = -np.inf
    return picks


def naive_badge(p: np.ndarray, h: np.ndarray, n: int) -> list[int]:
    """Factored gradients, one matrix-vector product a pick."""
    rng = np.random.default_rng(0)
    a = p.copy()
    a[np.arange(len(a)), p.argmax(1)] -= 1
    norms = (a**2).sum(1) * (h**2).sum(1)
    picks = [int(norms.argmax())]
    nearest = np.full(len(a), np.inf)
    while len(picks) < n:
        row = picks[-1]
        new = norms + norms[row] - 2 * (a @ a[row]) * (h @ h[row])
        nearest = np.minimum(nearest, np.maximum(new, 0))
        nearest[picks] = 0
        cumulated = np.cumsum(nearest, dtype=np.float64)
        picks.append(int(np.searchsorted(cumulated, rng.random() * cumulated[-1])))
    return picks


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _others(x: np.ndarray, p: np.ndarray, picks: int, scale: int) -> list[tuple[str, float]]:
    """Seconds of other codes for the same picks, from runs of ``picks / scale`` picks."""
    few = picks // scale
    found = []
    covered = np.arange(few)
    start = time.perf_counter()
    naive_farthest(x, few, covered)
    found.append(("NumPy, one product a pick: farthest-first", _since(start) * scale))
    start = time.perf_counter()
    naive_badge(p, x, few)
    found.append(("NumPy, one product a pick: BADGE", _since(start) * scale))
    from sklearn.cluster import kmeans_plusplus

    start = time.perf_counter()
    kmeans_plusplus(x, few, random_state=0, n_local_trials=1)
    name = f"scikit-learn {_version('scikit-learn')} kmeans_plusplus, 1 trial"
    found.append((name, _since(start) * scale))
    if version := _version("scikit-activeml"):
        found += _scikit_activeml(x, p, few, scale, version)
    return found


def _scikit_activeml(
    x: np.ndarray, p: np.ndarray, few: int, scale: int, version: str
) -> list[tuple[str, float]]:
    from skactiveml.base import SkactivemlClassifier
    from skactiveml.pool import Badge, CoreSet

    class Given(SkactivemlClassifier):
        """A classifier that answers with the probabilities it was given, in the pool's order."""

        def fit(self, X, y, sample_weight=None):
            return self

        def predict_proba(self, X):
            return p[-len(X) :]

    y = np.full(len(x), np.nan)
    y[:few] = 0
    start = time.perf_counter()
    CoreSet(random_state=0).query(x, y, batch_size=few)
    rows = [(f"scikit-activeml {version} CoreSet", _since(start) * scale)]
    model = Given(classes=list(range(p.shape[1])))
    start = time.perf_counter()
    Badge(random_state=0).query(x, y, model, fit_clf=False, batch_size=few)
    return [*rows, (f"scikit-activeml {version} Badge", _since(start) * scale)]


def _since(start: float) -> float:
    return time.perf_counter() - start


def run(quick: bool = False) -> list[dict[str, object]]:
    """A row per job: seconds, fraction of the floor, peak memory; then other codes' ratios."""
    n, d, picks = (8192, 128, 200) if quick else (50_000, 512, 1000)
    scale = 4 if quick else 10
    x = _pool(n, d)
    rates = gemm_rates(n, d)
    best = max(rates, key=rates.__getitem__)
    rows: list[dict[str, object]] = [
        {"job": f"fp32 GEMM through {name}", "GFLOP/s": rate} for name, rate in rates.items()
    ]
    covered = torch.arange(picks)
    p10, p100 = _probs(n, 10), _probs(n, 100)
    jobs = {
        "farthest-first, nothing labeled": (
            d * picks,
            lambda: farthest_first(Euclidean(x), picks),
        ),
        f"farthest-first, {picks} labeled": (
            2 * d * picks,
            lambda: farthest_first(Euclidean(x), picks, covered=covered),
        ),
        "BADGE, 10 classes": ((d + 10) * picks, lambda: _badge(p10, x, picks)),
        "BADGE, 100 classes": ((d + 100) * picks, lambda: _badge(p100, x, picks)),
        f"farthest-first, {2 * picks} picks": (
            2 * d * picks,
            lambda: farthest_first(Euclidean(x), 2 * picks),
        ),
        f"BADGE, 10 classes, {2 * picks} picks": (
            2 * (d + 10) * picks,
            lambda: _badge(p10, x, 2 * picks),
        ),
        "BASE, 100 classes, from given logits": (0, lambda: _base(p100, x, picks)),
    }
    seconds = {}
    for name, (work, call) in jobs.items():
        with PeakMemory() as memory:
            seconds[name] = median_seconds(call, 3 if quick else 5)
        floor = 2 * n * work / 1e9 / rates[best]
        rows.append(
            {
                "job": f"{name}, {n:,} x {d}" + f", {picks} picks" * ("picks" not in name),
                "seconds": seconds[name],
                "floor": floor or "",
                "seconds / floor": seconds[name] / floor if floor else "",
                "MB beyond the input": memory.megabytes,
            }
        )
    for name, other in _others(x, p10, picks, scale):
        farthest = "farthest" in name or "CoreSet" in name
        mine = _ours(farthest, picks)
        rows.append(
            {
                "job": name,
                "seconds": other,
                "scaled": f"from {picks // scale} picks",
                "times slower than ours": other / seconds[mine],
            }
        )
    return rows


def _ours(farthest: bool, picks: int) -> str:
    """Which of our jobs another code is compared with."""
    return f"farthest-first, {picks} labeled" if farthest else "BADGE, 10 classes"


def _base(logits: np.ndarray, h: np.ndarray, picks: int) -> object:
    """The published code takes 20 s and 2.6 GiB for this, from the embeddings and the head."""
    weight = np.random.default_rng(2).standard_normal((logits.shape[1], h.shape[1]))
    return select("base", picks, logits=logits, head_weight=weight)


def _badge(p: np.ndarray, h: np.ndarray, picks: int) -> object:
    return kmeans_plus_plus(GradientEmbedding(p, h), picks, generator=Generator(0), first="largest")


if __name__ == "__main__":
    print(machine())
    print(table(run()))
