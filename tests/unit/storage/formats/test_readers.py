"""Readers of what users give: only regular files are opened, sizes are checked first, nothing is read wrong."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
import zarr
from pyarrow import feather

from engine.commands.configuration import load_settings
from engine.commands.conversion import convert
from engine.errors import EngineError
from engine.steps.labels import OutsideFile
from engine.storage.formats.knn_graph import open_knn_graph
from engine.storage.formats.label_files import read_labels
from engine.storage.formats.registry import open_source

ROWS, DIM = 12, 4
X = np.random.default_rng(0).standard_normal((ROWS, DIM)).astype("<f4")
IDS = (np.arange(ROWS)[:, None] + np.arange(3)) % ROWS


def table(**columns: object) -> pa.Table:
    return pa.table({"id": [f"r{i}" for i in range(ROWS)], "vector": list(X), **columns})


def write_folder(path: Path, name: str, write: Callable[[Path], object]) -> Path:
    path.mkdir(parents=True)
    write(path / name)
    return path


def write_cdp(path: Path) -> None:
    write_folder(path / "features", "net.bin", X.tofile)
    (path / "list.txt").write_text("".join(f"p{i}\n" for i in range(ROWS)))


def write_embeddings(path: Path) -> None:
    write_folder(path, "img_emb_0.npy", lambda file: np.save(file, X))
    pq.write_table(pa.table({"caption": ["x"] * ROWS}), path / "metadata_0.parquet")


def write_zarr(version: int) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        zarr.create_array(path, shape=X.shape, dtype="f4", chunks=(5, DIM), zarr_format=version)[:] = X  # type: ignore[call-overload,arg-type]

    return write


def write_group(path: Path) -> None:
    zarr.create_group(path).create_array("features", shape=X.shape, dtype="f4", chunks=(5, DIM))[:] = X


def write_graph(path: Path) -> None:
    write_folder(path, "neighbors.npy", lambda file: np.save(file, IDS))
    np.save(path / "similarities.npy", np.ones(IDS.shape, np.float32))


def read_source(path: Path) -> None:
    source = open_source(path, dim=DIM if path.suffix == ".bin" else None)
    source.read(0, source.num_rows)
    source.ids()
    source.items(0, source.num_rows)


def read_graph(path: Path) -> None:
    OutsideFile.describe(path)
    open_knn_graph(path, ROWS).read(0, ROWS)


def write_beside(path: Path) -> None:
    np.save(path, X)
    (path.parent / "items.txt").write_text("x\n" * ROWS)


# What a reader reads: its name, how it is written, how it is read, and the files of it.
READ: dict[str, tuple[Callable[[Path], object], Callable[[Path], object], tuple[str, ...]]] = {
    "x.bin": (X.tofile, read_source, (".",)),
    "x.npy": (lambda path: np.save(path, X), read_source, (".",)),
    "x.npz": (lambda path: np.savez(path, X), read_source, (".",)),
    "x.fbin": (lambda path: path.write_bytes(np.array(X.shape, "<u4").tobytes() + X.tobytes()), read_source, (".",)),
    "x.fvecs": (lambda path: np.column_stack([np.full((ROWS, 1), DIM, "<i4").view("<f4"), X]).tofile(path), read_source,
                (".",)),
    "x.parquet": (lambda path: pq.write_table(table(), path), read_source, (".",)),
    "x.feather": (lambda path: feather.write_feather(table(), path), read_source, (".",)),
    "parts": (lambda path: write_folder(path, "0.npy", lambda file: np.save(file, X)), read_source, ("0.npy",)),
    "tables": (lambda path: write_folder(path, "0.parquet", lambda file: pq.write_table(table(), file)), read_source,
               ("0.parquet",)),
    "beside.npy": (write_beside, read_source, ("../items.txt",)),
    "zarr2": (write_zarr(2), read_source, (".zarray", "1.0")),
    "zarr3": (write_zarr(3), read_source, ("zarr.json", "c/1/0")),
    "group": (write_group, read_source, ("zarr.json", "features/zarr.json", "features/c/1/0")),
    "cdp": (write_cdp, read_source, ("list.txt", "features/net.bin")),
    "embeddings": (write_embeddings, read_source, ("img_emb_0.npy", "metadata_0.parquet")),
    "y.txt": (lambda path: path.write_text("1\n" * ROWS), read_labels, (".",)),
    "y.meta": (lambda path: path.write_text("1\n" * ROWS), OutsideFile.describe, (".",)),
    "y.npy": (lambda path: np.save(path, np.arange(ROWS)), read_labels, (".",)),
    "y.npz": (lambda path: np.savez(path, np.arange(ROWS)), read_labels, (".",)),
    "y.parquet": (lambda path: pq.write_table(pa.table({"label": [1] * ROWS}), path), read_labels, (".",)),
    "knn.npz": (lambda path: np.savez(path, data=np.stack([IDS, IDS * 0], 1).astype("f4")), read_graph, (".",)),
    "knn.npy": (lambda path: np.save(path, IDS), read_graph, (".",)),
    "graph": (write_graph, read_graph, ("neighbors.npy", "similarities.npy")),
    "c.yaml": (lambda path: path.write_text("knn: {k: 5}\n"), load_settings, (".",)),
    "state.pt": (lambda path: torch.save({}, path), lambda path: convert("gcn_v", [path], path.with_name("model")),
                 (".",)),
}  # fmt: skip
FILES = [(name, file) for name, (*_, files) in READ.items() for file in files]


def make_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


PUT: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo,
    "character device": lambda path: path.symlink_to("/dev/zero"),
    "socket": make_socket,
    "circle": lambda path: path.symlink_to(path),
    "does not exist": lambda path: path.symlink_to(path.with_name("nowhere")),
    "folder": Path.mkdir,
}


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Let a test that waits for a FIFO, or reads a device, fail."""
    signal.alarm(30)
    yield
    signal.alarm(0)


