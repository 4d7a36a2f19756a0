"""Kills at random moments of updates: ``python benchmarks/update_kills.py --kills 200``.

A small run is made once. Rows are added, removed and added again, undisturbed; then the same on copies of the run, each
command killed with SIGKILL at moments drawn from how long it took, and started again until it is done. At the end the
labels, the ids and the lineage must be the same, and no temporary file be left. Writes
``benchmarks/records/update_kills.json``; ends with 1 if a claim fails.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from recording import write_record

import engine
from tests.support.vectors import standin

IDENTITIES = 40  # about 2,700 rows
SHARE = 0.9  # of the rows that the run has
MAX_KILLS = 4  # of one command
DONE = "it is done already"


def main() -> int:
    """Run, print, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--method", default="cosine")
    arguments = parser.parse_args()
    rng, wrong, kills, rounds = random.Random(arguments.seed), list[str](), 0, 0
    with tempfile.TemporaryDirectory(prefix="update-kills-") as name:
        folder = Path(name)
        commands = prepare(folder, arguments.method)
        whole, seconds = folder / "whole", list[float]()
        shutil.copytree(folder / "run", whole)
        for command in commands:
            began = time.monotonic()
            subprocess.run([*command(whole)], check=True)
            seconds.append(time.monotonic() - began)
        expected = outcome(whole)
        while kills < arguments.kills:
            rounds += 1
            copy = folder / "copy"
            shutil.copytree(folder / "run", copy)
            for command, lasted in zip(commands, seconds, strict=True):
                kills += strike(command(copy), lasted, rng)
            found = outcome(copy)
            wrong += [f"round {rounds}: other {each}" for each in expected if found[each] != expected[each]]
            wrong += [f"round {rounds}: {path} is left" for path in copy.rglob("*.tmp")]
            shutil.rmtree(copy)
    settings = {"kills": arguments.kills, "seed": arguments.seed, "method": arguments.method, "identities": IDENTITIES}
    write_record("update_kills", settings, [{"kills": kills, "rounds": rounds, "wrong": wrong}])
    print(f"{kills} kills in {rounds} rounds of {len(commands)} updates, {len(wrong)} claims failed", *wrong, sep="\n")
    return 1 if wrong else 0


def prepare(folder: Path, method: str) -> list[Any]:
    """Make the run, and give what makes the command line of each update of a copy."""
    vectors, _ = standin(IDENTITIES, 0)
    base, half = int(len(vectors) * SHARE), int(len(vectors) * (1 + SHARE) / 2)
    np.save(folder / "first.npy", vectors[base:half])
    np.save(folder / "second.npy", vectors[half:])
    (folder / "gone.txt").write_text("".join(f"{row}\n" for row in (*range(0, base, 97), base + 1)))
    engine.cluster(vectors[:base], workspace=folder / "run", method=method)

    def line(*words: str) -> Any:
        return lambda root: [sys.executable, "-m", "engine", "update", str(root), *words, "--quiet", "--threads", "1"]

    return [
        line("--features", str(folder / "first.npy")),
        line("--remove", str(folder / "gone.txt")),
        line("--features", str(folder / "second.npy")),
    ]


def strike(command: list[str], lasted: float, rng: random.Random) -> int:
    """Kill a command up to ``MAX_KILLS`` times, then let it end; count the kills."""
    kills = 0
    for _ in range(rng.randint(1, MAX_KILLS)):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        try:
            process.wait(rng.uniform(0.1, 1) * lasted)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and DONE not in done.stderr:
        raise RuntimeError(done.stderr)
    return kills


def outcome(root: Path) -> dict[str, Any]:
    """What must be the same after any kills."""
    collection = engine.open(root)
    lineage = {name: list(column) for name, column in collection.lineage().items()}
    assigned = collection.assign(np.load(root.parent / "second.npy"))
    return {
        "labels": collection.labels.tobytes(),
        "ids": collection.row_ids,
        "lineage": lineage,
        "probabilities": assigned.probabilities.tobytes(),
    }


if __name__ == "__main__":
    sys.exit(main())
