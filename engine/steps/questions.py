"""Steps of the questions for a review: the pairs that a person should be asked about, and the rows of each cluster.

row_evidence -> question_tree -> question_evidence (in parallel) -> questions
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.clustering.evidence import COSINE_BANDWIDTH, edge_weights
from engine.clustering.forest import MaximumForest
from engine.evaluation.explain import ClusteredEdges
from engine.evaluation.question_evidence import (
    CutEvidence,
    CutTree,
    DrawnPairs,
    MergeEvidence,
    add_merges,
    cut_tree,
    draw_pairs,
    least_of,
    weigh_cuts,
    weigh_merges,
)
from engine.evaluation.questions import MERGE, MUST, SAMPLE, SPLIT, Questioner, chance_odds
from engine.learning.recalibration import recalibrate
from engine.runs.step import Facts, RowStep, Step, Task
from engine.stages import Cost
from engine.steps.copies import Copies, leaders_by_vertex
from engine.steps.crossing import READ_ROWS
from engine.steps.decisions import ASKED, Answers
from engine.steps.edges import SCORED, Scores, read_edges
from engine.steps.explain import FOREST, Evidence, Explain, VertexClusters, read_clusters
from engine.steps.knn import Order, vertex_rows
from engine.steps.labels import Labels
from engine.storage.context import hold, table_parts
from engine.storage.tables import read_columns
from engine.tiles import map_tiles, tile_bounds
from engine.units import CHUNK_ROWS

MOST_QUESTIONS = 4_000
MOST_SAMPLES = 1_000
FEWEST_ANSWERS = 5  # of a kind, below which chances stay as they are
KINDS = {SPLIT: "split", MERGE: "merge", SAMPLE: "sample"}
ROW_COLUMNS = ("row", "other_row")
COLUMNS = ("kind", *ROW_COLUMNS, "said", "chance", "pairs", "worth")


Array = np.ndarray[Any, Any]


class VertexPairs:
    """Pairs of rows that were answered, as pairs of vertices."""

    def __init__(self, task: Task, answers: Answers | None, order: Order | None) -> None:
        pairs, same = np.empty((0, 2), np.int64), np.empty(0, np.bool_)
        if answers is not None:
            pairs, same = (np.array(task.npy(answers, name)) for name in ("pairs", "same"))
        if order is not None and len(pairs):
            rows_V = vertex_rows(task, order)
            vertex_N = np.empty(len(rows_V), np.int32)
            vertex_N[rows_V] = np.arange(len(rows_V), dtype=np.int32)
            pairs = vertex_N[pairs].astype(np.int64)
        self.must, self.cannot = pairs[same], pairs[~same]

    def inside(self, clusters: VertexClusters) -> Array:
        """Give the pairs that belong together and lie in one cluster: (M, 2) int32."""
        own, others = (clusters(ends) for ends in self.must.T)
        kept = (own == others) & (own >= 0) & (self.must[:, 0] != self.must[:, 1])
        return self.must[kept].astype(np.int32)


@dataclass(frozen=True, kw_only=True, eq=False)
class QuestionTree(Step[None]):
    """The maximum spanning forest inside clusters, rooted: ``parents``, ``order``, ``depths`` and ``values`` (N,).

    It is by vertex. Pairs that people called the same come first.
    """

    kind, version, title = "review.tree", 1, "question_tree"
    labels: Labels
    evidence: Evidence
    order: Order | None
    answers: Answers | None = None

    def cost(self) -> Cost:
        """Project the forest, and its links from both ends."""
        n = self.evidence.num_rows
        return Cost(fixed_bytes=n * 130 + (16 << 20), disk_bytes=n * 16, seconds=n / 2e6)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Join the forests of the ranges."""
        forest = MaximumForest(self.evidence.num_rows)
        known = VertexPairs(task, self.answers, self.order).inside(VertexClusters(task, self.labels, self.order))
        forest.add(known[:, 0].copy(), known[:, 1].copy(), np.full(len(known), MUST))
        for path in table_parts(task.input(self.evidence), "forest"):
            forest.add(*read_columns(path, FOREST))
        edges = forest.edges()
        del forest
        for name, values in cut_tree(self.evidence.num_rows, *edges)._asdict().items():
            task.write_npy(name, values)


