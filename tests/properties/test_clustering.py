"""Clustering kernels against naive references, under any order, cutting, direction and duplication of the edges.

No deadlines: the first example of a test may compile its kernels.
"""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from engine.clustering import range_union_find
from engine.clustering.csr import build_adjacency, build_weighted_adjacency
from engine.clustering.density_peaks import DensityLinks, add_densities, linked_roots
from engine.clustering.forest import strongest_forest
from engine.clustering.labels import dense_labels
from engine.clustering.map_equation import codelength, map_equation
from engine.clustering.propagation import graph_propagation, propagate
from engine.clustering.pruning import node_intimacy
from engine.clustering.range_union_find import VertexRange, iterate_roots, range_bounds, unite_ranges
from engine.clustering.union_find import UnionFind, compact_ids, component_roots
from engine.storage.companions import CompanionsHere

MAX_VERTICES = 24
vertices = st.integers(0, MAX_VERTICES - 1)
edge_lists = st.lists(st.tuples(vertices, vertices), max_size=60)
# Few distinct scores make ties; 1.0 is what no threshold cuts.
scores = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.52, 0.55, 0.9, 0.97, 1.0])
scored_edges = st.lists(st.tuples(vertices, vertices, scores), max_size=60)


def arrays(pairs, dtype=np.int32):
    table = np.array(pairs, dtype).reshape(-1, 2)
    return table[:, 0].copy(), table[:, 1].copy()


def naive_roots(num_vertices, pairs):
    roots = list(range(num_vertices))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            least = min(roots[a], roots[b])
            if roots[a] != least or roots[b] != least:
                roots[a] = roots[b] = least
                changed = True
    return roots


def naive_propagation(num_vertices, edges, min_score, max_size, step):
    final = [0] * num_vertices
    least = min((float(np.float32(score)) for *_, score in edges), default=0)
    pending = [(range(num_vertices), edges, least if min_score is None else min_score)]
    while pending:
        members, edges, threshold = pending.pop()
        kept = [edge for edge in edges if np.float32(edge[2]) >= np.float32(threshold)]
        roots = naive_roots(num_vertices, [edge[:2] for edge in kept])
        raised = threshold + (1 - threshold) * step
        for root in {roots[v] for v in members}:
            component = [v for v in members if roots[v] == root]
            if len(component) > max_size and raised != threshold:
                pending.append((component, [edge for edge in kept if roots[edge[0]] == root], raised))
            for v in component:
                final[v] = root
    return final


@settings(deadline=None)
@given(edge_lists, st.randoms(use_true_random=False), st.integers(1, 7))
def test_union_find_equals_a_naive_reference_however_edges_come(pairs, random, num_blocks):
    expected = naive_roots(MAX_VERTICES, pairs)
    assert component_roots(MAX_VERTICES, *arrays(pairs)).tolist() == expected
    shuffled = [(b, a) if random.random() < 0.5 else (a, b) for a, b in pairs * 2]
    random.shuffle(shuffled)
    blocks = [arrays(shuffled[start::num_blocks], np.int64) for start in range(num_blocks)]
    forest = UnionFind(MAX_VERTICES)
    for block in blocks:
        forest.add(*block)
    assert forest.roots().tolist() == expected

    def reduce(*parts):
        union = UnionFind(MAX_VERTICES)
        for part in parts:
            union.add(*part)
        return union.forest()

    reduced = [reduce(block) for block in blocks]
    for (sources, targets), (members, roots) in zip(blocks, reduced, strict=True):
        assert len(members) <= max(0, len(np.union1d(sources, targets)) - 1)
        assert (np.diff(members) > 0).all()
        assert (roots < members).all()
    merged = reduce(*reduced)
    assert component_roots(MAX_VERTICES, *merged).tolist() == expected
    whole = reduce(arrays(pairs, np.int64))
    assert [part.tolist() for part in merged] == [part.tolist() for part in whole]
    tree = reduce(reduce(*reduced[:3]), reduce(*reduced[3:]))
    assert [part.tolist() for part in tree] == [part.tolist() for part in whole]


