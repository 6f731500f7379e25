"""`select`: from evidence by name to the rows worth labeling, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from labelwise.engine import Engine, find_engine
from labelwise.errors import InputError
from labelwise.kernels import Generator, derive
from labelwise.strategies.answers import as_picks, check_rows
from labelwise.strategies.call import (
    Call,
    check_count,
    usable_device,
    whole_number,
)
from labelwise.strategies.limits import Limits
from labelwise.strategies.memory import block_limit, parse_memory
from labelwise.strategies.picks import Picks, check_pseudo_rows
from labelwise.strategies.registry import Strategy, as_strategy, list_strategies
from labelwise.strategies.watch import Status, Watch


def select(
    strategy: str | Strategy | Callable[..., Any],
    n: int | None = None,
    *,
    seed: int = 0,
    labeled: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    candidates: ArrayLike | Tensor | None = None,
    exclude: ArrayLike | Tensor | None = None,
    costs: ArrayLike | Tensor | None = None,
    budget: float | None = None,
    quota: int | Mapping[int, int] | ArrayLike | None = None,
    duplicates: float | None = None,
    memory: int | str | None = None,
    device: torch.device | str | None = None,
    ids: ArrayLike | None = None,
    providers: Iterable[Callable[..., Any]] = (),
    checkpoint: Path | str | None = None,
    progress: Callable[[Status], object] | None = None,
    engine: str | Engine | None = None,
    **evidence_and_options: Any,
) -> Picks:
    """The n rows of a pool to label next.

    Args:
        strategy: a name (`list_strategies` has them all), or a function of your own whose
            positional parameters name the evidence it needs.
        n: how many rows, at most the number of candidates. With a budget it may be left out:
            as many as that buys.
        seed: any integer. The same seed gives the same picks.
        labeled: (L,) rows of the pool that have labels. Never picked.
        labels: (L,) their classes, 0..C-1.
        candidates: (M,) rows that may be picked; labeled ones among them are left out. By
            default all rows without labels.
        exclude: (E,) rows that may not be picked.
        costs: (N,) > 0, what labeling each row costs, in any unit.
        budget: the most that the picks may cost together. A pick that costs more than is left
            is passed over; strategies go by their own order, not by worth for money, but
            ``picker="per_cost"`` divides scores by costs.
        quota: the most picks of any one class, or of each class (C,), or of the classes that a
            mapping names. The class of a row is the one ``probs`` has likeliest.
        duplicates: pass over rows whose ``embeddings`` have at least this cosine similarity,
            in (0, 1], to those of a labeled row or of an earlier pick.
        memory: bytes a strategy may hold beyond its inputs, or text such as ``"4GB"``. Passed
            to strategies that take a bound; the others hold little more than their scores.
        device: where to move arrays before the strategy computes with them, whole; by default
            each stays where it is, and files on disk are read in blocks.
        ids: (N,) what identifies each row, integers or strings, all different. With ids the
            random numbers belong to the items, and another order of rows picks the same items.
        providers: functions that compute further evidence, see `labelwise.evidence.provider`.
        checkpoint: a file to keep the picks in while they are made, every few seconds. The
            same call goes on from there, to the same picks; the file is gone at the end. For
            strategies that pick one row after another.
        progress: called with a `Status` as picks are made, by the same strategies.
        engine: ``"local"`` for this process; ``"ray"`` for a Ray cluster (that of RAY_ADDRESS,
            or one of this machine), which cuts the pool into shards and picks the same rows; an
            engine of `labelwise.engine` with options of its own. LABELWISE_ENGINE by default.
            For strategies that have a kernel for shards.
        **evidence_and_options: evidence about the whole pool by name (``logits``, ``probs``,
            ``embeddings``, ``draws``, ``head_weight``, ``head_bias``, or what your strategy
            names): NumPy, memory-mapped or torch arrays, lists, paths to ``.npy`` files, of
            float16, 32 or 64; and options of the strategy and of its picker.

    Returns:
        The picks in order, with scores, reasons and seconds. Where budget, quota or duplicates
        leave fewer than n rows the picks are fewer, and their notes say so.

    Raises:
        InputError: an argument, evidence or option that breaks its rule; evidence missing; or
            a strategy that does not return n distinct candidates.
        ResourceError: a bound on memory that cannot be kept.

    >>> import numpy as np
    >>> probs = np.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]])
    >>> picks = select("margin", 2, probs=probs)
    >>> picks.rows, picks.scores.round(2)
    (array([1, 2]), array([1. , 0.8]))
    >>> select("power of margins", 1, probs=probs)
    Traceback (most recent call last):
        ...
    labelwise.errors.InputError: there is no strategy 'power of margins'; ...
    """
    start = time.perf_counter()
    found = as_strategy(strategy)
    bound = parse_memory(memory)
    given, where = evidence_and_options, usable_device(device)
    if costs is not None:
        given["costs"] = costs
    call = Call(found, given, providers, labeled, labels, ids, where, block_limit(bound))
    left = call.candidates(candidates, exclude)
    limits = Limits(call.evidence, budget=budget, quota=quota, duplicates=duplicates)
    if n is not None or budget is None:
        check_count(n, len(left))
    if limits.any and checkpoint is not None:
        raise InputError(
            "checkpoint= goes without budget, quota and duplicates: they may ask a strategy "
            "more than once"
        )

    def ask(count: int, left: Tensor) -> Picks:
        kept = None if checkpoint is None else call.checkpoint(checkpoint, count, seed, left)
        if bound is not None and "memory" not in found.reserved:
            call.check_memory(bound, count)
        reserved = {
            "n": count,
            "candidates": left,
            "generator": Generator(derive(whole_number(seed, "seed"), found.name), ids),
            "memory": bound,
            "progress": Watch(count, progress, kept).progress(),
            "engine": _engine(engine, found),
            "ids": None if ids is None else np.asarray(ids),
        }
        with torch.no_grad():
            answer = call.run(reserved)
        picks = as_picks(found.name, answer)
        check_rows(found.name, picks.rows, count, left)
        check_pseudo_rows(found.name, picks, left)
        if kept is not None:
            kept.remove()
        return picks

    picks = _within(limits, n, left, ask) if limits.any else ask(int(n or 0), left)
    sure = picks.pseudo_rows
    return replace(
        picks,
        ids=None if ids is None else np.asarray(ids)[picks.rows],
        pseudo_ids=None if ids is None or sure is None else np.asarray(ids)[sure],
        strategy=found.name,
        options=call.told,
        seed=seed,
        seconds=time.perf_counter() - start,
    )


def _within(
    limits: Limits, n: int | None, left: Tensor, ask: Callable[[int, Tensor], Picks]
) -> Picks:
    """Ask for more picks until enough of them are within the limits, or there are no more.

    Raises:
        InputError: the limits rule out every candidate.
    """
    left = limits.possible(left)
    if not len(left):
        raise InputError("there is nothing to pick: budget and quota rule out every candidate")
    most = len(left) if n is None else min(n, len(left))
    count = most if n is not None else limits.first_guess(left)
    factor, crowded, unpaid = 1, 0, 0
    while True:
        picks = ask(count, left)
        kept = limits.keep(picks.rows, n)
        crowded, unpaid = crowded + kept.crowded, unpaid + kept.unpaid
        missing = most - len(kept.positions)
        rest, more = limits.after(left, picks.rows, kept)
        if not missing or not more or count == len(left):
            told = replace(kept, crowded=crowded, unpaid=unpaid)
            return replace(
                picks.take(kept.positions),
                notes=(*picks.notes, *limits.notes(told, picks.rows, n)),
            )
        left = rest
        if kept.copies or kept.unpaid:
            factor *= 2
        if n is None:
            wanted = max(count, min(2 * count, len(kept.positions) + factor * more))
        else:
            wanted = n + (factor - 1) * missing
        count = min(len(left), wanted)


def _engine(engine: str | Engine | None, strategy: Strategy) -> Engine:
    """Where the strategy runs.

    Raises:
        InputError: no such engine, or not for this strategy.
    """
    found = find_engine(engine)
    if found.name != "local" and "engine" not in strategy.reserved:
        said = "engine" if engine else "LABELWISE_ENGINE"
        able = ", ".join(s.name for s in list_strategies() if "engine" in s.reserved)
        raise InputError(
            f"{said} is {found.name!r}, which {strategy.name} cannot use; {able} can, and "
            "engine='local' is for all"
        )
    return found
