import contextlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from engine.errors import DataError
from engine.storage.formats import registry as registry_module
from engine.storage.formats.binary import RawVectors, open_npy
from engine.storage.formats.export import BinWriter
from engine.storage.formats.registry import Format, open_source
from engine.storage.formats.sources import SourceOptions, VectorSource, natural_order

X = np.random.default_rng(0).standard_normal((23, 5)).astype(np.float32)
ITEMS = [f"náme {i}" for i in range(23)]


def write_bin(folder, x):
    x.astype("<f4").tofile(folder / "x.bin")
    return folder / "x.bin", {"dim": x.shape[1]}


def write_npy(folder, x):
    np.save(folder / "x.npy", x)
    return folder / "x.npy", {}


def write_npy_fortran(folder, x):
    np.save(folder / "x.npy", np.asfortranarray(x))
    return folder / "x.npy", {}


def write_npy_big_endian(folder, x):
    np.save(folder / "x.npy", x.astype(x.dtype.newbyteorder(">")))
    return folder / "x.npy", {}


def write_npy_folder(folder, x):
    for part, rows in enumerate(np.array_split(x, 11)):  # part_10 must come after part_9, and some parts are empty
        np.save(folder / f"part_{part}.npy", rows)
    return folder, {}


def write_npz(folder, x):
    np.savez(folder / "x.npz", embeddings=x, labels=np.arange(len(x)))
    return folder / "x.npz", {}


def write_npz_compressed(folder, x):
    np.savez_compressed(folder / "x.npz", x)
    return folder / "x.npz", {}


def write_zarr2(folder, x):
    config = {"write_empty_chunks": True}  # else zarr leaves out chunks of zeros, which are refused as missing
    path = folder / "x.zarr"
    array = zarr.create_array(str(path), shape=x.shape, dtype=x.dtype, chunks=(4, 3), zarr_format=2, config=config)
    array[:] = x
    return folder / "x.zarr", {}


def write_zarr3(folder, x):
    group = zarr.open_group(str(folder / "x.zarr"), mode="w", zarr_format=3)
    config = {"write_empty_chunks": True}
    group.create_array("features", shape=x.shape, dtype=x.dtype, chunks=(7, x.shape[1]), config=config)[:] = x
    group.create_array("labels", shape=(len(x),), dtype="int64")
    return folder / "x.zarr", {}


def write_fbin(folder, x):
    with (folder / "x.fbin").open("wb") as file:
        np.array(x.shape, "<u4").tofile(file)
        x.astype("<f4").tofile(file)
    return folder / "x.fbin", {}


def write_fvecs(folder, x):
    rows = np.empty(len(x), [("dim", "<i4"), ("vector", "<f4", (x.shape[1],))])
    rows["dim"], rows["vector"] = x.shape[1], x
    rows.tofile(folder / "x.fvecs")
    return folder / "x.fvecs", {}


def write_cdp(folder, x):
    (folder / "features").mkdir()
    (folder / "list.txt").write_text("".join(f"name{i}\n" for i in range(len(x))))
    x.astype("<f4").tofile(folder / "features" / "resnet.bin")
    return folder, {}


FLOAT32_WRITERS = [write_bin, write_fbin, write_fvecs, write_cdp]
ANY_FLOAT_WRITERS = [
    write_npy,
    write_npy_fortran,
    write_npy_big_endian,
    write_npy_folder,
    write_npz,
    write_npz_compressed,
    write_zarr2,
    write_zarr3,
]
WRITERS = FLOAT32_WRITERS + ANY_FLOAT_WRITERS


@pytest.mark.parametrize("write", WRITERS)
def test_reads_what_was_written(tmp_path, write):
    path, options = write(tmp_path, X)
    source = open_source(path, **options)
    assert (source.num_rows, source.dim, source.dtype) == (23, 5, np.float32)
    whole = source.read(0, 23)
    np.testing.assert_array_equal(whole, X)
    assert whole.flags.c_contiguous
    assert whole.flags.writeable
    assert all(file.is_file() for file in source.files())
    assert sum(file.stat().st_size for file in source.files()) > 0


