"""Similarities that are given as a matrix, dense or sparse, instead of computed from points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError
from labelwise.kernels.geometry import Points
from labelwise.kernels.neighbors import nearest_neighbors
from labelwise.kernels.rows import Rows
from labelwise.kernels.scaled import Scaled
from labelwise.kernels.similarity import Similarity

_BLOCK = 1024
_TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


class Given(Similarity, ABC):
    """N elements whose similarities to M others, or to each other, are entries of a matrix.

    A point is the number of its row or, of the M others, its number from -1 down: nothing else
    is known of it.
    """

    _shape: tuple[int, int]

    def __init__(self, shape: tuple[int, int]) -> None:
        self._shape = shape
        self.kind = "given"
        self.width = None

    def __len__(self) -> int:
        return self._shape[0]

    @property
    def square(self) -> bool:
        """Whether the matrix compares the elements with each other."""
        return self._shape[0] == self._shape[1]

    @property
    def point_bytes(self) -> int:
        """About how many bytes a point takes when it is taken: its number's."""
        return 16

    def take(self, rows: Tensor) -> Points:
        """The points of some rows, to ask about."""
        return Points((rows.cpu(),), torch.zeros(len(rows), dtype=torch.float64))

    def represented(self) -> Points:
        """The M points that the columns are of."""
        numbers = torch.arange(self._shape[1])
        return self.take(numbers if self.square else -1 - numbers)

    def block(self, start: int, stop: int) -> Points:
        """Points ``start`` to ``stop`` (exclusive)."""
        return self.take(torch.arange(start, stop))

    def blocks(self) -> Iterator[tuple[int, Points]]:
        """All points in order."""
        for start in range(0, len(self), _BLOCK):
            yield start, self.block(start, min(start + _BLOCK, len(self)))

    def between(
        self,
        some: Points,
        others: Points,
        rows: Tensor | None = None,
        other_rows: Tensor | None = None,
    ) -> Tensor:
        """Similarities of every pair, (len(some), len(others)) float32, newly allocated."""
        left, right = some.factors[0], others.factors[0]
        if len(left) and left[0] < 0:
            return self._entries(right, -1 - left).T.contiguous()
        return self._entries(left, -1 - right if len(right) and right[0] < 0 else right)

    def own(self, rows: Tensor) -> Tensor:
        """Similarity of each row to itself, (n,) float64."""
        return self.pairs(rows, rows)

    @abstractmethod
    def pairs(self, rows: Tensor, others: Tensor) -> Tensor:
        """Similarities of P pairs of rows, (P,) float64."""

    @abstractmethod
    def _entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        """A newly allocated part of the matrix, (len(rows), len(columns)) float32."""


class Precomputed(Given):
    """A matrix of similarities as it is given.

    Args:
        similarity: (N, M) numbers of any type, on any device, in memory or memory-mapped: row
            j is what element j is like. Where M = N the elements are compared with each other.
        device: where to compute; where the matrix is by default.

    Raises:
        InputError: no matrix, an entry that is not finite, or N = M and two entries that should
            be equal differ by more than rounding; the message names one.

    >>> s = Precomputed([[1.0, 0.5], [0.5, 1.0]])
    >>> s.between(s.take(torch.tensor([1])), s.take(torch.tensor([0, 1])))
    tensor([[0.5000, 1.0000]])
    """

    def __init__(self, similarity: Any, device: torch.device | str | None = None) -> None:
        self.rows = Rows(similarity, "similarity")
        if self.rows.ndim != 2 or 0 in self.rows.shape:
            raise InputError(f"similarity must be a matrix (N, M), got {self.rows.shape}")
        super().__init__((self.rows.shape[0], self.rows.shape[1]))
        self._device = self.rows.device if device is None else torch.device(device)
        self._check()

    @property
    def device(self) -> torch.device:
        """Where similarities are computed with."""
        return self._device

    def matrix(self) -> Tensor:
        """The matrix by reference, (N, M), in its own type."""
        return self.rows.tensor()

    def pairs(self, rows: Tensor, others: Tensor) -> Tensor:
        """Similarities of P pairs of rows, (P,) float64."""
        matrix = self.matrix()
        return matrix[rows.to(matrix.device), others.to(matrix.device)].to(self.device).double()

    def _entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        matrix = self.matrix()
        rows, columns = rows.to(matrix.device), columns.to(matrix.device)
        if _is_stretch(columns):
            found = matrix[:, int(columns[0]) : int(columns[-1]) + 1]
            found = found[int(rows[0]) : int(rows[-1]) + 1] if _is_stretch(rows) else found[rows]
        else:
            found = matrix[rows[:, None], columns]
        return found.to(self.device, torch.float32, copy=True)

    def _check(self) -> None:
        matrix = self.matrix()
        for i in range(0, len(self), _BLOCK):
            part = matrix[i : i + _BLOCK]
            if not bool(part.isfinite().all()):
                row, column = (int(x) for x in (~part.isfinite()).nonzero()[0])
                raise InputError(
                    f"similarity[{i + row}, {column}] is {float(part[row, column])}; every entry "
                    "must be a finite number"
                )
        if self.square:
            self._check_symmetry(matrix)

    def _check_symmetry(self, matrix: Tensor) -> None:
        tolerance = _TOLERANCE.get(matrix.dtype, 1e-5)
        for i in range(0, len(self), _BLOCK):
            for j in range(0, i + 1, _BLOCK):
                here = matrix[i : i + _BLOCK, j : j + _BLOCK].to(torch.float32)
                there = matrix[j : j + _BLOCK, i : i + _BLOCK].to(torch.float32).T
                wrong = (here - there).abs() > tolerance * torch.maximum(here.abs(), there.abs())
                if bool(wrong.any()):
                    row, column = (int(x) for x in wrong.nonzero()[0])
                    raise InputError(
                        f"similarity must be symmetric, but [{i + row}, {j + column}] is "
                        f"{float(here[row, column]):.7g} and [{j + column}, {i + row}] is "
                        f"{float(there[row, column]):.7g}; pass (s + s.T) / 2 if that is meant"
                    )


