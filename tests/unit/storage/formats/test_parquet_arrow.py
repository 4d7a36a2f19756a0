import contextlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import DataError
from engine.storage.formats.parquet_arrow import open_table
from engine.storage.formats.registry import open_source

X = np.random.default_rng(0).standard_normal((23, 5)).astype(np.float32)


def lists(x, kind="list"):
    values = pa.array(x.reshape(-1))
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(values, x.shape[1])
    offsets = np.arange(0, x.size + 1, x.shape[1])
    if kind == "large":
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), values)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def table_of(x, kind="list", **columns):
    return pa.table({"n": np.arange(len(x)), "vector": lists(x, kind), **columns})


def write_parquet(path, table, rows=4):
    try:
        pq.write_table(table, path, row_group_size=rows)
    except pa.ArrowNotImplementedError as error:
        pytest.skip(f"this version of pyarrow writes no such file: {error}")


def write_arrow(path, table, rows=4):
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def write_feather(path, table, rows=4):
    pyarrow.feather.write_feather(table, str(path), compression="lz4", chunksize=rows)


WRITERS = [("x.parquet", write_parquet), ("x.arrow", write_arrow), ("x.feather", write_feather)]
each_writer = pytest.mark.parametrize(("name", "write"), WRITERS)


@each_writer
@pytest.mark.parametrize("kind", ["list", "large", "fixed"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_reads_what_was_written_in_any_blocks(tmp_path, name, write, kind, dtype):
    x = X.astype(dtype)
    write(tmp_path / name, table_of(x, kind))
    source = open_source(tmp_path / name)
    assert (source.num_rows, source.dim, source.dtype, source.files()) == (23, 5, dtype, [tmp_path / name])
    np.testing.assert_array_equal(source.read(0, 23), x)
    random = np.random.default_rng(1)
    for start, stop in [(0, 4), (4, 9), (9, 23), (2, 2), (23, 23), *np.sort(random.integers(0, 24, (20, 2)), axis=1)]:
        np.testing.assert_array_equal(source.read(int(start), int(stop)), x[start:stop])
    np.testing.assert_array_equal(source.read(3, 9), x[3:9])
    assert source.read(3, 9).flags.writeable


@each_writer
def test_bytes_in_a_named_column_are_read_as_float32(tmp_path, name, write):
    x = (X * 9).astype(np.int8)
    write(tmp_path / name, table_of(x, "fixed"))
    with pytest.raises(DataError, match=r"no column is a list of floats.*; it has n \(int64\), vector"):
        open_source(tmp_path / name)
    source = open_source(tmp_path / name, column="vector")
    assert source.dtype == np.float32
    np.testing.assert_array_equal(source.read(0, 23), x.astype(np.float32))


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(),
    sizes=st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(sum),
    group=st.integers(1, 5),
    writer=st.sampled_from(WRITERS),
    kind=st.sampled_from(["list", "large", "fixed"]),
)
def test_folders_read_as_one(tmp_path_factory, data, sizes, group, writer, kind):
    folder = tmp_path_factory.mktemp("tables")
    name, write = writer
    x = np.arange(sum(sizes) * 3, dtype=np.float32).reshape(-1, 3)
    for i, part in enumerate(np.split(x, np.cumsum(sizes)[:-1])):
        write(folder / f"{i * 5}_{name}", table_of(part, kind), group)
    source = open_source(folder)
    assert len(source.files()) == len(sizes)
    for _ in range(4):
        start = data.draw(st.integers(0, len(x)))
        stop = data.draw(st.integers(start, len(x)))
        np.testing.assert_array_equal(source.read(start, stop), x[start:stop])


def test_consecutive_reads_decode_each_batch_once(tmp_path, monkeypatch):
    write_arrow(tmp_path / "x.arrow", table_of(X))
    source = open_source(tmp_path / "x.arrow")
    table = source._parts[0]._column._tables[0]
    started = []
    batches = table.batches
    monkeypatch.setattr(table, "batches", lambda column, start: started.append(start) or batches(column, start))
    for row in range(23):
        source.read(row, row + 1)
    assert started == [0]
    source.read(9, 10)
    assert started == [0, 9]


@each_writer
def test_ids_and_items(tmp_path, name, write):
    ids = [f"id{i}" for i in range(23)]
    text = [f"text {i}" if i % 5 else None for i in range(23)]
    write(tmp_path / name, table_of(X, id=ids, caption=text, url=[f"http://{i}" for i in range(23)]))
    source = open_source(tmp_path / name)
    assert source.ids().to_pylist() == ids
    assert source.items(4, 7) == ["text 4", "", "text 6"]
    assert source.items(3, 3) == []
    assert open_source(tmp_path / name, items_column="url").items(22, 23) == ["http://22"]
    assert open_source(tmp_path / name, items_column="n").items(22, 23) == ["22"]
    with pytest.raises(DataError, match="no column 'cap'; it has n, vector, id, caption, url"):
        open_source(tmp_path / name, items_column="cap")


@each_writer
def test_no_ids_or_items(tmp_path, name, write):
    write(tmp_path / name, table_of(X))
    source = open_source(tmp_path / name)
    assert source.ids() is None
    assert source.items(0, 5) is None


@each_writer
def test_choosing_the_column(tmp_path, name, write):
    write(tmp_path / name, table_of(X, other=lists(X[:, :2])))
    with pytest.raises(DataError, match="several columns hold vectors: vector, other; choose one with --column"):
        open_source(tmp_path / name)
    assert open_source(tmp_path / name, column="other").dim == 2
    with pytest.raises(DataError, match="no column 'vectors'; it has n, vector, other"):
        open_source(tmp_path / name, column="vectors")
    with pytest.raises(DataError, match=r"column 'n' is int64, expected lists of floats"):
        open_source(tmp_path / name, column="n")


@each_writer
def test_ragged_rows_are_named(tmp_path, name, write):
    rows = [list(map(float, row)) for row in X]
    rows[14] = [1.0, 2.0]
    write(tmp_path / name, pa.table({"vector": pa.array(rows, pa.list_(pa.float32()))}))
    source = open_source(tmp_path / name)
    source.read(0, 14)
    with pytest.raises(DataError, match=r"column 'vector', row 14 has 2 values, but the others have 5"):
        source.read(10, 20)
    np.testing.assert_array_equal(source.read(15, 20), X[15:20])


@each_writer
@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.list_(pa.float32(), 5)])
def test_null_rows_and_values_are_nan(tmp_path, name, write, kind):
    rows, expected = [list(map(float, row)) for row in X], X.copy()
    rows[0] = rows[9] = None
    rows[16][2] = None
    expected[[0, 9]] = expected[16, 2] = np.nan
    write(tmp_path / name, pa.table({"vector": pa.array(rows, kind)}))
    np.testing.assert_array_equal(open_source(tmp_path / name).read(0, len(X)), expected)
    write(tmp_path / name, pa.table({"vector": pa.array([None] * 3, pa.list_(pa.float32()))}))
    with pytest.raises(DataError, match="every row is null"):
        open_source(tmp_path / name)


