"""Ingestion: unit rows of any magnitude, bad rows named, digests that follow content and not paths."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from engine import api
from engine.commands.configuration import load_settings
from engine.commands.resources import Resources
from engine.errors import DataError
from engine.steps.ingest import zero_rows
from engine.steps.source import WHOLE_BYTES, describe_source, normalise
from engine.storage.arrays import map_array
from engine.storage.formats.sources import VectorSource


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_rows_of_any_magnitude_become_unit(scale: float) -> None:
    rows = np.random.default_rng(0).standard_normal((10, 7)) * scale
    found = normalise(rows, 0, "x")
    np.testing.assert_allclose(np.linalg.norm(found.unit_ND, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found.lengths_N, np.linalg.norm(rows / scale, axis=1) * scale)
    assert len(found.zeros) == len(found.bad) == 0


def test_float16_rows_do_not_overflow() -> None:
    unit = normalise(np.full((2, 64), 60000, dtype=np.float16), 0, "x").unit_ND
    np.testing.assert_allclose(unit, 1 / 8, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_name_their_rows(bad: float) -> None:
    rows = np.ones((20, 3))
    rows[[4, 11], 1] = bad
    with pytest.raises(
        DataError, match=r"some\.npy: NaN, infinite or missing values in rows 104, 111.*--bad-rows drop"
    ):
        normalise(rows, 100, "some.npy")


def save(path: Path, rows: np.ndarray) -> Path:
    np.save(path, rows)
    return path


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_equal_plain_division_by_their_length(dtype: type) -> None:
    rows = np.random.default_rng(5).standard_normal((500, 67)).astype(dtype)
    wide = rows.astype(np.float64)
    expected = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    np.testing.assert_array_max_ulp(normalise(rows, 0, "x").unit_ND, expected, maxulp=1)


def test_rows_do_not_hang_on_their_block() -> None:
    rows = np.random.default_rng(6).standard_normal((300, 33)) * 10.0 ** np.linspace(-300, 300, 300)[:, None]
    whole = normalise(rows, 0, "x").unit_ND
    assert (
        np.concatenate([normalise(rows[a : a + 7], a, "x").unit_ND for a in range(0, 300, 7)]).tobytes()
        == whole.tobytes()
    )


def ingest(root: Path, source: Path, block_rows: int = 0, threads: int = 2, **settings: str) -> Path:
    request = api.Request(features=str(source), settings=load_settings(overrides={"ingest": settings}))
    prepared = api.prepare("store", root, request, Resources(block_rows=block_rows, threads=threads))
    return api.execute(prepared, progress=False)["ingest"]


def test_zero_vectors_are_refused_by_default_and_named(tmp_path: Path) -> None:
    rows = np.ones((9000, 4), dtype=np.float32)
    rows[[8, 5000]] = 0
    source = save(tmp_path / "x.npy", rows)
    with pytest.raises(DataError, match=r"zero vectors in rows 8, 5,000.*--zero-vectors drop"):
        ingest(tmp_path / "refused", source)
    folder = ingest(tmp_path / "kept", source, block_rows=4096, zero_vectors="drop")
    assert zero_rows(folder).tolist() == [8, 5000]
    assert np.flatnonzero(~map_array(folder, "features").any(axis=1)).tolist() == [8, 5000]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_store_is_the_same_bytes_for_any_block_and_thread(dtype: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(7).standard_normal((13_000, 9)).astype(np.float32)
    source = save(tmp_path / "x.npy", rows)
    one = map_array(ingest(tmp_path / "one", source, threads=1, dtype=dtype), "features")
    many = map_array(ingest(tmp_path / "many", source, 4096, 3, dtype=dtype), "features")
    assert one.tobytes() == many.tobytes() == normalise(rows, 0, "x").unit_ND.astype(dtype).tobytes()


def test_each_row_of_a_source_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save(tmp_path / "x.npy", np.ones((10_000, 3), np.float32))
    asked: list[tuple[int, int]] = []
    read = VectorSource.read

    def recorded(self: VectorSource, start: int, stop: int) -> np.ndarray:
        asked.append((start, stop))
        return read(self, start, stop)

    monkeypatch.setattr(VectorSource, "read", recorded)
    ingest(tmp_path / "store", source)
    assert asked == [(0, 4096), (4096, 8192), (8192, 10_000)]


def test_the_digest_of_a_large_source_samples_it_and_follows_sizes_and_times(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with path.open("wb") as stream:
        stream.truncate(WHOLE_BYTES + 4096)  # a hole: nothing is stored
    os.utime(path, ns=(0, 10**9))
    first = describe_source(path, dim=16).digest
    assert describe_source(path, dim=16).digest == first
    assert describe_source(path.rename(tmp_path / "y.bin"), dim=16).digest == first
    with (tmp_path / "y.bin").open("r+b") as stream:
        stream.seek(-4, os.SEEK_END)
        stream.write(b"\1")
    os.utime(tmp_path / "y.bin", ns=(0, 10**9))
    assert describe_source(tmp_path / "y.bin", dim=16).digest != first
    os.utime(tmp_path / "y.bin", ns=(0, 2 * 10**9))
    later = describe_source(tmp_path / "y.bin", dim=16).digest
    os.utime(tmp_path / "y.bin", ns=(0, 10**9))
    assert describe_source(tmp_path / "y.bin", dim=16).digest != later


def test_the_digest_follows_the_content(tmp_path: Path) -> None:
    rows = np.random.default_rng(1).standard_normal((50, 4)).astype(np.float32)
    first = describe_source(save(tmp_path / "a.npy", rows))
    shutil.copy(tmp_path / "a.npy", tmp_path / "b.npy")
    assert describe_source(tmp_path / "b.npy").digest == first.digest
    rows[3, 3] += 1
    assert describe_source(save(tmp_path / "c.npy", rows)).digest != first.digest


def test_a_known_digest_is_taken_over_only_while_files_are_unchanged(tmp_path: Path) -> None:
    rows = np.ones((50, 4), dtype=np.float32)
    first = describe_source(save(tmp_path / "a.npy", rows))
    known = {**first.as_dict(), "digest": "remembered"}
    assert describe_source(tmp_path / "a.npy", known=known).digest == "remembered"
    rows[0, 0] = 2
    assert describe_source(save(tmp_path / "a.npy", rows), known=known).digest not in ("remembered", first.digest)


def test_a_store_holds_unit_rows_and_opens_as_a_source(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).standard_normal((5000, 6)) * 9
    request = api.Request(features=str(save(tmp_path / "x.npy", rows)))
    folders = api.execute(api.prepare("store", tmp_path / "store", request), progress=False)
    stored = map_array(folders["ingest"], "features")
    assert stored.shape == (5000, 6)
    assert stored.dtype == np.float16
    expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(stored.astype(np.float64), expected, atol=1e-3)
    source = describe_source(tmp_path / "store")
    assert (source.num_rows, source.dim) == (5000, 6)
    with pytest.raises(DataError, match="--dim 7"):
        describe_source(tmp_path / "store", dim=7)


def rewriting(path: Path, rows: np.ndarray, at: int) -> Callable[..., np.ndarray]:
    """A ``read`` that lets somebody else write the file anew once ``at`` blocks were read."""
    whole, number = VectorSource.read, iter(range(1_000))

    def read(source: VectorSource, start: int, stop: int) -> np.ndarray:
        block = whole(source, start, stop)
        if next(number) == at:
            np.save(path, rows)
        return block

    return read


@pytest.mark.parametrize("at", [0, 2])
def test_a_source_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.random.default_rng(0).standard_normal((10_000, 4)).astype(np.float32)
    path = save(tmp_path / "x.npy", rows)
    os.utime(path, ns=(1, 1))
    monkeypatch.setattr(VectorSource, "read", rewriting(path, -rows, at))
    with pytest.raises(DataError, match=r"x\.npy: changed while it was read"):
        ingest(tmp_path / "store", path, block_rows=4096)
    records = list((tmp_path / "store").glob("ingest-*/records/*"))
    assert len(records) == (0 if at == 0 else 2)  # what was read before the change


def test_a_part_items_or_time_that_changes_between_plan_and_task_is_refused(tmp_path: Path) -> None:
    def make(name: str) -> Path:
        (tmp_path / name).mkdir()
        save(tmp_path / name / "0.npy", np.eye(4, dtype=np.float32))
        (tmp_path / name / "items.txt").write_text("a\n" * 4)
        return tmp_path / name

    for name, change in (
        ("time", lambda path: os.utime(path / "0.npy", ns=(5, 5))),
        ("items", lambda path: (path / "items.txt").write_text("longer\n" * 4)),
        ("parts", lambda path: np.save(path / "1.npy", np.eye(4, dtype=np.float32))),
    ):
        path = make(name)
        prepared = api.prepare("store", tmp_path / f"{name}-store", api.Request(features=str(path)))
        change(path)
        with pytest.raises(DataError, match=f"{name}: changed while it was read|one line for each of 8"):
            api.execute(prepared, progress=False)
        assert not list((tmp_path / f"{name}-store").glob("ingest-*/records/*"))


@pytest.mark.parametrize("rows", [7, 9000])
def test_a_source_of_zero_vectors_alone_is_refused(tmp_path: Path, rows: int) -> None:
    path = save(tmp_path / "x.npy", np.zeros((rows, 4), np.float32))
    settings = load_settings(overrides={"ingest.zero_vectors": "drop"})
    request = api.Request(features=str(path), settings=settings)
    prepared = api.prepare("run", tmp_path / "run", request, Resources(block_rows=4096))
    with pytest.raises(DataError, match=f"all {rows:,} rows are zero vectors|none of {rows:,} rows has a direction"):
        api.execute(prepared, progress=False)


def test_a_source_at_a_url_that_changes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTERISM_CACHE", str(tmp_path / "cache"))
    there = fsspec.filesystem("memory")

    def put(rows: np.ndarray) -> None:
        with there.open("/changing/x.npy", "wb") as stream:
            np.save(stream, rows)

    url = "memory://changing/x.npy"
    put(np.eye(4, dtype=np.float32))
    prepared = api.prepare("store", tmp_path / "whole", api.Request(features=url))
    assert api.execute(prepared, progress=False)
    prepared = api.prepare("store", tmp_path / "changed", api.Request(features=url))
    put(-np.eye(4, dtype=np.float32))
    with pytest.raises(DataError, match=r"memory://changing/x\.npy: changed while it was read"):
        api.execute(prepared, progress=False)


def test_a_knn_graph_that_changes_after_the_plan_is_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))
    ids = (np.arange(12)[:, None] + np.arange(4)) % 12
    graph = save(tmp_path / "knn.npy", ids)
    request = api.Request(features=str(source), knn_graph=str(graph), settings=load_settings(None, method="cosine"))
    prepared = api.prepare("run", tmp_path / "run", request)
    np.save(graph, (ids + 1) % 12)
    os.utime(graph, ns=(7, 7))
    with pytest.raises(DataError, match=r"knn\.npy: changed while it was read"):
        api.execute(prepared, progress=False)


def test_a_store_is_made_of_a_store_while_its_source_is_the_same(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((20, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", rows)
    for source, out in (("x.npy", "one"), ("one", "other")):
        request = api.Request(features=str(tmp_path / source))
        folder = api.execute(api.prepare("store", tmp_path / out, request), progress=False)["ingest"]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    np.testing.assert_allclose(map_array(folder, "features"), unit, atol=1e-3)
    np.save(tmp_path / "x.npy", rows + 1)
    with pytest.raises(DataError, match="changed"):
        api.execute(
            api.prepare("store", tmp_path / "third", api.Request(features=str(tmp_path / "one"))), progress=False
        )
