"""How far a run is, read from its folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.collection.versions import current_version, finished_updates, is_compaction, rows_removed, unfinished_update
from engine.commands.committed import not_needed, planned_stage
from engine.commands.opening import kept_of
from engine.runs.effort import run_effort
from engine.runs.events import read_events
from engine.runs.plan import count_pending
from engine.storage import manifest
from engine.storage.context import committed_records
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
        planned = planned_stage(stage)
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


def _updates(root: Path, *, deleted: bool, running: bool) -> dict[str, Any]:
    """Tell the number of the last finished update, 0 if there is none, the rows after it, and what is unfinished.

    ``rows``: ``None`` without a finished update. ``added``, ``removed``: rows since the full run. ``due``: why another
    one is due, or an empty text. ``unfinished``: an update's number, its state, and the file that it is by, which is
    ``None`` for a compaction; ``None`` if all are finished.
    """
    last, begun = max(finished_updates(root), default=0), unfinished_update(root)
    told: dict[str, Any] = {"last": last, "rows": None, "added": 0, "removed": 0, "due": ""}
    told |= {"stages_deleted": deleted, "unfinished": None}
    if last:
        version = current_version(root, lambda: kept_of(root))
        since = version.since()
        told |= {"rows": len(version.labels(root)), "added": since.added, "removed": version.kept.removed}
        told["due"] = since.due
    if begun is not None:
        path = None if is_compaction(begun[1]) else begun[1]["request"]["source"]["path"]
        told["unfinished"] = {"update": begun[0], "state": "running" if running else "stopped", "by": path}
    return told
