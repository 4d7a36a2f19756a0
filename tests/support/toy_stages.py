"""Stages of a few lines for tests of the machinery, resolved by name: ``"tests.support.toy_stages:double"``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.executors.local import LocalExecutor
from engine.executors.protocol import Executor, Outcome
from engine.partitions.components import Components, ForestRange
from engine.runs.plan import Plan, make_plan
from engine.runs.progress import Quiet
from engine.runs.runner import Workshop, run_plan
from engine.runs.step import Task, where
from engine.stages import Cost, Stage
from engine.steps.source import Source
from engine.storage.companions import Companions, exchange, resolve
from engine.storage.context import TaskCall, TaskContext
from engine.storage.places import Place
from engine.units import CHUNK_ROWS

Facts = dict[str, Any]


def count_up(task: TaskContext, start: int, stop: int) -> Facts:
    """Write ``values`` = row number + the parameter ``add``."""
    values = np.arange(start, stop, dtype=np.int64) + task.params.get("add", 0)
    task.write_rows("values", values, np.int64)
    return {"sum": int(values.sum())}


def double(task: TaskContext, start: int, stop: int) -> Facts:
    """Write ``values`` = twice the values of the stage ``before``."""
    task.write_rows("values", 2 * task.array("before", "values")[start:stop], np.int64)
    return {}


def total(task: TaskContext, start: int, stop: int) -> Facts:
    """Write ``total.npy``, the sum of the values of the stage ``before``."""
    task.write_npy("total", np.array([task.array("before", "values").sum()]))
    return {}


def judge(task: TaskContext, start: int, stop: int) -> Facts:
    """Tell whether the sum of the values of the stage ``before`` is ``enough``."""
    return {"enough": int(task.array("before", "values").sum()) >= task.params["at_least"]}


def refuse(task: TaskContext, start: int, stop: int) -> Facts:
    """Fail as bad input data does, with a cause."""
    try:
        raise KeyError("column")
    except KeyError as error:
        raise DataError(f"rows {start}..{stop}: no such column") from error


class Unpicklable(Exception):
    """An error that cannot be made again from its arguments."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


def break_down(task: TaskContext, start: int, stop: int) -> Facts:
    """Fail as a bug does, with an error that does not survive pickling."""
    raise Unpicklable(1, 2)


def falter(task: TaskContext, start: int, stop: int) -> Facts:
    """Fail on the first attempt as a flaky disk does."""
    if _first_attempt(task):
        raise OSError(5, "Input/output error")
    return count_up(task, start, stop)


def die(task: TaskContext, start: int, stop: int) -> Facts:
    """Kill the worker on the first attempt, after writing outputs and before the commit."""
    facts = count_up(task, start, stop)
    if _first_attempt(task):
        os.kill(os.getpid(), signal.SIGKILL)
    return facts


def crowd(task: TaskContext, start: int, stop: int) -> Facts:
    """Count the tasks that run at the same time as this one; for two seconds it waits for as many as ``places``."""
    room = Path(task.where["room"])
    mine = room / str(start)
    mine.touch()
    time.sleep(0.1)
    present, deadline = len(list(room.iterdir())), time.monotonic() + 2
    while present < task.where.get("places", 0) and time.monotonic() < deadline:
        time.sleep(0.02)
        present = len(list(room.iterdir()))
    mine.unlink()
    return {"present": present} | count_up(task, start, stop)


class Clerk:
    """A companion that tells the others its number."""

    def __init__(self, number: int, count: int) -> None:
        self.number, self.count = number, count

    def give(self) -> list[np.ndarray]:
        return [np.array([self.number, other]) for other in range(self.count)]

    def take(self, *messages: np.ndarray) -> list[list[int]]:
        return [message.tolist() for message in messages]

    def add(self, *numbers: int) -> int:
        return self.number + sum(numbers)

    def refuse(self) -> None:
        raise DataError(f"clerk {self.number}: no such column")

    def where(self) -> int:
        return os.getpid()


def consult(task: TaskContext, start: int, stop: int) -> Facts:
    """Have 1 and 2 companions exchange messages, add up what they promise, and refuse."""
    facts: Facts = {"taken": {}, "processes": []}
    for count in (1, 2):
        with task.companions(f"{__name__}:Clerk", [(number, count) for number in range(count)]) as clerks:
            facts["taken"][count] = exchange(clerks, "give", "take")
            promises = [clerks.begin(number, "add", 10) for number in range(count)]
            facts["sum"] = clerks.wait([clerks.begin(0, "add", *promises)])[0]
            facts["processes"] += clerks.wait([clerks.begin(number, "where") for number in range(count)])
            try:
                clerks.wait([clerks.begin(0, "refuse")])
            except DataError as error:
                facts["refusal"] = [type(error).__name__, str(error)]
    return facts