@pytest.mark.usefixtures("no_hang")
@pytest.mark.parametrize("kind", PUT)
@pytest.mark.parametrize(("name", "file"), FILES)
def test_only_regular_files_are_opened(tmp_path: Path, name: str, file: str, kind: str) -> None:
    write, read, _ = READ[name]
    write(tmp_path / name)
    read_it = read if name != "state.pt" else open_source  # an empty state dict says nothing
    if name != "state.pt":
        read_it(tmp_path / name)
    place = Path(os.path.normpath(tmp_path / name / file))
    place.unlink()
    PUT[kind](place)
    if (name, kind) in (("y.meta", "folder"), ("c.yaml", "folder")) or file == ".":
        expected = f"{place}"
    else:
        expected = place.name
    with pytest.raises(EngineError) as error:
        read(tmp_path / name)
    assert expected in str(error.value)


def drop_capabilities() -> None:
    """In a child process: be refused what the superuser is not."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability)  # PR_CAPBSET_DROP


NO_PERMISSION = """
from tests.unit.storage.formats import test_readers as readers
from engine.errors import EngineError
from pathlib import Path
for name, place in {places!r}:
    try:
        readers.READ[name][1](Path(place))
        print(name, "was read")
    except EngineError as error:
        if "permission denied" not in str(error):
            print(name, error)
