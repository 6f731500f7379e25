"""Picks behave as an array, print well and save whole files."""

import csv

import numpy as np
import pytest
import torch

from labelwise.errors import InputError, ResourceError
from labelwise.strategies import Picks, select


@pytest.fixture
def picks():
    probs = np.random.default_rng(0).dirichlet(np.ones(3), size=30)
    return select("margin", 12, probs=probs, ids=[f"item {i}" for i in range(30)])


def test_they_are_an_array_of_rows(picks):
    rows = np.asarray(picks)
    assert rows.dtype == np.int64
    assert rows.tolist() == list(picks) == picks.rows.tolist()
    assert len(picks) == 12
    assert picks[0] == rows[0]
    assert isinstance(picks[0], int)
    assert picks[2:4].tolist() == rows[2:4].tolist()
    assert np.arange(30)[picks].tolist() == rows.tolist()
    assert np.asarray(picks, dtype=np.float32).dtype == np.float32
    assert np.array(picks, copy=True) is not picks.rows
    assert rows[0] in picks
    assert torch.as_tensor(np.asarray(picks)).tolist() == rows.tolist()


def test_they_print_as_a_short_table(picks):
    lines = repr(picks).splitlines()
    assert lines[0].startswith("Picks(12 by margin, seed 0, ")
    assert lines[1].split() == ["rank", "row", "id", "score"]
    assert lines[2].split()[1] == str(picks.rows[0])
    assert len(lines) == 13
    assert lines[-1] == "... and 2 more"
    assert all(len(line) < 100 for line in lines)


def test_notes_are_printed():
    assert repr(Picks([1], notes=("all was covered",))).endswith("note: all was covered")


def test_they_save_to_csv(picks, tmp_path):
    path = tmp_path / "picks.csv"
    picks.save(path)
    with path.open() as file:
        lines = list(csv.DictReader(file))
    assert [int(line["row"]) for line in lines] == picks.rows.tolist()
    assert [line["id"] for line in lines] == picks.ids.tolist()
    assert [float(line["score"]) for line in lines] == picks.scores.tolist()
    assert {line["strategy"] for line in lines} == {"margin"}
    assert [p.name for p in tmp_path.iterdir()] == ["picks.csv"]


def test_they_save_to_parquet(picks, tmp_path):
    from pyarrow import parquet

    picks.save(str(tmp_path / "picks.parquet"))
    table = parquet.read_table(tmp_path / "picks.parquet")
    assert table["row"].to_pylist() == picks.rows.tolist()
    assert table["score"].to_pylist() == picks.scores.tolist()
    assert table["seed"].to_pylist() == [0] * 12
    assert b"options" in table.schema.metadata[b"labelwise"]


@pytest.mark.parametrize("name", ["picks.csv", "picks.parquet"])
def test_an_interrupted_save_leaves_what_was_there(picks, tmp_path, name, monkeypatch):
    path = tmp_path / name
    path.write_text("before")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(ResourceError, match=r"cannot write .*picks.*No space left"):
        picks.save(path)
    assert path.read_text() == "before"
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_only_two_kinds_of_file(picks, tmp_path):
    with pytest.raises(InputError, match=r"saved as \.csv or \.parquet, got"):
        picks.save(tmp_path / "picks.txt")
    with pytest.raises(InputError, match="there is no folder"):
        picks.save(tmp_path / "nowhere" / "picks.csv")


@pytest.fixture
def pseudo():
    def sure(*, n):
        return Picks([4, 2], pseudo_rows=[0, 3, 1], pseudo_labels=torch.tensor([7, 7, 9]))

    return select(sure, 2, ids=list("abcde"), seed=3)


def test_pseudo_labels_are_told_apart_from_picks(pseudo):
    assert pseudo.rows.tolist() == [4, 2]
    assert pseudo.pseudo_ids.tolist() == ["a", "d", "b"]
    assert "and pseudo-labels of 3 other rows" in repr(pseudo).splitlines()
    assert list(pseudo.columns()) == ["rank", "row", "id"]
    columns = {name: column.tolist() for name, column in pseudo.pseudo_columns().items()}
    assert columns == {"row": [0, 3, 1], "id": ["a", "d", "b"], "pseudo_label": [7, 7, 9]}
    assert [line["row"] for line in pseudo.why] == [4, 2]
    assert Picks([1]).pseudo_columns() == {}
    assert pseudo.take(np.array([1])).pseudo_rows.tolist() == [0, 3, 1]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_pseudo_labels_have_a_file_of_their_own(pseudo, tmp_path, suffix):
    path = tmp_path / f"sure.{suffix}"
    pseudo.save_pseudo_labels(path)
    if suffix == "csv":
        with path.open() as file:
            lines = list(csv.DictReader(file))
    else:
        from pyarrow import parquet

        lines = parquet.read_table(path).to_pylist()
    assert [int(line["row"]) for line in lines] == [0, 3, 1]
    assert [line["id"] for line in lines] == ["a", "d", "b"]
    assert [int(line["pseudo_label"]) for line in lines] == [7, 7, 9]
    assert {line["strategy"] for line in lines} == {"sure"}
    assert {int(line["seed"]) for line in lines} == {3}
    pseudo.save(path)
    with pytest.raises(InputError, match="no pseudo-labels to save: margin gives none"):
        Picks([1], strategy="margin").save_pseudo_labels(path)


def test_pseudo_labels_belong_to_rows_that_are_not_picked():
    with pytest.raises(InputError, match="pseudo_rows and pseudo_labels go together"):
        Picks([1, 2], pseudo_labels=[0, 1])
    with pytest.raises(InputError, match=r"pseudo_labels must be one value a pseudo-labeled row"):
        Picks([1, 2], pseudo_rows=[3, 4], pseudo_labels=[0])
    with pytest.raises(InputError, match="pseudo_labels must be whole numbers"):
        Picks([1, 2], pseudo_rows=[3], pseudo_labels=[0.5])
    with pytest.raises(InputError, match="must not be picks, but row 2 is one"):
        Picks([1, 2], pseudo_rows=[3, 2], pseudo_labels=[0, 1])


def test_columns_have_one_value_a_pick():
    with pytest.raises(InputError, match=r"scores must be one value a pick, \(2,\)"):
        Picks([1, 2], scores=[0.5])
    with pytest.raises(InputError, match="rows must be whole numbers"):
        Picks([1.5, 2.0])
