"""The ``labelwise`` command: its subcommands, and how each failure ends."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from labelwise._version import __version__
from labelwise.cli import demo, pretrain, select, simulate, strategies
from labelwise.cli.output import complain
from labelwise.errors import LabelwiseError, ResourceError, ResultsError

INTERRUPTED = 130

# typer carries its own click from some version on and imports the shared one before it. What it
# exports leads to the right one either way.
UsageError: Any = typer.BadParameter.__base__
ClickException: Any = UsageError.__base__

app = typer.Typer(
    name="labelwise",
    help="Which items are worth labeling next, and is it paying off?",
    epilog="Start with: labelwise demo. One page on every command: docs/cli.md.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # the boxes take as long to import as everything else together
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo", short_help="A whole simulation on digits, in a minute.")(demo.demo)
app.command("simulate", short_help="Compare strategies on labeled data.")(simulate.simulate)
app.command(
    "select", cls=select.EvidenceCommand, short_help="Pick the rows to label next, from files."
)(select.select)
app.command("pretrain", short_help="Learn an encoder from a pool without labels.")(
    pretrain.pretrain
)
app.command("strategies", short_help="List the strategies, or show one.")(strategies.strategies)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"labelwise {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Say which version."),
    ] = False,
) -> None:
    """Which items are worth labeling next, and is it paying off?"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit: 0, or the exit code of what went wrong.

    Whatever labelwise refuses is one line on stderr, ``error: ...``, and the code of its class
    (see `labelwise.errors`); a mistake in the command line itself is 2, Ctrl-C 130. Anything
    unforeseen keeps its traceback.

    Args:
        arguments: of the command line, without the program's name; the process's own by default.

    Raises:
        SystemExit: always.
    """
    chosen = list(sys.argv[1:] if arguments is None else arguments)
    try:
        ended = app(chosen, prog_name="labelwise", standalone_mode=False)
    except LabelwiseError as error:
        sys.exit(complain(str(error), error.exit_code))
    except typer.Abort as error:
        sys.exit(_interrupted(str(error)))
    except ClickException as error:
        sys.exit(complain(_usage(error, chosen), error.exit_code))
    except OSError as error:
        sys.exit(_system(error))
    if ended == INTERRUPTED:  # how newer versions of typer report Ctrl-C; older ones abort
        sys.exit(_interrupted(""))
    sys.exit(ended if isinstance(ended, int) else 0)


def _interrupted(reason: str) -> int:
    """Ctrl-C; a command that keeps something says so in its reason."""
    return complain(reason or "nothing was written", INTERRUPTED, "interrupted")


def _usage(error: Any, arguments: Sequence[str]) -> str:
    """A mistake in the command line as one line, with the value seen and the way to its help."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "labelwise"
    text = error.format_message().rstrip(".")
    for flag in getattr(getattr(error, "param", None), "opts", ()):
        if flag in arguments[:-1]:
            value = arguments[arguments.index(flag) + 1]
            text += "" if repr(value) in text else f", got {value!r}"
    return f"{text} (see {path} --help)" if text else f"a command is missing (see {path} --help)"


def _system(error: OSError) -> int:
    """What the system refuses (space, permission, a missing file) as one line.

    Raises:
        OSError: the same, when it is none of these: it is not expected and keeps its traceback.
    """
    if error.errno == errno.EPIPE:  # the reader has gone, as in `labelwise strategies | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    reason = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        return complain(f"{reason}; free some space and run again", ResourceError.exit_code)
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR}:
        return complain(f"{reason}; name another place or its owner's", ResultsError.exit_code)
    raise error
