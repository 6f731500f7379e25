"""Selection at ImageNet's size: 1,281,167 x 2,048 float16 on disk, 10,000 picks, 8 GB at most.

The pool is a generated Gaussian mixture of 1,000 classes with its head's logits
(``python -m perf.pool``), kept under ``$LABELWISE_POOL`` (by default a temporary folder). Every
job runs in a process of its own through ``labelwise.select``. ``floor`` is the work in matrix
products alone, at the best fp32 rate of this run; ``estimate`` is what `labelwise.estimate` said
before the job, and ``MB`` the peak of anonymous memory beyond what the process held before it.
The aims: k-center 8 min, BADGE 12 min, BASE and margin 1 min.

``python -m perf imagenet`` prints the table; ``python -m perf.imagenet --linear`` runs the other
linear kernels on the same file, 100 picks each, and ``--growth FILE`` draws time against the number
of rows and of picks.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from perf.common import gemm_rates, machine, table
from perf.pool import make_pool

ROWS, WIDTH, CLASSES, PICKS = 1_281_167, 2048, 1000, 10_000
AIMS = {"k_center": 480, "badge": 720, "base": 60, "margin": 60}

_JOB = """
import json, sys, time
import numpy as np
import torch
import labelwise as lw
from perf.common import PeakMemory
folder, job, rows, picks, memory = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:5]), sys.argv[5]
def part(name):
    array = np.load(f"{folder}/{name}.npy", mmap_mode="r")
    return f"{folder}/{name}.npy" if rows == len(array) else array[:rows]
evidence = {
    "k_center": lambda: {"embeddings": part("embeddings")},
    "badge": lambda: {"logits": part("logits"), "embeddings": part("embeddings")},
    "base": lambda: {"logits": part("logits"), "head_weight": f"{folder}/head_weight.npy"},
    "margin": lambda: {"logits": part("logits")},
}[job]()
start = time.perf_counter()
said = lw.estimate(job, picks, **evidence)
estimating = time.perf_counter() - start
with PeakMemory() as peak:
    start = time.perf_counter()
    picked = lw.select(job, picks, memory=memory, **evidence)
    seconds = time.perf_counter() - start
print(json.dumps({
    "seconds": seconds, "megabytes": peak.megabytes, "said_seconds": said.seconds,
    "said_memory": said.memory, "estimating": estimating, "rows": picked.rows.tolist()[:5],
    "last": picked.scores.tolist()[-1],
}))
"""


_LINEAR = """
import json, sys, time
import torch
from labelwise import kernels as k
from labelwise.kernels import functions as f
from perf.common import PeakMemory
folder, job, picks, memory = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
path = f"{folder}/embeddings.npy"
noise = k.Generator(0)
def alike():
    return k.Similarity(k.Cosine(path, hold=0), "cosine01")
def query(similarity):
    return similarity.take(torch.arange(100))
def part_of(part):
    return k.farthest_first(part.geometry, part.n, candidates=part.candidates)
def plain(**how):
    return k.Euclidean(path, hold=0, **how)
run = {
    "robust k-center, 128 outliers": lambda: k.farthest_first(
        plain(), picks, outliers=128, generator=noise, memory=memory),
    "k-center, 10 partitions": lambda: k.partitioned(
        part_of, plain(), picks, 10, generator=noise, memory=memory),
    "k-means, 100 clusters, 3 iterations": lambda: k.kmeans(
        path, 100, generator=noise, iterations=3, init="random", memory=memory),
    "herding": lambda: k.herding(plain(), picks, memory=memory),
    "kernel herding": lambda: k.kernel_herding(alike(), picks, memory=memory),
    "graph cut": lambda: k.greedy(f.GraphCut(alike(), memory=memory), picks),
    "GCMI, 100 queries": lambda: k.greedy(f.GraphCutMI(s := alike(), query(s)), picks),
    "FLQMI, 100 queries": lambda: k.greedy(f.FacilityLocationQMI(s := alike(), query(s)), picks),
    "matching pursuit": lambda: k.matching_pursuit(plain(shift=False), picks, memory=memory),
    "feature-based, of the positive part": lambda: k.greedy(
        f.FeatureBased(k.Rows(path).map(torch.relu, "features")), picks),
}[job]
with PeakMemory() as peak:
    start = time.perf_counter()
    run()
    seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "megabytes": peak.megabytes}))
