"""Calibration and speed of the stand-in data: ``python benchmarks/standin.py``, some ten minutes on two cores.

Clusters 2,000 identities of each seed by two plain methods whose scores on such data are known (``TARGETS``), over the
exact KNN graph (K = 80, all neighbours), each at the threshold of best pairwise F on the true labels: connected
components, and propagation capped at 600 vertices with step 0.05. Whoever changes the generator must keep the means
over the seeds within ``TOLERANCE`` points: single seeds stray further. Also takes the share of neighbours of the
same label at the size of a benchmark part, the rate of generation and its peak memory. Writes
``benchmarks/records/standin.json``.

The targets came without the steps of their search. Near the components' best threshold, BCubed F falls by 2 to 3 points
per 0.01 while pairwise F is flat, so the steps decide it. Compared here are steps of 0.05, chosen because they give
both targets at once; the record holds the best of steps of 0.005 and 0.01 beside them (``finer_``).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from engine.clustering.forest import strongest_forest
from engine.clustering.propagation import propagate
from engine.clustering.union_find import component_roots
from engine.commands.machine import hardware, versions
from engine.commands.standin import PARTS, synthesize
from engine.evaluation.metrics import Scores, evaluate_labels
from engine.evaluation.sweep import threshold_sweep
from engine.graph.adjacency import undirected_edges
from engine.graph.knn import exact_neighbors, neighbors_of_rows
from engine.tiles import usable_cores

RECORD = Path(__file__).parent / "records" / "standin.json"
IDENTITIES, K, MAX_SIZE, STEP = 2_000, 80, 600, 0.05
PART_SEED, PART_QUERIES = 1, 5_000
# Component thresholds descend (one sweep); the coarse ones are among the fine ones.
COMPONENT_THRESHOLDS = {"components": np.arange(90, 30, -5) / 100, "finer_components": np.arange(180, 60, -1) / 200}
PROPAGATION_THRESHOLDS = {"propagation": np.arange(40, 66, 5) / 100, "finer_propagation": np.arange(40, 66) / 100}
RANKS = (10, 40, 80)
TARGETS = {
    "components": {"pairwise_f": 65.8, "bcubed_f": 63.6, "nmi": 89.6},
    "propagation": {
        "pairwise_f": 78.5,
        "pairwise_precision": 83.9,
        "pairwise_recall": 73.7,
        "bcubed_f": 84.1,
        "nmi": 94.6,
    },
    "same_label_share": {"10": 0.95, "40": 0.87, "80": 0.73},
}
TOLERANCE = 3.0


def main() -> int:
    """Run, print, write the record; 1 if the means leave the targets by more than the tolerance."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--record", type=Path, default=RECORD, help="where to write the record")
    arguments = parser.parse_args()
    threads = usable_cores()
    record: dict[str, Any] = {
        "hardware": hardware(),
        "versions": versions(),
        "settings": {"identities": IDENTITIES, "k": K, "max_size": MAX_SIZE, "step": STEP, "threads": threads},
        "targets": TARGETS,
        "peak": peak_memory(),
        "seeds": [],
    }
    for seed in arguments.seeds:
        record["seeds"].append(calibrate(seed, threads))
        print(json.dumps(record["seeds"][-1]), flush=True)
    record.update(summarise(record["seeds"]))
    record["part"] = part_share(threads)
    arguments.record.parent.mkdir(parents=True, exist_ok=True)
    arguments.record.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps({name: record[name] for name in ("means", "largest_deviation", "part")}, indent=1))
    return int(record["largest_deviation"] > TOLERANCE)


