"""``labelwise select``: the one-call job on files."""

from __future__ import annotations

import inspect
import json as json_module
import math
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from labelwise.cli.files import read_ids, read_numbers, save_in_place
from labelwise.cli.options import AsJson, Seed, parse_pairs, parse_size
from labelwise.cli.output import emit_json, note, say
from labelwise.errors import InputError


class EvidenceCommand(TyperCommand):
    """A command with an option for every evidence that a strategy may ask for.

    The names come from the evidence floor, which is imported only when this command runs or
    shows its help.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        """The declared options, and one for each evidence."""
        known = {param.name for param in self.params}
        self.params += [param for param in _options(evidence_names()) if param.name not in known]
        return super().get_params(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Set the evidence apart: the command's function does not name it."""
        rest = super().parse_args(ctx, args)
        ctx.obj = {name: ctx.params.pop(name, None) for name in evidence_names()}
        return rest


def _options(names: dict[str, str]) -> list[Any]:
    """An option ``--name VALUE`` for each name, with its help."""

    def signature_only() -> None:
        """Typer reads options from signatures, so one is made for it to read."""

    given = {
        name: typer.Option(
            None,
            f"--{name.replace('_', '-')}",
            metavar="FILE" if text.endswith("file") else "N",
            help=text,
            show_default=False,
        )
        for name, text in names.items()
    }
    signature_only.__annotations__ = dict.fromkeys(names, str | None)
    signature_only.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option)
            for name, option in given.items()
        ]
    )
    app = typer.Typer(add_completion=False)
    app.command()(signature_only)
    command: Any = typer.main.get_command(app)
    return [param for param in command.params if param.name in names]


def evidence_names() -> dict[str, str]:
    """Every evidence that can be given in a file or as a number: name -> what it is.

    Evidence that only strategies for simulations use is left out: `select` refuses those.
    """
    from labelwise.evidence import OBJECTS, RULES
    from labelwise.strategies import list_strategies

    needed: dict[bool, set[str]] = {True: set(), False: set()}
    for strategy in list_strategies():
        needed[strategy.simulation_only].update(strategy.needs, strategy.optional)
    oracle = needed[True] - needed[False]
    found = {}
    for name, rule in RULES.items():
        if name in oracle | OBJECTS:
            continue
        kind = ".npy file" if len(rule.axes) != 1 else ".npy, .csv or .txt file"
        found[name] = f"{rule.meaning}; {rule.shape}, {kind}" if rule.axes else rule.meaning
    others = sorted(needed[False] - set(found) - OBJECTS)
    return found | dict.fromkeys(others, "evidence of that name; .npy file")


