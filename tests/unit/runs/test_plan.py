from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import DiskBudgetExceeded, MemoryBudgetExceeded
from engine.runs.plan import Plan, largest_fitting, make_plan, pending_ranges
from engine.stages import BASELINE_BYTES, Cost, Stage
from engine.units import CHUNK_ROWS, human_bytes

NUM_ROWS = 100 * CHUNK_ROWS - 7


def stages(params: dict[str, Any] | None = None, cost: Cost | None = None, version: int = 1) -> list[Stage]:
    cost = cost or Cost()
    return [
        Stage("a", "m:a", 1, {}, {}, NUM_ROWS, cost),
        Stage("b", "m:b", version, params or {}, {"first": "a"}, NUM_ROWS, cost),
        Stage("c", "m:c", 1, {}, {"before": "b"}, 1, Cost(), granule=1),
        Stage("side", "m:side", 1, {}, {"first": "a"}, 1, Cost(), granule=1),
    ]


def plan(made: list[Stage], **changes: Any) -> Plan:
    limits = {"source_digest": "s", "memory_bytes": 8 << 30, "free_disk_bytes": 1 << 40} | changes
    return make_plan("run", made, **limits)


def digests(made: Plan) -> dict[str, str]:
    return {stage.name: stage.digest for stage in made.stages}


def changed(one: Plan, other: Plan) -> set[str]:
    return {name for name, digest in digests(one).items() if digests(other)[name] != digest}


def test_a_changed_setting_changes_the_fingerprints_downstream_only() -> None:
    assert changed(plan(stages()), plan(stages())) == set()
    assert changed(plan(stages()), plan(stages({"k": 3}))) == {"b", "c"}
    assert changed(plan(stages()), plan(stages(version=2))) == {"b", "c"}
    assert changed(plan(stages()), plan(stages(), source_digest="t")) == {"a", "b", "c", "side"}


def test_memory_workers_and_blocks_change_no_fingerprint() -> None:
    cost = Cost(bytes_per_row=10_000, seconds=1e3)
    one = plan(stages(cost=cost))
    assert changed(one, plan(stages(cost=cost), memory_bytes=2 << 30, workers=2)) == set()
    assert changed(one, plan(stages(cost=Cost()), block_rows=CHUNK_ROWS)) == set()


