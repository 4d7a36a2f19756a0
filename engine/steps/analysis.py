"""Step analysis: all that the report shows about a result, gathered from what ``figures`` counted over the edges.

A run reads the identities of ``--labels`` here and in ``curve``, and nowhere before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.clustering.union_find import UnionFind
from engine.evaluation.expected import UNIT
from engine.evaluation.galleries import cluster_size_histogram, confidence_histogram, describe_galleries
from engine.evaluation.metrics import evaluate_labels
from engine.evaluation.sweep import sweep_levels
from engine.runs.step import Facts, Step, Task
from engine.stages import Cost
from engine.steps.crossing import Crossing, join_facts
from engine.steps.edges import Scores
from engine.steps.explain import Explain, read_clusters
from engine.steps.figures import Figures, SweptEdges, sweep_thresholds
from engine.steps.ingest import Rows, row_column
from engine.steps.knn import Order, by_vertex
from engine.steps.labels import Labelled, Labels
from engine.tiles import map_tiles


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis(Labelled[Facts]):
    """``analysis.json``: sizes, histograms, threshold sweeps, reliability, metrics and galleries.

    ``learned``: scores are probabilities, else cosines.
    """

    kind, version, title = "analysis", 7, "analysis"
    clusters: Labels
    roots: Step[Facts]
    score: Scores
    crossing: Crossing
    figures: Figures
    explain: Explain
    rows: Rows
    order: Order | None
    learned: bool

    def cost(self) -> Cost:
        """Project the labels, the vertices' components at a threshold, and identities where there are any."""
        n, per_row = self.score.num_rows, 200 if self.labels else 50
        return Cost(fixed_bytes=n * per_row, disk_bytes=1 << 20, seconds=n / (5e5 if self.labels else 3e6))

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Gather the report's figures."""
        labels_N = np.array(task.npy(self.clusters, "labels"))
        truth_N = self.truth(len(labels_N))
        dropped = int((labels_N < 0).sum())
        identities_V = None if truth_N is None else by_vertex(task, truth_N, self.order)
        facts = join_facts(task.all_facts(self.crossing))
        thresholds = sweep_thresholds(facts, learned=self.learned)
        swept_edges = {name: SweptEdges(task, self.figures, name) for name in thresholds}
        histograms = self.figures.histograms(facts)
        errors = [0, 0]
        for counted in task.all_facts(self.figures):
            errors = [total + more for total, more in zip(errors, counted.errors, strict=True)]
            for name, counts in counted.histograms.items():
                histograms[name].merge(counts)
        reliability = histograms.pop("reliability", None)

        def sweep(name: str) -> list[dict[str, Any]]:
            rows = sweep_levels(
                len(labels_N), thresholds[name], swept_edges[name].at, identities_V, num_dropped=dropped
            )
            return [row.as_dict() for row in rows]

        swept = dict(zip(thresholds, map_tiles(sweep, thresholds, task.threads), strict=True))
        sizes = np.bincount(labels_N[labels_N >= 0])
        table = read_clusters(task.input(self.explain))
        value: dict[str, Any] = {
            "sizes": [asdict(bin_) for bin_ in cluster_size_histogram(sizes)],
            "num_clusters": len(sizes),
            "num_singletons": int((sizes == 1).sum()),
            "largest": int(sizes.max(initial=0)),
            "num_dropped": dropped,
            "point": task.facts(self.roots),
            "histograms": {name: histogram.as_dict() for name, histogram in histograms.items()},
            "unscored_edges": facts.unscored,
            "sweeps": swept,
            "confidence": confidence_histogram(np.asarray(task.npy(self.explain, "confidence"))),
            "galleries": describe_galleries(row_column(task.input(self.rows), "item"), table, labels_N),
        }
        if self.learned:
            value["expected_errors"] = [units / UNIT for units in errors]
        if reliability is not None:
            value["reliability"] = reliability.as_dict()
        if truth_N is not None and identities_V is not None:
            value["metrics"] = evaluate_labels(labels_N, truth_N).as_dict()
            name = "similarity" if "similarity" in swept else "score"
            value["plain"] = _plain_thresholding(swept_edges[name], swept[name], identities_V)
        task.write_json("analysis", value)
        return {"num_clusters": value["num_clusters"], "metrics": value.get("metrics")}


def _plain_thresholding(edges: SweptEdges, rows: list[dict[str, Any]], identities_V: np.ndarray) -> dict[str, Any]:
    """Find the components of the cosine graph at the threshold of best pairwise F, which only the truth can tell."""
    best = max(range(len(rows)), key=lambda level: rows[level]["pairwise_f"])
    union = UnionFind(len(identities_V))
    for level in range(best + 1):
        for sources, targets in edges.at(level):
            union.add(sources, targets)
    metrics = evaluate_labels(union.roots(), identities_V).as_dict()
    return {"threshold": rows[best]["threshold"], "metrics": metrics}
