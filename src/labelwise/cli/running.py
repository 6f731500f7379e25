"""What ``simulate`` and ``demo`` share: run with progress, write the report, print the table."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from labelwise.cli.output import columns, emit_json, note, say
from labelwise.cli.progress import progress
from labelwise.cli.ranks import hand_round, help_simulate

if TYPE_CHECKING:
    from labelwise.benchmark import Results
    from labelwise.pools import Data


def run_simulation(data: Data, out: Path, **plan: Any) -> tuple[Results, Path]:
    """Simulate with progress on stderr, then write the report.

    Under ``torchrun`` all ranks share the fits; only rank 0 reports, writes, and returns.

    Args:
        data: what to run on.
        out: the results folder.
        plan: the other arguments of `labelwise.benchmark.simulate`.

    Returns:
        The results and the report's page.

    Raises:
        typer.Abort: Ctrl-C, with how to go on.
        typer.Exit: another rank than 0 has done its part.
        LabelwiseError: what `simulate` and `write_report` refuse.
    """
    from labelwise.learners.parallel import joined

    with joined() as ranks:
        begun = hand_round(ranks, out)
        if ranks.first:
            return _simulate(data, out, **plan)
        help_simulate(begun, data, **plan)
    raise typer.Exit


def _simulate(data: Data, out: Path, **plan: Any) -> tuple[Results, Path]:
    from labelwise.benchmark import simulate
    from labelwise.benchmark.report import write_report

    for line in data.notes:
        note(f"note: {line}")
    if data.skipped:
        first, reason = data.skipped[0]
        note(f"note: {len(data.skipped)} unreadable items left out, first {first!r}: {reason}")
    try:
        with progress() as listener:
            results = simulate(data, out=out, progress=listener, **plan)
    except KeyboardInterrupt:
        raise typer.Abort(
            f"finished rounds are kept in {out}; run the same command again to go on"
        ) from None
    command = shlex.join(["labelwise", *sys.argv[1:]])
    return results, write_report(results, out, data=data, command=command)


def present(results: Results, page: Path, *, json: bool) -> None:
    """The end of a simulation on stdout: the table, what it says, where the report is."""
    from labelwise.benchmark.findings import as_json, comparisons, findings

    rows = comparisons(results)
    said = findings(results, rows)
    if json:
        emit_json(
            {
                "strategies": as_json(rows),
                "findings": [finding.text for finding in said],
                "full": as_json(results.full),
                "results": str(results.folder / "results.parquet"),
                "report": str(page),
            }
        )
        return
    for line in columns(summary_table(results)):
        say(line)
    say()
    for finding in said[:2]:
        say(finding.text)
    say(f"report: {page}")


def summary_table(results: Results) -> list[list[str]]:
    """Strategy, final accuracy, area under the curve and their differences to random."""
    from labelwise.benchmark.findings import comparisons, interval, percent, points

    def difference(pair: Any) -> str:
        return "" if pair is None else f"{points(pair.mean)} {interval(pair)}".strip()

    rows = comparisons(results)
    table = [
        [row.strategy, percent(row.final, row.final_std), percent(row.area, row.area_std)]
        for row in rows
    ]
    heading = ["strategy", "final accuracy %", "AUBC %"]
    if any(row.final_difference is not None for row in rows):
        heading += ["final - random", "AUBC - random"]
        for line, row in zip(table, rows, strict=True):
            line += [difference(row.final_difference), difference(row.area_difference)]
    return [heading, *table]
