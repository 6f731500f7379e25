"""`select`: from evidence by name to the rows worth labeling, in one call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from labelwise.errors import InputError, nearest
from labelwise.evidence import Evidence, Rows, Signature, row_numbers
from labelwise.kernels import Chosen, Generator, derive
from labelwise.strategies.checkpoint import Checkpoint, fingerprint
from labelwise.strategies.memory import parse_memory
from labelwise.strategies.pickers import picker_signature
from labelwise.strategies.picks import Picks
from labelwise.strategies.registry import Strategy, get_strategy
from labelwise.strategies.watch import Status, Watch


def select(
    strategy: str | Strategy | Callable[..., Any],
    n: int,
    *,
    seed: int = 0,
    labeled: ArrayLike | Tensor | None = None,
    labels: ArrayLike | Tensor | None = None,
    candidates: ArrayLike | Tensor | None = None,
    memory: int | str | None = None,
    device: torch.device | str | None = None,
    ids: ArrayLike | None = None,
    providers: Iterable[Callable[..., Any]] = (),
    checkpoint: Path | str | None = None,
    progress: Callable[[Status], object] | None = None,
    **evidence_and_options: Any,
) -> Picks:
    """The n rows of a pool to label next.

    Args:
        strategy: a name (`list_strategies` has them all), or a function of your own whose
            positional parameters name the evidence it needs.
        n: how many rows, at most the number of candidates.
        seed: any integer. The same seed gives the same picks.
        labeled: (L,) rows of the pool that have labels. Never picked.
        labels: (L,) their classes, 0..C-1.
        candidates: (M,) rows that may be picked; labeled ones among them are left out. By
            default all rows without labels.
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
        **evidence_and_options: evidence about the whole pool by name (``logits``, ``probs``,
            ``embeddings``, ``draws``, ``head_weight``, ``head_bias``, or what your strategy
            names): NumPy, memory-mapped or torch arrays, lists, paths to ``.npy`` files, of
            float16, 32 or 64; and options of the strategy and of its picker.

    Returns:
        The picks in order, with scores, reasons and seconds.

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
    found = _strategy(strategy)
    call = _Call(found, evidence_and_options, providers, labeled, labels, ids, _device(device))
    left = call.candidates(candidates)
    _check_count(n, len(left), call.evidence.size)
    kept = None if checkpoint is None else call.checkpoint(checkpoint, n, seed, left)
    reserved = {
        "n": int(n),
        "candidates": left,
        "generator": Generator(derive(_whole(seed, "seed"), found.name), ids),
        "memory": parse_memory(memory),
        "progress": Watch(int(n), progress, kept).progress(),
    }
    with torch.no_grad():
        answer = call.run(reserved)
    picks = _as_picks(found.name, answer)
    _check_rows(found.name, picks.rows, n, left)
    if kept is not None:
        kept.remove()
    return Picks(
        picks.rows,
        scores=picks.scores,
        weights=picks.weights,
        probability=picks.probability,
        pseudo_labels=picks.pseudo_labels,
        notes=picks.notes,
        ids=None if ids is None else np.asarray(ids)[picks.rows],
        strategy=found.name,
        options=call.told,
        seed=seed,
        seconds=time.perf_counter() - start,
    )


def _strategy(strategy: str | Strategy | Callable[..., Any]) -> Strategy:
    if isinstance(strategy, str):
        return get_strategy(strategy)
    return strategy if isinstance(strategy, Strategy) else Strategy(strategy)


