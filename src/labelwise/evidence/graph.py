"""The evidence graph: what is given, what follows from it, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch

from labelwise.errors import InputError
from labelwise.evidence import providers as built_in
from labelwise.evidence.rules import OBJECTS, RULES, Checked, check, check_shape, fits
from labelwise.evidence.signature import Signature, read_signature
from labelwise.kernels import Rows


def provider(*, gives: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say which evidence a function gives, where its own name does not.

    A plain function named for the evidence is a provider without this. Either way its
    parameters are the evidence it needs (default None: evidence it can also use).

    >>> @provider(gives="probs")
    ... def probs_at_half_temperature(logits):
    ...     return (2 * logits.tensor()).softmax(1)
    >>> graph = Evidence({"logits": [[0.0, 0.0]]}, providers=[probs_at_half_temperature])
    >>> graph["probs"].tensor()
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """

    def mark(function: Callable[..., Any]) -> Callable[..., Any]:
        function.gives = gives  # type: ignore[attr-defined]
        return function

    return mark


def _signature(function: Callable[..., Any]) -> Signature:
    """A provider's signature, under the name of what it gives."""
    found = read_signature(function)
    if found.options:
        raise InputError(
            f"provider {found.name}: parameter {next(iter(found.options))!r} is keyword-only, "
            "but all of a provider's parameters are evidence"
        )
    return replace(found, name=getattr(function, "gives", found.name))


BUILT_IN: tuple[Callable[..., Any], ...] = (
    built_in.probs,
    provider(gives="probs")(built_in.mean_of_draws),
    built_in.logits,
)
"""In order of preference: probs from logits come before the mean of draws."""