"""


def test_files_without_permission_are_named(tmp_path: Path) -> None:
    places = []
    for name, file in FILES:
        top = tmp_path / f"{name}-{file.replace('/', '-')}" / name
        top.parent.mkdir()
        READ[name][0](top)
        Path(os.path.normpath(top / file)).chmod(0)
        places.append((name, str(top)))
    (tmp_path / "closed").mkdir()
    np.save(tmp_path / "closed" / "x.npy", X)
    (tmp_path / "closed").chmod(0)
    places += [("x.npy", str(tmp_path / "closed" / "x.npy")), ("parts", str(tmp_path / "closed"))]
    script = NO_PERMISSION.format(places=places)
    found = subprocess.run(
        [sys.executable, "-c", script], preexec_fn=drop_capabilities, capture_output=True, text=True, timeout=120
    )
    (tmp_path / "closed").chmod(0o700)
    assert (found.stdout, found.returncode) == ("", 0), found.stderr


def test_links_to_regular_files_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "there.npy", X)
    (tmp_path / "x.npy").symlink_to(tmp_path / "there.npy")
    assert open_source(tmp_path / "x.npy").read(0, ROWS).tobytes() == X.tobytes()


def refused(path: Path, words: str, read: Callable[[Path], object] = read_source) -> None:
    with pytest.raises(EngineError, match=words) as error:
        read(path)
    assert path.name in str(error.value)


def test_npy_headers_are_bounded_and_true(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x93NUMPY\x02\x00" + (0xFFFFFFF0).to_bytes(4, "little") + b"x" * 100)
    refused(path, "header is to take 4,294,967,280 bytes")
    for shape in ("(-1, 4)", "(4611686018427387904, 4)", "(0, 4611686018427387905)"):
        header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
        path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        refused(path, "no array is")
    np.save(path, X)
    path.write_bytes(path.read_bytes() + b"more")
    refused(path, "got 324; the file is longer than its header says".replace("324", r"\d+"))


def test_npz_members_are_as_long_as_they_say(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, x=X)
    whole = bytearray(path.read_bytes())
    at = whole.index(b"PK\x01\x02")
    whole[at + 24 : at + 28] = (1 << 20).to_bytes(4, "little")  # its size unpacked, in the central directory
    path.write_bytes(whole)
    refused(path, "the file is damaged")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", b"x" * 1000)
    refused(path, "packed by a method that np.savez never writes")
    np.savez_compressed(path, x=np.zeros((ROWS, DIM), np.float32))
    whole = bytearray(path.read_bytes())
    at = whole.index(b"PK\x01\x02")
    whole[at + 24 : at + 28] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(whole)
    refused(path, "only .* are stored")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"x")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", b"x")
    refused(path, "2 arrays named 'x'")


def test_fortran_order_is_read_by_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(X))
    source = open_source(tmp_path / "x.npy")
    assert np.concatenate([source.read(0, 5), source.read(5, ROWS)]).tobytes() == X.tobytes()
    both = np.asfortranarray(np.stack([IDS, IDS % 2], 1).astype("f4"))
    np.savez(tmp_path / "knn.npz", data=both)
    neighbors, similarities = open_knn_graph(tmp_path / "knn.npz", ROWS).read(3, 9)
    assert neighbors.tolist() == IDS[3:9].tolist()
    assert similarities is not None
    assert similarities.tolist() == (1 - IDS[3:9] % 2).tolist()


def test_neighbour_ids_beyond_int64_are_refused(tmp_path: Path) -> None:
    ids = IDS.astype(np.uint64)
    ids[7, 1] = 2**64 - 1
    np.save(tmp_path / "knn.npy", ids)
    refused(tmp_path / "knn.npy", "row 7 has a neighbour id of 18446744073709551615", read_graph)


@pytest.mark.parametrize("version", [2, 3])
def test_a_zarr_chunk_that_is_missing_is_named(tmp_path: Path, version: int) -> None:
    path = tmp_path / "x.zarr"
    write_zarr(version)(path)
    assert open_source(path).read(0, ROWS).tobytes() == X.tobytes()
    (path / {2: "1.0", 3: "c/1/0"}[version]).unlink()
    refused(path, rf"chunk {'1.0' if version == 2 else 'c/1/0'} is missing.*write_empty_chunks=True")


@pytest.mark.parametrize("dtype", ["f4", "i1"])
def test_a_part_of_a_shard_that_is_missing_is_named(tmp_path: Path, dtype: str) -> None:
    rows = np.ones((16, DIM), dtype)
    for empty, path in ((False, tmp_path / "whole"), (True, tmp_path / "holed")):
        if empty:
            rows[4:8] = 0  # as zarr writes no chunk of the fill value alone
        zarr.create_array(path, shape=rows.shape, dtype=dtype, chunks=(4, DIM), shards=(8, DIM))[:] = rows  # type: ignore[call-overload,arg-type]
    assert open_source(tmp_path / "whole").read(0, 16).tolist() == np.ones((16, DIM)).tolist()
    with pytest.raises(EngineError, match=r"holed: row 4 is in a part of a shard that is missing"):
        open_source(tmp_path / "holed").read(0, 16)


def test_zarr_shapes_are_compared_with_the_chunks(tmp_path: Path) -> None:
    path = tmp_path / "x.zarr"
    write_zarr(3)(path)
    whole = (path / "zarr.json").read_text()
    changed = whole.replace(f"{ROWS},", "120000000000,", 1)
    assert changed != whole
    (path / "zarr.json").write_text(changed)
    refused(path, "chunk c/3/0 is missing")
    (path / "zarr.json").write_text(whole.replace("    5,", "    500000000,", 1))
    refused(path, "not a readable zarr|are stored|cannot be read|missing")


def test_names_of_a_group_stay_inside(tmp_path: Path) -> None:
    write_group(tmp_path / "group")
    with pytest.raises(EngineError):
        open_source(tmp_path / "group", column="../x").read(0, 1)


def arrow(path: Path, columns: dict[str, pa.Array]) -> Path:
    made = pa.table(columns)
    with pa.ipc.new_file(path, made.schema) as writer:
        writer.write_table(made)
    return path


def offset(path: Path, was: list[int], now: list[int]) -> None:
    """Put other offsets in the place of those that a file holds once."""
    whole = path.read_bytes()
    assert whole.count(np.array(was, "<i4").tobytes()) == 1
    path.write_bytes(whole.replace(np.array(was, "<i4").tobytes(), np.array(now, "<i4").tobytes()))


@pytest.mark.parametrize("offsets", [[0, 4, 1 << 30], [0, -4, 4], [1 << 30, (1 << 30) + 4, 1 << 30], [0, 4, 0]])
def test_offsets_outside_a_column_are_refused(tmp_path: Path, offsets: list[int]) -> None:
    path = arrow(tmp_path / "x.arrow", {"vector": pa.array(list(X))})
    offset(path, [0, 4, 8], offsets)
    refused(path, "cannot be read")


def test_texts_that_are_no_utf8_are_refused(tmp_path: Path) -> None:
    bad = pa.array([b"\xff\xfe"] * ROWS).cast(pa.binary()).view(pa.string())
    refused(arrow(tmp_path / "x.arrow", {"id": bad, "vector": pa.array(list(X))}), "'id' cannot be read")
    items = pa.array(["abc"] * ROWS)
    path = arrow(tmp_path / "y.arrow", {"item": items, "vector": pa.array(list(X))})
    offset(path, [0, 3, 6], [0, 1 << 30, 6])
    refused(path, "'item' cannot be read")


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array(list(X)), pa.array(list(X))], ["vector", "vector"])
    with pa.ipc.new_file(tmp_path / "x.arrow", twice.schema) as writer:
        writer.write_table(twice)
    with pytest.raises(EngineError, match="several columns"):
        open_source(tmp_path / "x.arrow", column="vector")
    pq.write_table(pa.Table.from_arrays([pa.array(list(X)), pa.array(["a"] * ROWS), pa.array(["b"] * ROWS)],
                                        ["vector", "id", "id"]), tmp_path / "x.parquet")  # fmt: skip
    refused(tmp_path / "x.parquet", "several columns named 'id'")


def test_parts_must_agree_in_ids_and_items(tmp_path: Path) -> None:
    for name, first, second, words in (
        ("types", {"id": ["a"] * ROWS}, {"id": [1] * ROWS}, "'id' is int64, but .*0.parquet has string"),
        ("ids", {}, {"id": [1] * ROWS}, "has id for ids, but .*0.parquet has none"),
        ("items", {"url": ["u"] * ROWS}, {"path": ["p"] * ROWS}, "has path for items.*0.parquet has url"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        for number, columns in enumerate((first, second)):
            pq.write_table(pa.table({"vector": list(X), **columns}), folder / f"{number}.parquet")
        with pytest.raises(EngineError, match=f"1.parquet: .*{words}"):
            read_source(folder)


def test_lines_are_bounded(tmp_path: Path) -> None:
    (tmp_path / "y.txt").write_text("1\n2\n" + "0" * (20 << 20) + "\n")
    refused(tmp_path / "y.txt", "line 3 is '0000", read_labels)
    np.save(tmp_path / "x.npy", X)
    (tmp_path / "items.txt").write_text("a\n" * 7 + "x" * (2 << 20) + "\n" + "a\n" * (ROWS - 8))
    with pytest.raises(EngineError, match=r"items\.txt: line 8 is longer"):
        read_source(tmp_path / "x.npy")


def test_labels_of_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.storage.formats.label_files._PIECE_BYTES", 8)
    (tmp_path / "y.txt").write_text("".join(f"{i}\n" for i in range(2000)) + "\n \n\n")
    assert read_labels(tmp_path / "y.txt").tolist() == list(range(2000))
    (tmp_path / "y.txt").write_text("1\n2\n" + "\n" * 30 + "3\n")
    refused(tmp_path / "y.txt", "line 3 is '', expected one integer", read_labels)


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "s.pt")
    with pytest.raises(EngineError, match=r"s\.pt: tensor conv1.weight .* is to"):
        convert("gcn_v", [tmp_path / "s.pt"], tmp_path / "model")


def test_yaml_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    for text, words in (
        ("\n".join(lines), "more than 10,000 values"),
        ("a: &a [*a]", "more than 10,000 values"),
        ("a: " + "[" * 5000, "nested deeper than 16"),
        ("#" * 200_000, "longer than 131,072 bytes"),
        ("knn: {k: 5, k: 6}", "line 1: k is given twice"),
        ("knn: {1: 2}", "line 1: expected the name of a setting"),
        ("? [a]\n: 1", "expected the name of a setting"),
        ("knn: !!int ''", "not valid YAML"),
        ("knn: 2024-99-99", "not valid YAML"),
        ("- knn", "expected a mapping of settings, got a list"),
        ("preset: [a]", "preset: expected a name or a file"),
        (f"preset: {path}", "its preset leads back to itself"),
        ("preset: nowhere", "nowhere: no such configuration, nor one of cdp/original"),
    ):
        path.write_text(text)
        with pytest.raises(EngineError, match=words):
            load_settings(path)
    path.write_bytes("knn: {k: 5}  # é".encode("latin-1"))
    refused(path, "expected UTF-8; byte 15", load_settings)
    path.write_text("base: &b {k: 5}\n", encoding="utf-8-sig")
    with pytest.raises(EngineError, match="unknown setting base"):
        load_settings(path)
    path.write_text(yaml.safe_dump({"preset": "star_fc/original", "knn": {"k": 7}}), encoding="utf-8-sig")
    assert load_settings(path).knn.k == 7
    path.write_text("model: &m {hidden: 64}\nhierarchy: *m\n")
    assert load_settings(path).hierarchy.hidden == 64


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("partition.min_score=nan", "finite"), ("partition.min_score=.inf", "finite"),
        ("partition.min_score=-5", "greater than or equal to -1"), ("partition.min_intimacy=.nan", "finite"),
        ("knn.k=true", "true or false"), ("train.milestones=[0.5, true]", "true or false"),
        ("gcn_d.unions=[[2, true]]", "true or false"), ("train.milestones=[.inf]", "finite"),
        ("seed=9223372036854775808", "9223372036854775807"), ("seed=-1", "greater than or equal to 0"),
        ("train.max_steps=99999999999999999999", "9223372036854775807"), ("l_gcn.widths=[0]", "at least|equal to 1"),
        ("train.learning_rate=.nan", "finite"), ("cdp.committee=[1]", "string"), ("knn=5", "settings by their names"),
        ("knn.k={a: &a [*a]}", "--set knn.k.*10,000"), ("knn.k=[[", "--set knn.k.*not valid YAML"),
    ],
)  # fmt: skip
def test_settings_have_ranges(override: str, words: str) -> None:
    with pytest.raises(EngineError, match=words) as error:
        load_settings(None, [override])
    assert override.partition("=")[0].partition(".")[0] in str(error.value)


def test_a_parquet_footer_of_which_pyarrow_would_end_the_process(tmp_path: Path) -> None:
    path = tmp_path / "y.parquet"
    pq.write_table(pa.table({"label": [1] * ROWS, "text": ["x"] * ROWS}), path)
    whole = path.read_bytes()
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from engine.errors import EngineError\n"
        "from engine.storage.formats.label_files import read_labels\n"
        "path = Path(sys.argv[1])\n"
        "whole = path.read_bytes()\n"
        "for at in range(len(whole) // 4, len(whole)):\n"
        "    path.write_bytes(whole[:at] + bytes([(whole[at] + 16) % 256]) + whole[at + 1 :])\n"
        "    try:\n"
        "        read_labels(path)\n"
        "    except EngineError as error:\n"
        "        assert '\\n' not in str(error)\n"
    )
    found = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert whole != path.read_bytes()