class _Call:
    """One call of one strategy: what it asks for, sorted into evidence and options."""

    def __init__(
        self,
        strategy: Strategy,
        given: Mapping[str, Any],
        providers: Iterable[Callable[..., Any]],
        labeled: Any,
        labels: Any,
        ids: Any,
        device: torch.device | str | None,
    ) -> None:
        self.strategy = strategy
        self.ids = ids
        self.picker = self._picker(given.get("picker"))
        options = {*strategy.options, *(self.picker.options if self.picker else ())}
        self.told = {name: value for name, value in given.items() if name in options}
        evidence = {name: value for name, value in given.items() if name not in options}
        if "oracle_labels" in evidence:
            raise InputError(
                "oracle_labels cannot be passed to select: a strategy never sees the pool's "
                "labels; to compare with one that does, use `labelwise simulate`"
            )
        evidence |= _labels(labeled, labels)
        size = None if ids is None else len(np.asarray(ids))
        self.evidence = Evidence(evidence, providers, size=size, device=device)
        self._check_names(evidence, options)
        if strategy.simulation_only and "oracle_labels" not in self.evidence:
            raise InputError(
                f"{strategy.name} knows the true labels of the pool, so only a simulation can "
                "run it: use `labelwise simulate`"
            )

    def _picker(self, picker: Any) -> Signature | None:
        """The picker's signature, where the strategy has an option of that name."""
        if "picker" not in self.strategy.options:
            return None
        return picker_signature(self.strategy.options["picker"] if picker is None else picker)

    @property
    def needs(self) -> tuple[str, ...]:
        """All evidence that this call cannot do without."""
        more = self.picker.needs if self.picker else ()
        return tuple(dict.fromkeys((*self.strategy.needs, *more)))

    def _check_names(self, evidence: Mapping[str, Any], options: set[str]) -> None:
        """Refuse a name that nobody in this call can have any use for: it is misspelt."""
        named = {*self.strategy.needs, *self.strategy.optional}
        if self.picker is not None:
            named |= set(self.picker.evidence)
        known = self.evidence.known | named
        for name in evidence:
            if name not in known:
                raise InputError(
                    f"{name!r} is neither evidence nor an option of {self.strategy.name}; "
                    f"{nearest(name, (known | options) - {'oracle_labels'})}"
                )

    def candidates(self, candidates: Any) -> Tensor:
        """Rows that may be picked: ascending, none of them labeled."""
        size = self._size(candidates)
        free = torch.ones(size, dtype=torch.bool)
        if candidates is not None:
            free[:] = False
            free[row_numbers(Rows(candidates, "candidates"), size)] = True
        if "labeled" in self.evidence:
            free[row_numbers(Rows(self.evidence["labeled"], "labeled"), size)] = False
        return free.nonzero()[:, 0]

    def _size(self, candidates: Any) -> int:
        """How many rows the pool has, from whatever tells."""
        if self.evidence.size is None:
            needs = [name for name in self.needs if name not in ("labeled", "labels")]
            self.evidence.require(needs, self.strategy.name)
        if self.evidence.size is not None:
            return self.evidence.size
        if candidates is None:
            raise InputError(
                f"{self.strategy.name} cannot tell how many rows the pool has; pass evidence, "
                "ids= or candidates=range(...)"
            )
        rows = row_numbers(Rows(candidates, "candidates"), None)
        known = [rows, self.evidence["labeled"]] if "labeled" in self.evidence else [rows]
        return int(torch.cat(known).max()) + 1 if any(len(part) for part in known) else 0

    def checkpoint(self, path: Path | str, n: int, seed: int, candidates: Tensor) -> Checkpoint:
        """The file of this call's picks, and of no other's."""
        if "progress" not in self.strategy.reserved:
            raise InputError(
                f"{self.strategy.name} makes all its picks at once and keeps no checkpoint; leave "
                "checkpoint= out"
            )
        wanted = {*self.needs, *self.strategy.optional} & set(self.evidence.given)
        call = fingerprint(
            {name: self.evidence.given[name] for name in wanted},
            strategy=self.strategy.name,
            options=sorted(self.told.items()),
            n=int(n),
            seed=seed,
            ids=None if self.ids is None else np.asarray(self.ids).tolist(),
            candidates=candidates,
        )
        return Checkpoint(path, call)

    def run(self, reserved: Mapping[str, Any]) -> Any:
        """Compute the evidence and call the strategy."""
        graph, strategy = self.evidence, self.strategy
        graph.require(self.needs, strategy.name)
        needed = [graph[name] for name in strategy.needs]
        extra = {name: graph[name] for name in strategy.optional if name in graph}
        options = {name: v for name, v in self.told.items() if name in strategy.options}
        if self.picker is not None:
            options["picker"] = self._bound(self.picker)
        kept = {name: value for name, value in reserved.items() if name in strategy.reserved}
        return strategy.function(*needed, **extra, **options, **kept)

    def _bound(self, picker: Signature) -> Callable[..., Any]:
        """The picker with its evidence and options filled in."""
        names = [*picker.needs, *(name for name in picker.optional if name in self.evidence)]
        filled = {name: self.evidence[name] for name in names}
        filled |= {name: value for name, value in self.told.items() if name in picker.options}
        return partial(picker.function, **filled)


def _labels(labeled: Any, labels: Any) -> dict[str, Any]:
    """Labeled rows and their labels as evidence; an empty list is nothing labeled."""
    if labeled is None:
        if labels is not None and len(labels):
            raise InputError("labels are the classes of labeled rows: pass labeled= too")
        return {}
    rows = Rows(labeled, "labeled")
    if labels is not None and len(Rows(labels, "labels")) != len(rows):
        raise InputError(
            f"labels must be one class for each labeled row, got {len(Rows(labels, 'labels'))} "
            f"labels for {len(rows)} rows"
        )
    if not len(rows):
        return {}
    return {"labeled": rows, "labels": labels}


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def _device(device: torch.device | str | None) -> torch.device | None:
    """A device that exists here."""
    if device is None:
        return None
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"device must be one this torch can use, got {device!r}: {reason}"
        ) from error
    return found


def _check_count(n: Any, left: int, size: int | None) -> None:
    count = _whole(n, "n")
    if not left:
        raise InputError("there is nothing to pick: every candidate is labeled")
    if not 1 <= count <= left:
        raise InputError(f"n must be in 1..{left} (the rows that may be picked), got {count}")


def _as_picks(name: str, answer: Any) -> Picks:
    """What a strategy returned, as picks."""
    if isinstance(answer, Picks):
        return answer
    if isinstance(answer, Chosen):
        return Picks(answer.rows.cpu().numpy(), scores=answer.gains.cpu().numpy())
    if answer is None:
        raise InputError(f"{name} returned None; a strategy returns the rows it picked")
    rows: NDArray[Any] = Rows(answer, f"what {name} returned").tensor().cpu().numpy()
    return Picks(rows)


def _check_rows(name: str, rows: NDArray[np.int64], n: int, candidates: Tensor) -> None:
    """A strategy, of ours or of the user's, has to return n distinct candidates."""
    if len(rows) != n:
        raise InputError(f"{name} returned {len(rows)} rows, but n is {n}")
    outside = rows[~np.isin(rows, candidates.numpy())]
    if len(outside):
        raise InputError(
            f"{name} returned row {outside[0]}, which is no candidate; pick from candidates only"
        )
    values, counts = np.unique(rows, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"{name} returned row {values[counts > 1][0]} more than once")
