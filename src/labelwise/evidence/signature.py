"""Read what a function needs from the names of its parameters."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from labelwise.errors import InputError


@dataclass(frozen=True)
class Signature:
    """A function whose parameters' names say what it needs.

    Attributes:
        function: the function.
        name: the function's name.
        needs: positional parameters without a default: evidence it cannot do without.
        optional: positional parameters that default to None: evidence it can use.
        options: keyword-only parameters and their defaults.
        reserved: the keyword-only parameters among the reserved names.
    """

    function: Callable[..., Any]
    name: str
    needs: tuple[str, ...]
    optional: tuple[str, ...]
    options: Mapping[str, Any]
    reserved: frozenset[str]

    @property
    def evidence(self) -> tuple[str, ...]:
        """All evidence the function names, needed or optional."""
        return self.needs + self.optional


def read_signature(
    function: Callable[..., Any], *, reserved: Iterable[str] = (), skip: int = 0
) -> Signature:
    """The signature of a provider, a strategy or a picker.

    Args:
        function: a named function.
        reserved: names that the caller gives meaning to. Where one is asked for is up to the
            function: it is never evidence.
        skip: how many leading parameters are no evidence (a picker's scores).

    Raises:
        InputError: no function, or parameters that cannot be read by name.

    >>> def badge(probs, embeddings, *, n, first="largest"): ...
    >>> found = read_signature(badge, reserved={"n"})
    >>> found.needs, dict(found.options), set(found.reserved)
    (('probs', 'embeddings'), {'first': 'largest'}, {'n'})
    """
    if not callable(function):
        raise InputError(f"expected a function, got {function!r}")
    name = getattr(function, "__name__", type(function).__name__)
    try:
        parameters = list(inspect.signature(function).parameters.values())[skip:]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: cannot read its parameters' names: {error}") from error
    needs, optional, options, kept = [], [], {}, set()
    for parameter in parameters:
        if parameter.name in reserved:
            kept.add(parameter.name)
        elif parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InputError(
                f"{name}: {parameter} has no names to read; name each evidence and option"
            )
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if parameter.default is parameter.empty:
                raise InputError(
                    f"{name}: option {parameter.name!r} needs a default "
                    "(evidence goes before the *)"
                )
            options[parameter.name] = parameter.default
        elif parameter.default is parameter.empty:
            needs.append(parameter.name)
        elif parameter.default is None:
            optional.append(parameter.name)
        else:
            raise InputError(
                f"{name}: positional parameter {parameter.name!r} is evidence and may only "
                "default to None; put options after a *"
            )
    return Signature(function, name, tuple(needs), tuple(optional), options, frozenset(kept))
