"""What Ray costs: against the local executor, from one worker to two, and in the driver at 10^5 tasks.

    python benchmarks/ray_overhead.py [--model FOLDER]  # part1: Ray's overhead; two workers of a thread against one
    python benchmarks/ray_overhead.py --schedule        # no data: the driver's seconds and memory over 10^5 empty tasks

Writes ``benchmarks/records/ray_overhead.json``, or ``ray_schedule.json``.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import write_record

from engine import api
from engine.commands.configuration import load_settings
from engine.commands.resources import Resources
from engine.commands.standin import PARTS
from engine.process.memory import tree_bytes
from engine.runs.events import read_events
from engine.runs.plan import make_plan
from engine.runs.progress import Quiet
from engine.runs.runner import Workshop, run_plan
from engine.stages import Cost, Stage
from engine.steps.source import Source
from engine.units import CHUNK_ROWS

TIMED = {"knn": ("probes_", "near_", "join_", "knn"), "score": ("score",)}  # starts of the stages' names


def main() -> None:
    """Measure what was asked for, print it, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=PARTS["part1"], help="size of the stand-in")
    parser.add_argument("--rounds", type=int, default=2, help="runs of each, in turn; the fastest counts")
    parser.add_argument("--model", type=Path, help="a STAR-FC model; default: one of 50 steps on the stand-in itself")
    parser.add_argument("--schedule", action="store_true", help="simulate 64 hosts instead")
    parser.add_argument("--tasks", type=int, default=100_000, help="with --schedule")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.schedule:
            schedule(Path(folder), arguments.tasks)
        else:
            compare(Path(folder), arguments.identities, arguments.rounds, arguments.model)


def compare(work: Path, identities: int, rounds: int, model: str | Path | None) -> None:
    """One thread each: the local executor, one Ray worker, two; seconds of searching and scoring.

    ``ray_overhead``: what one Ray worker takes beyond the local executor, as a share.
    """
    api.make_standin(work / "data", identities, 1)
    source = work / "data/features.bin"
    settings = {"knn.recall_samples": 0, "partition.curve_rows": 0}
    model = model or api.train(
        source, work / "data/labels.meta", work / "model", dim=256, method="star_fc", resources={"threads": 2},
        **{"train.max_steps": 50, "metric.learn": "none"},
    )  # fmt: skip
    kinds: dict[str, dict[str, Any]] = {
        "local": {"executor": "local"}, "1 worker": {"executor": "ray", "workers": 1},
        "2 workers": {"executor": "ray", "workers": 2},
    }  # fmt: skip
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for number in range(rounds):
        for kind, resources in kinds.items():
            root = work / f"{kind}-{number}"
            request = api.Request(str(source), load_settings(overrides=settings), model=str(model), dim=256)
            given = Resources(threads=1, memory_bytes=8 << 30, **resources)
            api.execute(api.prepare("run", root, request, given), progress=False)
            found[kind].append(stage_times(root))
            print(kind, found[kind][-1], flush=True)
            shutil.rmtree(root)
    rows = {}
    for stage in TIMED:
        best = {kind: min((each[stage] for each in runs), key=lambda times: times["s"]) for kind, runs in found.items()}
        rows[stage] = {
            **{f"{kind}, s": round(times["s"], 2) for kind, times in best.items()}, "tasks": best["local"]["tasks"],
            "two_against_one": round(best["1 worker"]["s"] / best["2 workers"]["s"], 2),
            "ray_overhead": round(best["1 worker"]["s"] / best["local"]["s"] - 1, 3),
        }  # fmt: skip
    for stage, row in rows.items():
        print(stage, row)
    write_record("ray_overhead", {"identities": identities, "threads": 1, "rounds": rounds, **settings}, rows)


def stage_times(root: Path) -> dict[str, dict[str, float]]:
    """Seconds from start to end, and tasks, of the stages that count as searching and as scoring."""
    found = {name: {"s": 0.0, "tasks": 0} for name in TIMED}
    for event in read_events(root):
        for name, starts in TIMED.items():
            if event["event"] == "stage_finished" and event["stage"].startswith(starts):
                found[name]["s"] += event["seconds"]
                found[name]["tasks"] += event["tasks_run"]
    return found


def schedule(work: Path, num_tasks: int, hosts: int = 64, workers_per_host: int = 8) -> None:
    """Empty tasks of ten stages through the runner and the executor, whose Ray is simulated; then resume."""
    from simulated_ray import SimulatedRay

    from engine.executors.ray import executor as module

    simulated = SimulatedRay(hosts * workers_per_host, losses=0.001)
    module.ray, module.make_actor = simulated, simulated.make_actor  # type: ignore[assignment]
    module.Metrics = NoMetrics  # type: ignore[assignment,misc]
    stages = [
        Stage(f"stage_{n}", "benchmark:empty", 1, {"edges": list(range(50))}, {"before": f"stage_{n - 1}"} if n else {},
              num_tasks // 10 * CHUNK_ROWS, Cost())
        for n in range(10)
    ]  # fmt: skip
    plan = make_plan(
        "run", stages, source_digest="s", memory_bytes=8 << 30, free_disk_bytes=1 << 60, block_rows=CHUNK_ROWS
    )
    source = Source("s", {}, 1, 1, 4, "s", None, [])
    request = {"features": "s", "settings": {}, "source": source.as_dict()}
    row: dict[str, Any] = {"tasks": num_tasks, "hosts": hosts, "workers": hosts * workers_per_host}
    base = tree_bytes()
    for what in ("run", "resume"):
        simulated.seconds, started = 0.0, time.perf_counter()
        executor = module.RayExecutor(workers=0, threads=8)
        run_plan(plan, Workshop(work / "run", executor, Quiet(), 8, "cpu"), request)
        row[f"{what}_s"] = round(time.perf_counter() - started, 1)
        row[f"{what}_driver_s"] = round(time.perf_counter() - started - simulated.seconds, 1)
    finished = [event for event in read_events(work / "run") if event["event"] == "stage_finished"]
    row["peak_bytes"] = max(event["peak_bytes"] for event in finished)
    row["baseline_bytes"] = base
    print(row)
    write_record("ray_schedule", {"block_rows": CHUNK_ROWS, "losses": 0.001}, row)


class NoMetrics:
    """No agent is there to count."""

    def count(self, outcome: Any) -> None:
        pass


if __name__ == "__main__":
    main()
