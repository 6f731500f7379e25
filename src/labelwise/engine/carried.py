"""Centers that travel: with them goes what their true distances are computed from."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.engine.parts import narrow, widen
from labelwise.kernels.centers import Centers, IntArray
from labelwise.kernels.geometry import Geometry, Points

_PAIR_BYTES = 32 << 20

Factors = tuple[NDArray[Any], ...]


class Carried(Centers):
    """Centers whose rows may be those of another shard, so their numbers say nothing here.

    Args:
        geometry: the points here.
        capacity: how many centers there will be at most.
    """

    def __init__(self, geometry: Geometry, capacity: int) -> None:
        super().__init__(geometry, capacity)
        self._capacity = capacity
        self._stored: Factors = ()

    def add(self, rows: IntArray, points: Points) -> None:
        """Rows of the geometry as centers."""
        if len(rows):
            factors = self.geometry.double(torch.from_numpy(rows))
            self._keep(tuple(narrow(factor) for factor in factors))
            super().add(rows, points)

    def receive(self, factors: Factors) -> None:
        """Centers from elsewhere, as `narrow` made them."""
        points = self.geometry.rounded(widen(factors, self.geometry.device))
        self._keep(factors)
        super().add(np.full(len(points), -1), points)

    def _keep(self, factors: Factors) -> None:
        if not self._stored:
            self._stored = tuple(np.empty((self._capacity, f.shape[1]), f.dtype) for f in factors)
        kinds = [np.promote_types(old.dtype, f.dtype) for old, f in zip(self._stored, factors)]
        self._stored = tuple(old.astype(k, copy=False) for old, k in zip(self._stored, kinds))
        for mine, theirs in zip(self._stored, factors):
            mine[len(self) : len(self) + len(theirs)] = theirs

    def factors(self, start: int = 0) -> Factors:
        """What the centers from one on are made of, ready to travel."""
        return tuple(stored[start : len(self)] for stored in self._stored)

    def exact(self, rows: Tensor, which: Tensor) -> Tensor:
        """Squared distances of rows here to centers, pair by pair, in float64."""
        found = [torch.zeros(0, dtype=torch.float64, device=self.geometry.device)]
        step = max(1, _PAIR_BYTES // (8 * sum(self.geometry.widths)))
        for mine, theirs in zip(rows.split(step), which.split(step)):
            centers = widen([f[theirs.numpy()] for f in self._stored], self.geometry.device)
            found.append(self.geometry.apart(self.geometry.double(mine), centers))
        return torch.cat(found)
