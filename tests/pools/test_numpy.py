"""Arrays in files, dicts and folders."""

import numpy as np
import pytest
import torch

from labelwise.errors import DataError
from labelwise.pools import open_data

X = np.arange(12.0).reshape(6, 2)
Y = np.array([0, 1, 0, 1, 0, 1])
GRAY = np.arange(6 * 5 * 7, dtype=np.uint8).reshape(6, 5, 7)


def test_npz_with_splits(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=X, y_train=Y, x_test=X[:2] + 1, y_test=Y[:2], flag=Y)
    data = open_data(tmp_path / "a.npz")
    assert data.kind == "array"
    assert data.pool.ids[:2] == ["train/0", "train/1"]
    assert data.test.ids == ["test/0", "test/1"]
    assert data.labels.tolist() == Y.tolist()
    assert data.pool.array().tensor().tolist() == X.tolist()
    assert data.notes == ["arrays left alone: flag"]


@pytest.mark.parametrize(
    "names", [("x", "y"), ("data", "target"), ("features", "labels"), ("X", "Y")]
)
def test_usual_names(tmp_path, names):
    np.savez(tmp_path / "a.npz", **dict(zip(names, (X, Y))))
    data = open_data(tmp_path / "a.npz", holdout=0)
    assert data.pool.ids[0] == "row/0"
    assert data.labels.tolist() == Y.tolist()


def test_words_ids_and_classes_in_arrays():
    words = np.array(["b", "a", "b", "a", "b", "a"])
    data = open_data({"x": X, "y": words, "ids": np.arange(6) * 10}, holdout=0)
    assert data.pool.ids == ["0", "10", "20", "30", "40", "50"]
    assert data.classes == ["a", "b"]
    assert open_data({"x": X, "y": Y, "classes": np.array(["u", "v"])}).classes == ["u", "v"]


@pytest.mark.parametrize(
    ("array", "shape"),
    [
        (GRAY, (6, 5, 7, 3)),
        (np.repeat(GRAY[..., None], 3, 3), (6, 5, 7, 3)),
        (np.repeat(GRAY[:, None], 3, 1), (6, 5, 7, 3)),  # channels first, as torch has them
    ],
)
def test_bytes_of_the_shape_of_images_are_images(array, shape):
    data = open_data({"x": array, "y": Y}, holdout=0)
    assert data.kind == "image"
    assert data.pool.images().shape == shape
    np.testing.assert_array_equal(data.pool.images()[..., 1], GRAY)
    assert open_data({"x": array, "y": Y}, kind="array", holdout=0).pool.shape == array.shape


def test_numbers_of_the_shape_of_images_are_an_array():
    assert open_data({"x": GRAY.astype(float), "y": Y}).kind == "array"
    assert open_data({"x": GRAY[:, :3], "y": Y}).kind == "array"  # too low for an image
    with pytest.raises(DataError, match=r"images must be uint8.*float64"):
        open_data({"x": GRAY.astype(float), "y": Y}, kind="image")
    with pytest.raises(DataError, match="cannot be of kind 'text'"):
        open_data({"x": X, "y": Y}, kind="text")


def test_a_single_array_is_mapped_and_has_no_labels(tmp_path):
    np.save(tmp_path / "a.npy", X)
    data = open_data(tmp_path / "a.npy")
    assert data.pool.array().is_file
    assert data.labels.tolist() == [-1] * 6
    assert open_data(X).fingerprint == data.fingerprint
    assert open_data(torch.from_numpy(X)).fingerprint == data.fingerprint


def test_a_folder_of_arrays_is_mapped(tmp_path):
    for name, array in {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    data = open_data(tmp_path)
    assert data.pool.array().is_file
    assert data.test_labels.tolist() == Y.tolist()


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"y": Y}, "no array of items among y; call it x"),
        ({"x": X, "y": Y[:3]}, r"'y' must hold one value per item, \(6,\), got \(3,\)"),
        ({"x": X, "y": np.eye(6)}, "items of several classes at once are not supported"),
        ({"x": X, "data": X}, "'x' and 'data' might both hold the items"),
        ({"x": X, "x_test": X}, "'x' has none"),
        ({"x_train": X, "x_unlabeled": X}, "two splits serve as the pool"),
        ({"x": X[:0]}, "'x' holds no rows"),
        ({"x": np.array(3.0)}, "'x' holds no rows"),
        ({"x": X, "ids": np.zeros(6, int)}, "'0' names rows 0 and 1"),
        ({"x": np.where(X == 4, np.nan, X)}, r"'row/2': value 0 is nan"),
        ({"x": X, "y": Y + 0.5}, "a quantity"),
        ({"x": np.array(["a", "b"])}, "rows of numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(arrays, match):
    with pytest.raises(DataError, match=match):
        open_data(arrays)


def test_rows_that_are_not_finite_are_left_out_on_request():
    data = open_data({"x": np.where(X == 4, np.nan, X), "y": Y}, holdout=0, skip_unreadable=True)
    assert data.skipped == [("row/2", "value 0 is nan")]
    assert data.labels.tolist() == [0, 1, 1, 0, 1]


def test_named_arrays():
    arrays = {"x": X, "one": Y, "two": 1 - Y}
    assert open_data(arrays, label="two", holdout=0).labels.tolist() == (1 - Y).tolist()
    with pytest.raises(DataError, match=r"label='tow' names no array; did you mean two"):
        open_data(arrays, label="tow")


def test_broken_files_are_named(write, tmp_path):
    with pytest.raises(DataError, match=r"a.npz cannot be read as .npz"):
        open_data(write("a.npz", b"no"))
    with pytest.raises(DataError, match=r"a.npy cannot be read as .npy"):
        open_data(write("a.npy", b"no"))
    np.savez(tmp_path / "b.npz", x=np.array([{}, {}], dtype=object))
    with pytest.raises(DataError, match=r"b.npz cannot be read.*"):
        open_data(tmp_path / "b.npz")  # a pickle is never opened
