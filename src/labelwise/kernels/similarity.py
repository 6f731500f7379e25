"""How alike points are: what set functions ask for, in blocks, never N x N."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import torch
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.kernels.geometry import Geometry, Points

Kind = Literal["dot", "cosine", "cosine01", "rbf", "top_hat", "distance", "complement"]


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
        kinds = get_args(Kind)
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
        self.width = width

    def __len__(self) -> int:
        return len(self.geometry)

    @property
    def device(self) -> torch.device:
        """Where similarities are computed."""
        return self.geometry.device

    def take(self, rows: Tensor) -> Points:
        """The points of some rows, to ask about."""
        return self.geometry.take(rows)

    def blocks(self) -> Iterator[tuple[int, Points]]:
        """All points in order; a block is good until the next one is asked for."""
        return self.geometry.blocks()

    def between(self, some: Points, others: Points) -> Tensor:
        """Similarities of every pair, (len(some), len(others)) float32, newly allocated."""
        if self.kind == "dot":
            return self.geometry.inner(some, others)
        if self.kind in ("cosine", "cosine01"):
            cosine = self._cosine(some, others)
            return cosine if self.kind == "cosine" else cosine.add_(1).mul_(0.5)
        squared = self.geometry.offsets(some, others).add_(some.norms.float()[:, None])
        squared.clamp_(min=0)
        if self.width is None:
            return squared.sqrt_()
        if self.kind == "rbf":
            return squared.mul_(-0.5 / self.width**2).exp_()
        if self.kind == "complement":
            return squared.sqrt_().neg_().add_(self.width)
        return (squared < self.width**2).float()

    def own(self, rows: Tensor) -> Tensor:
        """Similarity of each row to itself, (n,) float64."""
        if self.kind == "dot":
            return self.geometry.true_norms(rows)
        if self.kind in ("cosine", "cosine01"):
            some = (self.geometry.take(rows).norms > 0).double()
            return some if self.kind == "cosine" else (some + 1) / 2
        value = {"rbf": 1.0, "top_hat": 1.0, "distance": 0.0, "complement": self.width or 0.0}
        return torch.full((len(rows),), value[self.kind], dtype=torch.float64, device=self.device)

    def _cosine(self, some: Points, others: Points) -> Tensor:
        if self.geometry.directions:
            # Points of length one, shifted perhaps: the angle follows from their distance.
            squared = self.geometry.offsets(some, others).add_(some.norms.float()[:, None])
            return squared.mul_(-0.5).add_(1).clamp_(-1, 1)
        inner = self.geometry.inner(some, others)
        inner.mul_(_inverse_length(some)[:, None]).mul_(_inverse_length(others))
        return inner.clamp_(-1, 1)


def _inverse_length(points: Points) -> Tensor:
    """1 / |x|, and 0 for a point of length zero, (n,) float32."""
    length = points.norms.sqrt()
    return torch.where(length > 0, 1 / length, 0).float()
