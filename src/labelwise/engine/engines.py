"""Where a selection runs: on this machine, or on a Ray cluster; the picks are the same."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from labelwise.engine.parts import as_rows
from labelwise.engine.ray_crew import PATIENCE, RayShards
from labelwise.engine.recipe import Kind, Recipe
from labelwise.errors import InputError, nearest
from labelwise.kernels.geometry import HOLD_BYTES, Geometry


class Engine(ABC):
    """Makes the geometry that a strategy's kernel works in."""

    name: str

    @abstractmethod
    @contextmanager
    def points(
        self, kind: Kind, *arrays: Any, bias: bool = False, hold: int = HOLD_BYTES
    ) -> Iterator[Geometry]:
        """The pool as points, for the length of a ``with`` block.

        Args:
            kind: the geometry.
            arrays: what it is made of, see `RayShards`.
            bias: of the gradient embedding.
            hold: bytes that a converted copy may take on one machine.
        """


class OneMachine(Engine):
    """This process."""

    name = "local"

    @contextmanager
    def points(
        self, kind: Kind, *arrays: Any, bias: bool = False, hold: int = HOLD_BYTES
    ) -> Iterator[Geometry]:
        """The pool as points."""
        recipe = Recipe(kind, bias=bias)
        yield recipe.build(
            [as_rows(name, array) for name, array in zip(recipe.named(len(arrays)), arrays)],
            hold=hold,
        )


class OnRay(Engine):
    """A Ray cluster, or one of this machine that lives as long as the selection.

    Args:
        address: of the cluster; RAY_ADDRESS by default.
        shards, device, gpus, patience: see `RayShards`.
    """

    name = "ray"

    def __init__(
        self,
        address: str | None = None,
        *,
        shards: int | None = None,
        device: str | None = None,
        gpus: float | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._options: dict[str, Any] = {
            "address": address,
            "shards": shards,
            "device": device,
            "gpus": gpus,
            "patience": patience,
        }

    @contextmanager
    def points(
        self, kind: Kind, *arrays: Any, bias: bool = False, hold: int = HOLD_BYTES
    ) -> Iterator[Geometry]:
        """The pool as points."""
        with RayShards(*arrays, kind=kind, bias=bias, **self._options) as pool:
            yield pool


_ENGINES = {engine.name: engine for engine in (OneMachine, OnRay)}


def find_engine(engine: str | Engine | None = None) -> Engine:
    """An engine by name, or LABELWISE_ENGINE's, or this machine.

    Args:
        engine: ``"local"``, ``"ray"``, an engine of your own options, or None.

    Raises:
        InputError: there is no such engine.

    >>> find_engine().name
    'local'
    """
    if isinstance(engine, Engine):
        return engine
    name = engine or os.environ.get("LABELWISE_ENGINE") or OneMachine.name
    if name not in _ENGINES:
        said = "engine" if engine else "LABELWISE_ENGINE"
        raise InputError(f"{said} must be known, got {name!r}; {nearest(name, _ENGINES)}")
    return _ENGINES[name]()
