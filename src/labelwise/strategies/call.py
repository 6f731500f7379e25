"""One call of one strategy: what was passed, sorted into evidence and options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial, reduce
from itertools import chain
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from labelwise.errors import InputError, ResourceError, nearest
from labelwise.evidence import RULES, Evidence, Rows, Signature, row_numbers
from labelwise.kernels.cost import Sizes
from labelwise.strategies.arms import Arm, arms_of
from labelwise.strategies.checkpoint import Checkpoint, fingerprint
from labelwise.strategies.experience import Experience
from labelwise.strategies.pickers import picker_signature
from labelwise.strategies.registry import Cost, Strategy

_MOST_ROWS = 10**9
"""A pool of which nothing but row numbers is known has no more rows than that."""


def call_needs(strategy: Strategy, told: Mapping[str, Any]) -> tuple[str, ...]:
    """All evidence that a strategy cannot do without, with some options.

    Args:
        strategy: with what its picker or its arms need.
        told: options said on its behalf; the others are its defaults.

    Raises:
        InputError: no such picker, or arms that are none.

    >>> from labelwise.strategies.registry import get_strategy
    >>> call_needs(get_strategy("margin"), {"picker": "per_cluster"})
    ('probs', 'embeddings')
    """
    picker = _picker(strategy, told)
    more = [picker.needs] if picker else []
    more += [arm.needs for arm in arms_of(strategy, told)]
    return tuple(dict.fromkeys((*strategy.needs, *chain.from_iterable(more))))


def _picker(strategy: Strategy, told: Mapping[str, Any]) -> Signature | None:
    """The picker's signature, where the strategy has an option of that name."""
    if "picker" not in strategy.options:
        return None
    picker = told.get("picker")
    return picker_signature(strategy.options["picker"] if picker is None else picker)


class Call:
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
        block_bytes: int | None = None,
    ) -> None:
        # NumPy's numbers are what a loop over an array gives; nobody should have to convert them.
        given = {k: v.item() if isinstance(v, np.generic) else v for k, v in given.items()}
        self.strategy = strategy
        self.ids = ids
        self.picker = _picker(strategy, given)
        self.arms = arms_of(strategy, given)
        options = {*strategy.options, *(self.picker.options if self.picker else ())}
        self.told = {name: value for name, value in given.items() if name in options}
        for function in (strategy.function, *([self.picker.function] if self.picker else [])):
            _check_kinds(function, self.told)
        evidence = {name: value for name, value in given.items() if name not in options}
        if "oracle_labels" in evidence:
            raise InputError(
                "oracle_labels cannot be passed to select: a strategy never sees the pool's "
                "labels; to compare with one that does, use `labelwise simulate`"
            )
        evidence |= _labels(labeled, labels)
        size = None if ids is None else _length(ids, "ids")
        self.evidence = Evidence(
            evidence, providers, size=size, device=device, block_bytes=block_bytes
        )
        self._check_names(evidence, options)
        if strategy.simulation_only and "oracle_labels" not in self.evidence:
            raise InputError(
                f"{strategy.name} knows the true labels of the pool, so only a simulation can "
                "run it: use `labelwise simulate`"
            )

    @property
    def needs(self) -> tuple[str, ...]:
        """All evidence that this call cannot do without."""
        return call_needs(self.strategy, self.told)

    @property
    def evidence_used(self) -> tuple[str, ...]:
        """All evidence that the strategy and its arms look at, where there is any."""
        each = ((one.needs, one.optional) for one in (self.strategy, *self.arms))
        return tuple(dict.fromkeys(chain.from_iterable(chain.from_iterable(each))))

    @property
    def cost(self) -> Cost | None:
        """What a call of some size does, with its arms; None where one of them does not say."""
        costs = [one.cost for one in (self.strategy, *self.arms)]
        known = [cost for cost in costs if cost is not None]
        if len(known) < len(costs):
            return None
        return lambda sizes: reduce(add, (cost(sizes) for cost in known))

    def _check_names(self, evidence: Mapping[str, Any], options: set[str]) -> None:
        """Refuse a name that nobody in this call can have any use for: it is misspelt."""
        named = set(self.evidence_used)
        if self.picker is not None:
            named |= set(self.picker.evidence)
        known = self.evidence.known | named
        for name in evidence:
            if name not in known:
                raise InputError(
                    f"{name!r} is neither evidence nor an option of {self.strategy.name}; "
                    f"{nearest(name, (known | options) - {'oracle_labels'})}"
                )

    def candidates(self, candidates: Any, exclude: Any = None) -> Tensor:
        """Rows that may be picked: ascending, none of them labeled or excluded."""
        size = self._size(candidates)
        free = torch.ones(size, dtype=torch.bool)
        if candidates is not None:
            free[:] = False
            free[row_numbers(Rows(candidates, "candidates"), size)] = True
        if "labeled" in self.evidence:
            free[row_numbers(Rows(self.evidence["labeled"], "labeled"), size)] = False
        if exclude is not None:
            free[row_numbers(Rows(exclude, "exclude"), size)] = False
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
        size = int(torch.cat(known).max()) + 1 if any(len(part) for part in known) else 0
        if size > _MOST_ROWS:
            raise InputError(
                f"candidates must be positions in the pool, but one is {size - 1:,}; what names "
                "the items goes into ids="
            )
        return size

    def checkpoint(self, path: Path | str, n: int, seed: int, candidates: Tensor) -> Checkpoint:
        """The file of this call's picks, and of no other's."""
        if "progress" not in self.strategy.reserved:
            raise InputError(
                f"{self.strategy.name} makes all its picks at once and keeps no checkpoint; leave "
                "checkpoint= out"
            )
        wanted = {*self.needs, *self.evidence_used} & set(self.evidence.given)
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

    def check_memory(self, memory: int, n: int) -> None:
        """Refuse a bound that a strategy without a bound of its own cannot keep."""
        if self.cost is None:
            return
        least = self.cost(call_sizes(self.evidence, self.evidence_used, n)[0]).held[0]
        if memory < least:
            raise ResourceError(
                f"memory must be at least {least / 1e6:.3g} MB for {self.strategy.name} and this "
                f"pool, got {memory / 1e6:.3g} MB"
            )

    def run(self, reserved: Mapping[str, Any]) -> Any:
        """Compute the evidence and call the strategy."""
        self.evidence.require(self.needs, self.strategy.name)
        options = {name: v for name, v in self.told.items() if name in self.strategy.options}
        if self.picker is not None:
            options["picker"] = self._bound(self.picker)
        if self.arms:
            shared = {name: reserved[name] for name in ("memory", "engine", "ids")}
            options["arms"] = tuple(
                Arm(arm.name, "picker" in arm.options, self._filled(arm, {}, shared, own=False))
                for arm in self.arms
            )
        if "experience" in self.strategy.options:
            given = self.told.get("experience", self.strategy.options["experience"])
            options["experience"] = Experience.find(given)
        return self._filled(self.strategy, options, reserved)()

    def _filled(
        self,
        strategy: Strategy,
        options: Mapping[str, Any],
        reserved: Mapping[str, Any],
        *,
        own: bool = True,
    ) -> Callable[..., Any]:
        """A strategy with its evidence, its options and what is reserved filled in.

        Args:
            strategy, options, reserved: see there.
            own: whether the state that was passed is the strategy's; else it gets none.
        """
        graph = self.evidence
        needed = [graph[name] for name in strategy.needs]
        extra = {
            name: graph[name]
            for name in strategy.optional
            if name in graph and (own or name != "state")
        }
        kept = {name: value for name, value in reserved.items() if name in strategy.reserved}

        def ask(**more: Any) -> Any:
            asked = {name: value for name, value in more.items() if name in strategy.reserved}
            return strategy.function(*needed, **extra, **options, **kept, **asked)

        return ask

    def _bound(self, picker: Signature) -> Callable[..., Any]:
        """The picker with its evidence and options filled in."""
        names = [*picker.needs, *(name for name in picker.optional if name in self.evidence)]
        filled = {name: self.evidence[name] for name in names}
        filled |= {name: value for name, value in self.told.items() if name in picker.options}
        return partial(picker.function, **filled)


