"""What every executor keeps. A new one inherits ``ExecutorContract`` and gives the fixture ``executor``."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from engine.errors import DataError, TaskFailed
from engine.executors.local import LocalExecutor
from engine.executors.protocol import Executor, Outcome
from engine.installation import install_hint
from engine.storage.arrays import map_array
from engine.storage.manifest import read_records
from engine.units import CHUNK_ROWS
from tests.support.ray_cluster import RAY_CPUS
from tests.support.toy_stages import make_calls

NUM_ROWS = 4 * CHUNK_ROWS + 100
STARTS = list(range(0, NUM_ROWS, CHUNK_ROWS))


def starts(outcomes: list[Outcome]) -> list[int]:
    return sorted(outcome.call.start for outcome in outcomes)


def is_gone(process: int) -> bool:
    for _ in range(100):
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.1)
    return False


class ExecutorContract:
    """The suite."""

    def test_runs_every_call_once_and_hands_back_its_record(self, executor: Executor, tmp_path: Path) -> None:
        outcomes = list(executor.run(make_calls(tmp_path, "count_up", NUM_ROWS)))
        assert starts(outcomes) == STARTS
        assert all(outcome.error is None for outcome in outcomes)
        assert sorted((o.record for o in outcomes), key=lambda r: r.start) == read_records(tmp_path, "d" * 32)
        np.testing.assert_array_equal(map_array(tmp_path, "values"), np.arange(NUM_ROWS))

    def test_no_calls_no_outcomes(self, executor: Executor) -> None:
        assert list(executor.run([])) == []

    def test_bad_data_comes_back_as_the_error_it_was_and_is_not_retried(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        outcomes = list(executor.run(make_calls(tmp_path, "refuse", NUM_ROWS)))
        assert starts(outcomes) == STARTS
        for outcome in outcomes:
            assert type(outcome.error) is DataError
            assert str(outcome.error) == f"rows {outcome.call.start}..{outcome.call.stop}: no such column"
            assert isinstance(outcome.error.__cause__, KeyError)
            assert "toy_stages.py" in outcome.details
            assert not outcome.retry
            assert outcome.record is None
        assert read_records(tmp_path, "d" * 32) == []

    def test_a_bug_is_not_retried_and_says_what_it_was(self, executor: Executor, tmp_path: Path) -> None:
        (outcome,) = executor.run(make_calls(tmp_path, "break_down", 10))
        assert not outcome.retry
        assert "1 and 2" in str(outcome.error)
        assert "Unpicklable" in outcome.details

    def test_a_flaky_disk_is_worth_another_attempt(self, executor: Executor, tmp_path: Path) -> None:
        (tmp_path / "markers").mkdir()
        calls = make_calls(tmp_path / "stage", "falter", NUM_ROWS, markers=str(tmp_path / "markers"))
        first = list(executor.run(calls))
        assert starts(first) == STARTS
        assert all(outcome.retry and isinstance(outcome.error, OSError) for outcome in first)
        assert all(outcome.record for outcome in executor.run([outcome.call for outcome in first]))

    def test_runs_no_more_at_a_time_than_it_has_workers(self, executor: Executor, tmp_path: Path) -> None:
        (tmp_path / "room").mkdir()
        outcomes = list(
            executor.run(make_calls(tmp_path / "stage", "crowd", 2 * NUM_ROWS, room=str(tmp_path / "room")))
        )
        present = [outcome.record.facts["present"] for outcome in outcomes if outcome.record]
        assert len(present) == len(outcomes)
        assert max(present) <= executor.workers

    def test_starts_nothing_more_once_the_caller_stops(self, executor: Executor, tmp_path: Path) -> None:
        outcomes = iter(executor.run(make_calls(tmp_path, "count_up", 20 * CHUNK_ROWS)))
        next(outcomes)
        outcomes.close()  # type: ignore[attr-defined]
        assert len(read_records(tmp_path, "d" * 32)) <= 1 + 2 * executor.workers
        assert len(list(executor.run(make_calls(tmp_path, "count_up", NUM_ROWS)))) == len(STARTS)

    def test_a_run_left_open_does_not_disturb_the_next(self, executor: Executor, tmp_path: Path) -> None:
        left = iter(executor.run(make_calls(tmp_path / "left", "count_up", 20 * CHUNK_ROWS)))
        next(left)
        outcomes = iter(executor.run(make_calls(tmp_path / "next", "count_up", NUM_ROWS)))
        found = [next(outcomes)]
        del left
        found += outcomes
        assert starts(found) == STARTS
        assert all(outcome.record for outcome in found)

    def test_a_task_has_companions_that_exchange_messages(self, executor: Executor, tmp_path: Path) -> None:
        (outcome,) = executor.run(make_calls(tmp_path, "consult", 10))
        assert outcome.record, outcome.details
        facts = outcome.record.facts
        for count in (1, 2):
            expected = [[[giver, taker] for giver in range(count)] for taker in range(count)]
            assert facts["taken"][count] == expected
        assert facts["sum"] == 10 + 11
        assert facts["refusal"] == ["DataError", "clerk 0: no such column"]
        for process in set(facts["processes"]) - {os.getpid()}:
            assert is_gone(process)

    def test_closes_twice_and_unused(self, executor: Executor, tmp_path: Path) -> None:
        list(executor.run(make_calls(tmp_path, "count_up", 10)))
        executor.close()
        executor.close()


class TestLocal(ExecutorContract):
    @pytest.fixture
    def executor(self) -> Iterator[Executor]:
        executor = LocalExecutor()
        yield executor
        executor.close()


@pytest.mark.ray
class OnRay:
    workers = 2

    @pytest.fixture(scope="class")
    def executor(self, ray_session: None) -> Iterator[Executor]:
        from engine.executors.ray import RayExecutor

        executor = RayExecutor(workers=self.workers, threads=1)
        yield executor
        executor.close()


class TestRay(OnRay, ExecutorContract):
    def test_a_killed_worker_is_replaced_and_its_task_runs_again(self, executor: Executor, tmp_path: Path) -> None:
        (tmp_path / "markers").mkdir()
        calls = make_calls(tmp_path / "stage", "die", 2 * CHUNK_ROWS, markers=str(tmp_path / "markers"))
        first = list(executor.run(calls))
        assert starts(first) == [0, CHUNK_ROWS]
        assert all(outcome.retry and outcome.record is None for outcome in first)
        second = list(executor.run([outcome.call for outcome in first]))
        assert all(outcome.record for outcome in second)
        np.testing.assert_array_equal(map_array(tmp_path / "stage", "values"), np.arange(2 * CHUNK_ROWS))

    def test_a_worker_killed_from_outside_is_replaced(self, executor: Executor, tmp_path: Path) -> None:
        import ray

        list(executor.run(make_calls(tmp_path, "count_up", NUM_ROWS)))
        for slot in executor._slots:  # type: ignore[attr-defined]
            ray.kill(slot.actor, no_restart=False)
        outcomes = list(executor.run(make_calls(tmp_path, "count_up", NUM_ROWS)))
        again = list(executor.run([outcome.call for outcome in outcomes if outcome.retry]))
        assert starts([outcome for outcome in [*outcomes, *again] if outcome.record]) == STARTS

    def test_close_leaves_a_ray_it_did_not_start(self, ray_session: None, tmp_path: Path) -> None:
        import ray

        from engine.executors.ray import RayExecutor

        executor = RayExecutor(workers=1, threads=1)
        assert all(outcome.record for outcome in executor.run(make_calls(tmp_path, "count_up", 10)))
        executor.close()
        assert ray.is_initialized()

    def test_refuses_one_gpu_by_number(self, ray_session: None) -> None:
        from engine.executors.ray import RayExecutor

        with pytest.raises(ValueError, match=r"--device cuda:1 .* CUDA_VISIBLE_DEVICES"):
            RayExecutor(workers=1, threads=1, device="cuda:1")


class TestRayOfAnySize(OnRay):
    """Workers left to the cluster; what is the same for any number of them ``TestRay`` keeps."""

    workers = 0

    def test_it_fills_what_is_there(self, executor: Executor, tmp_path: Path) -> None:
        (tmp_path / "room").mkdir()
        calls = make_calls(tmp_path / "stage", "crowd", 40 * CHUNK_ROWS, room=str(tmp_path / "room"), places=RAY_CPUS)
        outcomes = list(executor.run(calls))
        assert len({outcome.pid for outcome in outcomes}) == RAY_CPUS
        assert all(10 << 20 < outcome.peak_bytes < 2 << 30 for outcome in outcomes)
        assert max(outcome.record.facts["present"] for outcome in outcomes if outcome.record) == RAY_CPUS

    def test_tasks_that_need_more_memory_get_workers_that_asked_for_it(
        self, executor: Executor, tmp_path: Path
    ) -> None:
        held: list[set[int]] = []
        for number, memory_bytes in enumerate((1 << 30, 2 << 30, 1 << 30)):
            calls = make_calls(tmp_path / str(number), "count_up", 8 * CHUNK_ROWS)
            outcomes = list(executor.run([replace(call, memory_bytes=memory_bytes) for call in calls]))
            held.append({outcome.pid for outcome in outcomes})
            assert all(slot.size.memory_bytes >= memory_bytes for slot in executor._slots)  # type: ignore[attr-defined]
        assert not held[0] & held[1]
        assert held[1] & held[2], "workers that are large enough are kept"

    @pytest.mark.parametrize("asked", [{"threads": 999}, {"threads": 1, "custom": {"moon": 1.0}}])
    def test_what_no_host_holds_ends_in_an_error_that_says_what_there_is(
        self, ray_session: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: dict[str, Any]
    ) -> None:
        from engine.executors.ray import RayExecutor
        from engine.executors.ray import executor as module

        monkeypatch.setattr(module, "POLL_S", 0.05)
        monkeypatch.setattr(module, "START_TIMEOUT_S", 0.3)
        executor = RayExecutor(workers=0, **asked)
        with pytest.raises(TaskFailed, match=rf"no Ray worker of .*1 host\(s\) of {RAY_CPUS} CPUs, 0 GPUs"):
            list(executor.run(make_calls(tmp_path, "count_up", 10)))
        executor.close()


def test_without_ray_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['ray'] = None\nimport engine.executors.ray"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "DependencyMissing" in ran.stderr
    assert install_hint("ray") in ran.stderr
