from itertools import combinations

import numpy as np
import pytest

from engine.clustering.csr import build_adjacency
from engine.clustering.pruning import TILE_EDGES, adaptive_intimacy, intimate_edges, node_intimacy
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


def test_adaptive_intimacy_asks_more_of_ends_of_higher_degree():
    least = adaptive_intimacy(np.array([1, 9, 10, 19, 20, 29, 30, 500]))
    assert least.round(3).tolist() == np.float32([0.652] * 4 + [0.751] * 2 + [0.774] * 2).tolist()


@pytest.mark.parametrize("size", [2, 3, 4, 5, 25])
def test_a_clique_of_any_size_survives_adaptive_intimacy(size):
    sources, targets = edges_of(clique(0, size))
    adjacency = build_adjacency(size, lambda: [(sources, targets)])
    assert intimate_edges(*adjacency, sources, targets, "adaptive").all()


def test_adaptive_intimacy_goes_by_the_lower_degree_of_the_ends():
    rng = np.random.default_rng(0)
    pairs = {tuple(sorted(pair)) for pair in rng.integers(0, 60, (900, 2)).tolist() if pair[0] != pair[1]}
    sources, targets = edges_of(pairs)
    adjacency = build_adjacency(60, lambda: [(sources, targets)])
    degrees = np.bincount(np.concatenate([sources, targets]), minlength=60) + 1
    lower = np.minimum(degrees[sources], degrees[targets])
    assert lower.min() < 20 < lower.max()
    close = node_intimacy(*adjacency, sources, targets)
    asked = np.array([adaptive_intimacy(np.array([degree]))[0] for degree in lower])
    assert intimate_edges(*adjacency, sources, targets, "adaptive").tolist() == (close >= asked).tolist()
    assert intimate_edges(*adjacency, sources, targets, 0.3).tolist() == (close >= np.float32(0.3)).tolist()
