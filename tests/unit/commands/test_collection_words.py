"""What a collection says of itself after updates: its status, its report, its errors, and what a resume does."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import numpy as np
import pytest

import engine
from engine import api, cluster
from engine.collection.since import Content, Since
from engine.commands import updates
from engine.commands.status import run_status
from engine.errors import ConfigError, DataError
from engine.report.images import digit_png
from engine.storage import context
from tests.support.vectors import make_blobs

DIM, START = 16, 120
POOL = make_blobs(200, DIM, rows_per_blob=6, seed=3)
BEFORE, B, C = POOL[:START], POOL[START:140], POOL[140:160]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of rows without ids."""
    root = tmp_path_factory.mktemp("words") / "run"
    partition = {"method": "components", "min_score": 0.75, "min_intimacy": 0.0}
    cluster(BEFORE, workspace=root, method="cosine", knn={"k": 30}, partition=partition)
    return root


@pytest.fixture
def run(first: Path, tmp_path: Path) -> Path:
    """A copy of that run, to change."""
    return Path(shutil.copytree(first, tmp_path / "run"))


class Killed(BaseException):
    """Stands for a kill."""


def kill_at_commit(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    left, write = [number], context.manifest.write_record

    def killing(place: object, record: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        write(place, record)  # type: ignore[arg-type]

    monkeypatch.setattr(context.manifest, "write_record", killing)


def given(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "given").glob("*"))


def test_rows_without_ids_are_not_added_twice(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = engine.open(run)
    monkeypatch.setattr(updates, "MOST_LAYERS", 1)  # the second update writes all anew
    collection.update(B)
    collection.update(C)
    before = collection.labels
    with pytest.raises(ConfigError, match=r"the rows given: .* by update 1, as rows 120 to 139"):
        collection.update(B)
    with pytest.raises(ConfigError, match="from the run on, as rows 0 to 119"):
        collection.update(BEFORE)
    assert (engine.open(run).labels == before).all()
    collection.remove([125])
    assert collection.update(B).copies >= 0  # not all of it is there any more
    assert collection.row_ids[-1] == 179


def test_copies_are_told_whatever_the_method(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collection = engine.open(run)
    old = collection.labels
    found = collection.assign(3 * BEFORE[:2])
    assert found.clusters.tolist() == old[:2].tolist()
    assert (found.probabilities[:, 0] == 1).all()
    monkeypatch.setattr(updates, "MOST_LAYERS", 0)  # all is written anew
    done = collection.update(np.concatenate([B, BEFORE[:3], B[:1]]))
    assert done.copies == 3  # of rows that were there
    assert collection.state.leaders_N[[140, 141, 142, 143]].tolist() == [0, 1, 2, 120]
    assert collection.labels[[140, 141, 142, 143]].tolist() == collection.labels[[0, 1, 2, 120]].tolist()
    collection.remove([1])  # a copy takes its place
    assert collection.state.leaders_N[140] == 140
    assert collection.labels[140] == old[1]


def test_a_full_run_is_due_by_all_that_came_since(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Since(1_000, 40, 10, ()).due == ""
    assert "of 30 rows added since the full run 10 lie" in Since(1_000, 30, 10, ()).due
    assert "251 rows were added since the full run of 1,000" in Since(1_000, 251, 0, ()).due
    whole = Since(1_000, 9, 0, (Content("b", 5, 10, 1), Content("c", 10, 12, 2)))
    assert whole.without(np.array([3, 9])).contents == (Content("c", 10, 12, 2),)
    monkeypatch.setattr(updates, "MOST_LAYERS", 0)  # each update writes all anew
    collection = engine.open(run)
    assert collection.update(B).due == ""
    told = collection.update(C).due
    assert "40 rows were added since the full run of 120" in told
    status = run_status(run)["updates"]
    assert (status["added"], status["removed"], status["due"]) == (40, 0, told)


def test_a_report_shows_the_collection_as_it_is(run: Path) -> None:
    collection = engine.open(run)
    done = collection.update(B)
    assert not (run / "report.html").exists()  # it would show what was before
    collection.remove([4])
    place, _ = api.report(run)
    page = Path(place).read_text()
    assert f"{START + 19:,} rows: " in page
    assert f"This is the collection after update 2: {len(B)} rows were added and 1 removed" in page
    assert 'id="changes"' in page
    assert "update 1" in page
    assert f"asterism review {run}" in page
    assert "--precision-bias" not in page
    assert done.clusters > 0
    assert api.evaluate_run(run, collection.labels)["pairwise_f"] == 1
    np.savetxt(run.parent / "truth.txt", np.arange(START), "%d")
    after = rf"truth.txt: {START} identities; expected 139, one for each row of .*{START} of the full run, then 20 that"
    with pytest.raises(DataError, match=f"{after} updates added.*, without the 1 removed"):
        api.evaluate_run(run, run.parent / "truth.txt")


def test_pictures_are_those_of_the_rows_source(tmp_path: Path) -> None:
    days = {"monday": POOL[:60], "tuesday": POOL[:60] + np.float32(1e-3)}
    for shade, (day, rows) in enumerate(days.items(), 1):
        (tmp_path / day).mkdir()
        np.save(tmp_path / day / "rows.npy", rows)
        (tmp_path / day / "items.txt").write_text("".join(f"{row}.png\n" for row in range(60)))
        for row in range(60):
            data = base64.b64decode(digit_png(np.array([[shade, row]]), 255).partition(",")[2])
            (tmp_path / day / f"{row}.png").write_bytes(data)
    cluster(tmp_path / "monday" / "rows.npy", workspace=tmp_path / "run", method="cosine", knn={"k": 30})
    updates.update(tmp_path / "run", features=tmp_path / "tuesday" / "rows.npy", progress=False)
    place, warnings = api.report(tmp_path / "run")
    page = Path(place).read_text()
    assert warnings == []
    shades = [sum(digit_png(np.array([[shade, row]]), 255) in page for row in range(60)) for shade in (1, 2)]
    assert min(shades) > 10


def test_resume_takes_up_an_update(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    expected = engine.open(whole)
    expected.update(B)
    expected.remove([7])
    collection = engine.open(run)
    for number in (1, 2):
        with monkeypatch.context() as patch:
            kill_at_commit(patch, 2)
            with pytest.raises(Killed):
                collection.update(B) if number == 1 else collection.remove([7])
        told = run_status(run)["updates"]["unfinished"]
        assert told is not None
        assert Path(told["by"]).parent == run / "given"
        with pytest.raises(ConfigError, match="asterism resume"):
            updates.update(run, features=_saved(tmp_path, C), progress=False)
        done = api.resume(run, progress=False)
        assert isinstance(done, api.Update)
        assert done.number == number
        collection = engine.open(run)
    assert (collection.labels == expected.labels).all()
    assert collection.row_ids == expected.row_ids
    assert api.resume(run, progress=False) == done
    assert not [name for name in given(run) if name.startswith(("rows", "ids"))]


def _saved(folder: Path, rows: np.ndarray) -> Path:
    np.save(folder / "rows.npy", rows)
    return folder / "rows.npy"


def test_what_a_full_run_has_lost_is_computed_again(run: Path) -> None:
    collection = engine.open(run)
    collection.update(B)
    record = next((run / "knn").parent.glob("knn-*/records/*.json"))
    record.unlink()
    with pytest.raises(DataError, match="asterism resume"):
        engine.open(run)
    api.resume(run, progress=False)
    assert (engine.open(run).labels == collection.labels).all()


def test_errors_name_what_the_user_gave_and_options_that_there_are(run: Path) -> None:
    collection = engine.open(run)
    kept = given(run)
    rows = np.where(np.arange(len(B))[:, None] == 3, 0, B).astype(np.float32)
    with pytest.raises(DataError, match=r"^the rows given: zero vectors in row 3 .*--zero-vectors drop"):
        collection.update(rows)
    rows[4] = np.nan
    with pytest.raises(DataError, match=r"^the rows given: NaN"):
        collection.update(rows)
    with pytest.raises(DataError, match=r"^the ids given: id 999 is not in the collection"):
        collection.remove([999])
    with pytest.raises(DataError, match=r"^the rows given: vectors of 3 dimensions"):
        collection.update(B[:, :3])
    assert given(run) == kept
    collection.update(rows, zero_vectors="singleton", bad_rows="drop")
    assert collection.labels[START + 4] == -1
    assert (collection.labels == collection.labels[START + 3]).sum() == 1
    found = collection.assign(rows, bad_rows="drop")
    assert (found.clusters[[3, 4]] == -1).all()
    assert (found.clusters[:3] >= 0).all()
    with pytest.raises(DataError, match="--bad-rows drop"):
        collection.assign(rows)


def test_memberships_name_a_rows_own_cluster_first(run: Path) -> None:
    collection = engine.open(run)
    collection.update(B)
    found = collection.memberships()
    alone = np.bincount(collection.labels)[collection.labels] == 1
    assert (found["nearest"][~alone, 0] == collection.labels[~alone]).mean() > 0.95
    assert (np.diff(found["probability"][:, :2], axis=1) <= 0).mean() > 0.95
    assert found["id"] == collection.row_ids
