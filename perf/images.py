"""Images on their way to a network: looks per second, and embeddings with reading ahead.

``looks``: whole minibatches of 256 uint8 images of 32x32 changed at random, one thread, in
processor time. ``embeddings``: JPEG files of 160x160 through a network, one core for decoding and
one for the network: each alone, one after the other, and overlapped; the ways take turns and the
best of several rounds counts. The aim is that overlapping reaches 90 % of the slower of the two
alone. Wall time says something on an idle machine only; processor time, of the busier of the two
threads where there are two, is what overlapping would come to if neither ever waited.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from labelwise.kernels import numpy_stream
from labelwise.learners import MLP, ResNet18
from labelwise.learners.networks import SmallImageResNet
from labelwise.learners.objectives import Augment
from labelwise.learners.overlap import Batch, overlapped
from labelwise.pools import ImagePool
from perf.common import table

SIZE = 48
"""Height and width that images are scaled to."""


def run(quick: bool = False) -> list[dict[str, object]]:
    """A row per look, and one for each way to embed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _looks(quick) + _embeddings(quick)
    finally:
        torch.set_num_threads(threads)


def _looks(quick: bool) -> list[dict[str, object]]:
    stream = numpy_stream(0)
    images = torch.from_numpy(stream.integers(0, 256, (256, 32, 32, 3), np.uint8))
    vectors = torch.from_numpy(stream.normal(size=(256, 64)).astype(np.float32))
    usual = ResNet18().looks((32, 32, 3))
    more = ResNet18(distorted={"blur": 0.5, "solarize": 0.1}).looks((32, 32, 3))
    looks: list[tuple[str, Augment | None, Tensor]] = [
        ("weak: shift and flip", usual.weak, images),
        ("strong: RandAugment and cutout", usual.strong, images),
        ("distorted: crop, jitter, gray, flip", usual.distorted, images),
        ("distorted, with blur and solarize", more.distorted, images),
        ("corrupted vectors of 64", MLP().looks((64,)).strong, vectors),
    ]
    generator = torch.Generator().manual_seed(0)
    rows: list[dict[str, object]] = []
    for name, look, inputs in looks:
        assert look is not None
        look(inputs, generator)
        times = []
        for _ in range(3 if quick else 15):
            start = time.thread_time()
            look(inputs, generator)
            times.append(time.thread_time() - start)
        rate = len(inputs) / sorted(times)[len(times) // 2]
        rows.append({"what": name, "images/s": "-", "by processor time": round(rate)})
    return rows


class _Jpegs:
    """Encoded images, as an `ImageStore`."""

    def __init__(self, count: int) -> None:
        stream = numpy_stream(0)
        coarse = stream.integers(0, 256, (8, 10, 10, 3), np.uint8)
        self._files = [_jpeg(image) for image in coarse]
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read(self, row: int) -> bytes:
        """The bytes of one file."""
        return self._files[row % len(self._files)]


def _jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).resize((160, 160), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def _embeddings(quick: bool) -> list[dict[str, object]]:
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cores) < 2:
        return []
    pool, cpu = ImagePool(_Jpegs(256 if quick else 512)), torch.device("cpu")
    network = SmallImageResNet(3, 10, width=4).eval()
    spans = range(0, len(pool), 64)
    decoding: list[float] = []

    def read(start: int) -> Batch:
        # Of the calling thread alone, and of those that it starts.
        os.sched_setaffinity(0, {cores[0]})
        began = time.thread_time()
        images = torch.from_numpy(pool.images(np.arange(start, start + 64), SIZE))
        decoding.append(time.thread_time() - began)
        return {"images": images}

    def embed(batch: Batch) -> Tensor:
        os.sched_setaffinity(0, {cores[1]})
        made: Tensor = network(batch["images"])
        return made

    ready: list[Batch] = []

    def forward() -> None:
        with torch.inference_mode():
            for batch in ready:
                embed(batch)

    def one_by_one() -> None:
        with torch.inference_mode():
            for start in spans:
                embed(read(start))

    ways: dict[str, Callable[[], object]] = {
        "embeddings: decode alone": lambda: [read(start) for start in spans],
        "embeddings: network alone": forward,
        "embeddings: one after the other": one_by_one,
        "embeddings: overlapped": lambda: list(overlapped(read, spans, embed, cpu)),
    }
    wall, work = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0.0)
    with _affinity_kept():
        ready += [read(start) for start in spans]
        for _ in range(2 if quick else 5):
            for name, way in ways.items():
                decoding.clear()
                began, busy = time.perf_counter(), time.thread_time()
                way()
                busy = max(time.thread_time() - busy, sum(decoding))
                wall[name] = max(wall[name], len(pool) / (time.perf_counter() - began))
                work[name] = max(work[name], len(pool) / busy)
    return [
        {
            "what": name,
            "images/s": _part(wall, name),
            "by processor time": _part(work, name),
        }
        for name in ways
    ]


def _part(rates: dict[str, float], name: str) -> str:
    """A rate, and its part of the slower one of decoding and the network."""
    slower = min(rates["embeddings: decode alone"], rates["embeddings: network alone"])
    return f"{rates[name]:.0f} ({rates[name] / slower:.0%})"


@contextmanager
def _affinity_kept() -> Iterator[None]:
    cores = os.sched_getaffinity(0)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.images", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few images, to see that it runs")
    sys.stdout.write(table(run(parser.parse_args().quick)) + "\n")


if __name__ == "__main__":
    main()
