"""Orthogonal matching pursuit: a weighted few points whose sum is a target."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError, nearest
from labelwise.kernels.columns import Columns, largest, relative_error
from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.geometry import Geometry, Points
from labelwise.kernels.greedy import greedy
from labelwise.kernels.nonnegative import NonNegativeFit
from labelwise.kernels.progress import Progress
from labelwise.kernels.similarity import Similarity
from labelwise.kernels.sums import MOST_NUMBERS, LinearSums, Total

Refit = Literal["nonnegative", "signed"]

_AHEAD = 64  # columns held beyond those of the picks
_FEW = 1024
_CLOSE = 1024
_VECTORS = 40


class Matched(NamedTuple):
    """What matching pursuit picked.

    Attributes:
        rows: (n,) int64, in the order picked.
        gains: (n,) float64, inner product of each pick with what was left of the target.
        weights: (n,) float64 >= 0; 0 where a pick is of no use beside the others.
        residual: the length of what is left of the target; relative to the target's.
    """

    rows: Tensor
    gains: Tensor
    weights: Tensor
    residual: float


class Residual(SetFunction):
    """Inner products with what the weighted picks leave of a target.

    Not a set function in the strict sense: a gain is ``<g_j, r>``, half the rate at which the
    squared residual falls as j's weight rises from 0. Weights are fitted at every pick.

    Args:
        geometry: N points g, with their origin where it is.
        target: points whose mean is to be matched; the mean of all points by default.
        lam: regularizer of the weights, >= 0.
        refit: ``nonnegative``: weights are >= 0 at every step. ``signed``: least squares
            while picking, as published, and weights >= 0 at the end.
        memory: bytes that may be held. Columns of the N x N inner products are kept for as many
            picks as it allows; each pick beyond costs a pass over the pool.

    Raises:
        InputError: a shifted geometry, an option out of range, or a target of length 0.
        ResourceError: a sum of points has more than 2^27 numbers, or ``memory`` is too small.
    """

    submodular = False

    def __init__(
        self,
        geometry: Geometry,
        target: Points | None = None,
        *,
        lam: float = 0.0,
        refit: Refit = "nonnegative",
        memory: int | None = None,
    ) -> None:
        super().__init__()
        if refit not in get_args(Refit):
            known = get_args(Refit)
            raise InputError(f"refit must be known, got {refit!r}; {nearest(refit, known)}")
        if not 0 <= lam < math.inf:
            raise InputError(f"lam must be a finite number >= 0, got {lam}")
        self.similarity = Similarity(geometry, "dot")
        linear = LinearSums.of(self.similarity)
        if linear is None:
            raise ResourceError(
                f"a sum of these points has {math.prod(geometry.widths):.3g} numbers, more than "
                f"{MOST_NUMBERS:.3g}; use fewer classes or narrower embeddings"
            )
        self.linear, self.lam, self._memory = linear, lam, memory
        self.target = self._mean(target)
        self._length = self._size_of(self.target)
        if self._length == 0:
            raise InputError("the target is 0, so no weighted sum is better than none")
        self._fit = NonNegativeFit(lam, signed=refit == "signed")
        self._final = NonNegativeFit(lam) if refit == "signed" else self._fit
        self._left = self.target
        self._base: Tensor | None = None  # (N,) float64 gains at the weights `_since`
        self._since = torch.zeros(0, dtype=torch.float64)
        self._columns: Columns | None = None
        self._kept: Tensor | None = None  # (room, N) inner products with the first picks
        self._count = 0  # how many of the picks' columns are kept
        self._picks: Points | None = None
        self._error = relative_error(self.similarity) * largest(self.similarity)
        self.rounding = 1e-14 * largest(self.similarity)

    def _mean(self, target: Points | None) -> Total:
        if target is None:
            return self.linear.total().times(1 / max(1, len(self)))
        if not len(target):
            raise InputError("target must hold at least one point, got none")
        return self.linear.total_of(target).times(1 / len(target))

    def _size_of(self, total: Total) -> float:
        return math.sqrt(self.linear.norm(total))

    def __len__(self) -> int:
        return len(self.similarity)

    @property
    def device(self) -> torch.device:
        """Where inner products are computed."""
        return self.similarity.device

    @property
    def weights(self) -> Tensor:
        """(t,) float64 >= 0, the weights of the picks so far, in their order."""
        return self._final.weights.clone()

    @property
    def residual(self) -> float:
        """The length of what the weighted picks leave of the target, relative to the target's."""
        return self._size_of(self._less(self._final.weights)) / self._length

    def _less(self, weights: Tensor) -> Total:
        """The target less a weighted sum of the picks."""
        if self._picks is None:
            return self.target
        return self.target.plus(self.linear.total_of(self._picks, -weights.to(self.device)))

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """Inner products with the residual, see `SetFunction.gains`."""
        if rows is not None and len(rows) <= min(_FEW, len(self) // 8):
            return self.linear.values(self._left, rows).cpu()
        if self._base is None:
            self._base = self.linear.values(self.target)
        if not self._catch_up(rows):
            found = self.linear.values(self._left).cpu()
            return found if rows is None else found[rows.cpu()]
        found, moved = self._scores(len(self.chosen))
        if rows is not None:
            found = found[rows.to(self.device)]
        return self._decide(found, rows, moved).cpu()

    def _scores(self, count: int) -> tuple[Tensor, float]:
        """Gains for the weights of the first picks, in single precision; how far those moved."""
        assert self._base is not None
        moved = self._fit.weights[:count].clone()
        moved[: len(self._since)] -= self._since[:count]
        if self._kept is None or not count:
            return self._base.clone(), 0.0
        change = moved.float().to(self.device) @ self._kept[:count]
        return self._base - change, float(moved.abs().sum())

    def _decide(self, found: Tensor, rows: Tensor | None, moved: float) -> Tensor:
        """Gains, those that may be the best in float64."""
        if moved == 0:
            return found
        close = self._close(found, rows, 2 * moved * self._error)
        if len(close) > _CLOSE:
            # What is left of the target has become small beside what the weights add up to.
            self._base, self._since = self.linear.values(self._left), self._fit.weights.clone()
            return self._base.clone() if rows is None else self._base[rows.to(self.device)]
        where = close if rows is None else rows.to(self.device)[close]
        found[close] = self.linear.values(self._left, where.cpu())
        return found

    def _close(self, found: Tensor, rows: Tensor | None, error: float) -> Tensor:
        """Where in ``found`` the best gain may be, given how far off its numbers may be."""
        if rows is None:
            found = found.clone()
            found[torch.tensor(self.chosen)] = -torch.inf
        return (found >= found.max() - 2 * error).nonzero()[:, 0]

    def _catch_up(self, rows: Tensor | None) -> bool:
        """Keep the columns of all picks; False where memory does not allow it."""
        picks = len(self.chosen)
        if self._columns is None:
            self._columns = Columns(self.similarity, min(_AHEAD, self._room()))
        if picks > self._room() - self._columns.most:
            self._kept = None
            return False
        if self._kept is None:
            self._kept = torch.empty(
                self._room() - self._columns.most, len(self), device=self.device
            )
        while self._count < picks:
            row = self.chosen[self._count]
            if row not in self._columns:
                self._columns.fetch(self._guess(rows))
            self._kept[self._count] = self._columns.take(row)
            self._count += 1
        return True

    def _guess(self, rows: Tensor | None) -> list[int]:
        """Picks whose columns are missing, and rows likely to be picked after them."""
        assert self._columns is not None
        missing = self.chosen[self._count :][: self._columns.most]
        left = torch.ones(len(self), dtype=torch.bool)
        left[self.chosen] = False
        open_rows = left.nonzero()[:, 0] if rows is None else rows
        if len(missing) == self._columns.most or not len(open_rows):
            return missing
        score, _ = self._scores(self._count)
        open_rows = open_rows.to(self.device)
        some, weights = self.similarity.take(torch.tensor(missing)), self._fit.weights

        def before(line: Tensor) -> Tensor:
            inner = self.similarity.between(self.similarity.take(line.cpu()), some).double()
            return -(inner @ weights[self._count :][: len(missing)].to(self.device))

        ahead = self._columns.look_ahead(
            open_rows, score[open_rows], before, lambda score, own: -score / max(own, 1e-30)
        )
        return [*missing, *(row for row in ahead if row not in missing)][: self._columns.most]

    def _add(self, row: int) -> None:
        points = self.similarity.take(torch.tensor([row]))
        mine = self.linear.total_of(points)
        rows = torch.tensor([*self.chosen, row])
        inner = self.linear.values(mine, rows).cpu()
        inner, right = self._regularized(row, inner, self.linear.dot(mine, self.target))
        self._picks = points if self._picks is None else Points.join([self._picks, points])
        self._fit.add(inner, right)
        if self._final is not self._fit:
            self._final.add(inner, right)
        self._left = self._less(self._fit.weights)

    def _regularized(self, row: int, inner: Tensor, right: float) -> tuple[Tensor, float]:
        """A pick's inner products with the picks, itself last, and with the target, for the fit."""
        return inner, right

    def _room(self) -> int:
        """How many columns may be held in all."""
        if self._memory is None:
            return len(self) + _AHEAD
        return max(2, (self._memory - self._fixed_bytes()) // (4 * max(1, len(self))))

    def _fixed_bytes(self) -> int:
        return _VECTORS * len(self) + 40 * self.linear.numbers

    def bytes_needed(self, n: int) -> int:
        """N x (n + 64) float32, or as many columns as the bound on memory allows; n^2 float64."""
        columns = min(n + _AHEAD, self._room())
        fit = 40 * n**2 + 8 * n * sum(self.similarity.geometry.widths)
        return self._fixed_bytes() + 4 * columns * len(self) + (fit if self._memory is None else 0)


def matching_pursuit(
    geometry: Geometry,
    n: int,
    *,
    target: Points | None = None,
    lam: float = 0.0,
    refit: Refit = "nonnegative",
    candidates: Tensor | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Matched:
    """Pick rows, and weights >= 0 for them, whose weighted sum is nearest a target vector.

    Each pick has the largest inner product (signed, not absolute) with the residual
    ``r = b - sum_s x_s g_s``; then all weights are fitted again: they minimize
    ``|r|^2 + lam |x|^2``.

    Args:
        geometry: N points g, with their origin where it is: ``Euclidean(x, shift=False)`` or a
            gradient embedding, whose outer products are never built.
        n: how many rows to pick.
        target: points whose mean is b; the mean of all N points by default.
        lam, refit: as for `Residual`.
        candidates: (K,) int64 rows that may be picked; all by default.
        memory: bytes the call may hold beyond its inputs.
        progress: is told the picks, and may hold earlier ones.

    Returns:
        Rows in the order picked, gains, weights and the residual: see `Matched`. Once no gain
        is positive no pick can help: later picks have weight 0, and n rows are returned still.

    Raises:
        InputError: n, a row or an option out of range, a shifted geometry or a target of 0.
        ResourceError: ``memory`` is too small.

    Source:
        Killamsetty, Durga, Ramakrishnan, De & Iyer, "GRAD-MATCH: Gradient matching based data
        subset selection for efficient deep model training", ICML 2021. There lam is 0.5 (paper)
        or 0 (code), weights are fitted without a sign while picking (``refit="signed"``) and by
        non-negative least squares at the end. N (n + 64) float32 are held for n picks.

    >>> from labelwise.kernels import Euclidean
    >>> x = Euclidean([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [3.0, 3.0]], shift=False)
    >>> found = matching_pursuit(x, 2)  # the mean is (1, 1)
    >>> found.rows, found.weights.round(decimals=3), round(found.residual, 3)
    (tensor([3, 0]), tensor([0.3330, 0.0000], dtype=torch.float64), 0.0)
    """
    left = None if memory is None else max(0, memory - 64 * len(geometry) - 40 * n**2)
    function = Residual(geometry, target, lam=lam, refit=refit, memory=left)
    rows, gains = greedy(function, n, candidates=candidates, progress=progress, memory=memory)
    return Matched(rows, gains, function.weights, function.residual)
