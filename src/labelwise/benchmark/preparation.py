"""What is settled before a simulation runs: its parts, its plan, and whether it can work."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from labelwise.benchmark.known import fingerprint, known_evidence
from labelwise.benchmark.plan import (
    DataRecord,
    Plan,
    StrategyEntry,
    check_budget,
    parse_strategies,
    parse_strategy,
)
from labelwise.errors import InputError, nearest
from labelwise.kernels import Rows
from labelwise.learners import (
    Encoder,
    Learner,
    default_encoder,
    default_learner,
    make_encoder,
    make_learner,
    own_encoder,
)
from labelwise.learners.given_by import needs_no_model, who_gives
from labelwise.loop import COLD_EVIDENCE, random_initial, stratified_initial
from labelwise.strategies import Experience, Strategy, call_needs, get_strategy
from labelwise.strategies.pickers import picker_signature

if TYPE_CHECKING:
    from labelwise.pools import Data

StrategyLike = str | StrategyEntry | Strategy | Callable[..., Any]
"""A text such as ``"badge:first=uniform"``, an entry of a plan, a strategy, or a function."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A simulation that is ready to run.

    Attributes:
        plan: what will be done.
        data: labeled throughout, with a test set.
        test_labels: (T,) int64.
        encoder, learner: as the plan describes them.
        strategies: by the label of their entry in the plan.
        evidence: what is known of the items beforehand, by name.
    """

    plan: Plan
    data: Data
    test_labels: NDArray[np.int64]
    encoder: Encoder
    learner: Learner
    strategies: Mapping[str, Strategy]
    evidence: Mapping[str, Rows] = field(default_factory=dict)

    def initial(self, seed: int) -> list[str]:
        """Ids of the initial set of one seed.

        Raises:
            InputError: all of them are out of distribution.
        """
        ids, labels, n = self.data.pool.ids, self.data.labels, self.plan.initial
        every = np.arange(len(ids))
        if self.plan.initial_set == "stratified":
            rows = stratified_initial(ids, every, n, labels=labels, seed=seed)
        else:
            rows = random_initial(ids, every, n, seed=seed)
        if self.plan.ood and n and (labels[rows] == len(self.plan.data.classes) - 1).all():
            raise InputError(
                f"all {n} items of seed {seed}'s initial set are out of distribution, so nothing "
                "could be trained on them: raise initial"
            )
        return [ids[row] for row in rows]


def prepare(
    data: Data,
    *,
    strategies: str | Sequence[StrategyLike],
    learner: str | Learner | None,
    encoder: str | Encoder | None,
    initial: int,
    batch: int,
    rounds: int,
    seeds: int | Sequence[int],
    initial_set: Literal["random", "stratified"] = "random",
    samples: int = 10,
    full: bool = True,
    primary: Literal["area", "final"] = "area",
    ood: Sequence[str] = (),
    together: bool | int = False,
    evidence: Mapping[str, Any] | None = None,
) -> Prepared:
    """Settle and check everything about a simulation that can be checked beforehand.

    The arguments are those of `simulate`.

    Raises:
        InputError: an unknown strategy, option, learner or encoder, a budget the pool cannot
            pay, a strategy that needs a model where a cold start has none, an initial set
            that is all out of distribution, or what `known_evidence` refuses.
        DataError: what `Data.require_labels` and `known_evidence` refuse.
    """
    for name, value, known in (
        ("initial_set", initial_set, ("random", "stratified")),
        ("primary", primary, ("area", "final")),
    ):
        if value not in known:
            raise InputError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    for name, number in (("initial", initial), ("batch", batch), ("rounds", rounds)):
        check_whole(name, number)
    data = (data.with_ood(ood) if ood else data).require_labels()
    assert data.test is not None
    assert data.test_labels is not None
    check_budget(initial=initial, batch=batch, rounds=rounds, available=len(data.pool))
    made = [_strategy(given) for given in _listed(strategies)]
    chosen = _seeds(seeds)
    learn = make_learner(learner or default_learner(data.kind))
    encode = make_encoder(encoder or own_encoder(learn, data.kind) or default_encoder(data.kind))
    beforehand = known_evidence(evidence or {}, data.pool)
    plan = Plan(
        data=DataRecord(
            name=data.name,
            fingerprint=data.fingerprint,
            items=len(data.pool),
            test_items=len(data.test),
            classes=data.classes,
        ),
        encoder={"name": encode.name, **_plain(encode.signature())},
        learner={"name": learn.name, **_plain(learn.signature())},
        strategies=[entry for entry, _ in made],
        initial=initial,
        initial_set=initial_set,
        batch=batch,
        rounds=rounds,
        seeds=chosen,
        samples=samples,
        full=full,
        primary=primary,
        ood=list(ood),
        together=_group(together, len(chosen) * len(made)),
        evidence={name: fingerprint(rows) for name, rows in beforehand.items()},
    ).check()
    if not initial:
        _check_cold(made, frozenset(beforehand))
    by_label = {entry.label: strategy for entry, strategy in made}
    ready = Prepared(plan, data, data.test_labels, encode, learn, by_label, beforehand)
    for seed in plan.seeds if ood else ():
        ready.initial(seed)
    return ready


def default_cache() -> Path:
    """Where encodings are kept: ``$LABELWISE_CACHE``, or the user's cache folder."""
    chosen = os.environ.get("LABELWISE_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "labelwise"


def check_whole(name: str, value: Any) -> None:
    """Refuse what is no whole number.

    >>> check_whole("batch", 2.5)
    Traceback (most recent call last):
    labelwise.errors.InputError: batch must be a whole number, got 2.5
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputError(f"{name} must be a whole number, got {value!r}")


def source_fingerprint(function: Callable[..., Any]) -> str:
    """A fingerprint of a function's source, to tell its versions apart.

    Raises:
        InputError: the source cannot be read, as of a function typed at a prompt.
    """
    try:
        source = inspect.getsource(function)
    except (OSError, TypeError):
        name = getattr(function, "__name__", repr(function))
        raise InputError(
            f"strategy {name!r} has no source file to fingerprint, so its results could not be "
            "told from another version's: define it in a module"
        ) from None
    return hashlib.blake2b(source.encode(), digest_size=16).hexdigest()


def _listed(strategies: str | Sequence[StrategyLike]) -> list[StrategyLike]:
    if isinstance(strategies, str):
        return list(parse_strategies(strategies))
    return list(strategies)


def _group(together: bool | int, cells: int) -> int | None:
    """The largest group: all fits of a round for True, none for False."""
    if isinstance(together, bool):
        return cells if together else None
    check_whole("together", together)
    return int(together)


def _seeds(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, int | np.integer):
        if seeds < 1:
            raise InputError(f"seeds must be at least 1, got {seeds}")
        return list(range(int(seeds)))
    for seed in seeds:
        check_whole("every seed", seed)
    return [int(seed) for seed in seeds]


def _strategy(given: StrategyLike) -> tuple[StrategyEntry, Strategy]:
    """A strategy and its entry in the plan; its options are known to it."""
    if isinstance(given, str | StrategyEntry):
        entry = parse_strategy(given) if isinstance(given, str) else given
        strategy = get_strategy(entry.name)
    else:
        strategy = given if isinstance(given, Strategy) else Strategy(given)
        entry = StrategyEntry(name=strategy.name)
    known = {*strategy.options, *_picker_options(strategy, entry)}
    for option in entry.options:
        if option not in known:
            hint = nearest(option, known) if known else "it has none"
            raise InputError(f"strategy {entry.name!r} has no option {option!r}; {hint}")
    call_needs(strategy, entry.options)  # arms that do not exist are refused here
    ours = str(getattr(strategy.function, "__module__", "")).startswith("labelwise.")
    source = _experience(strategy, entry) if ours else source_fingerprint(strategy.function)
    return entry.model_copy(update={"source": source}), strategy


def _experience(strategy: Strategy, entry: StrategyEntry) -> str | None:
    """A fingerprint of the experience a strategy starts from, where one is named."""
    if "experience" not in strategy.options or "experience" not in entry.options:
        return None
    found = Experience.find(entry.options["experience"])
    if found is None:
        return None
    text = json.dumps(found.to_dict(), sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _picker_options(strategy: Strategy, entry: StrategyEntry) -> Iterable[str]:
    """Options of the picker that a strategy of scores will use."""
    if "picker" not in strategy.options:
        return ()
    return picker_signature(entry.options.get("picker", strategy.options["picker"])).options


def _check_cold(
    strategies: Sequence[tuple[StrategyEntry, Strategy]], known: frozenset[str]
) -> None:
    """Without an initial set there is no model: refuse whoever needs one, before anything runs."""
    for entry, strategy in strategies:
        needs = call_needs(strategy, entry.options)
        missing = [name for name in needs if name not in COLD_EVIDENCE | known]
        if missing:
            where = who_gives(name for name in missing if needs_no_model(name))
            raise InputError(
                f"strategy {strategy.name!r} needs {' and '.join(missing)}, which no model gives "
                "before there are labels: set initial to 1 or more, or leave the strategy out"
                + f" ({where})"
                * bool(where)
            )


def _plain(signature: Mapping[str, Any]) -> dict[str, Any]:
    """A signature as a file would give it back: no tuples, no NumPy numbers."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(dict(signature), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(f"a signature must be JSON-able, got {signature!r} ({error})") from error
    return plain
