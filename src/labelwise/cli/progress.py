"""Progress of a simulation: a bar with the remaining time on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from labelwise.cli.output import note

if TYPE_CHECKING:
    from labelwise.benchmark.progress import Event, Listener


@contextmanager
def progress() -> Iterator[Listener]:
    """A listener for `simulate` that reports on stderr.

    On a terminal it is a bar; in a log file one line for every finished round, and one for each
    quarter of an encoding.
    """
    if not sys.stderr.isatty():
        yield _Lines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]:>12}"),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)


class _Bar:
    """Events as one bar: of items while encoding, of rounds after that."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._task = bar.add_task("starting", total=None, left="")

    def __call__(self, event: Event) -> None:
        if event.step == "note":
            self._bar.console.print(f"note: {event.message}", markup=False, highlight=False)
        self._bar.update(
            self._task,
            completed=event.done,
            total=event.total or None,
            description=event.message,
            left=left(event),
        )


class _Lines:
    """Events as lines, few enough for a log."""

    def __init__(self) -> None:
        self._quarter = -1

    def __call__(self, event: Event) -> None:
        if event.step == "encode":
            quarter = 4 * event.done // max(1, event.total)
            if quarter == self._quarter:
                return
            self._quarter = quarter
        width = len(str(event.total))
        rest = left(event)
        note(f"[{event.done:>{width}}/{event.total}] {event.message}" + (f" ({rest})" * bool(rest)))


def left(event: Event) -> str:
    """The remaining time in words; empty where it is not known.

    >>> from labelwise.benchmark.progress import Event
    >>> left(Event("round", 1, 10, "", remaining=75.0))
    '1 min 15 s left'
    """
    if event.remaining is None or event.done >= event.total:
        return ""
    minutes, seconds = divmod(round(event.remaining), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min left"
    return f"{minutes} min {seconds} s left" if minutes else f"{seconds} s left"
