"""Saturated coverage: every row represented by many picks, up to a share of what all would."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.functions.coverage import Coverage, check_vector, windows_of
from labelwise.kernels.geometry import Points
from labelwise.kernels.similarity import Similarity


class SaturatedCoverage(Coverage):
    """``sum_i w_i min(sum_{j in A} s_ij, alpha sum_{k in V} s_ik)``.

    Monotone and submodular for similarities that are nowhere negative. Rows whose share is far
    from used up gain from every pick alike, so until picks use up shares gains stay what they
    are and no similarities but those to the picks are looked at.

    Args:
        similarity: N elements, similarities >= 0.
        alpha: in (0, 1], the share of its similarity to all elements at which a row saturates.
        represented: the M rows i: row numbers of the pool, other points, or the whole pool.
        weights: (M,) w >= 0; ones by default.
        covered: (K,) int64 rows that are in A from the start; their value is not counted.
        neighbors, dense, memory: as for `FacilityLocation`.

    Raises:
        InputError: alpha out of range, a negative similarity, or a bad row number or weight.
        ResourceError: too many pairs without consent, or ``memory`` is too small.

    Source:
        Lin & Bilmes, "A class of submodular functions for document summarization", ACL 2011.

    >>> from labelwise.kernels import Euclidean, greedy
    >>> x = Euclidean([[0.0], [0.1], [0.2], [9.0]])
    >>> greedy(SaturatedCoverage(Similarity(x, "rbf", width=1.0), alpha=0.3), 2).rows
    tensor([0, 3])
    """

    def __init__(
        self,
        similarity: Similarity,
        alpha: float = 0.1,
        *,
        represented: Tensor | Points | None = None,
        weights: Any = None,
        covered: Tensor | None = None,
        neighbors: int | None = None,
        dense: bool = False,
        memory: int | None = None,
    ) -> None:
        if not 0 < alpha <= 1:
            raise InputError(f"alpha must be in (0, 1], got {alpha}")
        windows = windows_of(similarity, represented, neighbors, dense, memory)
        total, least, self._most = windows.extent()
        if float(least.min()) < 0:
            row = int(least.argmin())
            raise InputError(
                "saturated coverage is for similarities >= 0, but that of represented row "
                f"{row} to some element is {float(least[row]):.3g}; use cosine01, for one"
            )
        count, device = windows.represented, windows.device
        weight = None if weights is None else check_vector(weights, count, "weights", device)
        self._left = alpha * total
        super().__init__(windows, self._reach(), weight, None, memory)
        self._cover(covered)

    def _reach(self) -> Tensor:
        """Upper edges: what is left of a row's share, where a similarity may exceed that."""
        return torch.where(self._left >= self._most, math.inf, self._left.clamp(min=0)).float()

    def _start(self) -> Tensor:
        return self.windows.within(torch.zeros_like(self._edge), self._edge, self._weights)

    def _move(self, column: Tensor) -> float:
        before = self._left.clamp(min=0)
        self._left = self._left - column.double()
        gained = before - self._left.clamp(min=0)
        self._edge = self._reach()
        return float(gained.sum() if self._weights is None else gained @ self._weights.double())
