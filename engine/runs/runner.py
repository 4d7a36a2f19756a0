"""Run a plan: skip committed tasks, run the others, retry, log events, show progress.

To resume is to run again. The runner knows the executor protocol only.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from engine.errors import DataError, EngineError, ManifestMismatch
from engine.executors.protocol import Executor
from engine.process.memory import PeakMemory, return_unused
from engine.runs.attempts import run_calls
from engine.runs.events import EventLog, read_events
from engine.runs.plan import Plan, pending_ranges
from engine.runs.progress import Display, Ticker
from engine.runs.scratch import discard_consumed, is_consumed, is_enough, restore, stages_to_run
from engine.stages import Stage, Task
from engine.storage import manifest
from engine.storage.context import TaskCall, committed_records, folder_digest, read_progress
from engine.storage.owned import STAGE
from engine.storage.paths import below
from engine.storage.places import GIVEN_FOLDER, LOCK_FILE, Place, open_stage
from engine.version import __version__


@dataclass(frozen=True)
class Workshop:
    """The place, executor and resources of a run; none of them can change a result."""

    place: Place
    executor: Executor
    display: Display
    threads: int
    device: str

    @property
    def root(self) -> Path:
        """Return the run's folder on this host."""
        return self.place.root


def run_plan(plan: Plan, workshop: Workshop, request: dict[str, Any]) -> dict[str, Path]:
    """Run every stage of ``plan`` in ``workshop.root`` and return the folder of each stage's outputs.

    ``request`` (settings, source) is written to the run's manifest, for ``resume``. Raises ``ManifestMismatch`` if the
    folder holds a run of another source or kind, ``TaskFailed`` if a task fails too often, or the task's own
    ``EngineError``. Committed work always stays.
    """
    place, root = workshop.place, workshop.root
    check_folder(place, plan, request)
    with place.locked():
        place.refresh()
        known = check_folder(place, plan, request)
        manifest.sweep(root)
        if (shared := shared_folder(root)) is not None:
            workshop.display.message(shared)
        held = {"kind": plan.kind, "request": request, "plan": plan.as_dict(), "state": "running"}
        manifest.write_run(root, held)
        place.publish(root / manifest.RUN_FILE)
        events = EventLog(place)
        if not known:
            workshop.display.message(f"{root / manifest.RUN_FILE} was missing or damaged: it is written anew")
            events.write("damage_found", damage=f"{root / manifest.RUN_FILE} was missing or damaged")
        events.write(
            "run_started", kind=plan.kind, executor=workshop.executor.name, version=__version__, pid=os.getpid()
        )
        folders: dict[str, Path] = {}
        try:
            with PeakMemory() as memory:
                for stage in plan.stages:
                    _withdraw_damaged(root / stage.folder, stage, events, workshop)
                needed = stages_to_run(plan, root)
                check_stores(plan, needed)
                for number, stage in enumerate(plan.stages):
                    if stage.unless and is_enough(folders[stage.unless]):
                        events.write("stage_not_needed", stage=stage.name, digest=stage.digest)
                        if stage.instead in folders:  # else no stage that is needed reads it
                            folders[stage.name] = folders[stage.instead]
                        continue
                    folders[stage.name] = root / stage.folder
                    if stage.scratch and stage.name not in needed:
                        continue
                    run_stage(stage, folders, workshop, events, memory)
                    for name in discard_consumed(plan, number + 1, folders, place):
                        events.write("outputs_consumed", stage=name)
        except BaseException as error:
            with suppress(OSError):
                failed = isinstance(error, Exception)  # else a signal or Ctrl-C
                events.write("run_failed", error=f"{type(error).__name__}: {error}" if failed else "stopped")
                events.publish()
            raise
        if known:  # else the owner of other outputs is not known
            remove_stale(place, plan, events)
        manifest.write_run(root, {**held, "state": "finished"})
        events.write("run_finished")
        events.publish()
        place.publish(root / manifest.RUN_FILE)
    return folders


