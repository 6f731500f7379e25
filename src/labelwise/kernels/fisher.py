"""Fisher-information greedy, forward and backward: BAIT, exact, by rank-(C - 1) updates."""

from __future__ import annotations

import math
import os
from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.cover import prepare
from labelwise.kernels.fisher_blocks import (
    BLOCK_BYTES,
    Classified,
    Step,
    refuse,
    trace_change,
)
from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.geometry import Chosen
from labelwise.kernels.greedy import greedy
from labelwise.kernels.noise import Generator
from labelwise.kernels.progress import Progress, inside
from labelwise.kernels.rows import Rows

DRIFT = 1e-7
"""How far a pick's blocks may be from the matrices, relatively, before all are computed anew."""

_MOST = 1e9
"""Information of a row in units of the ridge that leaves enough of float64's digits."""

_HOLD_BYTES = 1 << 30


class FisherTrace(SetFunction):
    """By how much ``tr(A^-1 F)`` falls as points' information is added to A, or taken away.

    Gains are float64. Not submodular.

    Args:
        points: the points that may be added (or removed), K of them, as often as they count.
        inverse: (cD, cD) float64, the inverse of A; updated in place.
        spread: (cD, cD) float64, A^-1 F A^-1; updated in place.
        remove: whether points leave A; a gain is then minus the rise of the trace.

    Raises:
        InputError: points so large that float64 cannot tell them from the ridge.
    """

    submodular = False

    def __init__(
        self, points: Classified, inverse: Tensor, spread: Tensor, remove: bool = False
    ) -> None:
        super().__init__()
        self._points, self.inverse, self.spread = points, inverse, spread
        self._sign = -1 if remove else 1
        self._refresh()
        if not bool((self._q.diagonal(dim1=1, dim2=2).sum(1) <= _MOST).all()):
            refuse()

    def __len__(self) -> int:
        return len(self._points)

    @property
    def device(self) -> torch.device:
        """Where gains are computed."""
        return self.inverse.device

    def _refresh(self) -> None:
        self._q = self._points.forms(self.inverse)
        self._s = self._points.forms(self.spread)

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """What the trace loses, see `SetFunction.gains`; O(K C^3)."""
        if rows is not None and 2 * len(rows) > len(self):
            return self.gains()[rows.cpu()]
        places = torch.arange(len(self)) if rows is None else rows
        step = max(1, BLOCK_BYTES // (32 * self._points.free**2))
        found = [torch.zeros(0, dtype=torch.float64, device=self.device)]
        for start in range(0, len(places), step):
            stop = min(start + step, len(places))
            found.append(self._change(slice(start, stop) if rows is None else places[start:stop]))
        return (self._sign * torch.cat(found)).cpu()

    def _change(self, where: slice | Tensor) -> Tensor:
        where = where if isinstance(where, slice) else where.to(self.device)
        q, s = self._q[where], self._s[where]
        if self._sign > 0:
            return trace_change(q, s, 1)
        # Rows already removed have no place in A: taking them away twice means nothing.
        here = torch.ones(len(self), dtype=torch.bool, device=self.device)
        here[torch.tensor(self.chosen, dtype=torch.int64, device=self.device)] = False
        here = here[where]
        change = torch.full((len(q),), torch.inf, dtype=torch.float64, device=self.device)
        change[here] = trace_change(q[here], s[here], -1)
        return change

    def _add(self, row: int) -> None:
        root, h = (part[0] for part in self._points.take(torch.tensor([row])))
        step = Step(self.inverse, self.spread, root, h, self._sign)
        near, far = step.own
        off = (near - self._q[row]).abs().max() > DRIFT * (1 + near.abs().max())
        if off or (far - self._s[row]).abs().max() > DRIFT * far.abs().max():
            self._refresh()
            return
        for where, roots, some in self._points.blocks():
            step.change(roots, some, self._q[where], self._s[where])

    def bytes_needed(self, n: int) -> int:
        """The blocks; the matrices and what makes them; what a step holds."""
        return bytes_needed(len(self), self._points.free + 1, self._points.width)


def bytes_needed(candidates: int, classes: int, width: int) -> int:
    """Bytes that `fisher_greedy` holds: two c x c blocks a candidate, four (cD)^2 matrices."""
    free = classes - 1
    return 16 * candidates * free**2 + 32 * (free * width) ** 2 + 24 * candidates + 4 * BLOCK_BYTES


def fisher_greedy(
    probs: Any,
    embeddings: Any,
    n: int,
    *,
    covered: Tensor | None = None,
    candidates: Tensor | None = None,
    lam: float = 1.0,
    oversample: float = 2.0,
    ties: Generator | None = None,
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
        ties: decides between equal gains, by item; the lowest row does without it.
        device: where to compute; where the embeddings are by default.
        memory: bytes the call may hold beyond its inputs; the machine's memory by default.
        progress: is told the rows as they are added, before any is removed, and may hold
            earlier ones of the same call.

    Returns:
        (n,) rows in the order they were added, and by how much each lowered the trace then,
        (n,) float64.

    Raises:
        InputError: n, a row or an option out of range, arrays that do not fit each other, or
            embeddings so large that float64 cannot tell them from the ridge.
        ResourceError: memory for the blocks and the matrices is missing.

    Source:
        Ash, Goel, Krishnamurthy & Kakade, "Gone Fishing: Neural active learning with Fisher
        embeddings", NeurIPS 2021. The same picks as its N x C x CD arrays give, in
        O(K C^2 (D + C)) a step: with c = C - 1, two c x c blocks a candidate are updated at rank
        c. Memory: 2 K c^2 + 4 (cD)^2 float64.

    >>> probs = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.99, 0.01]])
    >>> fisher_greedy(probs, [[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]], 1).rows
    tensor([0])
    """
    p, h = Rows(probs, "probs"), Rows(embeddings, "embeddings")
    _check(p, h, lam, oversample)
    where = h.device if device is None else torch.device(device)
    taken, allowed = prepare(_Counted(len(p)), n, covered, candidates)
    rows = torch.from_numpy(allowed.nonzero()[0])
    hold = _check_memory(len(rows), p.shape[1], h.shape[1], memory)
    share = n / (len(taken) + n)
    inverse, spread = _matrices(p, h, torch.from_numpy(taken), lam, share, where)
    forward = FisherTrace(Classified(p, h, rows, where, share, hold), inverse, spread)
    most = min(len(rows), math.ceil(oversample * n))
    mine = None if ties is None else ties.of(rows.numpy())
    added = greedy(forward, most, ties=mine, progress=inside(progress, rows))
    kept = torch.arange(most)
    if most > n:
        some = Classified(p, h, rows[added.rows], where, share, hold)
        del forward  # its blocks
        backward = FisherTrace(some, inverse, spread, remove=True)
        mine = None if ties is None else ties.of(rows[added.rows].numpy())
        gone = greedy(backward, most - n, ties=mine).rows
        kept = kept[~torch.isin(kept, gone)]
    return Chosen(rows[added.rows[kept]], added.gains[kept])


def _matrices(
    p: Rows, h: Rows, labeled: Tensor, lam: float, share: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A^-1 and A^-1 F A^-1 before any pick, (cD, cD) float64."""
    total = Classified(p, h, labeled, device).information().mul_(1 - share)
    total.diagonal().add_(lam)
    lower, failed = torch.linalg.cholesky_ex(total)
    if int(failed):
        refuse()
    del total
    inverse = torch.cholesky_inverse(lower)
    del lower
    fisher = Classified(p, h, torch.arange(len(p)), device).information()
    return inverse, inverse @ fisher @ inverse


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


def _check_memory(candidates: int, classes: int, width: int, memory: int | None) -> int:
    """Bytes that are left for a copy of the candidates.

    Raises:
        ResourceError: there is less than the call needs.
    """
    need = bytes_needed(candidates, classes, width)
    have = memory
    if have is None:
        have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        free = classes - 1
        raise ResourceError(
            f"memory must be at least {need / 1e9:.3g} GB, got {have / 1e9:.3g} GB: two {free} "
            f"x {free} blocks for each of {candidates} candidates take "
            f"{16 * candidates * free**2 / 1e9:.3g} GB, four matrices of "
            f"({free} * {width})^2 numbers {32 * (free * width) ** 2 / 1e9:.3g} GB; use "
            "fewer candidates, or narrower embeddings"
        )
    return min(have - need, _HOLD_BYTES)
