"""BASE: boundary samples with an equal quota for every class."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import ResourceError
from labelwise.evidence import Rows
from labelwise.kernels import Chosen, Generator
from labelwise.kernels.cost import score_work
from labelwise.strategies.mase import (
    ROUGH,
    distances,
    inverse_gaps,
    least,
    pair_distances,
    prepare_head,
    rough_distances,
)
from labelwise.strategies.pickers import largest
from labelwise.strategies.registry import strategy

_HELD = 1 << 30
"""Bytes of shortlists held at once, unless ``memory`` says otherwise."""

_ENTRY_BYTES = 48
"""What an entry of a shortlist takes on average, as lists fill a half of their room at most."""


def base_distances(
    logits: Rows | Tensor, head_weight: Rows | Tensor, first: int = 0, last: int | None = None
) -> Tensor:
    """How far each embedding is from each class's boundary.

    For a class that is not the predicted one: the distance to the boundary between the two.
    For the predicted class: the distance to the nearest boundary, where it would be left.

    Args:
        logits: (N, C), C >= 2.
        head_weight: (C, D), the last layer's weight.
        first, last: only the classes in ``first .. last - 1``; all by default.

    Returns:
        (N, last - first) float64 >= 0, in the embedding's unit; infinity where two classes
        have the same weights.

    Raises:
        InputError: a single class, or shapes that do not fit.

    Source:
        Emam et al., "Active Learning at the ImageNet Scale", 2021. For a class that is not
        predicted the distance is a lower bound: a third class may win on the way.

    >>> base_distances(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
    tensor([[1., 1.]], dtype=torch.float64)
    """
    rows, gaps = prepare_head(logits, head_weight)
    last = rows.shape[1] if last is None else last
    out = torch.empty(len(rows), last - first, dtype=torch.float64, device=rows.device)
    for start, block in rows.blocks():
        found, best = distances(block, gaps)
        found.scatter_(1, best[:, None], found.amin(1, keepdim=True))
        out[start : start + len(block)] = found[:, first:last]
    return out


@strategy(
    cite="Emam et al., arXiv 2021",
    cost=score_work,
    costs="One pass over N x C logits and the C x C Gram matrix of the head; 8 N bytes.",
    fails=(
        "Balance is over predicted classes: with few labels predictions are mostly wrong; "
        "pools that are truly balanced gain little."
    ),
)
def base(
    logits: Rows,
    head_weight: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
) -> Chosen:
    """For each class in turn, the candidates closest to that class's boundary.

    Class c of C gets ``floor(n / C)`` picks and one more if ``c < n mod C``, whether or not
    any row is predicted as c. Classes pick in the order of their numbers, so a row wanted by
    two goes to the lower one. Distances are `base_distances`; equal ones go by noise.

    Args:
        logits: (N, C), C >= 2.
        head_weight: (C, D).
        memory: bytes for shortlists, of which 192 N are needed at the least; less memory means
            more passes over the logits, never other picks. 1 GiB by default.

    Returns:
        Rows by class, closest first; scores are minus the distances.

    Raises:
        InputError: a single class, or shapes that do not fit.
        ResourceError: memory for less than one class.
    """
    rows, gaps = prepare_head(logits, head_weight)
    classes = rows.shape[1]
    need = 4 * _ENTRY_BYTES * len(rows)
    if memory is not None and memory < need:
        raise ResourceError(f"memory must be at least {need} bytes for base, got {memory}")
    room = max(_HELD if memory is None else memory, need) // _ENTRY_BYTES
    quotas = [n // classes + (c < n % classes) for c in range(min(classes, n))]
    left = torch.zeros(len(rows), dtype=torch.bool)
    left[candidates.cpu()] = True
    picked: list[Chosen] = []
    width = len(quotas)
    while len(picked) < len(quotas):
        wanted = quotas[len(picked) : len(picked) + width]
        lists = _Shortlists(len(picked), wanted, room)
        if not lists.fill(rows, gaps, left):
            width = max(1, len(wanted) // 2)
            continue
        for entry in range(len(wanted)):
            found = lists.best(entry, left, generator)
            if found is None:
                break  # earlier classes took too much of this one's list: read again
            left[found.rows] = False
            picked.append(found)
    return Chosen(*(torch.cat(parts) for parts in zip(*picked)))


class _Pending:
    """Entries that wait to be merged, in arrays made beforehand (see `per_row` for why)."""

    def __init__(self, capacity: int) -> None:
        self.rows = torch.empty(capacity, dtype=torch.int64)
        self._columns = torch.empty(capacity, dtype=torch.int64)
        self._values = torch.empty(capacity, dtype=torch.float64)
        self._count = 0

    @property
    def full(self) -> bool:
        """Whether half of the room is taken."""
        return 2 * self._count >= len(self.rows)

    def take(self, rows: Tensor, columns: Tensor, values: Tensor) -> bool:
        """Keep some entries; False if there is no room."""
        stop = self._count + len(rows)
        if stop > len(self.rows):
            return False
        part = slice(self._count, stop)
        self.rows[part], self._columns[part], self._values[part] = rows, columns, values
        self._count = stop
        return True

    def empty(self) -> tuple[Tensor, Tensor, Tensor]:
        """The entries, which are then gone."""
        part, self._count = slice(0, self._count), 0
        return self.rows[part], self._columns[part], self._values[part]


class _Shortlists:
    """For some classes, every row that may be among the nearest to each.

    Args:
        first: the first of the classes; one after another from there.
        quotas: how many rows each is to pick.
        room: how many entries may be held.
    """

    def __init__(self, first: int, quotas: list[int], room: int) -> None:
        self._classes = slice(first, first + len(quotas))
        self._quotas = quotas
        # Classes before it may take a class's best rows, so each list holds more than it needs.
        self._length = 2 * max(quotas) + 32
        self._room = room
        self._rows = torch.zeros(0, dtype=torch.int64)
        self._columns = torch.zeros(0, dtype=torch.int64)
        self._values = torch.zeros(0, dtype=torch.float64)
        self._limit = torch.full((len(quotas),), torch.inf, dtype=torch.float64)

    def fill(self, logits: Rows, gaps: Tensor, left: Tensor) -> bool:
        """Read the pool once; False if more rows tie for a place than there is room for."""
        inverse = inverse_gaps(gaps)
        pending = _Pending(max(1 << 16, 4 * len(self._quotas) * self._length))
        for start, block in logits.blocks():
            at = 0
            while at < len(block):
                # Before there are limits every entry counts, so a few rows are enough.
                few = max(1, min(len(pending.rows), self._room // 4) // len(self._quotas))
                stop = at + few if bool(self._limit.isinf().any()) else len(block)
                piece = block[at:stop]
                row, column, value = self._near(
                    piece, inverse, gaps, left[start + at : start + at + len(piece)]
                )
                if not pending.take(row + (start + at), column, value):
                    self._merge(*pending.empty())
                    if not pending.take(row + (start + at), column, value):
                        self._merge(row + (start + at), column, value)
                if pending.full:
                    self._merge(*pending.empty())
                if len(self._rows) > self._room // 4:
                    return False
                at += len(piece)
        self._merge(*pending.empty())
        return True

    def _near(
        self, block: Tensor, inverse: Tensor, gaps: Tensor, left: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Entries of a block within the limits: rows, columns of this object, distances."""
        rough, best = rough_distances(block, inverse)
        own = least(block, rough, best, gaps)
        rough.scatter_(1, best[:, None], own.float()[:, None])
        rough[~left.to(rough.device)] = torch.nan
        limit = (self._limit * (1 + ROUGH)).float().to(rough.device)
        row, column = (rough[:, self._classes] <= limit).nonzero(as_tuple=True)
        label = column + self._classes.start
        distance = pair_distances(block, best, row, label, gaps)
        distance = torch.where(best[row] == label, own[row], distance)
        return row.cpu(), column.cpu(), distance.cpu()

    def _merge(self, rows: Tensor, columns: Tensor, values: Tensor) -> None:
        """Take new entries in; of each class keep the nearest, and all that tie with the last."""
        rows = torch.cat([self._rows, rows])
        columns = torch.cat([self._columns, columns])
        values = torch.cat([self._values, values])
        order = np.lexsort((values.numpy(), columns.numpy()))
        rows, columns, values = rows[order], columns[order], values[order]
        classes = torch.arange(len(self._quotas))
        start = torch.searchsorted(columns, classes)
        end = torch.searchsorted(columns, classes, right=True)
        full = end - start >= self._length
        last = (start + self._length - 1)[full]
        self._limit[full] = values[last]
        keep = values <= self._limit[columns]
        self._rows, self._columns, self._values = rows[keep], columns[keep], values[keep]

    def best(self, column: int, left: Tensor, generator: Generator) -> Chosen | None:
        """The nearest rows still free, or None where the list may not hold them all."""
        mine = self._columns == column
        rows, values = self._rows[mine], self._values[mine]
        whole = bool(torch.isinf(self._limit[column])) or not len(rows)
        free = left[rows]
        rows, values = rows[free], values[free]
        quota = self._quotas[column]
        if len(rows) < quota and not whole:
            return None
        at = largest(-values.numpy(), quota, rows, generator)
        return Chosen(rows[at], -values[at])