class MortalRange(ForestRange):
    """A range of which number 1 dies in the second round, once."""

    def __init__(self, marker: str, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._marker, self._number, self._rounds = Path(marker), arguments[1], 0

    def give_edges(self) -> list[np.ndarray]:
        self._rounds += 1
        if self._number == 1 and self._rounds == 2 and _first_time(self._marker):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().give_edges()


@dataclass(frozen=True, kw_only=True, eq=False)
class MortalComponents(Components):
    """``Components`` by mortal ranges."""

    marker: str = where("")

    def run(self, task: Task, start: int, stop: int) -> Facts:
        started = task.start_companions

        def start_mortal(name: str, arguments: Sequence[tuple[Any, ...]], on_device: bool) -> Companions:
            return started(f"{__name__}:MortalRange", [(self.marker, *given) for given in arguments], on_device)

        task.start_companions = start_mortal
        return super().run(task, start, stop)


def _first_attempt(task: TaskContext) -> bool:
    return _first_time(Path(task.where["markers"]) / str(task.call.start))


def _first_time(marker: Path) -> bool:
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def make_calls(folder: Path, function: str, num_rows: int, **where: Any) -> list[TaskCall]:
    """One call for each chunk of rows."""
    return [
        TaskCall(
            function=f"{__name__}:{function}", stage=function, digest="d" * 32, folder=str(folder), inputs={},
            params={}, where=where, num_rows=num_rows, start=start, stop=min(start + CHUNK_ROWS, num_rows), threads=1,
            device="cpu",
        )
        for start in range(0, num_rows, CHUNK_ROWS)
    ]  # fmt: skip


def make_toy_plan(
    num_rows: int, *, add: int = 0, setting: int = 0, block_rows: int = 0, source: str = "s", first: str = "count_up",
    **where: Any,
) -> Plan:  # fmt: skip
    """Three stages, numbers -> doubled -> total: ``add`` concerns all, ``setting`` the last two."""
    stages = [
        Stage("numbers", f"{__name__}:{first}", 1, {"add": add}, {}, num_rows, Cost(), where),
        Stage("doubled", f"{__name__}:double", 1, {"setting": setting}, {"before": "numbers"}, num_rows, Cost()),
        Stage("total", f"{__name__}:total", 1, {}, {"before": "doubled"}, 1, Cost(), granule=1),
    ]
    return make_plan(
        "run", stages, source_digest=source, memory_bytes=8 << 30, free_disk_bytes=1 << 40, block_rows=block_rows
    )


def make_steered_plan(num_rows: int, at_least: int) -> Plan:
    """numbers, doubled again and again until their sum is ``at_least`` so much, three times at most -> total."""
    stages = [Stage("pass_0", f"{__name__}:count_up", 1, {}, {}, num_rows, Cost())]
    for number in (1, 2, 3):
        before, check = f"pass_{number - 1}", f"check_{number - 1}"
        earlier = f"check_{number - 2}" if number > 1 else ""
        stages += [
            Stage(check, f"{__name__}:judge", 1, {"at_least": at_least}, {"before": before}, 1, Cost(), granule=1,
                  unless=earlier, instead=earlier),
            Stage(f"aside_{number}", f"{__name__}:double", 1, {}, {"before": before}, num_rows, Cost(), unless=check),
            Stage(f"pass_{number}", f"{__name__}:double", 1, {}, {"before": before}, num_rows, Cost(), unless=check,
                  instead=before),
        ]  # fmt: skip
    stages.append(Stage("total", f"{__name__}:total", 1, {}, {"before": "pass_3"}, 1, Cost(), granule=1))
    return make_plan(
        "run", stages, source_digest="s", memory_bytes=8 << 30, free_disk_bytes=1 << 40, block_rows=CHUNK_ROWS
    )


class CrashingExecutor(LocalExecutor):
    """Runs tasks until ``crash_after`` have committed; the next writes its outputs and dies before its record."""

    def __init__(self, crash_after: int | None = None) -> None:
        self.ran: list[tuple[str, int, int]] = []
        self._left = crash_after

    def run(self, calls: Sequence[TaskCall]) -> Iterator[Outcome]:
        for call in calls:
            if self._left == 0:
                resolve(call.function)(TaskContext(call, Place(Path(call.folder).parent), call), call.start, call.stop)
                raise Killed
            self.ran.append((call.stage, call.start, call.stop))
            yield from super().run([call])
            if self._left is not None:
                self._left -= 1


class Killed(BaseException):
    """Stands for a SIGKILL inside one process."""


class Messages(Quiet):
    """Keeps what the run says."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def toy_request(source: str) -> dict[str, Any]:
    """What a run of a toy plan was asked."""
    described = Source(f"{source}.npy", {}, 1, 1, 4, source, None, [])
    return {"features": described.path, "settings": {}, "source": described.as_dict()}


def run_toy(
    root: Path, plan: Plan, executor: Executor | None = None, *, source: str = "s", messages: Messages | None = None
) -> dict[str, Path]:
    """Run a toy plan and drop what was held, as the API does."""
    executor = executor or LocalExecutor()
    try:
        return run_plan(plan, Workshop(Place(root), executor, messages or Quiet(), 1, "cpu"), toy_request(source))
    finally:
        executor.close()
