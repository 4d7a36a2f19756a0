"""Step analysis: all that the report shows about a result, gathered from what ``figures`` counted over the edges.

A run reads the identities of ``--labels`` here and in ``curve``, and nowhere before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from engine.clustering.union_find import UnionFind
from engine.evaluation.explain import ClusterTable
from engine.evaluation.galleries import ClusterPicks, cluster_size_histogram, pick_clusters
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

GALLERY_CLUSTERS = 9
GALLERY_ROWS = 24
CONFIDENCE_BINS = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis(Labelled[Facts]):
    """``analysis.json``: sizes, histograms, threshold sweeps, reliability, metrics and galleries.

    ``learned``: scores are probabilities, else cosines.
    """

    kind, version, title = "analysis", 6, "analysis"
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
        for counted in task.all_facts(self.figures):
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
            "confidence": _confidence(np.asarray(task.npy(self.explain, "confidence"))),
            "galleries": _galleries(row_column(task.input(self.rows), "item"), table, labels_N),
        }
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


def _confidence(confidence_N: np.ndarray) -> dict[str, Any]:
    counts, edges = np.histogram(confidence_N[~np.isnan(confidence_N)], CONFIDENCE_BINS, (0.0, 1.0))
    return {"bin_edges": edges.tolist(), "rows": counts.tolist()}


def _galleries(items: Any, table: ClusterTable, labels_N: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Describe the clusters to look at, by some of their rows and items; a likely merge has both, one as ``beside``."""
    picks: ClusterPicks = pick_clusters(table, GALLERY_CLUSTERS)
    shown = np.zeros(len(table.labels) + 1, np.bool_)
    pairs = [place for places in picks.likely_merges for place in places]
    shown[[*pairs, *picks.likely_splits, *picks.least_certain, *picks.largest]] = True
    members_N = np.flatnonzero(shown[labels_N])  # labels are places in the table; -1 is the last one
    labels_of_members = labels_N[members_N]

    def describe(place: int, marked: tuple[int, ...] = ()) -> dict[str, Any]:
        label = int(table.labels[place])
        members = members_N[labels_of_members == label]
        rows = sorted({*marked, *members[: GALLERY_ROWS - len(marked)].tolist()})
        numbers = {name: getattr(table, name)[place] for name in ("confidence", "cohesion", "weakest_score")}
        return {
            "label": label,
            "size": int(table.sizes[place]),
            "rows": rows,
            "marked": list(marked),
            "items": [] if items is None else [items[row].as_py() for row in rows],
            **{name: None if np.isnan(number) else float(number) for name, number in numbers.items()},
        }

    def pair(places: tuple[int, int]) -> dict[str, Any]:
        larger, smaller = sorted(places, key=lambda place: (-int(table.sizes[place]), place))
        return {**describe(larger), "beside": describe(smaller), "affinity": float(table.affinity[smaller])}

    return {
        "likely_merges": [pair(places) for places in picks.likely_merges],
        "likely_splits": [describe(place, tuple(table.bridge_rows[place].tolist())) for place in picks.likely_splits],
        "least_certain": [describe(place) for place in picks.least_certain],
        "largest": [describe(place) for place in picks.largest],
    }
