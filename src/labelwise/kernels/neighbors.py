"""Exact nearest neighbors, in blocks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.euclidean import Euclidean
from labelwise.kernels.geometry import Geometry, Points

_SPARE = 8
_QUERIES = 512


class Neighbors(NamedTuple):
    """For each query its k nearest rows, nearest first, the lowest row on a tie.

    Attributes:
        rows: (Q, k) int64.
        squared_distances: (Q, k) float64, from differences; exactly 0 for equal points.
    """

    rows: Tensor
    squared_distances: Tensor


def nearest_neighbors(
    x: Any, k: int, *, queries: Tensor | None = None, exclude_self: bool = False
) -> Neighbors:
    """The k rows nearest to each query row.

    Single-precision products shortlist, float64 differences rank, and a query whose shortlist
    is not proven complete gets a longer one: the result is exact.

    Args:
        x: N points: a geometry, or (N, D) anything `Euclidean` takes.
        k: how many neighbors, 1 <= k <= N (N - 1 without the query itself).
        queries: (Q,) int64 rows to find the neighbors of; every row by default.
        exclude_self: leave the query's own row out. Copies of it stay.

    Raises:
        InputError: k out of range.

    Source:
        2 Q N D operations in matrix products; Q x k results and one block of products held.

    >>> nearest_neighbors([[0.0], [1.0], [3.0]], 1, exclude_self=True).rows.flatten()
    tensor([1, 0, 1])
    """
    geometry = x if isinstance(x, Geometry) else Euclidean(x)
    size = len(geometry)
    most = size - exclude_self
    if not 1 <= k <= most:
        raise InputError(f"k must be in 1..{most} (the neighbors there are), got {k}")
    if queries is None:
        queries = torch.arange(size)
    rows, distances = [], []
    for part in queries.split(_QUERIES):
        found, measured = _search(geometry, part, k, exclude_self, min(most, k + _SPARE))
        rows.append(found)
        distances.append(measured)
    empty = torch.zeros((0, k), dtype=torch.int64)
    return Neighbors(torch.cat(rows or [empty]), torch.cat(distances or [empty.double()]))


def _search(
    geometry: Geometry, queries: Tensor, k: int, exclude_self: bool, listed: int
) -> tuple[Tensor, Tensor]:
    """Neighbors of a few queries from shortlists of ``listed`` rows, longer where needed."""
    points = geometry.take(queries)
    near, rows, slack = _shortlist(geometry, points, queries if exclude_self else None, listed)
    every = queries[:, None].expand_as(rows)
    true = geometry.exact(every.flatten(), rows.flatten()).reshape(rows.shape).cpu()
    # Sorting by row first makes the later, stable sort give ties to the lowest row.
    rows, by_row = rows.sort(1)
    true, by_distance = true.gather(1, by_row).sort(dim=1, stable=True)
    rows = rows.gather(1, by_distance)[:, :k]
    true = true[:, :k]
    # A row outside the list is no nearer than the list's last entry, less its error.
    if listed < len(geometry) - exclude_self:
        open_ = (near[:, -1] - slack <= true[:, -1]).nonzero()[:, 0]
        if len(open_):
            longer = min(len(geometry) - exclude_self, 4 * listed)
            rows[open_], true[open_] = _search(geometry, queries[open_], k, exclude_self, longer)
    return rows, true


def _shortlist(
    geometry: Geometry, points: Points, leave_out: Tensor | None, listed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The ``listed`` rows that look nearest to each query.

    Returns:
        (Q, listed) float64 distances, ascending, the rows they belong to, and (Q,) the most
        that any of a query's computed distances may be off.
    """
    best = torch.full((len(points), 0), torch.inf, dtype=torch.float64)
    rows = torch.zeros((len(points), 0), dtype=torch.int64)
    largest = 0.0
    for start, block in geometry.blocks():
        # (Q, b): |y|^2 - 2 q.y for the rows y of this block.
        near = geometry.offsets(points, block).double() + points.norms[:, None]
        largest = max(largest, float(block.norms.max()))
        if leave_out is not None:
            inside = (leave_out >= start) & (leave_out < start + len(block))
            mine = inside.nonzero()[:, 0]
            near[mine.to(near.device), (leave_out[mine] - start).to(near.device)] = torch.inf
        value, column = near.topk(min(listed, len(block)), dim=1, largest=False)
        best = torch.cat([best, value.cpu()], 1)
        rows = torch.cat([rows, column.cpu() + start], 1)
        if best.shape[1] > listed:
            best, order = best.topk(listed, dim=1, largest=False, sorted=True)
            rows = rows.gather(1, order)
    order = best.argsort(1)
    slack = geometry.error * (points.norms.cpu() + largest)
    return best.gather(1, order), rows.gather(1, order), slack
