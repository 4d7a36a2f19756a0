"""Runs a plan: skips what is committed, runs the rest, retries, records events, shows progress.

Resuming is nothing but running again. The runner sees the executor protocol only.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.errors import DataError, EngineError, ManifestMismatch, TaskFailed
from engine.events import EventLog
from engine.executors.base import Executor, Outcome
from engine.memory import PeakMemory, return_unused
from engine.plan import Plan, Stage, Task, pending_ranges
from engine.progress import Display, Ticker
from engine.scratch import discard_consumed, is_consumed, is_enough, restore, stages_to_run
from engine.storage import manifest
from engine.storage.context import TaskCall, committed_records, folder_digest, read_progress
from engine.version import __version__

ATTEMPTS = 4


@dataclass(frozen=True)
class Workshop:
    """Where and with how much a plan runs; none of it can change a result."""

    root: Path
    executor: Executor
    display: Display
    threads: int
    device: str


def run_plan(plan: Plan, workshop: Workshop, request: dict[str, Any]) -> dict[str, Path]:
    """Run every stage of ``plan`` in ``workshop.root`` and return the folder of each stage's outputs.

    ``request`` (settings, source) is written to the run's manifest, for ``resume``. Raises ``ManifestMismatch`` if the
    folder holds a run of another source or kind, ``TaskFailed`` when a task keeps failing, or the task's own
    ``EngineError``. What was committed stays, whatever happens.
    """
    root = workshop.root
    check_folder(root, plan.kind, request)
    with manifest.explain_os_errors(root):
        root.mkdir(parents=True, exist_ok=True)
    with locked(root):
        check_folder(root, plan.kind, request)
        manifest.remove_temporaries(root)
        manifest.write_run(root, {"kind": plan.kind, "request": request, "plan": plan.as_dict(), "state": "running"})
        events = EventLog(root)
        events.write(
            "run_started", kind=plan.kind, executor=workshop.executor.name, version=__version__, pid=os.getpid()
        )
        folders: dict[str, Path] = {}
        try:
            with PeakMemory() as memory:
                for stage in plan.stages:
                    _withdraw_damaged(root / stage.folder, stage, events, workshop.display)
                needed = stages_to_run(plan, root)
                for number, stage in enumerate(plan.stages):
                    if stage.unless and is_enough(folders[stage.unless]):
                        events.write("stage_not_needed", stage=stage.name, digest=stage.digest)
                        if stage.instead:
                            folders[stage.name] = folders[stage.instead]
                        continue
                    folders[stage.name] = root / stage.folder
                    if stage.scratch and stage.name not in needed:
                        continue
                    run_stage(stage, folders, workshop, events, memory)
                    for name in discard_consumed(plan, number + 1, folders):
                        events.write("outputs_consumed", stage=name)
        except BaseException as error:
            with suppress(OSError):
                events.write("run_failed", error=f"{type(error).__name__}: {error}")
            raise
        remove_stale(root, plan, events)
        manifest.write_run(root, {"kind": plan.kind, "request": request, "plan": plan.as_dict(), "state": "finished"})
        events.write("run_finished")
    return folders


def check_folder(root: Path, kind: str, request: dict[str, Any]) -> None:
    """Refuse a folder that holds something other than this run, before anything is written."""
    if root.exists() and not root.is_dir():
        raise ManifestMismatch(f"{root} is a file; --out must name a folder")
    if not (root / manifest.RUN_FILE).exists():
        if root.exists() and any(path.name != LOCK_FILE for path in root.iterdir()):
            raise ManifestMismatch(f"{root} is not empty and holds no run: choose another --out; nothing was changed")
        return
    held = manifest.read_run(root)
    if held["kind"] != kind:
        raise ManifestMismatch(
            f"{root} holds a {held['kind']}, not a {kind}: choose another --out; nothing was changed"
        )
    if held["request"]["source"]["digest"] != request["source"]["digest"]:
        raise ManifestMismatch(
            f"{root} holds a run of another source ({_describe(held['request']['source'])}); asked for "
            f"{_describe(request['source'])}: choose another --out, or the same source; nothing was changed"
        )


def run_stage(stage: Stage, folders: dict[str, Path], workshop: Workshop, events: EventLog, memory: PeakMemory) -> None:
    """Run what is not committed of one stage."""
    folder = workshop.root / stage.folder
    started = time.perf_counter()
    _prepare(folder, stage)
    kept = [(record.start, record.stop) for record in committed_records(folder, stage.digest)]
    tasks = pending_ranges(stage, kept)
    done_rows = sum(stop - start for start, stop in kept)
    events.write("stage_started", stage=stage.name, digest=stage.digest, tasks=len(tasks), rows_committed=done_rows)
    return_unused()
    memory.reset()
    if tasks:
        workshop.display.begin(stage, done_rows)
        calls = [_call(stage, task, folder, folders, workshop) for task in tasks]
        with Ticker(lambda: _show_inner(folder, stage, workshop.display)):
            _run_calls(calls, stage, workshop, events)
    seconds, peak = time.perf_counter() - started, memory.take()
    workshop.display.end(stage, seconds, peak, skipped=not tasks)
    events.write(
        "stage_finished", stage=stage.name, digest=stage.digest, seconds=round(seconds, 3), peak_bytes=peak,
        tasks_run=len(tasks),
    )  # fmt: skip


def remove_stale(root: Path, plan: Plan, events: EventLog) -> None:
    """Delete outputs of settings that this finished plan replaced."""
    current = {stage.folder for stage in plan.stages}
    for path in sorted(root.iterdir()):
        if path.name not in current and _STAGE_FOLDER.fullmatch(path.name):
            shutil.rmtree(path)
            events.write("outputs_replaced", folder=path.name)


LOCK_FILE = "run.lock"
_STAGE_FOLDER = re.compile(r"[a-z_0-9]+-[0-9a-f]{12}")


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the run's lock, so that two processes never work on one run; a killed process frees it."""
    with manifest.explain_os_errors(root / LOCK_FILE):
        stream = open(root / LOCK_FILE, "a+")  # noqa: SIM115
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process is working on {root}: wait for it, or choose another --out") from None
        yield


