"""Prepared plans are run here."""

from __future__ import annotations

from pathlib import Path

from engine.commands.preparation import Prepared
from engine.commands.reporting import write_report
from engine.commands.resources import count_workers, on_cluster
from engine.commands.trained_model import leave_model
from engine.executors.local import LocalExecutor
from engine.executors.protocol import Executor
from engine.process.logs import LOG
from engine.runs.progress import make_display
from engine.runs.runner import Workshop, run_plan


def execute(prepared: Prepared, *, progress: bool = True, report: bool = True) -> dict[str, Path]:
    """Run a prepared plan; skip what its folder already holds. Returns the folder of each stage.

    ``report``: write that of a run.
    """
    display = make_display(progress)
    executor = make_executor(prepared)
    workshop = Workshop(prepared.place, executor, display, prepared.threads, prepared.device)
    request = {**prepared.request.as_dict(), "source": prepared.source.as_dict()}
    try:
        folders = run_plan(prepared.plan, workshop, request)
        if prepared.kind == "run" and report:
            path, warnings = write_report(prepared.place)
            for warning in warnings:
                LOG.info("%s", warning)
            LOG.info("report: %s", path)
        if prepared.kind == "training":
            leave_model(prepared.place, folders, prepared.plan, prepared.request, prepared.source)
    finally:
        executor.close()
        display.close()
    return folders


def make_executor(prepared: Prepared) -> Executor:
    """Make the executor that was asked for. Ray is imported only if it was asked for."""
    resources = prepared.resources
    if resources.executor == "local":
        return LocalExecutor()
    from engine.executors.ray import RayExecutor

    workers = resources.workers if on_cluster(resources) else count_workers(resources)
    return RayExecutor(workers, prepared.threads, prepared.device, resources.gpus, resources.custom_resources)
