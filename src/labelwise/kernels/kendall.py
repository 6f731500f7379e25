"""Kendall's rank correlation of many pairs of lists at once."""

from __future__ import annotations

import torch
from torch import Tensor

SHORT = 16
"""Columns whose pairs are compared one by one, before stretches are merged."""


def kendall_tau(x: Tensor, y: Tensor) -> Tensor:
    """Kendall's tau-b of each row of one matrix with the same row of another.

    Over the pairs of columns: those in the same order in both less those in opposite orders,
    divided by the geometric mean of the pairs that are no tie in ``x`` and no tie in ``y``.
    Pairs in opposite orders are counted while merging sorted halves, for all rows together.

    Args:
        x: (N, K). y: (N, K).

    Returns:
        (N,) float64 in [-1, 1]; 0 where a row is constant and has no order.

    Source:
        Kendall, "The treatment of ties in ranking problems", Biometrika 1945; counting by
        merges: Knight, JASA 1966. O(N K log^2 K) time, O(N K) memory.

    >>> kendall_tau(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, 3.0, 2.0]]))
    tensor([0.3333], dtype=torch.float64)
    """
    length = x.shape[1]
    pairs = length * (length - 1) // 2
    # Within ties of x by y, so that no tie of x counts as a pair in opposite orders.
    order = y.argsort(dim=1, stable=True)
    order = order.gather(1, x.gather(1, order).argsort(dim=1, stable=True))
    first, second = x.gather(1, order), y.gather(1, order)
    changes_x = first[:, 1:] != first[:, :-1]
    changes_y = second[:, 1:] != second[:, :-1]
    ordered = y.sort(1).values
    tied_x = _tied_pairs(changes_x)
    tied_y = _tied_pairs(ordered[:, 1:] != ordered[:, :-1])
    tied_both = _tied_pairs(changes_x | changes_y)
    opposite = _inversions(second)
    net = pairs - tied_x - tied_y + tied_both - 2 * opposite
    free = (pairs - tied_x).double().sqrt() * (pairs - tied_y).double().sqrt()
    return torch.where(free > 0, net.double() / free.clamp(min=1), 0.0).clamp(-1, 1)


def _tied_pairs(changes: Tensor) -> Tensor:
    """(N,) pairs within runs of equal values, from (N, K - 1) whether the next is another."""
    count, gaps = changes.shape
    run = torch.zeros(count, gaps + 1, dtype=torch.int64, device=changes.device)
    run[:, 1:] = changes.cumsum(1)
    sizes = torch.zeros_like(run).scatter_add_(1, run, torch.ones_like(run))
    return (sizes * (sizes - 1) // 2).sum(1)


def _inversions(values: Tensor) -> Tensor:
    """(N,) pairs of columns of (N, K) of which the earlier has the larger value."""
    count, length = values.shape
    ordered, where = values.sort(1)
    ranks = torch.zeros(count, length, dtype=torch.int32, device=values.device)
    ranks[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).cumsum(1)
    # Padding behind all others and above them is in no inverted pair.
    width = max(SHORT, 1 << (length - 1).bit_length())
    at = torch.full((count, width), length, dtype=torch.int32, device=values.device)
    at.scatter_(1, where, ranks)
    parts = at.reshape(count, -1, SHORT)
    found = torch.zeros(count, dtype=torch.int64, device=values.device)
    for gap in range(1, SHORT):
        found += (parts[:, :, :-gap] > parts[:, :, gap:]).sum((1, 2))
    half = SHORT
    while half < width:
        at = at.reshape(count, -1, half).sort(2).values
        pairs = at.reshape(count, -1, 2, half)
        left, right = pairs[:, :, 0].contiguous(), pairs[:, :, 1].contiguous()
        found += (half - torch.searchsorted(left, right, right=True)).sum((1, 2))
        half *= 2
    return found
