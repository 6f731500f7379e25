"""What the strategies of a run have learned, left in its folder for the next run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from labelwise.benchmark.journal import Record
from labelwise.benchmark.plan import Plan
from labelwise.strategies import Experience

EXPERIENCE = "experience.json"
"""The file's name; with several strategies that learn, each has one named for its label too."""


def write_experience(folder: Path, plan: Plan, records: Sequence[Record]) -> list[Path]:
    """Write the experience of every strategy that leaves some: the mean of its seeds' weights.

    A strategy leaves experience by an entry of that name in its state, as `lsa` does; that of
    its last query is taken, which knows the rewards of all batches but the last.

    Args:
        folder: of the results.
        plan: of the run. records: of its journal, finished.

    Returns:
        The files written: none where no strategy learns what others can use.
    """
    found = {}
    for entry in plan.strategies:
        each = _of_seeds([r for r in records if r.get("strategy") == entry.label])
        if each:
            weights = np.mean([one.weights for one in each], axis=0)
            learned = {"data": plan.data.name, "strategy": entry.label, "seeds": len(each)}
            found[entry.label] = Experience(
                each[0].arms, tuple(weights.tolist()), each[0].scale, learned
            )
    paths = []
    for label, experience in found.items():
        slug = re.sub(r"[^\w.=+-]+", "_", label)
        path = folder / (EXPERIENCE if len(found) == 1 else f"experience-{slug}.json")
        experience.save(path)
        paths.append(path)
    return paths


def _of_seeds(records: Sequence[Record]) -> list[Experience]:
    """The last experience of each seed."""
    last: dict[int, Record] = {}
    for record in records:
        state = record.get("carried") or {}
        if "experience" in state and record["round"] >= last.get(record["seed"], record)["round"]:
            last[record["seed"]] = record
    return [
        Experience.from_dict(last[seed]["carried"]["experience"], f"seed {seed}")
        for seed in sorted(last)
    ]
