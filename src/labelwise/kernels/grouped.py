"""Sums of rows by group, in a fixed order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def group_sums(x: Tensor, member: Tensor, weights: Tensor, count: int) -> Tensor:
    """Weighted sums of rows by group, each in the order of its rows, whatever the device.

    Args:
        x: (b, D) float32.
        member: (b,) int64, the group of each row, 0 to count - 1.
        weights: (b,) float32.
        count: how many groups; those without a row sum to 0.

    Returns:
        (count, D) float64, of sums in single precision: meant for blocks of a pool.

    >>> group_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([2, 0, 2]), torch.ones(3), 3)
    tensor([[2.],
            [0.],
            [5.]], dtype=torch.float64)
    """
    order = member.argsort(stable=True)
    starts = torch.searchsorted(member[order], torch.arange(count, device=member.device))
    found = embedding_bag(order, x, starts, mode="sum", per_sample_weights=weights[order])
    return found.double()
