"""How much answers help: an oracle answers what the review asks first, beside two simpler choices of pairs.

``queue``: the questions of the run's stage ``questions`` in their order, a fifth of them drawn at random. ``random``:
random edges of the KNN graph. ``uncertain``: the edges whose scores are nearest to even odds. Answers are applied after
each batch of 50, and the run goes on from its stored scores. No labels are used but the oracle's.

    python benchmarks/review.py --only pricerunner --data /path/to/data --work FOLDER

With ``--clusters 1000000`` a run of so many clusters by cosine is made instead, and how long its review takes to open,
to give the first question, a page of a cluster, and a search; an update of some rows follows, and the same again.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import read_set
from recording import record_row

from engine import cluster, evaluate
from engine.commands.resources import Resources
from engine.commands.run_folder import stage_folder
from engine.commands.updates import update
from engine.review.session import SAMPLE_EVERY, Session
from engine.steps.edges import iterate_edges
from engine.storage.context import table_parts
from engine.storage.decisions import Asked, Decision, append_decisions, read_decisions
from engine.storage.tables import read_columns

SETS = ("pricerunner", "pooled_faces")
WAYS = ("queue", "random", "uncertain")
BATCH = 50
DIM = 32  # of the vectors of ``--clusters``
CHECKPOINTS = (0, 50, 100, 200, 400)
KINDS: tuple[Asked, ...] = ("split", "merge", "sample")


def from_queue(run: Path, known: set[tuple[int, int]]) -> list[tuple[int, int, Asked, float]]:
    """The first open questions: a sample after each four others."""
    folder = stage_folder(run, "questions", "questions")
    assert folder is not None
    (part,) = table_parts(folder, "questions")
    columns = [column.tolist() for column in read_columns(part, ("kind", "row", "other_row", "said"))]
    asked = [(row, other, KINDS[kind], said) for kind, row, other, said in zip(*columns, strict=True)]
    drawn = [each for each in asked if each[2] == "sample" and each[:2] not in known][: BATCH // SAMPLE_EVERY]
    others = [each for each in asked if each[2] != "sample" and each[:2] not in known]
    return [*drawn, *others[: BATCH - len(drawn)]]


def from_edges(run: Path, known: set[tuple[int, int]], way: str, seed: int) -> list[tuple[int, int, Asked, float]]:
    """Edges chosen at random, or by their scores alone; both tell fairly how far a score can be trusted."""
    folder = stage_folder(run, "answered") or stage_folder(run, "score")
    assert folder is not None
    sources, targets, scores = (
        np.concatenate(column) for column in zip(*iterate_edges(folder, ("source", "target", "score")), strict=True)
    )
    random = np.random.default_rng(seed).permutation(len(scores))
    order = random if way == "random" else random[np.argsort(np.abs(scores[random] - 0.5), kind="stable")]
    found: list[tuple[int, int, Asked, float]] = []
    for edge in order:
        pair = int(min(sources[edge], targets[edge])), int(max(sources[edge], targets[edge]))
        if pair not in known:
            found.append((*pair, "sample", float(scores[edge])))
        if len(found) == BATCH:
            break
    return found


def measure(name: str, way: str, data: Path, work: Path, threads: int) -> None:
    """Answer in one way, and record F after each checkpoint."""
    features, labels, split = read_set(data, name)
    truth = labels[split == 1]
    place = work / name
    place.mkdir(parents=True, exist_ok=True)
    np.save(place / "features.npy", features[split == 1].astype(np.float32))
    path = place / f"{way}.parquet"
    path.unlink(missing_ok=True)
    run, known, curve, seconds = place / way, set[tuple[int, int]](), [], []
    if not run.exists() and (place / WAYS[0]).exists() and way != WAYS[0]:
        shutil.copytree(place / WAYS[0], run)  # scores are the same
    settings: dict[str, Any] = {"workspace": run, "resources": {"threads": threads}}
    for number in range(0, CHECKPOINTS[-1] + 1, BATCH):
        started = time.perf_counter()
        found = cluster(place / "features.npy", decisions=path if number else None, **settings)
        seconds.append(time.perf_counter() - started)
        scores = evaluate(found.labels, truth)
        if number in CHECKPOINTS:
            curve.append({"answers": number, "pairwise_f": scores["pairwise_f"], "bcubed_f": scores["bcubed_f"]})
            print(name, way, curve[-1], f"{seconds[-1]:.1f} s", flush=True)
        if number:
            for each in read_decisions(path):
                same = found.labels[int(each.a)] == found.labels[int(each.b)]
                assert same == (each.decision == "same"), f"{name}, {way}: {each} does not hold"
        if number == CHECKPOINTS[-1]:
            break
        asked = from_queue(run, known) if way == "queue" else from_edges(run, known, way, number)
        told = [
            Decision("same" if truth[a] == truth[b] else "different", str(a), str(b), asked=why, chance=chance)
            for a, b, why, chance in asked
        ]
        known |= {(a, b) for a, b, *_ in asked}
        append_decisions(path, told)
    row = {"set": f"{name}, test half", "way": way, "curve": curve, "apply_seconds": float(np.median(seconds[1:]))}
    _record(row)


def opening(num_clusters: int, work: Path, threads: int) -> None:
    """Record how fast the review of a run of so many clusters of one to three rows is, before and after an update."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 4, num_clusters)
    centres = rng.normal(size=(num_clusters, DIM)).astype(np.float32)
    rows = np.repeat(centres, sizes, axis=0)
    rows += 0.05 * rng.normal(size=rows.shape).astype(np.float32)
    run = work / f"clusters_{num_clusters}"
    partition = {"method": "components", "min_score": 0.9, "min_intimacy": 0.0}
    how: dict[str, Any] = {"method": "cosine", "knn": {"k": 8}, "partition": partition}
    if not run.exists():
        cluster(rows, workspace=run, resources={"threads": threads}, **how)
    for way in ("open", "open after an update"):
        if way != "open":
            shutil.rmtree(work / "updated", ignore_errors=True)
            run = Path(shutil.copytree(run, work / "updated"))
            update(run, features=str(_written(rows[:1_000] + np.float32(0.01), work / "new.npy")), progress=False)
        row = {"set": f"{num_clusters:,} clusters", "way": way, "rows": len(rows)}
        row |= timed(run, work / "opening.parquet", num_clusters, len(rows), threads)
        print(row, flush=True)
        _record(row)


