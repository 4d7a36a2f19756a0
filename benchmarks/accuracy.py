"""Every method on every labelled data set: trained on split 0's identities, run on split 1's.

    python benchmarks/accuracy.py --data ../shared/data [--only pricerunner] [--methods structural HDBSCAN]
        [--seeds 0 1 2] [--outside PYTHON] [--work FOLDER] [--table]

Every parameter of every row is chosen on train identities, but for two rows without labels whose defaults were settled
on the real sets: the map equation on cosines, and self_trained's doubts and trees. Of a trained method each partition
is a row, and ``preferred`` the one that training chose. Baselines know no seed but those of ``--outside``, the
interpreter of an environment with igraph and infomap, which are GPL and no part of this project. A row that a method
cannot have says why. Rows of ``benchmarks/records/accuracy.json`` are replaced by data set, method and seed;
``--table`` only prints them, mean and spread (half of the range) over the seeds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from baselines import Sample, baselines, choose
from datasets import SETS, STANDINS, read_set
from recording import read_rows, record_row

from engine import api, evaluate, summary

LEARNED = ("star_fc", "structural")
UNLABELLED: dict[str, dict[str, Any]] = {
    "no labels, cosine": {"method": "cosine"},
    "no labels, self_trained": {"method": "self_trained"},
    "no labels, map_equation": {"method": "cosine", "partition": {"method": "map_equation"}},
}
PARTITIONS = ("components", "propagation", "density_peaks", "map_equation", "preferred")
OUTSIDE = ("Leiden", "Infomap")
METHODS = (*UNLABELLED, *baselines("python"), *LEARNED)
POINT = ("min_score", "min_intimacy", "max_size")


class Split:
    """One half of a data set, as files, and the folders of its runs."""

    def __init__(self, folder: Path, features: np.ndarray, labels: np.ndarray) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.vectors, self.identities = folder, features, labels
        self.features, self.labels = folder / "features.npy", folder / "labels.npy"
        np.save(self.features, features)
        np.save(self.labels, labels)

    def run(self, name: str, **arguments: Any) -> tuple[np.ndarray, Path]:
        """Labels and folder of a run in the folder ``run-NAME``."""
        result = api.cluster(self.features, workspace=self.folder / f"run-{name}", **arguments)
        return result.labels, result.run

    def sample(self) -> Sample:
        """What baselines work on."""
        return Sample.read(self.run("cosine", method="cosine")[1], self.vectors, self.identities)


def measure(data: Path, name: str, work: Path, seed: int, methods: list[str], outside: str | None) -> Iterator[dict]:
    """Train and run on one data set; yield a row per method, and partition of a trained one."""
    features, labels, split = read_set(data, name)
    train, test = (Split(work / f"{name}-{part}", features[split == part], labels[split == part]) for part in (0, 1))
    del features

    def row(
        method: str, found: np.ndarray, started: float, point: dict[str, Any], truth: np.ndarray = test.identities,
        **more: Any,
    ) -> dict[str, Any]:  # fmt: skip
        seconds = round(time.perf_counter() - started, 1)
        scores = evaluate(found, truth)
        return {"data": name, "method": method, "seed": seed, **scores, "point": point, "run_seconds": seconds, **more}

    for method, arguments in UNLABELLED.items():
        if method in methods:
            started = time.perf_counter()
            found, run = test.run("self" if "self" in method else "cosine", seed=seed, **arguments)
            yield row(method, found, started, _point(run))
    for method, baseline in baselines(outside).items():
        if method not in methods or (seed and method not in OUTSIDE):
            continue
        rows = max(len(train.identities), len(test.identities))
        if baseline.most_rows and rows > baseline.most_rows:
            yield {"data": name, "method": method, "seed": seed, "missing": f"compares all pairs of {rows:,} rows"}
            continue
        started = time.perf_counter()
        point = choose(baseline, train.sample(), seed)
        chosen = round(time.perf_counter() - started, 1)
        sample, started = test.sample(), time.perf_counter()
        found = next(baseline.search(sample, [point]))
        yield row(method, found, started, point, sample.identities_N, train_seconds=chosen)
    for learned in set(LEARNED) & set(methods):
        started, model = time.perf_counter(), train.folder / f"model-{learned}-{seed}"
        api.train(train.features, train.labels, model, method=learned, seed=seed, progress=True)
        trained = round(time.perf_counter() - started, 1)
        for partition in PARTITIONS:
            started = time.perf_counter()
            asked = {} if partition == "preferred" else {"partition": {"method": partition}}
            found, run = test.run(f"{learned}-{seed}", model=model, seed=seed, **asked)
            yield row(f"{learned} {partition}", found, started, _point(run), train_seconds=trained)


def _point(run: Path) -> dict[str, Any]:
    return {name: value for name, value in summary.operating_point(run).items() if name in POINT}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: pairwise F / BCubed F of each method on each data set, mean ± spread where there are several seeds."""
    cells: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for each in sorted(rows, key=lambda row: _order(row)[1:]):
        cells[each["method"], each["data"]].append(each)
    names = [name for name in SETS if any(data == name for _, data in cells)]
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for method in dict.fromkeys(method for method, _ in cells):
        lines.append("| " + " | ".join([method, *(_cell(cells.get((method, name), [])) for name in names)]) + " |")
    return "\n".join(lines)


def _cell(rows: list[dict[str, Any]]) -> str:
    if not rows or "missing" in rows[0]:
        return "–"
    parts = []
    for name in ("pairwise_f", "bcubed_f"):
        values = [100 * each[name] for each in rows]
        spread = f" ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else ""
        parts.append(f"{np.mean(values):.1f}{spread}")
    return " / ".join(parts)


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
        print(table(read_rows("accuracy")))
        return
    sets = arguments.only or list(SETS)
    if arguments.data is None and set(sets) - set(STANDINS):
        parser.error("--data names the folder of the real data sets")
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        for name, seed in product(sets, arguments.seeds):
            for row in measure(arguments.data, name, work, seed, arguments.methods, arguments.outside):
                record_row("accuracy", {}, row, ("data", "method", "seed"), _order)
                print(f"{name:20} {row['method']:26} {_cell([row])}  {row.get('missing') or row['point']}", flush=True)


def _order(row: dict[str, Any]) -> tuple[int, int, str, int]:
    first = [number for number, name in enumerate(METHODS) if row["method"].startswith(name)]
    return SETS.index(row["data"]), first[-1] if first else len(METHODS), row["method"], row["seed"]


if __name__ == "__main__":
    main()
