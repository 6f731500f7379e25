"""Fisher information of a softmax head, by blocks of C - 1 squared a point.

The information of a point with class probabilities p and embedding h is ``W kron h h'`` with
``W = diag p - p p'``. Adding one number to all logits changes nothing, so W is 0 along
``(1, ..., 1)`` and everything is told by the c = C - 1 directions E of `contrasts` across it: there
the point's rows are ``V = R kron h'``, with ``R' R = E' W E``, and all that greedy steps ask of a
(cD)^2 matrix B about a point is the c x c block ``V B V'``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from typing import NoReturn

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.rows import Rows

BLOCK_BYTES = 32 << 20
"""What a block of rows takes with what is computed from it, about."""

_CUTS = 4
"""Parts that a symmetric matrix is cut into: a quadratic form then takes 5/8 of the products."""


@cache
def contrasts(classes: int) -> Tensor:
    """An orthonormal basis E of what is across (1, ..., 1): (C, C - 1) float64, Helmert's."""
    k = torch.arange(1, classes, dtype=torch.float64)
    below = torch.ones(classes, classes - 1, dtype=torch.float64).triu()
    below[1:].diagonal().copy_(-k)
    return below / (k * (k + 1)).sqrt()


def roots(p: Tensor) -> Tensor:
    """R with ``R' R = E' (diag p - p p') E``, for each distribution: (n, C - 1, C - 1).

    From the Cholesky factor of diag p - p p', which is known (Tanabe & Sagae, "An exact Cholesky
    decomposition and the generalized inverse of the variance-covariance matrix of the multinomial
    distribution", 1992).
    """
    rest = p.flip(1).cumsum(1).flip(1)  # of each class and those after it
    p = p / rest[:, :1]
    rest = rest / rest[:, :1]
    first, after = rest[:, :-1], rest[:, 1:]
    both = first * after
    scale = torch.where(both > 0, (p[:, :-1] / both.clamp(min=1e-300)).sqrt(), 0)
    lower = (-p[:, None]).expand(-1, p.shape[1] - 1, -1).triu(1)
    lower.diagonal(dim1=1, dim2=2).copy_(after)
    return (scale[:, :, None] * lower) @ contrasts(p.shape[1]).to(p)


class Classified:
    """Rows with class probabilities and embeddings, read in float64 a block at a time.

    Args:
        probs: (N, C) class distributions. embeddings: (N, D).
        rows: (K,) int64, which of them.
        device: where to compute.
        scale: their information counts this many times.
        hold: bytes that roots and embeddings in float64 may take; more are read when needed.
    """

    def __init__(
        self,
        probs: Rows,
        embeddings: Rows,
        rows: Tensor,
        device: torch.device,
        scale: float = 1.0,
        hold: int = 0,
    ) -> None:
        self._probs, self._embeddings, self._rows, self._device = probs, embeddings, rows, device
        self._root = scale**0.5
        self.free, self.width = probs.shape[1] - 1, embeddings.shape[1]
        self._held: tuple[Tensor, Tensor] | None = None
        if 8 * len(rows) * (self.free**2 + self.width) <= hold:
            shapes = (self.free, self.free), (self.width,)
            made = [torch.empty(len(rows), *s, dtype=torch.float64, device=device) for s in shapes]
            for where, root, h in self.blocks():
                made[0][where], made[1][where] = root, h
            self._held = (made[0], made[1])

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Roots (k, c, c) and embeddings (k, D) at some places of the rows."""
        if self._held is not None:
            places = places.to(self._device)
            return self._held[0][places], self._held[1][places]
        rows = self._rows[places.cpu()]
        p = self._probs.take(rows).to(self._device).double()
        return roots(p) * self._root, self._embeddings.take(rows).to(self._device).double()

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """All rows in order: their places, roots and embeddings."""
        widest = max((self.free + 1) * self.width, 4 * self.free**2)
        step = max(1, BLOCK_BYTES // (8 * widest))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            where = slice(start, stop)
            if self._held is not None:
                yield where, self._held[0][where], self._held[1][where]
            else:
                yield where, *self.take(torch.arange(start, stop))

    def information(self) -> Tensor:
        """The mean Fisher information, (cD, cD) float64; zero where there are no rows."""
        c, d = self.free, self.width
        total = torch.zeros(c * d, c * d, dtype=torch.float64, device=self._device)
        for _, root, h in self.blocks():
            weight = root.mT @ root
            for k in range(c):
                wide = (weight[:, k, k:, None] * h[:, None]).flatten(1)
                total[k * d : (k + 1) * d, k * d :].addmm_(h.T, wide)
        for k in range(c):
            for j in range(k):
                block = total[j * d : (j + 1) * d, k * d : (k + 1) * d]
                total[k * d : (k + 1) * d, j * d : (j + 1) * d] = block.T
        return total.div_(max(1, len(self)))

    def forms(self, matrix: Tensor) -> Tensor:
        """``V B V'`` of a symmetric (cD, cD) matrix for every row, (K, c, c) float64."""
        c, d = self.free, self.width
        found = torch.empty(len(self), c, c, dtype=torch.float64, device=self._device)
        for k in range(c):
            parts = _folded(matrix[k * d : (k + 1) * d, k * d :].view(d, c - k, d))
            for where, _, h in self.blocks():
                some = h.new_zeros(len(h), c - k)
                for start, wide in parts:
                    left = h[:, start:]
                    along = (left[:, : len(wide)] @ wide).view(len(h), c - k, -1)
                    some += torch.einsum("nkd,nd->nk", along, left)
                found[where, k, k:] = found[where, k:, k] = some
        for where, root, _ in self.blocks():
            found[where] = root @ found[where] @ root.mT
        return found


