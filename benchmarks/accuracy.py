"""Every method on every labelled data set: ``asterism compare`` on their own splits, over several seeds.

    python benchmarks/accuracy.py --data ../shared/data [--only pricerunner] [--methods structural hdbscan]
        [--seeds 0 1 2] [--outside PYTHON] [--work FOLDER] [--table]

Trained, and every parameter chosen, on split 0's identities, run on split 1's. Two rows without labels have defaults
that were settled on the real sets: ``cosine:map_equation``, and ``self_trained``'s trees. A learned
method's row without a partition is the one that training chose. What draws nothing at random is run with the first
seed alone. Leiden and Infomap need ``--outside``, the interpreter of an environment with igraph and infomap, which are
GPL and no part of this project. Rows of ``benchmarks/records/accuracy.json`` are replaced by data set, method and
seed; ``--table`` only prints them, mean and spread (half of the range) over the seeds, and what they cost.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import outside
from datasets import SETS, STANDINS, read_set
from recording import read_rows, record_row
from run_graph import read_edges, vertex_identities

from engine import api, compare, evaluate
from engine.methods.baselines.steps import KINDS

PARTITIONS = ("components", "propagation", "density_peaks", "map_equation")
NETWORKS = ("cdp_mediator", "gcn_v", "gcn_e", "l_gcn", "gcn_d", "gcn_d/20_proposals", "gcn_s", "star_fc_hierarchical")
SEEDED = ("self_trained", "fc_eser", *NETWORKS, "star_fc", "structural", "kmeans", "minibatch_kmeans", "spectral",
          "chinese_whispers")  # fmt: skip
METHODS = (
    *KINDS, "cdp", "fc_es", "fc_eser", "cosine", "cosine:map_equation", "self_trained", *outside.VALUES, *NETWORKS,
    *(name for method in ("star_fc", "structural") for name in (*(f"{method}:{each}" for each in PARTITIONS), method)),
)  # fmt: skip


def measure(
    data: Path, name: str, work: Path, seed: int, first: bool, methods: list[str], python: str | None
) -> Iterator[dict]:
    """Train and run on one data set; yield a row per method."""
    wanted = [each for each in methods if first or each.partition(":")[0] in SEEDED or each in outside.VALUES]
    ours = [each for each in wanted if each not in outside.VALUES]
    features, labels, split = read_set(data, name)
    work.mkdir(parents=True, exist_ok=True)
    for part, array in (("features", features), ("labels", labels), ("split", split)):
        if not (work / f"{part}.npy").exists():  # a file written again is another source
            np.save(work / f"{part}.npy", array)
    given = {"data": name, "seed": seed}
    for kind in [each for each in wanted if each in outside.VALUES and python]:
        assert python is not None
        graphs = [
            _cosine_graph(work / f"outside-{part}", features[split == part], labels[split == part]) for part in (0, 1)
        ]
        started = time.perf_counter()
        point = outside.choose(python, kind, *graphs[0], seed)
        chosen, started = time.perf_counter() - started, time.perf_counter()
        edges, identities = graphs[1]
        found = next(outside.cluster(python, kind, len(identities), edges, [point]))
        seconds = time.perf_counter() - started
        yield {**given, "method": kind, **evaluate(found, identities), "point": point,
               "run_seconds": round(seconds, 1), "train_seconds": round(chosen, 1)}  # fmt: skip
    del features
    for method in ours:
        (row,) = compare(
            work / "features.npy", work / "labels.npy", work / f"seed-{seed}", [method], split=work / "split.npy",
            seed=seed, progress=True,
        )  # fmt: skip
        tree = asdict(row)
        yield {**given, "method": tree.pop("name"), **tree.pop("scores"),
               **{key: value for key, value in tree.items() if value or key != "missing"}}  # fmt: skip


def _cosine_graph(folder: Path, features: np.ndarray, labels: np.ndarray) -> tuple[Any, np.ndarray]:
    run = api.cluster(features, workspace=folder, method="cosine").run
    return read_edges(run), vertex_identities(run, labels)


def table(rows: list[dict[str, Any]], cell: Callable[[list[dict[str, Any]]], str]) -> str:
    """Markdown: a line for each method, a column for each data set, and in it what ``cell`` says of its seeds' rows."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for each in sorted(rows, key=lambda row: _order(row)[1:]):
        cells[each["method"], each["data"]].append(each)
    names = [name for name in SETS if any(data == name for _, data in cells)]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for method in dict.fromkeys(method for method, _ in cells):
        found = [cells.get((method, name), []) for name in names]
        said = [cell(each) if each and "missing" not in each[0] else "–" for each in found]
        lines.append("| " + " | ".join([method, *said]) + " |")
    return "\n".join(lines)


def scores(rows: list[dict[str, Any]]) -> str:
    """Pairwise F / BCubed F, mean ± spread where there are several seeds."""
    parts = []
    for name in ("pairwise_f", "bcubed_f"):
        values = [100 * each[name] for each in rows]
        spread = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
        parts.append(f"{np.mean(values):.1f}{spread}")
    return " / ".join(parts)


def costs(rows: list[dict[str, Any]]) -> str:
    """Seconds of training / of the run / peak memory in GB, of the first seed."""
    row = rows[0]
    memory = f"{row['peak_bytes'] / 1e9:.1f}" if row.get("peak_bytes") else "–"
    return f"{row['train_seconds']:.0f} / {row['run_seconds']:.0f} / {memory}"


def main() -> None:
    """Measure and record, or print what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--only", nargs="*", choices=SETS, help="data sets; default: all of them")
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--outside", help="interpreter of an environment with igraph and infomap")
    parser.add_argument("--work", type=Path, help="folder for runs, kept and resumed; default: a temporary one")
    parser.add_argument("--table", action="store_true", help="only print what is recorded")
    arguments = parser.parse_args()
    if arguments.table:
        rows = read_rows("accuracy")
        print(table(rows, scores), table(rows, costs), sep="\n\n")
        return
    sets = arguments.only or list(SETS)
    if arguments.data is None and set(sets) - set(STANDINS):
        parser.error("--data names the folder of the real data sets")
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for name, seed in product(sets, arguments.seeds):
            first = seed == arguments.seeds[0]
            for row in measure(arguments.data, name, work / name, seed, first, arguments.methods, arguments.outside):
                record_row("accuracy", {}, row, ("data", "method", "seed"), _order)
                what = row.get("missing") or f"{scores([row])}  {row['point']}"
                print(f"{name:20} {row['method']:26} {what}", flush=True)


def _order(row: dict[str, Any]) -> tuple[int, int, str, int]:
    place = METHODS.index(row["method"]) if row["method"] in METHODS else len(METHODS)
    return SETS.index(row["data"]), place, row["method"], row["seed"]


if __name__ == "__main__":
    main()
