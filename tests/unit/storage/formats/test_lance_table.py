"""Lance datasets as sources."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from engine.errors import DataError, DependencyMissing
from engine.storage.formats.registry import open_source

X = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float32)


def table(rows: slice) -> pa.Table:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(X[rows].ravel()), X.shape[1])
    return pa.table({"id": np.arange(40)[rows], "vector": vectors, "text": [f"row {i}" for i in range(40)[rows]]})


def test_fragments_are_read_in_order_without_deleted_rows(tmp_path: Path) -> None:
    lance = pytest.importorskip("lance", reason="needs pylance, the extra lance")
    path = tmp_path / "x.lance"
    lance.write_dataset(table(slice(0, 25)), path, max_rows_per_file=10)
    before = open_source(path)
    assert before.num_rows == 25
    lance.write_dataset(table(slice(25, 40)), path, mode="append")
    lance.dataset(str(path)).delete("id = 3")
    kept = np.delete(np.arange(40), 3)
    source = open_source(path)
    np.testing.assert_array_equal(source.read(0, 39), X[kept])
    np.testing.assert_array_equal(source.read(8, 33), X[kept[8:33]])
    assert source.items(2, 4) == ["row 2", "row 4"]
    assert source.ids()[3:5].to_pylist() == [4, 5]
    assert set(before.files()) < set(source.files())  # so that a run sees that the dataset has changed
    assert source.companions() == []
    for file in (path / "data").iterdir():
        file.write_bytes(b"no data")
    with pytest.raises(DataError, match=r"x\.lance"):
        open_source(path).read(0, 39)


def test_without_the_library_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.lance/_versions").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(DependencyMissing, match=r"needs pylance: pip install '.*\[lance\]'"):
        open_source(tmp_path / "x.lance")
