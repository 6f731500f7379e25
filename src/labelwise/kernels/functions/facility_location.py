"""Facility location, its information measures, and coverage by any similarity.

All are one function: how alike each represented row is to the pick most alike to it, as far as
that lies within a window of the row.

Sources: Iyer, Khargoankar, Bilmes & Asnani, "Submodular combinatorial information measures with
applications in machine learning", ALT 2021 (the measures); Kothawade, Beck, Killamsetty & Iyer,
"SIMILAR: Submodular information measures based active learning in realistic scenarios",
NeurIPS 2021 (their use, and the knobs); Bae, Noh & Sutherland, "Generalized coverage for more
robust low-budget active learning", ECCV 2024 (coverage by any similarity).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.functions.coverage import Coverage, check_vector, windows_of
from labelwise.kernels.functions.windows_computed import ComputedWindows
from labelwise.kernels.geometry import Points
from labelwise.kernels.similarity import Similarity
from labelwise.kernels.sums import LinearSums

_POINTS = 256


class FacilityLocation(Coverage):
    """``sum_i w_i (min(max(max_{j in A} s_ij, low_i), high_i) - low_i) + sum_{j in A} extra_j``.

    Monotone (with ``extra >= 0``) and submodular, whatever the similarity. With the defaults it
    is facility location; with ``rbf`` and weights of 1 / N MaxHerding's coverage, with an
    uncertainty as weights UHerding's; with ``top_hat`` ball coverage, counted exactly; with
    ``complement`` of a gradient geometry CRAIG, where ``low`` keeps distances beyond the width
    from counting against it.

    Similarities are never all held, unless there is room: the first gains take a pass over all
    pairs, and later ones only look at represented rows that picks since then have come closer
    to. In all about six times ``2 N M D`` operations for hundreds of picks.

    Args:
        similarity: N elements.
        represented: the M rows i: row numbers of the pool, (M,) int64; other points, from
            ``geometry.points`` or ``take``; the whole pool by default, or what the columns of a
            given matrix are of.
        weights: (M,) w >= 0; ones by default.
        low: (M,) or one number, what a row is worth with nothing picked: a pick less alike
            gains nothing from it.
        high: (M,) or one number, what no row's worth exceeds.
        extra: (N,) gain of each element beside that; zeros by default.
        covered: (K,) int64 rows that are in A from the start; their value is not counted.
        neighbors: take similarities for 0 but to this many nearest rows of each row, and to
            those it is near to.
        dense: consent to computing all similarities of more than 200,000 x 200,000 pairs.
        memory: bytes that may be held, None for no bound. Similarities are kept where they fit
            (in 512 MiB with no bound), which takes less time.

    Raises:
        InputError: a row number, weight, bound or extra that is out of range.
        ResourceError: more pairs than that without consent, or ``memory`` is too small.

    >>> from labelwise.kernels import Euclidean, greedy
    >>> x = Euclidean([[0.0], [1.0], [2.0], [9.0], [9.5]])
    >>> chosen = greedy(FacilityLocation(Similarity(x, "complement", width=10)), 2)
    >>> chosen.rows, chosen.gains
    (tensor([2, 3]), tensor([32.5000, 14.0000], dtype=torch.float64))
    """

    def __init__(
        self,
        similarity: Similarity,
        *,
        represented: Tensor | Points | None = None,
        weights: Any = None,
        low: Any = 0.0,
        high: Any = math.inf,
        extra: Any = None,
        covered: Tensor | None = None,
        neighbors: int | None = None,
        dense: bool = False,
        memory: int | None = None,
    ) -> None:
        windows = windows_of(similarity, represented, neighbors, dense, memory)
        count, device = windows.represented, windows.device
        edge = check_vector(low, count, "low", device, least=-math.inf)
        # A window that ends below its start is empty.
        self._high = check_vector(high, count, "high", device, least=-math.inf).maximum(edge)
        if not bool(edge.isfinite().all()):
            raise InputError("low must be finite numbers")
        weight = None if weights is None else check_vector(weights, count, "weights", device)
        super().__init__(windows, edge, weight, extra, memory)
        self._cover(covered)

    def _start(self) -> Tensor:
        sums = self._linear()
        if sums is not None:
            return sums.values(sums.total())
        return self.windows.within(self._edge, self._high, self._weights)

    def _linear(self) -> LinearSums | None:
        """Row sums at the cost of one product a row, where windows cut nothing off yet."""
        windows = self.windows
        if not isinstance(windows, ComputedWindows) or not windows.pool:
            return None
        open_ended = bool((self._edge == 0).all()) and bool(self._high.isposinf().all())
        if windows.similarity.kind != "cosine01" or not open_ended or self._weights is not None:
            return None
        return LinearSums.of(windows.similarity)

    def _move(self, column: Tensor) -> float:
        edge = torch.minimum(torch.maximum(column, self._edge), self._high)
        gained = edge.double() - self._edge.double()
        self._edge = edge
        return float(gained.sum() if self._weights is None else gained @ self._weights.double())


class FacilityLocationVMI(FacilityLocation):
    """FLVMI: ``sum_{i in V} min(max_{j in A} s_ij, eta max_{j in Q} s_ij)``.

    The mutual information of the picks with a query set, as seen from the whole pool: picks
    represent the rows that are like the queries, as far as the queries do.

    Args:
        similarity: N points, V.
        query: Q, points from ``geometry.points``, or row numbers, (|Q|,) int64.
        eta: magnification, >= 0: the larger, the more likeness to Q matters over diversity.
        options: ``weights``, ``covered``, ``neighbors``, ``dense``, ``memory`` of
            `FacilityLocation`.

    Raises:
        InputError: eta out of range, or no query.
        ResourceError: see `FacilityLocation`.

    >>> from labelwise.kernels import Euclidean, greedy
    >>> x = Euclidean([[0.0], [1.0], [8.0], [9.0]])
    >>> like = Similarity(x, "rbf", width=1.0)
    >>> greedy(FacilityLocationVMI(like, x.points([[8.6]])), 1).rows
    tensor([3])
    """

    def __init__(
        self, similarity: Similarity, query: Tensor | Points, eta: float = 1.0, **options: Any
    ) -> None:
        most = _knob(eta, "eta") * closest(similarity, query, "query")
        super().__init__(similarity, high=most, **options)


class FacilityLocationQMI(FacilityLocation):
    """FLQMI: ``sum_{i in Q} max_{j in A} s_ij + eta sum_{j in A} max_{i in Q} s_ij``.

    The same, as seen from the queries: it takes ``|Q| N`` similarities, so Q may be asked of
    pools of any size.

    Args:
        similarity: N points.
        query: Q, points from ``geometry.points``, or row numbers, (|Q|,) int64.
        eta: >= 0: the larger, the more each pick's own likeness to Q counts, over covering all
            of Q.
        options: ``weights`` (of Q), ``covered``, ``dense``, ``memory`` of `FacilityLocation`.

    Raises:
        InputError: eta out of range, or no query.
        ResourceError: see `FacilityLocation`.
    """

    def __init__(
        self, similarity: Similarity, query: Tensor | Points, eta: float = 1.0, **options: Any
    ) -> None:
        extra = _knob(eta, "eta") * closest(similarity, query, "query").double()
        super().__init__(similarity, represented=query, extra=extra, **options)


class FacilityLocationCG(FacilityLocation):
    """FLCG: ``sum_{i in V} max(max_{j in A} s_ij - nu max_{j in P} s_ij, 0)``.

    The conditional gain over a private set: what picks represent beyond what P does.

    Args:
        similarity: N points, V.
        private: P, points from ``geometry.points``, or row numbers, (|P|,) int64.
        nu: privacy hardness, >= 0: the larger, the less picks may be like P.
        options: ``weights``, ``covered``, ``neighbors``, ``dense``, ``memory`` of
            `FacilityLocation`.

    Raises:
        InputError: nu out of range, or no private point.
        ResourceError: see `FacilityLocation`.
    """

    def __init__(
        self, similarity: Similarity, private: Tensor | Points, nu: float = 1.0, **options: Any
    ) -> None:
        least = _knob(nu, "nu") * closest(similarity, private, "private")
        super().__init__(similarity, low=least, **options)


class FacilityLocationCMI(FacilityLocation):
    """FLCMI: ``sum_{i in V} max(min(max_A s_ij, eta max_Q s_ij) - nu max_P s_ij, 0)``.

    The conditional mutual information: like the queries, and unlike the private set.

    Args:
        similarity: N points, V.
        query, private: Q and P, points from ``geometry.points``, or row numbers.
        eta, nu: magnification and privacy hardness, >= 0.
        options: ``weights``, ``covered``, ``neighbors``, ``dense``, ``memory`` of
            `FacilityLocation`.

    Raises:
        InputError: a knob out of range, no query or no private point.
        ResourceError: see `FacilityLocation`.
    """

    def __init__(
        self,
        similarity: Similarity,
        query: Tensor | Points,
        private: Tensor | Points,
        eta: float = 1.0,
        nu: float = 1.0,
        **options: Any,
    ) -> None:
        most = _knob(eta, "eta") * closest(similarity, query, "query")
        least = _knob(nu, "nu") * closest(similarity, private, "private")
        super().__init__(similarity, low=least, high=most, **options)


def closest(similarity: Similarity, points: Tensor | Points, name: str = "points") -> Tensor:
    """Each row's largest similarity to some points, (N,) float32.

    Args:
        similarity: N points.
        points: from ``geometry.points``, or row numbers.
        name: what an error message calls them.

    Raises:
        InputError: no points.
    """
    if not len(points):
        raise InputError(f"{name} must be at least one point, got none")
    rows = None if isinstance(points, Points) else points
    points = similarity.take(points) if isinstance(points, Tensor) else points
    out = torch.empty(len(similarity), device=similarity.device)
    for start, block in similarity.blocks():
        numbers = torch.arange(start, start + len(block))
        best = out[start : start + len(block)].fill_(-math.inf)
        for at in range(0, len(points), _POINTS):
            some = slice(at, at + _POINTS)
            other = None if rows is None else rows[some]
            found = similarity.between(block, points[some], numbers, other)
            torch.maximum(best, found.amax(1), out=best)
    return out


def _knob(value: float, name: str) -> float:
    if not (0 <= value < math.inf):
        raise InputError(f"{name} must be a finite number >= 0, got {value}")
    return value
