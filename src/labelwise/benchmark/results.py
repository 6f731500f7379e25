"""What a simulation found: one table, a row per strategy, seed and round, with its recipe.

The table is ``results.parquet``; everything about the run as a whole is JSON in the file's
schema metadata, under the key ``labelwise``. A run that is not finished is read from its journal.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from labelwise.benchmark.curves import Curve
from labelwise.benchmark.journal import JOURNAL, Record, parse, write_atomically
from labelwise.benchmark.plan import Plan
from labelwise.errors import InputError, ResultsError, nearest

if TYPE_CHECKING:
    import pyarrow as pa

TABLE = "results.parquet"
METADATA = b"labelwise"

TIMINGS = ("select_seconds", "train_seconds", "evaluate_seconds")
"""The columns that differ between two runs of the same plan; every other one is the same."""


@cache
def schema() -> pa.Schema:
    """The columns of a results table.

    - ``strategy``: the strategy's label, options included. ``seed``, ``round``: 0 is the
      initial set.
    - ``initial``: size of the initial set. ``labels``: paid for so far, ``initial`` included.
    - ``accuracy``, ``macro_accuracy`` (mean recall of the classes in the test set): in [0, 1],
      on the test set, of the model fitted once this round's labels were in.
    - ``class_balance``: entropy of the classes of this round's picks over that of a uniform
      draw from all classes, in [0, 1]; 1 is perfectly balanced. ``class_counts``: the picks of
      each class.
    - ``select_seconds`` (the evidence included), ``train_seconds``, ``evaluate_seconds``.
    - ``picked_ids``: in pick order; in round 0 the initial set. ``picked_scores``: the
      strategy's scores of them, larger = asked first; null where it gives none.
    - ``learner``: its name.
    """
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("strategy", pa.string(), nullable=False),
            pa.field("seed", pa.int64(), nullable=False),
            pa.field("round", pa.int64(), nullable=False),
            pa.field("initial", pa.int64(), nullable=False),
            pa.field("labels", pa.int64(), nullable=False),
            pa.field("accuracy", pa.float64(), nullable=False),
            pa.field("macro_accuracy", pa.float64(), nullable=False),
            pa.field("class_balance", pa.float64(), nullable=False),
            pa.field("class_counts", pa.list_(pa.int64()), nullable=False),
            pa.field("select_seconds", pa.float64(), nullable=False),
            pa.field("train_seconds", pa.float64(), nullable=False),
            pa.field("evaluate_seconds", pa.float64(), nullable=False),
            pa.field("picked_ids", pa.list_(pa.string()), nullable=False),
            pa.field("picked_scores", pa.list_(pa.float64())),
            pa.field("learner", pa.string(), nullable=False),
        ]
    )


@dataclass(frozen=True)
class FullData:
    """One model fitted to the whole pool: where every curve ends.

    Attributes:
        labels: how many it was fitted to.
        accuracy, macro_accuracy: on the test set, in [0, 1].
        train_seconds: of the fit.
        seed: of the fit.
    """

    labels: int
    accuracy: float
    macro_accuracy: float
    train_seconds: float
    seed: int


@dataclass(frozen=True, eq=False)
class Results:
    """The results of a simulation, finished or not.

    Attributes:
        folder: where they are.
        plan: what was to be done.
        table: the rows, see `schema`, by strategy (in the plan's order), seed and round.
        full: `FullData` by learner name; empty when it was not asked for or is not there yet.
        encoding_seconds: spent encoding pool and test set, 0 when a cache had them; None when
            the run has not got that far.
        sessions: versions and machine of every process that worked on it, oldest first.
        notes: what a reader should know, such as that a session ran on another machine.

    >>> Results.load("nowhere")
    Traceback (most recent call last):
    labelwise.errors.ResultsError: nowhere holds no plan.json: name a folder that `simulate` wrote
    """

    folder: Path
    plan: Plan
    table: pa.Table
    full: dict[str, FullData]
    encoding_seconds: float | None
    sessions: list[dict[str, Any]]
    notes: list[str]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Results:
        """Read a results folder; a run that is not finished yields the rounds it has.

        Raises:
            ResultsError: no results folder, another format, or a damaged file.
        """
        path = Path(folder)
        plan = Plan.read(path)
        if (path / TABLE).exists():
            return _from_table(path, plan)
        if not (path / JOURNAL).exists():
            return from_records(path, plan, [])
        return from_records(path, plan, parse(path / JOURNAL)[0])

    @property
    def strategies(self) -> list[str]:
        """Labels of the strategies, in the plan's order."""
        return [entry.label for entry in self.plan.strategies]

    @property
    def complete(self) -> bool:
        """Whether every round is there, and the full-data fit where the plan has one."""
        rounds = len(self.plan.strategies) * len(self.plan.seeds) * self.plan.points
        fitted = bool(self.full) or not self.plan.full
        return fitted and len(self.table) == rounds

    def curves(self, metric: str = "accuracy") -> dict[str, Curve]:
        """Learning curves of one measure, by strategy.

        Args:
            metric: a numeric column of the table.

        Returns:
            A `Curve` a strategy, over all the plan's rounds and seeds, NaN for what is missing.

        Raises:
            InputError: no such column, or one that holds no numbers.
        """
        import pyarrow as pa

        numeric = [f.name for f in schema() if pa.types.is_floating(f.type)]
        if metric not in numeric:
            raise InputError(f"metric {metric!r} is no measure: {nearest(metric, numeric)}")
        plan = self.plan
        rounds = range(plan.first_round, plan.rounds + 1)
        labels = np.array([plan.labels_at(r) for r in rounds], dtype=np.float64)
        seat = {seed: i for i, seed in enumerate(plan.seeds)}
        values = {name: np.full((len(seat), len(labels)), np.nan) for name in self.strategies}
        columns = [self.table[name].to_pylist() for name in ("strategy", "seed", "round", metric)]
        for strategy, seed, round_, value in zip(*columns):
            values[strategy][seat[seed], round_ - plan.first_round] = value
        return {name: Curve(name, labels, tuple(plan.seeds), v) for name, v in values.items()}

    def picks(self, strategy: str, *, seed: int, round: int) -> list[str]:
        """Ids picked in one round, in pick order; an empty list when it has not been run."""
        import pyarrow.compute as pc

        column = pc.field
        here = (
            (column("strategy") == strategy) & (column("seed") == seed) & (column("round") == round)
        )
        found = self.table.filter(here)["picked_ids"].to_pylist()
        return list(found[0]) if found else []


def from_records(folder: Path, plan: Plan, records: Sequence[Record]) -> Results:
    """Results of a journal's records; the order of the records does not matter."""
    import pyarrow as pa

    place = {entry.label: i for i, entry in enumerate(plan.strategies)}
    rounds = [record for record in records if record["kind"] == "round"]
    rounds.sort(key=lambda r: (place[r["strategy"]], plan.seeds.index(r["seed"]), r["round"]))
    table = pa.Table.from_pylist(
        [{name: record[name] for name in schema().names} for record in rounds], schema=schema()
    )
    seconds = [record["seconds"] for record in records if record["kind"] == "encoding"]
    return Results(
        folder=folder,
        plan=plan,
        table=table,
        full={r["learner"]: _full(r) for r in records if r["kind"] == "full"},
        encoding_seconds=max(seconds, default=None),
        sessions=[_without_kind(r) for r in records if r["kind"] == "session"],
        notes=[record["text"] for record in records if record["kind"] == "note"],
    )


def write_table(results: Results) -> Path:
    """Write ``results.parquet`` into the results folder, whole or not at all.

    Raises:
        ResourceError: the disk is full.
    """
    import pyarrow.parquet as pq

    metadata = {
        "plan": results.plan.model_dump(mode="json"),
        "data_fingerprint": results.plan.data.fingerprint,
        "full": {name: vars(value) for name, value in results.full.items()},
        "encoding_seconds": results.encoding_seconds,
        "sessions": results.sessions,
        "notes": results.notes,
    }
    table = results.table.replace_schema_metadata({METADATA: json.dumps(metadata)})
    path = results.folder / TABLE
    write_atomically(path, lambda file: pq.write_table(table, file, compression="zstd"))
    return path


def session() -> Record:
    """Versions and machine of this process, for the journal."""
    from importlib.metadata import version

    import torch

    from labelwise._version import __version__

    libraries = {name: version(name) for name in ("torch", "numpy", "scipy", "scikit-learn")}
    return {
        "kind": "session",
        "versions": {
            "labelwise": __version__,
            "python": platform.python_version(),
            **libraries,
        },
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def session_changes(first: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """What differs between two sessions, in words: ``"threads 1, was 2"``."""
    for part in ("versions", "machine"):
        for name, value in new[part].items():
            before = first[part].get(name)
            if before != value:
                yield f"{name} {value}, was {before}"


def _from_table(folder: Path, plan: Plan) -> Results:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / TABLE
    try:
        table = pq.read_table(path)
        metadata = json.loads(table.schema.metadata[METADATA])
        table = table.replace_schema_metadata(None).cast(schema())
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(
            f"cannot read {path} ({error}): delete it and run the simulation again, "
            f"it is rebuilt from {JOURNAL}"
        ) from error
    return Results(
        folder=folder,
        plan=plan,
        table=table,
        full={name: FullData(**value) for name, value in metadata["full"].items()},
        encoding_seconds=metadata["encoding_seconds"],
        sessions=metadata["sessions"],
        notes=metadata["notes"],
    )


def _full(record: Record) -> FullData:
    return FullData(**{name: record[name] for name in FullData.__dataclass_fields__})


def _without_kind(record: Record) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key != "kind"}
