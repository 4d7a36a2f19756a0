"""Stages from scored edges to labels: pruning and union-find, propagation, density peaks, or the map equation.

Pruning keeps edges of score >= min_score and node intimacy >= min_intimacy, streams them through a union-find, and
leaves each block's spanning forest; forests merge eight at a time, then all together by minimum id: in one process, or
in ranges of vertices that are companions of the task.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.clustering.adjacency import build_adjacency, build_weighted_adjacency
from engine.clustering.density_peaks import DensityPeaks
from engine.clustering.evidence import biased_score, weigh_edges
from engine.clustering.forest import MaximumForest
from engine.clustering.labels import dense_labels, expand_labels
from engine.clustering.map_equation import map_equation
from engine.clustering.propagation import propagate
from engine.clustering.pruning import intimate_edges
from engine.clustering.range_union_find import PIECE_EDGES, VertexRange, iterate_roots, unite_ranges
from engine.clustering.union_find import UnionFind, id_dtype
from engine.plan import CHUNK_ROWS, Cost
from engine.stages.edges import iterate_edges, read_edges
from engine.stages.ingest import zero_rows
from engine.storage.context import CompanionTask, TaskCall, TaskContext, committed_records, folder_digest, read_npy
from engine.storage.manifest import read_json
from engine.storage.tables import read_columns

VERSION = 4
FAN_IN = 8
RANGE_ROWS = 1 << 28  # more vertices are united in ranges: 1 GiB of parents each
FOREST_RANGE = f"{__name__}:ForestRange"
PIECE_CHUNKS = 8  # of edges in memory at a time
_UNION_S = 6e-9  # per vertex, to begin a union-find and to list its forest, for projections
_SMALL = 4 << 20
_KEPT = 0.75  # edges of the map equation for each listed neighbour: as many lists hold both ends, 0.4 to 0.7 at part1


def operating_point(task: TaskContext) -> dict[str, Any]:
    """The thresholds to use: those set, else those an earlier stage chose."""
    chosen = read_json(task.input("point") / "point.json") if "point" in task.call.inputs else {}
    point = {**chosen, **{name: value for name, value in task.params["point"].items() if value is not None}}
    if task.params["precision_bias"]:
        point["unbiased_min_score"] = point["min_score"]
        point["min_score"] = biased_score(point["min_score"], task.params["precision_bias"], task.params["learned"])
    return point


def adjacency_cost(num_rows: int, k: int) -> Cost:
    edges = num_rows * k
    return Cost(fixed_bytes=8 * edges + 16 * num_rows, disk_bytes=8 * edges // 2 + 8 * num_rows, seconds=edges / 2e7)


def kept_adjacency(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the symmetric CSR adjacency of the edges of score >= min_score: ``indptr``, ``indices``."""
    min_score = np.float32(operating_point(task)["min_score"])

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for sources, targets, scores in iterate_edges(task.input("score"), ("source", "target", "score")):
            kept = scores >= min_score
            yield sources[kept], targets[kept]

    indptr, indices = build_adjacency(task.params["num_vertices"], blocks, task.threads)
    task.write_npy("indptr", indptr)
    task.write_npy("indices", indices)
    return {"edges_kept_by_score": len(indices) // 2}


def prune_cost(num_rows: int, k: int, *, intimate: bool) -> Cost:
    piece = PIECE_CHUNKS * CHUNK_ROWS * k * 20
    return Cost(
        fixed_bytes=piece + num_rows * 21, disk_bytes=num_rows * 12, seconds=num_rows * k / (7e6 if intimate else 5e7),
        seconds_per_task=num_rows * _UNION_S,
    )  # fmt: skip


def prune(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the spanning ``forest`` (member, root) of the edges owned by these rows that survive both thresholds."""
    point = operating_point(task)
    intimate = "adjacency" in task.call.inputs
    if intimate:
        indptr, indices = (read_npy(task.input("adjacency"), name) for name in ("indptr", "indices"))
    union = UnionFind(task.params["num_vertices"])
    edges = after_score = after_both = 0
    names = ("source", "target", "score")
    for sources, targets, scores in read_edges(task.input("score"), start, stop, names, PIECE_CHUNKS):
        edges += len(scores)
        kept = scores >= np.float32(point["min_score"])
        sources, targets = sources[kept], targets[kept]
        after_score += len(sources)
        if intimate:
            close = intimate_edges(indptr, indices, sources, targets, point["min_intimacy"], task.threads)
            sources, targets = sources[close], targets[close]
        after_both += len(sources)
        union.add(sources, targets)
    _write_forest(task, union)
    return {"edges": edges, "edges_kept_by_score": after_score, "edges_kept": after_both}


def merge_cost(num_rows: int) -> Cost:
    return Cost(fixed_bytes=num_rows * 28 + _SMALL, disk_bytes=num_rows * 8, seconds=num_rows / 5e6,
                seconds_per_task=num_rows * _UNION_S)  # fmt: skip


def merge(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Merge the forests of the blocks that begin in these rows into one."""
    union = UnionFind(task.call.num_rows)
    for members, roots in _forests(task.input("prune"), start, stop):
        union.add(members, roots)
    _write_forest(task, union)
    return {}


def roots_cost(num_rows: int, ranges: int = 1) -> Cost:
    """Memory is that of a range: Ray spreads them over hosts; in one process they stay below ``labels_cost``."""
    cost = Cost(fixed_bytes=num_rows * 24 + _SMALL, disk_bytes=num_rows * 4, seconds=num_rows / 5e6)
    if ranges == 1:
        return cost
    return replace(cost, fixed_bytes=-(-num_rows // ranges) * 32 + (ranges + 2) * PIECE_EDGES * 8 + _SMALL)


def components(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Join all forests by minimum id: ``roots`` (N,), the lowest vertex of each vertex's cluster.

    With ``ranges`` above 1 each range of vertices is a companion, which reads its rows of every forest; the task holds
    the roots of one range at a time.
    """
    num_vertices, ranges = task.params["num_vertices"], task.where.get("ranges", 1)
    facts = {**operating_point(task), "partition": "components"}
    if ranges == 1:
        union = UnionFind(num_vertices)
        for members, roots in _forests(task.input("merge"), 0, np.iinfo(np.int64).max):
            union.add(members, roots)
        task.write_npy("roots", union.roots())
        return facts
    arguments = [(task.sent, number, ranges, num_vertices) for number in range(ranges)]
    with task.companions(FOREST_RANGE, arguments) as companions:
        rounds = unite_ranges(companions)
        task.write_npy_parts("roots", iterate_roots(companions), num_vertices, id_dtype(num_vertices))
    return facts | {"ranges": ranges, "rounds": rounds}


class ForestRange(VertexRange):
    """A range that reads its own members' rows of the merged forests."""

    def __init__(self, call: TaskCall, number: int, num_ranges: int, num_vertices: int) -> None:
        self._task = CompanionTask(call)
        super().__init__(number, num_ranges, num_vertices, self._rows(self._task.input("merge")))

    def _rows(self, folder: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for members, roots in _forests(folder, 0, np.iinfo(np.int64).max):
            own = slice(*np.searchsorted(members, np.array([self.start, self.stop], members.dtype)))
            yield members[own], roots[own]


def propagation_cost(num_rows: int, k: int) -> Cost:
    return Cost(fixed_bytes=num_rows * (100 + 24 * 4), disk_bytes=num_rows * 4, seconds=num_rows * k / 2e7)


def propagation(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Size-capped propagation over all edges of score >= min_score: ``roots`` (N,).

    Works on the maximum spanning forest of the edges, which has the same components at every threshold: memory
    follows the number of vertices.
    """
    point = operating_point(task)
    num_vertices = task.params["num_vertices"]
    forest = MaximumForest(num_vertices)
    for sources, targets, scores in iterate_edges(task.input("score"), ("source", "target", "score")):
        kept = scores >= np.float32(point["min_score"])
        forest.add(sources[kept], targets[kept], scores[kept])
    sources, targets, scores = forest.edges()
    roots = propagate(
        num_vertices, sources, targets, scores, min_score=float(point["min_score"]),
        max_size=int(point["max_size"]), step=task.params["step"],
    )  # fmt: skip
    task.write_npy("roots", roots)
    return {**point, "partition": "propagation"}


def density_peaks_cost(num_rows: int, k: int) -> Cost:
    return Cost(fixed_bytes=num_rows * 40 + _SMALL, disk_bytes=num_rows * 4, seconds=num_rows * k / 2e7)


def density_peaks(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Density-peak linking over all edges of score >= min_score: ``roots`` (N,)."""
    point = operating_point(task)
    found = DensityPeaks(task.params["num_vertices"], float(point["min_score"]))
    for visit in (found.add_density, found.link):
        for sources, targets, scores in iterate_edges(task.input("score"), ("source", "target", "score")):
            visit(sources, targets, scores)
    task.write_npy("roots", found.roots())
    return {**point, "partition": "density_peaks"}


def modules_cost(num_rows: int, k: int) -> Cost:
    edges = num_rows * k
    return Cost(
        fixed_bytes=int(16 * _KEPT * edges) + 200 * num_rows,
        bytes_per_thread=32 << 20,
        disk_bytes=4 * num_rows,
        seconds=edges / 2.5e6,
    )


def modules(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Modules by the map equation, over edges of score >= min_score: ``roots`` (N,)."""
    point = operating_point(task)

    def blocks() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for edges in iterate_edges(task.input("score"), ("source", "target", "score")):
            yield weigh_edges(edges, point["weight"], point["min_score"], point.get("bandwidth", 1.0))

    graph = build_weighted_adjacency(task.params["num_vertices"], blocks, task.threads)
    found = map_equation(*graph, threads=task.threads, seed=task.params["seed"])
    task.write_npy("roots", found.roots_N)
    facts = {
        "partition": "map_equation",
        "edges_kept": len(graph[1]) // 2,
        "codelength": found.codelength,
        "rounds": found.num_rounds,
    }
    return {**point, **facts}


def labels_cost(num_rows: int) -> Cost:
    return Cost(fixed_bytes=num_rows * 60 + _SMALL, disk_bytes=num_rows * 8, seconds=num_rows / 3e6)


def label_rows(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Number the clusters by their first source row: ``labels`` (N,) int64, source order; dropped rows get -1."""
    roots = np.array(read_npy(task.input("roots"), "roots"))
    if "order" in task.call.inputs:
        roots_by_row = np.empty_like(roots)
        roots_by_row[read_npy(task.input("order"), "row_of_vertex")] = roots
        first_row = np.empty_like(roots)
        first_row[roots_by_row[::-1]] = np.arange(len(roots) - 1, -1, -1, dtype=roots.dtype)
        roots = first_row[roots_by_row]
    labels = dense_labels(roots)
    zeros = zero_rows(task.input("ingest"))
    if len(zeros) and task.params["zero_vectors"] == "drop":
        kept = np.setdiff1d(np.arange(len(labels)), zeros)
        renumbered = np.unique(labels[kept], return_inverse=True)[1].astype(np.int64)
        labels = expand_labels(renumbered, kept, len(labels))
    task.write_npy("labels", labels)
    sizes = np.bincount(labels[labels >= 0])
    return {
        "num_clusters": len(sizes), "num_singletons": int((sizes == 1).sum()), "largest": int(sizes.max(initial=0)),
        "num_dropped": int((labels < 0).sum()),
    }  # fmt: skip


def _write_forest(task: TaskContext, union: UnionFind) -> None:
    members, roots = union.forest()
    task.write_table("forest", {"member": members, "root": roots})


def _forests(folder: Path, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for record in committed_records(folder, folder_digest(folder)):
        if start <= record.start < stop:
            path = next(output.path for output in record.outputs if output.path.startswith("forest/"))
            members, roots = read_columns(folder / path, ("member", "root"))
            yield members, roots
