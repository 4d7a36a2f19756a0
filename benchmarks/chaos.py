"""SIGKILLs over every stage of a run, local and on Ray workers: ``python benchmarks/chaos.py``, some minutes.

Clusters 30,000 synthetic vectors undisturbed; then kills the process again and again, at random moments of every stage,
resuming each time; then kills Ray workers under a run that goes on. Labels must be the same bytes, and no committed
task may run again. Writes ``benchmarks/records/chaos.json``; ends with 1 if a claim fails.

``--cluster N``: N jobs on a Ray cluster of a head and three hosts, each a process, with kills of workers, actors,
whole hosts and drivers, which are submitted again, so that every stage is struck by every kind in turn. Clusters a
stand-in of ``--identities`` (or ``--part1``), without labels or with ``--model``, and writes
``benchmarks/records/chaos_cluster_IDENTITIES.json`` after every run; ``--first K`` adds runs K, K + 1, ... to it.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import cluster_chaos

from engine.commands.configuration import parse_overrides
from engine.commands.machine import hardware, versions
from engine.commands.standin import PARTS
from tests.support import killing
from tests.support.vectors import make_blobs

RECORD = Path(__file__).parent / "records" / "chaos.json"
NUM_ROWS, DIM = 30_000, 32
RAY_RESOURCES = {**killing.RESOURCES, "workers": 2}


def main() -> int:
    """Run, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="kills of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, default=RECORD, help="where to write the record")
    parser.add_argument("--cluster", type=int, default=0, metavar="N", help="N runs on a Ray cluster instead")
    parser.add_argument("--identities", type=int, default=2000, help="with --cluster: size of the stand-in")
    parser.add_argument("--first", type=int, default=0, metavar="K", help="with --cluster: go on with run K")
    parser.add_argument("--model", type=Path, help="with --cluster: the model to cluster with")
    parser.add_argument("--part1", action="store_true", help="with --cluster: the stand-in of part1, 8,573 identities")
    parser.add_argument("--set", action="append", default=[], help="with --cluster: a setting of the runs")
    arguments = parser.parse_args()
    if arguments.cluster:
        identities = PARTS["part1"] if arguments.part1 else arguments.identities
        with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
            chaos = cluster_chaos.Chaos(identities, arguments.seed, parse_overrides(arguments.set), arguments.model)
            return chaos.run(range(arguments.first, arguments.first + arguments.cluster), Path(folder))
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        scratch = Path(folder)
        features = scratch / "features.npy"
        np.save(features, make_blobs(NUM_ROWS, DIM))
        undisturbed = scratch / "undisturbed"
        finish(killing.start(features, undisturbed))
        expected = killing.labels_bytes(undisturbed)
        rows = [
            kill_processes(features, scratch, undisturbed, expected, arguments.kills, random.Random(arguments.seed)),
            kill_ray_workers(features, scratch, expected, arguments.kills, random.Random(arguments.seed)),
        ]
    record = {
        "hardware": hardware(),
        "versions": versions(),
        "settings": {
            "num_rows": NUM_ROWS, "dim": DIM, "seed": arguments.seed, **killing.ARGUMENTS, **killing.RESOURCES,
        },
        "runs": rows,
    }  # fmt: skip
    arguments.record.parent.mkdir(exist_ok=True)
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    for row in rows:
        print(f"\n{row['killed']}: {len(row['kills'])} kills, {row['tasks']} tasks, {row['seconds']:.0f} s")
        for stage in dict.fromkeys(kill["stage"] for kill in row["kills"]):
            print(f"  {stage:<12}{sum(kill['stage'] == stage for kill in row['kills']):>3}")
        print(f"  labels the same bytes: {row['same_bytes']}; committed tasks run again: {row['run_again']}")
    return 0 if all(row["same_bytes"] and not row["run_again"] for row in rows) else 1


def kill_processes(
    features: Path, scratch: Path, undisturbed: Path, expected: bytes, num_kills: int, rng: random.Random
) -> dict[str, Any]:
    """SIGKILL the local process until ``num_kills`` are done: every stage in turn, some of them twice."""
    durations = killing.stage_seconds(undisturbed)
    started, kills, outcomes = time.perf_counter(), [], []
    while len(kills) < num_kills:
        root = scratch / f"killed{len(outcomes)}"
        hits = Counter(kill["stage"] for kill in kills)
        least_hit = sorted(durations, key=lambda stage: (hits[stage], rng.random()))[: num_kills - len(kills)]
        stages = sorted(least_hit, key=list(durations).index)
        kills += killing.kill_repeatedly(features, root, durations, stages, rng)
        outcomes.append((root, killing.labels_bytes(root) == expected))
    return result("process, local executor", kills, outcomes, started)


def kill_ray_workers(
    features: Path, scratch: Path, expected: bytes, num_kills: int, rng: random.Random
) -> dict[str, Any]:
    """SIGKILL Ray workers under runs that go on, until ``num_kills`` are done."""
    root = scratch / "ray"
    finish(killing.start(features, root, "ray", RAY_RESOURCES))
    outcomes = [(root, killing.labels_bytes(root) == expected)]
    durations = killing.stage_seconds(root) | {"ingest": 0.1}  # Ray starts in the first stage
    started, kills = time.perf_counter(), []
    while len(kills) < num_kills:
        root = scratch / f"ray{len(outcomes)}"
        process = killing.start(features, root, "ray", RAY_RESOURCES)
        kills += killing.kill_workers(process, root, durations, num_kills - len(kills), rng)
        finish(process)
        outcomes.append((root, killing.labels_bytes(root) == expected))
    return result("Ray workers, ray executor", kills, outcomes, started)


def result(
    killed: str, kills: list[dict[str, Any]], outcomes: list[tuple[Path, bool]], started: float
) -> dict[str, Any]:
    return {
        "killed": killed,
        "kills": kills,
        "tasks": sum(killing.count_records(root) for root, _ in outcomes),
        "same_bytes": all(same for _, same in outcomes),
        "run_again": sum(count - 1 for root, _ in outcomes for count in killing.commits(root).values()),
        "seconds": round(time.perf_counter() - started, 1),
    }


def finish(process: Any) -> None:
    """Wait for a run that has to end well."""
    process.join()
    if process.exitcode != 0:
        raise SystemExit(f"a run that nobody killed ended with {process.exitcode}")


if __name__ == "__main__":
    raise SystemExit(main())
