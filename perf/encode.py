"""The offline image encoder on CIFAR-10: seconds for 60,000 images, and what they are worth.

Images are decoded beforehand; ``decode s`` says how long that took. Accuracies are those of
ridge regression on test images, the mean over draws of labeled images and their standard
deviation; the encoder learns from the training images without labels. The aims: at most 90 s
and 66.2 % with 5,000 labels at stride 1, at most 30 s and 62 % at stride 2. Needs CIFAR-10 under
``$LABELWISE_DATA``; without it random images are timed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from labelwise.kernels import Rows, numpy_stream
from labelwise.learners.patches import PatchEncoder
from labelwise.learners.ridge import Ridge
from labelwise.pools import open_data
from perf.common import machine, table

DRAWS = {1_000: 5, 5_000: 3, 50_000: 1}
"""How many draws of labeled images, for each number of labels."""


def run(quick: bool = False) -> list[dict[str, object]]:
    """A row per form of the encoder."""
    images, labels, train, seconds = cifar10(3_000 if quick else None)
    rows = []
    for encoder in (PatchEncoder(), PatchEncoder.fast()):
        rows.append(_row(encoder, images, labels, train) | {"decode s": seconds})
    return rows


def cifar10(
    count: int | None = None,
) -> tuple[np.ndarray, torch.Tensor | None, int, float]:
    """Images (training images first), labels, how many train, seconds to decode."""
    start = time.perf_counter()
    folder = os.environ.get("LABELWISE_DATA")
    if not folder or not (Path(folder) / "cifar10").exists():
        images = numpy_stream(0).integers(0, 256, (count or 60_000, 32, 32, 3), np.uint8)
        return images, None, len(images) * 5 // 6, 0.0
    data = open_data(Path(folder) / "cifar10" / "cifar10.parquet", label="label", split="split")
    assert data.test is not None
    assert data.test_labels is not None
    train = len(data.pool) if count is None else count * 5 // 6
    test = len(data.test) if count is None else count - train
    images = np.concatenate(
        [data.pool.images(np.arange(train)), data.test.images(np.arange(test))]  # type: ignore[attr-defined]
    )
    labels = torch.from_numpy(np.concatenate([data.labels[:train], data.test_labels[:test]]))
    return images, labels, train, time.perf_counter() - start


def _row(
    encoder: PatchEncoder, images: np.ndarray, labels: torch.Tensor | None, train: int
) -> dict[str, object]:
    start = time.perf_counter()
    encoder.fit(images[:train], seed=0)
    learned = time.perf_counter()
    features = np.empty((len(images), *encoder.item_shape()), encoder.dtype())
    features[:] = 0  # the pages are there before the clock starts, as in a file that is reserved
    before, processor = time.perf_counter(), time.process_time()
    encoder.encode(images, out=features)
    seconds = time.perf_counter() - before
    row: dict[str, object] = {
        "encoder": encoder.name,
        "images": len(images),
        "features": features.shape[1],
        "learn s": learned - start,
        "encode s": seconds,
        "processor s": time.process_time() - processor,
        "60,000 images s": seconds * 60_000 / len(images),
    }
    if labels is not None:
        for count, draws in DRAWS.items():
            if count <= train:
                row[f"accuracy at {count:,}"] = _accuracy(features, labels, train, count, draws)
    return row


def _accuracy(
    features: np.ndarray, labels: torch.Tensor, train: int, count: int, draws: int
) -> str:
    inputs, test = Rows(features), torch.arange(train, len(features))
    found = []
    for draw in range(draws):
        chosen = np.sort(numpy_stream(draw).choice(train, count, replace=False))
        rows = torch.from_numpy(chosen)
        model = Ridge().fit(inputs, rows, labels[rows], classes=10, seed=draw)
        right = model.predict(inputs, test).probs.argmax(1) == labels[test]
        found.append(100 * float(right.float().mean()))
    spread = f" ± {np.std(found, ddof=1):.2f} ({draws} draws)" if draws > 1 else ""
    return f"{np.mean(found):.2f} %{spread}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    sys.stdout.write(f"{machine()}\n{table(run(parser.parse_args().quick))}\n")
