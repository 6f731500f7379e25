"""What a set function is to the optimizers: marginal gains, and a set that grows."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class SetFunction(ABC):
    """A function f of subsets of N elements, with the set A chosen so far as its state.

    Gains are float64 and belong to the present A. A function may remember whatever makes the
    next gains cheaper; how it does so never changes what it answers by more than rounding.

    Attributes:
        submodular: whether gains can only fall as A grows. Then a stale gain is an upper bound,
            and `greedy` may leave most of them stale.
        monotone: whether gains are never negative. Then what gains nothing now gains nothing later,
            and no set is better than another where every row's gain is 0; a function that is not
            may still tell sets apart.
        rounding: how far apart two equal gains may come out; `greedy` takes gains as close as
            this for a tie.
        chosen: the rows of A, in the order added; rows that were covered from the start first.
        value: f(A) - f(empty set), the sum of the gains of the rows added.
    """

    submodular: bool = True
    monotone: bool = True
    rounding: float = 0.0

    def __init__(self) -> None:
        self.chosen: list[int] = []
        self.value = 0.0

    @abstractmethod
    def __len__(self) -> int:
        """N, how many elements there are."""

    @property
    def device(self) -> torch.device:
        """Where gains are computed."""
        return torch.device("cpu")

    @abstractmethod
    def gains(self, rows: Tensor | None = None) -> Tensor:
        """f(A + j) - f(A) for each row j asked about, none of them in A.

        Args:
            rows: (m,) int64, any order; None for every row of the ground set (rows in A then
                get a number that means nothing).

        Returns:
            (m,) float64 on the CPU.
        """

    def add(self, row: int, gain: float) -> float:
        """Put a row into A.

        Args:
            row: not yet in A.
            gain: what `gains` answered for it.

        Returns:
            What the value has gained: ``gain``, or a number nearer the truth.
        """
        self._add(row)
        self.chosen.append(row)
        self.value += gain
        return gain

    @abstractmethod
    def _add(self, row: int) -> None:
        """Bring whatever is remembered up to date with one more row in A."""

    def bytes_needed(self, n: int) -> int:
        """About how many bytes beyond the input this function holds when A has n rows."""
        return 64 * len(self) + 0 * n
