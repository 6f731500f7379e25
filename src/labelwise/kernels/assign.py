"""Which of some centers is nearest to each point: in matrix products, decided in float64.

Three things make it fast and its answer the same for every block size and library:

- the least of k numbers is found without a search among all of them: least values of groups
  first, then of the one group that holds the least;
- rows whose two best centers are closer than single precision can tell apart are decided from
  float64, by the points as given;
- where only some centers moved, a point is compared with those alone: its own center beat the
  others before, or, if its own moved, a bound on the others is known.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from labelwise.kernels.gemm import DOUBLE_ROUNDOFF, linear
from labelwise.kernels.geometry import Geometry, Points, squared_norms

_GROUPS = (32, 24, 16)
"""How many products a group has: whichever needs least padding. Speed alone depends on it."""

_PRODUCTS = 1 << 20
_DOUBLES = 1 << 16
_FEW = 0.75
"""The share of centers that moved below which points are compared with those alone."""


class Nearest(NamedTuple):
    """Of b points: the nearest center, and squared distances less the points' own norms.

    Attributes:
        member: (b,) int64.
        first: (b,) float32, of that center.
        second: (b,) float32, a lower bound for all other centers. Both in single precision.
    """

    member: Tensor
    first: Tensor
    second: Tensor


class Centers:
    """k centers in the coordinates that a geometry of vectors multiplies in.

    Args:
        geometry: whose points will be assigned; one factor.
        centers: (k, D) float64. Of centers that coincide the lowest serves all points.
        given: from row numbers to those points in float64, never rounded, same coordinates.
    """

    def __init__(
        self, geometry: Geometry, centers: Tensor, given: Callable[[Tensor], Tensor]
    ) -> None:
        self.geometry = geometry
        self.centers = centers
        self.copies = _copies(centers)
        self._given = given
        self._norms = centers.square().sum(1)
        self._largest = self._norms.max() * (1 + geometry.error)
        self._every = self.only(torch.arange(len(centers), device=centers.device))

    def only(self, ids: Tensor) -> _Columns:
        """Some of the centers: (m,) int64, ascending."""
        return _Columns(self.centers[ids], ids, self.copies[ids])

    def slack(self, norms: Tensor) -> Tensor:
        """How far off distances of points with these squared norms may be, (n,) float64."""
        return self.geometry.error * (norms + self._largest)

    def apart(self, x: Tensor, member: Tensor) -> Tensor:
        """Squared distances of points in float64 to their centers, (n,), from differences."""
        return self.centers[member].sub_(x).square_().sum(1)

    def nearest(self, rows: Tensor, points: Points) -> Nearest:
        """The nearest center of some points, the lowest on a tie.

        Args:
            rows: (b,) int64, the rows that the points are.
            points: b points.
        """
        parts = [
            self._nearest(rows[i : i + self._every.step], points[i : i + self._every.step])
            for i in range(0, len(points), self._every.step)
        ]
        return Nearest(*(torch.cat(column) for column in zip(*parts)))

    def _nearest(self, rows: Tensor, points: Points) -> Nearest:
        found = self._every.best(points)
        slack = 2 * self.slack(points.norms)
        unclear = (found.second.double() - found.first <= slack).nonzero()[:, 0]
        for some in unclear.split(max(1, _DOUBLES // max(self.centers.shape))):
            found.member[some] = self._decide(self._given(rows[some]))
        return found

    def _decide(self, x: Tensor) -> Tensor:
        """The nearest center of each of a few float64 points, the lowest on a tie."""
        near = torch.addmm(self._norms, x, self.centers.T, alpha=-2)
        near[:, self.copies] = torch.inf
        largest = x.square().sum(1) + self._norms.max()
        slack = 4 * (x.shape[1] + 16) * DOUBLE_ROUNDOFF * largest
        close = near <= near.amin(1, keepdim=True) + slack[:, None]
        row, center = close.nonzero(as_tuple=True)
        if len(row) == len(x):
            return center
        size = max(1, _DOUBLES // x.shape[1])
        parts = zip(row.split(size), center.split(size))
        near[row, center] = torch.cat([self.apart(x[r], c) for r, c in parts])
        near[~close] = torch.inf
        return near.argmin(1)  # the first of equal values


class _Columns:
    """Some centers, ready to be multiplied."""

    def __init__(self, centers: Tensor, ids: Tensor, copies: Tensor) -> None:
        self._group = min(_GROUPS, key=lambda size: -len(ids) % size)
        if len(ids) <= max(_GROUPS):
            self._group = len(ids)
        padding = -len(ids) % self._group
        single = torch.cat([centers.float(), centers.new_zeros(padding, centers.shape[1]).float()])
        norms = squared_norms(single)
        # Infinitely far: nothing is ever nearest to a copy or to padding.
        norms[: len(ids)][copies] = torch.inf
        norms[len(ids) :] = torch.inf
        self._scaled, self._norms = single.mul_(-2), norms.float()
        self.ids = ids
        self._padded = torch.cat([ids, ids.new_zeros(padding)])
        products = _PRODUCTS if centers.device.type == "cpu" else 64 * _PRODUCTS
        self.step = max(64, products // len(single))

    def best(self, points: Points) -> Nearest:
        """The nearest of these centers and the second, as far as single precision tells."""
        # `Geometry.offsets`, with centers that are scaled once for all blocks
        near = linear(points.factors[0], self._scaled, self._norms)
        groups = near.view(len(points), -1, self._group)
        least = groups.amin(2)
        group = least.min(1, keepdim=True).indices
        inside = groups[torch.arange(len(points), device=near.device), group[:, 0]]
        first, column = inside.min(1, keepdim=True)
        inside.scatter_(1, column, torch.inf)
        least.scatter_(1, group, torch.inf)
        second = torch.minimum(inside.amin(1), least.amin(1))
        return Nearest(self._padded[(group * self._group + column)[:, 0]], first[:, 0], second)


class Assignment:
    """Each point's nearest center, brought up to date as centers move.

    Attributes:
        member: (N,) int64, the nearest center, the lowest on a tie; -1 before the first update.
        first: (N,) float32, its squared distance less the point's norm, in single precision.
    """

    def __init__(self, geometry: Geometry, given: Callable[[Tensor], Tensor]) -> None:
        self.geometry = geometry
        self.given = given
        self.centers: Centers | None = None
        size, device = len(geometry), geometry.device
        self.member = torch.full((size,), -1, dtype=torch.int64, device=device)
        self.first = torch.empty(size, device=device)
        self._second = torch.empty(size, device=device)

    def update(
        self,
        centers: Tensor,
        changed: Callable[[Tensor, Points, Tensor, Tensor], None] = lambda *_: None,
        passing: Callable[[float], None] = lambda _: None,
    ) -> None:
        """Assign all points to these centers.

        Args:
            centers: (k, D) float64, as for `Centers`.
            changed: called with rows that change centers, their points, the new centers and the
                old ones.
            passing: called with the share of the pass that is done.
        """
        new = Centers(self.geometry, centers, self.given)
        moved = None
        if self.centers is not None:
            same = (self.centers.centers == centers).all(1) & (self.centers.copies == new.copies)
            moved = (~same).nonzero()[:, 0]
        self.centers = new
        if moved is not None and len(moved) == 0:
            return
        few = new.only(moved) if moved is not None and len(moved) < _FEW * len(centers) else None
        for start, block in self.geometry.blocks():
            step = few.step if few is not None else len(block)
            for i in range(0, len(block), step):
                self._renew(start + i, block[i : i + step], new, few, changed)
            passing((start + len(block)) / len(self.member))

    def distances(self, rows: Tensor | None = None) -> Tensor:
        """Squared distances of some points, or all, to their centers: exactly, in float64."""
        assert self.centers is not None
        if rows is None:
            rows = torch.arange(len(self.member), device=self.member.device)
        # Made beforehand: results kept between large temporaries leave holes in the heap.
        found = torch.empty(len(rows), dtype=torch.float64, device=self.member.device)
        step = max(1, _DOUBLES // self.geometry.widths[0])
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            found[start : start + step] = self.centers.apart(self.given(part), self.member[part])
        return found

    def _renew(
        self,
        start: int,
        block: Points,
        every: Centers,
        few: _Columns | None,
        changed: Callable[[Tensor, Points, Tensor, Tensor], None],
    ) -> None:
        part = slice(start, start + len(block))
        before = self.member[part].clone()
        rows = torch.arange(len(block), device=before.device)
        if few is not None:
            rows = self._compare(part, block, every, few)
        if len(rows):
            points = block if len(rows) == len(block) else block[rows]
            found = every.nearest(rows + start, points)
            rows = rows + start
            self.member[rows], self.first[rows], self._second[rows] = found
        other = (self.member[part] != before).nonzero()[:, 0]
        if len(other):
            changed(start + other, block[other], self.member[part][other], before[other])

    def _compare(self, part: slice, block: Points, every: Centers, few: _Columns) -> Tensor:
        """Settle points by the centers that moved; the numbers of those left open, (m,)."""
        found = few.best(block)
        slack = 2 * every.slack(block.norms)
        member, first, second = self.member[part], self.first[part], self._second[part]
        own = torch.zeros(len(every.centers), dtype=torch.bool, device=member.device)
        own[few.ids] = True
        own = own[member]
        # The best of the centers that did not move: the own one, or no better than the second.
        rival = torch.where(own, second, first)
        lead = rival.double() - found.first
        wins = (lead > slack) & (found.second.double() - found.first > slack)
        stays = ~own & (lead < -slack)
        open_ = ~(wins | stays)
        best_other = torch.where(own, second, torch.minimum(first, second))
        best_other = torch.minimum(best_other, found.second)
        second.copy_(torch.where(wins, best_other, torch.minimum(second, found.first)))
        first.copy_(torch.where(wins, found.first, first))
        member.copy_(torch.where(wins, found.member, member))
        return open_.nonzero()[:, 0]


def _copies(centers: Tensor) -> Tensor:
    """(k,) bool: where a center equals one before it."""
    norms = centers.square().sum(1)
    copies = torch.zeros(len(centers), dtype=torch.bool, device=centers.device)
    values, counts = norms.unique(return_counts=True)
    suspects = torch.isin(norms, values[counts > 1]).nonzero()[:, 0]
    if len(suspects):
        _, kind = centers[suspects].unique(dim=0, return_inverse=True)
        order = kind.argsort(stable=True)
        again = kind[order][1:] == kind[order][:-1]
        copies[suspects[order[1:][again]]] = True
    return copies