def check_folder(place: Place, plan: Plan, request: dict[str, Any]) -> bool:
    """Refuse a folder that holds anything but this run, before anything is written.

    Returns true if the folder is empty or its manifest is of this run. Returns false if the manifest is missing or
    damaged, but a stage of the folder has a fingerprint of the plan. The fingerprint covers the source, so the run can
    go on from that folder.
    """
    root, path = place.root, place.root / manifest.RUN_FILE
    if root.exists() and not root.is_dir():
        raise ManifestMismatch(f"{place} is a file; --out must name a folder")
    if not os.path.lexists(path):
        if not place.entries() - {LOCK_FILE, GIVEN_FOLDER}:
            return True
        if _holds_stages(root, plan):
            return False
        raise ManifestMismatch(f"{place} is not empty and holds no run: choose another --out; nothing was changed")
    try:
        held = manifest.read_run(root)
    except DataError:
        if path.is_file() and _holds_stages(root, plan):
            return False
        raise
    if held["kind"] != plan.kind:
        raise ManifestMismatch(
            f"{place} holds a {held['kind']}, not a {plan.kind}: choose another --out; nothing was changed"
        )
    if held["request"]["source"]["digest"] != request["source"]["digest"]:
        if held["request"]["source"]["path"] == request["source"]["path"]:
            raise ManifestMismatch(
                f"{place} holds a run of {request['source']['path']} as it was before its contents changed; "
                f"choose another --out; nothing was changed"
            )
        raise ManifestMismatch(
            f"{place} holds a run of another source ({_describe(held['request']['source'])}); asked for "
            f"{_describe(request['source'])}: choose another --out, or the same source; nothing was changed"
        )
    return True


def _holds_stages(root: Path, plan: Plan) -> bool:
    """Tell whether a folder without a manifest holds a stage of this plan and no event of another kind of run.

    The events have to tell, because a store's only stage may also begin a run or a training.
    """
    started = [event["kind"] for event in read_events(root) if event["event"] == "run_started"]
    if started and started[-1] != plan.kind:
        return False
    return any(_is_intact(root / stage.folder, stage) for stage in plan.stages)


def _is_intact(folder: Path, stage: Stage) -> bool:
    try:
        return folder_digest(folder) == stage.digest
    except EngineError:
        return False


def shared_folder(root: Path) -> str | None:
    """Return a warning if the folder is another user's and open to all, because anyone could change the run."""
    found = os.stat(root)
    if found.st_uid == os.geteuid() or not found.st_mode & stat.S_IWOTH:
        return None
    return (
        f"{root} belongs to user {found.st_uid} and everybody may write into it: what others put there is trusted; "
        f"choose a folder of your own if you do not trust them"
    )


def check_stores(plan: Plan, needed: Collection[str]) -> None:
    """Compare the stores that the ``needed`` stages read with their checksums, before any work.

    Raises ``DataError`` for a damaged store.
    """
    names = {stage.name for stage in plan.stages}
    origins = {origin for stage in plan.stages if stage.name in needed for origin in stage.inputs.values()} - names
    for origin in sorted(origins):
        place, folder = open_stage(origin)
        place.refresh()
        place.fetch_records(folder)
        for record in committed_records(folder, folder_digest(folder)):
            if (damage := place.find_damage(folder, record)) is not None:
                raise DataError(
                    f"{damage}: the store is damaged; asterism resume {place} computes it again from its source"
                )


def run_stage(stage: Stage, folders: dict[str, Path], workshop: Workshop, events: EventLog, memory: PeakMemory) -> None:
    """Run the tasks of one stage that are not committed."""
    folder = workshop.root / stage.folder
    started = time.perf_counter()
    _prepare(folder, stage, workshop.place)
    kept = [(record.start, record.stop) for record in committed_records(folder, stage.digest)]
    tasks = pending_ranges(stage, kept)
    done_rows = sum(stop - start for start, stop in kept)
    events.write("stage_started", stage=stage.name, digest=stage.digest, tasks=len(tasks), rows_committed=done_rows)
    return_unused()
    memory.reset()
    workers_peak = 0
    if tasks:
        workshop.display.begin(stage, done_rows)
        calls = _calls(stage, tasks, folder, folders, workshop)
        with Ticker(lambda: _show_inner(folder, stage, workshop.display)):
            workers_peak = run_calls(calls, stage, workshop.place, workshop.executor, workshop.display, events)
    seconds, peak = time.perf_counter() - started, max(memory.take(), workers_peak)
    workshop.display.end(stage, seconds, peak, skipped=not tasks)
    events.write(
        "stage_finished",
        stage=stage.name,
        digest=stage.digest,
        seconds=round(seconds, 3),
        peak_bytes=peak,
        tasks_run=len(tasks),
    )


