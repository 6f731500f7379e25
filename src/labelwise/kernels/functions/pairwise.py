"""Functions whose gains are a sum of similarities to the picks, beside terms that are fixed.

Graph cut, herding and disparity-sum are one machine: the gain of row j is ``base_j + t slope_j
+ weight * sum of s(j, picks)`` with t picks made. The sums change with every pick by one column
of the similarity matrix, and a column of a pool that does not fit in memory costs a pass over a
file. So columns come many at a time: the pass that has to be made for one pick also computes
those of the rows likely to be picked next. Which these are is found by playing the greedy game
ahead among the rows first in line, whose similarities to each other are cheap. A guess that
proves wrong costs time, never a different pick.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import OrderedDict

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.gemm import single_roundoff
from labelwise.kernels.geometry import Points
from labelwise.kernels.similarity import Similarity
from labelwise.kernels.sums import LinearSums, Total

COLUMNS = (4, 512)
"""Columns that one pass computes: least and most, as far as memory allows."""

_VECTORS = 48  # bytes a row held beside the columns
_DEFAULT_COLUMN_BYTES = 1 << 30
_AHEAD = (512, 16384)  # rows the game is played ahead among, at least and at most
_AHEAD_BYTES = 256 << 20
_DIRECT = 4096  # rows whose sums are computed on their own rather than from columns
_CLOSE = 8192  # rows close to the best that are decided in float64, before sums are renewed
_ADDED = 256


class Pairwise(SetFunction):
    """A set function of fixed terms and pairwise similarities.

    The gain of row j is ``base_j + t slope_j + weight * sum_{s in A} s(j, s)``, t = |A|.

    Args:
        similarity: N points.
        weight: what the similarity to each pick counts for.
        covered: (M,) int64 rows that are in A from the start.
        memory: bytes that columns may take, with the rest; about 1 GiB by default.

    Raises:
        InputError: a covered row out of range or given twice.
        ResourceError: ``memory`` does not hold one column and the vectors.
    """

    def __init__(
        self,
        similarity: Similarity,
        weight: float,
        *,
        covered: Tensor | None = None,
        memory: int | None = None,
    ) -> None:
        super().__init__()
        self.similarity = similarity
        self.weight = weight
        self.linear = LinearSums.of(similarity)
        self._most = self._column_limit(memory)
        self._width = min(16, self._most)
        self._slots: OrderedDict[int, int] = OrderedDict()  # of the rows whose columns are held
        self._held: Tensor | None = None  # (columns, N)
        self._used = 0  # columns that were needed since the last pass
        self._passes = 0
        self._pending = covered_rows(covered, len(similarity))
        self.chosen = list(self._pending)
        self._score: Tensor | None = None  # of all rows, without the pending picks
        self._first = torch.zeros(0)
        self._steps = 0  # how many picks' slopes the scores hold
        self._asked = 0  # similarities to pending picks computed since they were last applied
        self._scale = 0.0  # what the rounding of one similarity is relative to
        self._drift = 0.0  # how far off scores may be
        self._total: Total | None = None  # of the picks, pending ones too

    def __len__(self) -> int:
        return len(self.similarity)

    @property
    def device(self) -> torch.device:
        """Where similarities are computed."""
        return self.similarity.device

    @property
    def passes(self) -> int:
        """How often the whole pool has been multiplied with picks so far."""
        return self._passes

    @property
    def _slope(self) -> Tensor | None:
        """(N,) float64, what each earlier pick adds to every row's gain; None for nothing."""
        return None

    @abstractmethod
    def _base(self) -> Tensor:
        """(N,) float64, the gains of the empty set."""

    def _exactly(self, rows: Tensor, picks: Total) -> Tensor:
        """Gains in float64, where the similarity is linear: (n,)."""
        assert self.linear is not None
        gain = self._fixed(rows)
        return gain + self.linear.values(picks.times(self.weight), rows)

    def _fixed(self, rows: Tensor) -> Tensor:
        """Base and slope of some rows, for the present number of picks."""
        gain = self._base_of(rows)
        if self._slope is not None:
            gain = gain + len(self.chosen) * self._slope[rows.to(self.device)]
        return gain

    def _base_of(self, rows: Tensor) -> Tensor:
        self._prepare()
        return self._first[rows.to(self.device)]

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """f(A + j) - f(A) for each row j asked about; see `SetFunction.gains`."""
        self._prepare()
        self.rounding = self._rounding()
        if rows is not None and len(rows) <= min(_DIRECT, len(self) // 4):
            found = self._few(rows)
        else:
            found = self._many(rows)
        return found.add_(self._offset()).cpu()

    def _rounding(self) -> float:
        """How far apart equal gains may come out."""
        picks = len(self.chosen)
        if self._total is not None:
            return 1e-14 * (1 + picks * abs(self.weight)) * self._scale
        return abs(self.weight) * math.sqrt(picks) * self._entry_error()

    def _offset(self) -> float:
        """What every row's gain has in common, beyond base and slope."""
        return 0.0

    def _add(self, row: int) -> None:
        self._pending.append(row)
        if self._total is not None and self.linear is not None:
            self._total = self._total.plus(self.linear.total(torch.tensor([row])))

    def _prepare(self) -> None:
        """Compute what the first gains need: base gains, and the sums of covered rows."""
        if self._score is not None:
            return
        self._first = self._base()
        self._score = self._first.clone()
        self._scale = self._largest()
        if self.linear is not None:
            self._total = self.linear.total(_tensor(self.chosen))

    def _largest(self) -> float:
        """A bound on the size of a similarity, or of the terms it is computed from."""
        if self.similarity.kind in ("dot", "distance", "complement"):
            norms = self.similarity.geometry.squared_norms()
            largest = float(norms.max()) if len(norms) else 0.0
            if self.similarity.kind == "dot":
                return largest
            return max(2 * math.sqrt(largest), self.similarity.width or 0.0)
        return 1.0

    def _entry_error(self) -> float:
        """How far a computed similarity is off at most, by all likelihood.

        The rounding of a sum of K products grows as sqrt(K) (Higham & Mary, "A new approach to
        probabilistic rounding error analysis", SIAM J. Sci. Comput. 2019).
        """
        width = sum(self.similarity.geometry.widths)
        return 2 * math.sqrt(width + 16) * single_roundoff(self.device) * self._scale

    def _few(self, rows: Tensor) -> Tensor:
        """Gains of a few rows, from the points themselves."""
        if self._total is not None:
            return self._exactly(rows, self._total)
        self._asked += len(rows) * len(self._pending)
        if 2 * self._asked > len(self) * len(self._pending):
            self._settle(rows)
        assert self._score is not None
        gain = self._score[rows.to(self.device)]
        if self._slope is not None:
            gain += (len(self.chosen) - self._steps) * self._slope[rows.to(self.device)]
        if self._pending and self.weight != 0:
            gain += self.weight * self._sums(self.similarity.take(rows), self._pending)
        return gain

    def _many(self, rows: Tensor | None) -> Tensor:
        """Gains of many rows: from columns, those close to the best again in float64."""
        assert self._score is not None
        if self._slope is not None and self._steps < len(self.chosen):
            self._score.add_(self._slope, alpha=len(self.chosen) - self._steps)
            self._steps = len(self.chosen)
        self._settle(rows)
        found = self._score.clone() if rows is None else self._score[rows.to(self.device)]
        if self._total is None or not len(found):
            return found
        close = self._close(found, rows)
        if len(close) > _CLOSE:
            self._renew()
            return self._many(rows)
        where = close if rows is None else rows[close.to(rows.device)]
        found[close] = self._exactly(where.cpu(), self._total)
        return found

    def _close(self, found: Tensor, rows: Tensor | None) -> Tensor:
        """Where in ``found`` the best row may be, given how far off scores are."""
        if self._drift == 0.0:
            return torch.zeros(0, dtype=torch.int64, device=self.device)
        if rows is None:
            found = found.clone()
            found[_tensor(self.chosen)] = -torch.inf
        return (found >= found.max() - 2 * self._drift).nonzero()[:, 0]

    def _renew(self) -> None:
        """All scores in float64, from the sum of the picks: one pass."""
        assert self._score is not None
        assert self._total is not None
        self._score.copy_(self._exactly(torch.arange(len(self)), self._total))
        self._pending.clear()
        self._steps, self._drift = len(self.chosen), 0.0

    def _settle(self, rows: Tensor | None) -> None:
        """Bring scores up to date with the pending picks."""
        assert self._score is not None
        missing = [row for row in self._pending if row not in self._slots]
        if self.weight == 0:
            self._pending.clear()
        if len(missing) > 1 and self._total is not None:
            self._renew()
        if self._pending and missing:
            self._pass(missing, rows)
        for row in self._pending:
            if row not in missing and self._held is not None:
                column = self._held[self._slots.pop(row)]
                self._score.add_(column, alpha=self.weight)
                self._used += 1
            self._drift += abs(self.weight) * self._entry_error()
        self._pending.clear()
        self._asked = 0

    def _pass(self, missing: list[int], rows: Tensor | None) -> None:
        """One pass over the pool: the columns of missing picks, and of likely next ones."""
        assert self._score is not None
        if self._passes:
            # Twice as many columns as were of use: too few would cut a stretch of good guesses
            # short, too many are computed in vain.
            self._width = max(COLUMNS[0], min(self._most, 2 * self._used + 2))
        self._passes += 1
        self._used = 0
        ahead = self._ahead(missing, rows)
        held, slots = self._room(ahead)
        picks = self.similarity.take(_tensor(missing))
        now = min(_ADDED, len(missing))
        both = Points.join([picks[:now], self.similarity.take(_tensor(ahead))])
        for start, block in self.similarity.blocks():
            stop = start + len(block)
            part = self.similarity.between(block, both)
            self._score[start:stop].add_(part[:, :now].double().sum(1), alpha=self.weight)
            for k, slot in enumerate(slots):
                held[slot, start:stop] = part[:, now + k]
            for more in range(now, len(missing), _ADDED):
                part = self.similarity.between(block, picks[more : more + _ADDED])
                self._score[start:stop].add_(part.double().sum(1), alpha=self.weight)

    def _room(self, ahead: list[int]) -> tuple[Tensor, list[int]]:
        """Where columns are held, and a place there for each new one: the oldest give way."""
        if self._held is None:
            self._held = torch.empty(self._most, len(self), device=self.device)
        while len(self._slots) + len(ahead) > self._most:
            self._slots.popitem(last=False)
        free = sorted(set(range(self._most)) - set(self._slots.values()))[: len(ahead)]
        self._slots.update(zip(ahead, free))
        return self._held, free

    def _ahead(self, missing: list[int], rows: Tensor | None) -> list[int]:
        """The rows likely to be picked next: the game played among those first in line."""
        assert self._score is not None
        if rows is None:
            left = torch.ones(len(self), dtype=torch.bool)
            left[self.chosen] = False
            rows = left.nonzero()[:, 0]
        rows = rows.to(self.device)
        score = self._score[rows]
        width = 4 * sum(self.similarity.geometry.widths)
        most = min(max(_AHEAD[0], len(self) // 64), _AHEAD[1], _AHEAD_BYTES // width)
        top = score.topk(min(most, len(rows))).indices
        line, score = rows[top], score[top]
        points = self.similarity.take(line.cpu())
        score = score + self.weight * self._sums(points, missing)
        slope = None if self._slope is None else self._slope[line]
        ahead: list[int] = []
        for _ in range(min(self._width, len(line))):
            best = int(score.argmax())
            if int(line[best]) not in self._slots:
                ahead.append(int(line[best]))
            some = points[best : best + 1]
            score += self.weight * self.similarity.between(points, some)[:, 0].double()
            if slope is not None:
                score += slope
            score[best] = -torch.inf
        return ahead[: self._most]

    def _sums(self, points: Points, rows: list[int]) -> Tensor:
        """Sum of the similarities of some points to some rows, (n,) float64."""
        total = torch.zeros(len(points), dtype=torch.float64, device=self.device)
        for start in range(0, len(rows), _ADDED):
            some = self.similarity.take(torch.tensor(rows[start : start + _ADDED]))
            total += self.similarity.between(points, some).double().sum(1)
        return total

    def _column_limit(self, memory: int | None) -> int:
        size = max(1, len(self.similarity))
        least = self._fixed_bytes() + 4 * size
        if memory is None:
            memory = least + _DEFAULT_COLUMN_BYTES
        if memory < least:
            raise ResourceError(
                f"memory must be at least {least / 1e6:.3g} MB for {size} points, got "
                f"{memory / 1e6:.3g} MB"
            )
        return min(COLUMNS[1], 1 + (memory - least) // (4 * size))

    def _fixed_bytes(self) -> int:
        numbers = 0 if self.linear is None else 24 * self.linear.numbers
        return _VECTORS * len(self.similarity) + numbers

    def bytes_needed(self, n: int) -> int:
        """About how many bytes are held: vectors and columns of N numbers each."""
        return self._fixed_bytes() + 4 * self._most * len(self)


def covered_rows(rows: Tensor | None, size: int) -> list[int]:
    """Covered rows as a list, checked to be in range and distinct."""
    found = [] if rows is None else torch.as_tensor(rows).tolist()
    wrong = [row for row in found if not 0 <= row < size]
    if wrong:
        raise InputError(f"covered must be rows in 0..{size - 1}, got {wrong[0]}")
    if len(set(found)) < len(found):
        raise InputError("covered must be distinct rows")
    return found


def row_sums(similarity: Similarity) -> Tensor:
    """Sum of each row's similarities to all N rows, (N,) float64.

    O(N D) where the similarity is linear in its points (dot, cosine, cosine01), else O(N^2 D).
    """
    linear = LinearSums.of(similarity)
    if linear is not None:
        return linear.values(linear.total())
    total = torch.zeros(len(similarity), dtype=torch.float64, device=similarity.device)
    step = 1024
    for begin in range(0, len(similarity), step):
        some = similarity.take(torch.arange(begin, min(begin + step, len(similarity))))
        for start, block in similarity.blocks():
            found = similarity.between(block, some)
            total[start : start + len(block)] += found.sum(1, dtype=torch.float64)
    return total


def own(similarity: Similarity) -> Tensor:
    """Each row's similarity to itself, (N,) float64."""
    linear = LinearSums.of(similarity)
    return similarity.own(torch.arange(len(similarity))) if linear is None else linear.own()


def sums_to(similarity: Similarity, points: Points) -> Tensor:
    """Sum of each row's similarities to some points, (N,) float64.

    O(N D) where the similarity is linear in its points, else O(N |points| D).
    """
    linear = LinearSums.of(similarity)
    if linear is not None:
        return linear.values(linear.total_of(iter([points])))
    total = torch.zeros(len(similarity), dtype=torch.float64, device=similarity.device)
    for start, block in similarity.blocks():
        for begin in range(0, len(points), _ADDED):
            found = similarity.between(block, points[begin : begin + _ADDED])
            total[start : start + len(block)] += found.sum(1, dtype=torch.float64)
    return total


def _tensor(rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)
