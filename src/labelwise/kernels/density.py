"""How densely points lie: from their nearest neighbors, exact or among hashed candidates."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.euclidean import Euclidean
from labelwise.kernels.gemm import linear
from labelwise.kernels.geometry import Geometry
from labelwise.kernels.neighbors import nearest_neighbors
from labelwise.kernels.noise import Generator, derive
from labelwise.kernels.progress import Progress

_WINDOWS_BYTES = 16 << 20
_CLOSE = 1e3


def neighbor_density(
    x: Any, k: int, *, memory: int | None = None, progress: Progress | None = None
) -> Tensor:
    """``k / (mean distance to the k nearest other points)``, exactly.

    Args:
        x: N points: a geometry, or (N, D) anything `Euclidean` takes.
        k: how many neighbors, 1 <= k <= N - 1.
        memory: bytes the call may hold beyond its inputs; None for no bound.
        progress: told how far the pass over the points is.

    Returns:
        (N,) float64 > 0, per unit of distance; larger = denser; infinity with k copies.

    Raises:
        InputError: k out of range.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Kim & Shin, "In Defense of Core-set: A Density-aware Core-set Selection for Active
        Learning", KDD 2022. N^2 D operations.

    >>> neighbor_density([[0.0], [1.0], [3.0]], 1)
    tensor([1.0000, 1.0000, 0.5000], dtype=torch.float64)
    """
    found = nearest_neighbors(x, k, exclude_self=True, memory=memory, progress=progress)
    return k / found.squared_distances.sqrt().mean(1)


def hashed_density(
    x: Any,
    k: int,
    *,
    generator: Generator,
    tables: int = 4,
    window: int = 256,
    bits: int = 24,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """`neighbor_density` among candidates that random hyperplanes put together.

    For each table every point gets the signs of its position to ``bits`` random hyperplanes
    through the mean. Points are sorted by them so that neighboring codes differ in one sign, and
    cut into windows; a point's candidates are the others in its windows.

    A true neighbor that shares no window is missed, never invented, so distances can only be
    too large and densities too small. A hyperplane parts two points seen from the mean at an
    angle a with probability a / pi, so they share the first b signs of at least one table with
    ``1 - (1 - (1 - a / pi)^b)^tables``, where about b = log2(N / window) signs decide on a window.
    Squared distances are off by at most one part in a thousand; but which candidates are nearest
    is told in single precision, so points that lie closer to each other than it can tell (see
    `Geometry.error`) may be given others about as near.

    Args:
        x: N vectors: a geometry of one factor, or (N, D) anything `Euclidean` takes.
        k: how many neighbors.
        generator: randomness; hyperplanes belong to the seed, not to items.
        tables: how many times to hash; more miss less.
        window: points that are compared with each other, at least 2 (k + 1) where there are
            as many.
        bits: hyperplanes a table, 1 to 62.
        memory: bytes the call may hold beyond its inputs; None for no bound.
        progress: told how far the tables are.

    Returns:
        (N,) float64, as for `neighbor_density`.

    Raises:
        InputError: an option out of range, or points that are no vectors.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Kim & Shin, KDD 2022 (density by hashing); Charikar, "Similarity estimation techniques
        from rounding algorithms", STOC 2002 (the hash). N D tables (bits + window) operations.

    >>> line = [[0.0], [1.0], [3.0]]
    >>> hashed_density(line, 1, generator=Generator(0))
    tensor([1.0000, 1.0000, 0.5000], dtype=torch.float64)
    """
    geometry = x if isinstance(x, Geometry) else Euclidean(x)
    size = len(geometry)
    if len(geometry.widths) != 1:
        raise InputError(
            f"hyperplanes need points that are vectors, got {type(geometry).__name__} of "
            f"{len(geometry.widths)} factors"
        )
    if not 1 <= k <= size - 1:
        raise InputError(f"k must be in 1..{size - 1} (the neighbors there are), got {k}")
    least = min(2 * (k + 1), size)
    if tables < 1 or not 1 <= bits <= 62 or window < least:
        raise InputError(
            f"tables must be >= 1, bits in 1..62 and window >= {least}, got {tables}, {bits} "
            f"and {window}"
        )
    _check_memory(geometry, k, bits, window, memory)
    progress = progress or Progress()
    origin = (geometry.total() / size).flatten()
    best = _Nearest(geometry, k)
    for table in range(tables):
        planes = _planes(geometry.widths[0], bits, derive(generator.seed, "planes", table))
        codes = _codes(geometry, torch.from_numpy(planes).to(geometry.device), origin)
        noise = generator.child("order").uniform(size, draw=table)
        order = np.lexsort((noise, codes))
        best.compare(torch.from_numpy(order), window)
        progress.passing((table + 1) / tables)
    return k / best.distances().mean(1).cpu()


def _check_memory(geometry: Geometry, k: int, bits: int, window: int, memory: int | None) -> None:
    width = geometry.widths[0]
    need = len(geometry) * (64 + 24 * k) + 16 * geometry.block_size * (width + bits)
    need += 8 * _WINDOWS_BYTES + 8 * window * (width + window)
    if memory is not None and memory < need:
        raise ResourceError(
            f"memory must be at least {need / 1e6:.3g} MB for the density of {len(geometry)} "
            f"points, got {memory / 1e6:.3g} MB"
        )


def _planes(width: int, bits: int, seed: int) -> NDArray[np.float64]:
    """(bits, width) normal vectors of hyperplanes, Gaussian: every direction is as likely."""
    noise = Generator(seed)
    return np.stack([ndtri(noise.uniform(width, draw=bit)) for bit in range(bits)])


def _codes(geometry: Geometry, planes: Tensor, origin: Tensor) -> NDArray[np.int64]:
    """(N,) ranks of the points' signs in an order where neighbors differ in one of them."""
    bias = -(planes @ origin)
    lengths = planes.square().sum(1).sqrt()
    codes = torch.zeros(len(geometry), dtype=torch.int64, device=geometry.device)
    for start, block in geometry.blocks():
        side = linear(block.factors[0], planes.float(), bias.float()).double()
        slack = block.norms.sqrt()[:, None] * lengths + bias.abs()
        # Too near to a plane for single precision: float64 decides, whatever the block.
        unclear = (side.abs() <= geometry.error * slack).any(1).nonzero()[:, 0]
        side[unclear] = block.factors[0][unclear].double() @ planes.T + bias
        code = torch.zeros(len(block), dtype=torch.int64, device=geometry.device)
        for bit in range(len(planes)):
            code = 2 * code + (side[:, bit] > 0)
        codes[start : start + len(block)] = code
    shift = 1
    while shift < 64:  # the rank of a code among reflected binary codes
        codes ^= codes >> shift
        shift *= 2
    return codes.cpu().numpy()


