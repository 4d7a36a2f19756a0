"""A second answer where the data hold two: coarser clusters, or finer ones, nested with those that were preferred.

Where strangers explain nearly all pairs, the vectors do not say at which level rows belong together: wordings of one
sentence or sentences of one topic, pictures of one scene or of one person. Then there are two answers, by evidence and
by the modules of the neighbour graph, and ``Agreed`` says which is preferred. The other one is made to nest with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.clustering.labels import dense_labels, expand_labels
from engine.methods.self_trained.steps import Agreed, ByEvidence
from engine.runs.step import Step, Task
from engine.stages import Cost
from engine.steps.copies import Copies
from engine.steps.knn import Order
from engine.steps.labels import Labels, roots_by_row

Array = np.ndarray[Any, Any]
COARSER, FINER = "coarser", "finer"


@dataclass(frozen=True)
class LevelFacts:
    """What the second answer is: ``coarser``, ``finer`` or nothing (""); its number of clusters and of single rows."""

    second: str
    num_clusters: int
    num_singletons: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Levels(Step[LevelFacts]):
    """The second answer, if there is one: ``labels`` (N,) int64, source order, numbered as ``Labels`` numbers them.

    ``clusters`` are preferred. A finer cluster is the part of one that evidence holds together. A coarser one joins the
    clusters that have most of their rows in the same module of the neighbour graph; of modules that have equally many,
    the one whose first row comes first.
    """

    kind, version, title = "self_trained.levels", 1, "levels"
    facts = LevelFacts
    clusters: Labels
    first: Agreed
    by_evidence: ByEvidence
    order: Order | None
    copies: Copies

    def cost(self) -> Cost:
        """Project a few arrays of all rows."""
        n = self.clusters.rows.num_rows
        return Cost(fixed_bytes=n * 70 + (4 << 20), disk_bytes=n * 8, seconds=n / 2e6)

    def run(self, task: Task, start: int, stop: int) -> LevelFacts:
        """Nest the other answer with the clusters; write nothing if it is the same, or joins no rows."""
        facts = task.facts(self.first)
        if not facts["two_answers"]:
            return LevelFacts("", 0, 0)
        labels_N = np.asarray(task.npy(self.clusters, "labels"))
        finer = facts["no_gap"]
        other = task.npy(self.by_evidence, "roots") if finer else task.npy(self.first, "modules")
        kept = np.flatnonzero(labels_N >= 0)
        roots, labels = roots_by_row(task, np.array(other), self.order, self.copies)[kept], labels_N[kept]
        nested = dense_labels(finer_clusters(labels, roots) if finer else coarser_clusters(labels, roots))
        sizes = np.bincount(nested)
        if len(sizes) in (task.facts(self.clusters).num_clusters, len(kept)):
            return LevelFacts("", 0, 0)
        task.write_npy("labels", expand_labels(nested, kept, len(labels_N)))
        return LevelFacts(FINER if finer else COARSER, len(sizes), int((sizes == 1).sum()))


def finer_clusters(labels_N: Array, roots_N: Array) -> Array:
    """Part each cluster by the roots of its rows: (N,) int64, for each row the first row of its part."""
    _, firsts, places = np.unique(np.stack([labels_N, roots_N]), axis=1, return_index=True, return_inverse=True)
    return firsts[places.ravel()]


def coarser_clusters(labels_N: Array, roots_N: Array) -> Array:
    """Join clusters by the root that most of their rows have: (N,) int64, for each row the first row of its cluster."""
    pairs, counts = np.unique(np.stack([labels_N, roots_N]), axis=1, return_counts=True)
    best_first = np.lexsort((pairs[1], -counts, pairs[0]))
    _, places = np.unique(pairs[0][best_first], return_index=True)
    most_N = pairs[1][best_first[places]][labels_N]
    _, firsts, places_N = np.unique(most_N, return_index=True, return_inverse=True)
    return firsts[places_N]
