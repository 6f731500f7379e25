"""What every geometry is: N points that answer inner products block by block.

A point is a product of factors: a Euclidean point has one (its vector), a gradient embedding
two (residual and embedding). An inner product of two points is the product of the inner
products of their factors, so everything below is written once for all geometries.

Distances come in two kinds. `Geometry.offsets` is fast single precision with a proven bound on
its error (`Geometry.error`); `Geometry.exact` is float64 computed from differences. Kernels
compute with the first and decide with the second.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.gemm import SINGLE_ROUNDOFF, linear, single_roundoff
from labelwise.kernels.rows import per_row

HOLD_BYTES = 256 << 20
"""A float32 copy of a pool is kept when it is no larger than this; else blocks are converted."""

OFTEN_BYTES = 2 << 30
"""The same where all pairs are compared."""

_NORM_CHUNK = 128


def hold_limit(memory: int | None, often: bool = False) -> int:
    """Bytes that a converted copy of a pool may take when a call may hold ``memory`` bytes.

    Args:
        memory: bytes; None for no bound.
        often: whether the pool will be read again and again, as comparing all pairs does. Read
            in tiles it would be converted for each, which takes three times as long.

    >>> hold_limit(10**9), hold_limit(10**10, often=True)
    (250000000, 2147483648)
    """
    most = OFTEN_BYTES if often else HOLD_BYTES
    return most if memory is None else min(most, memory // 4)


def _device_block(device: torch.device) -> int:
    """Bytes of a block on an accelerator: a sixteenth of what is free, 16 MB to 1 GB."""
    if device.type != "cuda":
        return 256 << 20
    free, _ = torch.cuda.mem_get_info(device)
    return max(16 << 20, min(1 << 30, free // 16))


class Chosen(NamedTuple):
    """What a kernel picked: rows in pick order, and what each pick gained."""

    rows: Tensor
    gains: Tensor


@dataclass(frozen=True)
class Points:
    """Some points of a geometry, ready to be multiplied.

    Attributes:
        factors: one (n, width) float32 tensor for each factor of the geometry.
        norms: (n,) float64, squared norms.
    """

    factors: tuple[Tensor, ...]
    norms: Tensor

    def __len__(self) -> int:
        return len(self.norms)

    def __getitem__(self, rows: Tensor | slice) -> Points:
        return Points(tuple(f[rows] for f in self.factors), self.norms[rows])

    @staticmethod
    def join(parts: list[Points]) -> Points:
        """Several sets of points as one, in order."""
        return Points(
            tuple(torch.cat(columns) for columns in zip(*(p.factors for p in parts))),
            torch.cat([p.norms for p in parts]),
        )


class Moments(NamedTuple):
    """Of pairs of points (x, y), each (P,) float64.

    Attributes:
        norms: squared norms of x.
        others: squared norms of y.
        apart: squared distances.
        along: inner products of x with x - y.
    """

    norms: Tensor
    others: Tensor
    apart: Tensor
    along: Tensor


class Term(NamedTuple):
    """Outer products of factors whose inner products count with a weight."""

    weight: float
    factors: tuple[Tensor, ...]


def vector_moments(x: Tensor, y: Tensor) -> Moments:
    """The moments of pairs of vectors, (P, D) float64 each."""
    difference = x - y
    return Moments(
        x.square().sum(1), y.square().sum(1), difference.square().sum(1), (x * difference).sum(1)
    )


def outer_moments(parts: list[Moments]) -> Moments:
    """The moments of outer products from those of their factors, without cancellation.

    With dx = x - y the difference of the products xu' and yv' is ``dx u' + y du'``; so its
    squared norm is ``|dx|^2 |u|^2 + |y|^2 |du|^2 + 2 (dx . y)(u . du)``.
    """
    (u, v, du, u_along), *rest = reversed(parts)
    for x, y, dx, x_along in rest:
        apart = dx * u + y * du + 2 * (x_along - dx) * u_along
        u_along = x * u_along + x_along * (u - u_along)
        u, v, du = x * u, y * v, apart.clamp_(min=0)
    return Moments(u, v, du, u_along)


class Geometry(ABC):
    """N points answering inner products and distances. Subclasses say what a point is."""

    widths: tuple[int, ...]
    """The width of each factor."""

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where products are computed."""

    @abstractmethod
    def block(self, start: int, stop: int) -> Points:
        """Points ``start`` to ``stop`` (exclusive), by reference where they are in memory."""

    @abstractmethod
    def take(self, rows: Tensor) -> Points:
        """A copy of the points in ``rows``: (n,) int64, any order."""

    @abstractmethod
    def points(self, *arrays: Any) -> Points:
        """Points that are not rows of this geometry, such as a query set, made to fit it.

        Args:
            arrays: (n, width) numbers, what the geometry is made of.
        """

    @abstractmethod
    def exact(self, rows: Tensor, others: Tensor) -> Tensor:
        """Squared distances of pairs, from differences, in float64.

        Args:
            rows, others: (P,) int64 row numbers; pair p is (rows[p], others[p]).

        Returns:
            (P,) float64; exactly 0 for equal points; the same whatever else is asked for.
        """

    @abstractmethod
    def double(self, rows: Tensor) -> tuple[Tensor, ...]:
        """The factors of the points in ``rows`` in float64, never shifted or rounded."""

    def moments(self, some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> Moments:
        """What pairs of points are to each other, from differences of their factors.

        Args:
            some, others: float64 factors of P points each, from `double` or from the factors
                of `Points`; pair p is of the p-th of both.
        """
        found = None
        for mine, theirs in zip(self.terms(some), self.terms(others)):
            parts = [vector_moments(x, y) for x, y in zip(mine.factors, theirs.factors)]
            term = Moments(*(mine.weight * part for part in outer_moments(parts)))
            found = term if found is None else Moments(*(a + b for a, b in zip(found, term)))
        assert found is not None
        return found

    def terms(self, factors: tuple[Tensor, ...]) -> list[Term]:
        """Points as outer products of factors side by side: one product, unless overridden."""
        return [Term(1.0, factors)]

    def apart(self, some: tuple[Tensor, ...], others: tuple[Tensor, ...]) -> Tensor:
        """Squared distances of P pairs of points given by `double`, (P,): as `exact` has them."""
        return self.moments(some, others).apart

    def rounded(self, factors: tuple[Tensor, ...]) -> Points:
        """Points given by `double`, of this geometry or of another like it, to be multiplied.

        Raises:
            InputError: this geometry's points cannot travel.
        """
        raise self._at_home()

    def total(self) -> Tensor:
        """The sum of all points, float64, in the coordinates that they are multiplied in.

        Raises:
            InputError: this geometry's points cannot travel.
        """
        raise self._at_home()

    def from_mean(self, rows: Tensor, mean: Tensor) -> Tensor:
        """Squared distance of each of ``rows`` to a mean, (n,) float64; see `to_mean`.

        Args:
            rows: (n,) int64.
            mean: sums of `total` of this geometry and of others like it, over their rows.

        Raises:
            InputError: this geometry's points cannot travel.
        """
        raise self._at_home()

    def _at_home(self) -> InputError:
        return InputError(
            f"{type(self).__name__} has no form for shards: use Euclidean, Cosine or "
            "GradientEmbedding, or one machine"
        )

    @property
    def shifted(self) -> bool:
        """Whether points are multiplied relative to another origin than their own."""
        return False

    @property
    def directions(self) -> bool:
        """Whether all points have length one, so that angles follow from distances."""
        return False

    @abstractmethod
    def to_mean(self, rows: Tensor) -> Tensor:
        """Squared distance of each of ``rows`` to the mean of all points, (n,) float64.

        A constant may be missing, the same for every row.
        """

    def nearest_mean(self, rows: Tensor) -> int:
        """The one of ``rows`` nearest the mean of all points; the lowest on a tie to 1e-12."""
        distance = self.to_mean(rows)
        tie = distance <= distance.min() + 1e-12 * distance.abs().max()
        return int(rows[tie.cpu()].min())

    @property
    def error(self) -> float:
        """kappa: computed squared distances are off by at most kappa (|x|^2 + |y|^2).

        A dot product of width K in any order of summation is off by at most K u |x| |y|
        (Higham, "Accuracy and Stability of Numerical Algorithms", 2002, section 3.1), products
        of factors add their errors; norms are summed in chunks of 128; the rest covers the
        rounding of stored values and of the final sums.
        """
        operand = single_roundoff(self.device)
        widened = 4 * operand * len(self.widths) if operand > SINGLE_ROUNDOFF else 0.0
        return (sum(self.widths) + _NORM_CHUNK + 24) * SINGLE_ROUNDOFF + widened

    block_bytes = 8 << 20
    """Bytes that the factors of a block fill, in this process's memory."""

    @property
    def block_size(self) -> int:
        """Rows a block holds: its factors fill `block_bytes`, or a share of a device's memory."""
        size = self.block_bytes if self.device.type == "cpu" else _device_block(self.device)
        return max(256, min(16384, size // (4 * sum(self.widths))))

    def blocks(self) -> Iterator[tuple[int, Points]]:
        """All points in order, as pairs of the first row's number and a block.

        A block is good until the next one is asked for.
        """
        step = self.block_size
        for start in range(0, len(self), step):
            yield start, self.block(start, min(start + step, len(self)))

    def squared_norms(self) -> Tensor:
        """(N,) float64, of the points as multiplied: shifted, where the geometry shifts them."""
        return per_row(self.blocks(), len(self), lambda points: points.norms).double()

    @abstractmethod
    def true_norms(self, rows: Tensor) -> Tensor:
        """Squared norms of the points as given, never shifted, (n,) float64."""

    def largest(self, rows: Tensor) -> int:
        """The one of ``rows`` with the largest squared norm; the lowest on a tie to 1e-12."""
        if not self.shifted:
            # Norms in single precision, with a bound on their error, leave few rows to decide on.
            near = self.squared_norms().cpu()[rows.cpu()]
            rows = rows[near >= near.max() * (1 - 2 * self.error)]
        norms = self.true_norms(rows)
        return int(rows[(norms >= norms.max() * (1 - 1e-12)).cpu()].min())

    def inner(self, block: Points, points: Points) -> Tensor:
        """Inner products, (len(block), len(points)) float32."""
        product = linear(block.factors[0], points.factors[0])
        for mine, theirs in zip(block.factors[1:], points.factors[1:]):
            product.mul_(linear(mine, theirs))
        return product

    def offsets(self, block: Points, points: Points) -> Tensor:
        """Squared distances less the block's own norms: ``|y|^2 - 2 x.y``.

        Returns:
            (len(block), len(points)) float32. With |x|^2 added, off by at most `error` times
            the sum of both squared norms.
        """
        norms = points.norms.float()
        scaled = points.factors[-1] * -2
        if len(self.widths) == 1:
            return linear(block.factors[0], scaled, norms)
        product = linear(block.factors[-1], scaled)
        for mine, theirs in zip(block.factors[:-1], points.factors[:-1]):
            product.mul_(linear(mine, theirs))
        return product.add_(norms)

    def squared_distances(self, block: Points, points: Points) -> Tensor:
        """Squared distances, (len(block), len(points)) float64 >= 0; see `error`."""
        return (self.offsets(block, points).double() + block.norms[:, None]).clamp_(min=0)


def squared_norms(x: Tensor) -> Tensor:
    """Squared norms of the rows of a float32 matrix, (n,) float64, summed in short chunks."""
    width = x.shape[1]
    whole = width - width % _NORM_CHUNK
    total = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    if whole:
        chunks = x[:, :whole].unflatten(1, (-1, _NORM_CHUNK))
        total += (chunks * chunks).sum(2).double().sum(1)
    if width > whole:
        rest = x[:, whole:]
        total += (rest * rest).sum(1).double()
    return total
