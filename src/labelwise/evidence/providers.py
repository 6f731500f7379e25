"""Evidence that follows from other evidence without a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labelwise.evidence.rules import Checked, as_float, rows_first
from labelwise.kernels import Rows, linear

HELD_BYTES = 256 << 20
"""What is computed from arrays in memory is held when it is no larger; else it is computed again
whenever rows of it are asked for, as it is for files."""


def probs(logits: Rows) -> Rows:
    """Softmax of the logits, (N, C).

    In float32 at least: float64 logits give float64, everything else float32.
    """
    return _computed(logits, lambda block: as_float(block).softmax(1), "probs")


def mean_of_draws(draws: Rows) -> Rows:
    """Mean of the draws over the posterior's samples, (N, C); the model's expected belief."""
    return _computed(rows_first(draws), lambda block: as_float(block).mean(1), "probs")


def logits(embeddings: Rows, head_weight: Rows, head_bias: Rows | None = None) -> Rows:
    """What a linear head says of the embeddings: ``h W' + b``, (N, C).

    In float32, or in float64 where the embeddings are.
    """
    where, kind = embeddings.device, as_float(embeddings.block(0, 1)).dtype
    weight = head_weight.tensor().to(where, kind)
    bias = None if head_bias is None else head_bias.tensor().to(where, kind)
    return _computed(embeddings, lambda block: linear(as_float(block), weight, bias), "logits")


def _computed(rows: Rows, function: Callable[[Tensor], Tensor], name: str) -> Rows:
    """The rows' images: held where they are small, computed when asked for where not."""
    lazy = rows.map(function, name)
    if rows.is_file or lazy.dtype.itemsize * len(lazy) * lazy.shape[1] > HELD_BYTES:
        return Checked(lazy, name)  # a function of checked rows
    first = function(rows.block(0, 1))
    out = torch.empty(len(rows), first.shape[1], dtype=first.dtype, device=first.device)
    for start, block in rows.blocks():
        out[start : start + len(block)] = function(block)
    return Checked(out, name)