def select(
    context: typer.Context,
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Or with options: badge:first=uniform.", show_default=False
        ),
    ],
    n: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--n",
            metavar="N",
            help="How many to pick; with --budget as many as that buys.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where to save the picks: .csv or .parquet.", show_default=False
        ),
    ] = None,
    pseudo_labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to save pseudo-labels, of a strategy that gives any: .csv or .parquet.",
        ),
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Ids of the rows: .txt, a line each, or .csv with a column id."
        ),
    ] = None,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows that may be picked: .npy, .csv or .txt."),
    ] = None,
    exclude: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rows that may not be picked: .npy, .csv or .txt."),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(metavar="COST", help="What the picks may cost together; needs --costs."),
    ] = None,
    quota: Annotated[
        int | None, typer.Option(metavar="N", help="The most picks of any predicted class.")
    ] = None,
    duplicates: Annotated[
        float | None,
        typer.Option(
            metavar="COSINE", help="Pass over rows this similar to a labeled or picked one."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Option of the strategy; repeatable."),
    ] = None,
    seed: Seed = 0,
    memory: Annotated[str | None, typer.Option(metavar="SIZE", help="Bound, such as 4GB.")] = None,
    device: Annotated[
        str | None, typer.Option(metavar="DEVICE", help="Where to compute: cpu, cuda, ...")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="local, or ray for a cluster: k_center, badge."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where picks are kept as they are made; the same command goes on from there.",
        ),
    ] = None,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Say how long it will take, and pick nothing.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Pick the rows of a pool that are worth labeling next, from arrays in files."""
    bound = parse_size(memory)
    written = parse_pairs(option or [], "--option")
    if out is None and not json and not estimate:
        raise InputError("nowhere to put the picks: name a file with --out, or say --json")
    for file in (out, pseudo_labels):
        if file is not None:
            save_in_place(file)

    from labelwise.benchmark.plan import parse_strategy
    from labelwise.cli.progress import picking
    from labelwise.strategies import estimate as judge
    from labelwise.strategies import select as pick

    entry = parse_strategy(strategy)
    twice = sorted(set(entry.options) & set(written))
    if twice:
        raise InputError(f"option {twice[0]!r} is given twice, in --strategy and in --option")
    names = None if ids is None else read_ids(ids)
    call: dict[str, Any] = {
        "seed": seed,
        "device": device,
        "ids": names,
        "candidates": None if candidates is None else read_numbers(candidates, "candidates", names),
        "exclude": None if exclude is None else read_numbers(exclude, "exclude", names),
        **read_evidence(context.obj, names),
        **entry.options,
        **written,
    }
    if estimate:
        if n is None:
            raise InputError("an estimate is of a number of picks: say -n")
        said = judge(entry.name, n, **call)
        if json:
            emit_json({"strategy": said.strategy, "seconds": said.seconds, "memory": said.memory})
        else:
            say(repr(said))
        return
    call |= {"budget": budget, "quota": quota, "duplicates": duplicates}
    call |= {"memory": bound, "checkpoint": checkpoint, "engine": engine}
    with picking() as listener:
        picks = pick(entry.name, n, progress=listener, **call)
    if out is not None:
        picks.save(out)
    if pseudo_labels is not None:
        picks.save_pseudo_labels(pseudo_labels)
    if json:
        emit_json(_as_json(picks, out))
        return
    for line in picks.notes:
        note(f"note: {line}")
    if picks.pseudo_rows is not None and pseudo_labels is None:
        note("note: pseudo-labels are not among the picks: name a file with --pseudo-labels")
    say(f"{len(picks)} picks by {entry.label} in {picks.seconds:.2f} s: {out}")


def read_evidence(texts: dict[str, str | None], ids: list[str] | None) -> dict[str, Any]:
    """Evidence as given on the command line, ready for `labelwise.strategies.select`.

    Args:
        texts: name -> path or number as written; None was not given.
        ids: of the pool's rows, for files that name rows by id.

    Raises:
        InputError: a file that cannot be read, or a number that is none.
    """
    from labelwise.evidence import RULES

    found: dict[str, Any] = {}
    for name, text in texts.items():
        if text is None:
            continue
        axes = RULES[name].axes if name in RULES else ("N",)
        if not axes:
            found[name] = _single(name, text)
        elif len(axes) == 1 and Path(text).suffix.lower() != ".npy":
            found[name] = read_numbers(Path(text), name, ids)
        else:
            if not Path(text).exists():
                raise InputError(f"{name}: there is no file {text!r}")
            found[name] = text  # opened by `Rows`, memory-mapped
    return found


def _single(name: str, text: str) -> Any:
    """A number, or the record in a JSON file: a state, alone or in what ``--json`` printed."""
    if Path(text).suffix.lower() == ".json":
        try:
            record = json_module.loads(Path(text).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{name}: cannot read {text!r} ({error})") from error
        return record.get(name, record) if isinstance(record, dict) else record
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise InputError(f"{name} must be a whole number, another number or a .json file, got {text!r}")


def _as_json(picks: Any, out: Path | None) -> dict[str, Any]:
    # JSON has no infinity: the score of a first pick that there was nothing to compare with.
    columns = {
        name: [None if value in (math.inf, -math.inf) else value for value in column.tolist()]
        for name, column in picks.columns().items()
    }
    return {
        "strategy": picks.strategy,
        "options": dict(picks.options),
        "seed": picks.seed,
        "seconds": picks.seconds,
        "notes": list(picks.notes),
        "state": None if picks.state is None else dict(picks.state),
        "out": None if out is None else str(out),
        "picks": columns,
        "pseudo_labels": {name: value.tolist() for name, value in picks.pseudo_columns().items()},
    }
