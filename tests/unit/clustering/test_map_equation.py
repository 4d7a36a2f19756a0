"""The map equation's codelength against its formula, and the search on graphs whose modules are known."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from engine.clustering import module_rounds
from engine.clustering.csr import build_weighted_adjacency
from engine.clustering.map_equation import VertexModules, WalkModules, codelength, map_equation
from engine.clustering.module_moves import best_move
from engine.clustering.module_rounds import ModuleRange
from engine.errors import DataError
from engine.storage.companions import CompanionsHere


def graph_of(num_vertices, pairs, weights=None):
    table = np.array(pairs, np.int32).reshape(-1, 2)
    values = np.ones(len(table), np.float32) if weights is None else np.array(weights, np.float32)
    return build_weighted_adjacency(num_vertices, lambda: [(table[:, 0].copy(), table[:, 1].copy(), values)])


def clique(start, size):
    return list(combinations(range(start, start + size), 2))


def naive_codelength(indptr, indices, weights, labels):
    matrix = csr_array((np.maximum(weights, 0).astype(float), indices, indptr)).toarray()
    matrix /= matrix.sum()

    def plogp(values):
        values = np.atleast_1d(values)
        return (values[values > 0] * np.log2(values[values > 0])).sum()

    flow = matrix.sum(axis=1)
    inside = np.array(labels)[:, None] == np.array(labels)[None, :]
    exits = np.array([matrix[labels == m][:, labels != m].sum() for m in np.unique(labels)])
    flows = np.array([flow[labels == m].sum() for m in np.unique(labels)])
    assert np.isclose(exits.sum(), matrix[~inside].sum())
    return plogp(exits.sum()) - 2 * plogp(exits) + plogp(exits + flows) - plogp(flow)


def planted(seed, sizes, inside, outside):
    """Links within groups of these sizes with probability ``inside``, between any with ``outside``; ids shuffled."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)[random.permutation(sum(sizes))]
    i, j = np.triu_indices(len(groups), 1)
    linked = random.random(len(i)) < np.where(groups[i] == groups[j], inside, outside)
    pairs = np.stack([i[linked], j[linked]], axis=1)
    return graph_of(len(groups), pairs, 0.5 + random.random(len(pairs)) / 2), groups


def roots_of(groups):
    lowest = np.full(groups.max() + 1, len(groups))
    np.minimum.at(lowest, groups, np.arange(len(groups)))
    return lowest[groups]


def check_sound(graph, found: WalkModules):
    """Canonical, connected, codelength as stated and no worse than the trivial partitions'."""
    indptr, indices, weights = graph
    n = len(indptr) - 1
    roots = found.roots_N
    assert roots.dtype == np.int32
    assert np.array_equal(roots, roots_of(np.unique(roots, return_inverse=True)[1]))
    assert found.num_modules == len(np.unique(roots))
    assert found.codelength == codelength(*graph, roots)
    rows = np.repeat(np.arange(n), np.diff(indptr))
    kept = (roots[rows] == roots[indices]) & (weights > 0)
    pieces, _ = connected_components(csr_array((np.ones(kept.sum()), (rows[kept], indices[kept])), shape=(n, n)), False)
    assert pieces == found.num_modules
    links = csr_array((weights > 0, (rows, indices)), shape=(n, n))
    links.eliminate_zeros()
    for other in (np.arange(n), np.zeros(n), connected_components(links, False)[1]):
        assert found.codelength <= codelength(*graph, other) + 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_codelength_is_the_formula(seed):
    random = np.random.default_rng(seed)
    pairs = random.integers(0, 40, (150, 2))
    indptr, indices, weights = graph_of(40, pairs, random.random(150) - 0.1)
    labels = random.integers(-3, 5, 40)
    assert codelength(indptr, indices, weights, labels) == pytest.approx(
        naive_codelength(indptr, indices, weights, labels), abs=1e-9
    )
    assert codelength(indptr, indices, weights, labels, threads=3) == codelength(indptr, indices, weights, labels)


def test_codelength_of_what_is_known():
    two = graph_of(4, [(0, 1), (2, 3)])
    assert codelength(*two, np.array([0, 0, 2, 2])) == pytest.approx(1)  # one bit says which end
    assert codelength(*two, np.zeros(4)) == pytest.approx(2)
    assert codelength(*graph_of(3, []), np.arange(3)) == 0


def test_a_self_loop_is_flow_that_stays():
    indptr, indices = np.array([0, 2, 3], np.int64), np.array([0, 1, 0], np.int32)
    weights = np.array([2, 1, 1], np.float32)
    apart = codelength(indptr, indices, weights, np.arange(2))
    assert apart == pytest.approx(naive_codelength(indptr, indices, weights, np.arange(2)), abs=1e-9)
    check_sound((indptr, indices, weights), map_equation(indptr, indices, weights))


@pytest.mark.parametrize("n", [0, 1, 2, 5])
def test_vertices_without_links_are_alone(n):
    found = map_equation(*graph_of(n, []))
    assert found.roots_N.tolist() == list(range(n))
    assert (found.num_modules, found.codelength) == (n, 0.0)


