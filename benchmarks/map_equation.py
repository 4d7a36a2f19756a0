"""Modules by the map equation beside the outside implementation, the Python package infomap, on four graphs.

    python benchmarks/map_equation.py --data ../shared/data [--work FOLDER] [--outside PYTHON] [--only NAME ...]

``part1``: the KNN graph of the part1 stand-in (in ``--work``, or made here), cosines >= 0.5 as
weights. ``historical_figures`` and ``pricerunner``: the test identities' exact KNN graphs. ``planted``: 100,000
vertices, power-law groups and degrees, 40 % of the links to elsewhere, ids at random. ``large`` (only if asked for):
``--vertices`` in near order with 25 links each, ours alone, with its memory.

The package is GPL and no part of this project: ``--outside`` names the interpreter of a separate environment that has
it. It searches two levels, undirected, five seeds; its best codelength is compared, and the seconds of one trial,
reading the links apart. Each of its partitions is also measured by our ``codelength``. On the KNN graphs pairwise and
BCubed F stand beside, also for other weights and floors. Writes ``benchmarks/records/map_equation.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from apart import measure_apart, timed
from datasets import STANDINS, read_set
from recording import write_record
from run_graph import read_edges, vertex_identities

from engine import api, evaluate
from engine.clustering.csr import build_weighted_adjacency
from engine.clustering.evidence import edge_weights
from engine.clustering.map_equation import codelength, map_equation
from engine.storage.formats.label_files import read_labels
from engine.tiles import usable_cores

TRIALS = 5
FLOORS = {"part1": 0.5, "historical_figures": 0.5, "pricerunner": 0.7}
WEIGHTS = (("score", 1.0), ("exponential", 0.1), ("exponential", 0.15))
WEIGHT_FLOORS = (0.3, 0.4, 0.5, 0.6)
VERTICES, DEGREE = 2_000_000, 25

Edges = tuple[np.ndarray, np.ndarray, np.ndarray]
Graph = tuple[np.ndarray, np.ndarray, np.ndarray]

OUTSIDE = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np, infomap
from importlib.metadata import version
links = np.load(sys.argv[1])
for seed in range(1, int(sys.argv[3]) + 1):
    search = infomap.Infomap(f"--two-level --silent --num-trials 1 --seed {seed}")
    started = time.perf_counter()
    search.add_links(links)
    read, cpu = time.perf_counter(), time.process_time()
    search.run()
    row = {"seconds": time.perf_counter() - read, "cpu_seconds": time.process_time() - cpu, "read_s": read - started,
           "codelength": search.codelength, "version": version("infomap")}
    modules = search.get_modules()
    np.save(sys.argv[2], np.array(sorted(modules.items()), np.int64))
    print(json.dumps(row), flush=True)
    sys.stdin.readline()
    del search
"""


def read_run(run: Path, identities: np.ndarray) -> tuple[int, Edges, np.ndarray]:
    """A run's whole cosine graph, and the identities of its vertices."""
    return len(identities), read_edges(run), vertex_identities(run, identities)


def part1_graph(work: Path, data: Path) -> tuple[int, Edges, np.ndarray]:
    source = work / "part1"
    if not (source / "labels.meta").exists():
        api.make_standin(source, STANDINS["part1"], 1)
    run = work / "run"
    if not (run / "run.json").exists():
        api.cluster(source / "features.bin", dim=256, workspace=run, method="cosine")
    return read_run(run, read_labels(source / "labels.meta"))


def real_graph(name: str) -> Callable[[Path, Path], tuple[int, Edges, np.ndarray]]:
    def make(work: Path, data: Path) -> tuple[int, Edges, np.ndarray]:
        features, labels, split = read_set(data, name)
        folder = work / f"map-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "features.npy", features[split == 1])
        api.cluster(folder / "features.npy", workspace=folder / "run", method="cosine", knn={"mode": "exact"})
        return read_run(folder / "run", labels[split == 1])

    return make


