"""Step explain: how sure the clustering is of each row and cluster, in two passes over the scored edges.

It writes ``confidence``, ``nearest`` and ``nearest_score`` (N,), by source row, and the table ``clusters``. The columns
are those of ``engine.evaluation.explain``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.clustering.evidence import COSINE_BANDWIDTH, edge_weights
from engine.evaluation.explain import ClusterTable, Explainer, RowTable, ScoredEdges, as_columns
from engine.runs.step import Facts, Step, Task
from engine.stages import Cost
from engine.steps.copies import Copies, leaders_by_row
from engine.steps.edges import SCORED, Scores, iterate_edges
from engine.steps.knn import Order, vertex_rows
from engine.steps.labels import Labels
from engine.storage.context import table_parts
from engine.storage.tables import read_columns

ROW_COLUMNS = tuple(RowTable.__dataclass_fields__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Explain(Step[Facts]):
    """Measures how sure each row and cluster is. ``learned``: scores are probabilities, else cosines.

    A copy belongs to the row that stands for it, for certain.
    """

    kind, version, title = "explain", 2, "explain"
    labels: Labels
    score: Scores
    order: Order | None
    learned: bool
    copies: Copies | None = None

    def cost(self) -> Cost:
        """Project the numbers held of each row."""
        n = self.score.num_rows
        return Cost(fixed_bytes=n * 260, disk_bytes=n * 60, seconds=n * self.score.knn.k / 8e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Explain the run's labels."""
        explainer = Explainer(np.array(task.npy(self.labels, "labels")))
        for edges in self._edges(task):
            explainer.look(edges)
        for edges in self._edges(task):
            explainer.weigh(edges)
        rows = explainer.rows()
        for name, column in as_columns(rows).items():
            task.write_npy(name, column)
        clusters = explainer.clusters(rows)
        task.write_table("clusters", as_columns(clusters))
        return {"num_clusters": len(clusters.labels)}

    def _edges(self, task: Task) -> Iterator[ScoredEdges]:
        return edges_by_row(task, self.score, self.order, self.copies, learned=self.learned)


def edges_by_row(
    task: Task, score: Scores, order: Order | None, copies: Copies | None, *, learned: bool
) -> Iterator[ScoredEdges]:
    """Read all scored edges as edges between source rows, each score also as evidence; then those of copies."""
    rows_V = None if order is None else np.array(vertex_rows(task, order))
    for sources, targets, scores in iterate_edges(task.input(score), SCORED):
        evidence = scores if learned else edge_weights(scores, "exponential", bandwidth=COSINE_BANDWIDTH)
        if rows_V is not None:
            sources, targets = rows_V[sources], rows_V[targets]
        yield ScoredEdges(sources, targets, scores, evidence)
    if copies is not None:
        leaders_N = leaders_by_row(task, copies)
        rows = np.flatnonzero(leaders_N != np.arange(len(leaders_N))).astype(np.int32)
        certain = np.ones(len(rows), np.float32)
        yield ScoredEdges(leaders_N[rows], rows, certain, certain)


def read_clusters(folder: Path) -> ClusterTable:
    """Read the table of clusters of a finished stage."""
    names = [name for name in ClusterTable.__dataclass_fields__ if name != "bridge_rows"]
    (path,) = table_parts(folder, "clusters")
    columns = dict(zip(names, read_columns(path, tuple(names)), strict=True))
    rows = np.stack(read_columns(path, ("bridge_row", "bridge_other_row")), axis=1)
    return ClusterTable(**columns, bridge_rows=rows)
