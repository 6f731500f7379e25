"""What a call will cost: its work in countable units, and how fast this machine does each.

Work is an interval, since how often a kernel has to look again depends on the data. The factors
below bracket what `python -m perf` measured on pools of different kinds; the rates are measured
on the spot.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from labelwise.kernels.functions.coverage import HELD_BYTES
from labelwise.kernels.gemm import linear
from labelwise.kernels.rows import Rows

Interval = tuple[float, float]

_PROCESS_BYTES = (1e6, 400e6)
"""What blocks, libraries' scratch space and thread stacks take, whatever the pool."""


class Sizes(NamedTuple):
    """How large a call is.

    Attributes:
        rows: N. n: picks. width: D, of the embeddings (0 without). classes: C (0 without).
        draws: S. labeled: L.
        stored: bytes of all evidence of one pool row, as stored.
        streamed: whether the evidence is a file or computed on the way, not held.
    """

    rows: int
    n: int
    width: int = 0
    classes: int = 0
    draws: int = 0
    labeled: int = 0
    stored: int = 0
    streamed: bool = False


@dataclass(frozen=True)
class Work:
    """What a call does, each as the least and the most.

    Attributes:
        products: floating-point operations in matrix products.
        passes: how often all evidence is read.
        numbers: numbers touched outside of products.
        steps: picks made one by one, each some operations on small arrays.
        held: bytes held beyond the input.
    """

    products: Interval = (0.0, 0.0)
    passes: Interval = (1.0, 2.0)
    numbers: Interval = (0.0, 0.0)
    steps: Interval = (0.0, 0.0)
    held: Interval = (0.0, 0.0)

    def __add__(self, other: Work) -> Work:
        def both(a: Interval, b: Interval) -> Interval:
            return a[0] + b[0], a[1] + b[1]

        return Work(
            both(self.products, other.products),
            both(self.passes, other.passes),
            both(self.numbers, other.numbers),
            both(self.steps, other.steps),
            both(self.held, other.held),
        )


class Rates(NamedTuple):
    """How much of each this machine does in a second."""

    products: float
    bytes: float
    numbers: float
    steps: float


def score_work(sizes: Sizes) -> Work:
    """A score of every row from its predictions, and the largest."""
    predictions = sizes.rows * max(1, sizes.classes) * max(1, sizes.draws)
    return Work(
        passes=(1, 3),
        numbers=(0.3 * predictions, 20 * predictions + 20 * sizes.rows),
        held=(8.0 * sizes.rows, 80.0 * sizes.rows),
    )


def farthest_work(sizes: Sizes) -> Work:
    """Farthest-first in vectors, or in any geometry whose factors add up to the width."""
    centers = sizes.labeled + sizes.n
    whole = 2.0 * sizes.rows * sizes.width
    held = 4.0 * sizes.width * centers + 26.0 * sizes.rows
    return Work(
        # The picks of the last block are never applied; clumped pools need more, shorter blocks.
        products=(whole * (sizes.labeled + 0.05 * sizes.n), 1.6 * whole * centers),
        passes=(2 + centers / 5000, 6 + centers / 100),
        numbers=(0.0, 4.0 * sizes.rows * (20 + centers)),
        steps=(0.3 * sizes.n, 4.0 * sizes.n),
        held=(held, 2.5 * held + _copy(sizes)),
    )


def kmeans_plus_plus_work(sizes: Sizes) -> Work:
    """k-means++ seeding in the gradient geometry (or in vectors: no classes)."""
    width = sizes.width + sizes.classes
    whole = 2.0 * sizes.rows * width * (sizes.labeled + sizes.n)
    held = 4.0 * width * (sizes.labeled + sizes.n) + 26.0 * sizes.rows
    per_pass = sizes.rows * (2.0 * sizes.classes + sizes.width)
    fewest, most = (2 + (sizes.labeled + sizes.n) / every for every in (1024, 128))
    return Work(
        # Picks wait for a pass until looking them up again costs more than one.
        products=(whole * min(1.0, 0.5 + sizes.labeled / (sizes.labeled + sizes.n)), 1.6 * whole),
        passes=(fewest, most + 4),
        numbers=(per_pass * fewest, 2 * per_pass * most + sizes.rows * sizes.n),
        steps=(2.0 * sizes.n, 12.0 * sizes.n),
        held=(held, 2.5 * held + _copy(sizes)),
    )


