"""Connected components of a random graph: the engine's kernel and stages beside scipy and igraph.

    python benchmarks/components.py [--quick] [--vertices 10000000] [--degree 25] [--work FOLDER]

Every vertex owns ``degree`` edges to others drawn uniformly: the worst graph for caches, all of it one component. It is
written once as the ``score`` stage writes its edge table. Each contender then reads that table from storage, dropped
from the system's cache first, in a process of its own:

- ``stages``: the pipeline's prune, merge and roots, planned within 2 GB, committed to storage as in any run;
- ``stream``: ``UnionFind`` fed chunk by chunk;
- ``arrays``, ``scipy``, ``igraph`` (where installed): all edges in memory, then ``component_roots``,
  ``scipy.sparse.csgraph.connected_components``, ``igraph.Graph.connected_components``; loading, building their graph
  and finding the components are timed apart.

With ``--ranges P`` edges are drawn as they are read and nothing is stored: ``UnionFind`` beside ``VertexRange`` over P
ranges, called in turn in one process, each of which draws all edges and keeps its own. ``range_s`` are the seconds of
each: the longest bounds what P processes would take. Writes ``benchmarks/records/ranges.json``.

    python benchmarks/components.py --ranges 4 --vertices 100000000 --degree 3 --limit 3000

``peak_bytes`` is anonymous memory, mapped files left out; ``peak_resident_bytes`` counts those too. All must agree on
the components. Writes ``benchmarks/records/components.json`` (``components_quick.json`` with ``--quick``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from apart import Clock, found_version, measure_apart, timed
from recording import write_record
from run_graph import stage_table

from engine.clustering.range_union_find import VertexRange, iterate_roots, unite_ranges
from engine.clustering.union_find import UnionFind, component_roots
from engine.executors.local import LocalExecutor
from engine.flow.clusters import make_clusters
from engine.methods.base import Graph
from engine.runs.plan import make_plan
from engine.runs.progress import Quiet
from engine.runs.runner import Workshop, run_plan
from engine.runs.step import Outside, in_order, where
from engine.settings import Settings
from engine.stages import Cost, Stage
from engine.steps.crossing import Crossing
from engine.steps.edges import Scores, iterate_edges, num_edges
from engine.steps.ingest import StoredRows
from engine.steps.knn import ExactNeighbors
from engine.steps.source import Source
from engine.storage.companions import CompanionsHere
from engine.storage.context import TaskContext, read_npy
from engine.storage.places import Place
from engine.tiles import tile_bounds, usable_cores
from engine.units import CHUNK_ROWS

VERTICES, DEGREE, QUICK_VERTICES = 10_000_000, 25, 500_000
MEMORY_BYTES = 2 * 10**9
TASKS = 20
DRAWN_ROWS = 1 << 20
THRESHOLD = 0.5  # all scores pass

Found = tuple[np.ndarray, dict[str, Any]]


def write_random_edges(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges owned by these rows, as the stage ``score`` would, all scores in [0.5, 1)."""
    n, degree = task.params["num_vertices"], task.params["degree"]
    columns: dict[str, list[np.ndarray]] = {"source": [], "target": [], "similarity": [], "score": []}
    counts = []
    for a, b in tile_bounds(start, stop, CHUNK_ROWS):
        random = np.random.Generator(np.random.SFC64([task.params["seed"], a]))
        owners = np.repeat(np.arange(a, b, dtype=np.int32), degree)
        others = random.integers(0, n - 1, len(owners), dtype=np.int32)
        others += others >= owners  # never itself
        scores = random.random(len(owners), dtype=np.float32) / 2 + np.float32(0.5)
        edges = (np.minimum(owners, others), np.maximum(owners, others), scores, scores)
        for column, values in zip(columns.values(), edges, strict=True):
            column.append(values)
        counts.append(len(owners))
    task.write_table("edges", {name: np.concatenate(parts) for name, parts in columns.items()})
    return {"chunk_edges": counts, "edges": sum(counts)}


def run(root: Path, stages: list[Stage]) -> dict[str, Path]:
    """Run stages as the runner runs any, planned within 2 GB."""
    plan = make_plan("run", stages, source_digest="random", memory_bytes=MEMORY_BYTES, free_disk_bytes=10**15)
    workshop = Workshop(Place(root), LocalExecutor(), Quiet(), usable_cores(), "cpu")
    source = Source("random", {}, plan.stages[0].num_rows, 1, 4, "random", None, [])
    return run_plan(plan, workshop, {"features": "random", "settings": {}, "source": source.as_dict()})


def make_edges(work: Path, num_vertices: int, degree: int) -> Path:
    """Write the edge table, unless ``work`` holds it; return its folder."""
    params = {"num_vertices": num_vertices, "degree": degree, "seed": 1}
    disk = num_vertices * degree * 16
    cost = Cost(disk_bytes=disk, seconds=20.0 * TASKS)
    stage = Stage("score", "components:write_random_edges", 1, params, {}, num_vertices, cost)
    return run(work / f"edges_{num_vertices}_{degree}", [stage])["score"]


