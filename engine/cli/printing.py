"""Tables and lines that the command line prints."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Column, Table

from engine.process.terminal import PlainConsole
from engine.units import human_bytes

if TYPE_CHECKING:
    from engine.commands.projection import Projection
    from engine.commands.updates import Update
    from engine.comparison.page import ComparisonRow
    from engine.runs.plan import Plan
    from engine.steps.source import Source
    from engine.storage.places import Place

console = PlainConsole()


def tell(found: Any, *lines: object, as_json: bool) -> None:
    """Print what a command found: as JSON for programs, or as lines for people."""
    if as_json:
        print(json.dumps(found))
        return
    for line in lines:
        console.say(line)


def right(name: str) -> Any:
    """Return a column of numbers, which are aligned to the right."""
    return Column(name, justify="right")


def print_plan(plan: Plan, source: Source, speeds: Mapping[str, float]) -> None:
    """Print the stages of a run with what each will cost."""
    console.say(f"{source.path}: {source.num_rows:,} x {source.dim}")
    table = Table("stage", *(right(name) for name in ("tasks", "rows per task", "memory", "disk", "seconds")))
    for stage in plan.stages:
        table.add_row(
            f"{stage.name} (if needed)" if stage.unless else stage.name,
            str(stage.num_tasks()),
            f"{min(stage.block_rows, stage.num_rows):,}" if stage.num_rows > 1 else "",
            human_bytes(stage.memory_bytes),
            human_bytes(stage.disk_bytes),
            f"{stage.seconds(speeds):,.1f}",
        )
    table.add_section()
    memory, disk = human_bytes(plan.memory_bytes), human_bytes(plan.disk_bytes)
    table.add_row("whole run", "", "", memory, disk, f"{plan.seconds(speeds):,.1f}")
    console.print(table)


def print_status(folder: str, found: Mapping[str, Any]) -> None:
    """Print how far each stage of a run is, and what the run has taken so far."""
    from engine.runs.effort import Effort

    table = Table("stage", *(right(name) for name in ("committed", "tasks", "task seconds", "peak memory")))
    for stage in found["stages"]:
        peak = human_bytes(stage["peak_bytes"]) if stage["peak_bytes"] else ""
        share = f"{stage['rows_committed'] / stage['rows']:.0%}"
        tasks = f"{stage['tasks_committed']} of {stage['tasks']}"
        table.add_row(stage["stage"], share, tasks, f"{stage['task_seconds']:,.1f}", peak)
    console.say(f"{found['kind']} {folder}: {found['state']}")
    if found["stages"]:
        console.print(table)
    console.say(str(Effort(**found["effort"])))
    _print_updates(folder, found["updates"])
    if found["state"] == "stopped":
        console.say(f"nothing works on it now; asterism resume {folder}")


def _print_updates(folder: str, found: Mapping[str, Any]) -> None:
    """Print how many updates a run has had, whether one is not finished, and whether a full run is due."""
    if found["last"]:
        gone = "; the full run's stages were deleted when rows were removed" if found["stages_deleted"] else ""
        since = f"{found['added']:,} rows added and {found['removed']:,} removed since the full run"
        console.say(f"updates: {found['last']}, {since}; rows now: {found['rows']:,}{gone}")
    if found["due"]:
        console.say(f"a full run is due: {found['due']}")
    begun = found["unfinished"]
    if begun is not None:
        doing = "running" if begun["state"] == "running" else f"not finished; asterism resume {folder} takes it up"
        by = f"by {begun['by']}" if begun["by"] else "which writes all anew in one piece"
        console.say(f"update {begun['update']}, {by}: {doing}")


def print_update(folder: str, done: Update, *, as_json: bool) -> None:
    """Print what an update did."""
    if as_json:
        print(json.dumps(asdict(done)))
        return
    counts = {"added": done.added, "removed": done.removed}
    moved = ", ".join(f"{count:,} {'row' if count == 1 else 'rows'} {what}" for what, count in counts.items() if count)
    moved = moved or "answers hold"
    console.say(f"{folder}, update {done.number}: {moved}; {done.rows:,} rows -> {done.clusters:,} clusters")
    if done.lineage:
        console.say("clusters: " + ", ".join(f"{count:,} {event}" for event, count in done.lineage.items()))
    if done.copies:
        console.say(f"{done.copies:,} of the rows added are copies of rows that were there, and joined them")
    if done.due:
        console.say(f"a full run is due: {done.due}")
    console.say(f"labels: asterism export {shlex.quote(folder)} --out labels.parquet")
    console.say(f"report: asterism report {shlex.quote(folder)}")


def print_projection(found: Projection) -> None:
    """Print what a run would take on the described compute cluster."""
    cluster = found.cluster
    console.say(
        f"{found.num_rows:,} x {found.dim} on {cluster.hosts} hosts, each of {cluster.cores_per_host} cores, "
        f"{cluster.gpus_per_host} GPUs and {human_bytes(cluster.memory_bytes)}"
    )
    names = ("workers", "tasks", "host memory", "disk", "seconds")
    table = Table("stage", *(right(name) for name in names), "bound by")
    for stage in found.stages:
        table.add_row(
            stage.name if stage.needed else f"{stage.name} *",
            f"{stage.workers:,}",
            f"{stage.tasks:,}",
            human_bytes(stage.host_bytes),
            human_bytes(stage.disk_bytes),
            f"{stage.seconds:,.1f}",
            stage.bottleneck,
        )
    table.add_section()
    disk = human_bytes(found.disk_bytes)
    for title, every in (("whole run", False), ("with all *", True)):
        table.add_row(title, "", "", human_bytes(found.host_bytes), disk, f"{found.seconds(every_pass=every):,.1f}")
    console.print(table)
    alone = found.as_dict()["one_worker_seconds"]
    console.say(
        f"* only while the check finds too few neighbours. {human_bytes(found.disk_bytes / cluster.hosts)} of disk for "
        f"each host; {alone:,.0f} s of the run are on one worker: more hosts do not shorten them"
    )
    for refusal in found.refusals:
        console.say(f"does not fit: {refusal}")


def print_result(place: Place, *, as_json: bool) -> None:
    """Print the counts, scores and places of a finished run."""
    from engine.commands.report_data import report_data
    from engine.commands.reporting import REPORT_FILE

    data = report_data(place.root)
    if as_json:
        counts = {name: getattr(data, name) for name in ("num_rows", "num_clusters", "num_singletons", "largest")}
        scores = dict(data.metrics[0].scores) if data.metrics else None
        said = {"run": str(place), "report": f"{place}/{REPORT_FILE}", "notes": data.notes, "warnings": data.warnings}
        print(json.dumps({**said, **counts, "method": data.method, "scores": scores}))
        return
    console.say(
        f"{data.num_rows:,} rows -> {data.num_clusters:,} clusters, {data.num_singletons:,} singletons, "
        f"largest {data.largest:,}"
    )
    for note in [*data.warnings, *data.notes]:
        console.say(note)
    for row in data.metrics[:1]:
        console.say(", ".join(f"{name} {value:.4f}" for name, value in row.scores.items() if isinstance(value, float)))
    console.say(f"report: {place}/{REPORT_FILE}")
    console.say(f"labels: asterism export {shlex.quote(str(place))} --out labels.parquet")


def print_comparison(rows: Sequence[ComparisonRow], page: Path) -> None:
    """Print a line for each method, the best pairwise F first, and why a method has no scores."""
    table = Table("method", *(right(name) for name in ("pairwise F", "BCubed F", "clusters", "train", "run", "memory")))
    for row in sorted(rows, key=lambda row: -row.scores.get("pairwise_f", -1.0)):
        if row.missing:
            table.add_row(row.name, "–", "–", "–", "–", "–", "–")
            continue
        table.add_row(
            row.name,
            f"{100 * row.scores['pairwise_f']:.1f}",
            f"{100 * row.scores['bcubed_f']:.1f}",
            f"{row.scores['num_clusters']:,}",
            f"{row.train_seconds:,.0f} s",
            f"{row.run_seconds:,.0f} s",
            human_bytes(row.peak_bytes),
        )
    console.print(table)
    for row in rows:
        if row.missing:
            console.say(f"{row.name}: {row.missing}")
    console.say(f"page: {page}")
