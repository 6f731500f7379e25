"""Fisher information of a softmax head, by C x C blocks a point instead of C x CD rows.

The information of a point with class probabilities p and embedding h is ``W kron h h'`` with
``W = diag p - p p'``. With R a square root of W (``R' R = W``) the point's rows are
``V = R kron h'``, and everything that greedy steps ask of a (CD)^2 matrix B about a point is the
C x C block of quadratic forms ``[h' B_cd h]``.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from labelwise.kernels.rows import Rows

BLOCK_BYTES = 32 << 20
"""What a block of rows takes with what is computed from it, about."""


class Classified:
    """Rows with class probabilities and embeddings, read in float64 a block at a time.

    Args:
        probs: (N, C) class distributions. embeddings: (N, D).
        rows: (K,) int64, which of them.
        device: where to compute.
    """

    def __init__(self, probs: Rows, embeddings: Rows, rows: Tensor, device: torch.device) -> None:
        self._probs, self._embeddings, self._rows, self._device = probs, embeddings, rows, device
        self.classes, self.width = probs.shape[1], embeddings.shape[1]

    def __len__(self) -> int:
        return len(self._rows)

    def take(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities (k, C) and embeddings (k, D) at some places of the rows."""
        rows = self._rows[places.cpu()]
        p = self._probs.take(rows).to(self._device).double()
        return p, self._embeddings.take(rows).to(self._device).double()

    def blocks(self) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """All rows in order: their places, probabilities and embeddings."""
        widest = max(self.classes * self.width, 4 * self.classes**2)
        step = max(1, BLOCK_BYTES // (8 * widest))
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            yield slice(start, stop), *self.take(torch.arange(start, stop))

    def information(self) -> Tensor:
        """The mean Fisher information, (CD, CD) float64; zero where there are no rows."""
        c, d = self.classes, self.width
        total = torch.zeros(c * d, c * d, dtype=torch.float64, device=self._device)
        blocks = total.view(c, d, c, d)
        for _, p, h in self.blocks():
            outer = (p[:, :, None] * h[:, None]).flatten(1)
            total.addmm_(outer.T, outer, alpha=-1.0)
            for k in range(c):
                blocks[k, :, k].addmm_(outer[:, k * d : (k + 1) * d].T, h)
        return total.div_(max(1, len(self)))

    def forms(self, matrix: Tensor) -> Tensor:
        """``[h' B_cd h]`` of a symmetric (CD, CD) matrix for every row, (K, C, C) float64."""
        c, d = self.classes, self.width
        found = torch.empty(len(self), c, c, dtype=torch.float64, device=self._device)
        for where, _, h in self.blocks():
            for k in range(c):
                along = (h @ matrix[k * d : (k + 1) * d]).view(len(h), c, d)
                found[where, k] = torch.einsum("ncd,nd->nc", along, h)
        return found


def roots(p: Tensor) -> Tensor:
    """R with ``R' R = diag p - p p'``, for each distribution: (n, C, C)."""
    identity = torch.eye(p.shape[1], dtype=p.dtype, device=p.device)
    return p.sqrt()[:, :, None] * (identity - p[:, None])


class Step:
    """What adding (sign 1) or removing (sign -1) one point changes.

    The inverse A of the total information becomes ``A - sign U U'``; with Y = A F U, from
    before, and Z = U' F U, the blocks of A and of A F A follow.

    Args:
        inverse: (CD, CD) A before, updated in place. fisher: (CD, CD) F.
        p, h: (C,) and (D,), the point. scale: its information counts this many times.
        sign: 1 or -1.
    """

    def __init__(
        self, inverse: Tensor, fisher: Tensor, p: Tensor, h: Tensor, scale: float, sign: int
    ) -> None:
        self.sign = sign
        self._classes, self._width = len(p), len(h)
        # The root of W from its eigenvectors has one row less: W has rank C - 1.
        value, vector = torch.linalg.eigh(p.diag() - torch.outer(p, p))
        root = (vector[:, 1:] * value[1:].clamp(min=0).sqrt() * scale**0.5).T
        rows = (root[:, :, None] * h).flatten(1)
        # Rows times a symmetric matrix: twice as fast as the matrix times columns.
        along = rows @ inverse
        inner = torch.eye(len(root), dtype=p.dtype, device=p.device) + sign * (along @ rows.T)
        u = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), along, upper=False)
        fisher_u = u @ fisher
        y = fisher_u @ inverse
        self.z = u @ fisher_u.T
        inverse.addmm_(u.T, u, alpha=-float(sign))
        both = torch.cat([u, y]).view(2 * len(u), self._classes, self._width)
        self._wide = both.permute(2, 1, 0).flatten(1)  # (D, C * columns of U and Y)

    def change(self, h: Tensor, q: Tensor, s: Tensor) -> None:
        """Update blocks q of A and s of A F A in place, for embeddings h: (n, C, C)."""
        both = (h @ self._wide).view(len(h), self._classes, -1)
        a, y = both.chunk(2, dim=2)
        q.sub_(a @ a.mT, alpha=self.sign)
        cross = a @ y.mT
        s.sub_(cross + cross.mT, alpha=self.sign).add_(a @ self.z @ a.mT)


def trace_change(p: Tensor, q: Tensor, s: Tensor, scale: float, sign: int) -> Tensor:
    """By how much tr(A F) falls when a point is added, or rises when it is removed: (n,)."""
    root = roots(p) * scale**0.5
    inner = root @ q @ root.mT
    inner = torch.eye(p.shape[1], dtype=p.dtype, device=p.device) + sign * inner
    lower = torch.linalg.cholesky(inner)
    change = torch.cholesky_solve(root @ s @ root.mT, lower)
    return change.diagonal(dim1=1, dim2=2).sum(1)
