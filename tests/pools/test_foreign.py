"""Data frames, Hugging Face data sets and torch data sets."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from labelwise.errors import DataError
from labelwise.pools import open_data

FRAME = pd.DataFrame({"n": [1.5, None, 3.0], "c": ["u", "v", None], "label": ["a", "b", "a"]})


def test_a_data_frame():
    data = open_data(FRAME, holdout=0)
    assert data.kind == "table"
    assert data.pool.ids == ["row/0", "row/1", "row/2"]
    assert data.pool.items() == [
        {"n": 1.5, "c": "u"},
        {"n": None, "c": "v"},
        {"n": 3.0, "c": None},
    ]
    assert data.labels.tolist() == [0, 1, 0]
    assert open_data(pa.Table.from_pandas(FRAME), holdout=0).fingerprint == data.fingerprint


def test_the_index_of_a_data_frame_gives_the_ids():
    named = FRAME.set_axis(["x", "y", "z"])
    assert open_data(named, holdout=0).pool.ids == ["x", "y", "z"]
    assert open_data(FRAME[FRAME.label == "a"], holdout=0).pool.ids == ["0", "2"]
    with pytest.raises(DataError, match=r"'x' is in it twice; reset_index"):
        open_data(FRAME.set_axis(["x", "x", "z"]))
    with pytest.raises(DataError, match="several levels"):
        open_data(FRAME.set_index(["n", "c"]))


def test_labels_that_pandas_turned_to_floats_for_a_gap():
    data = open_data(FRAME.assign(label=[1.0, None, 0.0]), holdout=0)
    assert data.labels.tolist() == [1, -1, 0]
    with pytest.raises(DataError, match="a quantity"):
        open_data(FRAME.assign(label=[0.1, 0.2, 0.3]))


def test_data_frames_that_do_not_fit():
    with pytest.raises(DataError, match="two columns are called 'n'"):
        open_data(FRAME.set_axis(["n", "n", "label"], axis=1))
    with pytest.raises(DataError, match=r"data frame cannot be read.*column n"):
        open_data(FRAME.assign(n=[1, "x", 2.0]))
    with pytest.raises(DataError, match="holds no rows"):
        open_data(FRAME[:0])


class Names:
    """A feature of class labels, as Hugging Face has it."""

    def __init__(self, names):
        self.names = names


class HubSet:
    """The part of a Hugging Face data set's interface that counts."""

    def __init__(self, table, names=None, form=None):
        self._table, self._names, self._form = table, names, form
        self.column_names = table.column_names
        self.features = {
            name: Names(names) if name == "label" and names else object()
            for name in self.column_names
        }

    def __len__(self):
        return len(self._table)

    def with_format(self, form):
        return HubSet(self._table, self._names, form)

    def __getitem__(self, rows):
        assert self._form == "arrow", "rows must not be decoded"
        return self._table[rows]


def test_a_hub_data_set(png):
    structs = [{"bytes": png(row), "path": None} for row in range(4)]
    table = pa.table({"image": structs, "label": [0, 1, 1, -1]})
    data = open_data(HubSet(table, ["cat", "dog"]), holdout=0)
    assert data.kind == "image"
    assert data.pool.images().shape == (4, 6, 8, 3)
    assert data.classes == ["cat", "dog"]
    assert data.labels.tolist() == [0, 1, 1, -1]


def test_a_dict_of_hub_data_sets():
    def part(texts, labels):
        return HubSet(pa.table({"text": texts, "label": labels}), ["neg", "pos"])

    parts = {"train": part(["a", "b"], [0, 1]), "test": part(["c"], [1])}
    data = open_data(parts)
    assert data.pool.texts() == ["a", "b"]
    assert data.pool.ids == ["train/0", "train/1"]
    assert data.test.ids == ["test/0"]
    assert data.classes == ["neg", "pos"]
    with pytest.raises(DataError, match="got 'extra'"):
        open_data(parts | {"extra": part(["d"], [0])})


def test_a_streamed_hub_data_set_is_refused():
    class Stream:
        column_names, features = ("text",), {"text": object()}

        def with_format(self, form):
            return self

    with pytest.raises(DataError, match="without streaming=True"):
        open_data(Stream())


class Pairs(Dataset):
    """Items and labels from a function."""

    def __init__(self, item, count=6):
        self.item, self.count, self.calls = item, count, 0

    def __len__(self):
        return self.count

    def __getitem__(self, row):
        if row >= self.count:
            raise IndexError(row)
        self.calls += 1
        return self.item(row)


