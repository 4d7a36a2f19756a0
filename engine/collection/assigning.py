"""Which cluster a vector would join: its edges are scored as an update would score them, and nothing changes.

Queries are joined to the version in small batches and taken out again. A batch is a small share of the rows, so that
the lists of rows are full of rows, not of queries. Queries do not find each other.
Legend: n queries, D dimensions, R clusters that are named, E edges.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from engine.clustering.evidence import COSINE_BANDWIDTH, edge_weights
from engine.collection.additions import Scorer, Undo, add_rows
from engine.collection.state import State
from engine.tiles import tile_bounds

Array = np.ndarray[Any, Any]

NAMED = 3  # clusters of each query: the nearest and two runners-up
MOST_QUERIES, FEWEST_QUERIES, ROWS_PER_QUERY = 2_048, 16, 128  # of a batch
PROBES = 16
ROWS_AT_A_TIME = 1 << 18  # whose edges are ranked together
_BEST = 5  # a query's best edges into a cluster, whose mean is its probability


def batch_rows(num_rows: int) -> int:
    """How many queries a batch of a collection of so many rows has; results depend on it."""
    return int(np.clip(num_rows // ROWS_PER_QUERY, FEWEST_QUERIES, MOST_QUERIES))


class Assignment(NamedTuple):
    """The clusters of queries.

    ``clusters`` (n,) int64: the cluster that an update would put a query into, -1 if it would be a new one. ``nearest``
    (n, R) int64: the clusters with most evidence, -1 for none. ``probabilities`` (n, R) float32: the mean of the
    query's five best scores into each; of cosines, of their evidence.
    """

    clusters: Array
    nearest: Array
    probabilities: Array


def assign_batch(state: State, vectors_nD: Array, zeros: Array, scorer: Scorer, threads: int) -> Assignment:
    """Assign one batch. ``vectors_nD``: unit rows, float32; the state has room for them, and is left as it was."""
    undo = Undo(state)
    try:
        added = add_rows(state, vectors_nD, zeros, scorer, threads, undo=undo, num_probes=PROBES)
    finally:
        undo.undo()
    sources, targets, _, scores = added.edges  # a query has a higher number than any row
    first = state.num_rows
    label_V = state.labels_N[state.row_numbers]
    found = _rank(targets - first, label_V[sources], *_weigh(state, scores), len(vectors_nD))
    copies = np.flatnonzero(added.leaders < first)
    found.clusters[copies] = found.nearest[copies, 0] = state.labels_N[added.leaders[copies]]
    found.probabilities[copies, 0] = 1
    found.nearest[copies, 1:], found.probabilities[copies, 1:] = -1, 0
    return found


def memberships(state: State) -> tuple[Array, Array]:
    """Give the clusters that each row has most evidence for, and the probability of each, (N, R) as of a query.

    A row's own cluster need not be the first, because a row follows its neighbours. A copy has those of the row that
    stands for it; a row without edges has none.
    """
    rows_V = state.row_numbers
    label_V = state.labels_N[rows_V]
    nearest_V = np.full((state.num_rows, NAMED), -1, np.int64)
    probabilities_V = np.zeros((state.num_rows, NAMED), np.float32)
    for begin, end in tile_bounds(0, state.num_rows, ROWS_AT_A_TIME):
        parts = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
        for sources, targets, scores in state.edges():
            for own, other in ((sources, targets), (targets, sources)):
                inside = (own >= begin) & (own < end)
                parts.append((own[inside].astype(np.int64) - begin, label_V[other[inside]], scores[inside]))
        owners, clusters, scores = (np.concatenate(column) for column in zip(*parts, strict=True))
        found = _rank(owners, clusters, *_weigh(state, scores), end - begin)
        nearest_V[begin:end], probabilities_V[begin:end] = found.nearest, found.probabilities
    vertices = state.vertices[state.leaders_N]
    return nearest_V[vertices], probabilities_V[vertices]


def _weigh(state: State, scores: Array) -> tuple[Array, Array]:
    """What edges count for their clusters, and how likely each is."""
    point, learned = state.kept.point, state.kept.learned
    weight = point.get("weight", "log_odds" if learned else "exponential")
    weights = edge_weights(scores, weight, point["min_score"], point.get("bandwidth", COSINE_BANDWIDTH))
    counted = np.where(scores >= np.float32(point["min_score"]), np.maximum(weights, 0), 0)
    return counted, scores if learned else edge_weights(scores, "exponential", bandwidth=COSINE_BANDWIDTH)


def _rank(queries: Array, clusters: Array, weights: Array, evidence: Array, num_queries: int) -> Assignment:
    """Order each query's clusters by the weight of its edges into them, then by their probability."""
    nearest = np.full((num_queries, NAMED), -1, np.int64)
    probabilities = np.zeros((num_queries, NAMED), np.float32)
    joined = np.full(num_queries, -1, np.int64)
    known = clusters >= 0
    queries, clusters, weights, evidence = queries[known], clusters[known], weights[known], evidence[known]
    if not len(queries):
        return Assignment(joined, nearest, probabilities)
    order = np.lexsort((-evidence, clusters, queries))
    queries, clusters, weights, evidence = queries[order], clusters[order], weights[order], evidence[order]
    starts = np.flatnonzero(np.append(True, (np.diff(queries) != 0) | (np.diff(clusters) != 0)))
    sizes = np.diff(np.append(starts, len(queries)))
    place = np.arange(len(queries)) - np.repeat(starts, sizes)
    best = np.where(place < _BEST, np.maximum(evidence, 0), 0).astype(np.float64)
    means = np.add.reduceat(best, starts) / np.minimum(sizes, _BEST)
    sums = np.add.reduceat(weights.astype(np.float64), starts)
    owner, cluster = queries[starts], clusters[starts]
    order = np.lexsort((cluster, -means, -sums, owner))
    owner, cluster, means, sums = owner[order], cluster[order], means[order], sums[order]
    rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
    kept = rank < NAMED
    nearest[owner[kept], rank[kept]] = cluster[kept]
    probabilities[owner[kept], rank[kept]] = np.minimum(means[kept], 1)
    firsts = (rank == 0) & (sums > 0)
    joined[owner[firsts]] = cluster[firsts]
    return Assignment(joined, nearest, probabilities)