def timed(run: Path, answers: Path, num_clusters: int, num_rows: int, threads: int) -> dict[str, Any]:
    """Processor seconds of what a page asks first."""
    answers.unlink(missing_ok=True)
    began = time.process_time()
    session = Session(run, answers, Resources(threads=threads))
    found: dict[str, Any] = {"open_processor_seconds": round(time.process_time() - began, 3)}
    for name, ask in {
        "question": session.question,
        "answer": lambda: session.answer([0, num_rows - 1], "different"),
        "cluster": lambda: session.read(lambda catalogue: catalogue.cluster(num_clusters // 2)),
        "search": lambda: session.read(lambda catalogue: catalogue.search(str(num_rows // 2))),
    }.items():
        began = time.process_time()
        ask()
        found[f"{name}_processor_seconds"] = round(time.process_time() - began, 3)
    return {**found, "clusters": session.state()["clusters"]}


def _written(rows: np.ndarray, path: Path) -> Path:
    np.save(path, rows)
    return path


def _record(row: dict[str, Any]) -> None:
    order = lambda row: (row["set"], [*WAYS, "open", "open after an update"].index(row["way"]))  # noqa: E731
    record_row("review", {"batch": BATCH, "labels": "none"}, row, ("set", "way"), order)


def main() -> None:
    """Measure the sets and ways that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--clusters", type=int, help="measure how a review of so many clusters opens, and nothing else")
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    if asked.clusters:
        opening(asked.clusters, asked.work, asked.threads)
        return
    for name in asked.only:
        for way in asked.ways:
            measure(name, way, asked.data, asked.work, asked.threads)


if __name__ == "__main__":
    main()
