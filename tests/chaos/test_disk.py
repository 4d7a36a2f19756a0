"""A full or read-only disk ends a run with an error that says what to do, and keeps what was committed."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import DiskBudgetExceeded
from engine.runs.events import read_events
from engine.units import CHUNK_ROWS
from tests.support.toy_stages import CrashingExecutor, make_toy_plan, run_toy

NUM_ROWS = 40 * CHUNK_ROWS
PLAN = make_toy_plan(NUM_ROWS, block_rows=CHUNK_ROWS)
NUM_TASKS = 40 + 40 + 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.5 MB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)], capture_output=True)
    if mount.returncode:
        pytest.skip("mounting a small tmpfs needs root: the simulated test stands in")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    root = small_disk / "run"
    first = CrashingExecutor()
    with pytest.raises(DiskBudgetExceeded, match=r"the disk is full while writing .*run the same command again"):
        run_toy(root, PLAN, first)
    committed = first.ran[:-1]
    assert 5 < len(committed) < NUM_TASKS
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    second = CrashingExecutor()
    run_toy(root, PLAN, second)
    assert len(second.ran) == NUM_TASKS - len(committed)
    assert not set(second.ran) & set(committed)
    events = [event["event"] for event in read_events(root)]
    assert events.count("run_started") == 2
    assert "damage_found" not in events


def test_a_read_only_disk(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DiskBudgetExceeded, match=r"cannot write .*run: Read-only file system; choose another --out"):
        run_toy(small_disk / "run", PLAN)


@pytest.mark.parametrize("full_after", [1, 4, 30])
def test_a_disk_that_says_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full_after: int) -> None:
    fsync, calls = os.fsync, iter(range(full_after))

    def fail_later(handle: int) -> None:
        if next(calls, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    first, second = CrashingExecutor(), CrashingExecutor()
    monkeypatch.setattr(os, "fsync", fail_later)
    with pytest.raises(DiskBudgetExceeded, match="the disk is full"):
        run_toy(tmp_path / "run", PLAN, first)
    monkeypatch.setattr(os, "fsync", fsync)
    run_toy(tmp_path / "run", PLAN, second)
    assert sorted(first.ran[:-1] + second.ran) == sorted(set(first.ran + second.ran))
    assert len(set(first.ran + second.ran)) == NUM_TASKS