@dataclass(frozen=True, kw_only=True, eq=False)
class StoredScores(Scores, Outside):
    """An edge table that lies in a folder."""

    kind, version = "stored_scores", 1
    folder: str = where()

    @property
    def name(self) -> str:
        return self.folder


def find_by_stages(score: Path, num_vertices: int, degree: int) -> Found:
    settings = Settings(
        method="cosine", partition={"method": "components", "min_score": THRESHOLD, "min_intimacy": 0.0}
    )
    rows = StoredRows(num_rows=num_vertices, dim=256, folder="rows")
    knn = ExactNeighbors(num_rows=num_vertices, features=rows, rows=rows, k=2 * degree)
    scores = StoredScores(num_rows=num_vertices, knn=knn, min_similarity=0.0, max_edges_per_vertex=0, folder=str(score))
    crossing = Crossing(num_rows=num_vertices, score=scores)
    outside = in_order(make_clusters(Graph(rows=rows, features=rows, knn=knn), settings, None, scores, crossing))
    with tempfile.TemporaryDirectory(dir=score.parent.parent) as root:
        folders = run(Path(root) / "run", outside)
        seconds = {f"{row['stage']}_s": row["seconds"] for row in stage_table(Path(root) / "run")}
        return np.array(read_npy(folders["roots"], "roots")), seconds


def find_by_stream(score: Path, num_vertices: int, degree: int) -> Found:
    union = UnionFind(num_vertices)
    for sources, targets in iterate_edges(score, ("source", "target")):
        union.add(sources, targets)
    return union.roots(), {}


def find_by_arrays(score: Path, num_vertices: int, degree: int) -> Found:
    clock = Clock()
    edges = load_edges(score)
    clock.lap("load_s")
    roots = component_roots(num_vertices, *edges)
    clock.lap("components_s")
    return roots, clock.laps


def find_by_scipy(score: Path, num_vertices: int, degree: int) -> Found:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    clock = Clock()
    edges = load_edges(score)
    clock.lap("load_s")
    graph = coo_array((np.ones(len(edges[0]), np.bool_), edges), shape=(num_vertices, num_vertices)).tocsr()
    del edges
    clock.lap("build_s")
    labels = connected_components(graph, directed=False)[1]
    clock.lap("components_s")
    return labels, clock.laps


def find_by_igraph(score: Path, num_vertices: int, degree: int) -> Found:
    import igraph

    clock = Clock()
    pairs = np.stack(load_edges(score), axis=1, dtype=np.int64)  # its own type
    clock.lap("load_s")
    graph = igraph.Graph(num_vertices, pairs)
    del pairs
    clock.lap("build_s")
    labels = np.array(graph.connected_components().membership)
    clock.lap("components_s")
    return labels, clock.laps