def calibrate(seed: int, threads: int) -> dict[str, Any]:
    """Score both methods, in percent, on one seed."""
    standin = synthesize(IDENTITIES, seed, threads)
    started, cpu = time.perf_counter(), time.process_time()
    features_ND, labels_N = standin.rows(0, standin.num_rows, threads)
    rates = {
        "rows_per_s": round(standin.num_rows / (time.perf_counter() - started)),
        "rows_per_cpu_s": round(standin.num_rows / (time.process_time() - cpu)),
    }
    n = standin.num_rows
    neighbors_NK, similarities_NK = exact_neighbors(features_ND, 0, n, K, None, threads)
    edges = undirected_edges(neighbors_NK, similarities_NK, 0, n, threads=threads)
    forest = strongest_forest(*edges)
    results: dict[str, dict[str, float]] = {}
    for name, thresholds in COMPONENT_THRESHOLDS.items():
        best = max(threshold_sweep(n, *forest, thresholds, labels_N), key=lambda row: row.pairwise_f or 0)
        kept = forest[2] >= np.float32(best.threshold)
        scores = evaluate_labels(component_roots(n, forest[0][kept], forest[1][kept]), labels_N)
        results[name] = _percent(scores, best.threshold)
    for name, thresholds in PROPAGATION_THRESHOLDS.items():
        attempts = [
            (evaluate_labels(propagate(n, *forest, min_score=th, max_size=MAX_SIZE, step=STEP), labels_N), float(th))
            for th in thresholds
        ]
        results[name] = _percent(*max(attempts, key=lambda attempt: attempt[0].pairwise_f))
    return {
        "seed": seed,
        "rows": n,
        "generation": rates,
        **results,
        "same_label_share": _same_label_share(neighbors_NK, labels_N, labels_N),
    }


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Average the seeds and take the largest deviation from the targets, in points."""
    means = {
        method: {name: round(float(np.mean([run[method][name] for run in runs])), 2) for name in TARGETS["propagation"]}
        for method in (*COMPONENT_THRESHOLDS, *PROPAGATION_THRESHOLDS)
    }
    deviations = [abs(means[m][name] - TARGETS[m][name]) for m in ("components", "propagation") for name in TARGETS[m]]
    return {"means": means, "largest_deviation": round(max(deviations), 2)}


def part_share(threads: int) -> dict[str, Any]:
    """Share of sampled rows' neighbours that have the row's label, at the size of a benchmark part."""
    standin = synthesize(PARTS["part1"], PART_SEED, threads)
    started = time.perf_counter()
    features_ND, labels_N = standin.rows(0, standin.num_rows, threads)
    rate = round(standin.num_rows / (time.perf_counter() - started))
    queries_M = np.linspace(0, standin.num_rows - 1, PART_QUERIES).astype(np.int32)
    neighbors_MK, _ = neighbors_of_rows(features_ND, queries_M, K, None, threads)
    return {
        "identities": PARTS["part1"],
        "seed": PART_SEED,
        "rows": standin.num_rows,
        "queries": PART_QUERIES,
        "rows_per_s": rate,
        "same_label_share": _same_label_share(neighbors_MK, labels_N[queries_M], labels_N),
    }


def peak_memory() -> dict[str, Any]:
    """Peak resident memory of drawing ten million rows' identities and then a few blocks, in a process of its own."""
    script = (
        "import resource; from itertools import islice; from engine.commands.standin import PARTS, synthesize;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        f"empty = peak(); s = synthesize({PARTS['ten-million']}, 1, 2); drawn = peak();"
        "blocks = [len(y) for _, y in islice(s.blocks(threads=2), 8)]; print(s.num_rows, empty, drawn, peak())"
    )
    rows, empty, drawn, blocks = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()
    unit = 1 if platform.system() == "Darwin" else 1024
    return {
        "identities": PARTS["ten-million"],
        "rows": int(rows),
        "imports_bytes": int(empty) * unit,
        "synthesize_bytes": int(drawn) * unit,
        "blocks_bytes": int(blocks) * unit,
    }


def _percent(scores: Scores, threshold: float) -> dict[str, float]:
    names = TARGETS["propagation"]
    values = scores.as_dict()
    return {"threshold": round(threshold, 3), **{name: round(100 * values[name], 2) for name in names}}


def _same_label_share(neighbors_MK: Any, labels_M: Any, labels_N: Any) -> dict[str, float]:
    same_MK = labels_N[neighbors_MK] == labels_M[:, None]
    return {str(rank): round(float(same_MK[:, :rank].mean()), 3) for rank in RANKS}


if __name__ == "__main__":
    sys.exit(main())