class Evidence:
    """Evidence about one pool: given, or computed when asked for and then kept.

    Args:
        given: evidence by name; None means not given. Arrays may be anything `Rows` takes.
        providers: functions that compute evidence from other evidence, first come first
            served. They go before the built-in ones, and what is given before all.
        size: N, how many rows the pool has, when it is known otherwise.
        device: where to move each array that is asked for; by default each stays.
        block_bytes: bytes of float32 that a block of an array holds when it is read in blocks.

    Raises:
        InputError: two pieces of evidence about pools of different length. Values are not
            looked at before they are asked for.

    >>> graph = Evidence({"logits": [[0.0, 0.0], [9.0, 0.0]]})
    >>> "probs" in graph, "embeddings" in graph
    (True, False)
    >>> graph["probs"].tensor()
    tensor([[5.0000e-01, 5.0000e-01],
            [9.9988e-01, 1.2339e-04]], dtype=torch.float64)
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        providers: Iterable[Callable[..., Any]] = (),
        *,
        size: int | None = None,
        device: torch.device | str | None = None,
        block_bytes: int | None = None,
    ) -> None:
        self._block_bytes = block_bytes
        self.given = {name: value for name, value in given.items() if value is not None}
        self._providers = [_signature(function) for function in (*providers, *BUILT_IN)]
        self._device = device
        self._found: dict[str, Any] = {}
        self._sizes: dict[str, tuple[int, str]] = {}
        if size is not None:
            self._sizes["N"] = (size, "ids")
        for name, value in self.given.items():
            if "N" in (RULES[name].axes if name in RULES else ()):
                self._check_length(name, value)

    def _check_length(self, name: str, value: Any) -> None:
        """A pool of another length is a mistake even where the evidence is not needed."""
        kind = Checked if isinstance(value, Checked) else Rows
        axes, rows = RULES[name].axes, kind(value, name, self._block_bytes)
        if fits(rows, axes):
            sizes = {"N": self._sizes["N"]} if "N" in self._sizes else {}
            check_shape(name, rows, sizes)
            self._sizes["N"] = sizes["N"]
            self.given[name] = rows  # a path is opened and a list converted only once

    @property
    def size(self) -> int | None:
        """N, the number of rows of the pool; None until some evidence tells."""
        return self._sizes["N"][0] if "N" in self._sizes else None

    @property
    def classes(self) -> int | None:
        """C, the number of classes; None until some evidence that was asked for tells."""
        return self._sizes["C"][0] if "C" in self._sizes else None

    @property
    def known(self) -> frozenset[str]:
        """Every name that means something here: with a rule, or to one of the providers."""
        names = {name for found in self._providers for name in (found.name, *found.evidence)}
        return frozenset(names | set(RULES))

    def __contains__(self, name: object) -> bool:
        return self._reachable(str(name), frozenset())

    def __getitem__(self, name: str) -> Any:
        """The evidence of one name, checked, computed at most once.

        Raises:
            InputError: it is not given and cannot be computed, or it breaks its rule.
        """
        if name not in self._found:
            self._found[name] = self._placed(name, self._value(name))
        return self._found[name]

    def sources(self, name: str) -> frozenset[str]:
        """The given evidence that one name is had from; itself alone where it is given."""
        if name in self.given:
            return frozenset({name})
        for found in self._providers:
            if found.name == name and self._met(found, frozenset({name})):
                used = [*found.needs, *(o for o in found.optional if self._reachable(o, {name}))]
                return frozenset().union(*(self.sources(part) for part in used))
        return frozenset()

    def require(self, names: Iterable[str], by: str = "this call") -> list[Any]:
        """Several pieces of evidence, or one error that names all that is missing.

        Args:
            names: what is needed.
            by: who needs it, for the message.
        """
        names = list(names)
        missing = [name for name in names if name not in self]
        if missing:
            raise InputError(self._complaint(names, missing, by))
        return [self[name] for name in names]

    def _value(self, name: str) -> Any:
        if name in self.given:
            return self.given[name]
        for found in self._providers:
            if found.name == name and self._met(found, frozenset({name})):
                extra = {o: self[o] for o in found.optional if self._reachable(o, {name})}
                value = found.function(*(self[need] for need in found.needs), **extra)
                if value is None:
                    raise InputError(f"the provider of {name} returned None instead of {name}")
                return value
        raise InputError(self._complaint([name], [name], "this call"))

    def _placed(self, name: str, value: Any) -> Any:
        checked = check(name, value, self._sizes)
        if self._device is None or not isinstance(checked, Rows):
            return checked
        if checked.device == torch.device(self._device):
            return checked
        return Checked(checked.tensor().to(self._device), name)

    def _reachable(self, name: str, visiting: Iterable[str]) -> bool:
        """Whether a name can be had without going round in a circle."""
        if name in self.given or name in self._found:
            return True
        if name in visiting:
            return False
        path = frozenset(visiting) | {name}
        return any(f.name == name and self._met(f, path) for f in self._providers)

    def _met(self, found: Signature, visiting: frozenset[str]) -> bool:
        return all(self._reachable(need, visiting) for need in found.needs)

    def _complaint(self, names: list[str], missing: list[str], by: str) -> str:
        got = ", ".join(sorted(self.given)) or "nothing"
        ways = "; ".join(self._way_to(name) for name in missing)
        return f"{by} needs {_join(names)} and was given {got}. Missing: {ways}"

    def _way_to(self, name: str) -> str:
        """How to get one missing evidence: pass it, or what it follows from."""
        rule = RULES.get(name)
        what = f" {rule.shape}, {rule.meaning}" if rule and rule.axes else ""
        if name in OBJECTS and rule:
            what = f" {rule.meaning}"
        sources = [
            _join([need for need in f.needs if need not in self])
            for f in self._providers
            if f.name == name and name not in f.needs
        ]
        if name == "oracle_labels":
            return f"{name}{what}: run it with `labelwise simulate`"
        either = f" (or {', or '.join(sources)}, from which it follows)" if sources else ""
        return f"pass {name}={what}{either}"


def _join(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
