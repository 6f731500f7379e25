"""Functions whose gains are a sum of similarities to the picks, beside terms that are fixed.

Graph cut, herding and disparity-sum are one machine: the gain of row j is ``base_j + t slope_j
+ weight * sum of s(j, picks)`` with t picks made. The sums change with every pick by one column
of the similarity matrix; `Columns` fetches those many at a time.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.columns import Columns, check_square, largest, relative_error
from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.geometry import Points
from labelwise.kernels.precomputed import SparseSimilarity
from labelwise.kernels.similarity import Similarity
from labelwise.kernels.sums import LinearSums, Total

COLUMNS = 512
"""The most columns that are held, as far as memory allows."""

_VECTORS = 48  # bytes a row held beside the columns
_DEFAULT_COLUMN_BYTES = 1 << 30
_DIRECT = 4096  # rows whose sums are computed on their own rather than from columns
_CLOSE = (1024, 1 / 256)  # rows decided in float64, at least and of all, before all are renewed
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
        if weight != 0:
            check_square(similarity, type(self).__name__)
        self.similarity = similarity
        self.weight = weight
        self.linear = LinearSums.of(similarity)
        self._columns = Columns(similarity, self._column_limit(memory))
        self._pending = covered_rows(covered, len(similarity))
        self.chosen = list(self._pending)
        self._score: Tensor | None = None  # of all rows, without the pending picks
        self._first = torch.zeros(0)
        self._steps = 0  # how many picks' slopes the scores hold
        self._asked = 0  # similarities to pending picks computed since they were last applied
        self._scale = self._error = 0.0  # of one similarity: a bound, and how far off it may be
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
        return self._columns.passes

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
        gain = self._first[rows.to(self.device)]
        if self._slope is not None:
            gain = gain + len(self.chosen) * self._slope[rows.to(self.device)]
        return gain

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
        return abs(self.weight) * math.sqrt(picks) * self._error

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
        self._scale = largest(self.similarity)
        self._error = relative_error(self.similarity) * self._scale
        if self.linear is not None:
            self._total = self.linear.total(_tensor(self.chosen))

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
            gain += self.weight * self._sums(rows, self._pending)
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
        if len(close) > max(_CLOSE[0], _CLOSE[1] * len(self)):
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
        if self.weight == 0:
            self._pending.clear()
        missing = [row for row in self._pending if row not in self._columns]
        if len(missing) > 1 and self._total is not None:
            self._renew()
            return
        self._apply([row for row in self._pending if row in self._columns])
        while missing:
            now, missing = missing[: self._columns.most], missing[self._columns.most :]
            ahead = [] if missing else self._ahead(now, rows)
            self._columns.fetch([*now, *ahead][: self._columns.most])
            self._apply(now)
        self._pending.clear()
        self._asked = 0

    def _apply(self, picks: list[int]) -> None:
        assert self._score is not None
        for row in picks:
            self._score.add_(self._columns.take(row), alpha=self.weight)
            self._drift += abs(self.weight) * self._error

    def _ahead(self, missing: list[int], rows: Tensor | None) -> list[int]:
        """Rows likely to be picked after the missing ones, whose columns are not held."""
        assert self._score is not None
        if rows is None:
            left = torch.ones(len(self), dtype=torch.bool)
            left[self.chosen] = False
            rows = left.nonzero()[:, 0]
        rows = rows.to(self.device)
        ahead = self._columns.look_ahead(
            rows,
            self._score[rows],
            lambda line: self.weight * self._sums(line.cpu(), missing),
            lambda score, own: self.weight,
            self._slope,
        )
        return [row for row in ahead if row not in self._columns]

    def _sums(self, rows: Tensor, picks: list[int]) -> Tensor:
        """Sum of the similarities of some rows to some picks, (n,) float64."""
        points = self.similarity.take(rows)
        total = torch.zeros(len(points), dtype=torch.float64, device=self.device)
        for part in _tensor(picks).split(_ADDED):
            some = self.similarity.take(part)
            total += self.similarity.between(points, some, rows, part).double().sum(1)
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
        return min(COLUMNS, 1 + (memory - least) // (4 * size))

    def _fixed_bytes(self) -> int:
        numbers = 0 if self.linear is None else 24 * self.linear.numbers
        return _VECTORS * len(self.similarity) + numbers

    def bytes_needed(self, n: int) -> int:
        """About how many bytes are held: vectors and columns of N numbers each."""
        return self._fixed_bytes() + 4 * self._columns.most * len(self)


def covered_rows(rows: Tensor | None, size: int) -> list[int]:
    """Covered rows as a list, checked to be in range and distinct."""
    found = [] if rows is None else torch.as_tensor(rows).tolist()
    wrong = [row for row in found if not 0 <= row < size]
    if wrong:
        raise InputError(f"covered must be rows in 0..{size - 1}, got {wrong[0]}")
    if len(set(found)) < len(found):
        raise InputError("covered must be distinct rows")
    return found


def row_sums(similarity: Similarity) -> tuple[Tensor, Tensor]:
    """Sum of each row's similarities to all N rows, and that to itself, (N,) float64 each.

    O(N D) where the similarity is linear in its points (dot, cosine, cosine01), else O(N^2 D).
    """
    linear = LinearSums.of(similarity)
    if linear is not None:
        return linear.values_and_own(linear.total())
    own = similarity.own(torch.arange(len(similarity)))
    if isinstance(similarity, SparseSimilarity):
        return torch.from_numpy(similarity.matrix.sum(1, dtype="float64")), own
    total = torch.zeros(len(similarity), dtype=torch.float64, device=similarity.device)
    step = 1024
    for begin in range(0, len(similarity), step):
        rows = torch.arange(begin, min(begin + step, len(similarity)))
        some = similarity.take(rows)
        for start, block in similarity.blocks():
            numbers = torch.arange(start, start + len(block))
            found = similarity.between(block, some, numbers, rows)
            total[start : start + len(block)] += found.sum(1, dtype=torch.float64)
    return total, own


def sums_to(similarity: Similarity, points: Points) -> Tensor:
    """Sum of each row's similarities to some points, (N,) float64.

    O(N D) where the similarity is linear in its points, else O(N |points| D).
    """
    linear = LinearSums.of(similarity)
    if linear is not None:
        return linear.values(linear.total_of(points))
    total = torch.zeros(len(similarity), dtype=torch.float64, device=similarity.device)
    for start, block in similarity.blocks():
        for begin in range(0, len(points), _ADDED):
            found = similarity.between(block, points[begin : begin + _ADDED])
            total[start : start + len(block)] += found.sum(1, dtype=torch.float64)
    return total


def _tensor(rows: list[int]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64)
