"""Large pools made on the spot: a Gaussian mixture, its linear head, and that head's logits.

``python -m perf.pool FOLDER [--rows N] [--width D] [--classes C]`` writes ``embeddings.npy``
(N x D) and ``logits.npy`` (N x C), both float16, and ``head_weight.npy`` (C x D). A folder that
holds the same pool already is left as it is.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from labelwise.kernels import linear

BLOCK = 16_384


def make_pool(folder: Path, rows: int, width: int, classes: int, seed: int = 0) -> Path:
    """Write the pool's files, or find them written."""
    about = {"rows": rows, "width": width, "classes": classes, "seed": seed}
    done = folder / "pool.json"
    if done.exists() and json.loads(done.read_text()) == about:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    stream = torch.Generator().manual_seed(seed)
    # Centers lie 5.4 noise widths from the origin: a head that knows them is sure of most rows
    # and torn on the others.
    centers = torch.randn(classes, width, generator=stream) * (5.4 / width**0.5)
    head = centers / 2
    np.save(folder / "head_weight.npy", head.numpy())
    embeddings = _create(folder / "embeddings.npy", rows, width)
    logits = _create(folder / "logits.npy", rows, classes)
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        # Zipf-like class sizes, as in pools nobody has balanced.
        u = torch.rand(stop - start, generator=stream)
        label = ((classes + 1.0) ** u - 1).long().clamp_(max=classes - 1)
        x = torch.randn(stop - start, width, generator=stream).add_(centers[label])
        embeddings[start:stop] = x.numpy()
        stored = torch.from_numpy(np.asarray(embeddings[start:stop])).float()
        logits[start:stop] = linear(stored, head).numpy()
    embeddings.flush()
    logits.flush()
    done.write_text(json.dumps(about))
    return folder


def _create(path: Path, rows: int, width: int) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, width))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m perf.pool", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_281_167)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    given = parser.parse_args()
    start = time.perf_counter()
    make_pool(given.folder, given.rows, given.width, given.classes)
    print(f"{given.folder}: {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
