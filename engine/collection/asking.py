"""The questions of a review about a version of a collection, from all its edges at once.

Legend: N rows, C clusters, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from engine.clustering.forest import MaximumForest
from engine.collection.state import State
from engine.evaluation.explain import ClusteredEdges, ClusterTable, RowTable, ScoredEdges
from engine.evaluation.question_evidence import (
    MergeEvidence,
    add_merges,
    cut_tree,
    draw_pairs,
    least_of,
    weigh_cuts,
    weigh_merges,
)
from engine.evaluation.questions import MUST, Questioner, QuestionTable
from engine.steps.questions import MOST_QUESTIONS, MOST_SAMPLES

Array = np.ndarray[Any, Any]


def questions_about(
    state: State,
    explained: tuple[RowTable, ClusterTable],
    edges: Callable[[], Iterable[ScoredEdges]],
    moves: Mapping[int, tuple[float, float]],
) -> QuestionTable:
    """Choose the pairs of rows to ask about.

    ``edges()`` gives all edges by row, in the same blocks each time. ``moves``: as ``Questioner`` takes it.
    """
    rows, table = explained
    num_rows = state.num_rows
    cluster_N = np.where(state.labels_N >= 0, np.searchsorted(table.labels, state.labels_N), -1).astype(np.int32)
    nearest_C = np.where(table.nearest >= 0, np.searchsorted(table.labels, table.nearest), -1)
    must, cannot = state.pairs[state.same], state.pairs[~state.same]
    joined = must[(cluster_N[must[:, 0]] == cluster_N[must[:, 1]]) & (cluster_N[must[:, 0]] >= 0)].astype(np.int32)
    alone_N = np.append(table.sizes, 0)[cluster_N] == 1
    sure_N = np.where(alone_N, np.float32(1), np.nan_to_num(rows.confidence))
    forest = MaximumForest(num_rows)
    forest.add(joined[:, 0].copy(), joined[:, 1].copy(), np.full(len(joined), MUST))
    for block in _clustered(edges(), cluster_N):
        inside = (block.source_clusters == block.target_clusters) & (block.source_clusters >= 0)
        forest.add(block.sources[inside], block.targets[inside], block.scores[inside])
    tree = cut_tree(num_rows, *forest.edges())
    del forest
    questioner = Questioner(cluster_N, nearest_C, must, cannot, tree, moves)
    merges: list[MergeEvidence] = []
    drawn = []
    certain = np.ones(len(joined), np.float32)
    pairs = ScoredEdges(joined[:, 0].copy(), joined[:, 1].copy(), certain, certain)
    for block in _clustered([pairs], cluster_N):
        questioner.add_cuts(weigh_cuts(tree, block, 0, num_rows))
    for block in _clustered(edges(), cluster_N):
        questioner.add_cuts(weigh_cuts(tree, block, 0, num_rows))
        merges.append(weigh_merges(block, nearest_C, sure_N[block.sources], sure_N[block.targets]))
        drawn.append(draw_pairs(block, block.sources, block.targets, MOST_SAMPLES))
    return questioner.questions(add_merges(merges), least_of(drawn, MOST_SAMPLES), MOST_QUESTIONS)


def _clustered(edges: Iterable[ScoredEdges], cluster_N: Array) -> Iterable[ClusteredEdges]:
    for block in edges:
        yield ClusteredEdges(*block, cluster_N[block.sources], cluster_N[block.targets])
