"""How sure a clustering is of each row and each cluster, by its scored edges.

E edges, N rows, C clusters. Scores below 0 count as 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.forest import MaximumForest
from engine.clustering.union_find import find_root
from engine.evaluation.metrics import Labels

NOBODY = -1


@dataclass(frozen=True)
class RowTable:
    """What the edges say about each row.

    ``confidence`` (N,) float32 in [0, 1] is a / (a + b), where a is the mean evidence of the row's edges into its own
    cluster and b that of its edges into ``nearest``. For a row alone in its cluster it is 1 - the largest evidence of
    an edge; for a row without a cluster it is NaN. ``nearest`` (N,) int64: the label that the row's best edge to
    another cluster leads to, -1 if there is none. ``nearest_score`` (N,) float32: that edge's score, else 0.
    """

    confidence: NDArray[np.float32]
    nearest: NDArray[np.int64]
    nearest_score: NDArray[np.float32]


@dataclass(frozen=True)
class ClusterTable:
    """What the edges say about each cluster; columns of length C, by ascending label.

    ``confidence``: the mean of its rows' confidences. ``cohesion``: the mean score of the edges inside it.
    ``weakest_score``: the lowest score in its maximum spanning forest, at which the cluster would fall apart.
    ``bridge_score``: the lowest score there of an edge that joins two groups of at least two rows each, so that a stray
    row makes no bridge; ``bridge_rows`` (C, 2): that edge's ends, where two identities may have been joined. Scores are
    NaN and rows -1 if there is no such edge. ``nearest``: the label that most of the rows' evidence for another cluster
    points to, -1 if none does. ``affinity``: the mean over the rows of the mean score of their edges into ``nearest``,
    counted as 0 for a row whose own nearest is another cluster.
    """

    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]
    confidence: NDArray[np.float64]
    cohesion: NDArray[np.float64]
    weakest_score: NDArray[np.float64]
    bridge_score: NDArray[np.float64]
    bridge_rows: NDArray[np.int64]
    nearest: NDArray[np.int64]
    affinity: NDArray[np.float64]


class ScoredEdges(NamedTuple):
    """A block of undirected edges: ends int32, scores float32, and each score as evidence in [0, 1]."""

    sources: NDArray[np.int32]
    targets: NDArray[np.int32]
    scores: NDArray[np.float32]
    evidence: NDArray[np.float32]


class ClusteredEdges(NamedTuple):
    """A block of ``ScoredEdges`` with the clusters of both ends: int32, numbered from 0; -1 is none."""

    sources: NDArray[np.int32]
    targets: NDArray[np.int32]
    scores: NDArray[np.float32]
    evidence: NDArray[np.float32]
    source_clusters: NDArray[np.int32]
    target_clusters: NDArray[np.int32]


@dataclass(frozen=True)
class RowEvidence:
    """What the edges of each row say, (n,) each, before the sizes of clusters are known.

    ``confidence``, ``nearest`` (a cluster) and ``best_score`` as in ``RowTable``, but for rows alone in their cluster;
    ``best_evidence`` belongs to ``best_score``. ``inside_score``: the sum over the ``inside_edges`` edges into the own
    cluster. ``outside_score``: the mean over the edges into ``nearest``.
    """

    confidence: NDArray[np.float32]
    nearest: NDArray[np.int32]
    best_score: NDArray[np.float32]
    best_evidence: NDArray[np.float32]
    inside_score: NDArray[np.float64]
    inside_edges: NDArray[np.int32]
    outside_score: NDArray[np.float64]


class Explainer:
    """Explain rows ``start..stop`` from edges that arrive in blocks, in two passes; memory follows the rows.

    Give every block with edges of these rows to ``look``, then every block to ``weigh``; ends outside the range are
    left out. The order of a row's edges decides how its sums are rounded, and nothing else, so a fixed order gives the
    same bytes for any blocks and ranges. About 100 bytes per row.
    """

    def __init__(self, start: int, stop: int) -> None:
        self._bounds, num_rows = (start, stop), stop - start
        # Sum of scores, sum of evidence, and number of a row's edges into its own cluster, and into its nearest other.
        self._inside_n = np.zeros((num_rows, 3), np.float64)
        self._outside_n = np.zeros((num_rows, 3), np.float64)
        self._nearest_n = np.full(num_rows, NOBODY, np.int32)
        self._best_n = np.zeros((num_rows, 2), np.float32)  # score and evidence of the best edge into it

    def look(self, edges: ClusteredEdges) -> None:
        """Add a block of scored edges, each undirected edge once overall."""
        _look(*edges, *self._bounds, self._inside_n, self._nearest_n, self._best_n)

    def weigh(self, edges: ClusteredEdges) -> None:
        """Add a block a second time, after ``look`` has seen all blocks."""
        _weigh(*edges, *self._bounds, self._nearest_n, self._outside_n)

    def evidence(self) -> RowEvidence:
        """Return what was found."""
        inside_n, outside_n = _mean(self._inside_n, 1), _mean(self._outside_n, 1)
        both_n = inside_n + outside_n
        return RowEvidence(
            np.divide(inside_n, both_n, out=np.full(len(both_n), 0.5), where=both_n > 0).astype(np.float32),
            self._nearest_n,
            self._best_n[:, 0].copy(),
            self._best_n[:, 1].copy(),
            self._inside_n[:, 0].copy(),
            self._inside_n[:, 2].astype(np.int32),
            _mean(self._outside_n, 0),
        )


def explain_labels(labels_N: Labels, edges: Callable[[], Iterable[ScoredEdges]]) -> tuple[RowTable, ClusterTable]:
    """Explain labels >= -1, numbered in any way, from edges in memory; ``edges()`` gives the same blocks each time."""
    labels_C, clusters = np.unique(labels_N[labels_N >= 0], return_inverse=True)
    clusters_N = np.full(len(labels_N), NOBODY, np.int32)
    clusters_N[labels_N >= 0] = clusters
    explainer, forest = Explainer(0, len(labels_N)), MaximumForest(len(labels_N))
    for give in (explainer.look, explainer.weigh):
        for block in edges():
            own, others = clusters_N[block.sources], clusters_N[block.targets]
            give(ClusteredEdges(*block, own, others))
            if give == explainer.look:
                inside = (own == others) & (own >= 0)
                forest.add(block.sources[inside], block.targets[inside], block.scores[inside])
    evidence = explainer.evidence()
    rows = explain_rows(clusters_N, len(labels_C), evidence)
    table = explain_clusters(clusters_N, len(labels_C), evidence, rows, forest.edges())
    named = np.append(labels_C, NOBODY).astype(np.int64)
    return replace(rows, nearest=named[rows.nearest]), replace(table, labels=named[:-1], nearest=named[table.nearest])


def explain_rows(clusters_N: NDArray[np.int32], num_clusters: int, evidence: RowEvidence) -> RowTable:
    """Give the table of rows, from the evidence of all rows and their clusters 0..C - 1, or -1."""
    sizes_C = _sizes(clusters_N, num_clusters)
    alone_N = np.append(sizes_C, 0)[clusters_N] == 1
    confidence_N = evidence.confidence.copy()
    confidence_N[alone_N] = 1 - np.minimum(evidence.best_evidence[alone_N], 1)
    confidence_N[clusters_N == NOBODY] = np.nan
    return RowTable(confidence_N, evidence.nearest.astype(np.int64), evidence.best_score)


def explain_clusters(
    clusters_N: NDArray[np.int32],
    num_clusters: int,
    evidence: RowEvidence,
    rows: RowTable,
    forest: tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]],
) -> ClusterTable:
    """Give the table of clusters; ``forest``: the maximum spanning forest of the edges inside clusters, descending."""
    sizes_C, members_N = _sizes(clusters_N, num_clusters), clusters_N >= 0
    own_N = clusters_N[members_N]
    sources_F, targets_F, scores_F = forest
    weakest_C, bridge_C = _weakest_links(sources_F, targets_F, clusters_N, num_clusters)
    scores_C = np.bincount(own_N, evidence.inside_score[members_N], num_clusters)
    edges_C = np.bincount(own_N, evidence.inside_edges[members_N], num_clusters)
    bridge_rows = np.stack([np.append(ends, NOBODY)[bridge_C] for ends in (sources_F, targets_F)], axis=1)
    nearest_C, affinity_C = _nearest_clusters(clusters_N, evidence, sizes_C)
    return ClusterTable(
        np.arange(num_clusters),
        sizes_C,
        np.bincount(own_N, rows.confidence[members_N], num_clusters) / np.maximum(sizes_C, 1),
        np.divide(scores_C, edges_C, out=np.full(num_clusters, np.nan), where=edges_C > 0),
        np.append(scores_F, np.nan)[weakest_C].astype(np.float64),
        np.append(scores_F, np.nan)[bridge_C].astype(np.float64),
        bridge_rows.astype(np.int64),
        nearest_C.astype(np.int64),
        affinity_C,
    )


def _sizes(clusters_N: NDArray[np.int32], num_clusters: int) -> NDArray[np.int64]:
    return np.bincount(clusters_N[clusters_N >= 0], minlength=num_clusters)


def _nearest_clusters(
    clusters_N: NDArray[np.int32], evidence: RowEvidence, sizes_C: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Find each cluster's nearest other by its rows' evidence, ties to the lower label, and the affinity to it."""
    leaning = np.flatnonzero((evidence.nearest >= 0) & (clusters_N >= 0))
    own, other = clusters_N[leaning].astype(np.int64), evidence.nearest[leaning]
    pairs_P, places = np.unique(own * max(len(sizes_C), 1) + other, return_inverse=True)
    evidence_P = np.bincount(places, evidence.outside_score[leaning], len(pairs_P))
    nearest_C, affinity_C = np.full(len(sizes_C), NOBODY, np.int32), np.zeros(len(sizes_C))
    owners_P = pairs_P // max(len(sizes_C), 1)
    order = np.lexsort((pairs_P, -evidence_P, owners_P))
    firsts = order[np.unique(owners_P[order], return_index=True)[1]]
    nearest_C[owners_P[firsts]] = pairs_P[firsts] % max(len(sizes_C), 1)
    affinity_C[owners_P[firsts]] = evidence_P[firsts] / sizes_C[owners_P[firsts]]
    return nearest_C, affinity_C