def draw_edges(num_vertices: int, degree: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random edges, a block at a time, always the same ones."""
    for a, b in tile_bounds(0, num_vertices, DRAWN_ROWS):
        random = np.random.Generator(np.random.SFC64([1, a]))
        yield tuple(random.integers(0, num_vertices, (2, (b - a) * degree), dtype=np.int32))


class ClockedCompanions(CompanionsHere):
    """Companions that tell the seconds each has worked."""

    def begin(self, number: int, method: str, *arguments: Any, parts: int = 0) -> Any:
        started = time.perf_counter()
        result = super().begin(number, method, *arguments, parts=parts)
        self.seconds[number] += time.perf_counter() - started
        return result

    def __init__(self, companions: list[VertexRange]) -> None:
        super().__init__(companions)
        self.seconds = [0.0] * len(companions)


def find_drawn(num_ranges: int, num_vertices: int, degree: int) -> Found:
    if num_ranges == 1:
        union = UnionFind(num_vertices)
        for edges in draw_edges(num_vertices, degree):
            union.add(*edges)
        return union.roots(), {}
    ranges = ClockedCompanions([
        VertexRange(number, num_ranges, num_vertices, draw_edges(num_vertices, degree)) for number in range(num_ranges)
    ])  # fmt: skip
    rounds = unite_ranges(ranges)
    roots = np.concatenate(list(iterate_roots(ranges)))
    return roots, {"rounds": rounds, "range_s": [round(seconds, 2) for seconds in ranges.seconds]}


CONTENDERS: dict[str, Callable[[Path, int, int], Found]] = {
    "stages": find_by_stages, "stream": find_by_stream, "arrays": find_by_arrays, "scipy": find_by_scipy,
    "igraph": find_by_igraph,
}  # fmt: skip


def load_edges(score: Path) -> tuple[np.ndarray, np.ndarray]:
    """All edges of the table as two arrays, without a second copy of either."""
    total = num_edges(score)
    sources, targets = np.empty(total, np.int32), np.empty(total, np.int32)
    filled = 0
    for piece in iterate_edges(score, ("source", "target")):
        end = filled + len(piece[0])
        sources[filled:end], targets[filled:end] = piece
        filled = end
    return sources, targets


def drop_cached(folder: Path) -> None:
    """Ask the system to forget what it holds of these files in memory."""
    for path in folder.rglob("*.arrow"):
        handle = os.open(path, os.O_RDONLY)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def contend(name: str, score: Path, num_vertices: int, degree: int) -> dict[str, Any]:
    """Measure one contender in this process, which does nothing else."""
    component_roots(2, np.array([0], np.int32), np.array([1], np.int32))  # compiled code is loaded
    drop_cached(score)
    return describe(num_vertices, lambda: CONTENDERS[name](score, num_vertices, degree))


def contend_drawn(num_ranges: int, num_vertices: int, degree: int) -> dict[str, Any]:
    """Measure one number of ranges in this process, which does nothing else."""
    find_drawn(num_ranges, 1000, 1)  # compiled code is loaded
    return describe(num_vertices, lambda: find_drawn(num_ranges, num_vertices, degree))


def describe(num_vertices: int, find: Callable[[], Found]) -> dict[str, Any]:
    """Time it, and describe the components found."""
    (labels, parts), seconds = timed(find)
    first = np.empty(int(labels.max()) + 1, np.int64)
    first[labels[::-1]] = np.arange(num_vertices - 1, -1, -1)
    return {
        "seconds": seconds, **parts,
        "components": len(np.unique(labels)), "digest": xxhash.xxh3_64(first[labels]).hexdigest(),
    }  # fmt: skip


def main() -> int:
    """Run every contender, print, record; 1 if two disagree."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vertices", type=int, default=VERTICES)
    parser.add_argument("--degree", type=int, default=DEGREE, help="edges that each vertex owns")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_VERTICES:,} vertices: half a minute")
    parser.add_argument("--work", type=Path, help="folder for the edge table, kept; default: a temporary one")
    parser.add_argument("--limit", type=float, default=600, help="seconds that each contender may take")
    parser.add_argument("--ranges", type=int, default=0, help="measure so many ranges beside one, edges never stored")
    parser.add_argument("--drawn", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--score", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contender:
        print(json.dumps(contend(arguments.contender, arguments.score, arguments.vertices, arguments.degree)))
        return 0
    if arguments.drawn:
        print(json.dumps(contend_drawn(arguments.drawn, arguments.vertices, arguments.degree)))
        return 0
    num_vertices = QUICK_VERTICES if arguments.quick else arguments.vertices
    if arguments.ranges:
        return compare_ranges(arguments.ranges, num_vertices, arguments.degree, arguments.limit)
    with tempfile.TemporaryDirectory() as temporary:
        return compare(
            arguments.work or Path(temporary), num_vertices, arguments.degree, arguments.quick, arguments.limit
        )


def compare_ranges(num_ranges: int, num_vertices: int, degree: int, limit_s: float) -> int:
    """Measure one process that knows all parents, and ranges that know their own."""
    rows = []
    for count in (1, num_ranges):
        child = ["--drawn", str(count), "--vertices", str(num_vertices), "--degree", str(degree)]
        rows.append({"ranges": count, **measure_apart(__file__, child, limit_s)})
        print(json.dumps(rows[-1]), flush=True)
    write_record("ranges", {"num_vertices": num_vertices, "num_edges": num_vertices * degree}, rows)
    return int(len({row.get("digest") for row in rows}) > 1)


def compare(work: Path, num_vertices: int, degree: int, quick: bool, limit_s: float) -> int:
    """Make the table and measure everyone on it."""
    score = make_edges(work, num_vertices, degree)
    rows = []
    for name in CONTENDERS:
        child = ["--contender", name, "--score", str(score), "--vertices", str(num_vertices), "--degree", str(degree)]
        row = {"contender": name, **measure_apart(__file__, child, limit_s)}
        rows.append(row)
        if "failed" in row:
            print(f"{name:8} failed: {row['failed']}", flush=True)
            continue
        print(f"{name:8} {row['seconds']:7.1f} s  peak {row['peak_bytes'] / 1e9:6.2f} GB  "
              f"{row['components']:,} components", flush=True)  # fmt: skip
    found = {row["contender"]: row for row in rows if "failed" not in row}
    ours = found["stream"]
    ratios = {
        name: {
            "seconds": round(found[name]["seconds"] / ours["seconds"], 2),
            "peak": round(found[name]["peak_bytes"] / ours["peak_bytes"], 2),
            "seconds_in_memory": round(
                (found[name]["build_s"] + found[name]["components_s"]) / found["arrays"]["components_s"], 2
            ),
        }
        for name in ("scipy", "igraph") if name in found
    }  # fmt: skip
    settings = {
        "num_vertices": num_vertices,
        "num_edges": num_vertices * degree,
        "threads": usable_cores(),
        "limit_s": limit_s,
    }
    settings |= {name: found_version(name) for name in ("scipy", "igraph")}
    name = "components_quick" if quick else "components"
    write_record(name, settings, {"rows": rows, "ratios_to_stream": ratios})
    return int(len({row["digest"] for row in found.values()}) > 1)


if __name__ == "__main__":
    sys.exit(main())
