"""What each stage costs, a + b N seconds fitted at two sizes of the stand-in, beside what its ``Cost`` projects.

    python benchmarks/costs.py [--identities 400,1600] [--methods cosine] [--set NAME=VALUE] [--work FOLDER]
        [--no-record]

Every task runs on one thread, and its seconds are those that the processor spent on it, so other work on the machine
hardly shows. A stage whose cost tells of threads or products is projected at half the reference machine's speed, any
other at its speed, because such a stage uses one core of the two. The first size is run twice, because kernels are
compiled in the first run. ``knn.mode=partition`` with a recall that is never reached makes all passes run.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from recording import write_record

from engine import api
from engine.commands.configuration import load_settings
from engine.commands.resources import Resources
from engine.commands.standin import DIM
from engine.commands.standin_files import write_standin
from engine.executors.local import LocalExecutor
from engine.executors.protocol import Outcome
from engine.runs.progress import Quiet
from engine.runs.runner import Workshop, run_plan
from engine.stages import Stage
from engine.storage.context import TaskCall
from engine.storage.places import Place

ALL_PASSES = ["knn.mode=partition", "knn.recall=1", "partition.curve_rows=0"]


class Clocked(LocalExecutor):
    """Runs tasks one after another, and adds up the processor's seconds by stage."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def run(self, calls: Sequence[TaskCall]) -> Iterator[Outcome]:
        for call in calls:
            started = time.process_time()
            yield from super().run([call])
            self.seconds[call.stage] += time.process_time() - started


def measure(features: Path, root: Path, method: str, settings: list[str]) -> tuple[dict[str, float], dict[str, Stage]]:
    """Run a method on one thread; return the seconds of each stage that ran, and the plan's stages."""
    overrides: dict[str, Any] = dict(item.split("=", 1) for item in [*ALL_PASSES, *settings])
    request = api.Request(str(features), load_settings(overrides=overrides | {"method": method}), dim=DIM)
    prepared = api.prepare("run", root, request, Resources(threads=1, device="cpu"))
    executor = Clocked()
    record = {**prepared.request.as_dict(), "source": prepared.source.as_dict()}
    run_plan(prepared.plan, Workshop(Place(root), executor, Quiet(), 1, "cpu"), record)
    return dict(executor.seconds), {stage.name: stage for stage in prepared.plan.stages}


def projected(stage: Stage) -> float:
    """The seconds that the stage's cost projects for one thread."""
    threaded = stage.cost.bytes_per_thread or stage.cost.kind in ("codes", "floats")
    return stage.total_seconds * (2 if threaded else 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", default="400,1600")
    parser.add_argument("--methods", default="cosine")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--work")
    parser.add_argument("--no-record", action="store_true")
    asked = parser.parse_args()
    sizes = [int(count) for count in asked.identities.split(",")]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(asked.work or folder)
        for method in asked.methods.split(","):
            found: list[tuple[int, dict[str, float], dict[str, Stage]]] = []
            for number, count in enumerate([sizes[0], *sizes]):
                data = work / f"standin_{count}"
                if not data.exists():
                    write_standin(data, count, seed=0)
                root = work / f"{method}_{number}"
                found.append((count_rows(data), *measure(data / "features.bin", root, method, asked.settings)))
            (few, first, _), (many, second, stages) = found[1], found[-1]
            for name, stage in stages.items():
                if name not in first or name not in second:
                    continue
                slope = (second[name] - first[name]) / (many - few)
                row = {
                    "method": method, "stage": name, "rows": [few, many],
                    "seconds": [round(first[name], 2), round(second[name], 2)],
                    "seconds_per_million": round(1e6 * slope, 1),
                    "projected_per_million": round(1e6 * projected(stage) / many, 1),
                }  # fmt: skip
                row["ratio"] = round(row["seconds_per_million"] / max(row["projected_per_million"], 1e-9), 2)
                rows.append(row)
                print(f"{name:18} {row['seconds']} s: {row['seconds_per_million']:8.1f} s a million rows, projected "
                      f"{row['projected_per_million']:8.1f}, ratio {row['ratio']:.2f}", flush=True)  # fmt: skip
    if not asked.no_record:
        write_record("costs", {"identities": sizes, "threads": 1, "set": [*ALL_PASSES, *asked.settings]}, rows)


def count_rows(data: Path) -> int:
    """The rows of a stand-in."""
    return (data / "features.bin").stat().st_size // (4 * DIM)


if __name__ == "__main__":
    main()
