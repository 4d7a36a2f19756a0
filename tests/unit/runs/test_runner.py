"""Runs of toy stages: what is skipped, redone, kept, refused and retried."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.commands.status import not_needed, run_status
from engine.errors import DataError, ManifestMismatch, TaskFailed
from engine.runs.events import read_events
from engine.storage import manifest
from engine.storage.context import read_npy
from engine.storage.places import Place
from engine.units import CHUNK_ROWS
from tests.support.toy_stages import CrashingExecutor, Killed, Messages, make_steered_plan, make_toy_plan, run_toy

NUM_ROWS = 3 * CHUNK_ROWS + 5
ALL_TASKS = [
    *[("numbers", a, min(a + CHUNK_ROWS, NUM_ROWS)) for a in range(0, NUM_ROWS, CHUNK_ROWS)],
    *[("doubled", a, min(a + CHUNK_ROWS, NUM_ROWS)) for a in range(0, NUM_ROWS, CHUNK_ROWS)],
    ("total", 0, 1),
]


def toy(root: Path, executor: CrashingExecutor | None = None, source: str = "s", **plan: Any) -> CrashingExecutor:
    executor = executor or CrashingExecutor()
    plan = {"block_rows": CHUNK_ROWS} | plan
    run_toy(root, make_toy_plan(NUM_ROWS, source=source, **plan), executor, source=source)
    return executor


def total(root: Path) -> int:
    (folder,) = root.glob("total-*")
    return int(read_npy(folder, "total")[0])


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in root.rglob("*") if p.is_file()}


def kinds(root: Path) -> list[str]:
    return [event["event"] for event in read_events(root)]


def test_runs_everything_once(tmp_path: Path) -> None:
    assert toy(tmp_path / "run").ran == ALL_TASKS
    assert total(tmp_path / "run") == NUM_ROWS * (NUM_ROWS - 1)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["state"] == "finished"
    assert toy(tmp_path / "run").ran == []


@pytest.mark.parametrize("crash_after", [0, 2, 5, 8])
def test_resumes_with_what_was_not_committed(tmp_path: Path, crash_after: int) -> None:
    with pytest.raises(Killed):
        toy(tmp_path / "run", CrashingExecutor(crash_after))
    assert kinds(tmp_path / "run")[-1] == "run_failed"
    assert toy(tmp_path / "run").ran == ALL_TASKS[crash_after:]
    assert total(tmp_path / "run") == NUM_ROWS * (NUM_ROWS - 1)


def test_another_block_size_completes_what_is_committed(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        toy(tmp_path / "run", CrashingExecutor(1))
    ran = toy(tmp_path / "run", block_rows=2 * CHUNK_ROWS).ran
    assert ran[:2] == [("numbers", CHUNK_ROWS, 2 * CHUNK_ROWS), ("numbers", 2 * CHUNK_ROWS, NUM_ROWS)]
    assert total(tmp_path / "run") == NUM_ROWS * (NUM_ROWS - 1)
    assert toy(tmp_path / "run", block_rows=4 * CHUNK_ROWS).ran == []


def test_a_changed_setting_redoes_what_it_affects_and_keeps_the_old_until_the_new_is_there(tmp_path: Path) -> None:
    root = tmp_path / "run"
    toy(root)
    old = {path.name for path in root.glob("*-*")}
    with pytest.raises(Killed):
        toy(root, CrashingExecutor(2), setting=1)
    assert old <= {path.name for path in root.glob("*-*")}
    assert toy(root, setting=1).ran == [("doubled", 2 * CHUNK_ROWS, 3 * CHUNK_ROWS), *ALL_TASKS[7:]]
    new = {path.name for path in root.glob("*-*")}
    assert len(new) == 3
    assert new & old == {name for name in new if name.startswith("numbers-")}
    assert kinds(root).count("outputs_replaced") == 2
    assert toy(root).ran == ALL_TASKS[4:]


def damaged(root: Path, pattern: str, how: str) -> Path:
    (path,) = root.glob(pattern)
    data = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(data[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["flipped", "missing", "truncated", "empty"])
@pytest.mark.parametrize(
    ("pattern", "redone"),
    [
        ("numbers-*/values/c/1", [1]),
        ("doubled-*/values/c/3", [7]),
        ("numbers-*/values/zarr.json", [0]),
        ("doubled-*/records/000000004096-*.json", [5]),
        ("total-*/total.npy", [8]),
    ],
)
def test_damage_is_found_told_and_repaired(tmp_path: Path, pattern: str, redone: list[int], how: str) -> None:
    root = tmp_path / "run"
    toy(root)
    whole = {name: data for name, (data, _) in snapshot(root).items() if "/c/" in name or name.endswith(".npy")}
    path = damaged(root, pattern, how)
    messages, executor = Messages(), CrashingExecutor()
    run_toy(root, make_toy_plan(NUM_ROWS, block_rows=CHUNK_ROWS), executor, messages=messages)
    assert executor.ran == [ALL_TASKS[i] for i in redone]
    if "records" not in pattern or how != "missing":
        assert len(messages.texts) == 1
        assert str(path) in messages.texts[0]
        assert kinds(root).count("damage_found") == 1
    assert {name: data for name, (data, _) in snapshot(root).items() if name in whole} == whole
    assert toy(root).ran == []


@pytest.mark.parametrize("how", ["flipped", "missing", "truncated", "empty"])
def test_a_damaged_stage_description_is_written_again(tmp_path: Path, how: str) -> None:
    root = tmp_path / "run"
    toy(root)
    (path,) = root.glob("numbers-*/stage.json")
    text = path.read_text()
    damaged(root, "numbers-*/stage.json", how)
    assert toy(root).ran == []
    assert path.read_text() == text


@pytest.mark.parametrize("text", [None, "", "{", "{}"])
def test_a_lost_manifest_is_named_and_the_same_command_goes_on(tmp_path: Path, text: str | None) -> None:
    root = tmp_path / "run"
    toy(root)
    path = root / "run.json"
    path.unlink() if text is None else path.write_text(text)
    stale = root / "other-0123456789ab"
    stale.mkdir()
    with pytest.raises(DataError, match=r"run\.json"):
        manifest.read_run(root)
    messages = Messages()
    run_toy(root, make_toy_plan(NUM_ROWS, block_rows=CHUNK_ROWS), messages=messages)
    assert kinds(root).count("task_committed") == len(ALL_TASKS)
    assert "run.json was missing or damaged: it is written anew" in messages.texts[0]
    assert manifest.read_run(root)["state"] == "finished"
    assert stale.exists()  # whose it is was not known


@pytest.mark.parametrize("text", [None, "{"])
def test_a_lost_manifest_is_written_for_no_other_source_and_no_other_kind(tmp_path: Path, text: str | None) -> None:
    root = tmp_path / "run"
    toy(root)
    (root / "run.json").unlink()
    if text is not None:
        (root / "run.json").write_text(text)
    before = snapshot(root)
    for plan in (make_toy_plan(NUM_ROWS, source="t"), replace(make_toy_plan(NUM_ROWS), kind="training")):
        with pytest.raises((DataError, ManifestMismatch), match=r"run\.json: not valid|holds no run"):
            run_toy(root, plan, source="t")
        assert snapshot(root) == before


def test_another_source_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    toy(tmp_path / "run")
    before = snapshot(tmp_path / "run")
    with pytest.raises(ManifestMismatch, match=r"holds a run of another source \(s\.npy.* asked for t\.npy"):
        toy(tmp_path / "run", source="t")
    assert snapshot(tmp_path / "run") == before


def test_a_folder_of_something_else_is_refused_and_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"...")
    with pytest.raises(ManifestMismatch, match="is not empty and holds no run"):
        toy(tmp_path)
    with pytest.raises(ManifestMismatch, match="is a file"):
        toy(tmp_path / "photo.jpg")
    assert list(tmp_path.rglob("*")) == [tmp_path / "photo.jpg"]


def test_one_process_at_a_time(tmp_path: Path) -> None:
    toy(tmp_path / "run")
    before = snapshot(tmp_path / "run")
    with Place(tmp_path / "run").locked(), pytest.raises(DataError, match="another process is working on"):
        toy(tmp_path / "run", add=1)
    assert snapshot(tmp_path / "run") == before
    assert toy(tmp_path / "run", add=1).ran == ALL_TASKS


def test_a_flaky_disk_is_retried(tmp_path: Path) -> None:
    (tmp_path / "markers").mkdir()
    executor = toy(tmp_path / "run", first="falter", markers=str(tmp_path / "markers"))
    assert executor.ran == ALL_TASKS[:4] * 2 + ALL_TASKS[4:]
    failed = [event for event in read_events(tmp_path / "run") if event["event"] == "task_failed"]
    assert [event["start"] for event in failed] == [task[1] for task in ALL_TASKS[:4]]
    assert all("Input/output error" in event["error"] for event in failed)


def test_a_task_that_keeps_failing_ends_the_run_with_its_blocks_and_cause(tmp_path: Path) -> None:
    with pytest.raises(
        TaskFailed, match=r"stage numbers failed after 4 attempt.*No such file.*rows 0\.\.4096"
    ) as caught:
        toy(tmp_path / "run", first="falter", markers=str(tmp_path / "missing"))
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_a_bug_ends_the_run_at_once_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(TaskFailed, match=r"after 1 attempt[\s\S]*Unpicklable: 1 and 2[\s\S]*in break_down"):
        toy(tmp_path / "run", first="break_down")


def test_bad_data_ends_the_run_with_its_own_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^rows 0\.\.4096: no such column$"):
        toy(tmp_path / "run", first="refuse")


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    toy(tmp_path / "run")
    left = tmp_path / "run" / "numbers-000000000000" / ".c.77.tmp"
    left.parent.mkdir()
    left.touch()
    toy(tmp_path / "run")
    assert not left.exists()
    np.testing.assert_equal(total(tmp_path / "run"), NUM_ROWS * (NUM_ROWS - 1))


FEW_ROWS = 5
SUM = FEW_ROWS * (FEW_ROWS - 1) // 2


def steered(root: Path, passes: int, executor: CrashingExecutor | None = None) -> list[str]:
    """Run the steered plan with a target that so many passes reach; return the stages that ran, in order."""
    executor = executor or CrashingExecutor()
    run_toy(root, make_steered_plan(FEW_ROWS, SUM * 2**passes), executor)
    return list(dict.fromkeys(stage for stage, *_ in executor.ran))


def steered_total(root: Path) -> int:
    plan = manifest.read_run(root)["plan"]
    digest = next(stage["digest"] for stage in plan["stages"] if stage["name"] == "total")
    return int(read_npy(root / f"total-{digest[:12]}", "total")[0])


EVERY = ["pass_0"] + [f"{name}_{n + (name != 'check')}" for n in range(3) for name in ("check", "aside", "pass")]


@pytest.mark.parametrize("passes", [0, 1, 3])
def test_stages_are_left_out_once_a_check_says_enough(tmp_path: Path, passes: int) -> None:
    root, made = tmp_path / "run", min(passes, 3)
    needed = EVERY[: min(3 * made + 2, len(EVERY))]
    assert steered(root, passes) == [*needed, "total"]
    assert steered_total(root) == SUM * 2**made
    left_out = [event["stage"] for event in read_events(root) if event["event"] == "stage_not_needed"]
    assert left_out == EVERY[len(needed) :]
    assert not_needed(root, manifest.read_run(root)) == set(left_out)
    status = run_status(root)["stages"]
    assert [line["stage"] for line in status] == [*needed, "total"]
    assert all(line["rows_committed"] == line["rows"] for line in status)
    assert steered(root, passes) == []


def test_an_update_that_was_begun_is_told(tmp_path: Path) -> None:
    root = tmp_path / "run"
    steered(root, 0)
    told = run_status(root)["updates"]
    assert (told["last"], told["rows"], told["stages_deleted"], told["unfinished"]) == (0, None, False, None)
    held = manifest.read_run(root)
    source = {**held["request"]["source"], "path": "new.npy"}
    begun = {"state": "running", "request": {**held["request"], "source": source}}
    manifest.write_run(root / "updates" / "000001", {**held, **begun})
    told = run_status(root)["updates"]
    assert told["unfinished"] == {"update": 1, "state": "stopped", "by": "new.npy"}
    assert told["last"] == 0


def test_before_its_check_a_stage_may_be_needed(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        steered(tmp_path / "run", 0, CrashingExecutor(1))
    assert [line["stage"] for line in run_status(tmp_path / "run")["stages"]] == [*EVERY, "total"]


@pytest.mark.parametrize("crash_after", range(6))
def test_a_resumed_run_decides_as_an_undisturbed_one(tmp_path: Path, crash_after: int) -> None:
    root, first, second = tmp_path / "run", CrashingExecutor(crash_after), CrashingExecutor()
    with pytest.raises(Killed):
        steered(root, 1, first)
    steered(root, 1, second)
    assert [stage for stage, *_ in first.ran + second.ran] == [*EVERY[:5], "total"]
    assert {path.name.split("-")[0] for path in root.glob("*-*")} == {*EVERY[:5], "total"}
    assert steered_total(root) == 2 * SUM


def test_another_target_gives_what_a_fresh_run_gives(tmp_path: Path) -> None:
    root = tmp_path / "run"
    for passes in (1, 3, 0):
        steered(root, passes)
        assert steered_total(root) == SUM * 2**passes


def test_a_damaged_check_is_made_again_and_decides_the_same(tmp_path: Path) -> None:
    root = tmp_path / "run"
    steered(root, 1)
    damaged(root, "check_1-*/records/*.json", "flipped")
    assert steered(root, 1) == ["check_1"]
    assert steered_total(root) == 2 * SUM


def test_who_only_looks_whether_a_run_goes_on_keeps_no_one_out(tmp_path: Path) -> None:
    place = Place(tmp_path / "run")
    with place.locked():
        pass
    looking = open(tmp_path / "run" / "run.lock", "a+")  # noqa: SIM115
    fcntl.flock(looking, fcntl.LOCK_EX)
    threading.Timer(0.1, looking.close).start()
    with place.locked():
        assert place.is_running()
    assert not place.is_running()


def test_a_folder_that_another_run_took_meanwhile_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look at the folder and its lock another process may have made a run of another source there."""
    root, locked = tmp_path / "run", Place.locked

    @contextmanager
    def late(place: Place, **asked: Any) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(Place, "locked", locked)
            toy(root, source="another")
        before.update(snapshot(root))
        with locked(place, **asked):
            yield

    before: dict[str, tuple[bytes, int]] = {}
    monkeypatch.setattr(Place, "locked", late)
    executor = CrashingExecutor()
    with pytest.raises(ManifestMismatch, match="holds a run of another source"):
        toy(root, executor)
    assert executor.ran == []
    assert before
    assert snapshot(root) == before


def test_a_folder_with_a_link_is_refused_and_nothing_is_written_through_it(tmp_path: Path) -> None:
    root, outside = tmp_path / "run", tmp_path / "outside"
    toy(root)
    (folder,) = root.glob("doubled-*")
    folder.rename(outside)
    folder.symlink_to(outside)
    before = snapshot(outside)
    with pytest.raises(DataError, match=r"doubled-\w+: is a link to .*outside; a run's folder holds files"):
        toy(root, setting=1)
    assert snapshot(outside) == before


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/run.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"run\.lock: is no regular file"):
        toy(tmp_path / "run")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a folder away")
def test_a_folder_of_another_user_that_all_may_write_is_pointed_out(tmp_path: Path) -> None:
    root = tmp_path / "run"
    root.mkdir()
    messages = Messages()
    run_toy(root, make_toy_plan(NUM_ROWS), messages=messages)
    assert not any("everybody" in text for text in messages.texts)
    os.chown(root, 12_345, -1)
    root.chmod(0o777)
    run_toy(root, make_toy_plan(NUM_ROWS), messages=messages)
    assert "belongs to user 12345 and everybody may write into it" in messages.texts[-1]
