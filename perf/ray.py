"""Farthest-first and k-means++ on shards: seconds, rounds and bytes, beside one machine.

One thread a shard, the rows in float16 on disk, the same picks in every line (checked). The
cluster is on one machine, so that its processors are shared and nothing travels over a network:
this shows what the exchange costs, and that work is split, up to as many shards as processors.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from labelwise.engine import RayShards, Shards
from labelwise.kernels import Chosen, Euclidean, Generator, farthest_first, kmeans_plus_plus
from perf.common import machine, table


class Exchange:
    """Counts what goes between a pool and its shards, inside the block."""

    def __init__(self, pool: Shards) -> None:
        self._crew = pool.crew
        self.rounds, self.bytes = 0, 0

    def __enter__(self) -> Exchange:
        self._ask, self._tell = self._crew.ask, self._crew.tell
        self._crew.ask, self._crew.tell = self._asked, self._told  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        del self._crew.ask, self._crew.tell

    def _asked(self, calls: Any) -> Any:
        answers = self._ask(calls)
        self.rounds += 1
        self.bytes += _size([*calls.values(), *answers.values()])
        return answers

    def _told(self, calls: Any) -> None:
        self.bytes += _size(list(calls.values()))
        self._tell(calls)


def _size(what: Any) -> int:
    if isinstance(what, np.ndarray):
        return int(what.nbytes)
    return sum(map(_size, what)) if isinstance(what, tuple | list) else 8


def _seconds(call: Any) -> tuple[float, Chosen]:
    best, chosen = np.inf, None
    for _ in range(2):
        start = time.perf_counter()
        chosen = call()
        best = min(best, time.perf_counter() - start)
    assert chosen is not None
    return best, chosen


def run(quick: bool = False) -> list[dict[str, object]]:
    """A line for each kernel and number of shards."""
    n, d, picks = (8192, 64, 200) if quick else (200_000, 128, 500)
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(500, d)).astype(np.float32)
    x = centers[rng.integers(0, 500, n)] + 0.6 * rng.normal(size=(n, d)).astype(np.float32)
    kernels = {
        "farthest-first": lambda g: farthest_first(g, picks),
        "k-means++": lambda g: kmeans_plus_plus(g, picks, generator=Generator(0)),
    }
    threads = torch.get_num_threads()
    rows: list[dict[str, object]] = []
    expected = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x.astype(np.float16))
        for count in (1, threads):
            torch.set_num_threads(count)
            for name, kernel in kernels.items():
                seconds, expected[name] = _seconds(lambda k=kernel: k(Euclidean(path)))
                where = f"one process, {count} thread{'s' * (count > 1)}"
                rows.append({"kernel": name, "where": where, "seconds": seconds})
        torch.set_num_threads(threads)
        for shards in (1, 2, 4):
            with RayShards(path, shards=shards) as pool:
                for name, kernel in kernels.items():
                    seconds, chosen = _seconds(lambda k=kernel, p=pool: k(p))
                    assert torch.equal(chosen.rows, expected[name].rows)
                    with Exchange(pool) as exchange:
                        kernel(pool)
                    rows.append(
                        {
                            "kernel": name,
                            "where": f"Ray, {shards} shard{'s' * (shards > 1)}",
                            "seconds": seconds,
                            "rounds": exchange.rounds,
                            "MB exchanged": exchange.bytes / 1e6,
                            "of the pool": exchange.bytes / (2 * n * d),
                        }
                    )
    return rows


if __name__ == "__main__":
    print(machine())
    print(table(run()))
