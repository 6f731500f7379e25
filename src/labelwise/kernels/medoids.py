"""Swaps of medoids: the second half of partitioning around medoids, many candidates at a time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.geometry import Chosen, Points
from labelwise.kernels.grouped import group_sums
from labelwise.kernels.noise import Generator
from labelwise.kernels.progress import Progress
from labelwise.kernels.similarity import Similarity

_HELD = 1 << 24
"""Distances of a block of candidates that are held at once. The order of swaps depends on it."""

_CENTERS = 256
_STRETCH = 4096
_LEAST = 1e-6
"""A swap must lower the sum by this share of it: single precision cannot tell less."""


class Swapped(NamedTuple):
    """Medoids that no swap improves, or the last ones there was patience for.

    Attributes:
        chosen: their rows, and by how much the sum would rise without each, largest first.
        cost: the sum of distances to the nearest medoid.
        swaps: how many were made. settled: whether no swap is left that lowers the sum.
    """

    chosen: Chosen
    cost: float
    swaps: int
    settled: bool


def swap_medoids(
    distances: Similarity,
    medoids: Tensor,
    *,
    generator: Generator,
    fixed: Tensor | None = None,
    candidates: Tensor | None = None,
    passes: int = 10,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Swapped:
    """Exchange medoids for other rows as long as the sum of distances to the nearest falls.

    Candidates come in blocks, in an order drawn by item. Within a block the best exchange of a
    medoid and a candidate is made again and again until none lowers the sum. A round over all
    candidates without one is the end: a local optimum of all single exchanges.

    With d1 and d2 the distances of row i to its nearest and second nearest medoid, exchanging
    medoid m for j changes the sum by ``sum_i min(d_ij - d1, 0)`` and, over the rows i nearest
    to m, ``clip(d_ij, d1, d2) - d1``.

    Args:
        distances: a `Similarity` of kind ``distance``, of N points.
        medoids: (n,) int64 rows to start from.
        generator: draws the order of the candidates.
        fixed: (L,) int64 rows that are medoids and stay.
        candidates: (K,) int64 rows that may become medoids; all by default.
        passes: at most how many rounds over the candidates.
        memory: bytes the call may hold beyond its inputs; None for no bound.
        progress: told how far each round is.

    Raises:
        InputError: another kind of similarity.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Kaufman & Rousseeuw, "Finding Groups in Data", 1990, chapter 2 (the exchange);
        Schubert & Rousseeuw, "Fast and eager k-medoids clustering", Information Systems 2021
        (all medoids at once, and exchanges made as soon as found). 2 N K D operations a round.

    >>> from labelwise.kernels import Euclidean
    >>> line = Similarity(Euclidean([[0.0], [1.0], [2.0], [8.0], [9.0], [10.0]]), "distance")
    >>> found = swap_medoids(line, torch.tensor([0, 1]), generator=Generator(0))
    >>> sorted(found.chosen.rows.tolist()), found.cost
    ([1, 4], 4.0)
    """
    if distances.kind != "distance":
        raise InputError(f"medoids need distances, got similarity {distances.kind!r}")
    size = len(distances)
    order = np.arange(size) if candidates is None else candidates.cpu().numpy()
    order = order[np.argsort(generator.child("swaps").uniform(order), kind="stable")]
    width = _block_width(size, len(medoids) + (0 if fixed is None else len(fixed)), memory)
    state = _State(distances, medoids.cpu(), fixed)
    blocks = torch.from_numpy(order).split(width)
    swaps, quiet = 0, 0
    for turn in range(passes * len(blocks)):
        at = turn % len(blocks)
        made = state.improve(blocks[at])
        swaps += made
        quiet = 0 if made else quiet + 1
        if progress is not None:
            progress.passing((at + 1) / len(blocks))
        if quiet >= len(blocks):
            break
    return Swapped(state.chosen(generator), state.cost, swaps, quiet >= len(blocks))


def _block_width(size: int, medoids: int, memory: int | None) -> int:
    """How many candidates are looked at together."""
    fixed = 64 * size + (32 << 20)
    each = 4 * size + 24 * medoids
    if memory is not None and memory < fixed + 8 * each:
        raise ResourceError(
            f"memory must be at least {(fixed + 8 * each) / 1e6:.3g} MB to exchange {medoids} "
            f"medoids of {size} rows, got {memory / 1e6:.3g} MB"
        )
    width = max(8, min(512, _HELD // size))
    return width if memory is None else min(width, (memory - fixed) // each)


class _State:
    """Medoids, fixed ones first, and of each row the nearest two."""

    def __init__(self, distances: Similarity, medoids: Tensor, fixed: Tensor | None) -> None:
        self._distances = distances
        self._fixed = 0 if fixed is None else len(fixed)
        self.rows = medoids if fixed is None else torch.cat([fixed.cpu(), medoids])
        size, device = len(distances), distances.device
        self._near = torch.full((size, 2), torch.inf, device=device)
        self._which = torch.full((size, 2), -1, dtype=torch.int64, device=device)
        self._measure(None)

    @property
    def cost(self) -> float:
        """The sum of distances to the nearest medoid."""
        return float(self._near[:, 0].sum(dtype=torch.float64))

    def chosen(self, generator: Generator) -> Chosen:
        """The medoids that are not fixed, those that would be missed most first."""
        loss = (self._near[:, 1] - self._near[:, 0]).double().cpu()
        total = torch.bincount(self._which[:, 0].cpu(), loss, minlength=len(self.rows))
        gains = total[self._fixed :]
        rows = self.rows[self._fixed :]
        noise = generator.child("ties").uniform(rows.numpy())
        order = torch.from_numpy(np.lexsort((noise, -gains.numpy())))
        return Chosen(rows[order], gains[order])

    def improve(self, rows: Tensor) -> int:
        """Make the best exchange of a medoid and one of some rows until none is left."""
        rows = rows[~torch.isin(rows, self.rows)]
        if not len(rows):
            return 0
        held = torch.empty(len(self._distances), len(rows), device=self._distances.device)
        points = self._distances.take(rows)
        for start, block in self._distances.blocks():
            numbers = torch.arange(start, start + len(block))
            held[start : start + len(block)] = self._distances.between(block, points, numbers, rows)
        made = 0
        closed = torch.zeros(len(rows), dtype=torch.bool)
        while True:
            change = self._changes(held)
            change[:, (closed | torch.isin(rows, self.rows)).to(change.device)] = torch.inf
            before = self.cost
            tie = _LEAST * before
            if not len(change) or float(change.min()) >= -tie:
                return made
            # Changes too close to tell apart: the first candidate in line, its first medoid.
            near = change <= change.min() + tie / 4
            column = int(near.any(0).nonzero()[0])
            medoid = int(near[:, column].nonzero()[0])
            kept = self.rows, self._near.clone(), self._which.clone()
            self._exchange(self._fixed + medoid, int(rows[column]), held[:, column])
            # Computed distances of copies are rounding errors, which differ from one product to
            # the next: without this two copies would take each other's place for ever.
            if self.cost < before - tie / 2:
                made += 1
            else:
                self.rows, self._near, self._which = kept
                closed[column] = True

    def _changes(self, held: Tensor) -> Tensor:
        """What exchanging each medoid for each candidate changes, (n, b) float64."""
        count, device = len(self.rows), held.device
        part = torch.zeros(count, held.shape[1], dtype=torch.float64, device=device)
        every = torch.zeros(held.shape[1], dtype=torch.float64, device=device)
        for start in range(0, len(held), _STRETCH):
            found = held[start : start + _STRETCH]
            first, second = self._near[start : start + _STRETCH].unbind(1)
            every += torch.minimum(found, first[:, None]).sub_(first[:, None]).sum(0).double()
            kept = torch.maximum(torch.minimum(found, second[:, None]), first[:, None])
            kept.sub_(first[:, None])
            member = self._which[start : start + _STRETCH, 0]
            part += group_sums(kept, member, torch.ones_like(first), count)
        return part[self._fixed :] + every

    def _exchange(self, medoid: int, row: int, column: Tensor) -> None:
        """Put a row in the place of a medoid; ``column``: distances of all rows to it."""
        self.rows = self.rows.clone()
        self.rows[medoid] = row
        lost = (self._which == medoid).any(1)
        self._meet(column, medoid, ~lost)
        self._measure(lost.nonzero()[:, 0].cpu())

    def _meet(self, column: Tensor, medoid: int, some: Tensor) -> None:
        """Account for a new medoid in some of the rows, (N,) bool."""
        first, second = self._near.unbind(1)
        closest = some & (column < first)
        closer = some & ~closest & (column < second)
        self._near[closest, 1] = first[closest]
        self._which[closest, 1] = self._which[closest, 0]
        self._near[closest, 0], self._which[closest, 0] = column[closest], medoid
        self._near[closer, 1], self._which[closer, 1] = column[closer], medoid

    def _measure(self, rows: Tensor | None) -> None:
        """Find the nearest two medoids of some rows, or all."""
        medoids = self._distances.take(self.rows)
        if rows is None:
            for start, block in self._distances.blocks():
                self._nearest(block, torch.arange(start, start + len(block)), medoids)
            return
        for some in rows.split(_STRETCH):
            self._nearest(self._distances.take(some), some, medoids)

    def _nearest(self, block: Points, rows: Tensor, medoids: Points) -> None:
        near = torch.full((len(block), 2), torch.inf, device=self._near.device)
        which = torch.full((len(block), 2), -1, dtype=torch.int64, device=self._near.device)
        for start in range(0, len(medoids), _CENTERS):
            part = slice(start, start + _CENTERS)
            found = self._distances.between(block, medoids[part], rows, self.rows[part])
            numbers = torch.arange(start, start + found.shape[1], device=which.device)
            both = torch.cat([near, found], 1)
            near, place = both.topk(2, dim=1, largest=False)
            which = torch.cat([which, numbers.expand(len(block), -1)], 1).gather(1, place)
        at = rows.to(near.device)
        self._near[at], self._which[at] = near, which
