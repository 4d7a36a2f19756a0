from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest

from engine.process.memory import PeakMemory, free_bytes, return_unused, tree_bytes

SIZE = 64 << 20


def test_memory_of_this_process_and_its_children_is_counted() -> None:
    before = tree_bytes()
    held = np.ones(SIZE, np.uint8)
    assert SIZE * 0.9 < tree_bytes() - before < SIZE * 1.5
    del held
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=_hold, args=(ready,))
    child.start()
    assert ready.wait(60)
    assert tree_bytes() > tree_bytes(child.pid) > SIZE
    child.kill()
    child.join()
    assert tree_bytes(child.pid) == 0


def test_file_mapped_pages_do_not_count(tmp_path: os.PathLike[str]) -> None:
    path = os.path.join(tmp_path, "array.npy")
    np.save(path, np.ones(SIZE, np.uint8))
    before = tree_bytes()
    mapped = np.load(path, mmap_mode="r")
    assert int(mapped.sum()) == SIZE
    assert tree_bytes() - before < SIZE // 4


def test_peak_is_seen_between_samples_and_starts_again() -> None:
    with PeakMemory(interval_s=0.01) as memory:
        memory.reset()
        before = memory.peak_bytes
        held = np.ones(SIZE, np.uint8)
        deadline = time.monotonic() + 30
        while memory.peak_bytes - before < SIZE * 0.9 and time.monotonic() < deadline:
            time.sleep(0.01)
        del held
        assert memory.take() - before > SIZE * 0.9
        assert memory.take() - before < SIZE // 2


def test_return_unused_may_always_be_called() -> None:
    return_unused()


def test_free_bytes_respects_the_system() -> None:
    assert 0 < free_bytes() < 1 << 50


V1, V2 = "sys/fs/cgroup/memory", "sys/fs/cgroup"
V1_NONE = "9223372036854771712"
GROUPS = {  # files of a made-up system, and what its groups leave
    "none": ({}, None),
    "no limit": ({f"{V2}/memory.max": "max", f"{V2}/memory.current": "5"}, None),
    "a limit": ({f"{V2}/memory.max": "1000", f"{V2}/memory.current": "400"}, 600),
    "more than the limit": ({f"{V2}/memory.max": "1000", f"{V2}/memory.current": "1400"}, 0),
    "where it is slowed down": (
        {f"{V2}/memory.max": "1000", f"{V2}/memory.high": "900", f"{V2}/memory.current": "400"}, 500
    ),
    "a warm cache of files": (
        {f"{V2}/memory.max": "1000", f"{V2}/memory.current": "990",
         f"{V2}/memory.stat": "anon 90\nfile 900\ninactive_file 500\nactive_file 300\nshmem 100\n"}, 810
    ),
    "nested": (
        {"proc/self/cgroup": "0::/a/b/c\n", f"{V2}/a/memory.max": "1000", f"{V2}/a/memory.current": "700",
         f"{V2}/a/b/memory.max": "max", f"{V2}/a/b/memory.current": "600",
         f"{V2}/a/b/c/memory.max": "900", f"{V2}/a/b/c/memory.current": "100"}, 300
    ),
    "nested, its own the least": (
        {"proc/self/cgroup": "0::/a/b\n", f"{V2}/a/memory.max": "1000", f"{V2}/a/memory.current": "100",
         f"{V2}/a/b/memory.max": "200", f"{V2}/a/b/memory.current": "100"}, 100
    ),
    "another's": ({"proc/self/cgroup": "0::/a\n", f"{V2}/b/memory.max": "1", f"{V2}/b/memory.current": "1"}, None),
    "version 1": (
        {"proc/self/cgroup": "5:cpu,cpuacct:/x\n4:memory:/x/y\n0::/\n", f"{V1}/memory.limit_in_bytes": V1_NONE,
         f"{V1}/memory.usage_in_bytes": "5000", f"{V1}/x/memory.limit_in_bytes": "1000",
         f"{V1}/x/memory.usage_in_bytes": "900", f"{V1}/x/y/memory.limit_in_bytes": V1_NONE,
         f"{V1}/x/y/memory.usage_in_bytes": "900",
         f"{V1}/x/memory.stat": "inactive_file 1\ntotal_inactive_file 200\ntotal_active_file 100\n"}, 400
    ),
    "version 1, seen from within": (
        {"proc/self/cgroup": "4:memory:/docker/0123\n", f"{V1}/memory.limit_in_bytes": "1000",
         f"{V1}/memory.usage_in_bytes": "300"}, 700
    ),
    "no list of groups": ({f"{V2}/memory.max": "1000", f"{V2}/memory.current": "1"}, 999),
    "junk": (
        {"proc/self/cgroup": "\n:::\n0\n4:memory\nx:memory:/..\n0::/a\n", f"{V2}/memory.max": "-1",
         f"{V2}/memory.current": "x", f"{V2}/a/memory.max": "1000", f"{V2}/a/memory.current": "400",
         f"{V2}/a/memory.stat": "inactive_file\ninactive_file x\n\n", f"{V2}/a/memory.high": "9" * 5000}, 600
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", GROUPS)
def test_the_limits_of_all_groups_around_a_process_hold(name: str, tmp_path: Path) -> None:
    files, left = GROUPS[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    if left is None:
        assert free_bytes(tmp_path) > 1 << 20
    else:
        assert free_bytes(tmp_path) == left


def test_a_group_that_cannot_be_read_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / f"{V2}/memory.max").mkdir(parents=True)
    (tmp_path / f"{V2}/memory.current").write_bytes(b"\xff\xfe")
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_bytes(b"\xff")
    assert free_bytes(tmp_path) > 1 << 20


def _hold(ready: object) -> None:
    held = np.ones(SIZE, np.uint8)
    ready.set()  # type: ignore[attr-defined]
    time.sleep(60)
    assert held is not None


@pytest.fixture(autouse=True)
def quiet_heap() -> None:
    return_unused()