@pytest.mark.parametrize("write", WRITERS)
def test_blocks_in_any_order_equal_the_whole(tmp_path, write):
    path, options = write(tmp_path, X)
    source = open_source(path, **options)
    random = np.random.default_rng(1)
    for start, stop in [(0, 4), (4, 8), (8, 23), (3, 3), (23, 23), *np.sort(random.integers(0, 24, (20, 2)), axis=1)]:
        np.testing.assert_array_equal(source.read(int(start), int(stop)), X[start:stop])


@pytest.mark.parametrize("write", WRITERS)
def test_reopens_from_its_spec(tmp_path, write, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("data")
    folder.mkdir()
    path, options = write(folder, X)
    source = open_source(path, **options)
    monkeypatch.chdir("/")  # the spec must not depend on the working directory
    again = open_source(**json.loads(json.dumps(source.spec())))
    np.testing.assert_array_equal(again.read(2, 9), X[2:9])


@pytest.mark.parametrize("write", ANY_FLOAT_WRITERS)
@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.int8])
def test_keeps_floats_and_casts_bytes(tmp_path, write, dtype):
    x = (X * 20).clip(0, 100).astype(dtype)
    path, options = write(tmp_path, x)
    source = open_source(path, **options)
    assert source.dtype == (dtype if np.dtype(dtype).kind == "f" else np.float32)
    np.testing.assert_array_equal(source.read(3, 20), x[3:20].astype(source.dtype))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    x=hnp.arrays(np.float32, st.tuples(st.integers(1, 9), st.integers(1, 4)), elements=st.floats(width=32)),
    write=st.sampled_from(WRITERS),
    data=st.data(),
)
def test_round_trip_of_any_values(tmp_path_factory, x, write, data):
    path, options = write(tmp_path_factory.mktemp("x"), x)
    source = open_source(path, **options)
    start = data.draw(st.integers(0, len(x)))
    stop = data.draw(st.integers(start, len(x)))
    np.testing.assert_array_equal(source.read(0, len(x)), x)
    np.testing.assert_array_equal(source.read(start, stop), x[start:stop])


def test_files_of_different_float_types_are_read_as_the_widest(tmp_path):
    np.save(tmp_path / "a.npy", X[:3].astype(np.float16))
    np.save(tmp_path / "b.npy", X[3:])
    source = open_source(tmp_path)
    assert source.dtype == np.float32
    assert source.read(0, 2).dtype == np.float32
    np.testing.assert_array_equal(source.read(0, 23)[:3], X[:3].astype(np.float16).astype(np.float32))


def test_compressed_npz_is_marked_sequential(tmp_path):
    assert open_source(write_npz_compressed(tmp_path, X)[0]).sequential
    assert not open_source(write_npz(tmp_path, X)[0]).sequential


@pytest.mark.parametrize("write", [write_bin, write_npy, write_npy_folder, write_npz, write_fbin])
def test_items_txt_gives_the_items(tmp_path, write):
    path, options = write(tmp_path, X)
    assert open_source(path, **options).items(0, 1) is None
    (tmp_path / "items.txt").write_text("\r\n".join(ITEMS), encoding="utf-8")  # no newline at the end
    source = open_source(path, **options)
    assert source.items(0, 23) == ITEMS
    assert source.items(7, 9) == ITEMS[7:9]
    assert source.items(23, 23) == []
    assert source.ids() is None


def test_items_are_found_far_into_a_long_file(tmp_path):
    np.save(tmp_path / "x.npy", np.ones((5000, 1), np.float32))
    (tmp_path / "items.txt").write_text("".join(f"{i}{'x' * (i % 37)}\n" for i in range(5000)))
    source = open_source(tmp_path / "x.npy")
    for row in (0, 1023, 1024, 1025, 2047, 2048, 4096, 4999):
        assert source.items(row, row + 1) == [f"{row}{'x' * (row % 37)}"]
    assert [int(item.rstrip("x")) for item in source.items(0, 5000)] == list(range(5000))


def test_line_marks_do_not_depend_on_the_chunk_size(tmp_path, monkeypatch):
    from engine.storage.formats import texts

    (tmp_path / "t.txt").write_text("".join(f"{'y' * (i % 5)}\n" for i in range(3000)))
    expected = texts.line_offsets(tmp_path / "t.txt", 7)
    monkeypatch.setattr(texts, "_CHUNK_BYTES", 13)
    marks, num_lines = texts.line_offsets(tmp_path / "t.txt", 7)
    assert num_lines == expected[1] == 3000
    np.testing.assert_array_equal(marks, expected[0])


