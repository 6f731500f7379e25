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
        pseudo_labels: (n,) int64 classes to train with instead of asking; None to ask.
        notes: what the strategy has to say of this call, such as how it estimated a default.
        state: what the strategy wants to find as its evidence ``state`` at its next query, plain
            JSON-able data; None for a strategy that remembers nothing.
        ids: (n,) identities of the rows, where `select` was given them.
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
    pseudo_labels: NDArray[np.int64] | None = None
    notes: tuple[str, ...] = ()
    state: Mapping[str, Any] | None = None
    ids: NDArray[Any] | None = None
    strategy: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        columns: dict[str, type] = {"rows": np.int64, "pseudo_labels": np.int64}
        columns |= {"scores": np.float64, "weights": np.float64, "probability": np.float64}
        for name, kind in columns.items():
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, torch.Tensor):
                value = value.detach().cpu().numpy()
            array = np.asarray(value)
            if array.ndim != 1 or len(array) != len(self.rows):
                raise InputError(
                    f"{name} must be one value a pick, ({len(self.rows)},), got {array.shape}"
                )
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
        """Some of the picks, with what is known of each.

        Args:
            positions: (m,) places in the list of picks, in the order wanted.
        """
        columns = ("rows", "scores", "weights", "probability", "pseudo_labels", "ids")
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
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a table with a line a pick, to a ``.csv`` or a ``.parquet`` file.

        The file appears whole or not at all. Every line also names the strategy and the seed;
        Parquet keeps options and notes in the file's metadata.

        Raises:
            InputError: another suffix, or no such folder.
            ResourceError: the file cannot be written, for want of space or permission.
        """
        path = Path(path)
        writers = {".csv": self._write_csv, ".parquet": self._write_parquet}
        if path.suffix.lower() not in writers:
            raise InputError(f"picks are saved as .csv or .parquet, got {str(path)!r}")
        if not path.parent.is_dir():
            raise InputError(f"there is no folder {str(path.parent)!r} to save picks in")
        write_whole(path, writers[path.suffix.lower()])

    def _table(self) -> dict[str, NDArray[Any]]:
        same = {"strategy": self.strategy, "seed": self.seed}
        filled = {k: np.full(len(self), v) for k, v in same.items() if v is not None}
        return {**self.columns(), **filled}

    def _write_csv(self, path: Path) -> None:
        table = self._table()
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table)
            writer.writerows(zip(*(column.tolist() for column in table.values())))

    def _write_parquet(self, path: Path) -> None:
        import json

        import pyarrow as pa
        from pyarrow import parquet

        call = {"options": dict(self.options), "notes": list(self.notes), "seconds": self.seconds}
        table = pa.table({name: pa.array(col.tolist()) for name, col in self._table().items()})
        table = table.replace_schema_metadata({"labelwise": json.dumps(call, default=repr)})
        parquet.write_table(table, str(path))


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
