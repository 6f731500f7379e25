"""The encoder of tables, and the encoders that change little: pixels and identity."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from labelwise.errors import DataError, InputError
from labelwise.learners import make_encoder
from labelwise.learners.identity import Identity
from labelwise.learners.pixels import Pixels
from labelwise.learners.table import Table
from labelwise.pools import ArrayPool, Column, ImagePool, PixelImages, TablePool, TextPool

nan = float("nan")


def numbers(*values):
    return Column("numeric", np.array(values, float))


def words(*values):
    levels = sorted({value for value in values if value is not None})
    codes = [-1 if value is None else levels.index(value) for value in values]
    return Column("categorical", np.array(codes, np.int32), tuple(levels))


def encoded(columns, test=None, **options):
    encoder = Table(**options).fit(TablePool(columns), seed=0)
    pool = encoder.encode(TablePool(columns if test is None else test))
    return dict(zip(encoder.names, pool.T.tolist()))


def test_numbers_are_standardized():
    found = encoded({"a": numbers(1, 2, 3), "b": numbers(10, 10, 40)})
    assert found["a"] == pytest.approx([-1.2247449, 0, 1.2247449])
    assert found["b"] == pytest.approx([-0.7071068, -0.7071068, 1.4142136])


def test_a_missing_number_takes_the_mean_and_a_mark():
    found = encoded({"a": numbers(1, nan, 3), "b": numbers(0, 1, 1)})
    assert found["a"] == pytest.approx([-1, 0, 1])
    assert found["a is missing"] == [0, 1, 0]
    assert "b is missing" not in found


def test_a_number_missing_only_in_the_test_set_takes_the_mean():
    found = encoded({"a": numbers(1, 3)}, test={"a": numbers(nan, 5)})
    assert found == {"a": pytest.approx([0, 3])}


def test_numbers_of_any_size_keep_their_digits():
    largest = np.finfo(float).max
    found = encoded(
        {
            "far": numbers(1e15, 1e15 + 1, 1e15 + 2),
            "wide": numbers(-largest, 0, largest),
            "tiny": numbers(0, 1e-310, 2e-310),
        }
    )
    for values in found.values():
        assert values == pytest.approx([-1.2247449, 0, 1.2247449], rel=1e-4, abs=1e-4)


def test_a_number_far_outside_the_pool_stays_finite():
    found = encoded({"a": numbers(0, 1e-300)}, test={"a": numbers(1e300, -1e300)})
    assert found == {"a": [1e6, -1e6]}


def test_categories_get_a_column_each_most_frequent_first():
    found = encoded({"c": words("x", "y", "y", "z")})
    assert found == {"c=y": [0, 1, 1, 0], "c=x": [1, 0, 0, 0], "c=z": [0, 0, 0, 1]}


def test_missing_and_rare_categories_share_the_last_level():
    found = encoded({"c": words("x", "x", "y", "y", "z", None)}, max_levels=2)
    assert list(found) == ["c=x", "c=y", "c is other or missing"]
    assert found["c is other or missing"] == [0, 0, 0, 0, 1, 1]


def test_a_category_the_pool_does_not_know():
    pool = {"c": words("x", "y", "y"), "n": words("x", None, "y")}
    found = encoded(pool, test={"c": words("new", "x", None), "n": words("new", "x", None)})
    assert found["c=x"] == [0, 1, 0]
    assert found["c=y"] == [0, 0, 0]
    assert found["n is other or missing"] == [1, 0, 1]


def test_what_tells_nothing_is_dropped():
    columns = {
        "constant": numbers(2.1, 2.1, 2.1, 2.1),
        "same": words("x", "x", "x", "x"),
        "id": words("p", "q", "r", "s"),
        "absent": numbers(nan, nan, nan, nan),
        "gaps": numbers(5, nan, 5, 5),
        "kept": numbers(0, 1, 0, 1),
    }
    assert list(encoded(columns)) == ["gaps is missing", "kept"]


def test_a_table_that_tells_nothing_is_refused():
    with pytest.raises(DataError, match="every column is constant or an identifier"):
        encoded({"a": numbers(1, 1), "b": words("x", "x")})


def test_an_infinite_number_is_refused_by_name():
    with pytest.raises(DataError, match=r"column 'a' .* 'row/1' has inf"):
        encoded({"a": numbers(1, np.inf)})


def test_a_column_that_is_gone_or_of_another_kind_is_refused():
    with pytest.raises(DataError, match=r"column 'a' must be numeric.*not there"):
        encoded({"a": numbers(1, 2)}, test={"b": numbers(1, 2)})
    with pytest.raises(DataError, match=r"column 'a' must be numeric.*is categorical"):
        encoded({"a": numbers(1, 2)}, test={"a": words("x", "y")})


def test_wrong_uses_are_refused():
    pool = TablePool({"a": numbers(1, 2)})
    with pytest.raises(InputError, match="table encoder is not fitted"):
        Table().encode(pool)
    with pytest.raises(InputError, match="reads a table, and this is a pool of kind text"):
        Table().fit(TextPool(["a"]), seed=0)
    with pytest.raises(InputError, match="max_levels must be at least 1, got 0"):
        Table(max_levels=0)


column = st.one_of(
    st.lists(st.one_of(st.floats(-1e300, 1e300), st.just(nan)), min_size=6, max_size=6).map(
        lambda values: numbers(*values)
    ),
    st.lists(st.sampled_from(["a", "b", "c", None]), min_size=6, max_size=6).map(
        lambda values: words(*values)
    ),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(column, min_size=1, max_size=4), st.permutations(range(6)))
def test_any_table_gives_finite_rows_that_follow_the_items(columns, order):
    pool = TablePool({f"c{at}": column for at, column in enumerate(columns)})
    try:
        encoder = Table(max_levels=2).fit(pool, seed=0)
    except DataError:
        return
    values = encoder.encode(pool)
    assert values.shape == (6, *encoder.item_shape()) == (6, len(encoder.names))
    assert values.dtype == encoder.dtype()
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(encoder.encode(pool.subset(order)), values[list(order)])
    shuffled = Table(max_levels=2).fit(pool.subset(order), seed=0)
    assert shuffled.names == encoder.names
    np.testing.assert_allclose(shuffled.encode(pool), values, rtol=1e-4, atol=1e-5)


def test_out_is_written_and_progress_told():
    pool = TablePool({"a": numbers(1, 2), "b": numbers(3, 1)})
    encoder, out, told = Table().fit(pool, seed=0), np.full((2, 2), 9, np.float32), []
    assert encoder.encode(pool, out=out, progress=lambda *at: told.append(at)) is out
    np.testing.assert_allclose(out, [[-1, 1], [1, -1]])
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize("name", ["letter", "credit_g", "mushroom"])
def test_real_tables(name):
    folder = os.environ.get("LABELWISE_DATA")
    if not folder:
        pytest.skip("LABELWISE_DATA is not set")
    from labelwise.pools import open_data

    data = open_data(Path(folder) / "tabular" / f"{name}.parquet")
    encoder = Table().fit(data.pool, seed=0)
    values = encoder.encode(data.pool)
    assert values.shape == (len(data.pool), len(encoder.names))
    assert np.isfinite(values).all()
    assert (values.std(axis=0) > 0).all()
    assert np.isfinite(encoder.encode(data.test)).all()


# --- pixels and identity ------------------------------------------------------------------------


def test_pixels_are_the_images():
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), dtype=np.uint8)
    pool = ImagePool(PixelImages(images))
    encoder = make_encoder("pixels").fit(pool, seed=0)
    assert encoder.item_shape() == (6, 4, 3)
    np.testing.assert_array_equal(encoder.encode(pool), images)
    small = Pixels(size=2).fit(pool, seed=0)
    assert small.encode(pool).shape == (5, 2, 2, 3)
    assert small.signature() != encoder.signature()


def test_images_of_another_size_than_the_pool_are_refused():
    pool = ImagePool(PixelImages(np.zeros((2, 6, 4, 3), np.uint8)))
    test = ImagePool(PixelImages(np.zeros((2, 4, 4, 3), np.uint8)), ids=["a", "b"])
    with pytest.raises(DataError, match=r"'a' is 4x4 .* first is 6x4; .*size=\(height, width\)"):
        Pixels().fit(pool, seed=0).encode(test)


def test_identity_is_the_array_and_no_copy():
    array = np.arange(6.0).reshape(3, 2)
    pool = ArrayPool(array)
    found = Identity().fit(pool, seed=0).encode(pool)
    assert found.numpy().base is array or np.shares_memory(found.numpy(), array)


def test_identity_names_what_is_not_finite():
    pool = ArrayPool(np.array([[0.0], [nan]]), ids=["a", "b"])
    with pytest.raises(DataError, match=r"'b': value 0 is nan \(1 such rows\)"):
        Identity().encode(pool)


@pytest.mark.parametrize("name", ["pixels", "identity", "tfidf"])
def test_a_pool_of_another_kind_is_refused(name):
    with pytest.raises(InputError, match=f"the {name} encoder reads .* kind table"):
        make_encoder(name).fit(TablePool({"a": numbers(1, 2)}), seed=0)
