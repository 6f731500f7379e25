"""Concave functions of the features that a set has gathered.

Sources: Wei, Iyer & Bilmes, "Submodularity in data subset selection and active learning", ICML
2015, and Kirchhoff & Bilmes, "Submodularity for data selection in machine translation", EMNLP
2014.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.functions.pairwise import covered_rows
from labelwise.kernels.rows import Rows, in_order

Concave = Literal["sqrt", "log1p", "power"]

_BLOCK_NUMBERS = 1 << 16  # float64 numbers of a block: half of the second-level cache


def concave_function(kind: Concave, exponent: float | None = None) -> Callable[[Tensor], Tensor]:
    """psi: the square root, log(1 + x), or x to a power in (0, 1], computed in place.

    Raises:
        InputError: an unknown kind, or an exponent that is missing, needless or out of range.

    >>> concave_function("power", 0.5)(torch.tensor([4.0]))
    tensor([2.])
    """
    known = get_args(Concave)
    if kind not in known:
        raise InputError(f"concave must be known, got {kind!r}; {nearest(kind, known)}")
    if (exponent is not None) != (kind == "power"):
        need = "needs" if exponent is None else "takes no"
        raise InputError(f"concave {kind!r} {need} exponent")
    if exponent is not None:
        if not 0 < exponent <= 1:
            raise InputError(f"exponent must be in (0, 1], got {exponent}")
        power = float(exponent)
        return lambda x: x.pow_(power)
    return torch.sqrt_ if kind == "sqrt" else torch.log1p_


class Gathered(SetFunction):
    """``sum_f w_f psi(sum_{j in A} x_jf) + sum_{j in A} m_j`` for rows x_j >= 0 and m_j >= 0.

    Args:
        psi: concave, 0 at 0, elementwise on float64, in place.
        weights: (F,) float64 w, on the device where gains are computed.
    """

    def __init__(self, psi: Callable[[Tensor], Tensor], weights: Tensor) -> None:
        super().__init__()
        self._psi, self._weights = psi, weights
        self._sum = torch.zeros_like(weights)
        self._now = torch.zeros_like(weights)  # psi of the sums

    @property
    def device(self) -> torch.device:
        """Where gains are computed."""
        return self._weights.device

    def _row(self, row: int) -> Tensor:
        """The features of one row, (F,) float64."""
        return next(self._blocks(torch.tensor([row])))[0].double()

    @abstractmethod
    def _blocks(self, rows: Tensor | None) -> Iterator[Tensor]:
        """The features of some rows, or of all, in order, (n, F) of any type at a time."""

    def _modular(self, rows: Tensor | None) -> Tensor | float:
        """What each row adds on its own."""
        return 0.0

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """f(A + j) - f(A), see `SetFunction.gains`: one look at each row asked about."""
        if rows is not None and 2 * len(rows) >= len(self):
            return self.gains()[rows.cpu()]
        # A difference for each feature: sums that are large and alike would cancel.
        added = (self._psi(x + self._sum).sub_(self._now) for x in self._blocks(rows))
        found = in_order(
            (x @ self._weights for x in added), len(self) if rows is None else len(rows)
        )
        return (found + self._modular(rows)).cpu()

    def _add(self, row: int) -> None:
        self._sum = self._sum + self._row(row)
        self._now = self._psi(self._sum.clone())


class FeatureBased(Gathered):
    """``sum_f w_f psi(sum_{j in A} x_jf)``: some of every feature, less and less of each.

    Monotone and submodular.

    Args:
        features: (N, F) numbers >= 0, in memory or a file, read in blocks. They are looked at
            once as a whole, to refuse what is negative or not a number.
        concave: psi: ``sqrt``, ``log1p`` = log(1 + x) or ``power``.
        exponent: of the power, in (0, 1].
        weights: (F,) numbers >= 0; 1 by default.
        covered: (M,) int64 rows that are in A from the start.
        device: where to compute; where the features are by default.

    Raises:
        InputError: a feature that is negative or not finite (the message names its row),
            weights that do not fit, or a concave function that is not known.

    Memory: a block of rows and a few numbers a feature. ``submodlib`` scales every feature to
    [0, 1] first, without saying so; ``apricot`` does not, and picks as this does.

    >>> from labelwise.kernels.greedy import greedy
    >>> x = [[4.0, 0.0], [3.0, 0.0], [0.0, 1.0]]
    >>> greedy(FeatureBased(x), 2)
    Chosen(rows=tensor([0, 2]), gains=tensor([2., 1.], dtype=torch.float64))
    """

    def __init__(
        self,
        features: Any,
        concave: Concave = "sqrt",
        *,
        exponent: float | None = None,
        weights: Any = None,
        covered: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self._rows = features if isinstance(features, Rows) else Rows(features, "features")
        if self._rows.ndim != 2 or self._rows.shape[1] == 0:
            raise InputError(f"features must be (N, F) with F >= 1, got {self._rows.shape}")
        where = self._rows.device if device is None else torch.device(device)
        psi = concave_function(concave, exponent)
        super().__init__(psi, _weights(weights, self._rows.shape[1], where))
        self._step = max(1, _BLOCK_NUMBERS // self._rows.shape[1])
        self._check()
        for row in covered_rows(covered, len(self)):
            self._add(row)
            self.chosen.append(row)

    def __len__(self) -> int:
        return len(self._rows)

    def _check(self) -> None:
        for start, block in self._rows.blocks():
            low, high = block.amin(1), block.amax(1)
            bad = ~((low >= 0) & (high < math.inf))
            if bool(bad.any()):
                row = int(bad.nonzero()[0])
                value = low[row] if not low[row] >= 0 else high[row]
                raise InputError(
                    f"{self._rows.name} must be finite numbers >= 0, got {float(value):.6g} in "
                    f"row {start + row}"
                )

    def _blocks(self, rows: Tensor | None) -> Iterator[Tensor]:
        if rows is None:
            for _, block in self._rows.blocks(self._step):
                yield block.to(self.device)
            return
        for part in rows.split(self._step):
            yield self._rows.take(part).to(self.device)

    def bytes_needed(self, n: int) -> int:
        """A few blocks and vectors."""
        return 48 * self._step * self._rows.shape[1] + 32 * self._rows.shape[1] + 16 * len(self)


def _weights(weights: Any, size: int, device: torch.device) -> Tensor:
    if weights is None:
        return torch.ones(size, dtype=torch.float64, device=device)
    found = torch.as_tensor(weights).to(device, torch.float64)
    if found.shape != (size,) or not bool(((found >= 0) & (found < math.inf)).all()):
        raise InputError(f"weights must be {size} finite numbers >= 0, got {tuple(found.shape)}")
    return found