def _folded(matrix: Tensor) -> list[tuple[int, Tensor]]:
    """m matrices as block triangles with the same quadratic forms: ``(D, m, D)``.

    Returns:
        For each part of the rows where it starts, and its columns from there on, (part, m * left).
    """
    d = len(matrix)
    edges = [d * i // _CUTS for i in range(_CUTS + 1)]
    found = []
    for start, stop in pairwise(edges):
        if start < stop:
            wide = matrix[start:stop, :, start:].clone()
            wide[:, :, stop - start :] += matrix[stop:, :, start:stop].permute(2, 1, 0)
            found.append((start, wide.flatten(1)))
    return found


class Step:
    """What adding (sign 1) or removing (sign -1) one point changes.

    With ``M = I + sign V A V' = L L'`` the inverse A of the total information becomes
    ``A - sign U U'``, ``U = A V' L'^-1``, and ``P = A F A`` becomes ``P - U Y' - Y U'`` with
    ``Y = sign P V' L'^-1 - U Z / 2`` and ``Z = L^-1 V P V' L'^-1``.

    Args:
        inverse, spread: (cD, cD) A and P before, updated in place.
        root, h: (c, c) and (D,), the point. sign: 1 or -1.

    Attributes:
        own: (c, c) V A V' and V P V' as they were.

    Raises:
        InputError: rounding has left no answer.
    """

    def __init__(self, inverse: Tensor, spread: Tensor, root: Tensor, h: Tensor, sign: int) -> None:
        self._sign = sign
        self._free, self._width = len(root), len(h)
        along, far = (self._rows(matrix, root, h) for matrix in (inverse, spread))
        self.own = self._block(along, root, h), self._block(far, root, h)
        identity = torch.eye(self._free, dtype=h.dtype, device=h.device)
        lower, failed = torch.linalg.cholesky_ex(identity + sign * self.own[0])
        if int(failed):
            refuse()
        u = torch.linalg.solve_triangular(lower, along, upper=False)
        y = torch.linalg.solve_triangular(lower, far, upper=False)
        z = torch.linalg.solve_triangular(lower, self._block(y, root, h).T, upper=False)
        y = sign * y - 0.5 * (z @ u)
        inverse.addmm_(u.T, u, alpha=-float(sign))
        spread.addmm_(torch.cat([u, y]).T, torch.cat([y, u]), alpha=-1.0)
        both = torch.cat([u, y]).view(2 * self._free, self._free, self._width)
        self._wide = both.permute(2, 1, 0).flatten(1)  # (D, c * columns of U and Y)

    def _rows(self, matrix: Tensor, root: Tensor, h: Tensor) -> Tensor:
        """V times a symmetric matrix, (c, cD): the embedding first, then the root."""
        blocks = matrix.view(self._free, self._width, -1)
        return root @ torch.matmul(h, blocks)

    def _block(self, rows: Tensor, root: Tensor, h: Tensor) -> Tensor:
        """Some rows of V B times V'."""
        return (rows.view(len(rows), self._free, self._width) @ h) @ root.T

    def change(self, root: Tensor, h: Tensor, q: Tensor, s: Tensor) -> None:
        """Update blocks q = V A V' and s = V P V' in place, for other points."""
        both = root @ (h @ self._wide).view(len(h), self._free, -1)
        u, y = both.chunk(2, dim=2)
        inner = u @ torch.cat([u, y], 1).mT
        q.sub_(inner[:, :, : self._free], alpha=self._sign)
        cross = inner[:, :, self._free :]
        s.sub_(cross).sub_(cross.mT)


def trace_change(q: Tensor, s: Tensor, sign: int) -> Tensor:
    """By how much tr(A F) falls when a point is added, or rises when it is removed: (n,).

    Raises:
        InputError: rounding has left no answer.
    """
    inner = torch.eye(q.shape[1], dtype=q.dtype, device=q.device) + sign * q
    lower, failed = torch.linalg.cholesky_ex(inner)
    if bool(failed.any()):
        refuse()
    return torch.cholesky_solve(s, lower).diagonal(dim1=1, dim2=2).sum(1)


def refuse() -> NoReturn:
    """Refuse rows whose information float64 cannot tell apart from the ridge."""
    raise InputError(
        "embeddings are too large for lam: what one row tells is more than 1e9 times lam, and "
        "float64 has 16 digits; divide embeddings by their length, or pass a larger lam"
    )
