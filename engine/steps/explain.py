"""Steps of the explanation: how sure the clustering is of each row and cluster, by the scored edges.

    crossing -> row_evidence (in parallel) -> explain

``explain`` writes ``confidence``, ``nearest`` and ``nearest_score`` (N,), by source row, and the table ``clusters``.
The columns are those of ``engine.evaluation.explain``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from engine.clustering.evidence import COSINE_BANDWIDTH, edge_weights
from engine.clustering.forest import MaximumForest, block_forest
from engine.evaluation.explain import (
    ClusteredEdges,
    ClusterTable,
    Explainer,
    RowEvidence,
    RowTable,
    as_columns,
    explain_clusters,
    explain_rows,
)
from engine.runs.step import Facts, RowStep, Step, Task
from engine.stages import Cost
from engine.steps.copies import Copies, leaders_by_vertex
from engine.steps.crossing import READ_ROWS, Crossing, Incident
from engine.steps.edges import Scores
from engine.steps.knn import Order, vertex_rows
from engine.steps.labels import Labels
from engine.storage.context import hold, table_parts
from engine.storage.tables import read_columns
from engine.tiles import map_tiles, tile_bounds

ROW_COLUMNS = tuple(RowTable.__dataclass_fields__)
FOREST = ("source", "target", "score")

Array = np.ndarray


class VertexClusters:
    """The clusters of vertices, looked up in the labels by source row: int32, -1 for none."""

    def __init__(self, task: Task, labels: Labels, order: Order | None) -> None:
        self._labels_N = task.npy(labels, "labels")
        self._rows_V = None if order is None else vertex_rows(task, order)

    def __call__(self, vertices: Array | slice) -> Array:
        """Give the clusters of these vertices."""
        rows = vertices if self._rows_V is None else self._rows_V[vertices]
        return self._labels_N[rows].astype(np.int32)


@dataclass(frozen=True, kw_only=True, eq=False)
class Evidence(RowStep[None]):
    """What the edges of each vertex say, an array for each field of ``RowEvidence``, and the table ``forest``.

    ``forest``: the maximum spanning forest of each range's own edges inside clusters. ``learned``: scores are
    probabilities, else cosines. A copy belongs to the row that stands for it, for certain.
    """

    kind, version, title = "explain.evidence", 1, "row_evidence"
    labels: Labels
    score: Scores
    crossing: Crossing
    order: Order | None
    learned: bool
    copies: Copies | None = None

    def cost(self) -> Cost:
        """Project the edges of a range for each thread, and the evidence of the rows."""
        n, k = self.num_rows, self.score.knn.k
        return Cost(
            fixed_bytes=n * 8 if self.copies is not None else 0,
            bytes_per_thread=min(n, READ_ROWS) * (k * 80 + 340),
            bytes_per_row=100,
            disk_bytes=n * 60,
            seconds=n * k / 1.2e7,
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Look at the edges of these rows, range by range."""
        incident = Incident(task, self.score, self.crossing)
        clusters = VertexClusters(task, self.labels, self.order)

        def look_at(bounds: tuple[int, int]) -> tuple[RowEvidence, tuple[Array, Array, Array]]:
            pieces = [*incident.read(*bounds), *self._copies(task, *bounds)]
            edges = [self._scored(piece, clusters, certain=number > 2) for number, piece in enumerate(pieces)]
            explainer = Explainer(*bounds)
            for give in (explainer.look, explainer.weigh):
                for block in edges:
                    give(block)
            return explainer.evidence(), _inside(bounds, edges[1], *edges[3:])

        found = map_tiles(look_at, tile_bounds(start, stop, READ_ROWS), task.threads)
        for each in fields(RowEvidence):
            column = np.concatenate([getattr(evidence, each.name) for evidence, _ in found])
            task.write_rows(each.name, column, column.dtype)
        columns = [np.concatenate(column) for column in zip(*(forest for _, forest in found), strict=True)]
        task.write_table("forest", dict(zip(FOREST, columns, strict=True)))

    def _scored(self, piece: tuple[Array, Array, Array], clusters: VertexClusters, *, certain: bool) -> ClusteredEdges:
        sources, targets, scores = piece
        evidence = scores
        if not self.learned and not certain:
            evidence = edge_weights(scores, "exponential", bandwidth=COSINE_BANDWIDTH)
        return ClusteredEdges(sources, targets, scores, evidence, clusters(sources), clusters(targets))

    def _copies(self, task: Task, start: int, stop: int) -> Iterator[tuple[Array, Array, Array]]:
        """Give the certain edges between copies and the rows that stand for them; copies of the range come first."""
        if self.copies is None:
            return
        copies = self.copies
        leaders_V = hold(("leaders", task.call.folder), lambda: leaders_by_vertex(task, copies, self.order))
        own = np.arange(start, stop, dtype=np.int32)
        own = own[leaders_V[start:stop] != own]
        yield leaders_V[own], own, np.ones(len(own), np.float32)
        others = np.flatnonzero((leaders_V >= start) & (leaders_V < stop)).astype(np.int32)
        others = others[((others < start) | (others >= stop)) & (leaders_V[others] != others)]
        yield leaders_V[others], others, np.ones(len(others), np.float32)