def test_items_of_another_length_are_an_error_at_the_first_call(tmp_path):
    path, _ = write_npy(tmp_path, X)
    (tmp_path / "items.txt").write_text("only one\n")
    source = open_source(path)
    with pytest.raises(DataError, match=r"items.txt: expected one line for each of 23 rows, got 1 lines"):
        source.items(0, 0)


def test_cdp_names_are_ids_and_items(tmp_path):
    path, _ = write_cdp(tmp_path, X)
    source = open_source(path)
    assert source.ids().to_pylist() == [f"name{i}" for i in range(23)]
    assert source.items(4, 6) == ["name4", "name5"]
    X[:, :2].astype("<f4").tofile(tmp_path / "features" / "vgg.bin")
    with pytest.raises(DataError, match=r"several models.*--column: resnet, vgg"):
        open_source(path)
    np.testing.assert_array_equal(open_source(path, column="vgg").read(0, 23), X[:, :2])
    with pytest.raises(DataError, match=r"no model 'bert'.*resnet, vgg"):
        open_source(path, column="bert")
    (tmp_path / "list.txt").write_text("a\nb\n" * 11)
    with pytest.raises(DataError, match="not a whole number of float32 for each of the 22 names"):
        open_source(path, column="resnet")


def test_zarr_decodes_a_chunk_once_for_consecutive_blocks(tmp_path, monkeypatch):
    path, _ = write_zarr3(tmp_path, X)
    source = open_source(path)
    part = source._parts[0]
    assert part._kept_rows > len(X)  # small chunks together; here as if they were large
    part._kept_rows = 7
    decoded = []
    decode = part._decode
    monkeypatch.setattr(part, "_decode", lambda a, b: decoded.append((a, b)) or decode(a, b))
    for row in range(23):
        np.testing.assert_array_equal(source.read(row, row + 1), X[row : row + 1])
    assert decoded == [(0, 7), (7, 14), (14, 21), (21, 23)]


def test_choosing_arrays_of_npz_and_zarr(tmp_path):
    np.savez(tmp_path / "x.npz", left=X, right=X[:, :2])
    with pytest.raises(DataError, match="cannot tell which array to read: it has left, right"):
        open_source(tmp_path / "x.npz")
    assert open_source(tmp_path / "x.npz", column="right").dim == 2
    with pytest.raises(DataError, match="no array 'middle'; it has left, right"):
        open_source(tmp_path / "x.npz", column="middle")
    path, _ = write_zarr3(tmp_path, X)
    with pytest.raises(DataError, match="no array 'middle'; it has features, labels"):
        open_source(path, column="middle")


def test_a_format_is_one_entry_of_the_registry(tmp_path, monkeypatch):
    with (tmp_path / "rows").open("wb") as stream:
        np.save(stream, X)
    (tmp_path / "store.json").write_text("{}")

    def open_store(path: Path, options: SourceOptions) -> VectorSource:
        return VectorSource(path, options, [RawVectors(open_npy(path / "rows"))])

    store = Format("store", lambda path: (path / "store.json").is_file(), open_store)
    monkeypatch.setattr(registry_module, "FORMATS", (store, *registry_module.FORMATS))
    assert open_source(tmp_path).files() == [tmp_path / "rows"]


def test_natural_order():
    names = ["b1", "a10", "a2", "a02", "a", "10", "9"]
    assert [p.name for p in natural_order([Path(n) for n in names])] == ["9", "10", "a", "a02", "a2", "a10", "b1"]


@pytest.mark.parametrize("rows", [(-1, 2), (3, 2), (0, 24)])
def test_rows_out_of_range(tmp_path, rows):
    with pytest.raises(DataError, match=r"it has rows 0\.\.23"):
        open_source(write_npy(tmp_path, X)[0]).read(*rows)


# Malformed input.


