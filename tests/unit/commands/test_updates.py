"""A run without labels that lives on: updates, queries, removals and differences, as their user meets them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import engine
from engine import api, evaluate
from engine.commands import updates
from engine.commands.collection import assign
from engine.commands.differences import difference
from engine.errors import ConfigError, DataError
from tests.support.toy_graphs import unit

pytestmark = pytest.mark.slow

DIM, FIRST = 64, 1_000
_RANDOM = np.random.default_rng(5)
LABELS = _RANDOM.permutation(np.repeat(np.arange(160), _RANDOM.integers(3, 13, 160)))
_CENTRES = unit(_RANDOM.normal(size=(160, DIM)))[LABELS]
VECTORS = unit(_CENTRES + 0.9 / 8 * _RANDOM.normal(size=_CENTRES.shape)).astype(np.float32)
NAMES = np.array([f"person-{row:05}" for row in range(len(VECTORS))])


def write(path: Path, rows: np.ndarray, vectors: np.ndarray = VECTORS) -> Path:
    columns = {"id": NAMES[rows], "text": [f"what {NAMES[row]} wrote" for row in rows], "vector": list(vectors[rows])}
    parquet.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the first thousand rows, with ids and texts."""
    root = tmp_path_factory.mktemp("updates")
    request = api.Request(
        features=str(write(root / "rows.parquet", np.arange(FIRST))), items_column="text", settings=api.load_settings()
    )
    api.execute(api.prepare("run", str(root / "run"), request, api.load_resources(None)), progress=False)
    return root / "run"


@pytest.fixture
def run(first: Path, tmp_path: Path) -> Path:
    """A copy of that run, to change."""
    return Path(shutil.copytree(first, tmp_path / "run"))


def test_new_rows_join_as_queries_say_and_others_stay(run: Path, tmp_path: Path) -> None:
    before = engine.open(run)
    old = before.labels
    new = write(tmp_path / "new.parquet", np.arange(FIRST, len(VECTORS)))
    assign(run, str(new), str(tmp_path / "assigned.parquet"))
    assigned = parquet.read_table(tmp_path / "assigned.parquet")
    assert assigned["id"].to_pylist() == NAMES[FIRST:].tolist()
    done = updates.update(run, features=new, items_column="text", progress=False)
    after = engine.open(run)
    assert (done.rows, done.added) == (len(VECTORS), len(VECTORS) - FIRST)
    assert after.row_ids == NAMES.tolist()
    assert (after.labels[:FIRST] == old).mean() > 0.98  # a new row joins clusters that only it shows to be one
    joined = assigned["cluster"].to_numpy()
    same = joined[joined >= 0] == after.labels[FIRST:][joined >= 0]
    assert same.mean() > 0.95  # not all: queries do not see each other
    assert (joined >= 0).mean() > 0.8
    assert evaluate(after.labels, LABELS)["pairwise_f"] > 0.98
    events = after.lineage()["event"]
    assert {"born", "grown"} <= set(events)
    told = difference(run, run)
    assert (told.rows, told.gone, told.born) == (len(VECTORS), 0, 0)
    assert told.same == len(np.unique(after.labels))


def test_nothing_is_left_of_a_removed_row(run: Path, tmp_path: Path) -> None:
    gone = np.array([3, 500, 998])
    stays = np.setdiff1d(np.arange(FIRST), gone)
    before = engine.open(run).labels
    halves = VECTORS.astype(np.float16)  # as they are stored
    secrets = [what for row in gone for what in (halves[row].tobytes(), VECTORS[row].tobytes(), NAMES[row].encode())]

    def left() -> list[Path]:
        files = [path for path in run.rglob("*") if path.is_file()]
        return [path for path in files if any(secret in path.read_bytes() for secret in secrets)]

    assert len(left()) >= 2  # so the search can find them
    ids = tmp_path / "gone.txt"
    ids.write_text("".join(f"{name}\n" for name in NAMES[gone]))
    done = updates.update(run, remove=ids, progress=False)
    assert (done.rows, done.removed) == (FIRST - 3, 3)
    assert left() == []
    after = engine.open(run)
    assert after.row_ids == NAMES[stays].tolist()
    assert evaluate(after.labels, before[stays])["pairwise_f"] > 0.99
    with pytest.raises(ConfigError, match="done already"):
        updates.update(run, remove=ids, progress=False)
    ids.write_text(f"{NAMES[3]}\n")
    with pytest.raises(DataError, match="person-00003"):
        updates.update(run, remove=ids, progress=False)


def test_what_does_not_fit_is_refused_and_changes_nothing(run: Path, tmp_path: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    again = write(tmp_path / "again.parquet", np.arange(10))
    other = write(tmp_path / "other.parquet", np.arange(FIRST, FIRST + 5), VECTORS[:, :32])
    with pytest.raises(DataError, match="person-0000"):
        updates.update(run, features=again, items_column="text", progress=False)
    with pytest.raises(DataError, match="32"):
        updates.update(run, features=other, items_column="text", progress=False)
    with pytest.raises(ConfigError, match="one of both"):
        updates.update(run, progress=False)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == files


def test_many_updates_are_written_anew_in_one_piece(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "MOST_LAYERS", 2)
    for number, rows in enumerate(np.array_split(np.arange(FIRST, len(VECTORS)), 4), start=1):
        updates.update(run, features=write(tmp_path / f"{number}.parquet", rows), items_column="text", progress=False)
    collection = engine.open(run)
    assert len(collection._version.layers) <= 2
    assert collection.row_ids == NAMES.tolist()
    assert evaluate(collection.labels, LABELS)["pairwise_f"] > 0.98