@each_writer
def test_a_column_for_each_dimension(tmp_path, name, write):
    columns = {f"f{i}": X[:, i] for i in reversed(range(X.shape[1]))}
    write(tmp_path / name, pa.table({"id": [f"r{i}" for i in range(len(X))], **columns}))
    source = open_source(tmp_path / name)
    np.testing.assert_array_equal(source.read(3, 20), X[3:20])
    assert source.ids()[2].as_py() == "r2"
    write(tmp_path / name, pa.table({**columns, "g0": X[:, 0], "g1": X[:, 1]}))
    with pytest.raises(DataError, match=r"'f' \(5 columns\), 'g' \(2 columns\); choose one with --column"):
        open_source(tmp_path / name)
    assert open_source(tmp_path / name, column="g").dim == 2
    write(tmp_path / name, pa.table({column: values for column, values in columns.items() if column != "f2"}))
    with pytest.raises(DataError, match="columns f0 to f4 look like a vector, but f2 is missing"):
        open_source(tmp_path / name)


@each_writer
def test_tensors_of_fixed_shape(tmp_path, name, write):
    kind = pa.fixed_shape_tensor(pa.float32(), [X.shape[1]])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), X.shape[1])
    write(tmp_path / name, pa.table({"vector": pa.ExtensionArray.from_storage(kind, flat)}))
    np.testing.assert_array_equal(open_source(tmp_path / name).read(3, 20), X[3:20])


