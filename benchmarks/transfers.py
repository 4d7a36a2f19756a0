"""Models on other data than they learned from, beside no model and beside what held-out identities promise.

    python benchmarks/transfers.py --data ../shared/data [--only febrl3 faces] [--missing] [--threads 2] [--large]
    python benchmarks/transfers.py --table

Each transfer trains a method on one set and clusters another one: with the model, and by the default without labels.
``promised`` is what the model's preferred partition scored on identities held out of its training. A set's train half
is learned from, its test half clustered; a set without halves serves whole. ``--large`` adds stand-ins of 2,000
identities on those of part1 (8,573), which take an hour or more on two cores. Writes
``benchmarks/records/transfers.json``; ``model_left`` says that opinions without labels found the model far off, so that
the run went on without it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import read_set
from recording import read_rows, record_row

from engine import api, evaluate
from engine.commands.run_folder import stage_folder
from engine.commands.standin import PARTS, synthesize
from engine.storage.context import stage_facts

RECORD = "transfers"
Rows = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Transfer:
    """A method, the set that it learns from and the set that it clusters, each by name and by what reads it."""

    method: str
    learned: str
    clustered: str
    read_learned: Callable[[], Rows]
    read_clustered: Callable[[], Rows]
    large: bool = False

    @property
    def name(self) -> str:
        return f"{self.method}: {self.learned} on {self.clustered}"


def transfers(data: Path) -> list[Transfer]:
    """All transfers, the smaller ones first."""

    def real(method: str, learned: tuple[str, int | None], clustered: tuple[str, int | None]) -> Transfer:
        names = [name if half is None else f"{name}, {('train', 'test')[half]} half" for name, half in
                 (learned, clustered)]  # fmt: skip
        return Transfer(method, *names, partial(read_part, data, *learned), partial(read_part, data, *clustered))

    def made(method: str, learned: int, clustered: int, large: bool) -> Transfer:
        reads = partial(standin, learned, 11), partial(standin, clustered, 12)
        return Transfer(method, f"standin_{learned}", f"standin_{clustered}", *reads, large=large)

    found = [
        real("structural", ("historical_figures", 0), ("febrl3", None)),
        real("structural", ("febrl3", None), ("historical_figures", 1)),
        real("structural", ("historical_figures", 0), ("historical_figures", 1)),
        real("structural", ("lfw_faces", None), ("vggface69_faces", None)),
        real("structural", ("vggface69_faces", None), ("lfw_faces", None)),
        real("structural", ("pooled_faces", 0), ("pooled_faces", 1)),
    ]
    found += [made(method, 500, 2_000, large=False) for method in ("structural", "star_fc")]
    return found + [made(method, 2_000, PARTS["part1"], large=True) for method in ("structural", "star_fc")]


def read_part(data: Path, name: str, half: int | None) -> Rows:
    """Rows and identities of a set, of one half or whole."""
    if half is None:
        return tuple(np.load(data / name / f"{part}.npy") for part in ("features", "labels"))  # type: ignore[return-value]
    features, labels, split = read_set(data, name)
    return features[split == half], labels[split == half]


def standin(identities: int, seed: int) -> Rows:
    """Rows of so many made identities."""
    blocks = list(synthesize(identities, seed).blocks(4096))
    return np.concatenate([block[0] for block in blocks]), np.concatenate([block[1] for block in blocks])


def measure(each: Transfer, threads: int, without: dict[str, Any] | None) -> dict[str, Any]:
    """Train, cluster with the model and, unless it is known from an earlier row, without one."""
    learned, clustered = each.read_learned(), each.read_clustered()
    resources = {"threads": threads}
    settings = {} if learned[0].shape[1] == clustered[0].shape[1] else {"metric.learn": "none"}
    with tempfile.TemporaryDirectory() as folder:
        place, start = Path(folder), time.perf_counter()
        api.train(learned[0], learned[1], place / "model", method=each.method, resources=resources, **settings)
        spent = time.perf_counter() - start
        model = json.loads((place / "model/model.json").read_text())
        point = model["operating_points"][model["preferred"]]
        run = place / "run"
        found = api.cluster(clustered[0], model=place / "model", workspace=run, resources=resources)
        said = stage_folder(run, "said")
        return {
            "method": each.method,
            "learned": each.learned,
            "clustered": each.clustered,
            "rows": [len(learned[0]), len(clustered[0])],
            "promised": [round(100 * point[name], 1) for name in ("held_out_f", "held_out_bcubed_f")],
            "with_model": _scores(found.labels, clustered[1]),
            "without": without or _scores(api.cluster(clustered[0], resources=resources).labels, clustered[1]),
            "model_left": bool(said and not stage_facts(said)[0]["enough"]),
            "train_seconds": round(spent, 1),
        }


def _scores(labels: np.ndarray, identities: np.ndarray) -> list[float]:
    scores = evaluate(labels, identities)
    return [round(100 * scores[name], 1) for name in ("pairwise_f", "bcubed_f")]


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each transfer: pairwise / BCubed F."""
    lines = ["| model | learned from | clustered | promised | with the model | without |", "|---|---|---|---|---|---|"]
    for row in rows:
        scores = [" / ".join(f"{value:.1f}" for value in row[name]) for name in ("promised", "with_model", "without")]
        lines.append("| " + " | ".join([row["method"], row["learned"], row["clustered"], *scores]) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure and record, or print what is recorded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--only", nargs="*", help="parts of the names of transfers")
    parser.add_argument("--missing", action="store_true", help="only transfers without a row in the record")
    parser.add_argument("--large", action="store_true", help="those of part1, too")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--table", action="store_true", help="only print what is recorded")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.threads:
            os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(arguments.threads))
        recorded = {(row["method"], row["learned"], row["clustered"]) for row in read_rows(RECORD)}
        without: dict[str, Any] = {}
        for each in transfers(arguments.data):
            wanted = not arguments.only or any(part in each.name for part in arguments.only)
            known = arguments.missing and (each.method, each.learned, each.clustered) in recorded
            if not wanted or known or (each.large and not arguments.large):
                continue
            row = measure(each, arguments.threads, without.get(each.clustered))
            without[each.clustered] = row["without"]
            key = ("method", "learned", "clustered")
            record_row(RECORD, {}, row, key, lambda row: (row["learned"], row["clustered"], row["method"]))
            print(row, flush=True)
    print(table(read_rows(RECORD)))


if __name__ == "__main__":
    main()
