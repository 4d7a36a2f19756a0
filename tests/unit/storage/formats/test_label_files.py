import csv
import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, DataError
from engine.storage.formats.export import TABLES, BinWriter, MetaWriter, choose_format, stream_table, write_labels
from engine.storage.formats.label_files import read_labels

LABELS = np.array([0, 5, -1, 9_000_000_000, 2, 2], np.int64)


def text(tmp_path, content):
    (tmp_path / "y.meta").write_bytes(content)
    return tmp_path / "y.meta"


@pytest.mark.parametrize("format", ["npy", "txt", "meta", "parquet"])
def test_written_labels_read_back(tmp_path, format):
    path = tmp_path / f"y.{format}"
    written = write_labels(path, LABELS, format)
    labels = read_labels(path, num_rows=6)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, LABELS)
    assert written.num_bytes == path.stat().st_size
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("format", TABLES)
def test_a_table_is_written_block_by_block(tmp_path, format):
    path = tmp_path / f"t.{format}"
    blocks = [
        {"row": np.arange(2), "id": ["a", "b"], "p": np.array([0.5, 1], np.float32)},
        {"row": np.arange(2, 3, dtype=np.int32), "id": ["c"], "p": np.array([0.25], np.float32)},
    ]
    assert stream_table(path, blocks, format) == 3
    read = pq.read_table(path) if format == "parquet" else pyarrow.csv.read_csv(path)
    assert read.to_pydict() == {"row": [0, 1, 2], "id": ["a", "b", "c"], "p": [0.5, 1, 0.25]}
    with pytest.raises(DataError, match="no rows to write"):
        stream_table(tmp_path / "none", [], format)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


@settings(max_examples=40, deadline=None)
@given(labels=st.lists(st.integers(-1, 2**63 - 1), min_size=1, max_size=30), format=st.sampled_from(["txt", "parquet"]))
def test_round_trip_of_any_labels(tmp_path_factory, labels, format):
    path = tmp_path_factory.getbasetemp() / f"y.{format}"
    write_labels(path, np.array(labels, np.int64), format)
    assert read_labels(path).tolist() == labels


def test_text_is_one_integer_a_line(tmp_path):
    write_labels(tmp_path / "y.txt", LABELS, "txt")
    assert (tmp_path / "y.txt").read_text() == "0\n5\n-1\n9000000000\n2\n2\n"


@pytest.mark.parametrize(
    "content", [b"3\n-1\n4\n", b"3\n-1\n4", b"3\r\n-1\r\n4\r\n", b" 3\t\n-1 \n+4\n\n \n", b"0003\n-01\n4\n\n\n"]
)
def test_text_variants(tmp_path, content):
    assert read_labels(text(tmp_path, content)).tolist() == [3, -1, 4]


@pytest.mark.parametrize(
    ("content", "line", "shown"),
    [
        (b"1\n2\nx\n3\n", 3, "'x'"),
        (b"ada\n2\n", 1, "'ada'"),  # names and integers together
        (b"1\n2.0\n", 2, "'2.0'"),
        (b"1\n\n2\n", 2, "''"),
        (b"1 2\n", 1, "'1 2'"),
        (b"1\n1,2\n", 2, "'1,2'"),
        (b"1\n-\n", 2, "'-'"),
        (b"1\n--2\n", 2, "'--2'"),
        (b"1\n0x10", 2, "'0x10'"),
        (b"1\n9223372036854775808\n", 2, "'9223372036854775808'"),
        (b"\xff\n", 1, "'\ufffd'"),
        (b"1\n" + b"a" * 500, 2, "'" + "a" * 40 + "'"),
    ],
)
def test_text_that_is_not_integers_names_the_line(tmp_path, content, line, shown):
    with pytest.raises(DataError) as error:
        read_labels(text(tmp_path, content))
    assert str(error.value).endswith(f"y.meta: line {line} is {shown}, expected one integer")


@settings(max_examples=100, deadline=None)
@given(content=st.text("0123456789-+ \n\r\t,.", max_size=30))
def test_text_parses_as_python_does(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.meta"
    path.write_bytes(content.encode())
    lines = content.rstrip(" \t\r\n").split("\n")
    try:
        expected = [int(line) for line in lines]
        if min(expected) < -1 or max(expected) >= 2**63:
            raise ValueError
    except ValueError:
        with pytest.raises(DataError):
            read_labels(path)
    else:
        assert read_labels(path).tolist() == expected


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.uint64, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_npy_and_npz_of_any_whole_numbers(tmp_path, dtype, shape):
    labels = np.array([3, 0, 3, 7], dtype).reshape(shape)
    np.save(tmp_path / "y.npy", labels)
    np.savez_compressed(tmp_path / "y.npz", other=np.zeros(2), labels=labels)
    for name in ("y.npy", "y.npz"):
        assert read_labels(tmp_path / name).tolist() == [3, 0, 3, 7]
    assert read_labels(tmp_path / "y.npz", column="other").tolist() == [0, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.array([1.0, 2.5]), r"row 1 is 2\.5, expected an integer"),
        (np.array([1.0, np.nan]), "row 1 is nan"),
        (np.array([1.0, 1e300]), r"row 1 is 1e\+300"),
        (np.array([1, 2**64 - 1], np.uint64), "row 1 is 18446744073709551615"),
        (np.array([1, -2]), "row 1 is -2; a label is 0 or more, or -1"),
        (np.zeros((2, 2), int), r"shape \(N,\) or \(N, 1\), got shape \(2, 2\)"),
        (np.array([True]), "holds bool"),
        (np.zeros(0, int), "holds no labels"),
    ],
)
def test_npy_that_is_not_labels(tmp_path, labels, message):
    np.save(tmp_path / "y.npy", labels)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "y.npy")