def test_tensor_data_sets():
    x, y = torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 0, 1, 0, 1])
    data = open_data(TensorDataset(x, y), holdout=0)
    assert data.kind == "array"
    assert torch.equal(data.pool.array().tensor(), x)
    assert data.labels.tolist() == y.tolist()
    assert open_data(TensorDataset(x)).labels.tolist() == [-1] * 6
    with pytest.raises(DataError, match="got 3 tensors"):
        open_data(TensorDataset(x, x, y))


def test_pairs_of_images_are_fetched_when_asked_for(picture):
    source = Pairs(lambda row: (picture(row), row % 2))
    source.targets = [row % 2 for row in range(6)]
    source.classes = ["cat", "dog"]
    data = open_data(source, holdout=0)
    assert source.calls <= 2  # a look at the first item, twice
    assert data.kind == "image"
    assert data.classes == ["cat", "dog"]
    np.testing.assert_array_equal(data.pool.images([3])[0], np.asarray(picture(3)))


def test_labels_come_from_the_pairs_where_no_attribute_has_them(picture):
    data = open_data(Pairs(lambda row: (picture(row), torch.tensor(row % 2))), holdout=0)
    assert data.labels.tolist() == [0, 1] * 3
    assert open_data(Pairs(lambda row: (picture(row), row % 2)), label=False).classes == []


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        (lambda row: Image.new("L", (4, 4), row), "image"),
        (lambda row: np.full((3, 6, 5), row, np.uint8), "image"),
        (lambda row: torch.full((5, 6), row, dtype=torch.uint8), "image"),
        (lambda row: torch.full((3, 6, 5), float(row)), "array"),
        (lambda row: np.array([row, 1]), "array"),
        (lambda row: [row, 1, 2], "array"),
        (lambda row: f"text {row}", "text"),
    ],
)
def test_items_alone(item, kind):
    data = open_data(Pairs(item))
    assert data.kind == kind
    assert data.labels.tolist() == [-1] * 6
    assert len(data.pool.items()) == 6
    if kind == "image":
        assert data.pool.images()[5].max() == 5


def test_a_list_of_texts_is_a_data_set():
    assert open_data(["one", "two"]).pool.texts() == ["one", "two"]
    assert open_data([("one", "a"), ("two", "b")], holdout=0).classes == ["a", "b"]


def failing(row):
    if row in (0, 4):
        raise RuntimeError("disk\nerror")
    return np.full(3, row), row % 2


def test_items_that_fail_are_named_or_skipped():
    with pytest.raises(DataError, match=r"2 items cannot be read: 'row/0': RuntimeError: disk err"):
        open_data(Pairs(failing))
    data = open_data(Pairs(failing), skip_unreadable=True, holdout=0)
    assert data.pool.ids == ["row/1", "row/2", "row/3", "row/5"]
    assert data.labels.tolist() == [1, 0, 1, 1]
    assert [item for item, _ in data.skipped] == ["row/0", "row/4"]


def test_an_image_that_fails_later_is_named(picture):
    def item(row):
        if row == 4:
            raise OSError("gone")
        return picture(row)

    data = open_data(Pairs(item))
    with pytest.raises(DataError, match="'row/4': OSError: gone"):
        data.pool.images()
    assert open_data(Pairs(item), skip_unreadable=True).skipped == [("row/4", "OSError: gone")]


def test_random_transforms_are_refused():
    noise = np.random.default_rng(0)
    with pytest.raises(DataError, match="'row/0' differs when it is asked for again"):
        open_data(Pairs(lambda row: noise.random(3)))


@pytest.mark.parametrize(
    ("item", "match"),
    [
        (lambda row: {"x": 1}, "got dict"),
        (lambda row: None, "got NoneType"),
        (lambda row: np.zeros(3 + row), r"'row/1' has \(4,\) and 'row/0' \(3,\)"),
        (lambda row: (np.zeros(3), [row, 1]), "a list per item"),
        (lambda row: (np.zeros(3), 0.5 + row), "a quantity"),
    ],
)
def test_items_that_do_not_fit(item, match):
    with pytest.raises(DataError, match=match):
        open_data(Pairs(item))


def test_what_cannot_be_opened():
    with pytest.raises(DataError, match="holds no items"):
        open_data(Pairs(lambda row: 0, count=0))
    with pytest.raises(DataError, match="a int cannot be opened"):
        open_data(3)
    with pytest.raises(DataError, match="a bytes cannot be opened"):
        open_data(b"abc")
    with pytest.raises(DataError, match="a generator cannot be opened"):
        open_data(x for x in "ab")
    with pytest.raises(DataError, match="kind 'text' and cannot be 'image'"):
        open_data(["a", "b"], kind="image")