"""


def linear(quick: bool = False) -> list[dict[str, object]]:
    """The linear kernels that no strategy of the main table runs, a row each."""
    folder, rows, width, _, _ = pool_folder(quick)
    picks = 100
    jobs = [line.split('"')[1] for line in _LINEAR.splitlines() if line.startswith('    "')]
    found: list[dict[str, object]] = []
    for job in jobs:
        command = [sys.executable, "-c", _LINEAR, str(folder), job, str(picks), "8000000000"]
        row: dict[str, object] = {"kernel": job, "size": f"{rows:,} x {width}", "picks": picks}
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=900)
        except subprocess.TimeoutExpired:
            row["seconds"] = "over 900"
        else:
            if ran.returncode:
                row["seconds"] = ran.stderr.strip().splitlines()[-1][:100]
            else:
                got = json.loads(ran.stdout.splitlines()[-1])
                row |= {"seconds": got["seconds"], "MB": got["megabytes"]}
        found.append(row)
        print(row, file=sys.stderr, flush=True)
    return found


def pool_folder(quick: bool) -> tuple[Path, int, int, int, int]:
    """Where the pool lies, and its rows, width, classes and picks."""
    sizes = (20_000, 256, 50, 200) if quick else (ROWS, WIDTH, CLASSES, PICKS)
    home = Path(os.environ.get("LABELWISE_POOL", Path(tempfile.gettempdir()) / "labelwise-pool"))
    folder = home / ("quick" if quick else "imagenet")
    return make_pool(folder, *sizes[:3]), *sizes


def measure(folder: Path, job: str, rows: int, picks: int, memory: str = "8GB") -> dict:
    """One job in a fresh process."""
    command = [sys.executable, "-c", _JOB, str(folder), job, str(rows), str(picks), memory]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(ran.stderr.strip().splitlines()[-1])
    return json.loads(ran.stdout.splitlines()[-1])


def run(quick: bool = False, jobs: tuple[str, ...] = tuple(AIMS)) -> list[dict[str, object]]:
    """A row per job."""
    folder, rows, width, classes, picks = pool_folder(quick)
    rate = max(gemm_rates(rows, width).values())
    products = {
        "k_center": 2.0 * rows * width * picks,
        "badge": 2.0 * rows * (width + classes) * picks,
    }
    found: list[dict[str, object]] = []
    for job in jobs:
        got = measure(folder, job, rows, picks)
        least, most = got["said_seconds"]
        low, high = (value / 1e6 for value in got["said_memory"])
        inside = least <= got["seconds"] <= most and low <= got["megabytes"] <= high
        floor = products.get(job, 0.0) / 1e9 / rate
        found.append(
            {
                "job": f"{job}, {rows:,} x {width}, {picks:,} picks",
                "seconds": got["seconds"],
                "aim": "" if quick else AIMS[job],
                "floor": floor or "",
                "seconds / floor": got["seconds"] / floor if floor else "",
                "MB": got["megabytes"],
                "estimated seconds": f"{least:.3g} to {most:.3g}",
                "estimated MB": f"{low:.3g} to {high:.3g}",
                "inside": "yes" if inside else "no",
                "estimating": got["estimating"],
            }
        )
        print(found[-1], file=sys.stderr, flush=True)
    return found


def growth(path: Path, quick: bool) -> list[dict[str, object]]:
    """Time against rows and against picks, as a table and as a picture."""
    folder, rows, _, _, picks = pool_folder(quick)
    found: list[dict[str, object]] = []
    for job in ("k_center", "badge"):
        for share in (1 / 16, 1 / 8, 1 / 4, 1 / 2):
            for what, n, b in (
                ("rows", int(rows * share), picks // 10),
                ("picks", rows // 8, int(picks * share)),
            ):
                got = measure(folder, job, n, b)
                found.append(
                    {"strategy": job, "against": what, "rows": n, "picks": b}
                    | {"seconds": got["seconds"], "MB": got["megabytes"]}
                )
                print(found[-1], file=sys.stderr, flush=True)
    _draw(found, path)
    return found


def _draw(found: list[dict[str, object]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    for axis, what in zip(axes, ("rows", "picks")):
        for job, color in (("k_center", "#0072B2"), ("badge", "#D55E00")):
            mine = [r for r in found if r["strategy"] == job and r["against"] == what]
            axis.plot([r[what] for r in mine], [r["seconds"] for r in mine], "o-", color=color)
            axis.annotate(
                job,
                (mine[-1][what], mine[-1]["seconds"]),
                xytext=(6, 0),
                textcoords="offset points",
                color=color,
                va="center",
            )
        other = mine[0]["picks" if what == "rows" else "rows"]
        rest = "picks" if what == "rows" else "rows"
        axis.set(xscale="log", yscale="log", xlabel=f"{what} ({other:,} {rest})")
        axis.margins(x=0.25)
        marks = [r[what] for r in mine]
        axis.set_xticks(marks, [f"{mark:,}" for mark in marks])
        axis.minorticks_off()
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, which="both")
    axes[0].set_ylabel("seconds")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.imagenet", description=__doc__)
    parser.add_argument("jobs", nargs="*", help=f"of {', '.join(AIMS)}; all by default")
    parser.add_argument("--linear", action="store_true", help="the other linear kernels instead")
    parser.add_argument("--growth", type=Path, help="draw growth to this file instead")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    print(machine())
    if given.growth:
        print(table(growth(given.growth, given.quick)))
    elif given.linear:
        print(table(linear(given.quick)))
    else:
        print(table(run(given.quick, tuple(given.jobs) or tuple(AIMS))))


if __name__ == "__main__":
    main()