def test_missing_path_and_unknown_formats(tmp_path):
    with pytest.raises(DataError, match="no such file or folder"):
        open_source(tmp_path / "absent.npy")
    with pytest.raises(DataError, match=r"a folder of nothing of no known format; supported: \.bin"):
        open_source(tmp_path)
    (tmp_path / "x.tsv").write_text("1,2")
    with pytest.raises(DataError, match="a file of no known format"):
        open_source(tmp_path / "x.tsv")
    with pytest.raises(DataError, match=r"a folder of x\.tsv"):
        open_source(tmp_path)


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pt", ".pth"])
def test_pickles_are_refused_unread(tmp_path, suffix):
    (tmp_path / f"x{suffix}").write_bytes(b"anything")
    with pytest.raises(DataError, match=r"pickled files run code.*np\.save"):
        open_source(tmp_path / f"x{suffix}")


@pytest.mark.parametrize("write", WRITERS)
def test_no_rows_is_an_error(tmp_path, write):
    path, options = write(tmp_path, X[:0])
    with pytest.raises(DataError, match=r"holds no rows|0 bytes"):
        open_source(path, **options)


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.fbin", "x.fvecs", "x.bin"])
def test_an_empty_file_is_an_error(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"empty|truncated|no rows"):
        open_source(tmp_path / name, dim=5 if name == "x.bin" else None)


def test_bin_needs_a_dimension_that_divides(tmp_path):
    path, _ = write_bin(tmp_path, X)
    with pytest.raises(DataError, match="give it with --dim"):
        open_source(path)
    with pytest.raises(DataError, match="at least 1"):
        open_source(path, dim=0)
    with pytest.raises(
        DataError, match=r"460 bytes.*dimension 7 \(28 bytes each\): 16 rows take 448 bytes and 12 remain"
    ):
        open_source(path, dim=7)


@pytest.mark.parametrize("write", [w for w in WRITERS if w is not write_bin])
def test_a_dimension_that_disagrees_is_an_error(tmp_path, write):
    path, _ = write(tmp_path, X)
    assert open_source(path, dim=5).dim == 5
    with pytest.raises(DataError, match="dimension 5, but --dim says 6"):
        open_source(path, dim=6)


@pytest.mark.parametrize(
    "write", [write_npy, write_npy_fortran, write_npz, write_npz_compressed, write_fbin, write_fvecs]
)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_truncated_files(tmp_path, write, kept):
    path, options = write(tmp_path, X)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(DataError, match=r"x\.\w+: .*(truncated|empty)"):
        open_source(path, **options)


def test_truncated_npy_says_how_many_bytes(tmp_path):
    path, _ = write_npy(tmp_path, X)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"shape \(23, 5\), which takes 460 bytes, got 453"):
        open_source(path)


def test_a_file_that_shrinks_after_opening(tmp_path):
    path, _ = write_npy(tmp_path, X)
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(DataError, match=r"rows 20\.\.23 cannot be read: the file ends early"):
        source.read(20, 23)


