"""What every pool promises: stable ids, subsets, a fingerprint, no labels."""

import numpy as np
import pyarrow as pa
import pytest

from labelwise.errors import DataError, InputError
from labelwise.pools import ArrayPool, Column, ImagePool, PixelImages, TablePool, TextPool

IDS = ["a", "b", "c", "d"]


def pools(order=(0, 1, 2, 3)):
    """The same four items in every kind of pool, in some order."""
    rows = list(order)
    ids = [IDS[row] for row in rows]
    pixels = np.arange(4 * 5 * 6, dtype=np.uint8).reshape(4, 5, 6)[rows]
    numbers = np.array([1.0, np.nan, 3.0, 4.0])[rows]
    codes = np.array([0, 1, -1, 1], np.int32)[rows]
    columns = {
        "n": Column("numeric", numbers),
        "c": Column("categorical", codes, ("red", "sad")),
    }
    return {
        "image": ImagePool(PixelImages(pixels), ids),
        "table": TablePool(columns, ids),
        "text": TextPool(pa.chunked_array([["one", "two"], ["three", "four"]]).take(rows), ids),
        "array": ArrayPool(np.arange(8.0).reshape(4, 2)[rows], ids),
    }


KINDS = sorted(pools())


def plain(pool, rows=None):
    """Items as values that compare."""
    return [np.asarray(item).tolist() for item in pool.items(rows)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_subset_holds_the_same_items_in_the_order_asked_for(kind):
    pool = pools()[kind]
    part = pool.subset([3, 0]).subset(np.array([1, 0]))
    assert part.ids == ["a", "d"]
    assert part.kind == kind
    assert len(part) == 2
    assert plain(part) == plain(pool, [0, 3])


@pytest.mark.parametrize("kind", KINDS)
def test_the_fingerprint_is_that_of_ids_items_and_order_alone(kind):
    pool, again = pools()[kind], pools()[kind]
    assert pool.fingerprint == again.fingerprint
    assert len(pool.fingerprint) == 32
    other = pools((1, 0, 2, 3))[kind]
    assert other.fingerprint != pool.fingerprint
    assert other.subset([1, 0, 2, 3]).fingerprint == pool.fingerprint
    assert pool.subset([0, 1]).fingerprint != pool.fingerprint
    renamed = pools()[kind]
    renamed.ids = ["a", "b", "c", "e"]
    assert renamed.fingerprint != pool.fingerprint


def test_the_fingerprint_sees_every_item():
    found = set()
    for change in range(5):
        pixels = np.zeros((4, 5, 6), np.uint8)
        numbers, codes, texts = np.zeros(4), np.zeros(4, np.int32), ["x"] * 4
        if change < 4:
            pixels[change, 4, 5], numbers[change], codes[change] = 1, np.nan, -1
            texts[change] = "y"
        found.add(ImagePool(PixelImages(pixels)).fingerprint)
        found.add(ArrayPool(pixels).fingerprint)
        found.add(TextPool(texts).fingerprint)
        found.add(TablePool({"n": Column("numeric", numbers)}).fingerprint)
        found.add(TablePool({"n": Column("categorical", codes, ("u",))}).fingerprint)
    assert len(found) == 25


def test_empty_pools_of_different_kinds_differ():
    assert len({pool.subset([]).fingerprint for pool in pools().values()}) == 4


def test_texts_that_join_to_the_same_string_differ():
    assert TextPool(["ab", "c"]).fingerprint != TextPool(["a", "bc"]).fingerprint
    assert TextPool(["", "a"]).fingerprint != TextPool([None, "a"]).fingerprint


def test_where_an_array_is_stored_plays_no_part(tmp_path):
    array = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "x.npy", array)
    loaded = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert ArrayPool(loaded).fingerprint == ArrayPool(array).fingerprint
    assert ArrayPool(array.astype(">f8")).fingerprint == ArrayPool(array).fingerprint
    assert ArrayPool(np.asfortranarray(array)).fingerprint == ArrayPool(array).fingerprint
    assert ArrayPool(array.astype(np.float32)).fingerprint != ArrayPool(array).fingerprint


def table(**columns):
    return TablePool(columns).fingerprint


