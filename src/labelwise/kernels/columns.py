"""Columns of a pool's similarity matrix, many to a pass, those likely to be asked for next too.

A column of a pool that does not fit in memory costs a pass over a file, and greedy selection
asks for one a pick. The pass that has to be made for one pick also computes those of the rows
likely to be picked next. Which these are is found by playing the game ahead among the rows
first in line, whose similarities to each other are cheap. A guess that proves wrong costs time,
never a different pick.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.gemm import single_roundoff
from labelwise.kernels.precomputed import Given
from labelwise.kernels.similarity import Similarity

_LEAST = 4  # columns looked ahead for
_FIRST = 16
_LINE = (512, 16384)  # rows the game is played ahead among, at least and at most
_LINE_BYTES = 256 << 20


class Columns:
    """Some columns of the similarity matrix, in a buffer that is touched as it fills.

    Args:
        similarity: N points.
        most: how many columns are held; the oldest give way to new ones.

    Attributes:
        passes: how often the pool has been gone through.
    """

    def __init__(self, similarity: Similarity, most: int) -> None:
        self.similarity, self.most = similarity, most
        self.passes = 0
        self._slots: OrderedDict[int, int] = OrderedDict()
        self._held: Tensor | None = None
        self._ahead = min(_FIRST, most)
        self._used = 0

    def __contains__(self, row: int) -> bool:
        return row in self._slots

    def take(self, row: int) -> Tensor:
        """The column of a row, (N,) float32, which then may give way to another."""
        assert self._held is not None
        self._used += 1
        return self._held[self._slots.pop(row)]

    def fetch(self, rows: list[int]) -> None:
        """One pass over the pool for the columns of at most `most` rows."""
        if self._held is None:
            size = (self.most, len(self.similarity))
            self._held = torch.empty(*size, device=self.similarity.device)
        fresh = [row for row in rows if row not in self._slots]
        while len(self._slots) + len(fresh) > self.most:
            self._slots.popitem(last=False)
        slots = sorted(set(range(self.most)) - set(self._slots.values()))[: len(fresh)]
        self._slots.update(zip(fresh, slots))
        wanted = torch.tensor(fresh, dtype=torch.int64)
        points = self.similarity.take(wanted)
        for start, block in self.similarity.blocks():
            numbers = torch.arange(start, start + len(block))
            part = self.similarity.between(block, points, numbers, wanted).T
            for k, slot in enumerate(slots):
                self._held[slot, start : start + len(block)] = part[k]
        self.passes += 1
        # Twice as many columns as were of use: too few would cut a stretch of good guesses
        # short, too many are computed in vain.
        self._ahead = max(_LEAST, min(self.most - 1, 2 * self._used + 2))
        self._used = 0

    def look_ahead(
        self,
        rows: Tensor,
        score: Tensor,
        before: Callable[[Tensor], Tensor],
        weight: Callable[[float, float], float],
        slope: Tensor | None = None,
    ) -> list[int]:
        """The rows likely to be picked next.

        Args:
            rows: (K,) rows that may be picked. score: (K,) what they would gain.
            before: what is to be added to the scores of the rows it is given.
            weight: what the similarity to a pick counts for, from its score and its similarity
                to itself.
            slope: (N,) what every pick adds to the score of each row.
        """
        most = min(max(_LINE[0], len(self.similarity) // 64), _LINE[1])
        most = min(most, _LINE_BYTES // self.similarity.point_bytes)
        top = score.topk(min(most, len(rows))).indices
        line = rows[top]
        score = score[top] + before(line)
        points = self.similarity.take(line.cpu())
        rise = 0.0 if slope is None else slope[line]
        found: list[int] = []
        for _ in range(min(self._ahead, len(line))):
            best = int(score.argmax())
            column = self.similarity.between(points, points[best : best + 1])[:, 0].double()
            score = score + weight(float(score[best]), float(column[best])) * column + rise
            score[best] = -torch.inf
            found.append(int(line[best]))
        return found


def relative_error(similarity: Similarity) -> float:
    """How far a computed similarity is off by all likelihood, relative to `largest`.

    The rounding of a sum of K products grows as sqrt(K) (Higham & Mary, "A new approach to
    probabilistic rounding error analysis", SIAM J. Sci. Comput. 2019).
    """
    width = 0 if similarity.kind == "given" else sum(similarity.geometry.widths)
    return 2 * math.sqrt(width + 16) * single_roundoff(similarity.device)


def largest(similarity: Similarity) -> float:
    """About the size of the largest similarity, or of what similarities are computed from."""
    if similarity.kind == "given":
        return _largest_given(similarity)
    if similarity.kind not in ("dot", "distance", "complement"):
        return 1.0
    norms = similarity.geometry.squared_norms()
    norm = float(norms.max()) if len(norms) else 0.0
    if similarity.kind == "dot":
        return norm
    return max(2 * math.sqrt(norm), similarity.width or 0.0)


def _largest_given(similarity: Similarity) -> float:
    """Of a few rows, against all."""
    some = similarity.take(torch.arange(min(_LEAST, len(similarity))))
    found = [float(similarity.between(block, some).abs().max()) for _, block in similarity.blocks()]
    return max(found, default=0.0)


def check_square(similarity: Similarity, name: str) -> None:
    """Refuse similarities to other points where those of the rows to each other are needed.

    Raises:
        InputError: a given matrix that is not square.
    """
    if isinstance(similarity, Given) and not similarity.square:
        raise InputError(
            f"{name} needs similarities of {len(similarity)} rows to each other, got a matrix of "
            f"their similarities to {len(similarity.represented())} others"
        )
