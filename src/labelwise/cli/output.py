"""What commands say: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import typer


def complain(message: str, code: int, kind: str = "error") -> int:
    """One line on stderr; returns the exit code to end with."""
    typer.echo(f"{kind}: {' '.join(message.split())}", err=True)
    return code


def note(message: str) -> None:
    """A line for people, on stderr."""
    typer.echo(message, err=True)


def say(text: str = "") -> None:
    """A line of the result, on stdout."""
    typer.echo(text)


def emit_json(value: Any) -> None:
    """The result as JSON on stdout, for programs."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def columns(rows: Sequence[Sequence[str]], *, left: int = 1) -> list[str]:
    """Rows of text as lines with aligned columns.

    Args:
        rows: of equal length, the heading first.
        left: how many columns are aligned left; the others are numbers, aligned right.

    >>> columns([["name", "n"], ["margin", "10"]])
    ['name     n', 'margin  10']
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