def _check_kinds(function: Callable[..., Any], told: Mapping[str, Any]) -> None:
    """Refuse what an option cannot be at all: text for a number, anything but a bool for one.

    Goes by plain annotations, ``bool``, ``int`` and ``float``, with ``| None`` or without; which
    numbers are meant is for the function to say.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        hint = parameter.annotation
        text = hint if isinstance(hint, str) else getattr(hint, "__name__", str(hint))
        kinds = set(text.split(" | "))
        if name not in told or not kinds <= {"bool", "int", "float", "None"}:
            continue
        value, yes_or_no = told[name], kinds <= {"bool", "None"}
        if value is None and "None" in kinds:
            continue
        if not isinstance(value, bool if yes_or_no else int | float):
            kind = "true or false" if yes_or_no else "a number"
            shown = " ".join(repr(value).split())
            raise InputError(f"{name} must be {kind}, got {shown:.60}")


def _labels(labeled: Any, labels: Any) -> dict[str, Any]:
    """Labeled rows and their labels as evidence; an empty list is nothing labeled."""
    if labeled is None:
        if labels is not None and _length(labels, "labels"):
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


def _length(values: Any, name: str) -> int:
    """How many there are of something that need not be numbers."""
    shape = tuple(values.shape) if isinstance(values, Tensor) else np.shape(values)
    if not shape:
        raise InputError(f"{name} must be a list, got {values!r:.60}")
    return int(shape[0])


def whole_number(value: Any, name: str) -> int:
    """An integer, or an error that names it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name} must be a whole number, got {value!r}")
    return int(value)


def usable_device(device: torch.device | str | None) -> torch.device | None:
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


def check_count(n: Any, left: int) -> None:
    """Refuse a number of picks that the candidates do not allow."""
    count = whole_number(n, "n")
    if not left:
        raise InputError(
            "there is nothing to pick: no candidate is left that is not labeled or excluded"
        )
    if not 1 <= count <= left:
        raise InputError(f"n must be in 1..{left} (the rows that may be picked), got {count}")


def call_sizes(evidence: Evidence, names: Iterable[str], n: int) -> tuple[Sizes, list[Rows]]:
    """How large a call is that looks at some evidence, and the arrays of the pool it reads."""
    lengths: dict[str, int] = {}
    for name, value in evidence.given.items():
        if name in RULES and RULES[name].axes:
            rows = value if isinstance(value, Rows) else Rows(value, name)
            lengths |= dict(zip(RULES[name].axes, rows.shape))
    used = frozenset().union(*(evidence.sources(name) for name in names if name in evidence))
    arrays = {
        name: evidence.given[name]
        for name in sorted(used)
        if isinstance(evidence.given[name], Rows) and name in RULES and "N" in RULES[name].axes
    }
    swapped = [r.swapped() if RULES[k].axes[0] != "N" else r for k, r in arrays.items()]
    sizes = Sizes(
        rows=lengths.get("N", evidence.size or 0),
        n=n,
        width=lengths.get("D", 0) if "embeddings" in used else 0,
        classes=lengths.get("C", 0),
        draws=lengths.get("S", 0) if "draws" in used else 0,
        labeled=lengths.get("L", 0),
        stored=sum(rows.stored_bytes for rows in swapped),
        streamed=any(rows.is_file for rows in swapped),
    )
    return sizes, swapped