class _Nearest:
    """The k nearest candidates of each point so far."""

    def __init__(self, geometry: Geometry, k: int) -> None:
        self._geometry = geometry
        size, device = len(geometry), geometry.device
        self._near = torch.full((size, k), torch.inf, device=device)
        self._rows = torch.full((size, k), size, dtype=torch.int64, device=device)

    def compare(self, order: Tensor, window: int) -> None:
        """Compare the points within each window of an order of them."""
        size, width = len(order), self._geometry.widths[0]
        count = max(1, -(-size // window))
        bounds = [size * i // count for i in range(count + 1)]
        together = max(1, _WINDOWS_BYTES // (4 * window * (width + window)))
        for i in range(0, count, together):
            part = bounds[i : i + together + 1]
            points = self._geometry.take(order[part[0] : part[-1]])
            for start, stop in pairwise(part):
                inside = slice(start - part[0], stop - part[0])
                rows = order[start:stop].to(self._near.device)
                some = points[inside]
                near = self._geometry.offsets(some, some) + some.norms.float()[:, None]
                self._merge(rows, near.fill_diagonal_(torch.inf))

    def _merge(self, rows: Tensor, near: Tensor) -> None:
        k = self._near.shape[1]
        near, place = near.topk(min(k, len(rows) - 1), dim=1, largest=False)
        both = torch.cat([self._rows[rows], rows[place]], 1)
        value = torch.cat([self._near[rows], near], 1)
        # One met in several tables counts once: as it was measured first.
        both, order = both.sort(dim=1, stable=True)
        value = value.gather(1, order)
        value[:, 1:][both[:, 1:] == both[:, :-1]] = torch.inf
        self._near[rows], best = value.topk(k, dim=1, largest=False)
        self._rows[rows] = both.gather(1, best)

    def distances(self) -> Tensor:
        """(N, k) float64 distances, exact where single precision would be off by much."""
        norms = self._geometry.squared_norms()
        slack = 2 * self._geometry.error * (norms + norms.max())
        squared = self._near.double().clamp_(min=0)
        row, place = (squared <= _CLOSE * slack[:, None]).nonzero(as_tuple=True)
        squared[row, place] = self._geometry.exact(row.cpu(), self._rows[row, place].cpu()).to(
            squared.device
        )
        return squared.sqrt_()
