"""DACS: core-set that spends more of the budget where rows lie sparsely."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows, check
from labelwise.kernels import (
    Chosen,
    Cosine,
    Euclidean,
    Generator,
    Geometry,
    Progress,
    Subset,
    farthest_first,
    hashed_density,
    hold_limit,
    natural_breaks,
    neighbor_density,
)
from labelwise.kernels.cost import Sizes, Work, farthest_work
from labelwise.kernels.partition import PartProgress
from labelwise.kernels.progress import resume
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

Density = Literal["hashed", "exact"]

_HASHED = 4 * (24 + 256.0)
"""Products a row takes with the kernel's tables, bits and window."""


def dacs_work(sizes: Sizes) -> Work:
    """Density, hashed or among all pairs; then k-center in groups."""
    entries = 2.0 * sizes.rows * sizes.width
    density = Work(
        products=(0.5 * entries * min(sizes.rows, _HASHED), 2 * entries * max(sizes.rows, _HASHED)),
        passes=(1, 12),
        numbers=(100.0 * sizes.rows, sizes.rows * (40.0 * _HASHED + 10.0 * sizes.width)),
        held=(100.0 * sizes.rows, 1000.0 * sizes.rows + 3e8),
    )
    return density + farthest_work(sizes)


@strategy(
    cite="Kim & Shin, KDD 2022",
    cost=dacs_work,
    costs="Density: about 2,000 N D operations hashed, N^2 D exactly; then as k_center.",
    fails=(
        "Takes small groups for the sparse ones: where dense rows are few, they get many picks "
        "too; sparse rows are often outliers."
    ),
)
def dacs(
    embeddings: Rows,
    labeled: Tensor | None = None,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    memory: int | None = None,
    progress: Progress | None = None,
    groups: int = 4,
    temperature: float = 0.25,
    neighbors: int = 10,
    density: Density = "hashed",
    normalize: bool = True,
    together: bool = False,
) -> Picks:
    """Split candidates by density, give sparse groups more picks, and run k-center in each.

    1. `dacs_density` of all rows, from their nearest neighbors.
    2. Natural breaks split the candidates into ``groups`` by density.
    3. A group X_g gets a share of the n picks, the softmax over groups of
       ``(1 - |X_g| / |X|) / temperature``: small groups are taken for the sparse ones, as they
       are where a trained network has drawn most rows together. Shares are rounded to whole
       picks, largest remainders first; what a group cannot give is shared by the others.
    4. In each group, the sparsest first, picks are the farthest from labeled rows and from the
       group's earlier picks. With nothing labeled its first is the one nearest its mean.

    Args:
        embeddings: (N, D). The authors train a second head for them, with cosines for logits;
            pass its output where there is one.
        labeled: (L,) rows that are covered from the start.
        groups: >= 1; at most as many as there are different densities.
        temperature: > 0. Large values give all groups the same, small ones all to the smallest.
        neighbors: how many rows density looks at, at most N - 1.
        density: ``"hashed"`` among rows that random hyperplanes put together, as the authors
            do at scale; ``"exact"`` among all.
        normalize: divide each row by its length first, as the authors do.
        together: whether a group also keeps away from the picks of groups before it. The
            authors decompose the problem: each group sees its own.

    Returns:
        Picks, the sparsest group's first; the score is the squared distance to the nearest
        labeled or earlier pick of the group, infinity for a first one. The notes tell the
        groups' sizes and picks.

    Raises:
        InputError: an option out of range, or a row of zeros when normalizing.
        ResourceError: ``memory`` is less than the call needs.

    Source:
        Kim & Shin, "In Defense of Core-set: A Density-aware Core-set Selection for Active
        Learning", KDD 2022. Their text gives no code; 4 groups, a temperature of 0.25 and 10
        neighbors are our reading of it. To combine it with another strategy, as they do, let
        that one pick among DACS's candidates: ``select("entropy", n, candidates=select("dacs",
        5 * n, ...).rows, ...)``; or multiply a score by `dacs_weights`.
    """
    _check_options(groups, temperature, neighbors, density)
    rows = check("embeddings", embeddings)
    geometry = (Cosine if normalize else Euclidean)(rows, hold=hold_limit(memory))
    found = _density(geometry, neighbors, density, generator, memory)
    free = candidates.cpu().numpy()
    member = density_groups(found.numpy()[free], groups)
    sizes = np.bincount(member)
    quotas = share_out(n, budget_levels(sizes, temperature), sizes)
    parts = [np.sort(free[member == g]) for g in range(len(sizes))]
    have = np.zeros(0, np.int64) if labeled is None else np.sort(labeled.cpu().numpy())
    chosen = _pick(geometry, parts, quotas, have, together, memory, progress or Progress())
    told = ", ".join(f"{q} of {s}" for q, s in zip(quotas, sizes))
    note = f"picks by density, the sparsest group first: {told}"
    return Picks(chosen.rows.numpy(), scores=chosen.gains.numpy(), notes=(note,))


