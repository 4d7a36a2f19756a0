"""Kills at random moments of updates: ``python benchmarks/update_kills.py --kills 200 --executor local``.

A small run is made once. Rows are added, people decide, rows are removed and added again, and every second change is
written anew in one piece, undisturbed; then the same on copies of the run. There each change is killed with SIGKILL at
moments drawn from how long it took, and started again until it is done. At the end labels, ids, lineage, decisions and
what queries get must be the same, and no temporary file be left. Each change is a process of its own, forked from one
that has loaded the engine and run nothing. Writes ``benchmarks/records/update_kills.json`` after each round; ends
with 1 if a claim fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from recording import record_row

import engine
from engine.commands import updates
from engine.commands.resources import Resources
from engine.errors import ConfigError
from engine.storage.decisions import Decision, append_decisions
from tests.support.vectors import standin

IDENTITIES = 40  # about 2,700 rows
SHARE = 0.9  # of the rows that the run has
MAX_KILLS = 4  # of one change
DECIDED = 20  # pairs
MOST_LAYERS = 1  # before all is written anew
DONE = "it is done already"
FORK = multiprocessing.get_context("fork")

Change = Callable[[Path], None]


def main() -> int:
    """Run, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="cosine")
    parser.add_argument("--executor", choices=("local", "ray"), default="local")
    asked = parser.parse_args()
    updates.MOST_LAYERS = MOST_LAYERS
    key = ("executor", "method")
    rng, wrong, kills, rounds = random.Random(asked.seed), list[str](), 0, 0
    with tempfile.TemporaryDirectory(prefix="update-kills-") as name:
        folder = Path(name)
        alone(prepare, folder, asked.method)
        changes = changes_of(folder, Resources(executor=asked.executor, workers=1, threads=1))
        whole, seconds = folder / "whole", list[float]()
        shutil.copytree(folder / "run", whole)
        for change in changes:
            began = time.monotonic()
            alone(change, whole)
            seconds.append(time.monotonic() - began)
        expected = alone(outcome, whole)
        while kills < asked.kills:
            rounds += 1
            copy = folder / "copy"
            shutil.copytree(folder / "run", copy)
            for change, lasted in zip(changes, seconds, strict=True):
                kills += strike(change, copy, lasted, rng)
            found = alone(outcome, copy)
            wrong += [f"round {rounds}: other {each}" for each in expected if found[each] != expected[each]]
            wrong += [f"round {rounds}: {path} is left" for path in copy.rglob("*.tmp")]
            shutil.rmtree(copy)
            print(f"{kills} kills, {len(wrong)} claims failed", flush=True)
            row = {"executor": asked.executor, "method": asked.method, "seed": asked.seed}
            row |= {"kills": kills, "rounds": rounds, "wrong": wrong}
            settings = {"identities": IDENTITIES, "changes": len(changes), "layers_before_compaction": MOST_LAYERS}
            record_row("update_kills", settings, row, key, lambda row: tuple(row[part] for part in key))
    print(f"{kills} kills in {rounds} rounds of {len(changes)} changes, {len(wrong)} claims failed", *wrong, sep="\n")
    return 1 if wrong else 0


def prepare(folder: Path, method: str) -> None:
    """Make the run, and what the changes are made by."""
    vectors, identities = standin(IDENTITIES, 0)
    base, half = int(len(vectors) * SHARE), int(len(vectors) * (1 + SHARE) / 2)
    np.save(folder / "first.npy", vectors[base:half])
    np.save(folder / "second.npy", vectors[half:])
    (folder / "gone.txt").write_text("".join(f"{row}\n" for row in (*range(0, base, 97), base + 1)))
    pairs = np.random.default_rng(0).integers(0, half, (DECIDED, 2)).tolist()
    kinds = {row: "same" if identities[a] == identities[b] else "different" for row, (a, b) in enumerate(pairs)}
    told = [Decision(kinds[row], str(a), str(b)) for row, (a, b) in enumerate(pairs) if a != b]  # type: ignore[arg-type]
    mates = [np.flatnonzero(identities[:half] == each)[[0, -1]] for each in range(5)]
    append_decisions(folder / "decisions.parquet", [*told, *(Decision("same", str(a), str(b)) for a, b in mates)])
    engine.cluster(vectors[:base], workspace=folder / "run", method=method)


def changes_of(folder: Path, resources: Resources) -> list[Change]:
    """Give the changes, each of which takes the folder of a run."""

    def change(**how: Path) -> Change:
        def make(root: Path) -> None:
            try:
                updates.update(root, resources=resources, progress=False, **how)
            except ConfigError as error:
                if DONE not in str(error):
                    raise

        return make

    return [
        change(features=folder / "first.npy"),
        change(decisions=folder / "decisions.parquet"),
        change(remove=folder / "gone.txt"),
        change(features=folder / "second.npy"),
    ]


def strike(change: Change, root: Path, lasted: float, rng: random.Random) -> int:
    """Kill a change up to ``MAX_KILLS`` times, then let it end; count the kills."""
    kills = 0
    for _ in range(rng.randint(1, MAX_KILLS)):
        process = FORK.Process(target=change, args=(root,))
        process.start()
        process.join(rng.uniform(0.02, 1) * lasted)
        if process.exitcode is None:
            process.kill()
            kills += 1
        process.join()
    alone(change, root)
    return kills


def alone(work: Callable[..., Any], *given: Any) -> Any:
    """Do work in a process of its own, because one that has threads must not be forked; give what it returns."""
    own, other = FORK.Pipe(duplex=False)
    process = FORK.Process(target=lambda: other.send(work(*given)))
    process.start()
    other.close()
    try:
        found = own.recv()
    except EOFError:
        raise RuntimeError(f"{work.__name__} failed") from None
    process.join()
    return found


def outcome(root: Path) -> dict[str, Any]:
    """What must be the same after any kills."""
    collection = engine.open(root)
    lineage = {name: list(column) for name, column in collection.lineage().items()}
    assigned = collection.assign(np.load(root.parent / "second.npy"))
    decided = collection.decisions()
    return {
        "labels": collection.labels.tobytes(),
        "ids": collection.row_ids,
        "lineage": lineage,
        "decisions": (decided["a"], decided["b"], decided["same"].tolist()),
        "probabilities": assigned.probabilities.tobytes(),
    }


if __name__ == "__main__":
    sys.exit(main())
