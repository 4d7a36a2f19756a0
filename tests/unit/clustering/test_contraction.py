"""Clusters as single nodes leave the map equation's flow as it was."""

from __future__ import annotations

import numpy as np

from engine.clustering.contraction import contract
from engine.clustering.csr import build_weighted_adjacency
from engine.clustering.map_equation import codelength, refine_modules


def graph(rng: np.random.Generator, num_vertices: int, edges: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pairs = np.unique(np.sort(rng.integers(0, num_vertices, (edges, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]].astype(np.int32)
    return pairs[:, 0], pairs[:, 1], rng.random(len(pairs)).astype(np.float32)


def test_contracted_flow_is_that_of_the_whole_graph() -> None:
    rng = np.random.default_rng(0)
    block = graph(rng, 60, 300)
    labels = rng.integers(0, 6, 60)
    nodes = np.where(labels < 3, labels, 3 + np.arange(60))
    names, node_N = np.unique(nodes, return_inverse=True)
    free = names >= 3
    found = contract(len(names), node_N.astype(np.int32), free, [tuple(part[:100] for part in block),
                                                                  tuple(part[100:] for part in block)])  # fmt: skip
    own = np.where(free, labels[names - 3], names)
    # The walk's own entropy is of other nodes, so a difference of two clusterings is compared.
    whole = build_weighted_adjacency(60, lambda: [block])
    joined = {3: 4}
    differences = []
    for csr, given in ((whole, labels), (found, own)):
        other = np.array([joined.get(int(label), label) for label in given])
        differences.append(codelength(*csr, other) - codelength(*csr, given))
    assert abs(differences[0] - differences[1]) < 1e-6


def test_refined_modules_take_in_what_belongs_to_them() -> None:
    cliques = [(a + base, b + base) for base in (0, 5) for a in range(5) for b in range(a)]
    edges = np.array([*cliques, (10, 0), (10, 1), (10, 2), (4, 5)], np.int32)
    csr = build_weighted_adjacency(11, lambda: [(edges[:, 0], edges[:, 1], np.ones(len(edges), np.float32))])
    start = np.array([0] * 5 + [5] * 5 + [10], np.int32)
    np.testing.assert_array_equal(refine_modules(*csr, start).roots_N, [0] * 5 + [5] * 5 + [0])
