"""How alike points are: what set functions ask for, in blocks, never N x N."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.kernels.geometry import Geometry, Points

_BLUNT = 1e-3
"""What rounding may do to the exponent of ``rbf`` before near pairs are measured again."""

_STEEPEST = 1e38
_PAIRS = 1 << 20

Kind = Literal["dot", "cosine", "cosine01", "rbf", "top_hat", "distance", "complement", "given"]


class Similarity:
    """Similarities of N points to each other and to other points, computed when asked for.

    Args:
        geometry: N points. For ``dot`` and ``cosine`` over vectors build it with
            ``Euclidean(x, shift=False)`` or use ``Cosine(x)``: a shift moves the origin.
        kind: ``dot``: the inner product. ``cosine``: of the angle, in [-1, 1], 0 with a point
            of length zero. ``cosine01``: (1 + cosine) / 2. ``rbf``: exp(-d^2 / (2 width^2)).
            ``top_hat``: 1 where d < width, else 0. ``distance``: d itself, for functions that
            ask for dissimilarity. ``complement``: width - d.
        width: the length that ``rbf``, ``top_hat`` and ``complement`` need, in the geometry's
            own unit.

    Raises:
        InputError: an unknown kind, a missing or needless width, or a shifted geometry where
            the origin matters.

    >>> from labelwise.kernels import Euclidean
    >>> s = Similarity(Euclidean([[0.0], [1.0], [3.0]]), "top_hat", width=1.5)
    >>> s.between(s.take(torch.tensor([0, 1])), s.take(torch.tensor([0, 1, 2])))
    tensor([[1., 1., 0.],
            [1., 1., 0.]])
    """

    def __init__(
        self, geometry: Geometry, kind: Kind = "cosine01", *, width: float | None = None
    ) -> None:
        kinds = [name for name in get_args(Kind) if name != "given"]  # those of points
        if kind not in kinds:
            raise InputError(f"similarity must be known, got {kind!r}; {nearest(kind, kinds)}")
        if (width is not None) != (kind in ("rbf", "top_hat", "complement")):
            need = "needs" if width is None else "takes no"
            raise InputError(f"similarity {kind!r} {need} width")
        if width is not None and not width > 0:
            raise InputError(f"width must be > 0, got {width}")
        by_distance = geometry.directions and kind != "dot"
        if kind in ("dot", "cosine", "cosine01") and geometry.shifted and not by_distance:
            raise InputError(
                f"similarity {kind!r} depends on the origin, which this geometry has moved; "
                "build it with Euclidean(x, shift=False)"
            )
        self.geometry = geometry
        self.kind: Kind = kind
        self.width = None if width is None else float(width)

    def __len__(self) -> int:
        return len(self.geometry)

    @property
    def device(self) -> torch.device:
        """Where similarities are computed."""
        return self.geometry.device

    @property
    def point_bytes(self) -> int:
        """About how many bytes a point takes when it is taken."""
        return 4 * sum(self.geometry.widths) + 8

    def take(self, rows: Tensor) -> Points:
        """The points of some rows, to ask about."""
        return self.geometry.take(rows)

    def block(self, start: int, stop: int) -> Points:
        """Points ``start`` to ``stop`` (exclusive), by reference where they are in memory."""
        return self.geometry.block(start, stop)

    def blocks(self) -> Iterator[tuple[int, Points]]:
        """All points in order; a block is good until the next one is asked for."""
        return self.geometry.blocks()

    def between(
        self,
        some: Points,
        others: Points,
        rows: Tensor | None = None,
        other_rows: Tensor | None = None,
    ) -> Tensor:
        """Similarities of every pair, (len(some), len(others)) float32, newly allocated.

        Args:
            some, others: points to compare.
            rows, other_rows: their row numbers, (len(some),) and (len(others),) int64. Where
                both are given, what single precision cannot tell is measured in float64: for
                ``top_hat`` pairs too close to ``width``, for a narrow ``rbf`` near pairs; and
                where distances count a row's to itself is 0.
        """
        if self.kind == "dot":
            return self.geometry.inner(some, others)
        if self.kind == "cosine":
            return self._cosine(some, others, 1.0, 0.0).clamp_(-1, 1)
        if self.kind == "cosine01":
            return self._cosine(some, others, 0.5, 0.5).clamp_(0, 1)
        squared = self.geometry.offsets(some, others).add_(some.norms.float()[:, None])
        if self.kind == "top_hat":
            return self._inside(squared, some, others, rows, other_rows)
        squared.clamp_(min=0)
        if self.kind == "rbf":
            self._sharpen(squared, some, others, rows, other_rows)
        _meet(squared, rows, other_rows)
        if self.kind == "rbf":
            return squared.mul_(-self._steepness).exp_()
        return squared.sqrt_() if self.width is None else squared.sqrt_().neg_().add_(self.width)

    def own(self, rows: Tensor) -> Tensor:
        """Similarity of each row to itself, (n,) float64."""
        if self.kind == "dot":
            return self.geometry.true_norms(rows)
        if self.kind in ("cosine", "cosine01"):
            some = (self.geometry.take(rows).norms > 0).double()
            return some if self.kind == "cosine" else (some + 1) / 2
        value = {"rbf": 1.0, "top_hat": 1.0, "distance": 0.0, "complement": self.width or 0.0}
        return torch.full((len(rows),), value[self.kind], dtype=torch.float64, device=self.device)

    def pairs(self, rows: Tensor, others: Tensor) -> Tensor:
        """Similarities of P pairs of rows, (P,) float64 computed in float64."""
        if self.kind in ("dot", "cosine", "cosine01"):
            x, y = self.geometry.true_norms(rows), self.geometry.true_norms(others)
            dot = (x + y - self.geometry.exact(rows, others)) / 2
            if self.kind == "dot":
                return dot
            scale = (x * y).sqrt()
            cosine = torch.where(scale > 0, dot / scale, 0).clamp_(-1, 1)
            return cosine if self.kind == "cosine" else (1 + cosine) / 2
        squared = self.geometry.exact(rows, others)
        if self.width is None:
            return squared.sqrt()
        if self.kind == "rbf":
            return (squared * -self._steepness).exp()
        if self.kind == "complement":
            return self.width - squared.sqrt()
        return (squared < max(self.width * self.width, 5e-324)).double()

    def _cosine(self, some: Points, others: Points, scale: float, plus: float) -> Tensor:
        """``plus + scale`` times the cosine of every pair."""
        if self.geometry.directions and self.geometry.shifted:
            # Points of length one, shifted: the angle follows from their distance.
            offsets = self.geometry.offsets(some, others).mul_(-scale / 2)
            return offsets.add_((plus + scale - (scale / 2) * some.norms).float()[:, None])
        inner = self.geometry.inner(some, others)
        if self.geometry.directions:
            inner.mul_(scale)
        else:
            inner.mul_((scale * _inverse_length(some))[:, None]).mul_(_inverse_length(others))
        return inner.add_(plus) if plus else inner

    @property
    def _steepness(self) -> float:
        """``1 / (2 width^2)``, as far as single precision goes."""
        assert self.width is not None
        return min(0.5 / self.width / self.width, _STEEPEST)

    def _sharpen(
        self,
        squared: Tensor,
        some: Points,
        others: Points,
        rows: Tensor | None,
        other_rows: Tensor | None,
    ) -> None:
        """Measure near pairs in float64, where the width is small enough to see the difference.

        Computed distances of copies and near-copies are rounding errors, which a wide kernel
        takes for zero and a narrow one for far apart.
        """
        if rows is None or other_rows is None or not len(some) or not len(others):
            return
        slack = self.geometry.error * (some.norms[:, None] + others.norms.amax()).float()
        if float(slack.amax()) * self._steepness <= _BLUNT:
            return
        step = max(1, _PAIRS // len(others))
        for part in torch.arange(len(some)).split(step):
            at = part.to(squared.device)
            i, j = (squared[at] <= 4 * slack[at]).nonzero(as_tuple=True)
            if len(i):
                apart = self.geometry.exact(rows[part[i.cpu()]], other_rows[j.cpu()])
                squared[at[i], j] = apart.to(squared)

    def _inside(
        self,
        squared: Tensor,
        some: Points,
        others: Points,
        rows: Tensor | None,
        other_rows: Tensor | None,
    ) -> Tensor:
        """1 where the distance is less than the width, from computed squared distances."""
        assert self.width is not None
        limit = max(self.width * self.width, 5e-324)  # a row is inside its own ball, always
        inside = (squared < limit).float()
        if rows is None or other_rows is None or not len(some) or not len(others):
            return inside
        slack = 2 * self.geometry.error * (some.norms[:, None] + others.norms.amax()).float()
        unsure = squared.sub_(limit).abs_() <= slack
        i, j = unsure.nonzero(as_tuple=True)
        if len(i):
            apart = self.geometry.exact(rows[i.cpu()], other_rows[j.cpu()])
            inside[i, j] = (apart < limit).to(inside)
        return inside


def _meet(squared: Tensor, rows: Tensor | None, other_rows: Tensor | None) -> None:
    """Put rows at no distance from themselves.

    The root of a rounding error is far from zero, and so is any share of a small width.
    """
    if rows is None or other_rows is None or not len(rows) or not len(other_rows):
        return
    if rows.max() < other_rows.min() or other_rows.max() < rows.min():
        return
    ordered, order = other_rows.sort()
    place = torch.searchsorted(ordered, rows.contiguous()).clamp_(max=len(ordered) - 1)
    same = (ordered[place] == rows).nonzero()[:, 0]
    squared[same.to(squared.device), order[place[same]].to(squared.device)] = 0


def _inverse_length(points: Points) -> Tensor:
    """1 / |x|, and 0 for a point of length zero, (n,) float32."""
    length = points.norms.sqrt()
    return torch.where(length > 0, 1 / length, 0).float()