class SparseSimilarity(Given):
    """Similarities of which few are not zero.

    Args:
        matrix: (N, M) ``scipy.sparse`` matrix; symmetric where M = N.

    Raises:
        InputError: no sparse matrix, an entry that is not finite, or M = N without symmetry.

    >>> from scipy.sparse import eye_array
    >>> s = SparseSimilarity(eye_array(3))
    >>> s.between(s.take(torch.tensor([1])), s.take(torch.tensor([0, 1, 2])))
    tensor([[0., 1., 0.]])
    """

    def __init__(self, matrix: Any) -> None:
        from scipy.sparse import csr_array, issparse

        if not issparse(matrix) or matrix.ndim != 2 or 0 in matrix.shape:
            raise InputError(
                f"matrix must be a sparse (N, M) matrix of scipy, got {type(matrix).__name__}"
            )
        self.matrix = csr_array(matrix, dtype=np.float32)
        self.matrix.sum_duplicates()
        super().__init__(self.matrix.shape)
        if not np.isfinite(self.matrix.data).all():
            at = int(np.flatnonzero(~np.isfinite(self.matrix.data))[0])
            row = int(np.searchsorted(self.matrix.indptr, at, side="right")) - 1
            raise InputError(
                f"similarity[{row}, {self.matrix.indices[at]}] is {self.matrix.data[at]}; every "
                "entry must be a finite number"
            )
        if self.square:
            self._check_symmetry()

    @classmethod
    def nearest(cls, similarity: Similarity, neighbors: int) -> SparseSimilarity:
        """Each row's similarities to itself and its nearest rows; zero where neither is near.

        Args:
            similarity: N points.
            neighbors: how many rows are near a row, 1 <= neighbors < N, by the angle where the
                similarity is one of angles, else by the geometry's distance. A pair is kept where
                either is near the other, so rows keep at least as many.

        Returns:
            N x N entries computed in float64, at most ``N (2 neighbors + 1)`` of them.

        Raises:
            InputError: neighbors is no whole number, or out of range.

        >>> from labelwise.kernels import Euclidean
        >>> line = Similarity(Euclidean([[0.0], [1.0], [3.0]]), "complement", width=4)
        >>> SparseSimilarity.nearest(line, 1).matrix.toarray()
        array([[4., 3., 0.],
               [3., 4., 2.],
               [0., 2., 4.]], dtype=float32)
        """
        from scipy.sparse import coo_array

        size, geometry = len(similarity), similarity.geometry
        whole = isinstance(neighbors, int) and not isinstance(neighbors, bool)
        if not whole or not 1 <= neighbors < size:
            raise InputError(
                f"neighbors must be a whole number in 1..{size - 1} (the rows there are beside "
                f"one), got {neighbors!r}"
            )
        if similarity.kind in ("cosine", "cosine01") and not geometry.directions:
            # Of points of any length the short ones are near to all, whatever their angle.
            length = geometry.squared_norms().sqrt()
            geometry = Scaled(geometry, torch.where(length > 0, 1 / length, 0))
        found = nearest_neighbors(geometry, neighbors, exclude_self=True)
        near = found.rows.cpu().numpy()
        every = np.arange(size)
        one, other = np.repeat(every, near.shape[1]), near.reshape(-1)
        left, right = np.divmod(
            np.unique(np.minimum(one, other) * size + np.maximum(one, other)), size
        )
        apart = similarity.pairs(torch.from_numpy(left), torch.from_numpy(right)).cpu().numpy()
        own = similarity.own(torch.from_numpy(every)).cpu().numpy()
        at = (np.concatenate([left, right, every]), np.concatenate([right, left, every]))
        values = np.concatenate([apart, apart, own])
        return cls(coo_array((values, at), shape=(size, size)))

    @property
    def device(self) -> torch.device:
        """Sparse matrices are worked with on the CPU."""
        return torch.device("cpu")

    def pairs(self, rows: Tensor, others: Tensor) -> Tensor:
        """Similarities of P pairs of rows, (P,) float64."""
        found = self.matrix[rows.numpy().copy(), others.numpy().copy()]
        return torch.from_numpy(np.asarray(found, dtype=np.float64).reshape(-1))

    def _entries(self, rows: Tensor, columns: Tensor) -> Tensor:
        return torch.from_numpy(self.matrix[rows.numpy()][:, columns.numpy()].toarray())

    def _check_symmetry(self) -> None:
        difference = abs(self.matrix - self.matrix.T).tocoo()
        most = abs(self.matrix).max() if self.matrix.nnz else 0.0
        wrong = np.flatnonzero(difference.data > 1e-5 * most)
        if len(wrong):
            row, column = (int(x[wrong[0]]) for x in (difference.row, difference.col))
            raise InputError(
                f"similarity must be symmetric, but [{row}, {column}] is "
                f"{self.matrix[row, column]:.7g} and [{column}, {row}] is "
                f"{self.matrix[column, row]:.7g}; pass (s + s.T) / 2 if that is meant"
            )


def _is_stretch(rows: Tensor) -> bool:
    """Whether row numbers follow each other."""
    count = len(rows)
    return count > 0 and bool((rows == torch.arange(count, device=rows.device) + rows[0]).all())