@dataclass(frozen=True, kw_only=True, eq=False)
class QuestionEvidence(RowStep[None]):
    """What the edges of rows say of pairs to ask about: tables ``cuts``, ``merges`` and ``drawn``."""

    kind, version, title = "review.evidence", 1, "question_evidence"
    labels: Labels
    explain: Explain
    tree: QuestionTree
    score: Scores
    order: Order | None
    learned: bool
    copies: Copies | None = None

    def cost(self) -> Cost:
        """Project the edges of a range for each thread."""
        n, k = self.num_rows, self.score.knn.k
        return Cost(
            fixed_bytes=n * 4 if self.copies is not None else 0,
            bytes_per_thread=min(n, READ_ROWS) * k * 140,
            bytes_per_row=80,
            disk_bytes=n * 30,
            seconds=n * k / 6e6,
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Weigh the edges of these rows, range by range."""
        tree = read_tree(task, self.tree)
        table = read_clusters(task.input(self.explain))
        clusters = VertexClusters(task, self.labels, self.order)
        confidence_N = task.npy(self.explain, "confidence")
        rows_V = None if self.order is None else vertex_rows(task, self.order)

        def rows(vertices: Array) -> Array:
            return vertices if rows_V is None else rows_V[vertices]

        def sure(vertices: Array, own: Array) -> Array:
            alone = (own >= 0) & (table.sizes[own] == 1)
            return np.where(alone, np.float32(1), np.nan_to_num(confidence_N[rows(vertices)]))

        def weigh(bounds: tuple[int, int]) -> tuple[CutEvidence, MergeEvidence, DrawnPairs]:
            sources, targets, evidence = self._edges(task, *bounds)
            own, others = clusters(sources), clusters(targets)
            edges = ClusteredEdges(sources, targets, evidence, evidence, own, others)
            merges = weigh_merges(edges, table.nearest, sure(sources, own), sure(targets, others))
            drawn = draw_pairs(edges, rows(sources), rows(targets), MOST_SAMPLES)
            return weigh_cuts(tree, edges, *bounds), merges, drawn

        cuts, merges, drawn = zip(*map_tiles(weigh, tile_bounds(start, stop, READ_ROWS), task.threads), strict=True)
        joined = CutEvidence(*(np.concatenate(column) for column in zip(*cuts, strict=True)))
        for name, found in (("cuts", joined), ("merges", add_merges(merges)), ("drawn", least_of(drawn, MOST_SAMPLES))):
            task.write_table(name, found._asdict())

    def _edges(self, task: Task, start: int, stop: int) -> tuple[Array, Array, Array]:
        """Read the edges that these rows own, with evidence; those between copies and what stands for them are sure."""
        pieces = [(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))]
        for sources, targets, scores in read_edges(
            task.input(self.score), start, stop, SCORED, READ_ROWS // CHUNK_ROWS
        ):
            if not self.learned:
                scores = edge_weights(scores, "exponential", bandwidth=COSINE_BANDWIDTH)
            pieces.append((sources, targets, scores))
        if self.copies is not None:
            copies = self.copies
            leaders_V = hold(("leaders", task.call.folder), lambda: leaders_by_vertex(task, copies, self.order))
            own = np.arange(start, stop, dtype=np.int32)
            own = own[leaders_V[start:stop] != own]
            pieces.append((leaders_V[own], own, np.ones(len(own), np.float32)))
        sources, targets, evidence = (np.concatenate(column) for column in zip(*pieces, strict=True))
        return sources, targets, evidence


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions(Step[Facts]):
    """The table ``questions`` (``QuestionTable``), and ``members`` (N,) int32: rows by label, then by row.

    ``starts`` (C + 1,) int64: where each label's rows begin among ``members``; rows of label -1 come before the first.
    Chances are corrected by the answers to earlier questions of the same kind.
    """

    kind, version, title = "review.questions", 2, "questions"
    labels: Labels
    explain: Explain
    tree: QuestionTree
    evidence: QuestionEvidence
    order: Order | None
    answers: Answers | None = None

    def cost(self) -> Cost:
        """Project the tree, and a few numbers of each row."""
        n = self.evidence.num_rows
        return Cost(fixed_bytes=n * 170 + (16 << 20), disk_bytes=n * 8, seconds=n / 2e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Put together what the ranges found."""
        labels_N = np.array(task.npy(self.labels, "labels"))
        nearest_C = read_clusters(task.input(self.explain)).nearest
        pairs, clusters = VertexPairs(task, self.answers, self.order), VertexClusters(task, self.labels, self.order)
        tree, folder = read_tree(task, self.tree), task.input(self.evidence)
        every = slice(0, len(labels_N))
        questioner = Questioner(clusters(every), nearest_C, pairs.must, pairs.cannot, tree, self._moves(task))
        for path in table_parts(folder, "cuts"):
            questioner.add_cuts(CutEvidence(*read_columns(path, CutEvidence._fields)))
        known = pairs.inside(clusters)
        same, certain = np.zeros(len(known), np.int32), np.ones(len(known), np.float32)
        edges = ClusteredEdges(known[:, 0].copy(), known[:, 1].copy(), certain, certain, same, same)
        questioner.add_cuts(weigh_cuts(tree, edges, 0, len(labels_N)))
        merges = [MergeEvidence(*read_columns(path, MergeEvidence._fields)) for path in table_parts(folder, "merges")]
        drawn = [DrawnPairs(*read_columns(path, DrawnPairs._fields)) for path in table_parts(folder, "drawn")]
        found = questioner.questions(add_merges(merges), least_of(drawn, MOST_SAMPLES), MOST_QUESTIONS)
        rows = found.rows if self.order is None else np.sort(vertex_rows(task, self.order)[found.rows], axis=1)
        columns = {name: getattr(found, name) for name in ("kind", "said", "chance", "pairs", "worth")}
        task.write_table(
            "questions", columns | {"row": rows[:, 0].astype(np.int64), "other_row": rows[:, 1].astype(np.int64)}
        )
        task.write_npy("members", np.argsort(labels_N, kind="stable").astype(np.int32))
        counts = np.bincount(labels_N[labels_N >= 0], minlength=len(nearest_C))
        task.write_npy("starts", np.concatenate([[0], np.cumsum(counts)]) + int((labels_N < 0).sum()))
        return {"questions": len(found.kind)}

    def _moves(self, task: Task) -> dict[int, tuple[float, float]]:
        """Read what the answers to questions say about the chances that were told."""
        if self.answers is None:
            return {}
        return chance_moves(*(np.asarray(task.npy(self.answers, name)) for name in ("same", "asked", "chance")))


def chance_moves(same: Array, asked: Array, chance: Array) -> dict[int, tuple[float, float]]:
    """Give by kind of question the slope and offset that correct chances, as answers tell them: (P,) each.

    ``asked``: places in ``ASKED``. ``chance``: what was told when the pair was asked about, NaN if nothing was.
    """
    moves = {}
    for kind, name in KINDS.items():
        told = (asked == ASKED.index(name)) & ~np.isnan(chance)
        if kind != SAMPLE and told.sum() >= FEWEST_ANSWERS:
            nothing = np.empty(0)
            odds, ones = chance_odds(chance[told]), np.ones(int(told.sum()))
            moves[kind] = recalibrate(odds, same[told], ones, nothing, nothing)
    return moves


def read_tree(task: Task, tree: QuestionTree) -> CutTree:
    """Map the tree."""
    return CutTree(*(np.asarray(task.npy(tree, name)) for name in CutTree._fields))