def planted_graph(work: Path, data: Path) -> tuple[int, Edges, np.ndarray]:
    """Groups of 20 to 1,000 vertices and degrees of 10 to 200, both power laws of exponent 2.5; unweighted."""
    random, num_vertices = np.random.default_rng(5), 100_000
    sizes = np.minimum(1000, 20 * (1 - random.random(num_vertices // 20)) ** (-1 / 1.5)).astype(np.int64)
    groups = np.repeat(np.arange(len(sizes)), sizes)[random.permutation(num_vertices)]
    degrees = np.minimum(200, 10 * (1 - random.random(num_vertices)) ** (-1 / 1.5)).astype(np.int64)
    stubs = random.permutation(np.repeat(np.arange(num_vertices), degrees))
    leaving = random.random(len(stubs)) < 0.4
    outside, inside = stubs[leaving], stubs[~leaving][np.argsort(groups[stubs[~leaving]], kind="stable")]
    pairs = np.concatenate([stubs[: len(stubs) // 2 * 2].reshape(-1, 2) for stubs in (outside, inside)])
    pairs = np.unique(np.sort(pairs[pairs[:, 0] != pairs[:, 1]], axis=1), axis=0).astype(np.int32)
    return num_vertices, (pairs[:, 0].copy(), pairs[:, 1].copy(), np.ones(len(pairs), np.float32)), groups


GRAPHS: dict[str, Callable[[Path, Path], tuple[int, Edges, np.ndarray]]] = {
    "historical_figures": real_graph("historical_figures"), "pricerunner": real_graph("pricerunner"),
    "planted": planted_graph, "part1": part1_graph,
}  # fmt: skip


def above(edges: Edges, floor: float) -> Edges:
    kept = edges[2] >= np.float32(floor)
    return edges[0][kept], edges[1][kept], edges[2][kept]


def load_compiled() -> None:
    run_ours(2, (np.zeros(1, np.int32), np.ones(1, np.int32), np.ones(1, np.float32)))


def run_ours(num_vertices: int, edges: Edges) -> tuple[dict[str, Any], np.ndarray, Graph]:
    """Build the graph and search it."""
    started = time.perf_counter()
    graph = build_weighted_adjacency(num_vertices, lambda: [edges], usable_cores())
    built, cpu = time.perf_counter(), time.process_time()
    found = map_equation(*graph, threads=usable_cores())
    row = {
        "codelength": found.codelength, "modules": found.num_modules, "rounds": found.num_rounds,
        "seconds": round(time.perf_counter() - built, 2), "cpu_seconds": round(time.process_time() - cpu, 2),
        "build_s": round(built - started, 2),
    }  # fmt: skip
    return row, found.roots_N, graph


def run_outside(python: str, num_vertices: int, edges: Edges, graph: Graph) -> Iterator[dict[str, Any]]:
    """Give the outside implementation's trials, each partition measured by our codelength too."""
    with tempfile.TemporaryDirectory() as folder:
        links, modules = Path(folder) / "links.npy", Path(folder) / "modules.npy"
        np.save(links, np.column_stack([edges[0], edges[1], edges[2].astype(np.float64)]))
        with subprocess.Popen(
            [python, "-c", OUTSIDE, str(links), str(modules), str(TRIALS)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, bufsize=1,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            assert process.stdin is not None
            for line in process.stdout:
                pairs = np.load(modules)
                labels = np.arange(num_vertices) + num_vertices + pairs[:, 1].max()
                labels[pairs[:, 0]] = pairs[:, 1]
                row = json.loads(line)
                yield {**row, "our_codelength": codelength(*graph, labels)}
                process.stdin.write("\n")


def compare(name: str, work: Path, data: Path, python: str | None) -> dict[str, Any]:
    """Measure one graph."""
    num_vertices, edges, identities = GRAPHS[name](work, data)
    used = above(edges, FLOORS.get(name, 0.0))
    load_compiled()
    ours, roots, graph = run_ours(num_vertices, used)
    row: dict[str, Any] = {
        "graph": name, "vertices": num_vertices, "edges": len(used[0]), "floor": FLOORS.get(name),
        "load": round(os.getloadavg()[0], 1), "ours": {**ours, **quality(roots, identities)},
    }  # fmt: skip
    print(f"{name:20} ours {ours['codelength']:.6f} bits, {ours['seconds']} s", flush=True)
    trials = list(run_outside(python, num_vertices, used, graph)) if python else []
    if trials:
        best = min(trial["codelength"] for trial in trials)
        row["outside"] = trials
        row["excess"] = round(ours["codelength"] / best - 1, 6)
        row["speedup"] = round(float(np.median([trial["seconds"] for trial in trials])) / ours["seconds"], 2)
        row["cpu_ratio"] = round(float(np.median([t["cpu_seconds"] for t in trials])) / ours["cpu_seconds"], 2)
        print(f"{'':20} outside {best:.6f} bits at best, ours {100 * row['excess']:+.3f} %; a trial takes "
              f"{row['speedup']} times as long, {row['cpu_ratio']} times the processor's time", flush=True)  # fmt: skip
    if name in FLOORS:
        row["weights"] = list(weigh(num_vertices, edges, identities))
    return row


def quality(roots: np.ndarray, identities: np.ndarray) -> dict[str, float]:
    scores = evaluate(roots.astype(np.int64), identities)
    return {name: round(float(scores[name]), 4) for name in ("pairwise_f", "bcubed_f")}


def weigh(num_vertices: int, edges: Edges, identities: np.ndarray) -> Iterator[dict[str, Any]]:
    """Quality for several weights and floors, which no label chooses."""
    for kind, bandwidth in WEIGHTS:
        for floor in WEIGHT_FLOORS:
            sources, targets, similarities = above(edges, floor)
            row, roots, _ = run_ours(
                num_vertices, (sources, targets, edge_weights(similarities, kind, bandwidth=bandwidth))
            )
            scores = quality(roots, identities)
            yield {"weight": kind, "bandwidth": bandwidth if kind == "exponential" else None, "floor": floor,
                   "modules": row["modules"], "seconds": row["seconds"], **scores}  # fmt: skip
            print(f"{'':20} {kind} {bandwidth} floor {floor}: pairwise F {100 * scores['pairwise_f']:.1f}  "
                  f"BCubed F {100 * scores['bcubed_f']:.1f}", flush=True)  # fmt: skip


def search_large(num_vertices: int) -> dict[str, Any]:
    """In a process of its own: groups of about 60 near by id, one link in five to anywhere within 10,000 ids."""

    def blocks() -> Iterator[Edges]:
        for start in range(0, num_vertices, 1 << 16):
            random = np.random.default_rng(start)
            sources = np.repeat(np.arange(start, min(start + (1 << 16), num_vertices)), DEGREE)
            near = sources // 60 * 60 + random.integers(0, 60, len(sources))
            far = sources + random.integers(-10_000, 10_000, len(sources))
            targets = np.clip(np.where(random.random(len(sources)) < 0.8, near, far), 0, num_vertices - 1)
            yield sources.astype(np.int32), targets.astype(np.int32), random.random(len(sources), np.float32)

    load_compiled()
    graph = build_weighted_adjacency(num_vertices, blocks, usable_cores())
    cpu = time.process_time()
    found, seconds = timed(lambda: map_equation(*graph, threads=usable_cores()))
    groups = np.arange(num_vertices) // 60
    return {"vertices": num_vertices, "edges": len(graph[1]) // 2, "seconds": seconds,
            "cpu_seconds": round(time.process_time() - cpu, 1), "modules": found.num_modules,
            "codelength": found.codelength, "planted_codelength": codelength(*graph, groups, threads=usable_cores()),
            **quality(found.roots_N, groups)}  # fmt: skip


def main() -> None:
    """Measure, print and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    parser.add_argument("--work", type=Path, help="folder for data and runs, kept; default: a temporary one")
    parser.add_argument("--outside", default=sys.executable, help="interpreter that has the package infomap")
    parser.add_argument("--only", nargs="*", choices=[*GRAPHS, "large"], default=list(GRAPHS))
    parser.add_argument("--vertices", type=int, default=VERTICES, help="of the graph large")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(search_large(arguments.vertices)))
        return
    python = arguments.outside
    if subprocess.run([python, "-c", "import infomap"], capture_output=True, check=False).returncode:
        print(f"{python} has no package infomap: ours alone is measured")
        python = None
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.only:
            if name != "large":
                rows.append(compare(name, arguments.work or Path(temporary), arguments.data, python))
                continue
            child = ["--data", str(arguments.data), "--child", "--vertices", str(arguments.vertices)]
            rows.append({"graph": name, **measure_apart(__file__, child, 3600)})
            print(json.dumps(rows[-1]), flush=True)
    write_record("map_equation", {"trials": TRIALS, "threads": usable_cores()}, rows)


if __name__ == "__main__":
    main()