@given(st.integers(1, 200_000), st.integers(0, 50_000), st.integers(1, 4))
def test_blocks_fit_memory_and_are_whole_chunks(asked: int, bytes_per_row: int, workers: int) -> None:
    memory = workers * (BASELINE_BYTES + (1 << 30))
    made = plan(stages(cost=Cost(bytes_per_row=bytes_per_row)), memory_bytes=memory, block_rows=asked, workers=workers)
    block = made.stage("a").block_rows
    assert block % CHUNK_ROWS == 0
    assert made.memory_bytes <= memory // workers
    if bytes_per_row == 0:
        assert block == min(-(-asked // CHUNK_ROWS), 100) * CHUNK_ROWS
    assert made.stage("c").block_rows == 1


def test_too_little_memory_is_refused_with_the_worst_stage_and_what_would_do() -> None:
    cost = Cost(fixed_bytes=1 << 30, bytes_per_row=1 << 10)
    with pytest.raises(MemoryBudgetExceeded, match=r"stage a needs .* GB at its smallest block \(4,096 rows\)"):
        plan(stages(cost=cost), memory_bytes=1 << 30)
    needed = BASELINE_BYTES + (1 << 30) + CHUNK_ROWS * (1 << 10)
    plan(stages(cost=cost), memory_bytes=needed)
    with pytest.raises(MemoryBudgetExceeded, match=r"for each of 2 workers") as refused:
        plan(stages(cost=cost), memory_bytes=needed, workers=2)
    plan(stages(cost=cost), memory_bytes=advised(refused, r"at least (\d+)MB") * 10**6, workers=2)
    plan(stages(cost=cost), memory_bytes=needed, workers=advised(refused, r"--workers (\d+)"))
    assert "--threads" not in str(refused.value)


@given(st.integers(0, 1 << 28), st.integers(1, 1 << 27), st.integers(2, 64), st.integers(1, 3))
def test_the_threads_and_memory_that_are_advised_fit_and_more_threads_do_not(
    fixed: int, each: int, threads: int, workers: int
) -> None:
    made = stages(cost=Cost(fixed_bytes=fixed, bytes_per_thread=each, bytes_per_row=100))
    memory = workers * (BASELINE_BYTES + (1 << 28))
    try:
        plan(made, memory_bytes=memory, threads=threads, workers=workers)
    except MemoryBudgetExceeded as error:
        enough = int(re.findall(r"at least (\d+)MB", str(error))[0]) * 10**6
        plan(made, memory_bytes=enough, threads=threads, workers=workers)
        with pytest.raises(MemoryBudgetExceeded):
            plan(made, memory_bytes=enough - workers * 2 * 10**6, threads=threads, workers=workers)
        fewer = [int(found) for found in re.findall(r"--threads (\d+)", str(error))]
        for count in fewer or [0]:
            assert count < threads
            with pytest.raises(MemoryBudgetExceeded):
                plan(made, memory_bytes=memory, threads=count + 1, workers=workers)
        for count in fewer:
            plan(made, memory_bytes=memory, threads=count, workers=workers)


@given(st.integers(0, 100), st.integers(1, 100))
def test_the_largest_that_fits_is_found(limit: int, below: int) -> None:
    assert largest_fitting(lambda number: number <= limit, below) == min(limit, below - 1)


def test_disk_counts_whole_chunks_and_long_beginnings_make_longer_tasks() -> None:
    stage = plan(stages(cost=Cost(disk_bytes=4 * NUM_ROWS))).stage("a")
    assert 4 * 100 * CHUNK_ROWS <= stage.disk_bytes < 4 * 100 * CHUNK_ROWS + (1 << 18)
    short, long = (plan(stages(cost=Cost(seconds=1e3, seconds_per_task=begin))).stage("a") for begin in (0.0, 100.0))
    assert long.block_rows > 4 * short.block_rows
    assert long.seconds({"memory": 2.0}) == pytest.approx((1e3 + 100 * long.num_tasks()) / 2)


def advised(refused: pytest.ExceptionInfo[Exception], pattern: str) -> int:
    return int(re.findall(pattern, str(refused.value))[0])


def test_too_little_disk_is_refused() -> None:
    with pytest.raises(DiskBudgetExceeded, match=r"needs about 2 GB of disk, 1\.5 GB are free"):
        plan(stages(cost=Cost(disk_bytes=10**9)), free_disk_bytes=1_500_000_000)


@given(st.integers(1, 50 * CHUNK_ROWS), st.integers(1, 60), st.sets(st.tuples(st.integers(0, 49), st.integers(1, 50))))
def test_pending_ranges_cover_the_rest_once_in_blocks(num_rows: int, block: int, chunks: set[tuple[int, int]]) -> None:
    stage = Stage("a", "m:a", 1, {}, {}, num_rows, Cost(), block_rows=block * CHUNK_ROWS)
    committed = [
        (a * CHUNK_ROWS, min(b * CHUNK_ROWS, num_rows)) for a, b in chunks if a < b and a * CHUNK_ROWS < num_rows
    ]
    tasks = pending_ranges(stage, committed)
    done = {row for start, stop in committed for row in range(start, stop, CHUNK_ROWS)}
    rows = [row for task in tasks for row in range(task.start, task.stop, CHUNK_ROWS)]
    assert sorted(rows) == sorted(set(range(0, num_rows, CHUNK_ROWS)) - done)
    for task in tasks:
        assert task.start // stage.block_rows == (task.stop - 1) // stage.block_rows
        assert task.start % CHUNK_ROWS == 0


def test_human_bytes() -> None:
    assert [human_bytes(n) for n in (0, 999, 1_500, 2_340_000_000, 7e15)] == [
        "0 B", "999 B", "1.5 kB", "2.34 GB", "7e+03 TB",
    ]  # fmt: skip
