"""How far a run is, read from its folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.collection.versions import finished_updates, rows_removed, unfinished_update, update_folder
from engine.runs import scratch
from engine.runs.effort import run_effort
from engine.runs.events import read_events
from engine.runs.plan import count_pending
from engine.stages import Cost, Stage
from engine.storage import manifest
from engine.storage.context import committed_records, stage_facts
from engine.storage.places import open_place


def run_status(root: Path) -> dict[str, Any]:
    """Tell the state of a run, its updates, and, of each stage needed, the rows committed, seconds and peak memory.

    Once rows were removed, no stages are listed: the removal deleted them.
    """
    held = manifest.read_run(root)
    running = open_place(root).is_running()
    finished = {event["stage"]: event for event in read_events(root) if event["event"] == "stage_finished"}
    deleted = rows_removed(root)
    stages, unneeded = [], not_needed(root, held)
    for stage in held["plan"]["stages"]:
        if deleted or stage["name"] in unneeded:
            continue
        records = committed_records(root / f"{stage['name']}-{stage['digest'][:12]}", stage["digest"])
        done = sum(record.stop - record.start for record in records)
        planned = _planned(stage)
        stages.append(
            {
                "stage": stage["name"],
                "rows": stage["num_rows"],
                "rows_committed": done,
                "tasks_committed": len(records),
                "tasks": len(records) + count_pending(planned, [(record.start, record.stop) for record in records]),
                "task_seconds": round(sum(record.seconds for record in records), 3),
                "peak_bytes": finished.get(stage["name"], {}).get("peak_bytes"),
            }
        )
    effort = asdict(run_effort(root))
    state = "stopped" if held["state"] == "running" and not running else held["state"]
    told = {"run": str(root), "kind": held["kind"], "state": state, "stages": stages, "effort": effort}
    return told | {"updates": _updates(root, deleted=deleted, running=running)}


def all_committed(root: Path, held: dict[str, Any]) -> bool:
    """Tell whether every stage that is needed was committed."""
    unneeded = not_needed(root, held)
    stages = [_planned(stage) for stage in held["plan"]["stages"] if stage["name"] not in unneeded]
    return all(stage.scratch or scratch.is_finished(root / stage.folder, stage) for stage in stages)


def not_needed(root: Path, held: dict[str, Any]) -> set[str]:
    """Name the planned stages that a finished check has made unnecessary."""
    return scratch.not_needed([_planned(stage) for stage in held["plan"]["stages"]], root)


def _updates(root: Path, *, deleted: bool, running: bool) -> dict[str, Any]:
    """Tell the number of the last finished update, 0 if there is none, the rows after it, and what is unfinished.

    ``rows``: ``None`` without a finished update. ``unfinished``: an update's number, its state, and the file that it
    is by; ``None`` if all are finished.
    """
    last, begun = max(finished_updates(root), default=0), unfinished_update(root)
    told: dict[str, Any] = {"last": last, "rows": None, "stages_deleted": deleted, "unfinished": None}
    if last:
        folder = update_folder(root, last)
        ends = {stage["name"]: stage["digest"][:12] for stage in manifest.read_run(folder)["plan"]["stages"]}
        name = "clusters" if "clusters" in ends else "compacted"  # a compaction alone makes no clusters
        told["rows"] = stage_facts(folder / f"{name}-{ends[name]}")[0]["rows"]
    if begun is not None:
        path = begun[1]["request"]["source"]["path"]
        told["unfinished"] = {"update": begun[0], "state": "running" if running else "stopped", "by": path}
    return told


def _planned(stage: dict[str, Any]) -> Stage:
    """Read a stage from the entry of a run's manifest."""
    return Stage(**{**stage, "cost": Cost(**stage["cost"])})