def _mean(sums: NDArray[np.float64], column: int) -> NDArray[np.float64]:
    return np.divide(sums[:, column], sums[:, 2], out=np.zeros(len(sums)), where=sums[:, 2] > 0)


@njit(nogil=True, cache=True)
def _look(sources, targets, scores, evidence, cluster_a, cluster_b, start, stop, inside, nearest, best):  # type: ignore[no-untyped-def]
    """Sum each row's edges inside its cluster; keep its best edge to another cluster, ties to the lower one."""
    for edge in range(len(scores)):
        a, b, score = sources[edge], targets[edge], max(scores[edge], np.float32(0.0))
        if a == b:
            continue
        if cluster_a[edge] >= 0 and cluster_a[edge] == cluster_b[edge]:
            for row in (a, b):
                if start <= row < stop:
                    _add(inside, row - start, score, evidence[edge])
            continue
        for row, other in ((a, cluster_b[edge]), (b, cluster_a[edge])):
            if other < 0 or row < start or row >= stop:
                continue
            place = row - start
            before = best[place, 0]
            if nearest[place] < 0 or score > before or (score == before and other < nearest[place]):
                best[place, 0], best[place, 1], nearest[place] = score, evidence[edge], other


@njit(nogil=True, cache=True)
def _weigh(sources, targets, scores, evidence, cluster_a, cluster_b, start, stop, nearest, outside):  # type: ignore[no-untyped-def]
    """Sum each row's edges into its nearest other cluster."""
    for edge in range(len(scores)):
        score = max(scores[edge], np.float32(0.0))
        for row, other in ((sources[edge], cluster_b[edge]), (targets[edge], cluster_a[edge])):
            if start <= row < stop and nearest[row - start] >= 0 and nearest[row - start] == other:
                _add(outside, row - start, score, evidence[edge])


