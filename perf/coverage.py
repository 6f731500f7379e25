"""Facility location, cosine: 20,000 x 512 with 400 picks, 50,000 with 1,000, 200,000 with 2,000.

The pool is a Gaussian mixture, float16 on disk. Each size is a process of its own with a bound on
memory of 4.5 GB, 1 GiB and 4 GiB; the aims are 7 s, 120 s and 20 min. ``all pairs once`` is the
time of one product of every pair at this run's best fp32 rate. The value is held against the plain
greedy's in float64 where that can be run, ``python -m perf.coverage --check``.

``python -m perf coverage`` runs the first two, ``python -m perf.coverage --all`` all three.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from labelwise.kernels import Cosine, Similarity, greedy, hold_limit
from labelwise.kernels.functions import FacilityLocation
from perf.common import PeakMemory, gemm_rates, machine, table

WIDTH = 512
SIZES = {
    20_000: (400, 4_500_000_000, 7),
    50_000: (1000, 1 << 30, 120),
    200_000: (2000, 4 << 30, 1200),
}


def _pool(path: Path, rows: int) -> Path:
    """Rows of 200 clumps, as features after a ReLU are: not negative."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((200, WIDTH), dtype=np.float32)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, WIDTH))
    for start in range(0, rows, 20_000):
        part = min(20_000, rows - start)
        noise = 0.7 * rng.standard_normal((part, WIDTH), dtype=np.float32)
        array[start : start + part] = np.maximum(centers[rng.integers(0, 200, part)] + noise, 0)
    array.flush()
    return path


def one(rows: int, picks: int, memory: int) -> dict[str, float]:
    """One size, here."""
    with tempfile.TemporaryDirectory() as folder:
        path = _pool(Path(folder) / "x.npy", rows)
        small = Similarity(Cosine(np.load(path)[:500]), "cosine01")
        greedy(FacilityLocation(small), 5)  # libraries come with the first call
        with PeakMemory() as peak:
            start = time.perf_counter()
            geometry = Cosine(path, hold=hold_limit(memory, often=True))
            function = FacilityLocation(Similarity(geometry, "cosine01"), memory=memory * 3 // 4)
            greedy(function, picks)
            seconds = time.perf_counter() - start
    return {"seconds": seconds, "megabytes": peak.megabytes, "value": function.value}


def check() -> dict[str, float]:
    """Our value and that of the plain greedy over a float64 matrix."""
    rows, picks = 4000, 200
    with tempfile.TemporaryDirectory() as folder:
        x = np.load(_pool(Path(folder) / "x.npy", rows)).astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    similar = (1 + unit @ unit.T) / 2
    best = np.zeros(rows)
    for _ in range(picks):
        gains = np.maximum(similar - best[:, None], 0).sum(0)
        best = np.maximum(best, similar[:, gains.argmax()])
    function = FacilityLocation(Similarity(Cosine(x.astype(np.float16)), "cosine01"))
    greedy(function, picks)
    return {"ours": function.value, "plain greedy, float64": float(best.sum())}


def run(quick: bool = False, largest: int = 50_000) -> list[dict[str, object]]:
    """A row per size."""
    rate = max(gemm_rates(20_000, WIDTH).values())
    sizes = {2000: (40, 1 << 30, 7)} if quick else {n: s for n, s in SIZES.items() if n <= largest}
    found: list[dict[str, object]] = []
    for rows, (picks, memory, aim) in sizes.items():
        command = [sys.executable, "-m", "perf.coverage", "--one", *map(str, (rows, picks, memory))]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        got = json.loads(ran.stdout.splitlines()[-1])
        floor = 2.0 * rows * rows * WIDTH / 1e9 / rate
        found.append(
            {
                "job": f"{rows:,} x {WIDTH}, {picks:,} picks, memory {memory / 1e9:.3g} GB",
                "seconds": got["seconds"],
                "aim": aim,
                "all pairs once": floor,
                "seconds / that": got["seconds"] / floor,
                "MB beyond the file": got["megabytes"],
                "value": f"{got['value']:.10g}",
            }
        )
        print(found[-1], file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.coverage", description=__doc__)
    parser.add_argument("--one", nargs=3, type=int, metavar=("ROWS", "PICKS", "MEMORY"))
    parser.add_argument("--all", action="store_true", help="200,000 rows too: some 20 minutes")
    parser.add_argument("--check", action="store_true", help="the value beside the plain greedy's")
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(*given.one)))
    elif given.check:
        print({name: f"{value:.10g}" for name, value in check().items()})
    else:
        print(machine())
        print(table(run(largest=200_000 if given.all else 50_000)))


if __name__ == "__main__":
    main()
