"""What updates, removals and queries cost and how good they are, beside full runs of the same rows.

``update``: a run, and then one batch of 1 % new rows, half of them of identities that the run has never seen, beside a
full run of all rows. ``batches``: twenty batches of 1 % in a row, beside a full run. ``removal``: 1 % of the rows are
removed, beside a full run of the others. ``queries``: the new rows of ``update`` are assigned instead.

    python benchmarks/updates.py --only update queries --sets part1 --data /path/to/data --work FOLDER

Every command is a process of its own. ``seconds`` are those of the clock, ``processor_seconds`` what its threads
spent, imports and compiled kernels' loading included. Labels are used to score alone. Writes
``benchmarks/records/updates.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import SETS, read_set
from recording import record_row

import engine
from engine import evaluate
from engine.collection.clusters import touch_ends
from engine.collection.state import State
from engine.commands.run_folder import run_labels
from engine.storage.formats.export import BinWriter

MEASURES = ("update", "batches", "removal", "queries")
SHARE, BATCHES, QUERIES = 0.01, 20, 100_000
KINDS = ("seconds", "processor_seconds")


def command(*words: str | Path) -> dict[str, float]:
    """Run ``asterism`` with these words; give its seconds and processor seconds."""
    started = time.perf_counter()
    line = [sys.executable, "-m", "engine", *map(str, words)]
    process = os.posix_spawn(sys.executable, line, {**os.environ, "PYTHONWARNINGS": "ignore"})
    _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit(f"{' '.join(line)} ended with {os.waitstatus_to_exitcode(status)}")
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 2),
    }


def arrange(truth: np.ndarray, new_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose new rows: half are all rows of identities drawn at random, half are drawn from the others.

    Gives the rows that are there before, ascending, and the new ones in random order.
    """
    rng = np.random.default_rng(seed)
    identities = rng.permutation(np.unique(truth))
    sizes = np.bincount(truth)[identities]
    unseen = np.isin(truth, identities[np.cumsum(sizes) <= new_rows // 2])
    others = rng.permutation(np.flatnonzero(~unseen))
    new = np.concatenate([np.flatnonzero(unseen), others[: new_rows - int(unseen.sum())]])
    return np.setdiff1d(np.arange(len(truth)), new), rng.permutation(new)


def scored(labels: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Pairwise and BCubed F in percent."""
    scores = evaluate(labels, truth)
    return {name: round(100 * scores[name], 2) for name in ("pairwise_f", "bcubed_f")}


def unbordering(state: State, number: int) -> np.ndarray:
    """The clusters, of those before layer ``number``, that hold no touched row and border on none that does."""
    before_V = np.where(state.row_numbers < state.kept.num_rows, state.labels_N[state.row_numbers], -1)
    touched_V = np.zeros(len(before_V), np.bool_)
    touched_V[state.cut[number]] = True
    copied = state.leaders_N[state.kept.num_rows :]
    touched_V[state.vertices[copied]] = True
    for edges in state.scored_by(number):
        touch_ends(state, edges, touched_V)
    reached = [before_V[touched_V]]
    opened_V = np.isin(before_V, before_V[touched_V])
    for sources, targets, scores in state.edges():
        across = (opened_V[sources] != opened_V[targets]) & (scores >= np.float32(state.kept.point["min_score"]))
        reached += [before_V[sources[across]], before_V[targets[across]]]
    return np.setdiff1d(before_V, np.concatenate([*reached, [-1]]))


class Case:
    """One set: its rows, and the folders and options of its runs."""

    def __init__(self, name: str, asked: argparse.Namespace) -> None:
        features, truth, split = read_set(asked.data, name)
        self.name, self.asked, self.work = name, asked, asked.work / name
        self.work.mkdir(parents=True, exist_ok=True)
        self.features, self.truth = features[split == 1].astype(np.float32), truth[split == 1]
        self.options = ["--quiet", "--threads", str(asked.threads)]

    def write(self, name: str, rows: np.ndarray) -> list[str]:
        """Write rows as a file; give the options that name it."""
        path = self.work / f"{name}.bin"
        with BinWriter(path) as vectors:
            vectors.append(self.features[rows])
        return ["--features", str(path), "--dim", str(self.features.shape[1])]

    def run(self, name: str, rows: np.ndarray) -> tuple[Path, dict[str, float]]:
        """Make a full run of rows, or take that of an earlier call; give a copy of it, and its costs."""
        root, costs = self.work / name, self.work / f"{name}.json"
        if not costs.exists():
            done = command("run", *self.write(name, rows), "--out", root, *self.options, *self.method)
            costs.write_text(json.dumps(done))
        copy = self.work / f"{name}-copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(root, copy)
        return copy, json.loads(costs.read_text())

    @property
    def method(self) -> list[str]:
        """The options of full runs alone."""
        return ["--method", self.asked.method] if self.asked.method else []

    def row(self, measure: str, found: dict[str, Any]) -> None:
        """Record what was measured."""
        row = {"set": f"{self.name}, test half", "measure": measure, "method": self.asked.method or "default", **found}
        print(row, flush=True)
        order = lambda row: (MEASURES.index(row["measure"]), row["set"], row["method"])  # noqa: E731
        record_row("updates", {"share": SHARE, "labels": "none"}, row, ("set", "measure", "method"), order)

    def update(self, measures: list[str]) -> None:
        """Measure one batch, and queries."""
        old, new = arrange(self.truth, int(len(self.truth) * SHARE), self.asked.seed)
        root, full = self.run("old", old)
        given, order = self.write("new", new), np.concatenate([old, new])
        truth, before = self.truth[order], run_labels(root)
        if "queries" in measures:
            command("assign", root, *given, "--out", self.work / "assigned.parquet", *self.options[1:])
            few = self.write("few", new[:1])
            start = command("assign", root, *few, "--out", self.work / "few.parquet", *self.options[1:])
            many = self.write("many", np.resize(new, QUERIES))
            last = command("assign", root, *many, "--out", self.work / "many.parquet", *self.options[1:])
            rate = {name: round((QUERIES - 1) / (last[name] - start[name])) for name in KINDS}
            assigned = parquet_column(self.work / "assigned.parquet", "cluster")
        done = command("update", root, *given, *self.options)
        labels = run_labels(root)
        if "queries" in measures:
            alone = np.where(assigned >= 0, assigned, 1 + before.max() + np.arange(len(assigned)))
            whole = {"f_queries": scored(np.concatenate([before, alone]), truth), "f_update": scored(labels, truth)}
            new_labels = labels[len(old) :]
            pairs = {
                "known_f_queries": known_f(before, alone, truth),
                "known_f_update": known_f(before, new_labels, truth),
            }
            right = {"right_queries": rightly(before, alone, truth), "right_update": rightly(before, new_labels, truth)}
            costs = {"one_query": start, "all_queries": last, "queries_per_second": rate}
            self.row("queries", {"rows": len(old), "queries": QUERIES, **costs, **whole, **pairs, **right})
        if "update" in measures:
            state = engine.open(root).state
            state.labels_N[: len(old)] = before
            quiet = np.isin(before, unbordering(state, 0))
            assert (labels[: len(old)] == before)[quiet].all()
            assert not np.isin(labels[len(old) :], before[quiet]).any()
            whole, again = self.run("whole", order)
            shares = {f"share_of_{name}": round(done[name] / again[name], 4) for name in KINDS}
            costs = {"full_run_before": full, "update": done, "full_run": again, **shares}
            kept = {"clusters": len(np.unique(before)), "not_bordering": len(np.unique(before[quiet]))}
            found = {"f_before": scored(before, self.truth[old]), "f_update": scored(labels, truth)}
            full_f = {"f_full_run": scored(run_labels(whole), truth)}
            self.row("update", {"rows": len(old), "new_rows": len(new), **costs, **kept, **found, **full_f})

    def batches(self) -> None:
        """Measure twenty batches in a row."""
        old, new = arrange(self.truth, int(len(self.truth) * SHARE * BATCHES / (1 + SHARE * BATCHES)), self.asked.seed)
        root, full = self.run("batches", old)
        costs = []
        for number, rows in enumerate(np.array_split(new, BATCHES)):
            costs.append(command("update", root, *self.write(f"batch{number}", rows), *self.options))
        order = np.concatenate([old, new])
        whole, again = self.run("whole_of_batches", order)
        truth, sums = self.truth[order], {name: round(sum(cost[name] for cost in costs), 2) for name in KINDS}
        found = {"f_updates": scored(run_labels(root), truth), "f_full_run": scored(run_labels(whole), truth)}
        each = {"updates": costs, "sums": sums, "full_run_before": full, "full_run": again}
        self.row("batches", {"rows": len(old), "new_rows": len(new), **found, **each})

    def removal(self) -> None:
        """Measure the removal of rows drawn at random."""
        rng = np.random.default_rng(self.asked.seed)
        gone = np.sort(rng.permutation(len(self.truth))[: int(len(self.truth) * SHARE)])
        stays = np.setdiff1d(np.arange(len(self.truth)), gone)
        root, _ = self.run("all", np.arange(len(self.truth)))
        before = run_labels(root)[stays]
        (self.work / "gone.txt").write_text("".join(f"{row}\n" for row in gone))
        done = command("update", root, "--remove", self.work / "gone.txt", *self.options)
        whole, again = self.run("without", stays)
        labelled = {"before": before, "removal": run_labels(root), "full_run": run_labels(whole)}
        found = {f"f_{name}": scored(labels, self.truth[stays]) for name, labels in labelled.items()}
        self.row("removal", {"rows": len(stays), "removed": len(gone), **found, "removal": done, "full_run": again})


def known_f(before: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> float:
    """F in percent of the pairs of a new row with a row that was there: what a query can be right about."""
    old = len(before)
    alike = paired(np.stack([before, truth[:old]], 1), np.stack([labels, truth[old:]], 1))
    called, true = paired(before[:, None], labels[:, None]), paired(truth[:old, None], truth[old:, None])
    return round(200 * alike / (called + true), 2)


def rightly(before: np.ndarray, labels: np.ndarray, truth: np.ndarray) -> float:
    """Percent of the new rows of known identities that are in a cluster most of whose rows before are of theirs."""
    old, width = len(before), int(truth.max()) + 1
    keys, counts = np.unique(before.astype(np.int64) * width + truth[:old], return_counts=True)
    order = np.lexsort((-counts, keys // width))
    clusters, firsts = np.unique(keys[order] // width, return_index=True)
    most = np.full(int(max(before.max(), labels.max())) + 1, -1, np.int64)
    most[clusters] = keys[order][firsts] % width
    known = np.isin(truth[old:], truth[:old])
    return round(100 * float((most[labels] == truth[old:])[known].mean()), 2)


def paired(first: np.ndarray, second: np.ndarray) -> int:
    """How many pairs of a row of the first and a row of the second are equal."""
    _, places = np.unique(np.concatenate([first, second]), axis=0, return_inverse=True)
    counts = [np.bincount(part, minlength=places.max() + 1) for part in (places[: len(first)], places[len(first) :])]
    return int(counts[0] @ counts[1])


def parquet_column(path: Path, name: str) -> np.ndarray:
    """Read a column."""
    from pyarrow import parquet

    return np.array(parquet.read_table(path, columns=[name])[name].to_numpy())


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=MEASURES, default=MEASURES)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["standin_2000", "historical_figures"])
    parser.add_argument("--method", help="of the full runs; default: chosen as always")
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument(
        "--work", type=Path, required=True, help="folder for the runs; one made with these options is taken as it is"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    for name in asked.sets:
        case = Case(name, asked)
        if "update" in asked.only or "queries" in asked.only:
            case.update(asked.only)
        if "batches" in asked.only:
            case.batches()
        if "removal" in asked.only:
            case.removal()


if __name__ == "__main__":
    main()