def is_running(root: Path) -> bool:
    """Tell whether a process holds the run's lock (as far as this machine's file system shows it)."""
    try:
        with locked(root):
            return False
    except (EngineError, OSError):
        return True


def _run_calls(calls: Sequence[TaskCall], stage: Stage, workshop: Workshop, events: EventLog) -> None:
    for attempt in range(1, ATTEMPTS + 1):
        failed: list[Outcome] = []
        for outcome in workshop.executor.run(calls):
            task = {"stage": stage.name, "start": outcome.call.start, "stop": outcome.call.stop, "attempt": attempt}
            if outcome.record is not None:
                events.write("task_committed", **task, seconds=outcome.record.seconds)
                workshop.display.advance(stage, outcome.call.stop - outcome.call.start)
                continue
            events.write("task_failed", **task, error=f"{type(outcome.error).__name__}: {outcome.error}")
            failed.append(outcome)
            if not outcome.retry:
                raise _failure(stage, [outcome], attempt)
        if not failed:
            return
        calls = [outcome.call for outcome in failed]
    raise _failure(stage, failed, ATTEMPTS)


def _failure(stage: Stage, failed: Sequence[Outcome], attempts: int) -> BaseException:
    first = failed[0]
    if isinstance(first.error, EngineError):
        return first.error
    causes: dict[str, list[str]] = {}
    for outcome in failed:
        cause = f"{type(outcome.error).__name__}: {outcome.error}"
        causes.setdefault(cause, []).append(f"{outcome.call.start}..{outcome.call.stop}")
    grouped = "; ".join(f"{cause} (rows {', '.join(blocks[:5])})" for cause, blocks in causes.items())
    error = TaskFailed(
        f"stage {stage.name} failed after {attempts} attempt(s): {grouped}; what was committed is kept, run again to "
        f"resume\n{first.details}".rstrip()
    )
    error.__cause__ = first.error
    return error


def _prepare(folder: Path, stage: Stage) -> None:
    with manifest.explain_os_errors(folder):
        (folder / "records").mkdir(parents=True, exist_ok=True)
        restore(folder)
    try:
        intact = folder_digest(folder) == stage.digest
    except (OSError, DataError, KeyError, TypeError):
        intact = False
    if not intact:
        manifest.write_json(folder / "stage.json", asdict(stage))


def _withdraw_damaged(folder: Path, stage: Stage, events: EventLog, display: Display) -> None:
    """Check every committed output against its checksum; withdraw commits that are damaged, and say so."""
    if is_consumed(folder):
        return
    for path in manifest.damaged_records(folder):
        display.message(f"{stage.name}: {path} is damaged: computing the rows it stood for again")
        events.write("damage_found", stage=stage.name, damage=f"{path} is damaged")
        path.unlink()
    for record in committed_records(folder, stage.digest):
        damage = manifest.find_damage(folder, record)
        if damage is not None:
            display.message(f"{stage.name}: {damage}: computing rows {record.start:,}..{record.stop:,} again")
            events.write("damage_found", stage=stage.name, start=record.start, stop=record.stop, damage=damage)
            manifest.discard_record(folder, record)


def _call(stage: Stage, task: Task, folder: Path, folders: dict[str, Path], workshop: Workshop) -> TaskCall:
    return TaskCall(
        function=stage.function,
        stage=stage.name,
        digest=stage.digest,
        folder=str(folder),
        inputs={name: str(folders.get(origin, origin)) for name, origin in stage.inputs.items()},
        params=dict(stage.params),
        where=dict(stage.where),
        num_rows=stage.num_rows,
        start=task.start,
        stop=task.stop,
        threads=workshop.threads,
        device=workshop.device,
        workers=workshop.executor.workers if stage.all_workers else 1,
    )


def _show_inner(folder: Path, stage: Stage, display: Display) -> None:
    inner = read_progress(folder)
    if inner is not None:
        display.note(stage, *inner)


def _describe(source: dict[str, Any]) -> str:
    return f"{source['path']}, {source['num_rows']:,} x {source['dim']}"