def dacs_density(
    embeddings: Rows | Tensor,
    *,
    generator: Generator,
    neighbors: int = 10,
    density: Density = "hashed",
    normalize: bool = True,
    memory: int | None = None,
) -> Tensor:
    """How densely rows lie: the inverse of the mean distance to their nearest neighbors.

    Args:
        embeddings: (N, D), anything `Rows` takes.
        generator: random hyperplanes.
        neighbors, density, normalize, memory: see `dacs`.

    Returns:
        (N,) float64 > 0, larger = denser. Rows that coincide with all their neighbors count as
        dense as the densest that do not; where all do, 1.

    Raises:
        InputError, ResourceError: see `dacs`.

    >>> line = torch.tensor([[0.0], [1.0], [3.0]])
    >>> dacs_density(line, generator=Generator(0), neighbors=1, density="exact", normalize=False)
    tensor([1.0000, 1.0000, 0.5000], dtype=torch.float64)
    """
    _check_options(1, 1.0, neighbors, density)
    rows = check("embeddings", embeddings)
    geometry = (Cosine if normalize else Euclidean)(rows, hold=hold_limit(memory))
    return _density(geometry, neighbors, density, generator, memory)


def dacs_weights(
    density: Tensor | NDArray[np.float64], groups: int = 4, temperature: float = 0.25
) -> Tensor:
    """What DACS gives each row of the budget, as a weight for the scores of other strategies.

    A row's weight is its group's share of the budget over its group's share of the rows.

    Args:
        density: (N,), such as `dacs_density`. groups, temperature: see `dacs`.

    Returns:
        (N,) float64 >= 0 with mean 1; larger where few rows are as dense, that is, mostly
        where rows are sparse.

    Raises:
        InputError: an option out of range, or a density that is not finite.

    >>> dacs_weights(torch.tensor([1.0, 5.0, 5.1, 5.2]), groups=2, temperature=1.0)
    tensor([2.4898, 0.5034, 0.5034, 0.5034], dtype=torch.float64)
    """
    _check_options(groups, temperature, 1, "exact")
    member = density_groups(torch.as_tensor(density).detach().cpu().double().numpy(), groups)
    sizes = np.bincount(member)
    each = budget_shares(sizes, temperature) * len(member) / sizes
    return torch.from_numpy(each[member])


def density_groups(density: NDArray[np.float64], groups: int) -> NDArray[np.int64]:
    """The natural breaks' group of each row, 0 for the sparsest, (M,) int64."""
    distinct = len(np.unique(density))
    return natural_breaks(density, min(groups, distinct))


def budget_shares(sizes: NDArray[np.int64], temperature: float) -> NDArray[np.float64]:
    """Each group's share of the budget: the softmax of ``(1 - size / total) / temperature``.

    >>> budget_shares(np.array([1, 3]), 0.5).round(4)
    array([0.7311, 0.2689])
    """
    raised = np.exp(budget_levels(sizes, temperature))
    return raised / raised.sum()