def test_csv(tmp_path):
    lines = [f"r{i}," + ",".join(map(repr, row)) for i, row in enumerate(X.tolist())]
    (tmp_path / "x.csv").write_text("\n".join(["id,0,1,2,3,4", *lines, ""]))
    source = open_source(tmp_path / "x.csv")
    assert source.sequential
    np.testing.assert_array_equal(source.read(3, 20).astype(np.float32), X[3:20])
    (tmp_path / "x.csv").write_text("id,a\n1,2\n")
    with pytest.raises(DataError, match="no columns are numbered"):
        open_source(tmp_path / "x.csv")


def test_folder_of_save_to_disk(tmp_path):
    """The layout of Hugging Face datasets: Arrow streams, listed in state.json, beside files of its cache."""
    folder = tmp_path / "ds" / "train"
    folder.mkdir(parents=True)
    for part, rows in enumerate((X[:14], X[14:])):
        table = table_of(rows)
        with pa.ipc.new_stream(folder / f"data-0000{part}-of-00002.arrow", table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
    (folder / "cache-1f.arrow").write_bytes(b"x")
    listed = [{"filename": f"data-0000{part}-of-00002.arrow"} for part in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": listed}))
    (folder / "dataset_info.json").write_text("{}")
    np.testing.assert_array_equal(open_source(folder).read(0, len(X)), X)
    np.testing.assert_array_equal(open_source(folder).read(12, 17), X[12:17])
    (tmp_path / "ds" / "dataset_dict.json").write_text('{"splits": ["train"]}')
    with pytest.raises(DataError, match=r"several splits .* for example .*/ds/train"):
        open_source(tmp_path / "ds")


@each_writer
def test_no_rows(tmp_path, name, write):
    write(tmp_path / name, table_of(X[:0]))
    with pytest.raises(DataError, match="holds no rows"):
        open_source(tmp_path / name)


@each_writer
@pytest.mark.parametrize("kind", ["list", "fixed"])
def test_files_that_differ(tmp_path, name, write, kind):
    write(tmp_path / f"a_{name}", table_of(X, kind))
    write(tmp_path / f"b_{name}", table_of(X[:, :4], kind))
    with pytest.raises(DataError, match=r"b_x\.\w+: vectors of dimension 4, but .*a_x\.\w+ has 5"):
        open_source(tmp_path)
    write(tmp_path / f"b_{name}", pa.table({"n": [1]}))
    with pytest.raises(DataError, match=r"b_x\.\w+: has no column 'vector'; it has n"):
        open_source(tmp_path)


def test_mixed_and_hidden_files(tmp_path):
    write_parquet(tmp_path / "a.parquet", table_of(X))
    write_parquet(tmp_path / "_metadata.parquet", table_of(X))
    assert open_source(tmp_path).num_rows == 23
    write_arrow(tmp_path / "a.arrow", table_of(X))
    with pytest.raises(DataError, match="both Parquet and Arrow"):
        open_source(tmp_path)
    (tmp_path / "sub").mkdir()
    write_parquet(tmp_path / "sub" / "_a.parquet", table_of(X))
    with pytest.raises(DataError, match="names starting with"):
        open_source(tmp_path / "sub")


@each_writer
@pytest.mark.parametrize("kept", [0, 0.3, 0.97])
def test_truncated_files(tmp_path, name, write, kept):
    write(tmp_path / name, table_of(X))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match=rf"{name}: not a readable \w+ file .*is it truncated"):
        open_source(tmp_path / name)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_parquet_never_raises_anything_but_data_errors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    write_parquet(path, table_of(X))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        source = open_source(path)
        source.read(0, source.num_rows)


def test_dimension_that_disagrees(tmp_path):
    write_parquet(tmp_path / "x.parquet", table_of(X))
    assert open_source(tmp_path / "x.parquet", dim=5).dim == 5
    with pytest.raises(DataError, match="dimension 5, but --dim says 4"):
        open_source(tmp_path / "x.parquet", dim=4)


def test_reading_goes_on_after_an_error(tmp_path):
    write_parquet(tmp_path / "x.parquet", table_of(X))
    column = open_source(tmp_path / "x.parquet")._parts[0]._column
    with pytest.raises(DataError, match="ended before row 30"):
        column.read(20, 30)
    assert [len(piece.array) for piece in column.read(20, 23)] == [3]
    assert open_table(tmp_path / "x.parquet").num_rows == 23


# img_emb_*.npy beside metadata_*.parquet


@pytest.mark.parametrize("nested", [False, True])
def test_image_embeddings(tmp_path, nested):
    for prefix in ("img_emb", "text_emb", "metadata"):
        (tmp_path / prefix if nested else tmp_path).mkdir(exist_ok=True)
    for shard, rows in enumerate(np.array_split(np.arange(23), 11)):
        folders = {p: tmp_path / p if nested else tmp_path for p in ("img_emb", "text_emb", "metadata")}
        np.save(folders["img_emb"] / f"img_emb_{shard}.npy", X[rows].astype(np.float16))
        np.save(folders["text_emb"] / f"text_emb_{shard}.npy", -X[rows].astype(np.float16))
        metadata = pa.table(
            {"image_path": [f"/{r}.jpg" for r in rows], "caption": [f"c{r}" for r in rows], "key": rows}
        )
        pq.write_table(metadata, folders["metadata"] / f"metadata_{shard}.parquet")
    source = open_source(tmp_path)
    assert (source.num_rows, source.dtype) == (23, np.float16)
    np.testing.assert_array_equal(source.read(0, 23), X.astype(np.float16))
    assert source.items(17, 19) == ["/17.jpg", "/18.jpg"]
    assert source.ids().to_pylist() == list(range(23))
    assert len(source.files()) == 11
    text = open_source(tmp_path, column="text_emb", items_column="caption")
    np.testing.assert_array_equal(text.read(3, 5), -X[3:5].astype(np.float16))
    assert text.items(3, 4) == ["c3"]
    with pytest.raises(DataError, match=r"no audio_emb_\*\.npy"):
        open_source(tmp_path, column="audio_emb")

    metadata_file = (tmp_path / "metadata" if nested else tmp_path) / "metadata_4.parquet"
    pq.write_table(pq.read_table(metadata_file).slice(1), metadata_file)
    with pytest.raises(DataError, match=r"metadata_4\.parquet: has 1 rows, but .*img_emb_4\.npy has 2"):
        open_source(tmp_path)
    metadata_file.unlink()
    with pytest.raises(DataError, match=r"11 img_emb_\*\.npy files, but 10 metadata"):
        open_source(tmp_path)


PNG = b"\x89PNG\r\n\x1a\n and so on"


@pytest.mark.parametrize("kind", ["bytes", "records"])
def test_pictures_in_cells_stay_there_until_they_are_asked_for(tmp_path, kind):
    cells = [None if row == 3 else PNG + bytes([row]) for row in range(len(X))]
    if kind == "records":
        cells = [{"bytes": None if row == 5 else cell, "path": f"{row}.png"} for row, cell in enumerate(cells)]
        cells[3] = None
    write_parquet(tmp_path / "x.parquet", table_of(X, image=pa.array(cells), text=["a text"] * len(X)))
    source = open_source(tmp_path / "x.parquet")
    assert source.items(0, 2) == ["image[0]", "image[1]"]
    found = source.pictures(["image[22]", "image[3]", "image[5]", "image[23]", "vector[1]", "image[-1]", "image[0]"])
    sixth = "5.png" if kind == "records" else PNG + b"\5"
    assert found == {"image[0]": PNG + b"\0", "image[5]": sixth, "image[22]": PNG + b"\26"}


def test_texts_stored_as_bytes_are_texts(tmp_path):
    table = table_of(X, said=pa.array([f"né {row}".encode() for row in range(len(X))]))
    write_parquet(tmp_path / "x.parquet", table)
    source = open_source(tmp_path / "x.parquet", items_column="said")
    assert source.items(1, 3) == ["né 1", "né 2"]
    assert source.pictures(["said[1]"]) == {}
