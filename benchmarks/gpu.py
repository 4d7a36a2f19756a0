"""On a CUDA device: the KNN graph, exact and approximate, beside the same machine's CPU cores; STAR-FC from end to end.

    python benchmarks/gpu.py [--parts part1,part9] [--kinds partition,exact,cpu,star_fc]

Each part is made, its graph built (kind ``cpu`` is ``partition`` without the device), measured and deleted; kind
``star_fc`` trains on the part0 stand-in, once, and clusters the part with that, ``.bin`` to labels. Needs torch with
CUDA. Rows of ``benchmarks/records/gpu.json`` are replaced by part and kind.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from recording import record_row
from run_graph import stage_table
from scale import PARTS, run

from engine import api, evaluate
from engine.commands.configuration import load_settings
from engine.commands.resources import Resources
from engine.commands.run_folder import recall_estimate
from engine.executors.local import LocalExecutor
from engine.runs.progress import make_display
from engine.runs.runner import Workshop, run_plan
from engine.storage.formats.label_files import read_labels
from engine.storage.places import Place


def build_graph(source: Path, folder: Path, mode: str, device: str) -> list[dict[str, Any]]:
    """Run the stages up to the measured KNN graph; returns their seconds and peaks."""
    request = api.Request(features=str(source), dim=256, settings=load_settings(overrides={"knn.mode": mode}))
    prepared = api.prepare("run", folder, request, Resources(device=device))
    names = [stage.name for stage in prepared.plan.stages]
    plan = replace(prepared.plan, stages=prepared.plan.stages[: names.index("recall") + 1])
    workshop = Workshop(Place(folder), LocalExecutor(), make_display(True), prepared.threads, prepared.device)
    run_plan(plan, workshop, {**request.as_dict(), "source": prepared.source.as_dict()})
    return stage_table(folder)


def cluster_with_model(data: Path, folder: Path, model: Path) -> dict[str, Any]:
    """Train ``model`` unless it is there, run the part with it, on the device: seconds, peak, scores and stages."""
    words, row = ["--dim", "256", "--device", "cuda", "--quiet"], {}
    if not model.exists():
        train = model.with_name("part0")
        api.make_standin(train, PARTS["part1"], 0)
        given = ["train", "--method", "star_fc", "--features", str(train / "features.bin")]
        given += ["--labels", str(train / "labels.meta")]
        training = Path(api.training_folder(model))
        row["train_seconds"] = round(run([*given, *words, "--out", str(model)], training)[0], 1)
        row["train_stages"] = stage_table(training)
    given = ["run", "--features", str(data / "features.bin"), "--model", str(model)]
    row["seconds"] = round(run([*given, *words, "--out", str(folder)], folder)[0], 1)
    stages = stage_table(folder)
    row["peak_bytes"] = max(stage["peak_bytes"] for stage in stages)
    return row | evaluate(api.run_labels(folder), read_labels(data / "labels.meta")) | {"stages": stages}


def main() -> None:
    """Measure the parts and kinds asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default="part1,part9", help="parts to make, by commas")
    parser.add_argument("--kinds", default="partition,exact,cpu,star_fc", help="graphs to build, by commas")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        for part in arguments.parts.split(","):
            data, folder = Path(work) / "data", Path(work) / "run"
            api.make_standin(data, PARTS[part], 1 if part == "part1" else 1 + list(PARTS).index(part))
            for kind in arguments.kinds.split(","):
                row: dict[str, Any] = {"part": part, "kind": kind, "gpu": torch.cuda.get_device_name()}
                if kind == "star_fc":
                    row |= cluster_with_model(data, folder, Path(work) / "model")
                    print(f"{part} {kind}: {row['seconds']} s, F {row['pairwise_f']:.3f}", flush=True)
                else:
                    mode, device = ("partition", "cpu") if kind == "cpu" else (kind, "cuda")
                    stages = build_graph(data / "features.bin", folder, mode, device)
                    graph = [stage for stage in stages if stage["stage"] not in ("ingest", "truth", "recall")]
                    row |= {
                        "knn_seconds": round(sum(stage["seconds"] for stage in graph), 1),
                        "recall": recall_estimate(folder), "stages": stages,
                        "gpu_bytes": torch.cuda.max_memory_allocated(),
                    }  # fmt: skip
                    print(f"{part} {kind}: {row['knn_seconds']} s, {row['recall']}", flush=True)
                    torch.cuda.reset_peak_memory_stats()
                shutil.rmtree(folder)
                record_row(
                    "gpu", {"dim": 256, "k": 80}, row, ("part", "kind"), lambda each: list(PARTS).index(each["part"])
                )
            shutil.rmtree(data)


if __name__ == "__main__":
    main()
