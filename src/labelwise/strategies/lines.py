"""One line of rows for every class, as GALAXY and DIRECT need them: class against the rest."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float
from labelwise.kernels import Generator, per_row
from labelwise.kernels.cost import Sizes, Work

Ints = NDArray[np.int64]

_TIE = 1e-8


def lines_work(sizes: Sizes) -> Work:
    """Sort the pool for each class that is asked about, then search sorted rows at each pick."""
    lines = float(sizes.rows) * max(1, min(sizes.n, sizes.classes))
    search = float(sizes.n) * (sizes.labeled + sizes.n)
    held = 16.0 * sizes.rows + 4.0 * lines
    return Work(
        passes=(1, 3),
        numbers=(5 * lines, 800 * lines + 100 * search + 100.0 * sizes.rows),
        steps=(0.5 * sizes.n, 60.0 * sizes.n),
        held=(held, 3 * held + 8.0 * lines + 4.0 * sizes.rows * sizes.classes),
    )


def known_labels(
    labeled: Tensor | None, labels: Tensor | None, classes: int
) -> tuple[Ints, Ints, tuple[str, ...]]:
    """Labeled rows and their classes, none where either is missing, and what to note of it.

    Raises:
        InputError: a class that the model does not know.
    """
    none = np.zeros(0, np.int64)
    if labeled is None:
        return none, none, ("nothing is labeled: picks are random",)
    if labels is None:
        return none, none, ("labels were not passed with labeled: picks are random",)
    mine = labels.cpu().numpy()
    if len(mine) and mine.max() >= classes:
        raise InputError(f"labels must be classes 0..{classes - 1}, but one is {mine.max()}")
    return labeled.cpu().numpy(), mine, ()


class Lines:
    """For each class the labeled rows and the candidates, from surely it to surely not it.

    The order is by ``p_k - max_c p_c``; rows predicted as k, which all have 0, go by ``p_k``.
    Equal ones go by noise. Rows that are neither labeled nor candidates are on no line.

    Args:
        probs: (N, C), checked.
        labeled: (L,) rows.
        candidates: (M,) rows.
        generator: breaks ties.

    A line takes 8 bytes a row; lines are made when first asked for, and kept.
    """

    def __init__(
        self, probs: Rows, labeled: Ints, candidates: Tensor, generator: Generator
    ) -> None:
        self._size = len(probs)
        rows = np.concatenate([labeled, candidates.cpu().numpy()])
        noise = generator.child("ties").uniform(rows)
        self._rows = rows[np.argsort(noise, kind="stable")]
        self._top = per_row(probs.blocks(), len(probs), lambda block: as_float(block).amax(1))
        self._probs = probs.tensor()
        self._made: dict[int, tuple[NDArray[np.int32], NDArray[np.int32]]] = {}

    def __len__(self) -> int:
        """How many rows are on every line."""
        return len(self._rows)

    def order(self, k: int) -> NDArray[np.int32]:
        """The rows of a class's line, surest first."""
        return self._line(k)[0]

    def place(self, k: int, rows: Ints) -> Ints:
        """Where some rows are on a class's line, 0 for the surest."""
        return self._line(k)[1][rows].astype(np.int64)

    def _line(self, k: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        if k not in self._made:
            rows = torch.from_numpy(self._rows).to(self._probs.device)
            top = self._top[rows].double()
            margin = as_float(self._probs[rows, k]).double() - top + _TIE * top
            order = self._rows[np.argsort(-margin.cpu().numpy(), kind="stable")].astype(np.int32)
            place = np.empty(self._size, np.int32)
            place[order] = np.arange(len(order), dtype=np.int32)
            self._made[k] = order, place
        return self._made[k]
