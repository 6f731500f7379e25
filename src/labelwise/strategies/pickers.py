"""Pickers turn scores into picks. Any of them goes with any score.

A picker is written like a strategy: after the scores, its positional parameters are the evidence
it needs and its keyword-only ones are options. All but `top` are for batches: the rows with the
largest scores are often near-copies of one another.

Equal scores are common, not an accident: a saturated softmax gives thousands. Broken by row
number they would follow the data set's order, which is often sorted by class, so noise hashed
from the seed and the item's id decides.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Rows, Signature, as_float, check, read_signature
from labelwise.kernels import Chosen, Generator, per_row
from labelwise.strategies.clusters import cluster

SMALLEST_SCORE = 1e-12
"""What `power` takes zero for; rounding puts BALD a little below zero, where a log is NaN."""

_ROUNDING = 1e-6
_BIND = frozenset({"n", "candidates", "generator"})

Picker = Callable[..., Chosen]


def top(scores: Tensor, *, n: int, candidates: Tensor, generator: Generator) -> Chosen:
    """The n candidates with the largest scores, largest first.

    Args:
        scores: (N,), larger = ask first. Minus infinity is allowed: asked last.
        n: how many, at most the number of candidates.
        candidates: (M,) int64 rows that may be picked.
        generator: breaks ties.

    Returns:
        (n,) rows and their scores. O(M + n log n): a partition, no sort of the pool.

    Raises:
        InputError: scores that are no (N,) numbers, or NaN at a candidate.

    >>> top(torch.tensor([0.2, 0.9, 0.5]), n=2, candidates=torch.arange(3),
    ...     generator=Generator(0)).rows
    tensor([1, 2])
    """
    values = _at_candidates(scores, candidates)
    return _chosen(values, largest(values, n, candidates, generator), candidates)


def power(
    scores: Tensor, *, n: int, candidates: Tensor, generator: Generator, beta: float = 1.0
) -> Chosen:
    """n candidates drawn one after another with chances proportional to ``score ** beta``.

    With BALD's scores this is PowerBALD. Scores below 1e-12 count as 1e-12.

    Args:
        scores, n, candidates, generator: see `top`; scores must be >= 0.
        beta: > 0. Large values approach `top`, small ones approach random.

    Returns:
        (n,) rows in the order drawn and their (unperturbed) scores.

    Raises:
        InputError: a negative score, or beta not positive.

    Source:
        Kirsch, Farquhar, Atighehchian, Jesson, Branchaud-Charron & Gal, "Stochastic Batch
        Acquisition: A Simple Baseline for Deep Active Learning", TMLR 2023. Drawn as the
        largest of ``beta log(score) + Gumbel noise``.
    """
    values = _not_negative(scores, candidates, "power", 'softmax" or "soft_rank')
    keys = _positive(beta, "beta") * np.log(np.maximum(values, SMALLEST_SCORE))
    return _drawn(values, keys, n, candidates, generator)


def softmax(
    scores: Tensor, *, n: int, candidates: Tensor, generator: Generator, beta: float = 1.0
) -> Chosen:
    """n candidates drawn one after another with chances proportional to ``exp(beta score)``.

    Args, returns and source as `power`; scores may be negative.

    Raises:
        InputError: beta not positive.
    """
    values = _at_candidates(scores, candidates)
    return _drawn(values, _positive(beta, "beta") * values, n, candidates, generator)


def soft_rank(
    scores: Tensor, *, n: int, candidates: Tensor, generator: Generator, beta: float = 1.0
) -> Chosen:
    """n candidates drawn one after another with chances proportional to ``rank ** -beta``.

    The largest score has rank 1. Only the order of the scores counts, not their scale.
    Args, returns, errors and source as `softmax`.
    """
    values = _at_candidates(scores, candidates)
    order = np.lexsort((_ties(candidates, generator), -values))
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1)
    return _drawn(values, -_positive(beta, "beta") * np.log(ranks), n, candidates, generator)


def per_class(
    scores: Tensor, probs: Rows, *, n: int, candidates: Tensor, generator: Generator
) -> Chosen:
    """The largest scores of each predicted class in turn, as many of each as there are.

    Round r picks the r-th largest score of every class that has one, larger scores first;
    the last round, if cut short, keeps the larger scores.

    Args:
        scores, n, candidates, generator: see `top`.
        probs: (N, C); a row belongs to its likeliest class.
    """
    groups = predicted(probs)
    return round_robin(scores, groups, n=n, candidates=candidates, generator=generator)


def per_cluster(
    scores: Tensor,
    embeddings: Rows,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    clusters: int = 20,
) -> Chosen:
    """The largest scores of each cluster of the embeddings in turn; see `per_class`.

    Args:
        scores, n, candidates, generator: see `top`.
        embeddings: (N, D), clustered by k-means.
        clusters: how many clusters, at most the number of rows. 20 is what Emam et al.
            (2021) take for margin clustering.

    Raises:
        InputError: clusters not a positive whole number.
    """
    if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 1:
        raise InputError(f"clusters must be a whole number >= 1, got {clusters!r}")
    rows = check("embeddings", embeddings)
    k = min(clusters, len(rows))
    found = cluster(rows, k, generator=generator)
    return round_robin(scores, found.assignment, n=n, candidates=candidates, generator=generator)


def per_cost(
    scores: Tensor, costs: Rows, *, n: int, candidates: Tensor, generator: Generator
) -> Chosen:
    """The n candidates with the largest scores for what labeling them costs.

    Args:
        scores, n, candidates, generator: see `top`; scores must be >= 0.
        costs: (N,) > 0, in any unit.

    Returns:
        (n,) rows, the largest ``score / cost`` first, and their scores.

    Raises:
        InputError: a negative score: what is it worth, if it costs more?

    >>> per_cost(torch.tensor([0.9, 0.8]), Rows([3.0, 1.0]), n=1, candidates=torch.arange(2),
    ...     generator=Generator(0)).rows
    tensor([1])
    """
    values = _not_negative(scores, candidates, "per_cost", "top")
    prices = check("costs", costs).tensor().cpu().double()[candidates.cpu()].numpy()
    return _chosen(values, largest(values / prices, n, candidates, generator), candidates)


def round_robin(
    scores: Tensor,
    groups: Tensor,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
) -> Chosen:
    """The largest scores of each group in turn, so that groups share n as evenly as they can.

    Args:
        scores, n, candidates, generator: see `top`.
        groups: (N,) int64, the group of each row.

    Returns:
        (n,) rows, every group's largest score first, then every group's second, and so on,
        and their scores. O(M log M).
    """
    values = _at_candidates(scores, candidates)
    member = groups.cpu().numpy()[candidates.cpu().numpy()]
    noise = _ties(candidates, generator)
    order = np.lexsort((noise, -values, member))
    ordered = member[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[starts, len(ordered)])
    turn = np.empty(len(values), dtype=np.int64)
    turn[order] = np.arange(len(values)) - np.repeat(starts, sizes)
    return _chosen(values, np.lexsort((noise, -values, turn))[:n], candidates)


def predicted(probs: Rows) -> Tensor:
    """The likeliest class of each row, (N,) int64 on the CPU; the lowest class on a tie."""
    rows = check("probs", probs)
    return per_row(rows.blocks(), len(rows), lambda block: as_float(block).argmax(1)).cpu()


PICKERS: dict[str, Picker] = {
    function.__name__: function
    for function in (top, power, softmax, soft_rank, per_class, per_cluster, per_cost)
}


def picker_signature(picker: str | Picker) -> Signature:
    """What a picker needs, by its name or from a function of your own.

    Raises:
        InputError: no such picker.

    >>> picker_signature("per_class").needs
    ('probs',)
    """
    if isinstance(picker, str):
        if picker not in PICKERS:
            raise InputError(f"there is no picker {picker!r}; {nearest(picker, PICKERS)}")
        picker = PICKERS[picker]
    if isinstance(picker, partial):
        found = read_signature(picker.func, reserved=_BIND, skip=1)
        return Signature(picker, found.name, (), (), {}, found.reserved)
    return read_signature(picker, reserved=_BIND, skip=1)


def pick(
    scores: Tensor,
    *,
    n: int,
    candidates: Tensor,
    generator: Generator,
    picker: str | Picker = "top",
) -> Chosen:
    """Pick by name: ``picker`` is a name in `PICKERS`, or a function like those.

    `select` binds a picker's evidence and options before the strategy sees it; whoever calls a
    strategy by hand uses ``functools.partial``.

    >>> pick(torch.tensor([0.2, 0.9]), n=1, candidates=torch.arange(2), generator=Generator(0),
    ...      picker=partial(power, beta=50.0)).rows
    tensor([1])
    """
    function = picker_signature(picker).function
    chosen: Any = function(scores, n=n, candidates=candidates, generator=generator)
    if isinstance(chosen, Chosen):
        return chosen
    rows = torch.as_tensor(chosen)
    return Chosen(rows, torch.as_tensor(scores).cpu().double()[rows])


def _at_candidates(scores: Tensor, candidates: Tensor) -> NDArray[np.float64]:
    """Scores of the candidates, (M,) float64, checked."""
    array = torch.as_tensor(scores).detach().cpu().double().numpy()
    rows = candidates.cpu().numpy()
    if array.ndim != 1 or len(array) <= rows.max(initial=-1):
        raise InputError(
            f"scores must be one number for each row of the pool, (N,), got shape {array.shape}"
        )
    values: NDArray[np.float64] = array[rows]
    if np.isnan(values).any():
        raise InputError(f"scores must be numbers, but row {rows[np.isnan(values)][0]} is nan")
    return values


def _not_negative(
    scores: Tensor, candidates: Tensor, picker: str, instead: str
) -> NDArray[np.float64]:
    """Scores of the candidates for a picker that takes no negative ones."""
    values = _at_candidates(scores, candidates)
    if values.min(initial=0.0) < -_ROUNDING:
        at = int(values.argmin())
        raise InputError(
            f"the {picker} picker needs scores >= 0, but row {int(candidates[at])} scores "
            f'{values[at]:.4g}; use picker="{instead}"'
        )
    return values


def _ties(candidates: Tensor, generator: Generator) -> NDArray[np.float64]:
    return generator.child("ties").uniform(candidates.cpu().numpy())


def largest(
    values: NDArray[np.float64], n: int, candidates: Tensor, generator: Generator
) -> NDArray[np.int64]:
    """Positions of the n largest of some candidates' values, largest first, ties by noise.

    Args:
        values: (M,), of the candidates (M,); -inf is allowed, NaN is not.
        n: how many. generator: breaks ties by candidate, whatever else is asked about.
    """
    kept = np.arange(len(values))
    if n < len(values):
        threshold = -np.partition(-values, n - 1)[n - 1]
        above = np.flatnonzero(values > threshold)
        ties = np.flatnonzero(values == threshold)
        room = n - len(above)
        if room < len(ties):
            noise = _ties(candidates[ties], generator)
            ties = ties[np.argpartition(noise, room - 1)[:room]]
        kept = np.concatenate([above, ties])
    order: NDArray[np.int64] = kept[np.lexsort((_ties(candidates[kept], generator), -values[kept]))]
    return order


def _drawn(
    values: NDArray[np.float64],
    keys: NDArray[np.float64],
    n: int,
    candidates: Tensor,
    generator: Generator,
) -> Chosen:
    """The n largest of keys plus Gumbel noise: a draw without replacement by exp(key)."""
    noise = generator.child("gumbel").gumbel(candidates.cpu().numpy())
    return _chosen(values, largest(keys + noise, n, candidates, generator), candidates)


def _chosen(values: NDArray[np.float64], at: NDArray[np.int64], candidates: Tensor) -> Chosen:
    return Chosen(candidates.cpu()[torch.from_numpy(at)], torch.from_numpy(values[at]))


def _positive(value: float, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
        raise InputError(f"{name} must be a positive number, got {value!r}")
    return float(value)
