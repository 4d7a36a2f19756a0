"""Overlap inputs of edges against a plain reference."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph import overlaps
from engine.graph.adjacency import undirected_edges
from tests.support.toy_graphs import make_graph


def reference(neighbors, similarities, source, target, similarity):  # type: ignore[no-untyped-def]
    ends = []
    for vertex in (source, target):
        listed = [int(v) for v in neighbors[vertex] if v >= 0]
        ends.append((vertex, listed, similarities[vertex, : len(listed)].astype(np.float64)))

    def steps(end, scale, width):  # type: ignore[no-untyped-def]
        vertex, listed, values = end
        rates = {vertex: 1.0} | {
            other: np.exp((value - values[0]) / width)
            for other, value in zip(listed[:scale], values[:scale], strict=True)
        }
        return {other: rate / sum(rates.values()) for other, rate in rates.items()}

    row = []
    for width in (0.05, 0.2):
        for scale in overlaps.WALK_SCALES:
            # the table holds weights by their square roots, so each end is scaled by the sum of the squares
            first, second = (steps(end, scale, width) for end in ends)
            row.append(sum(np.sqrt(first[v] * second[v]) for v in first.keys() & second.keys()))
    for scale in overlaps.WALK_SCALES:
        first, second = (steps(end, scale, 0.25) for end in ends)
        row.append(sum((first[v] + second[v]) / 2 for v in first.keys() & second.keys()))
    before = []
    for (vertex, listed, _), (other, others, _) in (ends, ends[::-1]):
        ahead = listed[: listed.index(other)] if other in listed else listed
        before.append((len(set(ahead) & set(others) - {vertex, other}) + 1) / (len(ahead) + 1))
    profiles = []
    for _, _, values in ends:
        gaps = values[:-1] - values[1:] if len(values) > 1 else np.zeros(1)
        place = int(np.argmax(gaps)) + 1 if gaps.max() > 0 else 0
        profiles.append([values[0], values[0] - values[-1], values[:10].mean(), np.log(1 + place), gaps.max()])
    relative = [(similarity - p[0] + p[1]) / (p[1] + 1e-3) for p in profiles]
    for first, second in ((before[0], before[1]), relative, *zip(*profiles, strict=True)):
        row += [min(first, second), max(first, second)]
    return row


def inputs_of(*graph_and_edges: np.ndarray) -> np.ndarray:
    found = np.empty((len(graph_and_edges[-1]), overlaps.NUM_OVERLAPS), np.float32)
    overlaps.fill_overlaps(*graph_and_edges, found)
    return found


@pytest.mark.parametrize(
    ("num", "width"),
    [(50, 12), pytest.param(110, 80, marks=pytest.mark.slow), pytest.param(110, 95, marks=pytest.mark.slow)],
)
def test_overlap_features_equal_reference(num: int, width: int) -> None:
    neighbors, similarities = make_graph(num, width, seed=3)
    neighbors[:, 0] = np.where(neighbors[:, 0] < 0, (np.arange(num) + 1) % num, neighbors[:, 0])
    edges = undirected_edges(neighbors, similarities, 0, num)
    neighbors, similarities = neighbors[:, :80], similarities[:, :80]
    profiles = overlaps.vertex_profiles(neighbors, similarities)
    found = inputs_of(neighbors, similarities, profiles, *edges)
    expected = np.array([reference(neighbors, similarities, *edge) for edge in zip(*edges, strict=True)])
    assert found.shape == (len(edges.sources), overlaps.NUM_OVERLAPS) == (len(expected), len(overlaps.OVERLAP_NAMES))
    np.testing.assert_allclose(found, expected, atol=3e-3)


def test_overlap_features_are_symmetric_and_do_not_depend_on_order() -> None:
    neighbors, similarities = make_graph(40, 30, seed=4, short_rows=False)
    edges = undirected_edges(neighbors, similarities, 0, 40)
    profiles = overlaps.vertex_profiles(neighbors, similarities)
    forward = inputs_of(neighbors, similarities, profiles, *edges)
    order = np.random.default_rng(0).permutation(len(forward))
    swapped = inputs_of(
        neighbors, similarities, profiles, edges.targets[order], edges.sources[order], edges.similarities[order]
    )
    assert np.array_equal(swapped, forward[order])


def test_neighborhood_averages() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(40, 21)).astype(np.float16)
    neighbors, _ = make_graph(40, 30, seed=5)
    found = overlaps.neighborhood_averages(neighbors[7:], features, 7, threads=2)
    assert found.shape == (33, len(overlaps.AVERAGED), 21)
    for row in range(7, 40):
        for place, count in enumerate(overlaps.AVERAGED):
            listed = neighbors[row, :count]
            mean = features[[row, *listed[listed >= 0]]].astype(np.float64).sum(0)
            np.testing.assert_allclose(found[row - 7, place], mean / np.linalg.norm(mean), atol=1e-3)
