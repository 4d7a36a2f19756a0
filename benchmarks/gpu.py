"""The KNN graph on a CUDA device: exact and approximate, at several sizes, beside the same machine's CPU cores.

    python benchmarks/gpu.py [--parts part1,part9] [--kinds partition,exact,cpu] [--record FILE]

Each part is made, its graph built (kind ``cpu`` is ``partition`` without the device), measured and deleted. Needs
torch with CUDA. Writes ``benchmarks/records/gpu.json``.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from part1 import stage_table
from recording import RECORDS, write_record
from scale import PARTS

from engine import api, summary
from engine.config import Resources, load_settings
from engine.executors.local import LocalExecutor
from engine.progress import make_display
from engine.runner import Workshop, run_plan


def build_graph(source: Path, folder: Path, mode: str, device: str) -> list[dict[str, Any]]:
    """Run the stages up to the measured KNN graph; returns their seconds and peaks."""
    request = api.Request(features=str(source), dim=256, settings=load_settings(overrides={"knn.mode": mode}))
    prepared = api.prepare("run", folder, request, Resources(device=device))
    names = [stage.name for stage in prepared.plan.stages]
    plan = replace(prepared.plan, stages=prepared.plan.stages[: names.index("recall") + 1])
    workshop = Workshop(folder, LocalExecutor(), make_display(True), prepared.threads, prepared.device)
    run_plan(plan, workshop, {**request.as_dict(), "source": prepared.source.as_dict()})
    return stage_table(folder)


def main() -> None:
    """Measure the parts and kinds asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="part1,part9", help="parts to make, by commas")
    parser.add_argument("--kinds", default="partition,exact,cpu", help="graphs to build, by commas")
    parser.add_argument("--record", type=Path, default=RECORDS / "gpu.json", help="record to add rows to")
    arguments = parser.parse_args()
    rows = json.loads(arguments.record.read_text())["results"] if arguments.record.exists() else []
    for part in arguments.parts.split(","):
        with tempfile.TemporaryDirectory() as work:
            data = Path(work) / "data"
            api.make_standin(data, PARTS[part], 1 if part == "part1" else 1 + list(PARTS).index(part))
            for kind in arguments.kinds.split(","):
                folder = Path(work) / "run"
                mode, device = ("partition", "cpu") if kind == "cpu" else (kind, "cuda")
                stages = build_graph(data / "features.bin", folder, mode, device)
                graph = [stage for stage in stages if stage["stage"] not in ("ingest", "truth", "recall")]
                seconds = round(sum(stage["seconds"] for stage in graph), 1)
                recall = summary.recall_estimate(folder)
                print(f"{part} {kind}: {seconds} s, {recall}", flush=True)
                rows.append({
                    "part": part, "kind": kind, "knn_seconds": seconds, "recall": recall, "stages": stages,
                    "gpu_bytes": torch.cuda.max_memory_allocated(),
                })  # fmt: skip
                torch.cuda.reset_peak_memory_stats()
                shutil.rmtree(folder)
                write_record(arguments.record.stem, {"gpu": torch.cuda.get_device_name(), "dim": 256, "k": 80}, rows)
                if arguments.record.parent != RECORDS:
                    shutil.copy(RECORDS / f"{arguments.record.stem}.json", arguments.record)


if __name__ == "__main__":
    main()
