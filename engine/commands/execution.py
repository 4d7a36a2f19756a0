"""Prepared plans are run here, and a folder's run is taken up again."""

from __future__ import annotations

from pathlib import Path

from engine.commands.preparation import Prepared, prepare
from engine.commands.reporting import write_report
from engine.commands.request import Request
from engine.commands.resources import Resources, count_workers, on_cluster
from engine.commands.run_folder import open_run
from engine.commands.trained_model import leave_model
from engine.executors.local import LocalExecutor
from engine.executors.protocol import Executor
from engine.runs.progress import make_display
from engine.runs.runner import Workshop, run_plan
from engine.storage import manifest


def execute(prepared: Prepared, *, progress: bool = True) -> dict[str, Path]:
    """Run a prepared plan; skip what its folder already holds. Returns the folder of each stage."""
    display = make_display(progress)
    executor = make_executor(prepared)
    workshop = Workshop(prepared.place, executor, display, prepared.threads, prepared.device)
    request = {**prepared.request.as_dict(), "source": prepared.source.as_dict()}
    try:
        folders = run_plan(prepared.plan, workshop, request)
        if prepared.kind == "run":
            write_report(prepared.place)
        if prepared.kind == "training":
            leave_model(prepared.place, folders, prepared.plan, prepared.request, prepared.source)
    finally:
        executor.close()
        display.close()
    return folders


def resume(root: str | Path, resources: Resources | None = None, *, progress: bool = True) -> Prepared:
    """Run a folder again from what its manifest says; committed work is skipped."""
    held = manifest.read_run(open_run(root))
    prepared = prepare(held["kind"], root, Request.from_dict(held["request"]), resources)
    execute(prepared, progress=progress)
    return prepared


def make_executor(prepared: Prepared) -> Executor:
    """Make the executor that was asked for. Ray is imported only if it was asked for."""
    resources = prepared.resources
    if resources.executor == "local":
        return LocalExecutor()
    from engine.executors.ray import RayExecutor

    workers = resources.workers if on_cluster(resources) else count_workers(resources)
    return RayExecutor(workers, prepared.threads, prepared.device, resources.gpus, resources.custom_resources)
