"""DropQuery: rows whose predicted class flips under dropout, one of each cluster."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError
from labelwise.evidence import Rows, as_float, check, rows_first
from labelwise.kernels import Generator
from labelwise.kernels.cost import Sizes, Work, kmeans_work, score_work
from labelwise.kernels.rows import in_order
from labelwise.strategies.clusters import cluster, unit_rows
from labelwise.strategies.pickers import predicted, round_robin
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import strategy

_ROUNDING = 1e-6
"""Share of the largest squared distance below which two are the same."""


def drop_query_scores(draws: Rows | Tensor, probs: Rows | Tensor) -> Tensor:
    """How many draws predict another class than ``probs`` does, per row.

    Args:
        draws: (S, N, C), anything `Rows` takes: predictions under dropout.
        probs: (N, C), the prediction without it.

    Returns:
        (N,) float64, whole numbers in [0, S]. The likeliest class is the lowest on a tie.
        Larger = asked first.

    Raises:
        InputError: wrong shape, or a row that is no distribution.

    Source:
        Gupte, Aklilu, Nirschl & Yeung-Levy, "Revisiting Active Learning in the Era of Vision
        Foundation Models", TMLR 2024.

    >>> draws = torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.7, 0.3]]])
    >>> drop_query_scores(draws, torch.tensor([[0.8, 0.2], [0.6, 0.4]]))
    tensor([0., 1.], dtype=torch.float64)
    """
    sizes: dict[str, tuple[int, str]] = {}
    rows = rows_first(check("draws", draws, sizes))
    classes = predicted(check("probs", probs, sizes)).to(rows.device)
    flipped = (
        (as_float(block).argmax(2) != classes[start : start + len(block), None]).sum(1).double()
        for start, block in rows.blocks()
    )
    return in_order(flipped, len(rows)).cpu()


def drop_query_work(sizes: Sizes) -> Work:
    """A pass over the draws, and k-means of some candidates: few or all of them."""
    some = kmeans_work(sizes)
    copy = 4.0 * sizes.rows * sizes.width
    held = (8.0 * sizes.rows, some.held[1] + 2 * copy)
    clusters = Work((0.0, some.products[1]), (0.0, some.passes[1]), (0.0, some.numbers[1]))
    return score_work(sizes) + clusters + Work(passes=(0.0, 0.0), steps=some.steps, held=held)


@strategy(
    cite="Gupte et al., TMLR 2024",
    cost=drop_query_work,
    costs=(
        "One pass over S x N x C draws; k-means of the M rows that flip, 2 M D n operations an "
        "iteration; 4 M D bytes."
    ),
    fails=(
        "Draws that flip everywhere or nowhere: then it is k-means or random; made for linear "
        "heads on frozen features of a good encoder."
    ),
)
def drop_query(
    draws: Rows,
    probs: Rows,
    embeddings: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    wanted: int = 25,
    normalize: bool = True,
    iterations: int = 100,
) -> Picks:
    """Cluster the candidates whose class flips in most draws; from each cluster the middle row.

    1. Rows flip as often as `drop_query_scores` says. Those that flip in more than half of the
       S draws are kept. While they are fewer than ``wanted`` * n and the bound is above 0 it
       goes down by one, in the end to any flip at all.
    2. Fewer than n are all picked, and the rest is drawn at random; the notes say so.
    3. Else k-means splits them into n clusters, and each gives the row nearest its center.
       Where rows coincide some clusters stay empty: the others then give their second nearest.

    Args:
        draws: (S, N, C), under dropout; the authors take 3 with 75 % of the features dropped.
        probs: (N, C), without it. Made of the mean of the draws where it is not given.
        embeddings: (N, D), the frozen features. Holds a copy of the rows that are clustered.
        wanted: how many rows for each pick make enough to choose from.
        normalize: divide each row by its length first, as the authors do.
        iterations: at most so many of Lloyd's steps.

    Returns:
        Picks, most flips first; the score is the number of flips.

    Raises:
        InputError: ``wanted`` or ``iterations`` no such number, or a zero row when normalizing.

    Source:
        Gupte, Aklilu, Nirschl & Yeung-Levy, "Revisiting Active Learning in the Era of Vision
        Foundation Models", TMLR 2024; defaults are the authors' code's.
    """
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise InputError(f"wanted must be a whole number >= 1, got {wanted!r}")
    features = check("embeddings", embeddings)
    flips = drop_query_scores(draws, probs).numpy()
    able = candidates.cpu().numpy()
    bound = _bound(flips[able], draws.shape[0] // 2, wanted * n)
    kept = able[flips[able] > bound]
    notes: tuple[str, ...] = ()
    if len(kept) > n:
        rows = _middles(features, kept, n, generator, normalize=normalize, iterations=iterations)
        notes = (f"{len(kept)} candidates that flip in more than {bound} draws were clustered",)
    else:
        rest = np.setdiff1d(able, kept, assume_unique=True)
        kept, rest = (part[np.argsort(generator.uniform(part))] for part in (kept, rest))
        rows = np.concatenate([kept, rest[: n - len(kept)]])
        if len(kept) < n:
            notes = (f"only {len(kept)} candidates flip in a draw: the rest is drawn at random",)
    rows = rows[np.argsort(-flips[rows], kind="stable")]
    return Picks(rows, scores=flips[rows], notes=notes)


def _bound(flips: NDArray[np.float64], half: int, enough: int) -> int:
    """The largest bound, at most half of the draws, that enough rows are above; at least 0."""
    bound = half
    while bound > 0 and np.count_nonzero(flips > bound) < enough:
        bound -= 1
    return bound


def _middles(
    features: Rows,
    kept: NDArray[np.int64],
    n: int,
    generator: Generator,
    *,
    normalize: bool,
    iterations: int,
) -> NDArray[np.int64]:
    """Of each of n clusters of some rows the one nearest its center."""
    which = torch.from_numpy(kept)
    points = unit_rows(features, which) if normalize else features.subset(which)
    items = generator.of(kept)
    found = cluster(points, n, generator=items, iterations=iterations)
    # Both rows of a cluster of two are as near its center: noise is to decide, not rounding.
    near = found.squared_distances.cpu()
    unit = _ROUNDING * float(near.max()) or 1.0
    middles = round_robin(
        -(near / unit).round() * unit,
        found.assignment,
        n=n,
        candidates=torch.arange(len(kept)),
        generator=items,
    )
    return kept[middles.rows.numpy()]
