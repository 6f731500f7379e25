"""A shard's part in graph cut: the gains of its rows."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from labelwise.engine.shard import Shard
from labelwise.errors import InputError
from labelwise.kernels.bounds import Fence
from labelwise.kernels.centers import FloatArray, IntArray
from labelwise.kernels.columns import largest
from labelwise.kernels.geometry import Geometry
from labelwise.kernels.similarity import Similarity
from labelwise.kernels.sums import LinearSums, Total

Linear = Literal["dot", "cosine", "cosine01"]


class GainsHere:
    """A shard's part: the gains of its rows, in float64.

    Args:
        shard: the rows.
        kind: the similarity.
    """

    def __init__(self, shard: Shard, kind: Linear) -> None:
        self._geometry, self._start, self._kind = shard.geometry, shard.start, kind
        self._sums = linear_sums(shard.geometry, kind)

    def total(self) -> Total:
        """The sum of the points here, as the similarity needs it."""
        return self._sums.total()

    def scale(self) -> float:
        """A bound on the similarities of points here."""
        return largest(Similarity(self._geometry, self._kind))

    def begin(self, lam: float, total: Total, fence: Fence) -> None:
        """Forget all picks.

        Args:
            lam: what redundancy counts for.
            total: the sum of the whole pool.
            fence: the rows that may be picked.
        """
        self._lam = lam
        self._base = self._sums.values(total) - lam * self._sums.own()
        stop = self._start + len(self._geometry)
        self._allowed = torch.from_numpy(fence.mask(self._start, stop))
        self._gains = self._base

    def front(
        self, size: int, picks: Total, picked: IntArray
    ) -> tuple[IntArray, FloatArray, float]:
        """The rows of largest gain given some picks, their gains, and the largest gain left out.

        Args:
            size: how many rows.
            picks: the sum of all picks so far.
            picked: their rows.
        """
        here = picked - self._start
        self._allowed[torch.from_numpy(here[(here >= 0) & (here < len(self._geometry))])] = False
        gains = self._base + self._sums.values(picks.times(-2 * self._lam))
        gains[~self._allowed.to(gains.device)] = -torch.inf
        self._gains = gains
        count = min(size + 1, len(gains))
        order = np.argsort(-gains.cpu().numpy(), kind="stable")[:count]
        found: FloatArray = gains.cpu().numpy()[order]
        rest = float(found[size]) if len(found) > size else -np.inf
        live = found[:size] > -np.inf
        return order[:size][live] + self._start, found[:size][live], rest

    def lowest(self, least: float) -> int | None:
        """The lowest row with a gain, as of the last `front`, of at least so much."""
        rows = (self._gains >= least).nonzero()[:, 0]
        return int(rows[0]) + self._start if len(rows) else None


def linear_sums(geometry: Geometry, kind: Linear) -> LinearSums:
    """Sums of a linear similarity over a geometry.

    Raises:
        InputError: an unknown or moved similarity, or sums too large to send.
    """
    found = LinearSums.of(Similarity(geometry, kind))
    if found is None:
        raise InputError(
            "the sum of these points has too many numbers to be exchanged; use fewer classes or "
            "dimensions"
        )
    return found
