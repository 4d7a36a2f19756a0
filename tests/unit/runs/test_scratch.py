"""Scratch outputs: gone once read by all, made again when needed again, and never missed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.commands.status import run_status
from engine.runs.events import read_events
from engine.runs.plan import Plan, make_plan, peak_disk_bytes
from engine.runs.scratch import is_consumed
from engine.stages import Cost, Stage
from engine.storage import manifest
from engine.storage.context import read_npy
from engine.storage.owned import MARK
from engine.units import CHUNK_ROWS
from tests.support.toy_stages import CrashingExecutor, Killed, make_steered_plan, make_toy_plan, run_toy

NUM_ROWS = 2 * CHUNK_ROWS + 5
TOTAL = NUM_ROWS * (NUM_ROWS - 1)


def with_scratch(plan: Plan, *names: str) -> Plan:
    return replace(plan, stages=tuple(replace(s, scratch=s.name in names) for s in plan.stages))


def toy_plan(setting: int = 0) -> Plan:
    return with_scratch(make_toy_plan(NUM_ROWS, setting=setting, block_rows=CHUNK_ROWS), "numbers", "doubled")


def run(root: Path, plan: Plan, crash_after: int | None = None) -> list[str]:
    executor = CrashingExecutor(crash_after)
    try:
        run_toy(root, plan, executor)
    finally:
        ran = [stage for stage, _, _ in executor.ran]
    return ran


def total(root: Path) -> int:
    (folder,) = root.glob("total-*")
    return int(read_npy(folder, "total")[0])


def test_outputs_go_once_read_and_the_stages_count_as_done(tmp_path: Path) -> None:
    root = tmp_path / "run"
    assert run(root, toy_plan()) == ["numbers"] * 3 + ["doubled"] * 3 + ["total"]
    for name in ("numbers", "doubled"):
        (folder,) = root.glob(f"{name}-*")
        assert is_consumed(folder)
        assert not list(folder.glob("values/**/*"))
    assert [event["stage"] for event in read_events(root) if event["event"] == "outputs_consumed"] == [
        "numbers", "doubled",
    ]  # fmt: skip
    assert all(stage["rows_committed"] == stage["rows"] for stage in run_status(root)["stages"])
    assert run(root, toy_plan()) == []
    assert total(root) == TOTAL


@pytest.mark.parametrize("crash_after", range(7))
def test_killed_anywhere_it_does_nothing_twice(tmp_path: Path, crash_after: int) -> None:
    root = tmp_path / "run"
    executor = CrashingExecutor(crash_after)
    with pytest.raises(Killed):
        run_toy(root, toy_plan(), executor)
    assert len(executor.ran) + len(run(root, toy_plan())) == 7
    assert total(root) == TOTAL


def test_what_is_needed_again_is_made_again_and_nothing_else(tmp_path: Path) -> None:
    root = tmp_path / "run"
    run(root, toy_plan())
    assert run(root, toy_plan(setting=1)) == ["numbers"] * 3 + ["doubled"] * 3 + ["total"]
    (folder,) = root.glob("total-*")
    (folder / "total.npy").write_bytes(b"")  # damage: what it was made from is gone too
    assert run(root, toy_plan(setting=1)) == ["numbers"] * 3 + ["doubled"] * 3 + ["total"]
    assert total(root) == TOTAL


def test_a_mark_left_by_a_killed_removal_is_enough(tmp_path: Path) -> None:
    root = tmp_path / "run"
    with pytest.raises(Killed):
        run_toy(root, toy_plan(), CrashingExecutor(6))
    (folder,) = root.glob("doubled-*")
    manifest.write_owned(folder / "consumed.json", MARK, {})  # marked, and killed before the files went
    assert run(root, toy_plan()) == ["numbers"] * 3 + ["doubled"] * 3 + ["total"]
    assert total(root) == TOTAL


@pytest.mark.parametrize(("at_least", "passes"), [(0, 0), (2 * TOTAL, 2), (10**15, 3)])
def test_what_stands_for_a_pass_that_is_not_needed_stays(tmp_path: Path, at_least: int, passes: int) -> None:
    plan = make_steered_plan(NUM_ROWS, at_least)
    plan = with_scratch(plan, *(f"{name}_{number}" for name in ("pass", "aside") for number in range(4)))
    root = tmp_path / "run"
    run(root, plan)
    assert total(root) == TOTAL // 2 * 2**passes
    assert run(root, plan) == []
    consumed = {path.name.rsplit("-", 1)[0] for path in root.glob("*-*") if is_consumed(path)}
    assert {f"pass_{number}" for number in range(passes + 1)} <= consumed
    (folder,) = root.glob("total-*")
    (folder / "total.npy").unlink()
    run(root, plan)
    assert total(root) == TOTAL // 2 * 2**passes


def test_disk_is_that_of_what_is_held_at_a_time() -> None:
    stages = [
        Stage("a", "tests.support.toy_stages:count_up", 1, {}, {}, 1, Cost(disk_bytes=100), granule=1, scratch=True),
        Stage("b", "tests.support.toy_stages:double", 1, {}, {"before": "a"}, 1, Cost(disk_bytes=10), granule=1),
        Stage("c", "tests.support.toy_stages:double", 1, {}, {"before": "b"}, 1, Cost(disk_bytes=50), granule=1),
    ]  # fmt: skip
    plan = make_plan("run", stages, source_digest="s", memory_bytes=8 << 30, free_disk_bytes=1 << 40)
    record = stages[0].disk_bytes - 100
    assert plan.disk_bytes == peak_disk_bytes(stages) == 110 + 2 * record
    kept = [replace(stage, scratch=False) for stage in stages]
    assert peak_disk_bytes(kept) == 160 + 3 * record
    assert np.all([stage.disk_bytes for stage in stages])