def test_names_are_numbered_in_the_order_of_their_first_row(tmp_path):
    names, expected = ["bo", "ada", "", "bo", "-1", "zoë"], [0, 1, -1, 0, -1, 2]
    (tmp_path / "y.txt").write_text("\n".join(names) + "\n", "utf-8")
    np.save(tmp_path / "y.npy", np.array(names))
    pq.write_table(pa.table({"who": pa.array(names).dictionary_encode()}), tmp_path / "y.parquet")
    (tmp_path / "y.csv").write_text("row,label\n" + "".join(f"{i},{name}\n" for i, name in enumerate(names)), "utf-8")
    for suffix in ("txt", "npy", "parquet", "csv"):
        assert read_labels(tmp_path / f"y.{suffix}").tolist() == expected, suffix


def test_below_minus_one_in_text_names_the_line(tmp_path):
    with pytest.raises(DataError, match="line 3 is -5"):
        read_labels(text(tmp_path, b"1\n2\n-5\n"))


def test_object_labels_are_refused(tmp_path):
    np.save(tmp_path / "y.npy", np.array([1, "a"], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects"):
        read_labels(tmp_path / "y.npy")


@pytest.mark.parametrize("name", ["y.parquet", "y.feather"])
def test_columns(tmp_path, name):
    def write(**columns):
        table = pa.table(columns)
        if name == "y.parquet":
            pq.write_table(table, tmp_path / name, row_group_size=2)
        else:
            pyarrow.feather.write_feather(table, str(tmp_path / name), chunksize=2)
        return tmp_path / name

    assert read_labels(write(row=[0, 1, 2], label=[4, -1, 4])).tolist() == [4, -1, 4]
    assert read_labels(write(name=["a", "b"], person=[4, 5])).tolist() == [4, 5]
    assert read_labels(write(row=[0, 1], person=[4, 5]), column="person").tolist() == [4, 5]
    with pytest.raises(DataError, match="cannot tell which column holds the labels: it has row, person; name it"):
        read_labels(write(row=[0, 1], person=[4, 5]))
    with pytest.raises(DataError, match="cannot tell which column"):
        read_labels(write(name=["a"], title=["b"]))
    with pytest.raises(DataError, match="no column 'who'; it has row, person"):
        read_labels(write(row=[0, 1], person=[4, 5]), column="who")
    with pytest.raises(DataError, match="column 'label', row 3 is null"):
        read_labels(write(label=[1, 2, 3, None]))
    with pytest.raises(DataError, match=r"column 'label': is list<.*>, expected integers or names"):
        read_labels(write(label=[["a"], ["b"]]))
    with pytest.raises(DataError, match="holds no labels"):
        read_labels(write(label=pa.array([], pa.int64())))


def test_wrong_number_of_labels(tmp_path):
    with pytest.raises(DataError, match=r"y\.meta: expected 3 labels, one per row of the vectors, got 2"):
        read_labels(text(tmp_path, b"1\n2\n"), num_rows=3)


def test_missing_empty_and_unknown_files(tmp_path):
    with pytest.raises(DataError, match="no such file of labels"):
        read_labels(tmp_path / "absent.meta")
    with pytest.raises(DataError, match="holds no labels"):
        read_labels(text(tmp_path, b""))
    with pytest.raises(DataError, match="holds no labels"):
        read_labels(text(tmp_path, b"\n\n"))
    (tmp_path / "y.pkl").touch()
    with pytest.raises(DataError, match=r"not a known format of labels; supported: \.meta"):
        read_labels(tmp_path / "y.pkl")
    with pytest.raises(DataError, match="nothing to choose"):
        read_labels(text(tmp_path, b"1\n"), column="label")


# Writers


def test_parquet_holds_row_id_label_item(tmp_path):
    ids = pa.chunked_array([["a", "b"], ["c", "d", "e", "f"]])
    write_labels(tmp_path / "y.parquet", LABELS.astype(np.int64), "parquet", {"item": list("uvwxyz"), "id": ids})
    table = pq.read_table(tmp_path / "y.parquet")
    assert table.column_names == ["row", "id", "label", "item"]
    assert table["row"].to_pylist() == list(range(6))
    assert table["id"].to_pylist() == list("abcdef")
    assert table["label"].to_pylist() == LABELS.tolist()
    assert table["item"].to_pylist() == list("uvwxyz")
    write_labels(tmp_path / "y.parquet", LABELS, "parquet")
    assert pq.read_table(tmp_path / "y.parquet").column_names == ["row", "label"]


def test_csv_is_what_spreadsheets_read(tmp_path):
    items = ['say "x"', "a,b", "", "two\nlines", "é", None]
    write_labels(
        tmp_path / "y.csv", LABELS, "csv", {"item": items, "id": range(6), "sure": np.full(6, 0.5, np.float32)}
    )
    with open(tmp_path / "y.csv", newline="", encoding="utf-8") as stream:
        head, *rows = csv.reader(stream)
    assert head == ["row", "id", "label", "item", "sure"]
    assert [row[3] for row in rows] == ['say "x"', "a,b", "", "two\nlines", "é", ""]
    assert [int(row[2]) for row in rows] == LABELS.tolist()
    assert {float(row[4]) for row in rows} == {0.5}


@pytest.mark.parametrize(
    ("name", "asked", "known", "expected"),
    [
        ("x", None, (), "npy"), ("x.CSV", None, (), "csv"), ("s3://b/x.parquet", None, (), "parquet"),
        ("x", "meta", (), "meta"), ("x", None, TABLES, "parquet"), ("x.csv", "csv", TABLES, "csv"),
        ("x.txt", "meta", (), "ends in .txt, --format meta"), ("x.pkl", None, (), "got .pkl"),
        ("x.csv.gz", "csv", (), "got .gz"), ("x", "pkl", (), "--format pkl: expected one of npy, txt"),
        ("x.npy", None, TABLES, "ends in .parquet, .csv or nothing, got .npy"),
    ],
)  # fmt: skip
def test_the_name_says_the_format(name, asked, known, expected):
    given = (name, asked, known) if known else (name, asked)
    if " " not in expected:
        assert choose_format(*given) == expected
        return
    with pytest.raises(ConfigError, match=re.escape(expected)):
        choose_format(*given)


def test_long_outputs_are_written_in_pieces(tmp_path, monkeypatch):
    from engine.storage.formats import export

    monkeypatch.setattr(export, "_ROWS_AT_ONCE", 4)
    for format in ("txt", "parquet"):
        labels = np.arange(11, dtype=np.int32)
        write_labels(tmp_path / f"y.{format}", labels, format)
        assert read_labels(tmp_path / f"y.{format}").tolist() == list(range(11))
    columns = {"id": np.arange(11) * 2, "item": [str(i) for i in range(11)]}
    write_labels(tmp_path / "y.parquet", labels, "parquet", columns)
    assert pq.read_table(tmp_path / "y.parquet")["id"].to_pylist() == list(range(0, 22, 2))


def test_labels_that_cannot_be_written(tmp_path):
    with pytest.raises(DataError, match=r"expected integers of shape \(N,\)"):
        write_labels(tmp_path / "y.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"6 rows to write, but 2 values of id"):
        write_labels(tmp_path / "y.parquet", LABELS, "parquet", {"id": [1, 2]})
    with pytest.raises(ConfigError, match="holds labels only; choose parquet or csv for id and item"):
        write_labels(tmp_path / "y.txt", LABELS, "txt", {"id": range(6), "item": range(6)})
    with pytest.raises(ConfigError, match="unknown format of labels 'tsv'; known: npy, txt, meta, parquet, csv"):
        write_labels(tmp_path / "y.tsv", LABELS, "tsv")
    with pytest.raises(DataError, match=r"column box is list<.*, which CSV cannot hold; choose parquet"):
        write_labels(tmp_path / "y.csv", LABELS, "csv", {"box": [[1]] * 6})
    assert list(tmp_path.iterdir()) == []


def test_streaming_writers(tmp_path):
    with MetaWriter(tmp_path / "deep" / "y.meta") as meta:
        meta.append(LABELS[:2])
        meta.append(LABELS[2:2])
        meta.append(LABELS[2:].astype(np.int64))
    assert meta.num_rows == 6
    np.testing.assert_array_equal(read_labels(tmp_path / "deep" / "y.meta"), LABELS)


def fail_after_one_block(path):
    with BinWriter(path) as writer:
        writer.append(np.ones((2, 3), np.float32))
        writer.append(np.ones((2, 4), np.float32))


def test_a_failed_writer_leaves_what_was_there(tmp_path):
    path = tmp_path / "x.bin"
    path.write_bytes(b"before")
    with pytest.raises(DataError, match=r"rows of dimension 3 expected, got shape \(2, 4\)"):
        fail_after_one_block(path)
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]