def _inside(bounds: tuple[int, int], *owned: ClusteredEdges) -> tuple[Array, Array, Array]:
    """Reduce the first two blocks' edges inside clusters to their forest; each edge is there once overall."""
    parts = []
    for edges in owned[:2]:
        inside = (edges.source_clusters == edges.target_clusters) & (edges.source_clusters >= 0)
        parts.append((edges.sources[inside], edges.targets[inside], edges.scores[inside]))
    sources, targets, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
    return block_forest(*bounds, sources, targets, scores)


@dataclass(frozen=True, kw_only=True, eq=False)
class Explain(Step[Facts]):
    """Measures how sure each row and cluster is, by the evidence of the rows."""

    kind, version, title = "explain", 3, "explain"
    labels: Labels
    evidence: Evidence
    order: Order | None

    def cost(self) -> Cost:
        """Project the numbers held of each row, and the forest of the clusters."""
        n = self.evidence.num_rows
        return Cost(fixed_bytes=n * 150, disk_bytes=n * 20, seconds=n / 2e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Explain the run's labels."""
        num_clusters = task.facts(self.labels).num_clusters
        rows_V = None if self.order is None else np.asarray(vertex_rows(task, self.order))
        forest = MaximumForest(self.evidence.num_rows)
        for path in table_parts(task.input(self.evidence), "forest"):
            forest.add(*read_columns(path, FOREST))
        sources, targets, scores = forest.edges()
        del forest
        if rows_V is not None:
            sources, targets = rows_V[sources], rows_V[targets]
        evidence = RowEvidence(**{each.name: self._by_row(task, each.name, rows_V) for each in fields(RowEvidence)})
        clusters_N = task.npy(self.labels, "labels").astype(np.int32)
        rows = explain_rows(clusters_N, num_clusters, evidence)
        for name, column in as_columns(rows).items():
            task.write_npy(name, column)
        clusters = explain_clusters(clusters_N, num_clusters, evidence, rows, (sources, targets, scores))
        task.write_table("clusters", as_columns(clusters))
        return {"num_clusters": num_clusters}

    def _by_row(self, task: Task, name: str, rows_V: Array | None) -> Array:
        """Read an array of the evidence in the order of source rows."""
        values_V = task.array(self.evidence, name)
        if rows_V is None:
            return values_V
        values_N = np.empty_like(values_V)
        values_N[rows_V] = values_V
        return values_N


def read_clusters(folder: Path) -> ClusterTable:
    """Read the table of clusters of a finished stage."""
    names = [name for name in ClusterTable.__dataclass_fields__ if name != "bridge_rows"]
    (path,) = table_parts(folder, "clusters")
    columns = dict(zip(names, read_columns(path, tuple(names)), strict=True))
    rows = np.stack(read_columns(path, ("bridge_row", "bridge_other_row")), axis=1)
    return ClusterTable(**columns, bridge_rows=rows)
