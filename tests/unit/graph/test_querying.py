"""Queries find what lies nearest, whatever other queries there are, and are taken into doubles of lists alone."""

from __future__ import annotations

import numpy as np

from engine.graph import knn
from engine.graph.insertion import Cells, insert_lists, make_cells, mean_of_cells, nearest_cells
from engine.graph.querying import encode_graph, search_queries, take_in
from engine.units import NO_NEIGHBOR, NO_SIMILARITY
from tests.support.vectors import make_blobs

KEPT, LATER, QUERIES, K = 260, 40, 30, 24
NUM = KEPT + LATER


def vectors() -> np.ndarray:
    rows = make_blobs(NUM + QUERIES, 16, seed=2)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def cells_of(features: np.ndarray) -> Cells:
    offsets = np.arange(0, KEPT + 1, 20)
    centroids = mean_of_cells(features, offsets)
    return make_cells(centroids, offsets, nearest_cells(features[KEPT:NUM], centroids, 1, 1)[:, 0], KEPT)


def test_all_cells_give_the_nearest_but_for_rounding_and_few_give_most() -> None:
    features = vectors()
    neighbors, _ = knn.exact_neighbors(features[:NUM], 0, NUM, K, None, 1)
    listable = np.ones(NUM, np.bool_)
    listable[[3, KEPT + 2]] = False
    graph = encode_graph(features, cells_of(features), neighbors, listable, QUERIES, 1)
    allowed = np.flatnonzero(listable)
    cosines = features[NUM:].astype(np.float32) @ features[allowed].astype(np.float32).T
    exact = allowed[np.argsort(-cosines, axis=1, kind="stable")[:, :K]]
    for probes, least in ((len(graph.cells.centroids), 0.97), (4, 0.9)):
        found, order = search_queries(graph, features[NUM:], probes, K, 1)
        assert sorted(order.tolist()) == list(range(QUERIES))
        assert np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]) > least
        assert not np.isin(found, [3, KEPT + 2]).any()
        for query in (0, 17):
            alone, _ = search_queries(graph, features[NUM + query : NUM + query + 1], probes, K, 3)
            assert (alone[0] == found[query]).all()


def test_doubles_are_the_lists_that_have_taken_the_query_in() -> None:
    features, count = vectors()[: NUM + 2], 6
    rows = NUM + 2 + 2 * count
    neighbors = np.full((rows, K), NO_NEIGHBOR, np.int32)
    similarities = np.full((rows, K), NO_SIMILARITY, np.float32)
    neighbors[:NUM], similarities[:NUM] = knn.exact_neighbors(features[:NUM], 0, NUM, K, None, 1)
    cosines = features[NUM:].astype(np.float32) @ features[:NUM].astype(np.float32).T
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :K]
    neighbors[NUM : NUM + 2], similarities[NUM : NUM + 2] = nearest, np.take_along_axis(cosines, nearest, axis=1)
    neighbors[NUM + 1, 4:], similarities[NUM + 1, 4:] = NO_NEIGHBOR, NO_SIMILARITY
    priors = np.arange(rows * K, dtype=np.uint16).reshape(rows, K)
    whole, known = neighbors.copy(), similarities.copy()
    table = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    own = np.array([NUM, NUM + 1], np.int32)
    found, places = take_in(neighbors, similarities, priors, table, own, NUM + 2, count, 2)
    assert (neighbors[:NUM] == whole[:NUM]).all()
    for query, wanted in ((0, count), (1, 4)):
        vertices, first = nearest[query, :wanted], NUM + 2 + query * count
        doubles = first + np.arange(wanted)
        assert (neighbors[NUM + query, :wanted] == doubles).all()
        assert (neighbors[NUM + query, wanted:] == whole[NUM + query, wanted:]).all()
        assert (places[query, wanted:] == -1).all()
        taken, values = whole.copy(), known.copy()
        entries = np.sort(vertices)
        assert (found[query, :wanted] == vertices).all()
        assert (table[doubles] == table[vertices]).all()
        newcomer, into = np.full(wanted, NUM + query, np.int32), np.empty(wanted, np.int16)
        insert_lists(taken, values, entries.astype(np.int32), newcomer, cosines[query, entries], into)
        original = np.arange(rows)
        original[doubles] = vertices
        for rank, (vertex, double) in enumerate(zip(vertices, doubles, strict=True)):
            assert (original[neighbors[double]] == taken[vertex]).all()
            assert (similarities[double] == values[vertex]).all()
            place = into[np.searchsorted(entries, vertex)]
            assert places[query, rank] == place
            if place >= 0:
                assert priors[double, place] == 0
                kept = np.delete(priors[double], place)
                assert (kept == priors[vertex, : K - 1]).all()
        inside = np.isin(neighbors[doubles], vertices)
        assert not inside.any()  # doubles stand for the vertices everywhere
