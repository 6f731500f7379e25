import json
import os
import struct
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from labelwise.errors import InputError, ResourceError
from labelwise.kernels import Euclidean, Rows, farthest_first


@pytest.fixture
def x():
    return np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)


def as_npy(path, x):
    np.save(path / "x.npy", x)
    return path / "x.npy"


def as_columns(path, x):
    np.save(path / "columns.npy", np.asfortranarray(x))
    return path / "columns.npy"


def as_big_endian(path, x):
    np.save(path / "foreign.npy", x.astype(">f4"))
    return path / "foreign.npy"


def as_safetensors(path, x):
    save_file({"labels": np.arange(len(x)), "x": x}, path / "x.safetensors")
    return path / "x.safetensors"


def as_lists(path, x):
    pq.write_table(pa.table({"x": pa.array(list(x))}), path / "x.parquet", row_group_size=7)
    return path / "x.parquet"


def as_fixed_lists(path, x):
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    pq.write_table(pa.table({"x": lists}), path / "fixed.parquet")
    return path / "fixed.parquet"


def as_parquet_columns(path, x):
    table = pa.table({f"f{i}": column for i, column in enumerate(x.T)})
    pq.write_table(table, path / "columns.parquet", row_group_size=9)
    return path / "columns.parquet"


def as_memmap(path, x):
    return np.load(as_npy(path, x), mmap_mode="r")


WAYS = (
    as_npy,
    as_columns,
    as_big_endian,
    as_safetensors,
    as_lists,
    as_fixed_lists,
    as_parquet_columns,
    as_memmap,
)


@pytest.mark.parametrize("way", WAYS)
def test_rows_of_a_file_are_the_array_s(way, tmp_path, x, monkeypatch):
    monkeypatch.setattr("labelwise.kernels.files._DECODED_ROWS", 8)
    rows = Rows(way(tmp_path, x), "x")
    assert (rows.shape, rows.dtype, rows.is_file) == (x.shape, torch.float32, True)
    assert np.array_equal(rows.tensor().numpy(), x)
    wanted = torch.tensor([49, 3, 4, 5, 3, 0])
    assert np.array_equal(rows.take(wanted).numpy(), x[wanted.numpy()])
    assert rows.take(torch.zeros(0, dtype=torch.int64)).shape == (0, 6)
    for size in (1, 7, 50, 80):
        parts = [(start, block.clone()) for start, block in rows.blocks(size)]
        assert [start for start, _ in parts] == list(range(0, 50, size))
        assert np.array_equal(torch.cat([part for _, part in parts]).numpy(), x)


@pytest.mark.parametrize("way", WAYS)
def test_picks_from_a_file_are_those_from_memory(way, tmp_path, x):
    geometry = Euclidean(way(tmp_path, x), hold=0)
    assert (
        farthest_first(geometry, 9).rows.tolist() == farthest_first(Euclidean(x), 9).rows.tolist()
    )


def test_half_precision_and_brain_floats(tmp_path, x):
    save_torch({"h": torch.from_numpy(x).bfloat16()}, tmp_path / "b.safetensors")
    found = Rows(tmp_path / "b.safetensors", "anything")
    assert found.dtype == torch.bfloat16
    assert torch.equal(found.take(torch.tensor([4, 1])), torch.from_numpy(x).bfloat16()[[4, 1]])
    np.save(tmp_path / "h.npy", x.astype(np.float16))
    assert Rows(tmp_path / "h.npy").dtype == torch.float16


def test_one_column_of_parquet_is_a_list_of_numbers(tmp_path):
    pq.write_table(pa.table({"label": [3, 1, 2]}), tmp_path / "labels.parquet")
    assert Rows(tmp_path / "labels.parquet").tensor().tolist() == [3, 1, 2]


def test_a_private_map_keeps_its_changes(tmp_path, x):
    private = np.load(as_npy(tmp_path, x), mmap_mode="c")
    private[0] = 7
    assert Rows(private).tensor()[0].tolist() == [7] * 6


def test_unflushed_changes_of_a_shared_map_are_seen(tmp_path, x):
    shared = np.load(as_npy(tmp_path, x), mmap_mode="r+")
    shared[0] = 7
    assert Rows(shared).take(torch.tensor([0])).tolist() == [[7] * 6]


