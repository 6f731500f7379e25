"""Data sets by name, and every real one that is there."""

import os
from pathlib import Path

import numpy as np
import pytest

from labelwise.errors import DataError
from labelwise.pools import known_names, open_data

REAL = os.environ.get("LABELWISE_DATA", "")
needs_data = pytest.mark.skipif(not REAL, reason="LABELWISE_DATA names no folder")


@pytest.fixture
def shelf(write, folder, tmp_path, monkeypatch):
    """A folder of data sets, named by the environment."""
    write("shelf/tabular/wine.csv", "n,label\n1,a\n2,b\n")
    write("shelf/tabular/corn.csv", "n,label\n3,a\n4,b\n")
    write("shelf/other/corn.csv", "n,label\n5,a\n6,b\n")
    write("shelf/iris/iris.csv", "n,label\n7,a\n8,b\n")
    write("shelf/iris/README.md", "about")
    write("shelf/iris/classes.json", "{}")
    write("shelf/solo.csv", "n,label\n9,a\n")
    folder(["a/1.png", "b/2.png"]).rename(tmp_path / "shelf" / "pets")
    monkeypatch.setenv("LABELWISE_DATA", str(tmp_path / "shelf"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "shelf"


def test_names_on_the_shelf(shelf):
    found = known_names()
    # "corn" is in two folders, so it needs its folder's name; "iris" is alone in its own.
    assert sorted(found) == [
        *("digits", "iris", "other", "pets", "solo", "tabular/corn", "tabular/wine", "wine")
    ]
    assert open_data("other", holdout=0).pool.items([0]) == [{"n": 5.0}]
    assert open_data("wine", holdout=0).pool.items([0]) == [{"n": 1.0}]
    assert open_data("tabular/wine", holdout=0).name == "tabular/wine"
    assert open_data("iris", holdout=0).pool.items([0]) == [{"n": 7.0}]
    assert open_data("solo", holdout=0).pool.items([0]) == [{"n": 9.0}]
    assert open_data("pets", holdout=0).classes == ["a", "b"]


def test_a_path_that_exists_wins(shelf, write):
    write("wine", "")
    (shelf.parent / "wine").unlink()
    write("wine/here.csv", "n,label\n100,a\n")
    assert open_data("wine", holdout=0).pool.items() == [{"n": 100.0}]


def test_an_unknown_name_gets_the_nearest(shelf):
    with pytest.raises(DataError, match=r"'wien' is no file.*did you mean wine"):
        open_data("wien")
    with pytest.raises(DataError, match="does not exist; give the path"):
        open_data(Path("wien"))


def test_a_source_that_can_be_no_file_name_is_refused():
    for source in ("x" * 5000, "a\0b"):
        with pytest.raises(DataError, match="is no file or folder that exists"):
            open_data(source)


def test_an_unset_or_wrong_variable_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv("LABELWISE_DATA", raising=False)
    with pytest.raises(DataError, match=r"LABELWISE_DATA is not set\); did you mean digits"):
        open_data("digit")
    monkeypatch.setenv("LABELWISE_DATA", str(tmp_path / "none"))
    with pytest.raises(DataError, match="LABELWISE_DATA names no folder"):
        open_data("digit")


def test_digits_are_images_or_an_array():
    data = open_data("digits").require_labels()
    assert (len(data.pool), len(data.test), data.classes) == (1438, 359, list("0123456789"))
    assert data.pool.images([0, 1]).shape == (2, 8, 8, 3)
    assert data.pool.images().max() == 255
    array = open_data("digits", kind="array")
    assert array.pool.shape == (1438, 64)
    assert array.pool.ids == data.pool.ids
    np.testing.assert_array_equal(array.labels, data.labels)
    assert not set(data.pool.ids) & set(data.test.ids)


@needs_data
def test_cifar10():
    data = open_data("cifar10").require_labels()
    assert (data.kind, len(data.pool), len(data.test)) == ("image", 50_000, 10_000)
    assert (data.pool.ids[0], data.test.ids[-1]) == ("train/0", "test/9999")
    assert np.bincount(data.labels).tolist() == [5000] * 10
    some = data.pool.subset(np.arange(0, 50_000, 25)).images()
    assert some.shape == (2000, 32, 32, 3)
    assert 100 < some.mean() < 140
    assert data.fingerprint == open_data("cifar10").fingerprint


@needs_data
@pytest.mark.parametrize(
    ("name", "kind", "pool", "test", "classes"),
    [
        ("letter", "table", 16000, 4000, 26),
        ("tabular/satimage", "table", 4435, 2000, 6),
        ("agnews", "text", 5000, 7600, 4),
        ("sst2", "text", 6920, 1821, 2),
        ("trec6", "text", 5452, 500, 6),
        ("subj", "text", 8000, 2000, 2),
        ("fashion_mnist", "image", 60320, 9680, 10),
        ("cifar100_subset", "image", 6000, 1200, 100),
    ],
)
def test_real_sets_with_known_sizes(name, kind, pool, test, classes):
    data = open_data(name).require_labels()
    assert (data.kind, len(data.pool), len(data.test)) == (kind, pool, test)
    assert len(data.classes) == classes
    assert len(set(data.pool.ids) | set(data.test.ids)) == pool + test


@needs_data
def test_every_table_of_the_shelf():
    tables = [name for name in known_names() if name.startswith("tabular/")]
    assert len(tables) == 19
    for name in tables:
        data = open_data(name).require_labels()
        assert data.kind == "table"
        assert set(np.unique(data.labels)) <= set(range(len(data.classes)))
        assert 0.15 < len(data.test) / (len(data.pool) + len(data.test)) < 0.35
        assert "label" not in data.pool.names
    mushroom = open_data("mushroom").pool.columns()
    assert all(column.kind == "categorical" for column in mushroom.values())
    assert sum(column.missing.sum() for column in mushroom.values()) > 1000
    assert open_data("credit_g").pool.columns()["duration"].kind == "numeric"


@needs_data
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("multilabel/yeast", "items of several classes at once"),
        ("cifar10_human/cifar10h_test", "no array of items among counts, label"),
    ],
)
def test_real_sets_that_are_no_single_label_data(name, match):
    with pytest.raises(DataError, match=match):
        open_data(name)


@needs_data
def test_segmentation_images_open_without_labels():
    data = open_data("camvid")
    assert (len(data.pool), len(data.test), len(data.validation)) == (367, 233, 101)
    assert data.pool.images([0, 1], size=64).shape == (2, 64, 64, 3)
    with pytest.raises(DataError, match="has no labels"):
        data.require_labels()
