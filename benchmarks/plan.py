"""What a plan projects beside what the run then takes: memory, disk and seconds of every stage.

    python benchmarks/plan.py [--identities 8573] [--train-identities 500] [--model FOLDER] [--work FOLDER]

A model is trained on a small stand-in, unless one is given; then a larger stand-in is clustered with it, and without
it. Each is planned first, as ``asterism plan`` does, and run in a process of its own. Disk of the whole run is the most
held at a time, of a stage what it leaves: nothing if what it wrote is deleted once read. Prints the ratios of projected
to measured and writes ``benchmarks/records/plan.json`` (``plan_N.json`` for another number of identities).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from datasets import STANDINS
from recording import write_record
from run_graph import stage_table
from scale import run

from engine import api
from engine.commands.configuration import load_settings
from engine.commands.probes import measure_speeds
from engine.commands.resources import MEMORY_SHARE, Resources
from engine.process.memory import free_bytes
from engine.stages import Stage
from engine.units import human_bytes

MEASURES = ("bytes", "disk_bytes", "seconds")
SOON_S = 1.0  # of a stage that takes less the seconds are mostly what any stage takes to begin, and no ratio is printed


def measure(kind: str, words: list[str], prepared: api.Prepared, memory: str) -> dict[str, Any]:
    """Run what was prepared and compare: a row per stage that ran, and the whole run's ratios."""
    root = prepared.root
    speeds = measure_speeds(root, prepared.threads)
    command = [*words, "--out", prepared.request.out or str(root)]
    command += ["--memory", memory, "--threads", str(prepared.threads), "--quiet"]
    most_bytes = run(command, root)[1]
    measured = {row["stage"]: row for row in stage_table(root)}
    rows = [
        _row(stage, stage.seconds(speeds), measured[stage.name], root)
        for stage in prepared.plan.stages
        if stage.name in measured
    ]
    whole = {
        "projected": _whole([row["projected"] for row in rows]), "measured": _whole([row["measured"] for row in rows])
    }  # fmt: skip
    whole["projected"]["disk_bytes"], whole["measured"]["disk_bytes"] = prepared.plan.disk_bytes, most_bytes
    whole["ratio"] = _ratio(whole["projected"], whole["measured"])
    title = {"training": "training", "star_fc": "run with the model", "no_model": "run without a model"}[kind]
    print(f"\n{title}: {prepared.source.num_rows:,} rows, speeds {speeds}")
    print(f"{'stage':12} {'memory: projected, measured':>34} {'disk':>30} {'seconds':>24}")
    for row in [*rows, {"stage": "whole run", **whole}]:
        p, m, r = row["projected"], row["measured"], row["ratio"]
        print(f"{row['stage']:12} {human_bytes(p['bytes']):>13} {human_bytes(m['bytes']):>11} {_times(r['bytes'])} "
              f"{human_bytes(p['disk_bytes']):>11} {human_bytes(m['disk_bytes']):>11} {_times(r['disk_bytes'])} "
              f"{p['seconds']:8.1f} {m['seconds']:8.1f} {_times(r['seconds'])}")  # fmt: skip
    return {"kind": kind, "num_rows": prepared.source.num_rows, "speeds": speeds, "whole": whole, "stages": rows}


def _row(stage: Stage, seconds: float, taken: dict[str, Any], root: Path) -> dict[str, Any]:
    on_disk = sum(path.stat().st_size for path in (root / stage.folder).rglob("*") if path.is_file())
    projected = {"bytes": stage.memory_bytes, "disk_bytes": stage.disk_bytes, "seconds": round(seconds, 2)}
    found = {"bytes": taken["peak_bytes"], "disk_bytes": on_disk, "seconds": taken["seconds"]}
    return {"stage": stage.name, "projected": projected, "measured": found, "ratio": _ratio(projected, found)}


def _ratio(projected: dict[str, Any], measured: dict[str, Any]) -> dict[str, float | None]:
    ratios = {name: round(projected[name] / max(measured[name], 1e-9), 2) for name in MEASURES}
    soon = max(projected["seconds"], measured["seconds"]) < SOON_S
    return {**ratios, "seconds": None if soon else ratios["seconds"]}


def _whole(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "bytes": max(row["bytes"] for row in rows), "disk_bytes": sum(row["disk_bytes"] for row in rows),
        "seconds": round(sum(row["seconds"] for row in rows), 2),
    }  # fmt: skip


def _times(ratio: float | None) -> str:
    return "     " if ratio is None else f"{ratio:5.2f}"


def main() -> None:
    """Make the stand-ins, plan, run, compare and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--identities", type=int, default=STANDINS["part1"], help="identities of the stand-in that is clustered"
    )
    parser.add_argument("--train-identities", type=int, default=500, help="identities of the one trained on")
    parser.add_argument("--model", type=Path, help="a trained model; default: train one, and measure that too")
    parser.add_argument("--threads", type=int, default=0, help="threads; 0 = all cores")
    parser.add_argument("--work", type=Path, help="folder for data and runs, kept; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        results, model = [], arguments.model or work / "model"
        memory = int(MEMORY_SHARE * free_bytes())
        resources = Resources(memory_bytes=memory, threads=arguments.threads)

        def add(kind: str, data: Path, out: Path, labels: Path | None = None, given: Path | None = None) -> None:
            request = api.Request(
                features=str(data / "features.bin"), dim=256, labels=labels and str(labels), model=given and str(given),
                settings=load_settings(method="star_fc" if kind == "training" else None),
                out=str(out) if kind == "training" else None,
            )  # fmt: skip
            folder = api.training_folder(out) if kind == "training" else out
            prepared = api.prepare("training" if kind == "training" else "run", folder, request, resources)
            words = ["train" if kind == "training" else "run", "--features", request.features, "--dim", "256"]
            words += ["--labels", str(labels)] if labels else []
            words += ["--method", "star_fc"] if kind == "training" else []
            words += ["--model", str(given)] if given else []
            results.append(measure(kind, words, prepared, str(memory)))

        if arguments.model is None:
            data = work / "train"
            if not (data / "labels.meta").exists():
                api.make_standin(data, arguments.train_identities, 0)
            add("training", data, model, data / "labels.meta")
        data = work / "data"
        if not (data / "labels.meta").exists():
            api.make_standin(data, arguments.identities, 1)
        add("star_fc", data, work / "run", data / "labels.meta", model)
        add("no_model", data, work / "run-no-model")
        name = "plan" if arguments.identities == STANDINS["part1"] else f"plan_{arguments.identities}"
        settings = {"identities": arguments.identities, "train_identities": arguments.train_identities, "dim": 256}
        write_record(name, settings, results)


if __name__ == "__main__":
    main()
