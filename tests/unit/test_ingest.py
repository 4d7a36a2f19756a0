"""Ingestion: unit rows of any magnitude, bad rows named, digests that follow content and not paths."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from engine import api
from engine.errors import DataError
from engine.ingest import describe_source, normalise, read_normalised
from engine.storage.arrays import map_array
from engine.storage.formats import open_source


@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_rows_of_any_magnitude_become_unit(scale: float) -> None:
    rows = np.random.default_rng(0).standard_normal((10, 7)) * scale
    unit, zeros = normalise(rows, 0, "x")
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert len(zeros) == 0


def test_float16_rows_do_not_overflow() -> None:
    unit, _ = normalise(np.full((2, 64), 60000, dtype=np.float16), 0, "x")
    np.testing.assert_allclose(unit, 1 / 8, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_bad_values_name_their_rows(bad: float) -> None:
    rows = np.ones((20, 3))
    rows[[4, 11], 1] = bad
    with pytest.raises(DataError, match=r"some\.npy: NaN or infinite values in rows 104, 111"):
        normalise(rows, 100, "some.npy")


def save(path: Path, rows: np.ndarray) -> Path:
    np.save(path, rows)
    return path


def test_zero_vectors_are_refused_by_default_and_named(tmp_path: Path) -> None:
    rows = np.ones((9000, 4), dtype=np.float32)
    rows[[8, 5000]] = 0
    source = open_source(save(tmp_path / "x.npy", rows))
    with pytest.raises(DataError, match=r"zero vectors in rows 8, 5,000.*--zero-vectors drop"):
        read_normalised(source, 0, 9000, "error", threads=2)
    unit, zeros = read_normalised(source, 4096, 9000, "drop", threads=2)
    assert zeros.tolist() == [5000]
    assert not unit[5000 - 4096].any()


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
