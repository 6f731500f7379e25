"""Herding: picks whose mean follows the mean of the pool."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.functions.pairwise import Pairwise, row_sums
from labelwise.kernels.geometry import Chosen, Geometry
from labelwise.kernels.greedy import greedy
from labelwise.kernels.progress import Progress
from labelwise.kernels.similarity import Similarity

Rule = Literal["distance", "inner"]


class MeanMatch(Pairwise):
    """Minus half the squared distance of the picks' sum to as many times the pool's mean.

    ``f(A) = -1/2 | |A| mu - sum_{s in A} phi_s |^2``, so ``-2 f(A) / |A|^2`` is the squared
    maximum mean discrepancy between picks and pool. The gain of row j is, up to what all rows
    have in common, ``(t + 1) <mu, phi_j> - sum_{s in A} s(j, s) - s(j, j) / 2``.

    Args:
        similarity: N points; s(i, j) = <phi_i, phi_j>.
        own: whether a row's likeness to itself counts. Without it the gain is that of Welling's
            herding, which differs where points are not all of one length.
        covered, memory: as for `Pairwise`.

    Raises:
        ResourceError: ``memory`` is too small.
    """

    submodular = False

    def __init__(
        self,
        similarity: Similarity,
        *,
        own: bool = True,
        covered: Tensor | None = None,
        memory: int | None = None,
    ) -> None:
        super().__init__(similarity, -1.0, covered=covered, memory=memory)
        self.own = own
        self._mean = torch.zeros(0)
        self._common = 0.0  # <mu, sum of the picks>
        self._counted = 0

    @property
    def _slope(self) -> Tensor | None:
        return self._mean

    def _base(self) -> Tensor:
        sums, own = row_sums(self.similarity)
        self._mean = sums.div_(max(1, len(self)))
        return self._mean - own / 2 if self.own else self._mean.clone()

    def _offset(self) -> float:
        for row in self.chosen[self._counted :]:
            self._common += float(self._mean[row])
        self._counted = len(self.chosen)
        size = float(self._mean.mean()) if len(self._mean) else 0.0
        return self._common - (len(self.chosen) + 0.5) * size


class _Inner(Similarity):
    """Inner products from wherever the geometry has its origin: herding does not depend on it."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self.kind = "dot"
        self.width = None


def herding(
    geometry: Geometry,
    n: int,
    *,
    covered: Tensor | None = None,
    candidates: Tensor | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Chosen:
    """Pick rows one at a time so that the picks' mean stays nearest the mean of all points.

    With S picked or covered and t = |S|, the next pick is the row that minimizes
    ``| (t + 1) mu - sum_{s in S} h_s - h_x |``. A widely copied implementation takes the
    maximum, which picks outliers.

    Args:
        geometry: N points h.
        n: how many rows to pick.
        covered: (M,) int64 rows that count as picked already; never picked.
        candidates: (K,) int64 rows that may be picked; all by default. The mean is of all rows.
        memory: bytes the call may hold beyond its inputs.
        progress: is told the picks, and may hold earlier ones.

    Returns:
        (n,) rows in the order picked, the lowest on a tie, and (n,) float64 gains: by how much
        each pick lowered half the squared distance ``|t mu - sum_S h|^2 / 2`` (negative where
        it rose, as it must when the sums are close).

    Raises:
        InputError: n or a row out of range.
        ResourceError: ``memory`` is too small.

    Source:
        Welling, "Herding dynamical weights to learn", ICML 2009; Rebuffi, Kolesnikov, Sperl &
        Lampert, "iCaRL", CVPR 2017 (this form). One pass over the pool serves many picks; 48
        bytes a row and the columns of likely picks are held.

    >>> from labelwise.kernels import Euclidean
    >>> line = Euclidean([[0.0], [1.0], [2.0], [9.0]])  # the mean is 3
    >>> herding(line, 3).rows
    tensor([2, 1, 3])
    """
    taken = torch.zeros(0, dtype=torch.int64) if covered is None else covered
    function = MeanMatch(_Inner(geometry), covered=taken, memory=_left(memory, len(geometry)))
    return greedy(function, n, candidates=candidates, progress=progress, memory=memory)


def kernel_herding(
    similarity: Similarity,
    n: int,
    *,
    rule: Rule = "inner",
    covered: Tensor | None = None,
    candidates: Tensor | None = None,
    memory: int | None = None,
    progress: Progress | None = None,
) -> Chosen:
    """Herding in the space a similarity stands for: pick where the pool is underrepresented.

    The next pick maximizes ``(t + 1) mean_i s(x, i) - sum_{s in S} s(x, s)``, with t = |S|.

    Args:
        similarity: N points.
        n: how many rows to pick.
        rule: ``inner``: as above, as published. ``distance``: less half of s(x, x), which is
            the greedy minimum of the maximum mean discrepancy. They differ only where rows are
            not all equally alike to themselves.
        covered, candidates, memory, progress: as for `herding`.

    Returns:
        (n,) rows in the order picked, and (n,) float64 gains of `MeanMatch`.

    Raises:
        InputError: n, a row or the rule out of range.
        ResourceError: ``memory`` is too small.

    Source:
        Chen, Welling & Smola, "Super-samples from kernel herding", UAI 2010, eq. 8. The row
        means cost O(N D) for similarities linear in their points, O(N^2 D) for others.

    >>> from labelwise.kernels import Euclidean
    >>> line = Similarity(Euclidean([[0.0], [0.1], [5.0]]), "rbf", width=1.0)
    >>> kernel_herding(line, 2).rows
    tensor([1, 2])
    """
    if rule not in ("inner", "distance"):
        raise InputError(f"rule must be 'inner' or 'distance', got {rule!r}")
    function = MeanMatch(
        similarity,
        own=rule == "distance",
        covered=covered,
        memory=_left(memory, len(similarity)),
    )
    return greedy(function, n, candidates=candidates, progress=progress, memory=memory)


def _left(memory: int | None, size: int) -> int | None:
    """What greedy's own vectors leave of a bound."""
    return None if memory is None else max(0, memory - 64 * size)
