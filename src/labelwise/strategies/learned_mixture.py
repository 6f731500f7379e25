"""Mixtures that flip a prediction, learned by a few steps of descent: a variant of ALFA-Mix."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from labelwise.evidence import Rows, as_float
from labelwise.kernels import Generator

_TRIES = 5
_RATE = 0.1
_LENGTH = 0.01
_EPSILON = 1e-8
_ENTRIES = 1 << 20


def learned_caps(
    logits: Rows,
    embeddings: Rows,
    weight: Tensor,
    anchors: Tensor,
    rows: Tensor,
    *,
    enough: int,
    cap: float,
    generator: Generator,
) -> tuple[Tensor, float]:
    """The cap at which a learned mixture with some anchor first flips each row.

    For every row, anchor and cap the share of each column starts from the normal law with mean
    and deviation cap / 2, kept within 1e-8 and cap. Five times it is tried, and in between moved
    to raise the cross-entropy at the predicted class less 0.01 times its own length: by the
    first step of Adam, which is the sign of the gradient times 0.1.

    Args:
        logits: (N, C). embeddings: (N, D).
        weight: (C, D) float64, the last layer's. anchors: (A, D) float64.
        rows: (M,) int64, those asked about.
        enough: stop at the first cap at which more rows than that have flipped.
        cap: in (0, 1], the first cap and the step by which it rises to 1.
        generator: the start, by item.

    Returns:
        (M,) float64 caps, infinity where nothing flipped; and the last cap tried.
    """
    found = torch.full((len(rows),), torch.inf, dtype=torch.float64)
    levels = math.ceil(1 / cap)
    step = max(1, _ENTRIES // (weight.shape[1] + weight.shape[0]))
    for level in range(1, levels + 1):
        left = found.isinf().nonzero()[:, 0]
        for part in left.split(step):
            mine = rows[part]
            h = as_float(embeddings.take(mine)).double()
            z = as_float(logits.take(mine)).to(h.device).double()
            flips = torch.zeros(len(part), dtype=torch.bool, device=h.device)
            for a, anchor in enumerate(anchors):
                noise = generator.child("mixture", level, a)
                start = _normal(noise, mine, h.shape[1]).to(h.device)
                flips |= flips_on_the_way(z, anchor - h, weight, level * cap, start)
            found[part[flips.cpu()]] = level * cap
        if int(found.isfinite().sum()) > enough:
            break
    return found, level * cap


def flips_on_the_way(
    logits: Tensor, away: Tensor, weight: Tensor, cap: float, start: Tensor
) -> Tensor:
    """Whether one of the mixtures that are tried flips the prediction, (b,) bool.

    Args:
        logits: (b, C) float64. away: (b, D), from the embeddings to the anchor.
        weight: (C, D). cap: the largest share of a column.
        start: (b, D) standard normal numbers.
    """
    best = logits.argmax(1, keepdim=True)
    share = (cap / 2 + cap / 2 * start).clamp_(_EPSILON, cap)
    flips = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    for _ in range(_TRIES):
        mixed = logits + (share * away) @ weight.T
        flips |= mixed.argmax(1) != best[:, 0]
        pull = mixed.softmax(1).scatter_add(1, best, -torch.ones_like(mixed[:, :1]))
        slope = _LENGTH * share / share.norm(dim=1, keepdim=True) - (pull @ weight) * away
        share = (share - _RATE * slope / (slope.abs() + _EPSILON)).clamp_(_EPSILON, cap)
    return flips


def _normal(generator: Generator, rows: Tensor, count: int) -> Tensor:
    """Standard normal numbers of each row, (b, count) float64."""
    at = rows.numpy()
    uniform = np.stack([generator.uniform(at, draw=i) for i in range(count)], axis=1)
    return torch.erfinv(torch.from_numpy(2 * uniform - 1)) * math.sqrt(2)
