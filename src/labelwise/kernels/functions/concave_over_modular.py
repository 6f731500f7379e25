"""Concave over modular: likeness to a query set, with less and less for what is alike already.

Source: Kothawade, Kaushal, Ramakrishnan, Bilmes & Iyer, "PRISM: A rich class of parameterized
submodular information measures for guided data subset selection", AAAI 2022.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.columns import relative_error
from labelwise.kernels.functions.feature_based import Concave, Gathered, concave_function
from labelwise.kernels.functions.pairwise import covered_rows
from labelwise.kernels.geometry import Points
from labelwise.kernels.similarity import Similarity

_ROWS = 1024  # read at once when asked for by number


class ConcaveOverModular(Gathered):
    """``eta sum_{i in A} psi(sum_{j in Q} s_ij) + sum_{j in Q} psi(sum_{i in A} s_ij)``.

    Monotone and submodular for similarities >= 0: the first term is modular, the second is
    feature-based with a feature for each query point.

    Args:
        similarity: N points; its values must be >= 0 ("cosine01", "rbf", "top_hat", or
            "dot" of such points).
        query: Q, from ``geometry.points`` or ``take``.
        eta: what likeness to Q counts for on its own, >= 0; large values trade the second
            term's even coverage of Q for it.
        concave, exponent: psi, as for `FeatureBased`.
        covered: (M,) int64 rows that are in A from the start.

    Raises:
        InputError: a negative similarity (the message names its row), an empty query, or a
            knob out of range.

    Memory: one number a row; similarities to Q are computed when asked for.

    >>> from labelwise.kernels import Euclidean
    >>> from labelwise.kernels.greedy import greedy
    >>> x = Euclidean([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], shift=False)
    >>> query = x.points([[1.0, 0.0], [0.0, 1.0]])
    >>> greedy(ConcaveOverModular(Similarity(x, "dot"), query, eta=0.0), 2).rows
    tensor([1, 2])
    """

    def __init__(
        self,
        similarity: Similarity,
        query: Points,
        eta: float = 1.0,
        concave: Concave = "sqrt",
        *,
        exponent: float | None = None,
        covered: Tensor | None = None,
    ) -> None:
        if not 0 <= eta < math.inf:
            raise InputError(f"eta must be a finite number >= 0, got {eta}")
        if not len(query):
            raise InputError("query must hold at least one point, got none")
        weights = torch.ones(len(query), dtype=torch.float64, device=similarity.device)
        super().__init__(concave_function(concave, exponent), weights)
        self.similarity, self.query, self.eta = similarity, query, eta
        self._alone = self._likeness().mul_(eta)
        most = float(self._alone.max()) if len(self) else 0.0
        self.rounding = relative_error(similarity) * (most + len(query))
        for row in covered_rows(covered, len(similarity)):
            self._add(row)
            self.chosen.append(row)

    def __len__(self) -> int:
        return len(self.similarity)

    def _likeness(self) -> Tensor:
        """psi of each row's similarities to Q, (N,) float64; refuses negative ones."""
        found = torch.zeros(len(self), dtype=torch.float64, device=self.device)
        start = 0
        for x in self._blocks(None):
            low = x.amin(1)
            if not bool((low >= 0).all()):
                row = int((~(low >= 0)).nonzero()[0])
                raise InputError(
                    f"similarities to the query must be >= 0, got {float(low[row]):.6g} in row "
                    f"{start + row}; use cosine01 or rbf"
                )
            found[start : start + len(x)] = self._psi(x.sum(1))
            start += len(x)
        return found

    def _blocks(self, rows: Tensor | None) -> Iterator[Tensor]:
        if rows is None:
            for _, block in self.similarity.blocks():
                yield self.similarity.between(block, self.query).double()
            return
        for part in rows.split(_ROWS):
            yield self.similarity.between(self.similarity.take(part), self.query).double()

    def _modular(self, rows: Tensor | None) -> Tensor:
        return self._alone if rows is None else self._alone[rows.to(self.device)]

    def bytes_needed(self, n: int) -> int:
        """A number a row, and blocks of similarities to Q."""
        return 24 * len(self) + 24 * 16384 * len(self.query) + 0 * n
