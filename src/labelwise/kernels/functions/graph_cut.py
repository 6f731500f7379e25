"""Graph cut, its mutual information and conditional gain, and the sum of distances.

Sources: Iyer, Khargoankar, Bilmes & Asnani, "Submodular combinatorial information measures with
applications in machine learning", ALT 2021 (the measures); Kothawade, Beck, Killamsetty & Iyer,
"SIMILAR: Submodular information measures based active learning in realistic scenarios",
NeurIPS 2021 (their use, and the knobs); Dasgupta, Kumar & Ravi, "Summarization through
submodularity and dispersion", ACL 2013 (disparity).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.columns import check_square
from labelwise.kernels.functions.pairwise import Pairwise, row_sums, sums_to
from labelwise.kernels.geometry import Points
from labelwise.kernels.similarity import Similarity

_NEVER_NEGATIVE = ("cosine01", "rbf", "top_hat", "distance")


class GraphCut(Pairwise):
    """``sum_{i in V, j in A} s_ij - lam sum_{i, j in A} s_ij``: like the pool, unlike each other.

    Both sums of the second term run over all ordered pairs, each row with itself included.
    Submodular where no similarity is negative; monotone for ``lam <= 1/2``.

    Args:
        similarity: N points, V. Row sums cost one inner product a row where the similarity is
            linear in its points (dot, cosine, cosine01), N^2 similarities otherwise.
        lam: what redundancy counts for, >= 0.
        covered: (M,) int64 rows that are in A from the start.
        memory: bytes that may be held: the columns of likely picks take what is left after 48
            bytes a row, at most 512 and by default about 1 GiB.

    Raises:
        InputError: a negative or infinite ``lam``.
        ResourceError: ``memory`` does not hold 52 bytes a row.

    >>> from labelwise.kernels import Euclidean
    >>> from labelwise.kernels.greedy import greedy
    >>> x = Euclidean([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], shift=False)
    >>> greedy(GraphCut(Similarity(x, "dot"), lam=1.0), 2).rows
    tensor([1, 2])
    """

    def __init__(
        self,
        similarity: Similarity,
        lam: float = 0.5,
        *,
        covered: Tensor | None = None,
        memory: int | None = None,
    ) -> None:
        check_square(similarity, type(self).__name__)
        super().__init__(similarity, -2 * _knob(lam, "lam"), covered=covered, memory=memory)
        self.lam = lam
        self.submodular = lam == 0 or similarity.kind in _NEVER_NEGATIVE

    def _base(self) -> Tensor:
        sums, own = row_sums(self.similarity)
        return sums.sub_(own, alpha=self.lam)


class GraphCutCG(GraphCut):
    """The conditional gain of a graph cut: f(A) of `GraphCut` less ``2 lam nu sum s(A, P)``.

    Args:
        similarity: N points.
        private: P, points that the picks should be unlike, from ``geometry.points``, ``take`` or
            ``represented``.
        lam: as for `GraphCut`.
        nu: privacy hardness, >= 0: what likeness to P counts for.
        covered, memory: as for `GraphCut`.

    Raises:
        InputError: a knob that is negative or infinite.
        ResourceError: ``memory`` is too small.
    """

    def __init__(
        self,
        similarity: Similarity,
        private: Points,
        lam: float = 0.5,
        nu: float = 1.0,
        *,
        covered: Tensor | None = None,
        memory: int | None = None,
    ) -> None:
        super().__init__(similarity, lam, covered=covered, memory=memory)
        self.private, self.nu = private, _knob(nu, "nu")

    def _base(self) -> Tensor:
        away = sums_to(self.similarity, self.private)
        return super()._base().sub_(away, alpha=2 * self.lam * self.nu)


class GraphCutMI(Pairwise):
    """The mutual information of a graph cut with a query set: ``2 lam sum s(A, Q)``.

    Modular: the picks are the rows most alike to Q, however alike they are to each other.

    Args:
        similarity: N points.
        query: Q, points to be like, from ``geometry.points``, ``take`` or
            ``represented``.
        lam: scales the value, picks do not depend on it; > 0. ``submodlib``'s function has no
            such knob and is this one at 1/2.
        covered, memory: as for `GraphCut`.

    Raises:
        InputError: ``lam`` is not a finite number > 0.
    """

    def __init__(
        self,
        similarity: Similarity,
        query: Points,
        lam: float = 0.5,
        *,
        covered: Tensor | None = None,
        memory: int | None = None,
    ) -> None:
        if not (0 < lam < math.inf):
            raise InputError(f"lam must be a finite number > 0, got {lam}")
        super().__init__(similarity, 0.0, covered=covered, memory=memory)
        self.query, self.lam = query, lam

    def _base(self) -> Tensor:
        return sums_to(self.similarity, self.query).mul_(2 * self.lam)


class DisparitySum(Pairwise):
    """The sum of the distances between all pairs of A, each pair once.

    Supermodular, so never lazy; greedy is within a factor 2 of the best for distances. Its
    first pick is the lowest row, since every single row is worth 0.

    Args:
        distances: a `Similarity` of kind "distance", or another dissimilarity.
        covered, memory: as for `GraphCut`.

    Raises:
        ResourceError: ``memory`` is too small.
    """

    submodular = False

    def __init__(
        self,
        distances: Similarity,
        *,
        covered: Tensor | None = None,
        memory: int | None = None,
    ) -> None:
        super().__init__(distances, 1.0, covered=covered, memory=memory)

    def _base(self) -> Tensor:
        return torch.zeros(len(self), dtype=torch.float64, device=self.device)


def _knob(value: float, name: str) -> float:
    if not (0 <= value < math.inf):
        raise InputError(f"{name} must be a finite number >= 0, got {value}")
    return value
