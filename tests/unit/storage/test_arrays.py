from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from engine import units
from engine.errors import DataError
from engine.storage.arrays import create_array, map_array, write_rows
from engine.storage.mappings import DEFAULT_LIMIT, mapped_files, maps_needed
from engine.units import CHUNK_ROWS, file_rows

SHAPES = [(CHUNK_ROWS,), (2 * CHUNK_ROWS + 3, 8), (5, 3), (CHUNK_ROWS + 1, 3)]


def written(folder: Path, values: np.ndarray) -> None:
    create_array(folder, "values", values.shape, values.dtype)
    for start in range(0, len(values), CHUNK_ROWS):
        write_rows(folder, "values", start, values[start : start + CHUNK_ROWS])


def values_of(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "int32", "int64", "bool"])
def test_what_is_written_is_mapped_and_read_by_zarr(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    values = values_of(shape, dtype)
    written(tmp_path, values)
    mapped = map_array(tmp_path, "values")
    assert mapped.dtype == values.dtype
    np.testing.assert_array_equal(mapped, values)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "values", mode="r")[:], values)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0


def test_files_of_a_billion_rows_are_few_enough_to_map(tmp_path: Path) -> None:
    rows = 10**9
    create_array(tmp_path, "values", (rows,), np.int8)
    (tmp_path / "values/c").mkdir()
    for number in range(-(-rows // file_rows(rows))):
        with open(tmp_path / f"values/c/{number}", "wb") as stream:
            stream.truncate(file_rows(rows))  # sparse: it takes no disk
    before = mapped_files()
    mapped = map_array(tmp_path, "values")
    assert mapped.shape == (rows,)
    assert mapped[-1] == 0
    assert mapped_files() - before == 3_815
    assert len(Path("/proc/self/maps").read_text().splitlines()) < before + 10_000
    del mapped
    assert mapped_files() == before
    assert maps_needed(10**12) < DEFAULT_LIMIT


def test_a_large_array_has_files_of_several_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "MOST_FILES", 3)
    values = values_of((9 * CHUNK_ROWS + 5, 2), "int32")
    create_array(tmp_path, "values", values.shape, values.dtype)
    with pytest.raises(ValueError, match="are not whole files"):
        write_rows(tmp_path, "values", 0, values[:CHUNK_ROWS])
    for start in (0, 8 * CHUNK_ROWS):
        outputs = write_rows(tmp_path, "values", start, values[start : start + 8 * CHUNK_ROWS])
    assert [output.path for output in outputs] == ["values/c/2/0"]
    np.testing.assert_array_equal(map_array(tmp_path, "values"), values)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "values", mode="r")[:], values)


def test_a_map_beyond_the_systems_limit_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, values_of((3 * CHUNK_ROWS, 4), "int32"))

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(DataError, match=r"refuses to map file 1 of 3.*as root: sysctl -w vm\.max_map_count=65530"):
        map_array(tmp_path, "values")


def test_the_map_outlives_its_files(tmp_path: Path) -> None:
    values = values_of((2 * CHUNK_ROWS, 4), "float32")
    written(tmp_path, values)
    part = map_array(tmp_path, "values")[CHUNK_ROWS - 1 :]
    for path in (tmp_path / "values" / "c").rglob("0"):
        if path.is_file():
            path.unlink()
    np.testing.assert_array_equal(part, values[CHUNK_ROWS - 1 :])


def test_all_zero_chunks_are_files_too(tmp_path: Path) -> None:
    written(tmp_path, np.zeros((2 * CHUNK_ROWS, 4), np.float32))
    assert len([path for path in (tmp_path / "values" / "c").rglob("*") if path.is_file()]) == 2


@pytest.mark.parametrize(("start", "rows"), [(1, CHUNK_ROWS), (0, CHUNK_ROWS - 1), (CHUNK_ROWS, CHUNK_ROWS)])
def test_only_whole_chunks_are_written(tmp_path: Path, start: int, rows: int) -> None:
    create_array(tmp_path, "values", (2 * CHUNK_ROWS - 5, 2), np.int32)
    with pytest.raises(ValueError, match="are not whole files"):
        write_rows(tmp_path, "values", start, np.zeros((rows, 2), np.int32))


def test_a_map_that_fails_leaves_nothing_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, values_of((3 * CHUNK_ROWS, 4), "int32"))
    opened, real = [], os.open

    def open_two(path: str, *more: int) -> int:
        opened.append(path)
        if len(opened) % 3 == 0:
            raise OSError(errno.EACCES, "no")
        return real(path, *more)

    def fail() -> int:
        with pytest.raises(DataError, match=r"c/2/0: cannot be mapped: permission denied"):
            map_array(tmp_path, "values")
        return len(Path("/proc/self/maps").read_text().splitlines())

    monkeypatch.setattr(os, "open", open_two)
    before = fail()
    assert [fail() for _ in range(8)][-1] <= before + 2  # each would leave three


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.pop("shape"),
        lambda tree: tree.update(shape=[-1, 4]),
        lambda tree: tree.update(shape=[10**15, 4]),
        lambda tree: tree.update(shape=[10**12, 4]),
        lambda tree: tree.update(shape="8192"),
        lambda tree: tree.update(data_type="object"),
        lambda tree: tree["chunk_grid"]["configuration"].update(chunk_shape=[0, 4]),
        lambda tree: tree["chunk_grid"]["configuration"].update(chunk_shape=[CHUNK_ROWS, 2]),
    ],
)
def test_metadata_that_cannot_be_is_named(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    written(tmp_path, values_of((2 * CHUNK_ROWS, 4), "int32"))
    path = tmp_path / "values/zarr.json"
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(DataError, match=r"values/zarr\.json: |missing or truncated chunk"):
        map_array(tmp_path, "values")


@pytest.mark.parametrize("columns", [4, 3])
def test_a_missing_or_short_chunk_is_named(tmp_path: Path, columns: int) -> None:
    written(tmp_path, values_of((2 * CHUNK_ROWS, columns), "int32"))
    chunk = tmp_path / "values" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"c/1/0: missing or truncated chunk"):
        map_array(tmp_path, "values")
    chunk.unlink()
    with pytest.raises(DataError, match=r"c/1/0: missing or truncated chunk"):
        map_array(tmp_path, "values")
    with pytest.raises(DataError, match=r"nothing holds no array"):
        map_array(tmp_path, "nothing")


def test_creating_again_changes_nothing_and_mends_damage(tmp_path: Path) -> None:
    first = create_array(tmp_path, "values", (10, 2), np.int32)
    path = tmp_path / "values" / "zarr.json"
    before = path.stat().st_mtime_ns
    assert create_array(tmp_path, "values", (10, 2), np.int32) == first
    assert path.stat().st_mtime_ns == before
    text = path.read_bytes()
    path.write_bytes(text[:-1])
    assert create_array(tmp_path, "values", (10, 2), np.int32) == first
    assert path.read_bytes() == text