def test_links_without_weight_are_no_links():
    weights = [1, 1, 1, 0, -1]
    found = map_equation(*graph_of(5, [(0, 1), (1, 2), (0, 2), (2, 3), (3, 4)], weights))
    assert found.roots_N.tolist() == [0, 0, 0, 3, 4]


@pytest.mark.parametrize(
    ("n", "pairs"),
    [
        (2, [(0, 1)]),
        (5, [(0, 1), (1, 2), (2, 3)]),  # a path, and a vertex alone
        (60, [(v, v + 1) for v in range(59)]),
        (40, [(0, v) for v in range(1, 40)]),  # a star
        (30, clique(0, 30)),
        (30, [(v, (v + 1) % 30) for v in range(30)]),
    ],
)
def test_plain_graphs_come_out_sound(n, pairs):
    graph = graph_of(n, pairs)
    check_sound(graph, map_equation(*graph))


def test_a_clique_and_a_star_are_one_module():
    assert map_equation(*graph_of(50, clique(0, 50))).num_modules == 1
    assert map_equation(*graph_of(50, [(49, v) for v in range(49)])).num_modules == 1


def test_cliques_joined_by_single_links_come_apart():
    two = graph_of(12, clique(0, 6) + clique(6, 6) + [(5, 6)])
    assert map_equation(*two).roots_N.tolist() == [0] * 6 + [6] * 6
    ring = [pair for c in range(12) for pair in clique(5 * c, 5)] + [(5 * c, (5 * c + 5) % 60) for c in range(12)]
    assert map_equation(*graph_of(60, ring)).roots_N.tolist() == [v // 5 * 5 for v in range(60)]


@pytest.mark.parametrize("seed", range(4))
def test_planted_groups_are_found(seed):
    graph, groups = planted(seed, [15, 15, 20, 33, 50, 80, 94, 100, 100], 0.6, 0.005)
    found = map_equation(*graph, seed=seed)
    check_sound(graph, found)
    assert np.array_equal(found.roots_N, roots_of(groups))
    apart, _ = planted(seed, [4] * 20, 1.0, 0.0)
    assert map_equation(*apart).num_modules == 20


def test_groups_are_found_in_many_tiles(monkeypatch):
    monkeypatch.setattr(module_rounds, "TILE_VERTICES", 16)
    for seed in range(3):
        graph, groups = planted(seed, [60] * 12, 0.4, 0.004)
        found = map_equation(*graph, seed=seed)
        check_sound(graph, found)
        assert np.array_equal(found.roots_N, roots_of(groups))


def test_the_order_of_edges_does_not_show():
    random = np.random.default_rng(0)
    pairs = random.integers(0, 200, (1500, 2)).astype(np.int32)
    weights = random.random(1500).astype(np.float32)
    order = random.permutation(1500)
    one = map_equation(*graph_of(200, pairs, weights))
    other = map_equation(*graph_of(200, pairs[order][:, ::-1], weights[order]))
    assert np.array_equal(one.roots_N, other.roots_N)
    assert one.codelength == other.codelength


def test_a_seed_gives_the_same_modules_again():
    graph, _ = planted(2, [10] * 30, 0.5, 0.05)
    assert np.array_equal(map_equation(*graph, seed=5).roots_N, map_equation(*graph, seed=5).roots_N)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, i, w: (p, i, w[:-1]), "1 weights"),
        (lambda p, i, w: (p, i.astype(np.int64), w), "indices 1-d of int32"),
        (lambda p, i, w: (p, i + np.int32(1), w), "goes to vertex 2 of 2"),
        (lambda p, i, w: (p, i, w * np.float32(np.nan)), "finite number"),
        (lambda p, i, w: (p[::-1].copy(), i, w), "indptr of 3 entries"),
        (lambda p, i, w: (np.array([0, 3, 2]), i, w), "indptr decreases"),
    ],
)
def test_malformed_graphs_are_refused(change, message):
    graph = change(*graph_of(2, [(0, 1)]))
    with pytest.raises(DataError, match=message):
        map_equation(*graph)


def test_labels_of_another_graph_are_refused():
    with pytest.raises(DataError, match="for 2 vertices"):
        codelength(*graph_of(2, [(0, 1)]), np.zeros(3))


@pytest.mark.parametrize("roots", [[0, 0, 2, 2, 4, 4], [0, 1, 2, 3, 4, 5]])
def test_the_connected_components_stand_in_for_a_search_that_found_worse(roots):
    indptr, indices, weights = graph_of(6, clique(0, 6))
    vertices = VertexModules(CompanionsHere([ModuleRange(0, 6, indptr, indices, weights)]))
    vertices.place(np.array(roots, np.int32))
    vertices.fall_back()
    assert vertices.found(0).roots_N.tolist() == [0] * 6


@pytest.mark.parametrize("modules", [[3, 5], [5, 3]])
def test_of_modules_that_save_as_much_a_node_joins_the_lowest(modules):
    flow, leaving, size = np.full(8, 0.2), np.full(8, 0.1), np.ones(8, np.int32)
    flow[7] = 0.1
    links = np.array(modules, np.int32), np.ones(2), np.arange(2, dtype=np.int32), 2
    target, _, link = best_move(*links, 0.05, 0.1, 0.1, 7, flow, leaving, size, 0.3)
    assert (target, link) == (3, 0.05)
