"""Fisher-information greedy, forward and backward: BAIT, exact, by rank-C updates."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.cover import prepare
from labelwise.kernels.fisher_blocks import BLOCK_BYTES, Classified, Step, trace_change
from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.geometry import Chosen
from labelwise.kernels.greedy import greedy
from labelwise.kernels.progress import Progress, inside
from labelwise.kernels.rows import Rows

REFRESH = 500
"""Steps after which blocks are computed from the inverse again."""


class FisherTrace(SetFunction):
    """By how much ``tr(A^-1 F)`` falls as points' information is added to A, or taken away.

    Gains are float64. Not submodular.

    Args:
        points: the points that may be added (or removed), K of them.
        inverse: (CD, CD) float64, the inverse of A; updated in place.
        fisher: (CD, CD) float64, F.
        scale: a point's information counts this many times.
        remove: whether points leave A; a gain is then minus the rise of the trace.
    """

    submodular = False

    def __init__(
        self,
        points: Classified,
        inverse: Tensor,
        fisher: Tensor,
        scale: float,
        remove: bool = False,
    ) -> None:
        super().__init__()
        self._points, self.inverse, self._fisher = points, inverse, fisher
        self._scale, self._sign = scale, -1 if remove else 1
        self._refresh()

    def __len__(self) -> int:
        return len(self._points)

    @property
    def device(self) -> torch.device:
        """Where gains are computed."""
        return self.inverse.device

    def _refresh(self) -> None:
        self._q = self._points.forms(self.inverse)
        self._s = self._points.forms(self.inverse @ self._fisher @ self.inverse)

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """What the trace loses, see `SetFunction.gains`; O(K C^3)."""
        if rows is not None and 2 * len(rows) > len(self):
            return self.gains()[rows.cpu()]
        found = [torch.zeros(0, dtype=torch.float64, device=self.device)]
        if rows is None:
            for where, p, _ in self._points.blocks():
                found.append(self._change(p, self._q[where], self._s[where], where))
        elif len(rows):
            p, _ = self._points.take(rows)
            places = rows.to(self.device)
            found.append(self._change(p, self._q[places], self._s[places], places))
        return (self._sign * torch.cat(found)).cpu()

    def _change(self, p: Tensor, q: Tensor, s: Tensor, where: slice | Tensor) -> Tensor:
        if self._sign > 0:
            return trace_change(p, q, s, self._scale, 1)
        # Rows already removed have no place in A: taking them away twice means nothing.
        here = torch.ones(len(self), dtype=torch.bool, device=self.device)
        here[torch.tensor(self.chosen, dtype=torch.int64, device=self.device)] = False
        here = here[where]
        change = torch.full((len(p),), torch.inf, dtype=torch.float64, device=self.device)
        change[here] = trace_change(p[here], q[here], s[here], self._scale, -1)
        return change

    def _add(self, row: int) -> None:
        p, h = self._points.take(torch.tensor([row]))
        step = Step(self.inverse, self._fisher, p[0], h[0], self._scale, self._sign)
        if (len(self.chosen) + 1) % REFRESH == 0:
            self._refresh()
            return
        for where, _, some in self._points.blocks():
            step.change(some, self._q[where], self._s[where])

    def bytes_needed(self, n: int) -> int:
        """The blocks; the inverse, F and a product of both; what a step holds."""
        return bytes_needed(len(self), self._points.classes, self._points.width)


def bytes_needed(candidates: int, classes: int, width: int) -> int:
    """Bytes that `fisher_greedy` holds: two C x C blocks a candidate, four (CD)^2 matrices."""
    square = (classes * width) ** 2
    return 16 * candidates * classes**2 + 32 * square + 24 * candidates + 4 * BLOCK_BYTES


def fisher_greedy(
    probs: Any,
    embeddings: Any,
    n: int,
    *,
    covered: Tensor | None = None,
    candidates: Tensor | None = None,
    lam: float = 1.0,
    oversample: float = 2.0,
    device: torch.device | str | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Chosen:
    """Pick rows whose labels leave the least Fisher-weighted uncertainty of a softmax head.

    With I(x) the Fisher information of the head's weights at x, F its mean over all rows, F_0
    its mean over the L covered rows and ``A = lam I + L / (L + n) F_0 + n / (L + n) sum of I
    over the picks``, rows are added greedily to minimize ``tr(A^-1 F)`` until ``oversample * n``
    are picked; then the rows whose loss raises it least are removed until n are left.

    Args:
        probs: (N, C) class distributions.
        embeddings: (N, D), the head's input. Append a column of ones for a bias.
        n: how many rows to pick.
        covered: (L,) int64 labeled rows; never picked.
        candidates: (K,) int64 rows that may be picked; all by default. F is of all rows.
        lam: ridge, > 0. The authors use 1, and 0.01 for CIFAR-10.
        oversample: picks before removal, as a multiple of n, >= 1; at most all candidates.
        device: where to compute; where the embeddings are by default.
        memory: bytes the call may hold beyond its inputs; the machine's memory by default.
        progress: is told the rows as they are added, before any is removed, and may hold
            earlier ones of the same call.

    Returns:
        (n,) rows in the order they were added, and by how much each lowered the trace then,
        (n,) float64.

    Raises:
        InputError: n, a row or an option out of range, or arrays that do not fit each other.
        ResourceError: memory for the blocks and the (CD)^2 matrices is missing.

    Source:
        Ash, Goel, Krishnamurthy & Kakade, "Gone Fishing: Neural active learning with Fisher
        embeddings", NeurIPS 2021. The same picks as its N x C x CD arrays give, in
        O(K C^2 (D + C)) a step: two C x C blocks a candidate are updated at rank C - 1. Memory:
        2 K C^2 + 4 (CD)^2 float64.

    >>> probs = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.99, 0.01]])
    >>> fisher_greedy(probs, [[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]], 1).rows
    tensor([0])
    """
    p, h = Rows(probs, "probs"), Rows(embeddings, "embeddings")
    _check(p, h, lam, oversample)
    where = h.device if device is None else torch.device(device)
    taken, allowed = prepare(_Counted(len(p)), n, covered, candidates)
    rows = torch.from_numpy(allowed.nonzero()[0])
    _check_memory(len(rows), p.shape[1], h.shape[1], memory)
    share = n / (len(taken) + n)
    fisher = Classified(p, h, torch.arange(len(p)), where).information()
    inverse = Classified(p, h, torch.from_numpy(taken), where).information().mul_(1 - share)
    inverse.diagonal().add_(lam)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(inverse))
    points = Classified(p, h, rows, where)
    forward = FisherTrace(points, inverse, fisher, share)
    most = min(len(rows), math.ceil(oversample * n))
    added = greedy(forward, most, progress=inside(progress, rows))
    kept = torch.arange(most)
    if most > n:
        some = Classified(p, h, rows[added.rows], where)
        backward = FisherTrace(some, forward.inverse, fisher, share, remove=True)
        gone = greedy(backward, most - n).rows
        kept = kept[~torch.isin(kept, gone)]
    return Chosen(rows[added.rows[kept]], added.gains[kept])


class _Counted:
    """As much of a geometry as `prepare` asks for."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size


def _check(p: Rows, h: Rows, lam: float, oversample: float) -> None:
    if p.ndim != 2 or h.ndim != 2 or len(p) != len(h) or p.shape[1] < 2 or h.shape[1] < 1:
        raise InputError(
            "probs and embeddings must be (N, C >= 2) and (N, D >= 1) with the same N, got "
            f"{p.shape} and {h.shape}"
        )
    if not 0 < lam < math.inf:
        raise InputError(f"lam must be a finite number > 0, got {lam}")
    if not 1 <= oversample < math.inf:
        raise InputError(f"oversample must be a finite number >= 1, got {oversample}")


def _check_memory(candidates: int, classes: int, width: int, memory: int | None) -> None:
    need = bytes_needed(candidates, classes, width)
    have = memory
    if have is None:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        raise ResourceError(
            f"memory must be at least {need / 1e9:.3g} GB, got {have / 1e9:.3g} GB: two {classes} "
            f"x {classes} blocks for each of {candidates} candidates take "
            f"{16 * candidates * classes**2 / 1e9:.3g} GB, four matrices of "
            f"({classes} * {width})^2 numbers {32 * (classes * width) ** 2 / 1e9:.3g} GB; use "
            "fewer candidates, or narrower embeddings"
        )