def kmeans_work(sizes: Sizes, clusters: int | None = None) -> Work:
    """k-means with as many clusters as picks, until it settles."""
    k = clusters or sizes.n + sizes.labeled
    one = 2.0 * sizes.rows * sizes.width * k
    held = 24.0 * sizes.rows + 16.0 * k * sizes.width
    return Work(
        products=(2 * one, 110 * one),
        passes=(3, 110),
        numbers=(sizes.rows * (k + sizes.width), 110.0 * sizes.rows * (k + sizes.width)),
        steps=(sizes.n, 20.0 * sizes.n + 100 * k),
        held=(held, 4 * held + _copy(sizes)),
    )


def coverage_work(sizes: Sizes) -> Work:
    """A coverage function over all pairs: facility location, ball coverage."""
    pair = 2.0 * sizes.rows * sizes.rows * sizes.width
    # Similarities where they fit, a copy of the pool where they do not.
    kept = min(4.0 * sizes.rows * sizes.rows, HELD_BYTES) + 4.0 * sizes.rows * sizes.width
    return Work(
        products=(0.5 * pair, 12 * pair),
        passes=(1, 4.0 + sizes.n),
        numbers=(float(sizes.rows) ** 2, 40.0 * sizes.rows**2),
        steps=(sizes.n, 100.0 * sizes.n),
        held=(64.0 * sizes.rows, 400.0 * sizes.rows + kept),
    )


def _copy(sizes: Sizes) -> float:
    """A converted copy of the pool, where one may be made."""
    return 4.0 * sizes.rows * (sizes.width + sizes.classes) if not sizes.streamed else 2.6e8


def seconds(work: Work, rates: Rates, sizes: Sizes) -> Interval:
    """Time that the work takes at these rates, the least and the most."""

    def total(end: int, pace: float) -> float:
        return (
            work.products[end] / rates.products
            + work.passes[end] * sizes.stored * sizes.rows / rates.bytes
            + work.numbers[end] / rates.numbers
            + work.steps[end] / rates.steps
        ) / pace

    # Others may take a share of the machine, or have had one while the rates were measured.
    return total(0, 2.0), total(1, 0.5) + 0.1


def bytes_held(work: Work) -> Interval:
    """Memory that the work takes beyond the input, the least and the most."""
    return work.held[0] + _PROCESS_BYTES[0], work.held[1] + _PROCESS_BYTES[1]


def measure_rates(evidence: list[Rows], width: int, device: torch.device) -> Rates:
    """How fast this machine is, in under a second.

    Args:
        evidence: arrays whose first, middle and last blocks are read.
        width: of the matrix products. device: where they are computed.
    """
    a = torch.rand(4096, max(16, width), device=device)
    b = torch.rand(256, max(16, width), device=device)
    small = np.random.default_rng(0).random(768)

    def product() -> None:
        linear(a, b)
        _wait(device)

    def touch() -> None:
        torch.softmax(a, 1)
        _wait(device)

    def step() -> None:
        for _ in range(10):
            np.minimum(small, small[::-1], out=small)
            small.argmax()
            np.flatnonzero(small > 0.5)

    return Rates(
        products=2.0 * a.numel() * len(b) / _fastest(product),
        bytes=_reading(evidence),
        numbers=5.0 * a.numel() / _fastest(touch),
        steps=10 / _fastest(step) / 4,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _fastest(call: Callable[[], None], repeats: int = 7) -> float:
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return max(min(times), 1e-7)


def _reading(evidence: list[Rows]) -> float:
    """Stored bytes read and converted in a second, by the fastest of a few blocks of each array."""
    total = spent = 0.0
    for rows in evidence:
        step = min(rows.block_size(), len(rows))
        scratch = torch.empty((step, *rows.shape[1:]), device=rows.device)
        times = []
        for start in (0, (len(rows) - step) // 2, len(rows) - step):
            begin = time.perf_counter()
            scratch.copy_(rows.block(start, start + step))
            scratch.sum()
            times.append(time.perf_counter() - begin)
        spent += max(min(times), 1e-7)
        total += step * rows.stored_bytes
    return total / spent if total else 1e9