FAMILIES = {
    "path": lambda n, rng: (np.arange(n - 1), np.arange(1, n)),
    "scattered path": lambda n, rng: (lambda order: (order[:-1], order[1:]))(rng.permutation(n)),
    "zigzag": lambda n, rng: (np.arange(n - 1), n - 1 - np.arange(n - 1)),
    "star": lambda n, rng: (np.arange(n), np.full(n, rng.integers(n))),
    "singletons": lambda n, rng: (np.empty(0, int), np.empty(0, int)),
    "self loops": lambda n, rng: (np.arange(n), np.arange(n)),
    "giant": lambda n, rng: rng.integers(0, n, (2, 3 * n)),
    "sparse": lambda n, rng: rng.integers(0, n, (2, n // 2)),
    "duplicates": lambda n, rng: np.tile(rng.integers(0, n, (2, n // 4 + 1)), 3),
}


@settings(deadline=None, max_examples=150)
@given(
    st.sampled_from(sorted(FAMILIES)), st.integers(1, 300), st.integers(1, 12), st.integers(1, 4),
    st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 1 << 22]), st.booleans(),
)  # fmt: skip
def test_ranges_give_the_bytes_of_union_find(family, num_vertices, num_ranges, num_blocks, seed, piece, forests):
    rng = np.random.default_rng(seed)
    sources, targets = (np.asarray(ends, np.int32) for ends in FAMILIES[family](num_vertices, rng))
    expected = component_roots(num_vertices, sources, targets)
    order = rng.permutation(len(sources))
    blocks = [(sources[part], targets[part]) for part in np.array_split(order, num_blocks)]
    if forests:
        blocks = [block_forest(num_vertices, *block) for block in blocks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(range_union_find, "PIECE_EDGES", piece)
        ranges = CompanionsHere([VertexRange(p, num_ranges, num_vertices, blocks) for p in range(num_ranges)])
        unite_ranges(ranges)
    roots = list(iterate_roots(ranges))
    assert [len(part) for part in roots] == [
        len(range(*range_bounds(number, num_ranges, num_vertices))) for number in range(num_ranges)
    ]
    assert np.concatenate(roots).tobytes() == expected.tobytes()


def block_forest(num_vertices, sources, targets):
    union = UnionFind(num_vertices)
    union.add(sources, targets)
    return union.forest()


@given(st.integers(0, 2**32 - 1), st.integers(1, 400), st.integers(0, 800), st.integers(0, 50))
@settings(max_examples=50, deadline=None)
def test_union_find_equals_scipy(seed, num_vertices, num_edges, spread):
    rng = np.random.default_rng(seed)
    sources, targets = rng.integers(0, num_vertices, (2, num_edges))
    graph = coo_array((np.ones(num_edges), (sources, targets)), shape=(num_vertices, num_vertices))
    _, expected = connected_components(graph, directed=False)
    first_of = np.full(num_vertices, num_vertices)
    np.minimum.at(first_of, expected, np.arange(num_vertices))
    roots = component_roots(num_vertices, sources, targets)
    assert np.array_equal(roots, first_of[expected])
    # The same graph over ids far apart: compacting must not depend on how they are spread.
    names = np.sort(rng.integers(0, 2 ** (10 + spread), num_vertices)) + np.arange(num_vertices)
    found, *compact = compact_ids(names[sources], names[targets])
    assert np.array_equal(found, np.unique(names[np.concatenate([sources, targets])]))
    assert np.array_equal(found[component_roots(len(found), *compact)], names[roots[np.searchsorted(names, found)]])


@settings(deadline=None)
@given(edge_lists, st.integers(1, 5), st.integers(1, 3))
def test_node_intimacy_equals_sets(pairs, num_blocks, threads):
    blocks = [arrays(pairs[start::num_blocks]) for start in range(num_blocks)]
    adjacency = build_adjacency(MAX_VERTICES, lambda: blocks, threads)
    closed = [{v} for v in range(MAX_VERTICES)]
    for a, b in pairs:
        closed[a].add(b)
        closed[b].add(a)
    indptr, indices = adjacency
    for v in range(MAX_VERTICES):
        assert indices[indptr[v] : indptr[v + 1]].tolist() == sorted(closed[v] - {v})
    asked = [(a, b) for a in range(MAX_VERTICES) for b in range(MAX_VERTICES)]
    expected = [len(closed[a] & closed[b]) / min(len(closed[a]), len(closed[b])) for a, b in asked]
    assert np.array_equal(node_intimacy(*adjacency, *arrays(asked), threads), np.float32(expected))


@settings(deadline=None)
@given(
    scored_edges,
    st.none() | st.sampled_from([-0.5, 0.1, 0.3, 0.55, 1.0]),
    st.integers(1, 12),
    st.sampled_from([0.05, 0.3, 0.9]),
    st.randoms(use_true_random=False),
    st.integers(1, 4),
)
def test_propagation_equals_a_naive_reference_however_edges_come(edges, min_score, max_size, step, random, num_blocks):
    expected = naive_propagation(MAX_VERTICES, edges, min_score, max_size, step)
    shuffled = [(b, a, s) if random.random() < 0.5 else (a, b, s) for a, b, s in edges * 2]
    random.shuffle(shuffled)

    def table(rows):
        return *arrays([row[:2] for row in rows]), np.array([row[2] for row in rows], np.float32)

    rule = {"min_score": min_score, "max_size": max_size, "step": step}
    assert propagate(MAX_VERTICES, *table(edges), **rule).tolist() == expected
    assert propagate(MAX_VERTICES, *table(shuffled), **rule).tolist() == expected

    forests = [strongest_forest(*table(shuffled[start::num_blocks])) for start in range(num_blocks)]
    forest = strongest_forest(*(np.concatenate(parts) for parts in zip(*forests, strict=True)))
    assert len(forest[0]) < MAX_VERTICES
    if min_score is not None:  # the default is the least score of all edges, which a forest need not hold
        assert propagate(MAX_VERTICES, *forest, **rule).tolist() == expected


def naive_density_peaks(num_vertices, edges, min_score):
    kept = [(a, b, np.float32(s)) for a, b, s in edges if a != b and np.float32(s) >= np.float32(min_score)]
    units = [0] * num_vertices
    for a, b, s in kept:
        units[a] += round(float(s) * 2**24)
        units[b] += round(float(s) * 2**24)
    rank = {v: (units[v], -v) for v in range(num_vertices)}
    links = []
    for v in range(num_vertices):
        denser = [(s, rank[w], w) for a, b, s in kept for w in ({a: b, b: a}.get(v),) if w is not None]
        denser = [each for each in denser if each[1] > rank[v]]
        if denser:
            links.append((v, max(denser)[2]))
    return naive_roots(num_vertices, links)


@settings(deadline=None)
@given(
    scored_edges,
    st.sampled_from([0.0, 0.3, 0.55, 1.0]),
    st.randoms(use_true_random=False),
    st.integers(1, 4),
    st.integers(0, MAX_VERTICES),
)
def test_density_peaks_equal_a_naive_reference_however_edges_come(edges, min_score, random, num_blocks, cut):
    edges = list({frozenset(edge[:2]): edge for edge in edges}.values())
    shuffled = [(b, a, s) if random.random() < 0.5 else (a, b, s) for a, b, s in edges]
    random.shuffle(shuffled)
    blocks = [shuffled[start::num_blocks] for start in range(num_blocks)]
    tables = [(*arrays([row[:2] for row in rows]), np.array([row[2] for row in rows], np.float32)) for rows in blocks]
    densities = np.zeros(MAX_VERTICES, np.int64)
    for start, stop in pairwise([0, cut, MAX_VERTICES]):
        for table in tables:
            add_densities(start, stop, *table, min_score, densities[start:stop])
    parents = []
    for start, stop in pairwise([0, cut, MAX_VERTICES]):
        links = DensityLinks(start, stop, min_score, densities)
        for table in tables:
            links.link(*table)
        parents.append(links.parents_n)
    assert linked_roots(np.concatenate(parents)).tolist() == naive_density_peaks(MAX_VERTICES, edges, min_score)


@settings(deadline=None)
@given(scored_edges, st.integers(1, 12))
def test_graph_propagation_is_propagation_with_unpaired_vertices_left_out(edges, max_size):
    pairs = np.array([edge[:2] for edge in edges], np.int64).reshape(-1, 2)
    labels = graph_propagation(pairs, np.array([edge[2] for edge in edges]), max_size, num_vertices=MAX_VERTICES)
    paired = np.unique(pairs)
    assert (np.delete(labels, paired) == -1).all()
    roots = np.array(naive_propagation(MAX_VERTICES, edges, None, max_size, 0.05))
    expected = dense_labels(np.searchsorted(paired, roots[paired]))
    assert np.array_equal(labels[paired], expected)


weighted_edges = st.lists(st.tuples(vertices, vertices, st.sampled_from([-1.0, 0.0, 0.1, 0.5, 1.0, 3.0])), max_size=80)


@settings(deadline=None)
@given(weighted_edges, st.randoms(use_true_random=False), st.integers(0, 3), st.integers(1, 3))
def test_map_equation_is_no_worse_than_trivial_partitions_and_connected(edges, random, seed, threads):
    def adjacency(rows):
        table = *arrays([row[:2] for row in rows]), np.array([row[2] for row in rows], np.float32)
        return build_weighted_adjacency(MAX_VERTICES, lambda: [table])

    graph = adjacency(edges)
    found = map_equation(*graph, seed=seed)
    best = {}
    for a, b, weight in edges:
        best[min(a, b), max(a, b)] = max(weight, best.get((min(a, b), max(a, b)), -1.0))
    links = [pair for pair, weight in best.items() if weight > 0]
    inside = [pair for pair in links if found.roots_N[pair[0]] == found.roots_N[pair[1]]]
    assert naive_roots(MAX_VERTICES, inside) == found.roots_N.tolist()
    for trivial in (range(MAX_VERTICES), [0] * MAX_VERTICES, naive_roots(MAX_VERTICES, links)):
        assert found.codelength <= codelength(*graph, np.array(trivial)) + 1e-12
    shuffled = [(b, a, w) if random.random() < 0.5 else (a, b, w) for a, b, w in edges * 2]
    random.shuffle(shuffled)
    again = map_equation(*adjacency(shuffled), seed=seed, threads=threads)
    assert again.roots_N.tolist() == found.roots_N.tolist()
    assert again.codelength == found.codelength
