"""Any kernel on random parts of a pool, as selections of ImageNet's size were published."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError, ResourceError
from labelwise.kernels.cover import prepare
from labelwise.kernels.geometry import Chosen, Geometry
from labelwise.kernels.noise import Generator
from labelwise.kernels.progress import Progress, resume
from labelwise.kernels.subset import Subset


@dataclass(frozen=True)
class Part:
    """What a kernel is given of one part of the pool; rows are numbered within the part.

    Attributes:
        number: which part, from 0.
        geometry: the part's rows, by reference.
        n: how many to pick.
        candidates: (K,) int64 rows that may be picked.
        covered: (M,) int64 rows chosen already; None where there are none.
        generator: randomness, by item of the pool, independent of other parts.
        memory: bytes left for the kernel; None for no bound.
        progress: where the kernel may report its picks, and resume from.
    """

    number: int
    geometry: Subset
    n: int
    candidates: Tensor
    covered: Tensor | None
    generator: Generator
    memory: int | None
    progress: Progress


def partitioned(
    kernel: Callable[[Part], Chosen],
    geometry: Geometry,
    n: int,
    parts: int,
    *,
    generator: Generator,
    candidates: Tensor | None = None,
    covered: Tensor | None = None,
    share: Literal["split", "all"] = "split",
    memory: int | None = None,
    progress: Progress | None = None,
) -> Chosen:
    """Split the pool at random, run a kernel on each part, join the picks.

    Candidates, covered rows and the rest are each split into parts that differ by at most one
    row, by noise that belongs to the items: given ids, the order of rows changes no part. Part p
    picks ``n // parts`` rows, one more if ``p < n % parts``. Nothing is copied.

    Args:
        kernel: picks ``part.n`` rows of a `Part`, such as
            ``lambda part: farthest_first(part.geometry, part.n, covered=part.covered)``.
        geometry: N points.
        n: how many rows to pick in all, 1 <= n <= number of candidates not covered.
        parts: how many parts, 1 <= parts <= number of candidates not covered.
        generator: randomness, by item.
        candidates: (K,) int64 rows that may be picked; all by default.
        covered: (M,) int64 rows chosen already; never picked.
        share: ``"split"`` the covered rows as well, as the published runs did, or give ``"all"``
            of them to every part.
        memory: bytes the call may hold beyond its inputs; the kernel is told what is left.
        progress: told the picks as they are made; resumes an interrupted run of the same call.

    Returns:
        (n,) rows, part by part, each in the kernel's order, and (n,) float64 gains: what the
        kernel says, so they are of the part alone.

    Raises:
        InputError: n, parts, share or a row out of range, or a kernel that picks other than
            ``part.n`` of its candidates.
        ResourceError: ``memory`` is less than the parts need by themselves.

    Source:
        Emam et al., "Active Learning at the ImageNet Scale", 2021: ten parts. The cost of a
        greedy kernel falls by the number of parts; so does what it sees.

    >>> from labelwise.kernels import Euclidean, farthest_first
    >>> line = Euclidean([[float(i)] for i in range(8)])
    >>> picks = partitioned(
    ...     lambda part: farthest_first(part.geometry, part.n), line, 4, 2, generator=Generator(0)
    ... )
    >>> len(set(picks.rows.tolist()))
    4
    """
    taken, allowed = prepare(geometry, n, covered, candidates)
    free = np.flatnonzero(allowed)
    if share not in ("split", "all"):
        raise InputError(f"share must be 'split' or 'all', got {share!r}")
    if isinstance(parts, bool) or not isinstance(parts, int) or not 1 <= parts <= len(free):
        raise InputError(f"parts must be in 1..{len(free)} (the candidates), got {parts!r}")
    memory = _left(memory, len(geometry))
    progress = progress or Progress()
    resume(progress, n, lambda rows: allowed[rows])
    rest = ~allowed
    rest[taken] = False
    noise = generator.child("parts")
    groups = [_split(rows, parts, noise) for rows in (free, np.unique(taken), np.flatnonzero(rest))]
    rows, gains, made = [], [], 0
    for number, (mine, known, others) in enumerate(zip(*groups)):
        count = n // parts + (number < n % parts)
        if count == 0:
            break
        known = np.unique(taken) if share == "all" else known
        inside = np.sort(np.concatenate([mine, known, others]))
        told = PartProgress(progress, inside, made, count, number / parts, 1 / parts)
        part = Part(
            number,
            Subset(geometry, torch.from_numpy(inside)),
            count,
            torch.from_numpy(np.searchsorted(inside, mine)),
            torch.from_numpy(np.searchsorted(inside, known)) if len(known) else None,
            generator.child("part", number).of(inside),
            memory,
            told,
        )
        found = told.earlier if told.complete else kernel(part)
        assert found is not None
        _check(found, part)
        told.finish(found)
        rows.append(torch.from_numpy(inside)[found.rows.cpu()])
        gains.append(found.gains.double().cpu())
        made += count
    return Chosen(torch.cat(rows), torch.cat(gains))


def _left(memory: int | None, size: int) -> int | None:
    """What the kernel may hold: the parts' row numbers take 48 bytes a row."""
    need = 48 * size
    if memory is not None and memory <= need:
        raise ResourceError(
            f"memory must be more than {need / 1e6:.3g} MB for the parts of {size} points, got "
            f"{memory / 1e6:.3g} MB"
        )
    return None if memory is None else memory - need


