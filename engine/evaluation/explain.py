"""How sure a clustering is of each row and each cluster, by its scored edges.

E edges, N rows, C clusters. Scores below 0 count as 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.forest import MaximumForest
from engine.clustering.union_find import check_edges, find_root
from engine.errors import DataError
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


class Explainer:
    """Explain a clustering from edges that arrive in blocks, in two passes; memory follows N.

    ``labels_N``: >= -1; rows of -1 belong to no cluster. Give every block to ``look``, then every block to ``weigh``.
    Edges in a fixed order give the same sums for any blocks. Peak about 130 bytes per row.
    """

    def __init__(self, labels_N: Labels) -> None:
        if len(labels_N) and int(labels_N.min()) < -1:
            raise DataError(f"cluster labels: expected -1 or more, got {int(labels_N.min())}")
        assigned_N = labels_N >= 0
        self._labels_C, members = np.unique(labels_N[assigned_N], return_inverse=True)
        self._clusters_N = np.full(len(labels_N), NOBODY, np.int32)
        self._clusters_N[assigned_N] = members
        # Sum of scores, sum of evidence, and number of a row's edges into its own cluster, and into its nearest other.
        self._inside_N = np.zeros((len(labels_N), 3), np.float64)
        self._outside_N = np.zeros((len(labels_N), 3), np.float64)
        self._nearest_N = np.full(len(labels_N), NOBODY, np.int32)
        self._best_N = np.zeros((len(labels_N), 2), np.float32)  # score and evidence of the best edge into it
        self._forest = MaximumForest(len(labels_N))

    def look(self, edges: ScoredEdges) -> None:
        """Add a block of scored edges, each undirected edge once overall."""
        sources_E, targets_E, scores_E, _ = edges
        check_edges(sources_E, targets_E, len(self._clusters_N))
        clusters = self._clusters_N
        _look(*edges, clusters, self._inside_N, self._nearest_N, self._best_N)
        inside_E = (clusters[sources_E] == clusters[targets_E]) & (clusters[sources_E] >= 0) & (sources_E != targets_E)
        self._forest.add(sources_E[inside_E], targets_E[inside_E], scores_E[inside_E])

    def weigh(self, edges: ScoredEdges) -> None:
        """Add a block a second time, after ``look`` has seen all blocks."""
        _weigh(*edges, self._clusters_N, self._nearest_N, self._outside_N)

    def rows(self) -> RowTable:
        """Return the table of rows."""
        inside_N, outside_N = _mean(self._inside_N, 1), _mean(self._outside_N, 1)
        alone_N = self._sizes()[self._clusters_N] == 1 if len(self._labels_C) else np.zeros(len(inside_N), bool)
        both_N = inside_N + outside_N
        confidence_N = np.divide(inside_N, both_N, out=np.full(len(both_N), 0.5), where=both_N > 0)
        confidence_N[alone_N] = 1 - np.minimum(self._best_N[alone_N, 1], 1)
        confidence_N[self._clusters_N == NOBODY] = np.nan
        return RowTable(confidence_N.astype(np.float32), self._label_of(self._nearest_N), self._best_N[:, 0])

    def clusters(self, rows: RowTable) -> ClusterTable:
        """Return the table of clusters; ``rows``: what ``rows()`` returned."""
        sizes_C, members_N = self._sizes(), self._clusters_N >= 0
        own_N = self._clusters_N[members_N]
        sources_E, targets_E, scores_E = self._forest.edges()
        weakest_C, bridge_C = _weakest_links(sources_E, targets_E, self._clusters_N, len(sizes_C))
        columns = self._inside_N[members_N].T
        sums = np.stack([np.bincount(own_N, column, len(sizes_C)).astype(np.float64) for column in columns], axis=1)
        bridge_rows = np.stack([np.append(ends, NOBODY)[bridge_C] for ends in (sources_E, targets_E)], axis=1)
        nearest_C, affinity_C = self._nearest_clusters(sizes_C)
        return ClusterTable(
            self._labels_C.astype(np.int64),
            sizes_C,
            np.bincount(own_N, rows.confidence[members_N], len(sizes_C)) / np.maximum(sizes_C, 1),
            np.where(sums[:, 2] > 0, _mean(sums, 0), np.nan),
            np.append(scores_E, np.nan)[weakest_C].astype(np.float64),
            np.append(scores_E, np.nan)[bridge_C].astype(np.float64),
            bridge_rows.astype(np.int64),
            self._label_of(nearest_C),
            affinity_C,
        )

    def _sizes(self) -> NDArray[np.int64]:
        return np.bincount(self._clusters_N[self._clusters_N >= 0], minlength=len(self._labels_C))

    def _label_of(self, clusters: NDArray[np.int32]) -> NDArray[np.int64]:
        return np.append(self._labels_C, NOBODY).astype(np.int64)[clusters]

    def _nearest_clusters(self, sizes_C: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Find each cluster's nearest other by its rows' evidence, ties to the lower label, and the affinity to it."""
        leaning = np.flatnonzero((self._nearest_N >= 0) & (self._clusters_N >= 0))
        own, other = self._clusters_N[leaning].astype(np.int64), self._nearest_N[leaning]
        pairs_P, places = np.unique(own * max(len(sizes_C), 1) + other, return_inverse=True)
        evidence_P = np.bincount(places, _mean(self._outside_N[leaning], 0), len(pairs_P))
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
def _look(sources, targets, scores, evidence, clusters, inside, nearest, best):  # type: ignore[no-untyped-def]
    """Sum each row's edges inside its cluster; keep its best edge to another cluster, ties to the lower one."""
    for edge in range(len(scores)):
        a, b, score = sources[edge], targets[edge], max(scores[edge], np.float32(0.0))
        if a == b:
            continue
        if clusters[a] >= 0 and clusters[a] == clusters[b]:
            _add(inside, a, score, evidence[edge])
            _add(inside, b, score, evidence[edge])
            continue
        for row, other in ((a, clusters[b]), (b, clusters[a])):
            before = best[row, 0]
            if other >= 0 and (nearest[row] < 0 or score > before or (score == before and other < nearest[row])):
                best[row, 0], best[row, 1], nearest[row] = score, evidence[edge], other


@njit(nogil=True, cache=True)
def _weigh(sources, targets, scores, evidence, clusters, nearest, outside):  # type: ignore[no-untyped-def]
    """Sum each row's edges into its nearest other cluster."""
    for edge in range(len(scores)):
        a, b, score = sources[edge], targets[edge], max(scores[edge], np.float32(0.0))
        if nearest[a] >= 0 and nearest[a] == clusters[b]:
            _add(outside, a, score, evidence[edge])
        if nearest[b] >= 0 and nearest[b] == clusters[a]:
            _add(outside, b, score, evidence[edge])


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


def as_columns(table: RowTable | ClusterTable) -> dict[str, NDArray[Any]]:
    """Give the table's columns by name; ``bridge_rows`` as two columns."""
    columns = dict(table.__dict__)
    if "bridge_rows" in columns:
        rows = columns.pop("bridge_rows")
        columns |= {"bridge_row": rows[:, 0], "bridge_other_row": rows[:, 1]}
    return columns
