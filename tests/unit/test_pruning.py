from itertools import combinations

import numpy as np
import pytest

from engine.clustering.adjacency import build_adjacency
from engine.clustering.pruning import TILE_EDGES, node_intimacy
from engine.errors import DataError


def edges_of(pairs):
    pairs = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    return pairs[:, 0].copy(), pairs[:, 1].copy()


def intimacy(num_vertices, pairs):
    sources, targets = edges_of(pairs)
    adjacency = build_adjacency(num_vertices, lambda: [(sources, targets)])
    return dict(zip(sorted(pairs), node_intimacy(*adjacency, sources, targets).tolist(), strict=True))


def clique(start, size):
    return list(combinations(range(start, start + size), 2))


def test_adjacency_is_symmetric_sorted_and_without_repeats_or_self():
    blocks = [(np.array([3, 0, 2]), np.array([0, 3, 2])), (np.array([3, 1], np.int32), np.array([1, 3], np.int32))]
    indptr, indices = build_adjacency(5, lambda: blocks)
    assert indptr.dtype == np.int64
    assert indices.dtype == np.int32
    assert indptr.tolist() == [0, 1, 2, 2, 4, 4]
    assert indices.tolist() == [3, 3, 0, 1]


def test_adjacency_of_nothing():
    indptr, indices = build_adjacency(0, list)
    assert indptr.tolist() == [0]
    assert indices.tolist() == []


def test_blocks_that_change_between_passes_are_refused():
    passes = iter([[(np.array([0]), np.array([1]))], [(np.array([0, 0]), np.array([1, 2]))]])
    with pytest.raises(DataError, match="two passes"):
        build_adjacency(3, lambda: next(passes))


def test_adjacency_refuses_ids_outside_the_graph():
    with pytest.raises(DataError, match="expected ids from 0 to 2"):
        build_adjacency(3, lambda: [(np.array([0]), np.array([3]))])


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_clique_of_any_size_scores_one(size):
    assert set(intimacy(size, clique(0, size)).values()) == {1.0}


def test_a_bridge_between_cliques_scores_low():
    scores = intimacy(10, [*clique(0, 5), *clique(5, 5), (4, 5)])
    assert scores[4, 5] == pytest.approx(2 / 6)
    assert min(score for pair, score in scores.items() if pair != (4, 5)) == 1.0


def test_the_better_end_decides():
    assert set(intimacy(20, [(0, leaf) for leaf in range(1, 20)]).values()) == {1.0}


def test_edges_outside_the_adjacency_count_only_shared_neighbours():
    sources, targets = edges_of([(0, 2), (1, 2)])
    adjacency = build_adjacency(4, lambda: [(sources, targets)])
    scores = node_intimacy(*adjacency, np.array([0, 0, 3]), np.array([1, 3, 3]))
    assert scores.tolist() == [0.5, 0.0, 1.0]


def test_short_rows_are_searched_in_long_ones():
    hub = [(0, leaf) for leaf in range(2, 200)]
    scores = intimacy(200, [*hub, (0, 1), (1, 150), (1, 199)])
    assert scores[0, 1] == 1.0
    assert scores[1, 150] == 1.0
    assert scores[0, 150] == 1.0


def test_threads_do_not_change_intimacy():
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(0, 3000, (2, TILE_EDGES * 2 + 11))
    one = build_adjacency(3000, lambda: [(sources, targets)])
    two = build_adjacency(3000, lambda: [(sources[::-1].copy(), targets[::-1].copy())], threads=3)
    assert all(np.array_equal(a, b) for a, b in zip(one, two, strict=True))
    assert np.array_equal(node_intimacy(*one, sources, targets), node_intimacy(*one, sources, targets, threads=3))
