"""Evidence that follows from other evidence without a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from labelwise.evidence.rules import as_float, rows_first
from labelwise.kernels import Rows, linear


def probs(logits: Rows) -> Tensor:
    """Softmax of the logits, (N, C).

    In float32 at least: float64 logits give float64, everything else float32. Held in memory.
    """
    return _by_blocks(logits, lambda block: as_float(block).softmax(1))


def mean_of_draws(draws: Rows) -> Tensor:
    """Mean of the draws over the posterior's samples, (N, C); the model's expected belief."""
    return _by_blocks(rows_first(draws), lambda block: as_float(block).mean(1))


def logits(embeddings: Rows, head_weight: Rows, head_bias: Rows | None = None) -> Tensor:
    """What a linear head says of the embeddings: ``h W' + b``, (N, C).

    In float32, or in float64 where the embeddings are.
    """
    where, kind = embeddings.device, as_float(embeddings.block(0, 1)).dtype
    weight = head_weight.tensor().to(where, kind)
    bias = None if head_bias is None else head_bias.tensor().to(where, kind)
    return _by_blocks(embeddings, lambda block: linear(as_float(block), weight, bias))


def _by_blocks(rows: Rows, function: Callable[[Tensor], Tensor]) -> Tensor:
    first = function(rows.block(0, 1))
    out = torch.empty(len(rows), first.shape[1], dtype=first.dtype, device=first.device)
    for start, block in rows.blocks():
        out[start : start + len(block)] = function(block)
    return out
