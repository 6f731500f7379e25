"""A random part of the candidates, for methods that look at no more than that."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels import Generator


def drawn(candidates: Tensor, size: int | None, n: int, generator: Generator) -> Tensor:
    """Some candidates, drawn at random without replacement, in the order they came.

    Args:
        candidates: (M,) int64 rows.
        size: how many, at least 1; None, or as many as there are, keeps all. Never fewer than n.
        n: how many are to be picked of them.
        generator: decides; the same items come whatever the order of rows.

    Returns:
        (min(M, max(size, n)),) int64 rows.

    Raises:
        InputError: a size that is no whole number >= 1.

    >>> drawn(torch.arange(100), 5, 3, Generator(0)).shape
    torch.Size([5])
    """
    if size is None:
        return candidates
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"subset must be a whole number >= 1 or None, got {size!r}")
    size = max(size, n)
    if size >= len(candidates):
        return candidates
    noise = generator.child("subset").uniform(candidates.cpu().numpy())
    kept = np.sort(np.argpartition(noise, size - 1)[:size])
    return candidates[torch.from_numpy(kept).to(candidates.device)]
