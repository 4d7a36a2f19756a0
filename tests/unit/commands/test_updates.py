"""A run without labels that lives on: updates, queries, removals and differences, as their user meets them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import engine
from engine import api, cluster, evaluate
from engine.commands import updates
from engine.commands.collection import assign
from engine.commands.differences import difference
from engine.commands.status import run_status
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
    told = run_status(run)
    assert (told["updates"]["last"], told["updates"]["rows"]) == (1, len(VECTORS))
    assert (told["updates"]["stages_deleted"], told["updates"]["unfinished"]) == (False, None)
    assert all(stage["rows_committed"] == stage["rows"] for stage in told["stages"])
    assert after.row_ids == NAMES.tolist()
    assert (after.labels[:FIRST] == old).mean() > 0.98  # a new row joins clusters that only it shows to be one
    joined = assigned["cluster"].to_numpy()
    same = joined[joined >= 0] == after.labels[FIRST:][joined >= 0]
    assert same.mean() > 0.95  # not all: queries do not see each other
    assert (joined >= 0).mean() > 0.8
    assert evaluate(after.labels, LABELS)["pairwise_f"] > 0.98
    events = after.lineage()["event"]
    assert "grown" in events
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
    told = run_status(run)
    assert told["stages"] == []
    assert (told["updates"]["rows"], told["updates"]["removed"]) == (FIRST - 3, 3)
    assert told["updates"]["stages_deleted"]
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
    with pytest.raises(ConfigError, match="--features"):
        updates.update(run, progress=False)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()} == files


def test_many_updates_are_written_anew_in_one_piece(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(updates, "MOST_LAYERS", 2)
    for number, rows in enumerate(np.array_split(np.arange(FIRST, len(VECTORS)), 4), start=1):
        updates.update(run, features=write(tmp_path / f"{number}.parquet", rows), items_column="text", progress=False)
        if number == 3:  # all is in one piece now, and what lists have taken in is not forgotten
            assert engine.open(run).held.layers == ()
            assert engine.open(run).state.changed_VS.any()
    collection = engine.open(run)
    assert len(collection.held.layers) <= 2
    assert collection.row_ids == NAMES.tolist()
    assert evaluate(collection.labels, LABELS)["pairwise_f"] > 0.98


def test_copies_join_what_they_are_copies_of(run: Path, tmp_path: Path) -> None:
    columns = {"id": ["again-0", "again-1"], "text": ["", ""], "vector": list(VECTORS[[0, 1]])}
    parquet.write_table(pa.table(columns), tmp_path / "copies.parquet")
    old = engine.open(run).labels
    updates.update(run, features=tmp_path / "copies.parquet", items_column="text", progress=False)
    collection = engine.open(run)
    assert collection.labels[-2:].tolist() == collection.labels[:2].tolist()
    assert (collection.labels[:FIRST] == old).all()
    assert set(collection.lineage()["event"]) == {"grown"}


def test_rows_that_cannot_be_taken_stand_in_the_way_of_no_others(run: Path, tmp_path: Path) -> None:
    new = np.arange(FIRST, FIRST + 20)
    zeros = np.where(np.arange(len(VECTORS))[:, None] == FIRST + 3, 0, VECTORS).astype(np.float32)
    bad = write(tmp_path / "zero.parquet", new, zeros)
    with pytest.raises(DataError, match="row"):
        updates.update(run, features=bad, items_column="text", progress=False)
    done = updates.update(run, features=write(tmp_path / "good.parquet", new), items_column="text", progress=False)
    assert done.added == 20


def test_what_python_gave_is_removed_too_and_few_rows_tell_nothing_of_new_ones(tmp_path: Path) -> None:
    few = cluster(np.repeat(VECTORS[:1], 40, axis=0), workspace=tmp_path / "equal").run
    with pytest.raises(ConfigError, match="1 distinct rows"):
        engine.open(few)
    collection = engine.open(cluster(VECTORS[:300], workspace=tmp_path / "run", method="cosine").run)
    assert (tmp_path / "run" / "given").exists()
    collection.remove([7])
    left = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert not [path for path in left if VECTORS[7].tobytes() in path.read_bytes()]
