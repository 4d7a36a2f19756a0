"""Stage curve: what the same scores give at other precision biases, for the report.

One knob moves along it, from few wrong merges to few splits, and no edge is scored again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.clustering.adjacency import build_adjacency, build_weighted_adjacency
from engine.clustering.density_peaks import density_peaks
from engine.clustering.evidence import biased_score, weigh_edges
from engine.clustering.forest import strongest_forest
from engine.clustering.map_equation import map_equation
from engine.clustering.propagation import propagate
from engine.clustering.pruning import intimate_edges
from engine.clustering.union_find import component_roots
from engine.evaluation.metrics import f_from_counts, pair_counts
from engine.evaluation.sweep import SweepRow
from engine.plan import Cost
from engine.stages.edges import iterate_edges
from engine.storage.context import TaskContext, read_npy, stage_facts
from engine.storage.formats import read_labels

VERSION = 3
BIASES = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)

Array = np.ndarray[Any, Any]


def cost(num_rows: int, k: int) -> Cost:
    edges = num_rows * k
    return Cost(fixed_bytes=36 * edges + 250 * num_rows, disk_bytes=4096, seconds=len(BIASES) * edges / 5e6)


def run(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``curve.json``: clusters, singletons, the largest and, with labels, pairwise scores at each bias."""
    point = stage_facts(task.input("roots"))[0]
    floor, learned = point.get("unbiased_min_score", point["min_score"]), task.params["learned"]
    floors = {bias: biased_score(floor, bias, learned) for bias in BIASES}
    kept = [
        tuple(column[columns[2] >= np.float32(min(floors.values()))] for column in columns)
        for columns in iterate_edges(task.input("score"), ("source", "target", "score"))
    ]
    edges = tuple(np.concatenate(column) for column in zip(*kept, strict=True))
    find = _partition(task, edges, point)
    identities_V = _identities(task)
    rows = []
    for number, (bias, min_score) in enumerate(floors.items()):
        task.report(number / len(floors), f"bias {bias:+g}")
        rows.append(_row(bias, find(min_score), identities_V).as_dict())
    task.write_json("curve", {"rows": rows})
    return {}


def _partition(task: TaskContext, edges: tuple[Array, ...], point: dict[str, Any]) -> Callable[[float], Array]:
    """What gives the roots (N,) at a ``min_score``, by the run's own partition and its other settings."""
    (sources_E, targets_E, scores_E), num_vertices = edges, task.params["num_vertices"]
    kind = task.params["partition"]
    if kind == "map_equation":

        def modules(min_score: float) -> Array:
            block = weigh_edges(edges, point["weight"], min_score, point.get("bandwidth", 1.0))
            graph = build_weighted_adjacency(num_vertices, lambda: [block], task.threads)
            return map_equation(*graph, threads=task.threads, seed=task.params["seed"]).roots_N

        return modules
    if kind == "density_peaks":
        return lambda min_score: density_peaks(num_vertices, sources_E, targets_E, scores_E, min_score)
    if kind == "propagation":
        forest, cap, step = strongest_forest(*edges), int(point["max_size"]), task.params["step"]
        return lambda min_score: propagate(num_vertices, *forest, min_score=min_score, max_size=cap, step=step)

    def components(min_score: float) -> Array:
        chosen = scores_E >= np.float32(min_score)
        block = sources_E[chosen], targets_E[chosen]
        if point["min_intimacy"]:
            adjacency = build_adjacency(num_vertices, lambda: [block], task.threads)
            close = intimate_edges(*adjacency, *block, point["min_intimacy"], task.threads)
            block = block[0][close], block[1][close]
        return component_roots(num_vertices, *block)

    return components


def _identities(task: TaskContext) -> Array | None:
    if not task.where:
        return None
    identities_N = read_labels(task.where["labels"], task.params["num_vertices"], column=task.where["column"])
    return identities_N[read_npy(task.input("order"), "row_of_vertex")] if "order" in task.call.inputs else identities_N


def _row(bias: float, roots_V: Array, identities_V: Array | None) -> SweepRow:
    sizes = np.bincount(roots_V)
    sizes = sizes[sizes > 0]
    counted = len(sizes), int((sizes == 1).sum()), int(sizes.max(initial=0))
    if identities_V is None:
        return SweepRow(bias, *counted)
    pairs = pair_counts(roots_V, identities_V)
    return SweepRow(bias, *counted, pairs.precision, pairs.recall, f_from_counts(pairs))
