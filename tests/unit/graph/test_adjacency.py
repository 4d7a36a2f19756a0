"""Adjacency, aggregation and the edge list against dense and set-based references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.adjacency import aggregate, symmetric_rows, undirected_edges
from tests.support.toy_graphs import make_graph

Array = np.ndarray[Any, Any]


def dense_adjacency(neighbors: Array, similarities: Array) -> Array:
    num = len(neighbors)
    dense = np.zeros((num, num))
    for row in range(num):
        for other, value in zip(neighbors[row], similarities[row], strict=True):
            if other >= 0:
                value = min(max(float(value), 0.0), 1.0)
                dense[row, other] = max(dense[row, other], value)
                dense[other, row] = max(dense[other, row], value)
    dense += np.eye(num)
    return dense / dense.sum(1, keepdims=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_aggregate_equals_dense_product(dtype: type) -> None:
    neighbors, similarities = make_graph(60, 7, seed=1)
    features = np.random.default_rng(2).normal(size=(60, 19)).astype(dtype)
    features[3] = 2e-6  # subnormal in float16
    rows = symmetric_rows(neighbors, similarities, 0, 60)
    dense = dense_adjacency(neighbors, similarities)
    rebuilt = np.zeros_like(dense)
    for row in range(60):
        columns = rows.indices[rows.indptr[row] : rows.indptr[row + 1]]
        assert np.all(np.diff(columns) > 0)
        rebuilt[row, columns] = rows.weights[rows.indptr[row] : rows.indptr[row + 1]]
    np.testing.assert_allclose(rebuilt, dense, atol=1e-6)
    averaged = aggregate(*rows, features)
    assert averaged.dtype == np.float32
    np.testing.assert_allclose(averaged, dense @ features.astype(np.float64), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(num=st.integers(2, 40), width=st.integers(1, 6), seed=st.integers(0, 999), cut=st.integers(0, 40))
def test_blocks_and_threads_never_change_a_bit(num: int, width: int, seed: int, cut: int) -> None:
    neighbors, similarities = make_graph(num, min(width, num - 1), seed)
    features = np.random.default_rng(seed).normal(size=(num, 5)).astype(np.float16)
    cut = min(cut, num)
    whole = symmetric_rows(neighbors, similarities, 0, num)
    parts = [symmetric_rows(neighbors, similarities, a, b, threads=2) for a, b in ((0, cut), (cut, num))]
    assert np.array_equal(whole.indices, np.concatenate([part.indices for part in parts]))
    assert np.array_equal(whole.weights, np.concatenate([part.weights for part in parts]))
    averaged = np.concatenate([aggregate(*part, features, threads=2) for part in parts])
    assert np.array_equal(aggregate(*whole, features), averaged)


@settings(max_examples=25, deadline=None)
@given(
    num=st.integers(2, 30),
    width=st.integers(1, 6),
    seed=st.integers(0, 999),
    cut=st.integers(0, 30),
    floor=st.sampled_from([-1.0, 0.3]),
    offered=st.sampled_from([0, 1, 3]),
)
def test_each_undirected_edge_is_listed_once(
    num: int, width: int, seed: int, cut: int, floor: float, offered: int
) -> None:
    neighbors, similarities = make_graph(num, min(width, num - 1), seed)
    cut = min(cut, num)
    expected: dict[tuple[int, int], float] = {}
    nearest: set[tuple[int, int]] = set()
    for row in range(num):
        for rank, (other, value) in enumerate(zip(neighbors[row].tolist(), similarities[row].tolist(), strict=True)):
            if other >= 0 and value >= floor:
                pair = (min(row, other), max(row, other))
                expected[pair] = max(expected.get(pair, -9.0), value)
                if not offered or rank < offered:
                    nearest.add(pair)
    expected = {pair: value for pair, value in expected.items() if pair in nearest}
    parts = [
        undirected_edges(neighbors, similarities, a, b, floor, max_per_vertex=offered, threads=2)
        for a, b in ((0, cut), (cut, num))
    ]
    found: dict[tuple[int, int], float] = {}
    for part in parts:
        for source, target, value in zip(*(column.tolist() for column in part), strict=True):
            assert (source, target) not in found
            found[source, target] = value
    assert found == expected


def test_edges_come_by_owner_then_rank() -> None:
    neighbors = np.array([[2, 1], [0, -1], [3, 0], [2, 1]], np.int32)
    similarities = np.array([[0.9, 0.5], [0.5, 0], [0.95, 0.9], [0.95, 0.2]], np.float32)
    edges = undirected_edges(neighbors, similarities, 0, 4)
    assert edges.sources.tolist() == [0, 0, 2, 1]
    assert edges.targets.tolist() == [2, 1, 3, 3]
    assert edges.similarities.tolist() == pytest.approx([0.9, 0.5, 0.95, 0.2])