@pytest.mark.parametrize("change", [-8, 8])
def test_a_file_that_changes_size_under_the_run_is_one_clear_line(tmp_path, x, change):
    path = as_npy(tmp_path, x)
    geometry = Euclidean(np.load(path, mmap_mode="r"), hold=0)
    geometry.squared_norms()
    os.truncate(path, path.stat().st_size + change)
    with pytest.raises(InputError, match=r"x.npy' changed while it was read: it had 1,328 bytes"):
        farthest_first(geometry, 5)
    with pytest.raises(InputError, match="changed"):
        geometry.take(torch.tensor([0]))


@pytest.mark.parametrize("way", [as_npy, as_safetensors, as_lists, as_columns])
def test_a_truncated_file_is_one_clear_line(way, tmp_path, x):
    path = way(tmp_path, x)
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(InputError) as error:
        Rows(path, "embeddings")
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        ({"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}}, "contradicts"),
        ({"x": {"dtype": "F32", "shape": [-2, 2], "data_offsets": [0, -16]}}, "contradicts"),
        ({"x": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}, "cut short"),
        ({"x": {"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}}, "must hold numbers"),
        ({"x": {"shape": [2]}}, "broken header"),
        ({"a": {}, "b": {}}, "holds a, b; one of them must be named 'x'"),
        ([1], "broken header"),
        ({}, "holds nothing"),
    ],
)
def test_hostile_safetensors(tmp_path, header, what):
    text = json.dumps(header).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(InputError, match=what):
        Rows(tmp_path / "x.safetensors", "x")


def test_not_safetensors_not_parquet_and_not_there(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 32)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no more")
    for name in ("x.safetensors", "x.parquet", "gone.npy", "x.txt"):
        with pytest.raises(InputError, match=name):
            Rows(tmp_path / name, "x")


def test_parquet_with_holes_or_of_uneven_rows(tmp_path):
    cases = {
        "column 'a' of .* is empty in row 1": pa.table({"a": [1.0, None]}),
        "list in row 1 of .* has another length": pa.table({"a": [[1.0], [1.0, 2.0]]}),
        "must hold numbers": pa.table({"a": ["one"]}),
        "has an empty entry": pa.table({"a": [[1.0], [None]]}),
    }
    for i, (message, content) in enumerate(cases.items()):
        pq.write_table(content, tmp_path / f"{i}.parquet")
        with pytest.raises(InputError, match=message):
            Rows(tmp_path / f"{i}.parquet", "x")


def test_no_room_for_decoding(tmp_path, x, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(ResourceError, match="TMPDIR"):
        Rows(as_lists(tmp_path, x), "x")


def test_decoding_leaves_no_file_behind(tmp_path, x, monkeypatch):
    path = as_lists(tmp_path, x)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    rows = Rows(path, "x")
    assert list((tmp_path / "scratch").iterdir()) == []
    assert np.array_equal(rows.tensor().numpy(), x)


def test_reading_ahead_stops_with_its_reader(tmp_path, x):
    before = threading.active_count()
    blocks = Rows(as_npy(tmp_path, x)).blocks(4)
    next(blocks)
    assert threading.active_count() == before + 1
    blocks.close()
    assert threading.active_count() == before


def test_an_error_while_reading_ahead_arrives(tmp_path, x):
    path = as_npy(tmp_path, x)
    blocks = Rows(path).blocks(10)
    os.truncate(path, 500)
    with pytest.raises(InputError, match="changed"):
        list(blocks)


def test_derived_rows_are_computed_when_asked_for(tmp_path, x):
    derived = Rows(as_npy(tmp_path, x)).map(lambda block: block.double().softmax(1), "probs")
    expected = torch.from_numpy(x).double().softmax(1)
    assert (derived.shape, derived.dtype, derived.is_file) == (x.shape, torch.float64, True)
    assert torch.equal(derived.tensor(), expected)
    assert torch.equal(derived.take(torch.tensor([7, 2])), expected[[7, 2]])
    assert torch.equal(torch.cat([block.clone() for _, block in derived.blocks(7)]), expected)


@pytest.mark.parametrize("way", [as_npy, as_safetensors, lambda path, x: x])
def test_swapped_axes_of_a_file_and_of_an_array(way, tmp_path):
    draws = np.random.default_rng(0).normal(size=(3, 20, 4)).astype(np.float32)
    rows = Rows(way(tmp_path, draws), "x").swapped()
    expected = draws.swapaxes(0, 1)
    assert rows.shape == expected.shape
    assert np.array_equal(rows.take(torch.tensor([9, 2])).numpy(), expected[[9, 2]])
    assert np.array_equal(torch.cat([b.clone() for _, b in rows.blocks(6)]).numpy(), expected)
