"""Step curve: the clusters that the same scores give at other precision biases, for the report.

A higher bias gives fewer wrong merges and more splits. No edge is scored again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.clustering.decided import hold
from engine.clustering.evidence import biased_score
from engine.clustering.propagation import lowest_threshold
from engine.evaluation.metrics import f_from_counts, pair_counts
from engine.evaluation.sweep import SweepRow
from engine.partitions import PARTITIONS
from engine.partitions.base import Array, Clustered, Edges, unbiased_score
from engine.runs.step import Facts, Task
from engine.stages import Cost
from engine.steps.copies import Copies, leaders_by_vertex
from engine.steps.decisions import Answers, answered_pairs
from engine.steps.edges import SCORED, Scores, iterate_edges
from engine.steps.ingest import Rows
from engine.steps.knn import Order, by_vertex
from engine.steps.labels import Labelled, dropped_rows

BIASES = (-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Curve(Labelled[Facts]):
    """``curve.json``: clusters, singletons, the largest and, with labels, pairwise scores at each bias."""

    kind, version, title = "curve", 5, "curve"
    roots: Clustered
    rows: Rows
    zero_vectors: str
    score: Scores
    order: Order | None
    learned: bool
    partition: str
    step: float
    seed: int
    copies: Copies | None = None
    answers: Answers | None = None

    def cost(self) -> Cost:
        """Project all edges in memory, clustered at each bias."""
        n, edges = self.score.num_rows, self.score.num_rows * self.score.knn.k
        return Cost(fixed_bytes=36 * edges + 250 * n, disk_bytes=4096, seconds=len(BIASES) * edges / 5e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Cluster at each bias."""
        point, num_vertices = task.facts(self.roots), self.score.num_rows
        lowest = lowest_threshold(biased_score(unbiased_score(point), min(BIASES), self.learned), self.step)
        kept = [
            tuple(column[columns[2] >= np.float32(lowest)] for column in columns)
            for columns in iterate_edges(task.input(self.score), SCORED)
        ]
        edges = Edges(*(np.concatenate(column) for column in zip(*kept, strict=True)))
        find = PARTITIONS[self.partition].find(
            edges, num_vertices, point, learned=self.learned, step=self.step, seed=self.seed, threads=task.threads
        )
        truth_N = self.truth(num_vertices)
        identities_V = None if truth_N is None else by_vertex(task, truth_N, self.order)
        leaders_V = None if self.copies is None else leaders_by_vertex(task, self.copies, self.order)
        answered = None if self.answers is None else answered_pairs(task, self.answers, self.order)
        dropped = len(dropped_rows(task.input(self.rows), self.zero_vectors))
        rows = []
        for number, bias in enumerate(BIASES):
            task.report(number / len(BIASES), f"bias {bias:+g}")
            roots_V = find(bias)
            if leaders_V is not None:
                roots_V = roots_V[leaders_V]
            if answered is not None:
                pairs, same = answered
                min_score = biased_score(unbiased_score(point), bias, self.learned)
                roots_V = hold(roots_V, pairs[same], pairs[~same], *edges, min_score)
            rows.append(_row(bias, roots_V, identities_V, dropped).as_dict())
        task.write_json("curve", {"rows": rows})
        return {}


def _row(bias: float, roots_V: Array, identities_V: Array | None, dropped: int) -> SweepRow:
    """Count the clusters; rows that were ``dropped`` stand alone in them, and do not count."""
    sizes = np.bincount(roots_V)
    sizes = sizes[sizes > 0]
    counted = len(sizes) - dropped, int((sizes == 1).sum()) - dropped, int(sizes.max(initial=0))
    if identities_V is None:
        return SweepRow(bias, *counted)
    pairs = pair_counts(roots_V, identities_V)
    return SweepRow(bias, *counted, pairs.precision, pairs.recall, f_from_counts(pairs))
