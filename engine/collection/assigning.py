"""Which cluster a vector would join, by its edges to what lies nearest; nothing changes, and queries meet no others.

A query's edges are scored by the graph of the learned metric alone, if there is one, which tells identities apart
better than the other does. Only its nearest vertices are scored: its cluster has a row among these, and the rest cost
most of the time.
Legend: n queries, D dimensions, R clusters that are named, E edges.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from engine.clustering.evidence import COSINE_BANDWIDTH, edge_weights
from engine.collection.additions import Scorer, project_rows
from engine.collection.state import State, inverse
from engine.graph.adjacency import EdgeList
from engine.graph.insertion import search_new
from engine.graph.overlaps import averages_of
from engine.graph.querying import CodedGraph, encode_graph, search_queries, take_in
from engine.graph.similarity import listed_similarities, sort_neighbors
from engine.methods.structural import scorer as structural
from engine.tiles import tile_bounds
from engine.units import NO_NEIGHBOR, NO_SIMILARITY

Array = np.ndarray[Any, Any]

NAMED = 3  # clusters of each query: the nearest and two runners-up
MOST_QUERIES = 1_024  # of a batch; results do not depend on it
PROBES = 16
SCORED = 16  # a query's nearest vertices, to which its edges are scored
ROOM = MOST_QUERIES * (1 + SCORED)  # rows of a version behind its own that an ``Assigner`` writes to
SPARE = 16  # further neighbours that a search finds, because products of codes are rounded
ROWS_AT_A_TIME = 1 << 18  # whose edges are ranked together
_BEST = 5  # a query's best edges into a cluster, whose mean is its probability
_SURELY_APART = np.float32(0.99)  # cosine below which a query is no copy of a row


class Assignment(NamedTuple):
    """The clusters of queries.

    ``clusters`` (n,) int64: the cluster that an update would put a query into, -1 if it would be a new one. ``nearest``
    (n, R) int64: the clusters with most evidence, -1 for none. ``probabilities`` (n, R) float32: the mean of the
    query's five best scores into each; of cosines, of their evidence.
    """

    clusters: Array
    nearest: Array
    probabilities: Array


class Assigner:
    """Assigns queries to the clusters of a version that has ``ROOM`` for more rows; made once for many calls.

    A call writes to the room alone, so calls must not overlap. There each query is taken into the lists of doubles of
    its nearest vertices, because an edge's scorer has learned from ends that list each other.
    """

    def __init__(self, state: State, threads: int) -> None:
        self._state, self._threads = state, threads
        scorer = Scorer(state)
        self._fitted = scorer.second or scorer.first
        self._graph = state.graphs[1 if scorer.second is not None else 0]
        self._scorer = scorer
        rows = self._graph.rows_V
        self._row_V = np.arange(state.num_rows, dtype=np.int32) if rows is None else rows[: state.num_rows]
        self._label_V = state.labels_N[self._row_V]
        by_row = np.empty(state.num_rows, np.bool_)
        by_row[state.row_numbers] = state.listable_V
        self._listable_V = by_row[self._row_V]
        self._vectors_V = np.arange(state.num_rows + ROOM, dtype=np.int32)  # a double has those of its vertex

    def assign(self, vectors_nD: Array, zeros: Array) -> Assignment:
        """Assign one batch. ``vectors_nD``: unit rows, float32; ``zeros``: which of them have no direction."""
        state, graph, n = self._state, self._graph, len(vectors_nD)
        own = np.arange(state.num_rows, state.num_rows + n, dtype=np.int32)
        order = self._list_neighbors(vectors_nD, own)
        nowhere = own[np.isin(order, zeros)]
        graph.neighbors[nowhere], graph.similarities[nowhere] = NO_NEIGHBOR, NO_SIMILARITY
        leaders = self._leaders(vectors_nD[order], own)
        query, vertices, scores = self._score(own)
        found = _rank(query, self._label_V[vertices], *_weigh(state, scores), n)
        copies = np.flatnonzero(leaders >= 0)
        found.clusters[copies] = found.nearest[copies, 0] = state.labels_N[leaders[copies]]
        found.probabilities[copies, 0] = 1
        found.nearest[copies, 1:], found.probabilities[copies, 1:] = -1, 0
        place = inverse(order)
        return Assignment(*(column[place] for column in found))

    @cached_property
    def _vertices(self) -> Array:
        """The first graph's vertex of each row."""
        return self._state.vertices

    @cached_property
    def _coded(self) -> CodedGraph | None:
        """The graph's codes, ``None`` if it was searched without cells."""
        graph, state = self._graph, self._state
        cells = graph.cells(state.kept.num_rows)
        if cells is None:
            return None
        return encode_graph(graph.features, cells, graph.neighbors, self._listable_V, MOST_QUERIES, self._threads)

    def _list_neighbors(self, vectors_nD: Array, own: Array) -> Array:
        """Write the queries' lists behind those of all vertices, near queries together; give the order of queries."""
        graph, k, threads = self._graph, self._state.kept.k, self._threads
        start, stop = int(own[0]), int(own[-1]) + 1
        graph.features[start:stop] = project_rows(graph, vectors_nD, threads)
        if graph.originals is not None:
            graph.originals[start:stop] = vectors_nD
        if self._coded is None:
            listable = np.append(self._listable_V, np.zeros(len(own), np.bool_))
            searched = graph.features, graph.neighbors, None, listable, start, stop, k, PROBES
            ids, similarities = search_new(*searched, threads)
            order = np.arange(len(own))
        else:
            ids, order = search_queries(self._coded, graph.features[start:stop], PROBES, k + SPARE, threads)
            ids, graph.features[start:stop] = ids[order], graph.features[start:stop][order]
            if graph.originals is not None:
                graph.originals[start:stop] = vectors_nD[order]
            similarities = listed_similarities(graph.features, own, ids, threads=threads)
            sort_neighbors(ids, similarities, threads=threads)
        graph.neighbors[start:stop], graph.similarities[start:stop] = ids[:, :k], similarities[:, :k]
        return order

    def _leaders(self, vectors_nD: Array, own: Array) -> Array:
        """The row whose very vector a query has, the lowest vertex of those; -1 for none."""
        leaders = np.full(len(own), -1, np.int64)
        graph, first = self._graph, self._state.graphs[0]
        query, rank = np.nonzero(graph.similarities[own] > _SURELY_APART)
        if not len(query):
            return leaders
        asked = np.unique(query)
        features_qD = project_rows(first, vectors_nD[asked], self._threads).astype(first.features.dtype)
        rows = self._row_V[graph.neighbors[own[query], rank]]
        vertices = self._vertices[rows]
        same = (first.features[vertices] == features_qD[np.searchsorted(asked, query)]).all(axis=1)
        for place in np.flatnonzero(same)[::-1]:
            leaders[query[place]] = rows[place]
        return leaders

    def _score(self, own: Array) -> tuple[Array, Array, Array]:
        """Score queries' edges to what they list first: each edge's query, vertex and score."""
        graph, fitted, threads = self._graph, self._fitted, self._threads
        query, rank = np.nonzero(graph.neighbors[own, :SCORED] >= 0)
        similarities = graph.similarities[own[query], rank]
        if fitted is None:
            vertices = graph.neighbors[own[query], rank]
            scores = self._scorer.score(self._state, EdgeList(vertices, own[query], similarities), threads)
            return query, vertices, scores
        graph.describe(own, threads)
        averages_nAD = averages_of(graph.neighbors[own], graph.features, own, threads=threads)
        for number, averages in enumerate(graph.averages):
            averages[own] = averages_nAD[:, number]
        first = int(own[0]) + MOST_QUERIES  # doubles of vertices stand behind the queries
        lists = graph.neighbors, graph.similarities, graph.priors, graph.profiles
        vertices_nS, places_nS = take_in(*lists, own, first, SCORED, threads)
        doubles = (first + query * SCORED + rank).astype(np.int32)
        self._vectors_V[doubles] = vertices_nS[query, rank]
        around = graph.around._replace(vectors_N=self._vectors_V)
        edges = EdgeList(own[query], doubles, similarities)
        priors = structural.prior_scores(fitted.priors, around, edges, threads=threads)
        graph.priors[own] = 0
        graph.priors[own[query], rank] = priors
        places = places_nS[query, rank]
        graph.priors[doubles[places >= 0], places[places >= 0]] = priors[places >= 0]
        scores = structural.score_edges(fitted, around, graph.priors, edges, threads=threads)
        return query, vertices_nS[query, rank], self._scorer.corrected(scores)


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
