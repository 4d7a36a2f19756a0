"""Stage explain: how sure every row and cluster is, in two passes over the scored edges.

Writes ``confidence``, ``nearest`` and ``nearest_score`` (N,), by source row, and the table ``clusters``; columns as
``engine.evaluation.explain`` has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from engine.clustering.evidence import COSINE_BANDWIDTH, edge_weights
from engine.evaluation.explain import ClusterTable, Explainer, RowTable, ScoredEdges, as_columns
from engine.plan import Cost
from engine.stages.edges import iterate_edges
from engine.storage.context import TaskContext, read_npy, table_parts
from engine.storage.tables import read_columns

VERSION = 1
ROW_COLUMNS = tuple(RowTable.__dataclass_fields__)


def cost(num_rows: int, k: int) -> Cost:
    return Cost(fixed_bytes=num_rows * 260, disk_bytes=num_rows * 60, seconds=num_rows * k / 8e6)


def run(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Explain the run's labels."""
    explainer = Explainer(np.array(read_npy(task.input("labels"), "labels")))
    for edges in _edges(task):
        explainer.look(edges)
    for edges in _edges(task):
        explainer.weigh(edges)
    rows = explainer.rows()
    for name, column in as_columns(rows).items():
        task.write_npy(name, column)
    clusters = explainer.clusters(rows)
    task.write_table("clusters", as_columns(clusters))
    return {"num_clusters": len(clusters.labels)}


def _edges(task: TaskContext) -> Iterator[ScoredEdges]:
    """All scored edges between source rows, with the evidence that each is."""
    rows_V = np.array(read_npy(task.input("order"), "row_of_vertex")) if "order" in task.call.inputs else None
    for sources, targets, scores in iterate_edges(task.input("score"), ("source", "target", "score")):
        evidence = scores if task.params["learned"] else edge_weights(scores, "exponential", bandwidth=COSINE_BANDWIDTH)
        if rows_V is not None:
            sources, targets = rows_V[sources], rows_V[targets]
        yield ScoredEdges(sources, targets, scores, evidence)


def read_clusters(folder: Path) -> ClusterTable:
    """The table of a finished stage."""
    names = [name for name in ClusterTable.__dataclass_fields__ if name != "bridge_rows"]
    (path,) = table_parts(folder, "clusters")
    columns = dict(zip(names, read_columns(path, tuple(names)), strict=True))
    rows = np.stack(read_columns(path, ("bridge_row", "bridge_other_row")), axis=1)
    return ClusterTable(**columns, bridge_rows=rows)
