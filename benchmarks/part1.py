"""STAR-FC at part1 size: trained on a stand-in of part0's size, run on one of part1's, from .bin to labels.

    python benchmarks/part1.py [--identities 8573] [--work FOLDER]

The baselines beside it get the best thresholds there are, chosen on part1's own identities. Prints a table and writes
``benchmarks/records/part1.json`` (``part1_N.json`` for another number of identities).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from baselines import STEP, choose_cosine, vertex_identities
from recording import write_record

from engine import api, evaluate, summary
from engine.events import read_events
from engine.storage.formats import read_labels

PART1 = 8573


def stage_table(run: Path) -> list[dict[str, Any]]:
    """Seconds and peak memory of each stage, summed over the processes that ran it."""
    stages: dict[str, dict[str, Any]] = {}
    for event in read_events(run):
        if event["event"] == "stage_finished" and event["tasks_run"]:
            row = stages.setdefault(event["stage"], {"stage": event["stage"], "seconds": 0.0, "peak_bytes": 0})
            row["seconds"] = round(row["seconds"] + event["seconds"], 1)
            row["peak_bytes"] = max(row["peak_bytes"], event["peak_bytes"])
    return list(stages.values())


def main() -> None:
    """Make both parts, train, run, compare and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--identities", type=int, default=PART1, help="identities of each part")
    parser.add_argument("--work", type=Path, help="folder for data and runs, kept; default: a temporary one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        measure(arguments.work or Path(temporary), arguments.identities)


def measure(work: Path, identities: int) -> None:
    """Run the benchmark in ``work``."""
    for seed, part in enumerate(("part0", "part1")):
        if not (work / part / "labels.meta").exists():
            api.make_standin(work / part, identities, seed)
    source, truth = work / "part0/features.bin", work / "part0/labels.meta"
    api.train(source, truth, work / "model", dim=256, method="star_fc", progress=True)
    training_table = stage_table(work / "model")
    train_seconds = sum(stage["seconds"] for stage in training_table)
    run, source, labels = work / "run", work / "part1/features.bin", work / "part1/labels.meta"
    truth = read_labels(labels)
    rows = []

    def add(title: str, /, **arguments: Any) -> None:
        begun = time.perf_counter()
        result = api.cluster(source, dim=256, workspace=run, progress=True, **arguments)
        taken = time.perf_counter() - begun
        rows.append({"method": title, **evaluate(result.labels, truth), "point": summary.operating_point(run),
                     "seconds": round(taken, 1)})  # fmt: skip

    add("star_fc", model=work / "model")
    run_table = stage_table(run)
    recall = summary.recall_estimate(run)
    for partition in ("components", "propagation"):
        add(f"star_fc {partition}", model=work / "model", partition={"method": partition})
    add("no labels, cosine", method="cosine")  # on the graph of the vectors as they are, as all that follows
    threshold, (least, cap) = choose_cosine(run, vertex_identities(run, truth))
    add("cosine components, oracle", method="cosine", partition={"method": "components", "min_score": threshold})
    add("cosine CDP, oracle", method="cosine",
        partition={"method": "propagation", "min_score": least, "max_size": cap, "step": STEP})  # fmt: skip
    add("no labels, self_trained", method="self_trained")
    for row in rows:
        print(f"{row['method']:26} pairwise F {100 * row['pairwise_f']:5.1f}  BCubed F {100 * row['bcubed_f']:5.1f}  "
              f"NMI {100 * row['nmi']:5.1f}  {row['seconds']:7.1f} s")  # fmt: skip
    peak = max(stage["peak_bytes"] for stage in run_table)
    print(f"training {train_seconds:.0f} s; .bin to labels {rows[0]['seconds']:.0f} s, peak memory {peak / 1e9:.2f} GB")
    name = "part1" if identities == PART1 else f"part1_{identities}"
    results = {
        "rows": rows, "train_seconds": round(train_seconds, 1), "training_stages": training_table,
        "run_stages": run_table, "peak_bytes": peak, "recall": recall,
    }  # fmt: skip
    write_record(name, {"identities": identities, "num_rows": len(truth), "dim": 256}, results)


if __name__ == "__main__":
    main()
