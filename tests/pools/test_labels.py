"""Class numbers, the split, and what a simulation needs."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labelwise.errors import DataError, InputError
from labelwise.pools import ArrayPool, Data, open_data
from labelwise.pools.labels import number_labels
from labelwise.pools.splits import hold_out


def numbered(values, declared=None):
    column = values if isinstance(values, pa.Array) else pa.array(values)
    ids = [f"i{row}" for row in range(len(column))]
    (labels,), classes = number_labels([column], [ids], declared)
    assert labels.dtype == np.int64
    return labels.tolist(), classes


@pytest.mark.parametrize(
    ("values", "labels", "classes"),
    [
        (["b", "a", None, "b"], [1, 0, -1, 1], ["a", "b"]),
        ([10, 9, None, 10], [1, 0, -1, 1], ["9", "10"]),
        (["10", "9", "  ", " 10 "], [1, 0, -1, 1], ["9", "10"]),
        ([True, False, None], [1, 0, -1], ["false", "true"]),
        ([1.0, float("nan"), 0.0], [1, -1, 0], ["0", "1"]),
        ([-1, 1], [0, 1], ["-1", "1"]),
        ([None, None], [-1, -1], []),
        ([], [], []),
        (pa.array(["b", "a"]).dictionary_encode(), [1, 0], ["a", "b"]),
    ],
)
def test_labels_become_numbers(values, labels, classes):
    assert numbered(values) == (labels, classes)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([2, -1, 0], [2, -1, 0]),
        (["z", None, "x"], [2, -1, 0]),
        (["2", "-1", "0"], [2, -1, 0]),
        (["z", "z"], [2, 2]),
    ],
)
def test_declared_classes_stay_even_when_unseen(values, labels):
    assert numbered(values, ["x", "y", "z"]) == (labels, ["x", "y", "z"])


def test_parts_share_their_classes():
    parts, classes = number_labels([pa.array(["b"]), pa.array(["a", "b"])], [["i"], ["j", "k"]])
    assert classes == ["a", "b"]
    assert [part.tolist() for part in parts] == [[1], [0, 1]]


@pytest.mark.parametrize(
    ("values", "declared", "match"),
    [
        ([0.5, 1.0], None, "one is 0.5, a quantity"),
        ([float("inf")], None, "one is inf"),
        ([-1, 0, 1], None, "-1 beside 0"),
        (list(range(1200)), None, "1200 of 1200 rows have a label of their own"),
        ([0, 5], ["x", "y"], r"'i1' is 5, which is none of the 2 declared classes"),
        (["x", "q"], ["x", "y"], r"'i1' is 'q', which is none of the 2 .*\(x, y\)"),
        (["x"], ["x", "x"], "'x' occurs again"),
        ([[1], [2]], None, "a list per item"),
        ([b"x"], None, "values of type binary"),
    ],
)
def test_labels_that_are_no_classes_are_refused(values, declared, match):
    with pytest.raises(DataError, match=match):
        numbered(values, declared)


def test_words_in_one_split_and_numbers_in_another_are_refused():
    with pytest.raises(DataError, match="some splits hold words"):
        number_labels([pa.array(["a"]), pa.array([1])], [["i"], ["j"]])


@given(
    st.lists(st.integers(-1, 4), min_size=1, max_size=60),
    st.floats(0, 0.99),
    st.integers(0, 2**40),
    st.randoms(),
)
def test_the_held_out_items_do_not_depend_on_the_order_of_rows(labels, share, seed, shuffler):
    ids = [f"item {row}" for row in range(len(labels))]
    numbers = np.array(labels)
    drawn = hold_out(ids, numbers, share, seed)
    order = list(range(len(labels)))
    shuffler.shuffle(order)
    again = hold_out([ids[row] for row in order], numbers[order], share, seed)
    assert {ids[row] for row in drawn} == {ids[order[row]] for row in again}
    assert (np.diff(drawn) > 0).all()
    for number in range(5):
        count = labels.count(number)
        held = int((numbers[drawn] == number).sum())
        assert held == max(min(int(share * count + 0.5), count - 1), 0)
    assert (numbers[drawn] >= 0).all()


def test_another_seed_holds_out_others_and_all_items_alike():
    ids, labels = [str(row) for row in range(50)], np.zeros(50, int)
    counts = np.zeros(50)
    for seed in range(400):
        counts[hold_out(ids, labels, 0.2, seed)] += 1
    assert counts.sum() == 4000
    assert abs(counts - 80).max() < 5 * 8  # five standard deviations of a binomial draw


def arrays(labels, test=None):
    found = {"x_train": np.arange(2.0 * len(labels)).reshape(-1, 2), "y_train": np.array(labels)}
    if test is not None:
        found |= {"x_test": np.zeros((len(test), 2)), "y_test": np.array(test)}
    return found


def test_the_holdout_is_stratified_and_a_class_of_one_stays_in_the_pool():
    data = open_data(arrays([0] * 50 + [1] * 10 + [2]), seed=3)
    assert np.bincount(data.labels).tolist() == [40, 8, 1]
    assert np.bincount(data.test_labels).tolist() == [10, 2]
    assert not set(data.pool.ids) & set(data.test.ids)
    assert any("12 items are held out" in note for note in data.notes)
    assert open_data(arrays([0, 1]), holdout=0).test is None


@pytest.mark.parametrize("holdout", [1, -0.1, 1.5, float("nan"), "0.2", None, True])
def test_a_holdout_that_is_no_share_is_refused(holdout):
    with pytest.raises(InputError, match=r"holdout must be a share in \[0, 1\)"):
        open_data("digits", holdout=holdout)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"seed": 0.5}, "seed must be an integer, got 0.5"),
        ({"seed": "a"}, "seed must be an integer"),
        ({"label": True}, "label must be the name of a column, or False for none, got True"),
        ({"column": 3}, "column must be the name"),
        ({"classes": "abc"}, "classes must be a list of names"),
    ],
)
def test_arguments_out_of_their_rule_are_refused(options, match):
    with pytest.raises(InputError, match=match):
        open_data("digits", **options)


def test_a_validation_split_is_the_test_set_only_where_there_is_none():
    train = arrays([0, 1])
    both = train | {"x_val": np.ones((3, 2)), "y_val": np.array([0, 1, 1])}
    data = open_data(both)
    assert (len(data.test), data.validation) == (3, None)
    assert any("validation split is the test set" in note for note in data.notes)
    data = open_data(both | {"x_test": np.zeros((1, 2)), "y_test": np.array([0])})
    assert (len(data.test), len(data.validation)) == (1, 3)
    assert data.validation_labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("labels", "test", "match"),
    [
        ([0, 1], [0, 2], r"class '2' is in the test set \(1 items, first 'test/1'\)"),
        ([3, 3], [3], "every item of the pool is of one class, '3'"),
    ],
)
def test_a_simulation_needs_the_classes_of_the_test_set(labels, test, match):
    with pytest.raises(DataError, match=match):
        open_data(arrays(labels, test)).require_labels()


def test_a_simulation_needs_every_label():
    data = open_data(arrays([0, 1, 0], [0, 1]))
    assert data.require_labels() is data
    partly = replace(data, labels=np.array([0, -1, 1]))
    with pytest.raises(DataError, match=r"1 of 3 items of the pool .*first 'train/1'"):
        partly.require_labels()
    unknown = replace(data, test_labels=np.array([-1, -1]))
    with pytest.raises(DataError, match="2 of 2 items of the test set"):
        unknown.require_labels()
    with pytest.raises(DataError, match=r"no test set to measure on.*holdout="):
        replace(data, test=None, test_labels=None).require_labels()
    with pytest.raises(DataError, match="has no labels"):
        replace(data, labels=np.full(3, -1)).require_labels()


def test_the_fingerprint_of_data_is_that_of_items_labels_and_split():
    pool, test = ArrayPool(np.eye(3)), ArrayPool(np.ones((1, 3)), ["t"])
    data = Data(pool, np.array([0, 1, 0]), test, np.array([0]), ["a", "b"], "d")
    assert replace(data, name="e").fingerprint == data.fingerprint
    changes = [
        replace(data, labels=np.array([0, 1, 1])),
        replace(data, classes=["a", "c"]),
        replace(data, test=None, test_labels=None),
        replace(data, test_labels=np.array([1])),
        replace(data, pool=pool.subset([1, 0, 2])),
        replace(
            data, test=None, test_labels=None, validation=test, validation_labels=np.array([0])
        ),
    ]
    assert len({data.fingerprint, *(change.fingerprint for change in changes)}) == 7
