"""Options that several commands have, and values as they are written on the command line."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from labelwise.errors import InputError
from labelwise.options import parse_values

LabelColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Column of the labels.")]
IdColumn = Annotated[
    str | None, typer.Option("--id", metavar="NAME", help="Column of the item ids.")
]
SplitColumn = Annotated[str | None, typer.Option(metavar="NAME", help="Column of train and test.")]
HoldoutShare = Annotated[
    float, typer.Option(metavar="SHARE", help="Share held out where there is no test split.")
]
Seed = Annotated[int, typer.Option(metavar="N", help="Of everything that is drawn.")]
Threads = Annotated[int | None, typer.Option(metavar="N", help="Cores to use.", show_default="all")]
TrainingDevice = Annotated[
    str | None, typer.Option(metavar="DEVICE", help="Where to train: cpu, cuda, ...")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", re.IGNORECASE)


def parse_size(text: str | None) -> int | None:
    """Bytes of a size such as ``4GB``, ``512MiB`` or ``1000000``; None stays None.

    Raises:
        InputError: it is no size.

    >>> parse_size("4GB"), parse_size("1.5 GiB")
    (4000000000, 1610612736)
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    if found is None:
        raise InputError(f"memory must be a size such as 4GB, 512MiB or 1000000, got {text!r}")
    return int(float(found[1]) * (_UNITS | _BINARY)[(found[2] or "").upper()])


def parse_pairs(
    pairs: Iterable[str], flag: str, parse: Callable[[str], Any] = parse_values
) -> dict[str, Any]:
    """Options written ``name=value``, with values as what they look like.

    ``true``, ``false``, ``none`` and finite numbers are read as such, numbers with commas between
    as a tuple, everything else is text.

    Args:
        pairs: as written.
        flag: the command-line option they came with, for messages.
        parse: makes a value of text, by default as above.

    Raises:
        InputError: no ``=``, or a name given twice.

    >>> parse_pairs(["first=uniform", "trials=3", "bias=true", "hidden=128,64"], "--option")
    {'first': 'uniform', 'trials': 3, 'bias': True, 'hidden': (128, 64)}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name.isidentifier():
            raise InputError(f"{flag} must be written name=value, got {pair!r}")
        if name in found:
            raise InputError(f"{flag} {name} is given twice")
        found[name] = parse(value.strip())
    return found


def set_threads(threads: int | None) -> None:
    """How many cores torch may use in this process.

    Raises:
        InputError: below 1.
    """
    if threads is None:
        return
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    import torch

    torch.set_num_threads(threads)


def check_device(device: str | None) -> str | None:
    """A device that torch knows and this machine has; None stays None.

    Raises:
        InputError: no such device.

    >>> check_device("cpu")
    'cpu'
    """
    if device is None:
        return None
    from labelwise.learners.recipe import pick_device

    pick_device(device)
    return device
