"""Timing side by side in one run, peak memory, the machine's floor, tables."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from labelwise.benchmark.progress import Event
from labelwise.kernels import Rows, linear
from labelwise.pools import Data


def median_seconds(call: Callable[[], object], repeats: int = 3) -> float:
    """Median wall time of a few calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def plan_options(parser: argparse.ArgumentParser) -> None:
    """What every simulation made by a module of this folder can be told."""
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, help="of the pool, drawn at random; all by default")


def command_line(module: str) -> str:
    """The command that is running, as a page names it."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])


def some_rows(data: Data, count: int, seed: int = 0) -> Data:
    """A pool cut down to rows drawn at random, the same ones for one seed."""
    return data.subset(_drawn(len(data.pool), count, seed))


def some_test_rows(data: Data, count: int) -> Data:
    """A test set cut down to rows drawn at random, always the same ones."""
    assert data.test is not None
    assert data.test_labels is not None
    drawn = _drawn(len(data.test), count, 0)
    return replace(data, test=data.test.subset(drawn), test_labels=data.test_labels[drawn])


def _drawn(rows: int, count: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(rows)[:count])


def letter() -> tuple[Rows, Tensor] | None:
    """(20000, 16) rows in an order drawn at random, always the same, and labels of 26 classes.

    None where ``$LABELWISE_DATA`` does not hold the letter set.
    """
    folder = os.environ.get("LABELWISE_DATA")
    path = Path(folder or ".") / "tabular" / "letter.parquet"
    if folder is None or not path.exists():
        return None
    import pyarrow.parquet as pq

    frame = pq.read_table(path).to_pandas()
    _, labels = np.unique(frame.pop("label"), return_inverse=True)
    values = frame.drop(columns="split").to_numpy(np.float32)
    order = np.random.default_rng(0).permutation(len(values))
    return Rows(values[order]), torch.from_numpy(labels[order])


class PeakMemory:
    """The most anonymous memory that the process held inside the block, beyond its start."""

    def __enter__(self) -> PeakMemory:
        self._start = self._peak = _anonymous()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, _anonymous())

    @property
    def megabytes(self) -> float:
        """Growth at the peak, in MB."""
        return (self._peak - self._start) / 1e6


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    return 0


def gemm_rates(n: int, k: int, m: int = 256) -> dict[str, float]:
    """GFLOP/s of fp32 products (n x k)(k x m) through each library reachable here."""
    rng = np.random.default_rng(0)
    a = rng.standard_normal((min(n, 16384), k), dtype=np.float32)
    b = rng.standard_normal((m, k), dtype=np.float32)
    ta, tb = torch.from_numpy(a), torch.from_numpy(b)
    out = torch.empty(len(a), m)
    routes: dict[str, Callable[[], object]] = {
        "torch.mm": lambda: torch.mm(ta, tb.T, out=out),
        "labelwise.kernels.linear": lambda: [linear(part, tb) for part in ta.split(4096)],
        "numpy": lambda: np.matmul(a, b.T, out=out.numpy()),
    }
    flops = 2.0 * len(a) * k * m / 1e9
    rates = {}
    for name, call in routes.items():
        call()
        rates[name] = flops / min(median_seconds(call, 1) for _ in range(9))
    return rates


def machine() -> str:
    """One line on where the numbers were measured."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, NumPy {np.__version__}"
    )


def print_event(event: Event) -> None:
    """A line for each step of a simulation."""
    print(f"{event.done}/{event.total} {event.message}", flush=True)


def table(rows: list[dict[str, object]]) -> str:
    """Rows as a Markdown table; a key missing from a row is an empty cell."""
    if not rows:
        return ""
    names = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in rows:
        cells = (row.get(name, "") for name in names)
        lines.append("| " + " | ".join(_cell(value) for value in cells) + " |")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