def test_damaged_compressed_npz(tmp_path):
    path, _ = write_npz_compressed(tmp_path, np.random.default_rng(0).standard_normal((2000, 8)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    source = open_source(path)
    for _ in range(2):
        with pytest.raises(DataError, match=r"x\.npz: rows .* cannot be read"):
            source.read(0, 2000)
    with pytest.raises(DataError, match=r"x\.npz: rows .* cannot be read"):
        source.read(1999, 2000)


def test_compressed_fortran_npz_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", np.asfortranarray(X))
    with pytest.raises(DataError, match="ascontiguousarray"):
        open_source(tmp_path / "x.npz")


def test_fbin_header_that_disagrees(tmp_path):
    path, _ = write_fbin(tmp_path, X)
    path.write_bytes(path.read_bytes() + b"1234")
    with pytest.raises(DataError, match="23 rows of dimension 5, which takes 468 bytes, got 472"):
        open_source(path)


def test_fvecs_row_of_another_dimension(tmp_path):
    path, _ = write_fvecs(tmp_path, X)
    content = np.fromfile(path, "<i4")
    content[6 * 9] = 4
    content.tofile(path)
    source = open_source(path)
    source.read(0, 9)
    with pytest.raises(DataError, match="row 9 has dimension 4, but row 0 has 5"):
        source.read(8, 12)
    content[0] = -3
    content.tofile(path)
    with pytest.raises(DataError, match="dimension of -3"):
        open_source(path)


def test_object_arrays_are_refused(tmp_path):
    ragged = np.array([[1.0], [2.0, 3.0]], dtype=object)
    np.save(tmp_path / "x.npy", ragged, allow_pickle=True)
    np.savez(tmp_path / "x.npz", ragged)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(DataError, match="Python objects"):
            open_source(tmp_path / name)


@pytest.mark.parametrize("shape", [(6,), (2, 3, 1), (6, 0)])
@pytest.mark.parametrize("write", [np.save, np.savez])
def test_other_shapes_are_refused(tmp_path, shape, write):
    path = tmp_path / ("x.npy" if write is np.save else "x.npz")
    write(path, np.zeros(shape, np.float32))
    with pytest.raises(DataError, match=r"expected a 2-D array \(rows, dimension\), got shape"):
        open_source(path)


def test_a_single_number_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.float32(1))
    with pytest.raises(DataError, match="single number"):
        open_source(tmp_path / "x.npy")


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint16", "bool", "complex64", "U3", [("a", "f4")]])
def test_other_types_are_refused(tmp_path, dtype):
    np.save(tmp_path / "x.npy", np.zeros((3, 2), dtype))
    with pytest.raises(DataError, match=r"expected vectors of float16, float32, float64, uint8 or int8, got"):
        open_source(tmp_path / "x.npy")


def test_files_of_different_dimension(tmp_path):
    np.save(tmp_path / "a.npy", X)
    np.save(tmp_path / "b.npy", X[:, :4])
    with pytest.raises(DataError, match=r"b\.npy: vectors of dimension 4, but .*a\.npy has 5"):
        open_source(tmp_path)


def test_labels_beside_features_in_a_folder_are_named(tmp_path):
    np.save(tmp_path / "features.npy", X)
    np.save(tmp_path / "labels.npy", np.arange(23))
    with pytest.raises(DataError, match=r"labels\.npy: expected a 2-D array"):
        open_source(tmp_path)


@pytest.mark.parametrize("write", [w for w in WRITERS if w not in (write_npz, write_zarr3, write_cdp)])
def test_options_that_mean_nothing_are_refused(tmp_path, write):
    path, options = write(tmp_path, X)
    with pytest.raises(DataError, match=r"items_column='text' was given"):
        open_source(path, **options, items_column="text")
    if "npz" not in path.name:
        with pytest.raises(DataError, match=r"column"):
            open_source(path, **options, column="nonsense")


@pytest.mark.parametrize("metadata", ["{", '{"zarr_format": 3, "node_type": "array"}'])
def test_damaged_zarr(tmp_path, metadata):
    (tmp_path / "zarr.json").write_text(metadata)
    with pytest.raises(DataError, match="not a readable zarr"):
        open_source(tmp_path)


def test_damaged_zarr_chunk(tmp_path):
    path, _ = write_zarr3(tmp_path, X)
    source = open_source(path)
    chunk = next(file for file in source.files() if file.name == "0")
    chunk.write_bytes(chunk.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"rows 0\.\.23 cannot be read"):
        open_source(path).read(0, 23)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), name=st.sampled_from(["x.npy", "x.npz", "x.fbin", "x.fvecs"]))
def test_damaged_headers_never_raise_anything_but_data_errors(tmp_path_factory, data, name):
    folder = tmp_path_factory.getbasetemp()
    write = {"x.npy": write_npy, "x.npz": write_npz_compressed, "x.fbin": write_fbin, "x.fvecs": write_fvecs}[name]
    path, _ = write(folder, X)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        source = open_source(path)
        source.read(0, source.num_rows)


def test_bin_writer_streams_and_opens_again(tmp_path):
    with BinWriter(tmp_path / "x.bin") as writer:
        for start in range(0, 23, 4):
            writer.append(X[start : start + 4].astype(np.float64))
        assert not (tmp_path / "x.bin").exists()
    assert writer.num_rows == 23
    np.testing.assert_array_equal(open_source(tmp_path / "x.bin", dim=5).read(0, 23), X)


def test_stored_zip_members_with_extra_fields(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, X)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        info = zipfile.ZipInfo("features.npy")
        info.extra = b"\xca\xfe\x04\x00abcd"
        archive.writestr("note.txt", "not an array")
        archive.writestr(info, buffer.getvalue())
    np.testing.assert_array_equal(open_source(tmp_path / "x.npz").read(3, 9), X[3:9])
