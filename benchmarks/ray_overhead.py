"""What Ray costs: against the local executor, from one worker to two, and in the driver at 10^5 tasks.

    python benchmarks/ray_overhead.py                 # a stand-in: Ray's overhead per task; two workers against one
    python benchmarks/ray_overhead.py --schedule      # no data: the driver's seconds and memory over 10^5 empty tasks

Writes ``benchmarks/records/ray_overhead.json``, or ``ray_schedule.json``.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from recording import write_record

from engine import api
from engine.config import Resources, load_settings
from engine.events import read_events
from engine.memory import tree_bytes
from engine.plan import CHUNK_ROWS, Cost, Stage, make_plan
from engine.progress import Quiet
from engine.runner import Workshop, run_plan

TIMED = ("knn", "score")


def main() -> None:
    """Measure what was asked for, print it, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=700, help="size of the stand-in")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turn; the fastest counts")
    parser.add_argument("--schedule", action="store_true", help="simulate 64 hosts instead")
    parser.add_argument("--tasks", type=int, default=100_000, help="with --schedule")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.schedule:
            schedule(Path(folder), arguments.tasks)
        else:
            compare(Path(folder), arguments.identities, arguments.rounds)


def compare(work: Path, identities: int, rounds: int) -> None:
    """One thread each: the local executor, one Ray worker, two; seconds of searching and scoring."""
    api.make_standin(work / "data", identities, 1)
    source = work / "data/features.bin"
    settings = {"knn": {"mode": "exact", "recall_samples": 0}, "partition.curve_rows": 0}
    model = api.train(
        source, work / "data/labels.meta", work / "model", dim=256, method="star_fc", resources={"threads": 2},
        **{"train.max_steps": 50, "metric.learn": "none"},
    )  # fmt: skip
    kinds: dict[str, dict[str, Any]] = {
        "local": {"executor": "local"}, "1 worker": {"executor": "ray", "workers": 1},
        "2 workers": {"executor": "ray", "workers": 2},
    }  # fmt: skip
    times: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    tasks: dict[str, int] = {}
    for number in range(rounds):
        for kind, resources in kinds.items():
            root = work / f"{kind}-{number}"
            request = api.Request(str(source), load_settings(overrides=settings), model=str(model), dim=256)
            given = Resources(threads=1, block_rows=2 * CHUNK_ROWS, memory_bytes=8 << 30, **resources)
            api.execute(api.prepare("run", root, request, given), progress=False)
            events = [event for event in read_events(root) if event["event"] == "stage_finished"]
            times[kind].append({event["stage"]: event["seconds"] for event in events})
            tasks = {event["stage"]: event["tasks_run"] for event in events}
    best = {kind: {s: min(t[s] for t in found) for s in found[0]} for kind, found in times.items()}
    rows = {
        stage: {
            **{kind: found[stage] for kind, found in best.items()}, "tasks": tasks[stage],
            "two_against_one": round(best["1 worker"][stage] / best["2 workers"][stage], 2),
            "overhead_s_per_task": round((best["1 worker"][stage] - best["local"][stage]) / tasks[stage], 3),
        }
        for stage in TIMED
    }  # fmt: skip
    for stage, row in rows.items():
        print(stage, row)
    write_record("ray_overhead", {"identities": identities, "threads": 1, "rounds": rounds, **settings}, rows)


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
    request = {"source": {"digest": "s", "path": "s", "num_rows": 1, "dim": 1}}
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
