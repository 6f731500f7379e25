"""Least squares with weights >= 0 over a support that grows, in float64."""

from __future__ import annotations

import torch
from torch import Tensor

_DEPENDENT = 1e-11  # a pivot this small, relative to the diagonal: the row adds no direction


class NonNegativeFit:
    """``argmin over x >= 0 of |b - sum_i x_i g_i|^2 + lam |x|^2``, for g_1, g_2, ... one by one.

    Active sets, started from the previous solution (Lawson & Hanson, "Solving least squares
    problems", 1974, chapter 23). The Cholesky factor of the points in use grows by a row with
    every point that stays, and is computed anew when one leaves.

    Args:
        lam: regularizer, >= 0.
        signed: whether weights may be negative: then this is plain least squares.

    Attributes:
        weights: (t,) float64 x; 0 for points not in use.
    """

    def __init__(self, lam: float, signed: bool = False) -> None:
        self.lam, self._signed = lam, signed
        self.weights = torch.zeros(0, dtype=torch.float64)
        self._size = 0
        self._inner = torch.zeros(16, 16, dtype=torch.float64)
        self._right = torch.zeros(16, dtype=torch.float64)
        self._used: list[int] = []  # in the order of the factor
        self._lower = torch.zeros(16, 16, dtype=torch.float64)

    def add(self, inner: Tensor, right: float) -> None:
        """One more point, and the fit with it.

        Args:
            inner: (t + 1,) its inner products with the points before it and with itself.
            right: its inner product with b.
        """
        t = self._size
        if t == len(self._right):
            self._grow(2 * t)
        self._inner[t, : t + 1] = self._inner[: t + 1, t] = inner
        self._inner[t, t] += self.lam
        self._right[t] = right
        self._size += 1
        self.weights = torch.cat([self.weights, self.weights.new_zeros(1)])
        if self._signed:
            if self._enter(t):
                self._solve()
            return
        for _ in range(3 * self._size):
            if (missing := self._wanted()) is None or not self._enter(missing):
                break
            self._solve()

    def _grow(self, size: int) -> None:
        for name in ("_inner", "_lower"):
            old = getattr(self, name)
            new = old.new_zeros(size, size)
            new[: len(old), : len(old)] = old
            setattr(self, name, new)
        self._right = torch.cat([self._right, self._right.new_zeros(size - len(self._right))])

    def _wanted(self) -> int | None:
        """The point not in use whose weight should rise most; None where all is well."""
        if len(self._used) == self._size:
            return None
        inner = self._inner[: self._size, : self._size]
        slope = self._right[: self._size] - inner @ self.weights
        slope /= inner.diagonal().sqrt().clamp(min=1e-300)
        slope[self._used] = -torch.inf
        best = int(slope.argmax())
        scale = float((self._right[: self._size] / inner.diagonal().sqrt()).abs().max())
        return best if float(slope[best]) > 1e-10 * scale else None

    def _enter(self, point: int) -> bool:
        """Put a point to use; False where it adds no direction to those in use."""
        m = len(self._used)
        row = self._inner[point, self._used]
        own = float(self._inner[point, point])
        if m:
            lower = self._lower[:m, :m]
            row = torch.linalg.solve_triangular(lower, row[:, None], upper=False)[:, 0]
        pivot = own - float(row.square().sum())
        if not pivot > _DEPENDENT * own or own <= 0:
            return False
        self._lower[m, :m] = row
        self._lower[m, m] = pivot**0.5
        self._used.append(point)
        return True

    def _solve(self) -> None:
        """Weights of the points in use; those that would turn negative leave."""
        while self._used:
            m = len(self._used)
            right = self._right[self._used][:, None]
            best = torch.cholesky_solve(right, self._lower[:m, :m])[:, 0]
            now = self.weights[self._used]
            if self._signed or bool((best > 0).all()):
                self.weights.zero_()
                self.weights[self._used] = best
                return
            # As far towards the unconstrained fit as no weight turns negative.
            falling = best <= 0
            step = float((now[falling] / (now[falling] - best[falling])).nan_to_num(0).min())
            now = now + step * (best - now)
            gone = falling & (now <= 1e-14 * now.abs().max())
            self.weights.zero_()
            self.weights[self._used] = torch.where(gone, 0.0, now)
            self._keep([point for point, left in zip(self._used, gone.tolist()) if not left])
        self.weights.zero_()

    def _keep(self, used: list[int]) -> None:
        self._used = used
        if used:
            m = len(used)
            inner = self._inner[used][:, used]
            self._lower[:m, :m] = torch.linalg.cholesky(inner)
