"""What a strategy answers: the rows to ask about, in order, and why."""

from __future__ import annotations

import csv
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from labelwise.errors import InputError, ResourceError

_SHOWN = 10


@dataclass(frozen=True, eq=False)
class Picks:
    """Rows to ask about, first to ask first. NumPy takes it for the array of its rows.

    A strategy of your own may return one with ``rows`` and what else it knows; `select` fills
    in the rest.

    Attributes:
        rows: (n,) int64, positions in the pool, in pick order.
        scores: (n,) float64, larger = asked first: the acquisition score of each pick, or what
            a jointly built batch gained by it; None where there is no score.
        weights: (n,) float64 > 0, for weighted training; None for equal weights.
        probability: (n,) chance that the row was among the picks; None where not known.
        pseudo_rows: (m,) int64 rows, none of them a pick, to train with at a class that the
            strategy is sure of, until its next query; None for a strategy that has no such.
        pseudo_labels: (m,) int64 these classes.
        notes: what the strategy has to say of this call, such as how it estimated a default.
        state: what the strategy wants to find as its evidence ``state`` at its next query, plain
            JSON-able data; None for a strategy that remembers nothing.
        ids: (n,) identities of the rows, where `select` was given them.
        pseudo_ids: (m,) of the pseudo-labeled rows.
        strategy: name of the strategy.
        options: its options.
        seed: the seed.
        seconds: wall time of the `select` call.

    >>> picks = Picks(np.array([4, 2]), scores=np.array([0.9, 0.5]), strategy="margin", seed=0)
    >>> picks
    Picks(2 by margin, seed 0)
    rank  row  score
       0    4    0.9
       1    2    0.5
    >>> np.asarray(picks)
    array([4, 2])
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float64] | None = None
    weights: NDArray[np.float64] | None = None
    probability: NDArray[np.float64] | None = None
    pseudo_rows: NDArray[np.int64] | None = None
    pseudo_labels: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    state: Mapping[str, Any] | None = None
    ids: NDArray[Any] | None = None
    pseudo_ids: NDArray[Any] | None = None
    strategy: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        columns: dict[str, type] = {"rows": np.int64, "scores": np.float64}
        columns |= {"weights": np.float64, "probability": np.float64}
        for name, kind in columns.items():
            self._settle(name, kind, len(self.rows), "a pick")
        if (self.pseudo_rows is None) != (self.pseudo_labels is None):
            raise InputError(
                "pseudo_rows and pseudo_labels go together: rows that are not picked, and the "
                "classes to train with"
            )
        if self.pseudo_rows is not None:
            for name in ("pseudo_rows", "pseudo_labels"):
                self._settle(name, np.int64, len(self.pseudo_rows), "a pseudo-labeled row")
            both = np.intersect1d(self.rows, self.pseudo_rows)
            if len(both):
                raise InputError(f"pseudo_rows must not be picks, but row {both[0]} is one")

    def _settle(self, name: str, kind: type, length: int, what: str) -> None:
        """Make an array of a column, and refuse one that does not fit."""
        value = getattr(self, name)
        if value is None:
            return
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu().numpy()
        array = np.asarray(value)
        if array.ndim != 1 or len(array) != length:
            raise InputError(f"{name} must be one value {what}, ({length},), got {array.shape}")
        if kind is np.int64 and array.dtype.kind not in "iu" and len(array):
            raise InputError(f"{name} must be whole numbers, got an array of {array.dtype}")
        object.__setattr__(self, name, array.astype(kind))

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rows.tolist())

    def __getitem__(self, item: Any) -> Any:
        found = self.rows[item]
        return int(found) if np.ndim(found) == 0 else found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        array = self.rows if dtype is None else self.rows.astype(dtype, copy=False)
        return array.copy() if copy else array

    def take(self, positions: NDArray[np.int64]) -> Picks:
        """Some of the picks, with what is known of each; pseudo-labels stay as they are.

        Args:
            positions: (m,) places in the list of picks, in the order wanted.
        """
        columns = ("rows", "scores", "weights", "probability", "ids")
        known = {name: getattr(self, name) for name in columns}
        return replace(self, **{k: v[positions] for k, v in known.items() if v is not None})

    @property
    def why(self) -> list[dict[str, Any]]:
        """For each pick: rank, row, what it scored, and the call that picked it."""
        columns = self.columns()
        call: dict[str, Any] = {"strategy": self.strategy, "options": dict(self.options)}
        call |= {"seed": self.seed, "notes": list(self.notes)}
        return [
            {**dict(zip(columns, values)), **call}
            for values in zip(*(column.tolist() for column in columns.values()))
        ]

    def columns(self) -> dict[str, NDArray[Any]]:
        """What is known of each pick, as arrays of equal length by name."""
        known = {
            "rank": np.arange(len(self)),
            "row": self.rows,
            "id": self.ids,
            "score": self.scores,
            "weight": self.weights,
            "probability": self.probability,
        }
        return {name: column for name, column in known.items() if column is not None}

    def pseudo_columns(self) -> dict[str, NDArray[Any]]:
        """What is known of each pseudo-labeled row, as `columns`; empty where there are none."""
        known = {
            "row": self.pseudo_rows,
            "id": self.pseudo_ids,
            "pseudo_label": self.pseudo_labels,
        }
        return {name: column for name, column in known.items() if column is not None}

    def __repr__(self) -> str:
        by = f" by {self.strategy}" if self.strategy else ""
        seed = f", seed {self.seed}" if self.seed is not None else ""
        took = f", {self.seconds:.3g} s" if self.seconds is not None else ""
        lines = [f"Picks({len(self)}{by}{seed}{took})"]
        columns = self.columns()
        cells = [[name, *(_cell(v) for v in col[:_SHOWN])] for name, col in columns.items()]
        widths = [max(map(len, column)) for column in cells]
        for line in zip(*cells):
            lines.append("  ".join(cell.rjust(width) for cell, width in zip(line, widths)))
        if len(self) > _SHOWN:
            lines.append(f"... and {len(self) - _SHOWN} more")
        if self.pseudo_rows is not None:
            lines.append(f"and pseudo-labels of {len(self.pseudo_rows):,} other rows")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a table with a line a pick, to a ``.csv`` or a ``.parquet`` file.

        The file appears whole or not at all. Every line also names the strategy and the seed;
        Parquet keeps options and notes in the file's metadata. Pseudo-labels are no picks: they
        have a file of their own, see `save_pseudo_labels`.

        Raises:
            InputError: another suffix, or no such folder.
            ResourceError: the file cannot be written, for want of space or permission.
        """
        self._save(path, self.columns())

    def save_pseudo_labels(self, path: str | os.PathLike[str]) -> None:
        """Write a table with a line a pseudo-labeled row; everything else as `save`.

        Raises:
            InputError: there are no pseudo-labels, another suffix, or no such folder.
            ResourceError: the file cannot be written, for want of space or permission.
        """
        if self.pseudo_rows is None:
            raise InputError(f"there are no pseudo-labels to save: {self.strategy} gives none")
        self._save(path, self.pseudo_columns())

    def _save(self, path: str | os.PathLike[str], columns: dict[str, NDArray[Any]]) -> None:
        """Write columns and what is the same on every line."""
        path = Path(path)
        same = {"strategy": self.strategy, "seed": self.seed}
        length = len(columns["row"])
        table = columns | {k: np.full(length, v) for k, v in same.items() if v is not None}
        writers = {".csv": _write_csv, ".parquet": self._write_parquet}
        if path.suffix.lower() not in writers:
            raise InputError(f"picks are saved as .csv or .parquet, got {str(path)!r}")
        if not path.parent.is_dir():
            raise InputError(f"there is no folder {str(path.parent)!r} to save picks in")
        writer = writers[path.suffix.lower()]
        write_whole(path, lambda temporary: writer(temporary, table))

    def _write_parquet(self, path: Path, columns: dict[str, NDArray[Any]]) -> None:
        import json

        import pyarrow as pa
        from pyarrow import parquet

        call = {"options": dict(self.options), "notes": list(self.notes), "seconds": self.seconds}
        table = pa.table({name: pa.array(col.tolist()) for name, col in columns.items()})
        table = table.replace_schema_metadata({"labelwise": json.dumps(call, default=repr)})
        parquet.write_table(table, str(path))


def check_pseudo_rows(name: str, picks: Picks, candidates: torch.Tensor) -> None:
    """Refuse pseudo-labels of rows that are no candidates: those have labels, or are ruled out.

    Raises:
        InputError: such a row, or one that is named twice.
    """
    if picks.pseudo_rows is None:
        return
    values, counts = np.unique(picks.pseudo_rows, return_counts=True)
    for wrong, why in (
        (np.setdiff1d(values, candidates.numpy()), "which is no candidate"),
        (values[counts > 1], "more than once"),
    ):
        if len(wrong):
            raise InputError(f"{name} gave a pseudo-label to row {wrong[0]}, {why}")


def _write_csv(path: Path, table: dict[str, NDArray[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*(column.tolist() for column in table.values())))


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Write beside the target, then put it in its place in one step."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ResourceError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
