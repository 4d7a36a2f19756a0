"""How much to doubt a scorer fitted to a run's own first clusters: finds the line of ``self_trained/doubts.py``.

    python benchmarks/doubts.py --data ../shared/data [--seeds 1 2] [--fit]

Each labelled data set's train identities are offered as many sets without labels: cut down to few rows, rows left out,
noise added, vectors projected to fewer dimensions. Each is clustered by ``self_trained`` without doubts, and once more
at every number of doublings; labels say which would have been best. A line through the best ones, in what
``describe_clusters`` says of the first clusters, is fitted to all sets, and to all but one for each: what it loses
there, in points of F (mean of pairwise and BCubed) below the best, is what a user's own data may lose. Writes
``benchmarks/records/doubts.json``; ``--fit`` only fits what is recorded.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from datasets import read_set
from recording import read_rows, record_row
from run_graph import read_edges, vertex_identities

from engine import api, evaluate
from engine.clustering.csr import build_weighted_adjacency
from engine.clustering.evidence import weigh_edges
from engine.clustering.map_equation import map_equation
from engine.commands.run_folder import stage_folder
from engine.methods.self_trained.doubts import describe_clusters
from engine.storage.context import read_npy
from engine.tiles import usable_cores

SETS = ("historical_figures", "pricerunner", "pooled_faces", "standin_500")
DESCRIBED = ("log_size", "alone", "single")
DOUBTS = np.arange(-3.0, 9.0)
MAX_ROWS, LEAST_ROWS = 6_000, 1_500
SOFT, RIDGE = 0.01, 2.0  # F within so much of the best counts nearly as much; weight that holds the slopes back

Vectors = tuple[np.ndarray, np.ndarray]


def make_variants(vectors: np.ndarray, identities: np.ndarray, seed: int) -> Iterator[tuple[str, Vectors]]:
    """Offer one data set as several: all of it, and others of about ``MAX_ROWS`` rows of identities kept whole."""
    yield "all", (vectors, identities)
    rng = np.random.default_rng(seed)
    count, dim = vectors.shape

    def noisy() -> Vectors:
        kept = _cap(rng, identities, 30)
        noise = rng.normal(size=(len(kept), dim)) * rng.uniform(0.3, 0.5) / dim**0.5
        return vectors[kept] + noise.astype(np.float32), identities[kept]

    def projected() -> Vectors:
        kept = _cap(rng, identities, int(rng.integers(6, 20)))
        return vectors[kept] @ rng.normal(size=(dim, int(rng.integers(64, 110)))).astype(np.float32), identities[kept]

    def kept(rows: np.ndarray) -> Vectors:
        return vectors[rows], identities[rows]

    makers: dict[str, Callable[[], Vectors]] = {
        "whole": lambda: (vectors, identities),
        "few": lambda: kept(_cap(rng, identities, int(rng.integers(2, 6)))),
        "some": lambda: kept(_cap(rng, identities, 12)),
        "thinned": lambda: kept(np.flatnonzero(rng.random(count) < rng.uniform(0.3, 0.6))),
        "noisy": noisy,
        "projected": projected,
    }
    for name, make in makers.items():
        rows, owners = make()
        known, sizes = np.unique(owners, return_counts=True)
        order = rng.permutation(len(known))
        enough = max(20, int(np.searchsorted(np.cumsum(sizes[order]), MAX_ROWS)))
        chosen = np.isin(owners, known[order[:enough]])
        yield name, (rows[chosen], owners[chosen])


def _cap(rng: np.random.Generator, identities: np.ndarray, most: int) -> np.ndarray:
    """At most ``most`` rows of each identity, at random: their places, in order."""
    shuffled = rng.permutation(len(identities))
    order = shuffled[np.argsort(identities[shuffled], kind="stable")]
    sizes = np.unique(identities, return_counts=True)[1]
    within = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return np.sort(order[within < most])


def measure(vectors: np.ndarray, identities: np.ndarray, seed: int) -> dict[str, Any]:
    """What the first clusters look like, and F at every number of doubts."""
    with tempfile.TemporaryDirectory() as folder:
        given = {"trees": {"doubts": 0.0}, "partition": {"curve_rows": 0}, "seed": seed}
        run = api.cluster(vectors, workspace=Path(folder) / "run", method="self_trained", **given).run
        first = stage_folder(run, "first")
        assert first is not None
        edges = read_edges(run, "score")
        owners = vertex_identities(run, identities).astype(np.int64)
        described = dict(zip(DESCRIBED, describe_clusters(np.array(read_npy(first, "roots"))), strict=True))
    values = []
    for doubts in DOUBTS:
        kept = weigh_edges(edges, "log_odds", float(1 / (1 + 2.0**-doubts)))
        graph = build_weighted_adjacency(len(owners), lambda kept=kept: [kept], usable_cores())
        scores = evaluate(map_equation(*graph, threads=usable_cores(), seed=seed).roots_N, owners)
        values.append(round((scores["pairwise_f"] + scores["bcubed_f"]) / 2, 4))
    return {"num_rows": len(owners), **described, "f": values}


def fit(rows: list[dict[str, Any]]) -> np.ndarray:
    """Base, and slopes by ``DESCRIBED``: ridge regression of the best doubts."""
    inputs = np.array([[row[name] for name in DESCRIBED] for row in rows])
    mean, spread = inputs.mean(axis=0), inputs.std(axis=0)
    design = np.column_stack([np.ones(len(rows)), (inputs - mean) / spread])
    best = [np.average(DOUBTS, weights=np.exp((np.array(row["f"]) - max(row["f"])) / SOFT)) for row in rows]
    found = np.linalg.solve(design.T @ design + np.diag([0, RIDGE, RIDGE, RIDGE]), design.T @ np.array(best))
    slopes = found[1:] / spread
    return np.array([found[0] - slopes @ mean, *slopes])


def lost(row: dict[str, Any], line: np.ndarray) -> float:
    """Points of F below the best at the doubts of a line."""
    doubts = np.clip(line @ [1, *(row[name] for name in DESCRIBED)], DOUBTS[0], DOUBTS[-1])
    return float(100 * (max(row["f"]) - np.interp(doubts, DOUBTS, row["f"])))


def report(rows: list[dict[str, Any]]) -> None:
    """Print the line, and what one fitted to the other sets loses on each, beside a constant."""
    for name in SETS:
        own = [row for row in rows if row["data"] == name]
        line = fit([row for row in rows if row["data"] != name])
        losses, two = [lost(row, line) for row in own], [lost(row, np.array([2.0, 0, 0, 0])) for row in own]
        print(f"{name:20} {len(own)} variants; fitted to the others {np.round(line, 2)}: loses {np.mean(losses):.1f} "
              f"(most {max(losses):.1f}); two doubts everywhere {np.mean(two):.1f} (most {max(two):.1f})")  # fmt: skip
    line = fit(rows)
    print(f"fitted to all: base, then by {DESCRIBED}: {np.round(line, 2)}; loses "
          f"{np.mean([lost(row, line) for row in rows]):.1f}")  # fmt: skip


def main() -> None:
    """Measure, record and fit."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the real data sets")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--fit", action="store_true", help="only fit what is recorded")
    arguments = parser.parse_args()
    if not arguments.fit and arguments.data is None:
        parser.error("--data names the folder of the real data sets")
    for seed, name in product([] if arguments.fit else arguments.seeds, SETS):
        features, labels, split = read_set(arguments.data, name)
        fitting = split == 0
        made = make_variants(features[fitting].astype(np.float32), labels[fitting], 10 * seed + SETS.index(name))
        for kind, (vectors, identities) in made:
            if len(vectors) < LEAST_ROWS:
                continue
            row = {"data": name, "kind": kind, "seed": seed, **measure(vectors, identities, seed)}
            print(f"{name:20} {kind:10} {row['num_rows']:6,} rows, best {DOUBTS[int(np.argmax(row['f']))]:+.0f}", row)
            record_row(
                "doubts", {"doubts": DOUBTS.tolist()}, row, ("data", "kind", "seed"), lambda r: SETS.index(r["data"])
            )
    report(read_rows("doubts"))


if __name__ == "__main__":
    main()
