"""What a run cost beyond its work, counted from its events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from engine.commands.status import run_status
from engine.errors import TaskFailed
from engine.executors.local import LocalExecutor
from engine.executors.protocol import Outcome
from engine.runs import attempts
from engine.runs.effort import run_effort
from engine.runs.events import read_events
from engine.storage.context import TaskCall
from engine.units import CHUNK_ROWS
from tests.support.toy_stages import CrashingExecutor, Killed, make_toy_plan, run_toy

PLAN = make_toy_plan(4 * CHUNK_ROWS, block_rows=CHUNK_ROWS)


class LosingExecutor(LocalExecutor):
    """Loses the worker of every call ``times`` times; ``after`` says whether its task was committed by then."""

    name = "ray"

    def __init__(self, times: int, after: bool) -> None:
        self.ran: list[tuple[str, int]] = []
        self._left: dict[tuple[str, int], int] = {}
        self._times, self._after = times, after

    def run(self, calls: Sequence[TaskCall]) -> Iterator[Outcome]:
        for call in calls:
            key = (call.stage, call.start)
            left = self._left.setdefault(key, self._times)
            if not left or self._after:
                self.ran.append(key)
                (outcome,) = super().run([call])
            if left:
                self._left[key] -= 1
                yield Outcome(call, error=OSError("gone"), retry=True, lost=True, lost_s=0.5, host="far", pid=7)
            else:
                yield outcome


@pytest.mark.parametrize("after", [False, True])
def test_lost_workers_cost_attempts_but_no_committed_task_runs_again(tmp_path: Path, after: bool) -> None:
    executor = LosingExecutor(6, after)
    run_toy(tmp_path / "run", PLAN, executor)
    assert len(executor.ran) == len(set(executor.ran)) == 9
    effort = run_effort(tmp_path / "run")
    losses = 9 * (1 if after else 6)
    assert (effort.starts, effort.executor, effort.tasks) == (1, "ray", 9)
    assert (effort.retries, effort.lost, effort.lost_s) == (losses, losses, losses * 0.5)
    assert str(effort).startswith("9 tasks on one host: ")
    assert all(
        event["pid"] and event["host"] for event in read_events(tmp_path / "run") if event["event"] == "task_committed"
    )


def test_a_task_that_takes_every_worker_with_it_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(TaskFailed, match=rf"stage numbers failed after {attempts.LOST_ATTEMPTS} attempt.*gone"):
        run_toy(tmp_path / "run", PLAN, LosingExecutor(99, after=False))


def test_starts_are_counted_and_status_tells(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run_toy(tmp_path / "run", PLAN, CrashingExecutor(3))
    assert run_status(tmp_path / "run")["effort"]["tasks"] == 3
    run_toy(tmp_path / "run", PLAN, CrashingExecutor())
    effort = run_effort(tmp_path / "run")
    assert (effort.starts, effort.executor, effort.tasks, effort.retries) == (2, "local", 9, 0)