def test_equal_tables_have_one_fingerprint_and_others_another():
    def number(*values):
        return Column("numeric", np.array(values))

    def word(codes, *categories):
        return Column("categorical", np.array(codes, np.int32), categories)

    odd = np.array([0x7FF8000000000001], np.uint64).view(np.float64)[0]  # a NaN like no other
    assert table(n=number(0.0, np.nan)) == table(n=number(-0.0, odd))
    assert table(n=number(0.0)) != table(m=number(0.0))
    assert table(n=number(0.0), m=number(1.0)) != table(m=number(0.0), n=number(1.0))
    assert table(c=word([0, 1], "a", "b")) != table(c=word([0, 1], "a", "c"))
    assert table(c=word([-1, 0], "a")) != table(c=word([0, 1], "", "a"))


def test_a_category_used_elsewhere_in_the_source_plays_no_part():
    one = TablePool({"c": Column("categorical", np.array([1, 0], np.int32), ("b", "d"))})
    two = TablePool({"c": Column("categorical", np.array([2, 1], np.int32), ("a", "b", "d"))})
    assert one.fingerprint == two.fingerprint


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([4], "0..3 .*got 4"),
        ([0, -1], "got -1 at position 1"),
        ([0.5], "float64"),
        ([[0]], "one-dimensional"),
        ([True, False], "bool"),
    ],
)
def test_rows_out_of_their_rule_are_refused(kind, rows, match):
    pool = pools()[kind]
    with pytest.raises(InputError, match=match):
        pool.items(rows)
    with pytest.raises(InputError, match=match):
        pool.subset(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_cannot_be_in_a_pool_twice(kind):
    with pytest.raises(InputError, match="row 2 occurs again"):
        pools()[kind].subset([2, 1, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_no_rows_at_all_are_an_empty_pool(kind):
    part = pools()[kind].subset([])
    assert len(part) == 0
    assert part.items() == []
    assert part.unreadable() == []
    assert part.fingerprint


def test_ids_must_be_distinct_and_as_many_as_items():
    with pytest.raises(DataError, match="'a' names rows 0 and 2"):
        TextPool(["x", "y", "z"], ids=["a", "b", "a"])
    with pytest.raises(InputError, match="2 items and 1 ids"):
        TextPool(["x", "y"], ids=["a"])


def test_a_table_gives_typed_columns_with_what_is_missing_marked():
    pool = pools()["table"]
    frame = pool.frame([1, 2])
    np.testing.assert_array_equal(frame["n"], [np.nan, 3.0])
    assert frame["c"].to_pylist() == ["sad", None]
    assert frame["c"].dictionary.to_pylist() == ["red", "sad"]
    assert pool.items([1, 2]) == [{"n": None, "c": "sad"}, {"n": 3.0, "c": None}]
    assert pool.columns()["c"].missing.tolist() == [False, False, True, False]
    assert pool.names == ["n", "c"]


def test_rows_of_a_file_stay_on_disk(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(20.0).reshape(10, 2))
    array = np.load(tmp_path / "x.npy", mmap_mode="r")
    pool = ArrayPool(array)
    assert pool.array().is_file
    for rows in ([4, 5, 6], [6, 1], []):
        part = pool.subset(rows).array()
        assert part.is_file
        assert part.tensor().tolist() == array[rows].tolist()
        assert [b.tolist() for _, b in part.blocks(2)] == [
            array[rows[i : i + 2]].tolist() for i in range(0, len(rows), 2)
        ]
    assert part.shape == (0, 2)
    assert pool.subset([6, 1]).shape == (2, 2)


def test_unusable_rows_are_named():
    array = np.zeros((3, 2), np.float32)
    array[1, 1] = np.inf
    array[2, 0] = np.nan
    assert ArrayPool(array, IDS[:3]).unreadable() == [
        ("b", "value 1 is inf"),
        ("c", "value 0 is nan"),
    ]
    assert ArrayPool(np.zeros((2, 2), np.uint8)).unreadable() == []
    column = Column("numeric", np.array([np.nan, -np.inf]))
    assert TablePool({"n": column}).unreadable() == [("row/1", "column 'n' holds -inf")]
    assert TextPool(["x", None]).subset([1]).unreadable() == [("row/1", "the text is missing")]
    with pytest.raises(DataError, match=r"'row/1': the text is missing.*skip_unreadable"):
        TextPool(["x", None]).texts()


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.array(3.0), np.arange(3)])
def test_an_array_pool_holds_numbers(array):
    with pytest.raises(DataError, match="rows of numbers"):
        ArrayPool(array)


def test_a_table_needs_columns_of_one_length():
    with pytest.raises(DataError, match="at least one feature column"):
        TablePool({})
    columns = {"a": Column("numeric", np.zeros(2)), "b": Column("numeric", np.zeros(3))}
    with pytest.raises(DataError, match="same number of rows"):
        TablePool(columns)
