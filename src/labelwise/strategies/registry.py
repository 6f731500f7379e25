"""A strategy is a function whose parameters name the evidence it needs."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache, update_wrapper
from importlib import metadata
from typing import Any

from labelwise.errors import InputError, nearest
from labelwise.evidence import read_signature
from labelwise.kernels.cost import Sizes, Work

Cost = Callable[[Sizes], Work]
"""What a call of some size does."""

RESERVED = frozenset({"n", "candidates", "generator", "memory", "progress", "engine", "ids"})
"""Parameters that `select` fills by itself, in the strategies that name them."""

ENTRY_POINTS = "labelwise.strategies"
"""The entry point group through which other packages add strategies."""


class Strategy:
    """A strategy and what its signature says of it. Call it like the function it wraps.

    Args:
        function: positional parameters are evidence (default None: optional), keyword-only
            ones are options, and those in `RESERVED` are filled in by `select`.
        cite: the source of the method.
        simulation_only: whether it uses what only a simulation knows (``oracle_labels``).
        cost: what a call of some size does, for `estimate`; without it estimates are measured
            on small samples of the pool.
        costs: the time and memory it takes, in words and symbols, one line.
        fails: when it is known to do badly, one line.
        objectives: of the network, where the method is a way to train as well, as learners of
            networks take them.

    Raises:
        InputError: parameters that cannot be read by name, or ``oracle_labels`` among the
            evidence of a strategy that is not for simulations only.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        cite: str = "",
        simulation_only: bool = False,
        cost: Cost | None = None,
        costs: str = "",
        fails: str = "",
        objectives: str = "",
    ) -> None:
        found = read_signature(function, reserved=RESERVED)
        if "oracle_labels" in found.evidence and not simulation_only:
            raise InputError(
                f"{found.name}: a strategy never sees the pool's labels; one that asks for "
                "oracle_labels must be declared with simulation_only=True"
            )
        self.function = function
        self.name = found.name
        self.cite = cite
        self.needs = found.needs
        self.optional = found.optional
        self.options: Mapping[str, Any] = found.options
        self.reserved = found.reserved
        self.simulation_only = simulation_only
        self.cost = cost
        self.costs = costs
        self.fails = fails
        self.objectives = objectives
        self.doc = inspect.getdoc(function) or ""
        update_wrapper(self, function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function answers."""
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        optional = "".join(f", {name}?" for name in self.optional)
        return f"Strategy({self.name}: needs {', '.join(self.needs) or 'nothing'}{optional})"


_REGISTRY: dict[str, Strategy] = {}


def strategy(
    *,
    cite: str,
    simulation_only: bool = False,
    cost: Cost | None = None,
    costs: str = "",
    fails: str = "",
    objectives: str = "",
) -> Callable[[Callable[..., Any]], Strategy]:
    """Make a strategy of a function, and let `select` find it by the function's name.

    Args:
        cite: the source of the method.
        simulation_only: whether it uses what only a simulation knows.
        cost: what a call of some size does, see `labelwise.kernels.cost`.
        costs: the time and memory it takes, in words and symbols, one line.
        fails: when it is known to do badly, one line.
        objectives: of the network, where the method is a way to train as well.

    Raises:
        InputError: the name belongs to another strategy, or see `Strategy`.

    >>> @strategy(cite="example")
    ... def first_rows(*, n, candidates):
    ...     return candidates[:n]
    >>> first_rows
    Strategy(first_rows: needs nothing)
    >>> get_strategy("first_rows") is first_rows
    True
    >>> forget("first_rows")
    """

    def register(function: Callable[..., Any]) -> Strategy:
        made = Strategy(
            function,
            cite=cite,
            simulation_only=simulation_only,
            cost=cost,
            costs=costs,
            fails=fails,
            objectives=objectives,
        )
        known = _REGISTRY.get(made.name)
        # The same definition again (a notebook cell, a reloaded module) replaces the first.
        if known is not None and known.function.__module__ != function.__module__:
            raise InputError(
                f"a strategy named {made.name!r} exists already, in "
                f"{known.function.__module__}; give the function another name"
            )
        _REGISTRY[made.name] = made
        return made

    return register


def forget(name: str) -> None:
    """Take a strategy out of the registry, so that its name is free again."""
    _REGISTRY.pop(name, None)


def get_strategy(name: str) -> Strategy:
    """The strategy of one name, built in or from an installed package.

    Raises:
        InputError: no such strategy; the message has the nearest names.

    >>> get_strategy("margin").needs
    ('probs',)
    """
    _load_built_in()
    if name not in _REGISTRY and name in (plugins := _plugins()):
        _load_plugin(plugins[name])
    if name not in _REGISTRY:
        known = {*_REGISTRY, *_plugins()}
        raise InputError(f"there is no strategy {name!r}; {nearest(name, known)}")
    return _REGISTRY[name]


def as_strategy(strategy: str | Strategy | Callable[..., Any]) -> Strategy:
    """The strategy of a name, or what a function of your own says of itself."""
    if isinstance(strategy, str):
        return get_strategy(strategy)
    return strategy if isinstance(strategy, Strategy) else Strategy(strategy)


def list_strategies() -> list[Strategy]:
    """Every strategy there is, built in or from an installed package, by name.

    Raises:
        InputError: an installed package offers a strategy that cannot be loaded.
    """
    _load_built_in()
    for name, entry in _plugins().items():
        if name not in _REGISTRY:
            _load_plugin(entry)
    return [_REGISTRY[name] for name in sorted(_REGISTRY)]


@cache
def _load_built_in() -> None:
    """Import this package's modules; those that define strategies register them."""
    package = importlib.import_module("labelwise.strategies")
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def _plugins() -> dict[str, metadata.EntryPoint]:
    return {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}


def _load_plugin(entry: metadata.EntryPoint) -> None:
    try:
        loaded = entry.load()
    except (ImportError, AttributeError) as error:
        raise InputError(
            f"strategy {entry.name!r} of {entry.value} cannot be loaded: {error}; "
            "repair or uninstall that package"
        ) from error
    made = loaded if isinstance(loaded, Strategy) else Strategy(loaded)
    if made.name != entry.name:
        raise InputError(
            f"{entry.value} is offered as strategy {entry.name!r} but is named {made.name!r}; "
            "the two must be the same"
        )
    _REGISTRY[made.name] = made