def _split(rows: NDArray[np.int64], parts: int, noise: Generator) -> list[NDArray[np.int64]]:
    """Random parts of some rows, each ascending; the first ones have one row more."""
    order = rows[np.argsort(noise.uniform(rows), kind="stable")]
    return [np.sort(part) for part in np.array_split(order, parts)]


def _check(found: Chosen, part: Part) -> None:
    picked = found.rows.cpu()
    if len(picked) != part.n or len(picked.unique()) != part.n:
        raise InputError(
            f"the kernel must pick {part.n} distinct rows of part {part.number}, got {len(picked)}"
            f", {len(picked.unique())} of them distinct"
        )
    if not bool(torch.isin(picked, part.candidates).all()):
        wrong = picked[~torch.isin(picked, part.candidates)][0]
        raise InputError(
            f"the kernel must pick candidates, got row {int(wrong)} of part {part.number}"
        )


class PartProgress(Progress):
    """The progress of one part, told to that of the whole in the pool's rows.

    Args:
        whole: the progress of the whole call.
        inside: (m,) the part's rows, ascending.
        made: how many picks the parts before this one made. count: how many it will make.
        done, share: how much of the work lies before this part, and in it, 0 to 1.
    """

    def __init__(
        self,
        whole: Progress,
        inside: NDArray[np.int64],
        made: int,
        count: int,
        done: float,
        share: float,
    ) -> None:
        earlier = None
        if whole.earlier is not None and len(whole.earlier.rows) > made:
            rows = whole.earlier.rows[made : made + count].numpy()
            there = np.searchsorted(inside, rows)
            if not (there < len(inside)).all() or not (inside[there] == rows).all():
                raise InputError(
                    "the checkpoint is of another call: its picks are of other parts; delete it"
                )
            earlier = Chosen(torch.from_numpy(there), whole.earlier.gains[made : made + count])
        super().__init__(earlier)
        self.complete = earlier is not None and len(earlier.rows) == count
        self._whole, self._inside = whole, torch.from_numpy(inside)
        self._told = 0 if earlier is None else len(earlier.rows)
        self._done, self._share = done, share

    def picked(self, rows: Tensor, gains: Tensor) -> None:
        """New picks of the part, in its rows."""
        self._told += len(rows)
        self._whole.picked(self._inside[rows.cpu()], gains)

    def passing(self, share: float) -> None:
        """How far the current pass over the part is."""
        self._whole.passing(self._done + self._share * share)

    def finish(self, found: Chosen) -> None:
        """Tell what a kernel that does not report its picks has picked."""
        if self._told < len(found.rows):
            self.picked(found.rows[self._told :], found.gains[self._told :])
