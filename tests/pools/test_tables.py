"""Tables and texts from files: types, missing values, ids, splits, and files that are broken."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from labelwise.errors import DataError, InputError
from labelwise.pools import open_data

CSV = """age,city,label
31,Rome,yes
?,Oslo,no
45.5,,yes
 7 ,Rome,
"""


def open_whole(path, **options):
    """Everything in the pool, nothing held out."""
    return open_data(path, holdout=0, **options)


def test_csv_types_and_missing_values(write):
    data = open_whole(write("people.csv", CSV))
    assert data.kind == "table"
    assert data.pool.ids == ["row/0", "row/1", "row/2", "row/3"]
    assert data.classes == ["no", "yes"]
    assert data.labels.tolist() == [1, 0, 1, -1]
    frame = data.pool.frame()
    np.testing.assert_array_equal(frame["age"], [31, np.nan, 45.5, 7])
    assert frame["city"].to_pylist() == ["Rome", "Oslo", None, "Rome"]
    assert "label" not in frame


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", "n\tc\tlabel\n1\tx, y\ta\n2\tz\tb\n"),
        ("a.csv", "n;c;label\n1;x, y;a\n2;z;b\n"),
        ("a.csv", "n|c|label\n1|x, y|a\n2|z|b\n"),
        ("a.csv", 'n,c,label\n1,"x, y",a\n2,z,b\n'),
        ("a.csv", '\ufeffn,c,label\r\n1,"x, y",a\r\n\r\n2,z,b\r\n'),
        ("a.csv", 'n,"c",label\n1,"x, y",a\n2,z,b'),
    ],
)
def test_delimiters_quotes_line_ends_and_byte_order_marks(write, name, content):
    data = open_whole(write(name, content))
    assert data.pool.items() == [{"n": 1.0, "c": "x, y"}, {"n": 2.0, "c": "z"}]
    assert data.classes == ["a", "b"]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2", "+3.5", ".5", "5.", "1e-3", "NA", ""], "numeric"),
        (["1", "2", "n/a*"], "categorical"),
        (["02139", "10001"], "categorical"),  # postal codes
        (["0", "0.5", "00"], "categorical"),
        (["0", "0.5", "-0.25"], "numeric"),
        (["2020-01-01", "2020-01-02"], "categorical"),
        (["True", "False"], "categorical"),
        (["1,5", "2,5"], "categorical"),
    ],
)
def test_what_a_column_of_text_holds(write, cells, kind):
    rows = "".join(f'"{cell}",1,{"ab"[i % 2]}\n' for i, cell in enumerate(cells))
    data = open_whole(write("a.csv", "c,n,label\n" + rows))
    assert data.pool.columns()["c"].kind == kind


def test_numbers_are_read_as_they_are_written(write):
    cells = ["1", "-2", "+3.5", ".5", "5.", "1e-3", " 7 "]
    data = open_whole(write("a.csv", "n\n" + "\n".join(cells)))
    assert data.pool.frame()["n"].tolist() == [1, -2, 3.5, 0.5, 5, 0.001, 7]


@pytest.mark.parametrize(
    ("content", "items"),
    [
        ("\ufeffcode,label\n007,a\n012,b\n", [{"code": "007"}, {"code": "012"}]),
        ('"a,b,c";label\n1;x\n2;y\n', [{"a,b,c": 1.0}, {"a,b,c": 2.0}]),
    ],
)
def test_headers_with_marks_and_delimiters_in_quotes(write, content, items):
    assert open_whole(write("a.csv", content)).pool.items() == items


def test_a_stray_word_in_a_column_of_numbers_is_told(write):
    rows = "".join(f"{i},0,a\n" for i in range(5))
    data = open_whole(write("a.csv", f"age,n,label\n{rows}unknown,0,b\n"))
    assert data.pool.columns()["age"].kind == "categorical"
    assert any("'age'" in note and "'unknown'" in note for note in data.notes)


def test_numbers_that_turn_up_late_do_not_change_the_type(write):
    """Readers that look at the first rows only fail at row 49,000."""
    rows = "".join("1,a\n" for _ in range(200_000))
    data = open_whole(write("a.csv", f"n,label\n{rows}x1,b\n"))
    assert data.pool.items([200_000]) == [{"n": "x1"}]


def test_a_column_that_is_missing_everywhere_is_left_out_and_told(write):
    data = open_whole(write("a.csv", "n,void,label\n1,,a\n2,NA,b\n"))
    assert data.pool.names == ["n"]
    assert any("'void'" in note for note in data.notes)
    with pytest.raises(DataError, match=r"every feature column of a.csv is missing"):
        open_data(write("a.csv", "void,label\n,a\nNA,b\n"))


def test_an_unnamed_column_is_no_feature(write):
    data = open_whole(write("a.csv", ",n,label\n0,5,a\n1,6,b\n"))
    assert data.pool.names == ["n"]


def test_infinite_numbers_are_refused_or_skipped(write):
    path = write("a.csv", "n,label\n1,a\ninf,b\n2,b\n")
    with pytest.raises(DataError, match=r"'row/1': column 'n' holds inf"):
        open_data(path)
    data = open_whole(path, skip_unreadable=True)
    assert data.pool.ids == ["row/0", "row/2"]
    assert data.skipped == [("row/1", "column 'n' holds inf")]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("", r"a\.csv is empty"),
        ("\n\n", r"a\.csv is empty"),
        ("a,label\n", r"a\.csv holds no rows"),
        ("a,b,a\n1,2,3\n", r"a\.csv: two columns are called 'a'"),
        ("1,2,3\n4,5,6\n", "first line must name the columns"),
        ("a,label\n1,x\n2\n", "data row 1 .*1 cells where the header has 2.*skip_unreadable"),
        ("a,label\n1,x\n2,y,z\n", "data row 1 .*3 cells"),
        (b"a,label\n1,x\n2,caf\xe9\n", "UTF-8, but line 3 holds the byte 0xe9"),
        ("a,label\n1,x\n".encode("utf-16"), "must be UTF-8"),
        ("label\nx\n", "no column beside label"),
        ("a,label,target\n1,x,y\n", "'label' and 'target' might both"),
        ("a,label\n1,0.5\n2,0.25\n", "one is 0.5, a quantity; put the values in bins"),
        ("a,label\n1,-1\n2,0\n", "-1 beside 0"),
        ("id,a,label\n7,1,x\n7,2,y\n", "'7' names rows 0 and 1; name another column with id="),
        ("id,a,label\n7,1,x\n,2,y\n", "'id' must give every row an id; row 1"),
        ("a,label,split\n1,x,train\n2,y,extra\n", "a split must be called .*got 'extra'"),
        ("a,label,split\n1,x,test\n", "no items to pick from, only a test split"),
    ],
)
def test_a_broken_csv_is_one_clear_line(write, content, match):
    with pytest.raises(DataError, match=match) as caught:
        open_data(write("a.csv", content))
    assert "\n" not in str(caught.value)


def test_ragged_rows_are_left_out_on_request_and_others_keep_their_ids(write):
    path = write("a.csv", 'a,label\n1,x\n2\n"3\n",y\n4,y,z\n5,x\n')
    data = open_whole(path, skip_unreadable=True)
    assert data.pool.ids == ["row/0", "row/2", "row/4"]
    assert [item for item, _ in data.skipped] == ["row/1", "row/3"]


def test_columns_by_name(write):
    path = write("a.csv", "key,n,kind,part\nx,1,u,dev\ny,2,v,train\nz,3,u,train\nw,4,u,test\n")
    data = open_data(path, label="kind", id="key", split="part")
    assert data.pool.ids == ["y", "z"]
    assert data.pool.names == ["n"]
    assert (data.test.ids, data.validation.ids) == (["w"], ["x"])
    with pytest.raises(DataError, match=r"label='kin' names no column.*did you mean kind"):
        open_data(path, label="kin")


def test_false_means_that_there_is_no_such_column(write):
    path = write("a.csv", "id,label,split\n1,2,u\n1,3,v\n")
    data = open_data(path, id=False, label=False, split=False)
    assert data.pool.names == ["id", "label", "split"]
    assert data.labels.tolist() == [-1, -1]


def test_words_such_as_none_are_classes_and_only_an_empty_cell_has_no_label(write):
    data = open_whole(write("a.csv", "n,label\n1,none\n2,NA\n3,\n"))
    assert data.classes == ["NA", "none"]
    assert data.labels.tolist() == [1, 0, -1]
    assert open_whole(write("a.csv", "n,label\n1,7\n2,NA\n")).classes == ["7", "NA"]


def test_a_split_that_is_a_number_is_a_feature(tmp_path):
    pq.write_table(pa.table({"split": [1, 2], "label": ["a", "b"]}), tmp_path / "t.parquet")
    assert open_whole(tmp_path / "t.parquet").pool.names == ["split"]


def test_labels_that_are_numbers_keep_their_order(write):
    data = open_whole(write("a.csv", "n,label\n1,10\n2,9\n3,\n"))
    assert data.classes == ["9", "10"]
    assert data.labels.tolist() == [1, 0, -1]


def test_ids_are_numbered_within_their_split_and_stay_when_rows_are_added(write):
    rows = ["1,a,train", "2,b,test", "3,b,train"]
    first = open_data(write("a.csv", "\n".join(["n,label,split", *rows])))
    assert (first.pool.ids, first.test.ids) == (["train/0", "train/1"], ["test/0"])
    more = open_data(write("a.csv", "\n".join(["n,label,split", *rows, "4,a,test", "5,a,train"])))
    assert more.pool.ids[:2] == first.pool.ids
    assert more.test.ids[:1] == first.test.ids


def test_several_files_by_split(write):
    write("set/train-0.csv", "n,label\n1,a\n2,b\n")
    write("set/train-1.csv", "n,label\n3,a\n")
    folder = write("set/test.csv", "n,label\n9,b\n").parent
    data = open_data(folder)
    assert data.pool.ids == ["train/0", "train/1", "train/2"]
    assert data.test.items() == [{"n": 9.0}]
    write("set/test.csv", "m,label\n9,b\n")
    with pytest.raises(DataError, match=r"test.csv lacks the column 'n'"):
        open_data(folder)


def test_a_folder_of_unrelated_files_is_refused(write):
    write("set/red.csv", "n,label\n1,a\n")
    folder = write("set/wine.csv", "n,label\n1,a\n").parent
    with pytest.raises(DataError, match=r"2 data files.*red.csv, wine.csv.*name one"):
        open_data(folder)


def test_parquet_types_classes_and_missing_values(tmp_path):
    table = pa.table(
        {
            "n": pa.array([1, None, 3], pa.int16()),
            "flag": pa.array([True, False, None]),
            "when": pa.array([0, 86_400_000, None], pa.timestamp("ms")),
            "word": pa.array(["b", None, "a"]).dictionary_encode(),
            "label": pa.array([2, -1, 0], pa.int8()),
        }
    )
    table = table.replace_schema_metadata({"classes": json.dumps(["x", "y", "z"])})
    pq.write_table(table, tmp_path / "t.parquet")
    data = open_whole(tmp_path / "t.parquet")
    assert data.classes == ["x", "y", "z"]
    assert data.labels.tolist() == [2, -1, 0]
    frame = data.pool.frame()
    np.testing.assert_array_equal(frame["n"], [1, np.nan, 3])
    np.testing.assert_array_equal(frame["flag"], [1, 0, np.nan])
    np.testing.assert_array_equal(frame["when"], [0, 86_400, np.nan])
    assert frame["word"].to_pylist() == ["b", None, "a"]
    pyarrow.feather.write_feather(table, tmp_path / "t.feather", compression="uncompressed")
    assert open_whole(tmp_path / "t.feather").fingerprint == data.fingerprint


def test_a_label_that_is_no_declared_class_is_named(tmp_path):
    table = pa.table({"n": [1, 2], "label": [0, 3]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"label of 'row/1' is 3.*2 declared classes"):
        open_data(tmp_path / "t.parquet", classes=["x", "y"])
    words = pa.table({"n": [1, 2], "label": ["x", "tulip"]})
    pq.write_table(words, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"label of 'row/1' is 'tulip'.*\(x, y\)"):
        open_data(tmp_path / "t.parquet", classes=["x", "y"])
    assert open_whole(tmp_path / "t.parquet", classes=["z", "tulip", "x"]).labels.tolist() == [2, 1]


def test_a_broken_parquet_file_is_named(write):
    with pytest.raises(DataError, match=r"t.parquet cannot be read as Parquet"):
        open_data(write("t.parquet", b"PAR1 no"))
    with pytest.raises(DataError, match=r"t.arrow cannot be read as Arrow"):
        open_data(write("t.arrow", b"no"))


def test_duplicate_columns_of_parquet_are_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="two columns are called 'a'"):
        open_data(tmp_path / "t.parquet")


def test_images_in_parquet_stay_encoded(tmp_path, png):
    table = pa.table({"image": [png(0), png(1), b"bad"], "mask": [png(2)] * 3, "label": [0, 1, 1]})
    pq.write_table(table, tmp_path / "t.parquet")
    data = open_whole(tmp_path / "t.parquet", skip_unreadable=True)
    assert data.kind == "image"
    assert data.pool.images().shape == (2, 6, 8, 3)
    assert data.skipped[0][0] == "row/2"
    masks = open_whole(tmp_path / "t.parquet", column="mask")
    np.testing.assert_array_equal(masks.pool.images([0]), masks.pool.images([1]))
    odd = table.rename_columns(["one", "two", "label"])
    pq.write_table(odd, tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"'one', 'two' .*say which with column="):
        open_data(tmp_path / "t.parquet")


def test_a_table_of_image_paths(folder):
    root = folder(["x/1.png", "x/2.png"])
    (root / "list.csv").write_text("path,label\nx/2.png,b\nx/1.png,a\n")
    data = open_whole(root / "list.csv")
    assert data.kind == "image"
    assert data.pool.images().shape == (2, 6, 8, 3)
    assert data.classes == ["a", "b"]


def test_vectors_in_parquet(tmp_path):
    table = pa.table({"embedding": [[1.0, 2.0], [3.0, 4.0]], "label": ["a", "b"]})
    pq.write_table(table, tmp_path / "t.parquet")
    data = open_whole(tmp_path / "t.parquet")
    assert data.kind == "array"
    assert data.pool.array().tensor().tolist() == [[1, 2], [3, 4]]
    fixed = pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, 4.0]), 2)
    pq.write_table(table.set_column(0, "v", fixed), tmp_path / "t.parquet")
    assert open_whole(tmp_path / "t.parquet").pool.array().tensor().tolist() == [[1, 2], [3, 4]]
    ragged = pa.table({"embedding": [[1.0, 2.0], [3.0]], "label": ["a", "b"]})
    pq.write_table(ragged, tmp_path / "t.parquet")
    with pytest.raises(DataError, match="'row/1' has length 1 and 'row/0' 2"):
        open_data(tmp_path / "t.parquet")


def test_number_columns_as_an_array(write):
    path = write("a.csv", "n,m,label\n1,2,a\n3,4,b\n")
    data = open_whole(path, kind="array")
    assert data.pool.array().tensor().tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match="'m' holds words"):
        open_data(write("a.csv", "n,m,label\n1,x,a\n"), kind="array")
    with pytest.raises(DataError, match=r"'row/0': value 0 is nan"):
        open_data(write("a.csv", "n,m,label\n,2,a\n3,4,b\n"), kind="array")


JSONL = '{"text": "a, b", "label": "x"}\n\n{"text": "NA", "label": null}\n{"text": "c"}\n'


def test_json_lines(write):
    data = open_whole(write("a.jsonl", JSONL))
    assert data.kind == "text"
    assert data.pool.texts() == ["a, b", "NA", "c"]
    assert data.labels.tolist() == [0, -1, -1]
    listed = [json.loads(line) for line in JSONL.splitlines() if line]
    assert open_whole(write("a.json", json.dumps(listed))).fingerprint == data.fingerprint


def test_a_key_that_turns_up_late_is_missing_before(write):
    data = open_whole(write("a.jsonl", '{"n": 1}\n{"n": 2, "m": "x"}\n{"m": "y"}\n'))
    assert data.pool.items() == [
        {"n": 1.0, "m": None},
        {"n": 2.0, "m": "x"},
        {"n": None, "m": "y"},
    ]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ('{"text": "a"}\n{"text": \n', "object 1 .*no JSON.*skip_unreadable"),
        ('{"text": "a"}\n[1]\n', "object 1 .*an object was expected, got '.1.'"),
        ('{"text": "a", "label": 1}\n{"text": "b", "label": "x"}\n', "'label' must be of one type"),
        ('{"text": null}\n{"text": "b"}\n', "'row/0': the text is missing"),
        (b'{"text": "caf\xe9"}\n', "UTF-8, but line 1"),
        ("", "is empty"),
    ],
)
def test_broken_json_lines_are_one_clear_line(write, content, match):
    with pytest.raises(DataError, match=match) as caught:
        open_data(write("a.jsonl", content))
    assert "\n" not in str(caught.value)


def test_broken_json_lines_are_left_out_on_request(write):
    path = write("a.jsonl", '{"text": "a"}\nbad\n{"text": null}\n{"text": "d"}\n')
    data = open_data(path, skip_unreadable=True)
    assert data.pool.ids == ["row/0", "row/3"]
    assert [item for item, _ in data.skipped] == ["row/1", "row/2"]


def test_json_that_is_no_list(write):
    with pytest.raises(DataError, match="must hold a list of objects"):
        open_data(write("a.json", '{"a": 1}'))
    with pytest.raises(DataError, match="cannot be read as JSON"):
        open_data(write("a.json", "[1, "))


def test_text_in_csv_keeps_words_for_nothing(write):
    path = write("a.csv", 'text,author,label\n"NA",x,a\n"two\nlines",y,b\n"none",z,a\n')
    data = open_whole(path)
    assert data.kind == "text"
    assert data.pool.texts() == ["NA", "two\nlines", "none"]
    assert data.notes == ["columns left alone: author"]
    with pytest.raises(DataError, match="'row/1': the text is missing"):
        open_data(write("a.csv", "text,label\nx,a\n,b\n"))


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("review,label\nit was a very good film,a\nno I did not like it,b\n", "text"),
        ("color,label\nred,a\nblue,b\n", "table"),
        ("n,label\n1,a\n2,b\n", "table"),
        ("text,label\n1,a\n2,b\n", "text"),
    ],
)
def test_the_kind_is_found(write, content, kind):
    assert open_whole(write("a.csv", content)).kind == kind


def test_the_kind_can_be_said(write):
    path = write("a.csv", "color,shape,label\nred,round,a\nblue,square,b\n")
    assert open_whole(path, kind="text", column="color").pool.texts() == ["red", "blue"]
    assert open_whole(path, column="shape").kind == "text"
    with pytest.raises(DataError, match=r"'color', 'shape' .* texts; say which with column="):
        open_data(path, kind="text")
    with pytest.raises(DataError, match=r"no column of images among color, shape"):
        open_data(path, kind="image")
    with pytest.raises(InputError, match=r"kind must be one of .*'picture'"):
        open_data(path, kind="picture")
    assert open_whole(write("b.csv", "text,label\nx,a\ny,b\n"), kind="table").kind == "table"


def test_cells_of_an_unknown_type_are_refused(tmp_path):
    pq.write_table(pa.table({"n": [{"a": 1}], "m": [1], "label": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(
        DataError, match=r"column 'n' holds values of type struct.*leave the column"
    ):
        open_data(tmp_path / "t.parquet")
    pq.write_table(pa.table({"n": [1, 2], "label": [["x"], ["y"]]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="one class per item, got a list per item"):
        open_data(tmp_path / "t.parquet")
    pq.write_table(pa.table({"id": [0.5], "n": [1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="ids must be words or whole numbers"):
        open_data(tmp_path / "t.parquet")


def test_a_file_of_another_type_is_refused(write):
    with pytest.raises(DataError, match=r"a.xlsx is of no known type.*\.parquet"):
        open_data(write("a.xlsx", b"x"))