@njit(nogil=True, cache=True, inline="always")
def _add(sums, row, score, evidence):  # type: ignore[no-untyped-def]
    sums[row, 0] += score
    sums[row, 1] += evidence
    sums[row, 2] += 1


@njit(nogil=True, cache=True)
def _weakest_links(
    sources_E: NDArray[np.int32], targets_E: NDArray[np.int32], clusters_N: NDArray[np.int32], num_clusters: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find each cluster's last join, and its last join of two groups of >= 2 rows, from strong edges to weak."""
    parent_N = np.arange(len(clusters_N)).astype(np.int32)
    sizes_N = np.ones(len(clusters_N), np.int32)
    weakest_C = np.full(num_clusters, -1, np.int64)
    bridge_C = np.full(num_clusters, -1, np.int64)
    for edge in range(len(sources_E)):
        a, b = find_root(parent_N, sources_E[edge]), find_root(parent_N, targets_E[edge])
        cluster = clusters_N[a]
        weakest_C[cluster] = edge
        if min(sizes_N[a], sizes_N[b]) >= 2:
            bridge_C[cluster] = edge
        parent_N[max(a, b)] = min(a, b)
        sizes_N[min(a, b)] = sizes_N[a] + sizes_N[b]
    return weakest_C, bridge_C


def as_columns(table: RowTable | RowEvidence | ClusterTable) -> dict[str, NDArray[Any]]:
    """Give the table's columns by name; ``bridge_rows`` as two columns."""
    columns = dict(table.__dict__)
    if "bridge_rows" in columns:
        rows = columns.pop("bridge_rows")
        columns |= {"bridge_row": rows[:, 0], "bridge_other_row": rows[:, 1]}
    return columns
