"""Progress of long commands: a bar with the remaining time on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from labelwise.cli.output import note

if TYPE_CHECKING:
    from labelwise.benchmark.progress import Event, Listener
    from labelwise.strategies import Status

_LINE_EVERY = 30.0


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


@contextmanager
def picking() -> Iterator[Callable[[Status], None]]:
    """A listener for `select` that reports on stderr, once there is something to wait for.

    On a terminal it is a bar; in a log file a line every half minute.
    """
    if not sys.stderr.isatty():
        yield _PickLines()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (BarColumn(bar_width=28), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("picking", total=None)

        def told(status: Status) -> None:
            words = span_left(status)
            bar.update(task, completed=status.picked, total=status.n, description=words)

        yield told


class _PickLines:
    """Picks as lines, at most one every half minute."""

    def __init__(self) -> None:
        self._next = _LINE_EVERY

    def __call__(self, status: Status) -> None:
        if status.seconds >= self._next and status.picked < status.n:
            self._next = status.seconds + _LINE_EVERY
            words = span_left(status)
            note(f"[{status.picked}/{status.n}]" + f" {words}" * bool(words))


def span_left(status: Status) -> str:
    """The least and most that is left, in words; empty where it is not known.

    >>> from labelwise.strategies import Status
    >>> span_left(Status(100, 1000, 12.0, (61.0, 185.0)))
    '1 min 1 s to 3 min 5 s left'
    """
    if status.left is None or status.picked >= status.n:
        return ""
    return " to ".join(_words(seconds) for seconds in status.left) + " left"


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
    return f"{_words(event.remaining)} left"


def _words(time: float) -> str:
    minutes, seconds = divmod(round(time), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
