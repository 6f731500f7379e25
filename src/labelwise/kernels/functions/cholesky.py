"""A Cholesky factor that grows by a pick at a time, and what every row adds to it."""

from __future__ import annotations

import torch
from torch import Tensor

WIDE = 256
"""Columns of V that are allocated together."""


class Factor:
    """L with ``L L' = K`` of given points and picks, and ``V = K_{rows, both} L'^-1`` of rows.

    V is N by (given + picks), in stretches of 256 columns whose memory is touched only for rows
    that were asked about. The variance of row j, given points and picks, is
    ``own_j - |V_j|^2``.

    Args:
        own: (N,) float64, the diagonal of K.
        given: (m, m) float64, K of the given points; may be empty.
        dtype: of V.
    """

    def __init__(self, own: Tensor, given: Tensor, dtype: torch.dtype) -> None:
        self.given = len(given)
        self.variance = own.clone()
        self._dtype = dtype
        self._size = len(own)
        self._lower = given.new_zeros(self.given + 64, self.given + 64)
        if self.given:
            factor, info = torch.linalg.cholesky_ex(given)
            if int(info):
                raise ArithmeticError(f"given point {int(info) - 1}")
            self._lower[: self.given, : self.given] = factor
        self.picks = 0
        self._first = self._new(self.given)
        self._wide: list[Tensor] = []

    def _new(self, width: int) -> Tensor:
        return torch.empty(self._size, width, dtype=self._dtype, device=self.variance.device)

    def begin(self, rows: Tensor | slice, given: Tensor) -> None:
        """Condition rows on the given points. ``given``: (n, m) K of the rows and the points."""
        lower = self._lower[: self.given, : self.given]
        new = torch.linalg.solve_triangular(lower, given.double().T, upper=False)
        self._first[rows] = new.T.to(self._dtype)
        self.variance[rows] -= new.square().sum(0)

    def extend(self, rows: Tensor | slice, since: int, fill: Tensor, columns: Tensor) -> None:
        """Condition rows on picks ``since`` and later.

        Args:
            rows: which rows; all are conditioned on the picks before ``since`` already.
            fill: (n,) how many picks each row is conditioned on.
            columns: (n, picks - since) K of the rows and those picks.
        """
        a, b = self.given + since, self.given + self.picks
        rest = columns.double()
        if a:
            rest -= self._along(rows, since, self._lower[a:b, :a])
        if b - a == 1:
            new = rest.div_(self._lower[a, a])
        else:
            lower = self._lower[a:b, a:b]
            new = torch.linalg.solve_triangular(lower, rest.T, upper=False).T
        self._store(rows, since, new)
        fresh = torch.arange(since, self.picks, device=new.device) >= fill[:, None]
        self.variance[rows] -= (new.square() * fresh).sum(1)

    def _along(self, rows: Tensor | slice, picks: int, lower: Tensor) -> Tensor:
        """Inner products of rows of V with rows of L, over given points and some picks."""
        lower = lower.to(self._dtype)
        total = (self._first[rows] @ lower[:, : self.given].T).double()
        for start in range(0, picks, WIDE):
            stop = min(start + WIDE, picks)
            some = lower[:, self.given + start : self.given + stop]
            total += (self._wide[start // WIDE][rows][:, : stop - start] @ some.T).double()
        return total

    def _store(self, rows: Tensor | slice, since: int, new: Tensor) -> None:
        for start in range(since - since % WIDE, self.picks, WIDE):
            a, b = max(start, since), min(start + WIDE, self.picks)
            part = new[:, a - since : b - since].to(self._dtype)
            self._wide[start // WIDE][rows, a - start : b - start] = part

    def add(self, row: int) -> None:
        """Make a row the next pick; it is conditioned on all before."""
        size = self.given + self.picks
        if size == len(self._lower):
            lower = self._lower.new_zeros(2 * size, 2 * size)
            lower[:size, :size] = self._lower
            self._lower = lower
        stretches = [self._first[row]] + [part[row] for part in self._wide]
        self._lower[size, :size] = torch.cat(stretches)[:size].double()
        self._lower[size, size] = self.variance[row].sqrt()
        if self.picks % WIDE == 0:
            self._wide.append(self._new(WIDE))
        self.picks += 1
