"""Structural edge inputs against a plain set-based reference."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph import structural_inputs
from engine.graph.adjacency import undirected_edges
from tests.support.toy_graphs import make_graph


def reference(neighbors, similarities, source, target, similarity):  # type: ignore[no-untyped-def]
    lists = []
    for vertex in (source, target):
        listed = [int(v) for v in neighbors[vertex] if v >= 0]
        lists.append(([vertex, *listed], [1.0, *similarities[vertex, : len(listed)].tolist()]))
    (ids, values), (other_ids, other_values) = lists
    ranks = [ids.index(target) - 1 if target in ids else 80, other_ids.index(source) - 1 if source in other_ids else 80]
    first, second = dict(zip(ids, values, strict=True)), dict(zip(other_ids, other_values, strict=True))
    product = sum(first[v] * second[v] for v in first if v in second)
    norm = np.sqrt(sum(v * v for v in values) * sum(v * v for v in other_values))
    row = [similarity, np.log(2 + min(ranks)), np.log(2 + max(ranks)), product / norm]
    width = neighbors.shape[1]
    for scale in structural_inputs.SHARED_SCALES:
        row.append(len(set(ids[: scale + 1]) & set(other_ids[: scale + 1])) / (1 + min(scale, width)))
    for rank in structural_inputs.PROFILE_RANKS:
        above = [similarity - v[1:][min(rank, len(v) - 2)] for v in (values, other_values)]
        row += [min(above), max(above)]
    return row


def inputs_of(neighbors: np.ndarray, similarities: np.ndarray, *edges: np.ndarray) -> np.ndarray:
    found = np.empty((len(edges[0]), structural_inputs.NUM_STRUCTURAL), np.float32)
    structural_inputs.fill_structural(neighbors, similarities, *edges, found)
    return found


@pytest.mark.parametrize(("num", "width"), [(50, 12), (110, 80), (110, 95)])
def test_structural_inputs_equal_reference(num: int, width: int) -> None:
    neighbors, similarities = make_graph(num, width, seed=3)
    neighbors[:, 0] = np.where(neighbors[:, 0] < 0, (np.arange(num) + 1) % num, neighbors[:, 0])
    edges = undirected_edges(neighbors, similarities, 0, num)
    neighbors, similarities = neighbors[:, :80], similarities[:, :80]
    found = inputs_of(neighbors, similarities, *edges)
    expected = [reference(neighbors, similarities, *edge) for edge in zip(*edges, strict=True)]
    assert found.shape == (len(edges.sources), structural_inputs.NUM_STRUCTURAL)
    assert len(structural_inputs.STRUCTURAL_NAMES) == structural_inputs.NUM_STRUCTURAL
    np.testing.assert_allclose(found, np.array(expected), atol=1e-5)


def test_structural_inputs_are_symmetric_and_do_not_depend_on_order() -> None:
    neighbors, similarities = make_graph(40, 30, seed=4, short_rows=False)
    edges = undirected_edges(neighbors, similarities, 0, 40)
    forward = inputs_of(neighbors, similarities, *edges)
    order = np.random.default_rng(0).permutation(len(forward))
    swapped = inputs_of(neighbors, similarities, edges.targets[order], edges.sources[order], edges.similarities[order])
    assert np.array_equal(swapped, forward[order])


def test_scattered_ids_and_a_neighbour_listed_twice() -> None:
    neighbors, similarities = make_graph(400, 60, seed=6, short_rows=False)
    ids = np.sort(np.random.default_rng(6).permutation(2_000_000)[:400]).astype(np.int32)
    wide, wide_similarities = np.full((ids[-1] + 1, 60), -1, np.int32), np.zeros((ids[-1] + 1, 60), np.float32)
    wide[ids], wide_similarities[ids] = ids[neighbors], similarities
    edges = undirected_edges(neighbors, similarities, 0, 400)
    near = inputs_of(neighbors, similarities, *edges)
    far = inputs_of(wide, wide_similarities, ids[edges.sources], ids[edges.targets], edges[2])
    assert np.array_equal(near, far)
    neighbors[:, 7] = neighbors[:, 6]
    twice = inputs_of(neighbors, similarities, *edges)
    assert np.isfinite(twice).all()
    assert not np.array_equal(twice, near)


def test_cosines_of_pairs() -> None:
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(30, 45)).astype(np.float16)
    vectors[7] = 0
    sources, targets = rng.integers(0, 30, 200).astype(np.int32), rng.integers(0, 30, 200).astype(np.int32)
    found, swapped = np.empty((2, 200), np.float32)
    structural_inputs.fill_cosines(vectors, sources, targets, found)
    structural_inputs.fill_cosines(vectors, targets, sources, swapped)
    wide = vectors.astype(np.float64)
    norms = np.linalg.norm(wide, axis=1)
    scale = norms[sources] * norms[targets]
    expected = np.where(scale > 0, (wide[sources] * wide[targets]).sum(1) / np.maximum(scale, 1e-9), 0)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.array_equal(swapped, found)
