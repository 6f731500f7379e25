"""A command on several processes: rank 0 writes and reports, the others help with its fits.

Every rank runs the same rounds, since a round is decided by its seed and its models alone. So
that all begin where a resumed folder ends, rank 0 hands its journal round; the results of the
other ranks go to folders of their own, which are thrown away. The cache of encodings is shared,
since of several that encode at once one wins and all read its arrays.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labelwise.learners.parallel import Ranks
    from labelwise.pools import Data

BEGUN = ("plan.json", "journal.jsonl")
"""The files of a results folder that say what is done."""


def hand_round(ranks: Ranks, out: Path) -> dict[str, str]:
    """What rank 0 finds in its results folder, by file name, on every rank."""
    if ranks.size == 1:
        return {}
    found = {name: out / name for name in BEGUN if ranks.first and (out / name).is_file()}
    # A torn last line may hold half a character; the journal cuts it off.
    texts = {name: path.read_bytes().decode("latin-1") for name, path in found.items()}
    heard: dict[str, str] = json.loads(ranks.send(json.dumps(texts).encode()))
    return heard


def help_simulate(begun: dict[str, str], data: Data, **plan: Any) -> None:
    """The simulation of rank 0 on another rank, for the sake of the fits.

    Args:
        begun: what `hand_round` gave.
        data: what to run on.
        plan: the other arguments of `labelwise.benchmark.simulate`.
    """
    from labelwise.benchmark import simulate

    with tempfile.TemporaryDirectory(prefix="labelwise-rank-") as own:
        for name, text in begun.items():
            (Path(own) / name).write_bytes(text.encode("latin-1"))
        simulate(data, **plan | {"out": own})
