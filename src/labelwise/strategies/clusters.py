"""Clusters of a pool, as several strategies need them."""

from __future__ import annotations

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float
from labelwise.kernels import Clusters, Euclidean, Generator, kmeans, kmeans_plus_plus


def cluster(
    rows: Rows,
    k: int,
    *,
    generator: Generator,
    candidates: Tensor | None = None,
    iterations: int = 100,
    minibatch: int | None = None,
) -> Clusters:
    """k-means, started by k-means++, of all rows or of some.

    Args:
        rows: (N, D).
        k: how many clusters, at most the number of rows clustered.
        generator: randomness, by item of the pool.
        candidates: (M,) int64, the rows to cluster, ascending. A copy of them is held where
            it is small (256 MB) and they are not all.
        iterations: see `labelwise.kernels.kmeans`.
        minibatch: the same; only for the whole pool.

    Returns:
        Clusters of the M candidates in their order, or of all N rows.
    """
    stream = generator.child("clusters")
    geometry = Euclidean(rows)
    if candidates is None or len(candidates) == len(rows):
        return kmeans(geometry, k, generator=stream, iterations=iterations, minibatch=minibatch)
    seeds = kmeans_plus_plus(geometry, k, generator=stream, candidates=candidates).rows
    start = as_float(rows.take(seeds)).float()
    return kmeans(
        geometry, k, generator=stream, iterations=iterations, init=start, candidates=candidates
    )


def unit_rows(rows: Rows, which: Tensor | None = None) -> Rows:
    """Each row divided by its length, (N, D), held in memory.

    Args:
        rows: (N, D).
        which: (M,) int64, only these rows; all by default.

    Raises:
        InputError: a row of zeros, which has no direction.

    >>> unit_rows(Rows([[3.0, 4.0]])).tensor()
    tensor([[0.6000, 0.8000]], dtype=torch.float64)
    """
    part = rows if which is None else rows.subset(which)
    out = torch.empty(part.shape, dtype=as_float(rows.block(0, 1)).dtype, device=rows.device)
    for start, block in part.blocks():
        values = as_float(block)
        # Scaled by the largest entry first: squares of large or tiny numbers leave float32.
        largest = values.abs().amax(1, keepdim=True)
        if (largest == 0).any():
            row = start + int((largest[:, 0] == 0).nonzero()[0])
            row = row if which is None else int(which[row])
            raise InputError(
                f"{rows.name}: row {row} is a zero vector and has no direction; "
                "leave it out or pass normalize=False"
            )
        scaled = values / largest
        out[start : start + len(block)] = scaled / scaled.norm(dim=1, keepdim=True)
    return Rows(out, rows.name)