def remove_stale(place: Place, plan: Plan, events: EventLog) -> None:
    """Delete outputs of other settings than those of this finished plan."""
    current = {stage.folder for stage in plan.stages}
    for path in sorted(place.root.iterdir()):
        if path.name not in current and _STAGE_FOLDER.fullmatch(path.name):
            shutil.rmtree(path)
            place.withdraw(path)
            events.write("outputs_replaced", folder=path.name)


_STAGE_FOLDER = re.compile(r"[a-z_0-9]+-[0-9a-f]{12}")


def _prepare(folder: Path, stage: Stage, place: Place) -> None:
    with manifest.explain_os_errors(folder):
        for path in (folder, folder / "records"):
            if not path.is_dir():
                manifest.remove_place(path)
        (folder / "records").mkdir(parents=True, exist_ok=True)
        restore(folder, place)
    if not _is_intact(folder, stage):
        path = folder / manifest.STAGE_FILE
        if not path.is_file():
            manifest.remove_place(path)
        manifest.write_owned(path, STAGE, asdict(replace(stage, step=None)))
        place.publish(path)


def _withdraw_damaged(folder: Path, stage: Stage, events: EventLog, workshop: Workshop) -> None:
    """Compare every committed output with its checksum; delete the records of damaged ones, and log them."""
    if is_consumed(folder):
        return
    display, place = workshop.display, workshop.place
    for path in manifest.damaged_records(folder):
        display.message(f"{stage.name}: {path} is damaged: computing the rows it stood for again")
        events.write("damage_found", stage=stage.name, damage=f"{path} is damaged")
        manifest.remove_place(path)
        place.withdraw(path)
    for record in committed_records(folder, stage.digest):
        beyond = record.stop > stage.num_rows
        damage = f"{folder} has a record of other rows" if beyond else place.find_damage(folder, record)
        if damage is not None:
            display.message(f"{stage.name}: {damage}: computing rows {record.start:,}..{record.stop:,} again")
            events.write("damage_found", stage=stage.name, start=record.start, stop=record.stop, damage=damage)
            for output in record.outputs:
                path = below(folder, output.path)
                if os.path.lexists(path) and not path.is_file():  # because no file can be renamed over a folder
                    manifest.remove_place(path)
            manifest.discard_record(folder, record)
            place.withdraw(manifest.record_path(folder, record))


def _calls(
    stage: Stage, tasks: Sequence[Task], folder: Path, folders: dict[str, Path], workshop: Workshop
) -> list[TaskCall]:
    """Return a call for each task. There may be very many, so they share their common values."""
    common: dict[str, Any] = {
        "function": stage.function,
        "stage": stage.name,
        "digest": stage.digest,
        "folder": workshop.place.address(folder.name),
        "inputs": {name: _address(origin, folders, workshop.place) for name, origin in stage.inputs.items()},
        "params": dict(stage.params),
        "where": dict(stage.where),
        "num_rows": stage.num_rows,
        "threads": workshop.threads,
        "device": workshop.device,
        "memory_bytes": stage.memory_bytes,
        "workers": workshop.executor.workers_asked if stage.all_workers else 1,
        "step": stage.step,
    }
    return [TaskCall(start=task.start, stop=task.stop, **common) for task in tasks]


def _address(origin: str, folders: dict[str, Path], place: Place) -> str:
    """Return the name of an input for a worker: of a stage of this run, or of a store elsewhere."""
    return place.address(folders[origin].name) if origin in folders else origin


def _show_inner(folder: Path, stage: Stage, display: Display) -> None:
    inner = read_progress(folder)
    if inner is not None:
        display.note(stage, *inner)


def _describe(source: dict[str, Any]) -> str:
    return f"{source['path']}, {source['num_rows']:,} x {source['dim']}"
