"""Log-determinants: volume spanned by the picks, what it shares with a query, and what it adds.

With K = S + lam I, ``h(A) = log det K_A`` and ``h(A | B) = h(A + B) - h(B)``. All four functions
are differences of such terms, and all gains are logarithms of conditional variances, which an
incremental Cholesky factorization gives in O(|A|) a row and step.

Sources: Chen, Zhang & Zhou, "Fast greedy MAP inference for determinantal point process",
NeurIPS 2018 (the increments); Kothawade, Beck, Killamsetty & Iyer, "SIMILAR", NeurIPS 2021 (the
measures and their knobs); Iyer et al., "Submodular combinatorial information measures", ALT 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.columns import check_square, relative_error
from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.functions.cholesky import WIDE, Factor
from labelwise.kernels.functions.pairwise import covered_rows
from labelwise.kernels.geometry import Points
from labelwise.kernels.similarity import Similarity

_CHUNK = 1 << 21  # similarities computed at once
_GATHER = 16  # what reading a row on its own costs, in similarities
_TRUSTED = 1e-2  # smaller regularizers, relative to the diagonal, keep V in float64


class _LogDet(SetFunction):
    """``h(A | given_1) - h(A | given_2)``, or the first term alone.

    Args:
        similarity: N points.
        lam: added to the diagonal of similarities.
        given: for each term its points and what the similarities of A to them are multiplied
            by; those among the given points themselves are not.
        knobs: how errors name the multipliers.
        covered: rows in A from the start.
    """

    def __init__(
        self,
        similarity: Similarity,
        lam: float,
        given: list[list[tuple[Points, float]]],
        knobs: str = "",
        covered: Tensor | None = None,
    ) -> None:
        super().__init__()
        check_square(similarity, type(self).__name__)
        if not 0 <= lam < math.inf:
            raise InputError(f"lam must be a finite number >= 0, got {lam}")
        self.similarity, self.lam = similarity, lam
        self.chosen = covered_rows(covered, len(similarity))
        if self.chosen:
            start = similarity.take(torch.tensor(self.chosen))
            given = [[*parts, (start, 1.0)] for parts in given]
        self._given, self._knobs = given, knobs
        own = similarity.own(torch.arange(len(similarity))) + lam
        self._largest = float(own.max()) if len(own) else 1.0
        exact = lam < _TRUSTED * self._largest
        self._dtype = torch.float64 if exact else torch.float32
        self._factors = [self._factor(own, parts) for parts in given]
        self._floor = 8 * relative_error(similarity)
        self._fill = torch.full((len(similarity),), -1, device=similarity.device)
        self._picks: Points | None = None
        self._count = 0
        self._level = -1  # picks that all rows are conditioned on
        self._asked = 0  # similarities computed for rows on their own since then
        self.rounding = relative_error(similarity) / max(lam / self._largest, 1e-3)

    def __len__(self) -> int:
        return len(self.similarity)

    @property
    def device(self) -> torch.device:
        """Where gains are computed."""
        return self.similarity.device

    def _factor(self, own: Tensor, parts: list[tuple[Points, float]]) -> Factor:
        points = [some for some, _ in parts if len(some)]
        if not points:
            return Factor(own, own.new_zeros(0, 0), self._dtype)
        joined = Points.join(points)
        between = self.similarity.between(joined, joined).double()
        between = (between + between.T) / 2
        between.diagonal().add_(self.lam)
        try:
            return Factor(own, between, self._dtype)
        except ArithmeticError as error:
            raise InputError(
                f"the similarities of {error} to those before it are not positive definite with "
                f"lam={self.lam}; is a point given twice? use a larger lam"
            ) from None

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """h(A + j) - h(A) of each term, see `SetFunction.gains`."""
        rows = torch.arange(len(self)) if rows is None else rows
        rows = rows.to(self.device)
        self._refresh(rows)
        found = self._log_variance(0, rows)
        if len(self._factors) > 1:
            found -= self._log_variance(1, rows)
        return found.cpu()

    def _log_variance(self, which: int, rows: Tensor) -> Tensor:
        variance = self._factors[which].variance[rows]
        floor = self._floor * self._largest
        low = variance <= (floor if self._knobs or self.lam > 0 else -floor)
        if bool(low.any()):
            chosen = torch.tensor(self.chosen, device=self.device)
            bad = rows[low & ~torch.isin(rows, chosen)]
            if len(bad):
                self._refuse(int(bad[0]))
        return torch.where(variance > floor, variance, 0.0).log()

    def _refuse(self, row: int) -> None:
        knobs = f" and {self._knobs}" if self._knobs else ""
        raise InputError(
            f"the similarities of row {row} to the rows picked and points given are not positive "
            f"definite with lam={self.lam}{knobs}; use a larger lam"
            + (" or smaller knobs" if knobs else " or another similarity")
        )

    def _add(self, row: int) -> None:
        rows = torch.tensor([row])
        self._refresh(rows.to(self.device))
        for factor in self._factors:
            if not float(factor.variance[row]) > self._floor * self._largest:
                self._refuse(row)
            factor.add(row)
        self._remember(self.similarity.take(rows))

    def _remember(self, point: Points) -> None:
        """Keep the picks' points, in arrays that double when full."""
        if self._picks is None or self._count == len(self._picks):
            more = point[torch.zeros(max(16, self._count), dtype=torch.int64)]
            self._picks = more if self._picks is None else Points.join([self._picks, more])
        for mine, theirs in zip(self._picks.factors, point.factors):
            mine[self._count] = theirs[0]
        self._picks.norms[self._count] = point.norms[0]
        self._count += 1

    def _refresh(self, rows: Tensor) -> None:
        """Condition rows on all picks: only what is missing is computed."""
        behind = self._count - self._fill[rows]
        rows, behind = rows[behind > 0], behind[behind > 0]
        if not len(rows):
            return
        # A row on its own costs a gathered read; all together are a stream and a product. So
        # once what was asked for one by one has cost as much, everything is brought up to date.
        self._asked += int(behind.sum()) + _GATHER * len(rows)
        every = len(self) * (self._count - self._level + _GATHER) // 2
        if 2 * len(rows) >= len(self) or (self._level < self._count and self._asked > every):
            self._asked, self._level = 0, self._count
            for start, block in self.similarity.blocks():
                mine = self._fill[start : start + len(block)]
                if bool((mine == mine[0]).all()):
                    if int(mine[0]) < self._count:
                        self._condition(slice(start, start + len(block)), block)
                else:
                    self._by_age(start + (mine < self._count).nonzero()[:, 0], (start, block))
        else:
            self._by_age(rows)

    def _by_age(self, rows: Tensor, within: tuple[int, Points] | None = None) -> None:
        """Rows in groups that are behind by about as many picks; perhaps all of one block."""
        behind = self._count - self._fill[rows]
        age = torch.where(self._fill[rows] < 0, 64, behind.double().log2().floor())
        for value in age.unique():
            group = rows[age == value]
            most = int(behind[age == value].max()) + max(f.given for f in self._factors)
            for part in group.split(max(1, _CHUNK // most)):
                if within is None:
                    points = self.similarity.take(part.cpu())
                else:
                    points = within[1][part - within[0]]
                self._condition(part, points)

    def _condition(self, rows: Tensor | slice, points: Points) -> None:
        fill = self._fill[rows]
        since = int(fill.min())
        if since < 0:
            for factor, parts in zip(self._factors, self._given):
                products = [scale * self.similarity.between(points, p) for p, scale in parts]
                if products:
                    factor.begin(rows, torch.cat(products, 1))
            since, fill = 0, fill.clamp(min=0)
        if since < self._count and self._picks is not None:
            columns = self.similarity.between(points, self._picks[since : self._count])
            for factor in self._factors:
                factor.extend(rows, since, fill, columns)
        self._fill[rows] = self._count

    def bytes_needed(self, n: int) -> int:
        """N x (given points + n) numbers for each term, rounded up to 256 picks; L; vectors."""
        number = 8 if self._dtype == torch.float64 else 4
        width = sum(f.given + -(-n // WIDE) * WIDE for f in self._factors)
        lower = sum(8 * (f.given + 2 * n + 64) ** 2 for f in self._factors)
        points = 2 * (n + 16) * self.similarity.point_bytes
        return number * width * len(self) + lower + points + 64 * len(self) + 16 * _CHUNK


class LogDeterminant(_LogDet):
    """``log det(S_A + lam I)``: the picks span as much volume as possible.

    Submodular where S is positive semidefinite (dot, cosine, cosine01, rbf); monotone for
    ``lam >= 1``. Greedy picks are those of fast greedy MAP inference of a determinantal point
    process with kernel S + lam I.

    Args:
        similarity: N points.
        lam: regularizer, added to the diagonal, >= 0.
        covered: (M,) int64 rows that are in A from the start.

    Raises:
        InputError: ``lam`` out of range, or similarities that are not positive definite.

    Memory: N x n numbers for n picks: float32, or float64 where ``lam`` is below 1 % of the
    diagonal; of rows that lazy greedy never asks about again only what it asked for is touched.

    >>> from labelwise.kernels import Euclidean
    >>> from labelwise.kernels.greedy import greedy
    >>> x = Euclidean([[2.0, 0.0], [1.9, 0.1], [0.0, 1.0]], shift=False)
    >>> greedy(LogDeterminant(Similarity(x, "dot")), 2).rows
    tensor([0, 2])
    """

    monotone = False

    def __init__(
        self, similarity: Similarity, lam: float = 1.0, *, covered: Tensor | None = None
    ) -> None:
        super().__init__(similarity, lam, [[]], covered=covered)


class LogDeterminantCG(_LogDet):
    """Conditional gain ``h(A | P)``: volume that private points P do not span already.

    ``log det(K_A - nu^2 S_AP K_P^-1 S_PA)`` with K = S + lam I. Submodular.

    Args:
        similarity: N points.
        private: P, from ``geometry.points`` or ``take``.
        lam: regularizer, also on the diagonal of P.
        nu: privacy hardness: similarities between A and P are multiplied by it.
        covered: as for `LogDeterminant`.

    Raises:
        InputError: a knob out of range, or ``nu`` so large that K is not positive definite.
    """

    monotone = False

    def __init__(
        self,
        similarity: Similarity,
        private: Points,
        lam: float = 1.0,
        nu: float = 1.0,
        *,
        covered: Tensor | None = None,
    ) -> None:
        given = [(private, _scale(nu, "nu"))]
        super().__init__(similarity, lam, [given], f"nu={nu}", covered)


class LogDeterminantMI(_LogDet):
    """Mutual information ``h(A) - h(A | Q)``: volume that the picks share with a query set Q.

    ``log det K_A - log det(K_A - eta^2 S_AQ K_Q^-1 S_QA)`` with K = S + lam I. A difference of
    submodular functions: not submodular in general, so `greedy` runs it naively.

    Args:
        similarity: N points.
        query: Q, from ``geometry.points`` or ``take``.
        lam: regularizer, also on the diagonal of Q.
        eta: magnification: similarities between A and Q are multiplied by it. Larger values
            trade diversity for likeness to Q, until K is not positive definite.
        covered: as for `LogDeterminant`.

    Raises:
        InputError: a knob out of range, or ``eta`` so large that K is not positive definite.
    """

    submodular = False

    def __init__(
        self,
        similarity: Similarity,
        query: Points,
        lam: float = 1.0,
        eta: float = 1.0,
        *,
        covered: Tensor | None = None,
    ) -> None:
        given = [(query, _scale(eta, "eta"))]
        super().__init__(similarity, lam, [[], given], f"eta={eta}", covered)


class LogDeterminantCMI(_LogDet):
    """Conditional mutual information ``h(A | P) - h(A | P + Q)``: like Q in what P leaves.

    Similarities between A and Q are multiplied by eta, between A and P by nu, between P and Q
    by 1. Not submodular in general.

    Args:
        similarity: N points.
        query, private: Q and P, from ``geometry.points`` or ``take``.
        lam: regularizer, also on the diagonals of Q and P.
        eta, nu: as for `LogDeterminantMI` and `LogDeterminantCG`.
        covered: as for `LogDeterminant`.

    Raises:
        InputError: a knob out of range, or so large that K is not positive definite.
    """

    submodular = False

    def __init__(
        self,
        similarity: Similarity,
        query: Points,
        private: Points,
        lam: float = 1.0,
        eta: float = 1.0,
        nu: float = 1.0,
        *,
        covered: Tensor | None = None,
    ) -> None:
        away = (private, _scale(nu, "nu"))
        given = [[away], [away, (query, _scale(eta, "eta"))]]
        super().__init__(similarity, lam, given, f"eta={eta} and nu={nu}", covered)


def _scale(value: float, name: str) -> float:
    if not 0 <= value < math.inf:
        raise InputError(f"{name} must be a finite number >= 0, got {value}")
    return value
