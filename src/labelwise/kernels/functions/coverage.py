"""What facility location and saturated coverage share: windows that picks narrow."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.functions.base import SetFunction
from labelwise.kernels.functions.windows import Windows, check_rows
from labelwise.kernels.functions.windows_computed import ComputedWindows
from labelwise.kernels.functions.windows_given import HeldWindows, SparseWindows
from labelwise.kernels.geometry import Points
from labelwise.kernels.precomputed import Given, Precomputed, SparseSimilarity
from labelwise.kernels.similarity import Similarity

HELD_BYTES = 512 << 20
"""Similarities are kept, unless memory is bounded, where they take no more than this."""

PASS_SHARE = 0.12
"""The share of a pass over all elements that partial answers may cost before one is made.

Passes make the better products, so few partial answers are worth it: enough to save passes over
files. Speed alone depends on it.
"""

_AHEAD = 16
_CANDIDATE = 64  # bytes that `greedy` holds for each
_PILE_BYTES = 64 << 20
_COVERED = 32


class Coverage(SetFunction):
    """``gain_j = extra_j + sum_i w_i |{part of s_ij within row i's window}|``.

    A pick moves one edge of some rows' windows, inwards. Gains of all elements are known as of
    some earlier pick; a gain now is that less what lies between the edges then and now, so only
    rows whose edges have moved since are looked at, and only for the elements asked about,
    until doing so has cost as much as bringing all elements up to date.

    Args:
        windows: similarities of M represented rows to N elements.
        edge: (M,) float32, where the moving edges start.
        weights: (M,) what represented rows count for; ones by default.
        extra: (N,) a fixed gain of each element; none by default.
        memory: bytes that may be held; None for no bound.

    Raises:
        InputError: extra is not N finite numbers.
        ResourceError: ``memory`` is less than what is held.
    """

    def __init__(
        self,
        windows: Windows,
        edge: Tensor,
        weights: Tensor | None = None,
        extra: Any = None,
        memory: int | None = None,
    ) -> None:
        super().__init__()
        self.windows = windows
        self._edge, self._past_edge = edge, edge.clone()
        self._weights = weights
        self._extra: Tensor | None = None
        if extra is not None:
            self._extra = check_vector(extra, len(self), "extra", self.device, -torch.inf).double()
        self._past: Tensor | None = None  # gains of all elements when edges were `_past_edge`
        self._known = torch.full((len(self),), -torch.inf, dtype=torch.float64)
        self._columns: dict[int, Tensor] = {}
        self._spent = 0
        need = self._least_bytes() + _CANDIDATE * len(self)
        if memory is not None and memory < need:
            raise ResourceError(
                f"memory must be at least {need / 1e6:.4g} MB for {len(self)} elements and "
                f"{windows.represented} represented rows, got {memory / 1e6:.4g} MB"
            )
        self._moved = _Moved(windows, _PILE_BYTES if memory is None else (memory - need) // 5)

    def __len__(self) -> int:
        return self.windows.elements

    @property
    def device(self) -> torch.device:
        """Where gains are computed."""
        return self.windows.device

    def gains(self, rows: Tensor | None = None) -> Tensor:
        """f(A + j) - f(A) for each row j asked about; see `SetFunction.gains`."""
        if self._past is None:
            self._past = self._start()
            self._settle()
            # Sums of M single-precision numbers, whose errors all but cancel.
            self.rounding = float(self._past.max()) * 2.0**-20 / self.windows.represented**0.5
        every = torch.arange(len(self)) if rows is None else rows
        if self._worth_a_pass(len(every)):
            self._past -= self._between(None)
            self._settle()
        found = self._past[every.to(self.device)]
        if len(self._moved.rows):
            found -= self._between(every)
        if self._extra is not None:
            found += self._extra[every.to(self.device)]
        self._known[every] = found.cpu()
        return self._known[every]

    def add(self, row: int, gain: float) -> float:
        """Put a row into A; what it gains is computed anew from its column of similarities."""
        self._known[row] = -torch.inf
        gain = self._move(self._column(row))
        return super().add(row, gain + (0.0 if self._extra is None else float(self._extra[row])))

    def bytes_needed(self, n: int) -> int:
        """About how many bytes beyond the input this function holds."""
        return self._least_bytes() + self._moved.bytes_needed() + 0 * n

    def _least_bytes(self) -> int:
        """The same, without points kept at hand to save time."""
        vectors = 64 * len(self) + (64 + 4 * _AHEAD) * self.windows.represented
        return vectors + self.windows.bytes_needed()

    @abstractmethod
    def _start(self) -> Tensor:
        """Gains of all elements with the edges where they are, without extra, (N,) float64."""

    @abstractmethod
    def _move(self, column: Tensor) -> float:
        """Move the edges for a pick with a column of similarities; what was gained."""

    def _add(self, row: int) -> None:
        pass

    def _cover(self, rows: Tensor | None) -> None:
        """Put rows into A from the start: they gain nothing and are never picked."""
        if rows is None:
            return
        rows = check_rows(rows, len(self), "covered")
        for part in rows.split(_COVERED):
            for row, column in zip(part.tolist(), self.windows.columns(part)):
                self._move(column)
                self._known[row] = -torch.inf
                self.chosen.append(row)

    def _settle(self) -> None:
        """From now on gains of the past are those of the present."""
        self._past_edge.copy_(self._edge)
        self._moved.clear()
        self._spent = 0

    def _worth_a_pass(self, asked: int) -> bool:
        """Whether to bring all elements up to date, rather than those asked about alone."""
        moved = (self._edge != self._past_edge).nonzero()[:, 0].cpu()
        if not len(moved):
            return False
        self._spent += asked * len(moved)
        whole = len(self) * len(moved)
        if not self.windows.partial or self._spent > PASS_SHARE * whole:
            return True
        return not self._moved.extend(moved)

    def _between(self, elements: Tensor | None) -> Tensor:
        """What lies between the edges then and now, (n,) float64."""
        low = torch.minimum(self._edge, self._past_edge)
        high = torch.maximum(self._edge, self._past_edge)
        weights, rows, points = self._weights, None, None
        if elements is not None:
            rows, points = self._moved.rows, self._moved.points
        elif 2 * int((moved := low < high).sum()) < len(low):
            rows = moved.nonzero()[:, 0].cpu()
        else:
            low, high = low.where(moved, 0), high.where(moved, 0)  # unmoved edges may be infinite
        if rows is not None:
            at = rows.to(low.device)
            low, high = low[at], high[at]
            weights = None if weights is None else weights[at]
        return self.windows.within(low, high, weights, rows, elements, points)

    def _column(self, row: int) -> Tensor:
        """Similarities of an element to every represented row, (M,).

        A column takes a pass over the represented rows whatever few are asked for, so those of
        the rows likely to be picked next come along.
        """
        if row not in self._columns:
            likely = self._known.topk(min(_AHEAD - 1, len(self)))
            ahead = likely.indices[likely.values > -torch.inf].tolist()
            rows = torch.tensor([row, *ahead])
            self._columns = dict(zip(rows.tolist(), self.windows.columns(rows)))
        return self._columns.pop(row)


class _Moved:
    """Rows whose edges have moved, in the order they did, with their points side by side.

    Args:
        windows: what the rows are represented in.
        room: bytes that their points may take.

    Attributes:
        rows: (R,) int64. points: theirs.
    """

    def __init__(self, windows: Windows, room: int) -> None:
        self._windows = windows
        self._most = min(room, _PILE_BYTES) // max(1, windows.point_bytes)
        self._room: Points | None = None
        self._inside = torch.zeros(windows.represented, dtype=torch.bool)
        self.rows = torch.zeros(0, dtype=torch.int64)

    @property
    def points(self) -> Points | None:
        """The points of all rows, by reference."""
        return None if self._room is None else self._room[: len(self.rows)]

    def extend(self, moved: Tensor) -> bool:
        """Add those of ``moved`` that are new; False, and nothing done, if they are too many."""
        new = moved[~self._inside[moved]]
        if not len(new):
            return True
        if len(self.rows) + len(new) > self._most:
            return False
        points = self._windows.take(new)
        if points is None:
            return False
        self._put(points)
        self.rows = torch.cat([self.rows, new])
        self._inside[new] = True
        return True

    def bytes_needed(self) -> int:
        """How many bytes the points take at most, while they are moved, and what that leaves."""
        if not self._windows.partial:
            return 0
        return 5 * min(self._most, self._windows.represented) * self._windows.point_bytes

    def clear(self) -> None:
        """Forget all rows; the room they took stays."""
        self._inside[self.rows] = False
        self.rows = self.rows[:0]

    def _put(self, points: Points) -> None:
        start, stop = len(self.rows), len(self.rows) + len(points)
        if self._room is None or stop > len(self._room):
            size = stop + stop // 2
            room = Points(
                tuple(f.new_empty(size, *f.shape[1:]) for f in points.factors),
                points.norms.new_empty(size),
            )
            if self._room is not None:
                _copy(self._room[:start], room[:start])
            self._room = room
        _copy(points, self._room[start:stop])


def _copy(source: Points, target: Points) -> None:
    for mine, theirs in zip(source.factors, target.factors):
        theirs.copy_(mine)
    target.norms.copy_(source.norms)


def windows_of(
    similarity: Similarity,
    represented: Tensor | Points | None = None,
    neighbors: int | None = None,
    dense: bool = False,
    memory: int | None = None,
) -> Windows:
    """The way to sum similarities that fits what is given and what may be held.

    Args:
        similarity: N elements.
        represented: rows of the pool, (M,) int64; other points; None for the whole pool, or for
            what the columns of a given matrix are of.
        neighbors: keep each row's similarities to this many nearest rows and take others for 0;
            only for a pool that represents itself.
        dense: consent to more than `QUADRATIC_LIMIT` squared similarities.
        memory: bytes that may be held; about 500 MB by default.

    Raises:
        InputError: neighbors together with represented.
        ResourceError: too many similarities without consent.
    """
    if neighbors is not None:
        if represented is not None or isinstance(similarity, Given):
            raise InputError("neighbors= is for a pool of points that represents itself")
        similarity = SparseSimilarity.nearest(similarity, neighbors)
    if isinstance(similarity, Given) and represented is None:
        if isinstance(similarity, SparseSimilarity):
            return SparseWindows(similarity.matrix.T.tocsr())
        if isinstance(similarity, Precomputed):
            return HeldWindows(similarity.matrix().T, similarity.square, similarity.device)
    computed = ComputedWindows(similarity, represented, dense)
    held = 4 * computed.elements * computed.represented
    if held <= (HELD_BYTES if memory is None else memory // 2) and not isinstance(
        similarity, Given
    ):
        return HeldWindows.of(computed)
    return computed


def check_vector(
    values: Any, size: int, name: str, device: torch.device, least: float = 0.0
) -> Tensor:
    """Numbers for each of some rows, (size,) float32; one number counts for all of them.

    Raises:
        InputError: not that many, not a number, or one below ``least``.
    """
    vector = torch.as_tensor(values, dtype=torch.float32, device=device)
    if vector.ndim == 0:
        vector = vector.expand(size)
    if vector.shape != (size,):
        raise InputError(f"{name} must be {size} numbers, got shape {tuple(vector.shape)}")
    wrong = vector.isnan() | (vector < least)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise InputError(f"{name} must be numbers >= {least}, got {float(vector[row])} at {row}")
    return vector.contiguous()
