"""``labelwise strategies``: what there is to choose from."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labelwise.cli.options import AsJson
from labelwise.cli.output import emit_json, say
from labelwise.errors import InputError

if TYPE_CHECKING:
    from labelwise.strategies.registry import Strategy


def strategies(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="Show one strategy in full.", show_default=False),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What one does, needs and costs, and when it fails, in a few lines.",
            show_default=False,
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """List the strategies: what each needs, its options and its source."""
    from labelwise.strategies import get_strategy, list_strategies

    if explain is not None:
        if name is not None:
            raise InputError("say NAME to show a strategy in full or --explain NAME, not both")
        found = get_strategy(explain)
        emit_json(describe(found)) if json else _explain(found)
        return
    if name is not None:
        found = get_strategy(name)
        emit_json(describe(found)) if json else _show(found)
        return
    known = list_strategies()
    if json:
        emit_json([describe(one) for one in known])
        return
    indent = 2 + max(len(one.name) for one in known)
    for one in known:
        options = "  ".join(f"{key}={value}" for key, value in one.options.items())
        head = f"{one.name:<{indent}}{_needs(one)}"
        say(f"{head:<{indent + 34}}  {options}".rstrip())
        mark = "SIMULATION ONLY. " if one.simulation_only else ""
        say(f"{'':<{indent}}{mark}{summary(one)} [{one.cite}]")
    say()
    say("Each line: evidence it needs, [evidence it can also use], options with their defaults.")
    say("More on one: labelwise strategies --explain NAME; in full: labelwise strategies NAME")


def describe(one: Strategy) -> dict[str, Any]:
    """A strategy as plain data; its needs are those with its default arms and picker."""
    from labelwise.strategies import call_needs

    return {
        "name": one.name,
        "summary": summary(one),
        "needs": list(call_needs(one, {})),
        "optional": list(one.optional),
        "options": {key: _plain(value) for key, value in one.options.items()},
        "costs": one.costs,
        "fails": one.fails,
        "objectives": one.objectives,
        "given_by": _givers(one),
        "source": one.cite,
        "simulation_only": one.simulation_only,
        "doc": one.doc,
    }


def summary(one: Strategy) -> str:
    """The first sentence of a strategy's docstring, on one line."""
    return " ".join(one.doc.split("\n\n")[0].split())


def _show(one: Strategy) -> None:
    mark = "  (simulation only: it sees the true labels)" if one.simulation_only else ""
    say(f"{one.name}{mark}")
    say(f"needs:   {_needs(one)}")
    say(f"learner: {_learner(one)}")
    say(f"options: {', '.join(f'{key}={value}' for key, value in one.options.items()) or 'none'}")
    say(f"source:  {one.cite}")
    say()
    say(one.doc)


def _explain(one: Strategy) -> None:
    facts = {
        "does": summary(one),
        "needs": _needs(one),
        "learner": _learner(one),
        "costs": one.costs or "unknown: its package does not say",
        "fails": one.fails or "unknown: its package does not say",
        "source": one.cite or "unknown: its package does not say",
    }
    say(one.name)
    for name, text in facts.items():
        for line in wrap(text, 90, initial_indent=f"{name + ':':<9}", subsequent_indent=" " * 9):
            say(line)


def _givers(one: Strategy) -> dict[str, str]:
    """Who gives each evidence that a strategy needs or can use, as far as no loop gives it."""
    from labelwise.learners.given_by import LOOP, given_by
    from labelwise.strategies import call_needs

    names = dict.fromkeys([*call_needs(one, {}), *one.optional])
    return {name: given_by(name) for name in names if given_by(name) != LOOP}


def _learner(one: Strategy) -> str:
    """Which learner a strategy goes with: the one it was published with, and who else will do."""
    told: dict[str, list[str]] = {}
    for name, giver in _givers(one).items():
        told.setdefault(giver, []).append(name)
    said = [f"{giver} gives {' and '.join(names)}" for giver, names in told.items()]
    if one.objectives:
        said.insert(0, f"published with a network of objectives={one.objectives}")
    return "; ".join(said) or "any"


def _needs(one: Strategy) -> str:
    from labelwise.strategies import call_needs

    needs = ", ".join(call_needs(one, {}))
    optional = f"[{', '.join(one.optional)}]" if one.optional else ""
    return f"{needs} {optional}".strip() or "nothing"


def _plain(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | str | None) else str(value)
