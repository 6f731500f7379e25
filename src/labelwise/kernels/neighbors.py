"""Exact nearest neighbors, in blocks: queries by rows, whatever of both fits in a cache at a time.

Single-precision products shortlist. A tile of products is looked at by least values of groups;
only groups that beat the worst of a query's list are opened, and soon hardly any do. True
distances in float64 rank the list, and queries whose list is not proven complete are scanned
for every row that could belong to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.euclidean import Euclidean
from labelwise.kernels.gemm import SINGLE_ROUNDOFF
from labelwise.kernels.geometry import Geometry, Points
from labelwise.kernels.progress import Progress

_SPARE = 8
_GROUP = 32
_QUERIES = 2048
_ROWS = 1024
_DOUBLES = 1 << 15
_WAVE_BYTES = 256 << 20
_TILE_BYTES = 64 << 20


class Neighbors(NamedTuple):
    """For each query its k nearest rows, nearest first, the lowest row on a tie.

    Attributes:
        rows: (Q, k) int64.
        squared_distances: (Q, k) float64, from differences; exactly 0 for equal points.
    """

    rows: Tensor
    squared_distances: Tensor


def nearest_neighbors(
    x: Any,
    k: int,
    *,
    queries: Tensor | Points | None = None,
    exclude_self: bool = False,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Neighbors:
    """The k rows nearest to each query.

    Args:
        x: N points: a geometry, or (N, D) anything `Euclidean` takes.
        k: how many neighbors, 1 <= k <= N (N - 1 without the query itself).
        queries: (Q,) int64 rows to find the neighbors of, or points of another set
            (``geometry.points(...)``), which are measured as rounded to single precision there;
            every row by default.
        exclude_self: leave the query's own row out. Copies of it stay.
        memory: bytes the call may hold beyond its inputs; None for no bound. Less means more
            passes over the points, never another result.
        progress: told how far each pass over the points is.

    Raises:
        InputError: k or a query out of range, or other points without their own row to exclude.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        2 Q N D operations in matrix products; Q x k results and a few tiles of products held.

    >>> nearest_neighbors([[0.0], [1.0], [3.0]], 1, exclude_self=True).rows.flatten()
    tensor([1, 0, 1])
    """
    geometry = x if isinstance(x, Geometry) else Euclidean(x)
    size = len(geometry)
    most = size - exclude_self
    if not 1 <= k <= most:
        raise InputError(f"k must be in 1..{most} (the neighbors there are), got {k}")
    if isinstance(queries, Points):
        if exclude_self:
            raise InputError("exclude_self needs queries that are rows, got other points")
        asked = _Queries(geometry, k, None, queries)
    else:
        rows = torch.arange(size) if queries is None else torch.as_tensor(queries).cpu()
        wrong = (rows < 0) | (rows >= size)
        if bool(wrong.any()):
            raise InputError(f"queries must be rows in 0..{size - 1}, got {int(rows[wrong][0])}")
        asked = _Queries(geometry, k, rows, None, exclude_self)
    wave = _wave(geometry, len(asked), min(most, k + _SPARE), k, memory)
    found = torch.zeros((len(asked), k), dtype=torch.int64)
    measured = torch.zeros((len(asked), k), dtype=torch.float64)
    for start in range(0, len(asked), wave):
        some = asked[start : start + wave]
        some.every = queries is None and wave >= size
        rows, distances = some.search(min(most, k + _SPARE), progress or Progress())
        found[start : start + wave], measured[start : start + wave] = rows, distances
    return Neighbors(found, measured)


def _wave(geometry: Geometry, queries: int, listed: int, k: int, memory: int | None) -> int:
    """How many queries a pass over the points serves."""
    each = 4 * sum(geometry.widths) + 12 * listed + 32 * k + 64
    if memory is None:
        return max(_QUERIES, _WAVE_BYTES // each)
    fixed = 16 * len(geometry) + 32 * queries * k + _TILE_BYTES
    fixed += 12 * geometry.block_size * sum(geometry.widths)
    if memory < fixed + 256 * each:
        raise ResourceError(
            f"memory must be at least {(fixed + 256 * each) / 1e6:.3g} MB for {queries} queries "
            f"and {k} neighbors, got {memory / 1e6:.3g} MB"
        )
    return (memory - fixed) // each


class _Tile(NamedTuple):
    """Offsets (q, b) of some queries to the rows from ``first`` on."""

    queries: slice
    near: Tensor
    first: int


@dataclass
class _Queries:
    """Rows of the geometry, perhaps all in order, or other points, that ask for neighbors."""

    geometry: Geometry
    k: int
    rows: Tensor | None
    others: Points | None
    exclude_self: bool = False
    every: bool = False

    def __len__(self) -> int:
        return len(self.rows) if self.rows is not None else len(self.others or ())

    def __getitem__(self, part: slice | Tensor) -> _Queries:
        rows = None if self.rows is None else self.rows[part]
        others = None if self.others is None else self.others[part]
        return _Queries(self.geometry, self.k, rows, others, self.exclude_self)

    def search(self, listed: int, progress: Progress) -> tuple[Tensor, Tensor]:
        """The neighbors of all queries, from lists of ``listed`` rows, longer where needed."""
        if self.others is None:
            assert self.rows is not None
            points = self.geometry.take(self.rows)
        else:
            points = self.others
        lists = _Lists(len(self), listed, points.norms.device)
        largest = 0.0
        for start, block in self.geometry.blocks():
            largest = max(largest, float(block.norms.max()))
            for tile in self._tiles(points, start, block):
                lists.merge(tile)
            progress.passing((start + len(block)) / len(self.geometry))
        near, rows = lists.sorted()
        near = near.double() + points.norms[:, None]
        # Distances to earlier rows come from those of theirs: four more roundings.
        slack = (self.geometry.error + 8 * SINGLE_ROUNDOFF) * (points.norms + largest)
        rows, true = self._rank(near, rows, slack)
        if listed < len(self.geometry) - self.exclude_self:
            # A row outside a list is no nearer than the list's last entry, less its error.
            open_ = (near[:, -1] - slack <= true[:, -1]).nonzero()[:, 0]
            if len(open_):
                scan = _Scan(self[open_.cpu()], points[open_], slack[open_], true[open_, -1])
                rows[open_], true[open_] = scan.run()
        return rows.cpu(), true.cpu()

    def _tiles(self, points: Points, start: int, block: Points) -> Iterator[_Tile]:
        """Products of queries and rows, a tile at a time.

        Where every row is a query, a tile serves the queries of both its sides.
        """
        more = 1 if points.norms.device.type == "cpu" else 8
        high = more * (_ROWS if self.every else _QUERIES)
        for i in range(0, len(block), more * _ROWS):
            some, first = block[i : i + more * _ROWS], start + i
            last = first + len(some)
            for j in range(0, first if self.every else len(points), high):
                tile = slice(j, min(j + high, first) if self.every else j + high)
                near = self.geometry.offsets(points[tile], some)
                self._leave_out(tile, near, first)
                yield _Tile(tile, near, first)
                if self.every:
                    near.sub_(some.norms.float()).add_(points.norms[tile].float()[:, None])
                    yield _Tile(slice(first, last), near.T.contiguous(), j)
            if self.every:
                near = self.geometry.offsets(some, some)
                self._leave_out(slice(first, last), near, first)
                yield _Tile(slice(first, last), near, first)

    def _leave_out(self, tile: slice, near: Tensor, first: int) -> None:
        """No query is its own neighbor, where that is asked for."""
        if self.exclude_self and self.rows is not None:
            own = self.rows[tile] - first
            mine = ((own >= 0) & (own < near.shape[1])).nonzero()[:, 0]
            near[mine.to(near.device), own[mine].to(near.device)] = torch.inf

    def _rank(self, near: Tensor, rows: Tensor, slack: Tensor) -> tuple[Tensor, Tensor]:
        """The k nearest of each query's list, by true distances."""
        # Of the spare entries only those matter that may be nearer than the k-th.
        reach = near[:, self.k - 1] + 2 * slack
        maybe = near <= reach[:, None]
        maybe[:, : self.k] = True
        query, place = maybe.nonzero(as_tuple=True)
        true = torch.full_like(near, torch.inf)
        true[query, place] = self.measure(query, rows[query, place])
        # Sorting by row first makes the later, stable sort give ties to the lowest row.
        rows, by_row = rows.sort(1)
        true, by_distance = true.gather(1, by_row).sort(dim=1, stable=True)
        return rows.gather(1, by_distance)[:, : self.k], true[:, : self.k].contiguous()

    def measure(self, query: Tensor, rows: Tensor) -> Tensor:
        """True squared distances of pairs of a query's number and a row, (P,) float64."""
        if self.others is None:
            assert self.rows is not None
            return self.geometry.exact(self.rows[query.cpu()], rows.cpu())
        found = [torch.zeros(0, dtype=torch.float64, device=self.geometry.device)]
        step = max(1, _DOUBLES // sum(self.geometry.widths))
        for q, r in zip(query.split(step), rows.split(step)):
            some = tuple(factor.double() for factor in self.others[q].factors)
            row = tuple(factor.double() for factor in self.geometry.take(r.cpu()).factors)
            found.append(self.geometry.apart(some, row))
        return torch.cat(found)


class _Lists:
    """For each query the rows that look nearest, in no order."""

    def __init__(self, queries: int, listed: int, device: torch.device) -> None:
        self._near = torch.full((queries, listed), torch.inf, device=device)
        self._rows = torch.full((queries, listed), -1, dtype=torch.int64, device=device)

    def merge(self, new: _Tile) -> None:
        """Take in a tile."""
        tile, near, first = new
        best, rows = self._near[tile], self._rows[tile]
        worst = best.amax(1, keepdim=True)
        if near.shape[1] % _GROUP or bool(torch.isinf(worst).any()):
            columns = torch.arange(first, first + near.shape[1], device=near.device)
            self._keep(tile, near, columns.expand_as(near))
            return
        groups = near.view(len(near), -1, _GROUP)
        query, group = (groups.amin(2) < worst).nonzero(as_tuple=True)
        inside = groups[query, group]
        entry, column = (inside < worst[query]).nonzero(as_tuple=True)
        if not len(entry):
            return
        query, value = query[entry], inside[entry, column]
        # Entries come in the order of queries: each gets the next place in its query's line.
        counts = torch.bincount(query, minlength=len(best))
        place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
        line = best.new_full((len(best), int(counts.max())), torch.inf)
        line[query, place] = value
        who = rows.new_full(line.shape, -1)
        who[query, place] = group[entry] * _GROUP + column + first
        self._keep(tile, line, who)

    def _keep(self, tile: slice, near: Tensor, rows: Tensor) -> None:
        best = torch.cat([self._near[tile], near], 1)
        value, order = best.topk(self._near.shape[1], dim=1, largest=False, sorted=False)
        self._near[tile] = value
        self._rows[tile] = torch.cat([self._rows[tile], rows], 1).gather(1, order)

    def sorted(self) -> tuple[Tensor, Tensor]:
        """(Q, listed) offsets, ascending, and rows."""
        near, order = self._near.sort(1)
        return near, self._rows.gather(1, order)


class _Scan:
    """Queries that a list did not settle: every row that may be among the k is measured."""

    def __init__(self, queries: _Queries, points: Points, slack: Tensor, reach: Tensor) -> None:
        self.queries, self.points, self.slack = queries, points, slack
        self.reach = reach.clone()
        count, k, device = len(queries), queries.k, reach.device
        self.rows = torch.full((count, k), len(queries.geometry), device=device)
        self.true = torch.full((count, k), torch.inf, dtype=torch.float64, device=device)

    def run(self) -> tuple[Tensor, Tensor]:
        """(Q, k) rows, nearest first, and their true squared distances."""
        left = torch.arange(len(self.queries), device=self.true.device)
        for start, block in self.queries.geometry.blocks():
            for part in left.split(max(1, _QUERIES * _ROWS // len(block))):
                self._look(part, start, block)
            # Later rows lose ties, so nothing comes before k copies of a query.
            left = left[self.true[left, -1] > 0]
            if not len(left):
                break
        return self.rows, self.true

    def _look(self, part: Tensor, start: int, block: Points) -> None:
        queries, points = self.queries[part.cpu()], self.points[part]
        for tile, near, first in queries._tiles(points, start, block):
            some = part[tile]
            near = near.double() + points.norms[tile, None]
            maybe = near - self.slack[some, None] <= self.reach[some, None]
            query, column = maybe.nonzero(as_tuple=True)
            for i in range(0, len(query), 4 * _DOUBLES):
                q, row = query[i : i + 4 * _DOUBLES], column[i : i + 4 * _DOUBLES] + first
                self._take(some[q], row, self.queries.measure(some[q], row))

    def _take(self, query: Tensor, rows: Tensor, true: Tensor) -> None:
        """New rows, all higher than those before, to the queries they belong to."""
        who, back, counts = query.unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[back]
        line = true.new_full((len(who), int(counts.max())), torch.inf)
        names = rows.new_full(line.shape, len(self.queries.geometry))
        line[back, place], names[back, place] = true, rows
        both = torch.cat([self.true[who], line], 1)
        value, order = both.sort(dim=1, stable=True)  # the lower rows come first
        k = self.queries.k
        self.true[who] = value[:, :k]
        self.rows[who] = torch.cat([self.rows[who], names], 1).gather(1, order)[:, :k]
        self.reach[who] = torch.minimum(self.reach[who], self.true[who, -1])
