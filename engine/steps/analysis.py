"""Step analysis: all that the report shows about a result, gathered in passes over the edges.

A run reads the identities of ``--labels`` here and in ``curve``, and nowhere before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.clustering.union_find import UnionFind
from engine.evaluation.explain import ClusterTable
from engine.evaluation.galleries import ClusterPicks, cluster_size_histogram, pick_clusters
from engine.evaluation.histogram import ValueHistogram
from engine.evaluation.metrics import evaluate_labels
from engine.evaluation.sweep import ThresholdSweep
from engine.runs.step import Facts, Step, Task
from engine.stages import Cost
from engine.steps.edges import Scores, iterate_edges
from engine.steps.explain import Explain, read_clusters
from engine.steps.ingest import Rows, row_column
from engine.steps.knn import Order, vertex_rows
from engine.steps.labels import Labelled, Labels
from engine.tiles import map_tiles

SWEEP_STEPS = 40
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
    explain: Explain
    rows: Rows
    order: Order | None
    learned: bool

    def cost(self) -> Cost:
        """Project the sweeps over all vertices."""
        n, per_row = self.score.num_rows, 300 if self.labels else 200
        return Cost(fixed_bytes=n * per_row, disk_bytes=1 << 20, seconds=n * self.score.knn.k / 5e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Gather the report's figures."""
        labels_N = np.array(task.npy(self.clusters, "labels"))
        rows_V = np.arange(len(labels_N), dtype=np.int32)
        if self.order is not None:
            rows_V = np.array(vertex_rows(task, self.order))
        labels_V = labels_N[rows_V].astype(np.int32)
        truth_N = self.truth(len(labels_N))
        identities_V = None if truth_N is None else truth_N[rows_V]
        folder = task.input(self.score)
        low, high, unscored = _score_range(folder)
        thresholds = {"score": _thresholds(low["score"], high["score"])}
        if self.learned or low["score"] != low["similarity"]:  # scores that are not the graph's cosines
            thresholds["similarity"] = _thresholds(low["similarity"], high["similarity"])
        dropped = int((labels_N < 0).sum())
        sweeps = {
            name: ThresholdSweep(len(rows_V), values, identities_V, num_dropped=dropped)
            for name, values in thresholds.items()
        }
        histograms = {name: ValueHistogram(low[name], high[name]) for name in ("similarity", "score")}
        reliability = ValueHistogram(0.0, 1.0) if identities_V is not None and self.learned else None

        def look_at(name: str) -> None:
            if name != "labels":
                for columns in iterate_edges(folder, ("source", "target", name)):
                    sweeps[name].add(*columns)
                return
            for sources, targets, *values in iterate_edges(folder, ("source", "target", "similarity", "score")):
                inside = (labels_V[sources] == labels_V[targets]) & (labels_V[sources] >= 0)
                histograms["similarity"].add(values[0], inside)
                scored = _scored(*values)
                histograms["score"].add(values[1][scored], inside[scored])
                if reliability is not None and identities_V is not None:
                    known = (identities_V[sources] >= 0) & (identities_V[targets] >= 0) & scored
                    sources, targets = sources[known], targets[known]
                    reliability.add(values[1][known], identities_V[sources] == identities_V[targets])

        map_tiles(look_at, ["labels", *sweeps], task.threads)  # the longest first
        sizes = np.bincount(labels_N[labels_N >= 0])
        table = read_clusters(task.input(self.explain))
        swept = {name: [row.as_dict() for row in sweep.rows()] for name, sweep in sweeps.items()}
        value: dict[str, Any] = {
            "sizes": [asdict(bin_) for bin_ in cluster_size_histogram(sizes)],
            "num_clusters": len(sizes),
            "num_singletons": int((sizes == 1).sum()),
            "largest": int(sizes.max(initial=0)),
            "num_dropped": dropped,
            "point": task.facts(self.roots),
            "histograms": {name: histogram.as_dict() for name, histogram in histograms.items()},
            "unscored_edges": unscored,
            "sweeps": swept,
            "confidence": _confidence(np.asarray(task.npy(self.explain, "confidence"))),
            "galleries": _galleries(row_column(task.input(self.rows), "item"), table, labels_N),
        }
        if reliability is not None:
            value["reliability"] = reliability.as_dict()
        if truth_N is not None and identities_V is not None:
            value["metrics"] = evaluate_labels(labels_N, truth_N).as_dict()
            value["plain"] = _plain_thresholding(folder, swept.get("similarity", swept["score"]), identities_V)
        task.write_json("analysis", value)
        return {"num_clusters": value["num_clusters"], "metrics": value.get("metrics")}


def _plain_thresholding(folder: Path, rows: list[dict[str, Any]], identities_V: np.ndarray) -> dict[str, Any]:
    """Find the components of the cosine graph at the threshold of best pairwise F, which only the truth can tell."""
    best = max(rows, key=lambda row: row["pairwise_f"])
    union = UnionFind(len(identities_V))
    for sources, targets, similarities in iterate_edges(folder, ("source", "target", "similarity")):
        kept = similarities >= np.float32(best["threshold"])
        union.add(sources[kept], targets[kept])
    return {"threshold": best["threshold"], "metrics": evaluate_labels(union.roots(), identities_V).as_dict()}


def _scored(similarities: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Tell which edges have a score: a method that scores only some edges gives the others -1."""
    return (scores > -1) | (similarities <= -1)


def _score_range(folder: Path) -> tuple[dict[str, float], dict[str, float], int]:
    """Find the least and the highest similarity and score, and count the edges without a score."""
    names, unscored = ("similarity", "score"), 0
    low, high = dict.fromkeys(names, np.inf), dict.fromkeys(names, -np.inf)
    for similarities, scores in iterate_edges(folder, names):
        scored = _scored(similarities, scores)
        unscored += len(scored) - int(np.count_nonzero(scored))
        for name, values in (("similarity", similarities), ("score", scores[scored])):
            if len(values):
                low[name], high[name] = min(low[name], values.min()), max(high[name], values.max())
    for name in names:
        if low[name] > high[name]:
            low[name], high[name] = 0.0, 1.0
    return {n: float(low[n]) for n in names}, {n: float(high[n]) for n in names}, unscored


def _thresholds(low: float, high: float) -> list[float]:
    """List descending float32 thresholds over the range of the values."""
    steps = np.linspace(high, low, SWEEP_STEPS + 1)[1:] if high > low else np.array([low])
    return [float(value) for value in np.unique(np.round(steps, 3).astype(np.float32))[::-1]]


def _confidence(confidence_N: np.ndarray) -> dict[str, Any]:
    counts, edges = np.histogram(confidence_N[~np.isnan(confidence_N)], CONFIDENCE_BINS, (0.0, 1.0))
    return {"bin_edges": edges.tolist(), "rows": counts.tolist()}


def _galleries(items: Any, table: ClusterTable, labels_N: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Describe the clusters to look at, by some of their rows and items; a likely merge has both, one as ``beside``."""
    picks: ClusterPicks = pick_clusters(table, GALLERY_CLUSTERS)
    order = np.argsort(labels_N, kind="stable")
    firsts = np.searchsorted(labels_N[order], np.arange(labels_N.max(initial=-1) + 2))

    def describe(place: int, marked: tuple[int, ...] = ()) -> dict[str, Any]:
        label = int(table.labels[place])
        members = order[firsts[label] : firsts[label + 1]]
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
