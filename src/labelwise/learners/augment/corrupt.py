"""Corruption of vectors by entries of other rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from labelwise.learners.augment.look import share


class Drawn(NamedTuple):
    """What decides a corruption, a row per vector.

    Attributes:
        changed: (n, D) bool, the entries that are replaced.
        source: (n, D) int64, the row of the minibatch that each comes from.
    """

    changed: Tensor
    source: Tensor


class Corrupt:
    """Replace a share of each row's entries by the same entries of other rows.

    Which entries is drawn for each row anew; each entry comes from a row of the minibatch drawn
    for it alone, never from its own. A row that is alone in its minibatch stays as it is.

    Args:
        rate: share of the entries, rounded down, at least one where it is above 0.

    Raises:
        InputError: a rate outside of [0, 1].

    Source:
        Bahri et al., "SCARF: Self-Supervised Contrastive Learning using Random Feature
        Corruption", ICLR 2022, with a rate of 0.6. There the entries come from the whole
        training set, of which a minibatch is a random part.
    """

    def __init__(self, rate: float) -> None:
        share("corruption", rate)
        self.rate = rate

    def draw(self, count: int, width: int, generator: torch.Generator) -> Drawn:
        """What is random in ``count`` rows of ``width`` entries."""
        number = max(int(self.rate * width + 1e-9), int(self.rate > 0))
        ranks = torch.rand((count, width), generator=generator).argsort(1).argsort(1)
        away = torch.randint(1, max(count, 2), (count, width), generator=generator)
        source = (torch.arange(count)[:, None] + away) % max(count, 1)
        return Drawn(ranks < number, source)

    def __call__(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(n, ...) rows of any type to as many of the same shape; the generator is CPU's."""
        flat = rows.flatten(1)
        changed, source = self.draw(len(flat), flat.shape[1], generator)
        others = flat.gather(0, source.to(rows.device))
        return torch.where(changed.to(rows.device), others, flat).reshape(rows.shape)