def budget_levels(sizes: NDArray[np.int64], temperature: float) -> NDArray[np.float64]:
    """The logarithms of `budget_shares`, finite and up to a constant: the largest is 0."""
    levels: NDArray[np.float64] = (sizes.min() - sizes) / sizes.sum() / max(temperature, 1e-300)
    return levels


def share_out(n: int, levels: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Whole picks for groups by their shares, at most their sizes, n in all.

    Args:
        n: at most the sum of the sizes. levels: (G,) finite logarithms of the shares, up to a
            constant. sizes: (G,).

    >>> share_out(10, np.log([0.5, 0.3, 0.2]), np.array([2, 50, 50]))
    array([2, 5, 3])
    """
    picks = np.zeros(len(sizes), dtype=np.int64)
    while picks.sum() < n:
        room = sizes - picks
        # From logarithms: a share too small for a number is all there is once the rest is full.
        part = np.where(room > 0, np.exp(np.minimum(levels - levels[room > 0].max(), 0)), 0)
        want = (n - picks.sum()) * part / part.sum()
        more = np.minimum(np.floor(want + 1e-9).astype(np.int64), room)
        if not more.any():
            # Only remainders are left: the largest first, of equal ones the sparsest group's.
            order = np.argsort(-want, kind="stable")[: n - picks.sum()]
            more[order] = np.minimum(1, room[order])
        elif (want <= room).all():
            rest = n - picks.sum() - more.sum()
            order = np.argsort(-(want - more), kind="stable")[:rest]
            more[order] += more[order] < room[order]
        picks += more
    return picks


def _density(
    geometry: Geometry,
    neighbors: int,
    density: Density,
    generator: Generator,
    memory: int | None,
) -> Tensor:
    k = min(neighbors, len(geometry) - 1)
    if k < 1:
        return torch.ones(len(geometry), dtype=torch.float64)
    if density == "exact":
        found = neighbor_density(geometry, k, memory=memory).cpu()
    else:
        stream = generator.child("density")
        window = max(256, 2 * (k + 1))
        found = hashed_density(geometry, k, generator=stream, window=window, memory=memory).cpu()
    finite = found[found.isfinite()]
    return found.clamp(max=float(finite.max()) if len(finite) else 1.0)


def _pick(
    geometry: Geometry,
    parts: list[NDArray[np.int64]],
    quotas: NDArray[np.int64],
    labeled: NDArray[np.int64],
    together: bool,
    memory: int | None,
    progress: Progress,
) -> Chosen:
    """k-center in each group."""
    n = int(quotas.sum())
    every = np.concatenate(parts)
    resume(progress, n, lambda rows: np.isin(rows, every))
    rows: list[NDArray[np.int64]] = []
    gains: list[Tensor] = []
    made = 0
    for part, count in zip(parts, quotas.tolist()):
        if count == 0:
            continue
        covered = np.concatenate([labeled, *(rows if together else [])])
        inside = np.sort(np.concatenate([part, covered]))
        told = PartProgress(progress, inside, made, count, made / n, count / n)
        known = torch.from_numpy(np.searchsorted(inside, covered))
        found = farthest_first(
            Subset(geometry, torch.from_numpy(inside)),
            count,
            covered=known if len(known) else None,
            candidates=torch.from_numpy(np.searchsorted(inside, part)),
            memory=memory,
            progress=told,
        )
        rows.append(inside[found.rows.numpy()])
        gains.append(found.gains)
        made += count
    return Chosen(torch.from_numpy(np.concatenate(rows)), torch.cat(gains))


def _check_options(groups: int, temperature: float, neighbors: int, density: str) -> None:
    for name, value in (("groups", groups), ("neighbors", neighbors)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number >= 1, got {value!r}")
    if isinstance(temperature, bool) or not 0 < temperature < math.inf:
        raise InputError(f"temperature must be a positive number, got {temperature!r}")
    known = get_args(Density)
    if not isinstance(density, str) or density not in known:
        raise InputError(f"density must be known, got {density!r}; {nearest(str(density), known)}")
