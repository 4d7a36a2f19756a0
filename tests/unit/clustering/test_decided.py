"""Pairs that people decided hold in every partition, deterministically, and contradictions are named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clustering.decided import contradiction, hold
from engine.partitions import PARTITIONS
from engine.partitions.base import Edges

VERTICES = 12
POINTS: dict[str, dict[str, Any]] = {
    "components": {"min_intimacy": 0.0},
    "propagation": {"max_size": 3},
    "density_peaks": {},
    "map_equation": {"weight": "log_odds"},
}
NONE = np.empty((0, 2), np.int64)
vertex = st.integers(0, VERTICES - 1)
pair = st.tuples(vertex, vertex)
edges = st.lists(st.tuples(vertex, vertex, st.sampled_from([0.2, 0.5, 0.55, 0.7, 0.9, 0.99])), max_size=40)


def as_edges(rows: list[tuple[int, int, float]]) -> Edges:
    """Each undirected edge once, without loops."""
    once = {(min(a, b), max(a, b)): score for a, b, score in rows if a != b}
    ends = np.array(list(once), np.int32).reshape(-1, 2)
    return Edges(ends[:, 0].copy(), ends[:, 1].copy(), np.array(list(once.values()), np.float32))


def as_pairs(pairs: list[tuple[int, int]], truth: list[int], same: bool) -> np.ndarray:
    kept = [each for each in pairs if (truth[each[0]] == truth[each[1]]) == same]
    return np.array(kept, np.int64).reshape(-1, 2)


@pytest.mark.parametrize("name", PARTITIONS)
@settings(deadline=None, max_examples=40)
@given(edges, st.lists(st.integers(0, 3), min_size=VERTICES, max_size=VERTICES), st.lists(pair, max_size=12), st.data())
def test_all_pairs_hold_in_every_partition(
    name: str, rows: list[tuple[int, int, float]], truth: list[int], pairs: list[tuple[int, int]], data: Any
) -> None:
    scored = as_edges(rows)
    point = {"min_score": 0.5, **POINTS[name]}
    roots = PARTITIONS[name].find(scored, VERTICES, point, learned=True, step=0.05, seed=0, threads=1)(0.0)
    must, cannot = as_pairs(pairs, truth, True), as_pairs(pairs, truth, False)
    held = hold(roots, must, cannot, *scored)
    assert (held[must[:, 0]] == held[must[:, 1]]).all()
    assert (held[cannot[:, 0]] != held[cannot[:, 1]]).all()
    assert held.dtype == roots.dtype
    assert (held[held] == held).all()
    assert (held <= np.arange(VERTICES)).all()
    named = np.isin(roots, roots[np.concatenate([must, cannot]).ravel()])
    np.testing.assert_array_equal(held[~named], roots[~named])  # other clusters stay
    order = np.array(data.draw(st.permutations(range(len(scored.scores)))), np.int64)
    again = hold(roots, must[::-1], cannot[::-1, ::-1], *(column[order] for column in scored))
    np.testing.assert_array_equal(again, held)


def chain(scores: list[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ends = np.arange(len(scores), dtype=np.int32)
    return ends, ends + 1, np.array(scores, np.float32)


def test_a_cluster_comes_apart_at_its_weakest_link() -> None:
    held = hold(np.zeros(5, np.int32), NONE, np.array([[0, 4]]), *chain([0.9, 0.6, 0.7, 0.8]))
    assert held.tolist() == [0, 0, 2, 2, 2]


@pytest.mark.parametrize(("link", "expected"), [(0.9, [0, 0, 0, 0]), (0.1, [0, 0, 0, 3])])
def test_a_pair_brings_along_what_the_scores_say(link: float, expected: list[int]) -> None:
    """Vertex 2 is to lie with 1. Its neighbour 3 comes along if their edge is better than even."""
    sources, targets, scores = np.array([0, 2]), np.array([1, 3]), np.array([0.95, link], np.float32)
    assert hold(np.array([0, 0, 2, 2]), np.array([[1, 2]]), NONE, sources, targets, scores).tolist() == expected


def test_a_stray_row_does_not_pull_its_cluster_along() -> None:
    """Two cliques that know nothing of each other; vertex 4 hangs on the first by one edge of less than even odds."""
    first = [(a, b, 0.9) for a in range(4) for b in range(a)]
    second = [(a, b, 0.9) for a in range(5, 10) for b in range(5, a)]
    scored = as_edges([*first, *second, (0, 4, 0.45), (1, 5, 0.1), (2, 6, 0.1)])
    roots = np.array([0] * 5 + [5] * 5)
    assert hold(roots, np.array([[4, 7]]), NONE, *scored).tolist() == [0] * 4 + [4] * 6


def test_a_contradiction_is_named_by_its_shortest_chain() -> None:
    must = np.array([[0, 1], [1, 2], [2, 3], [0, 2], [5, 6]])
    assert contradiction(7, must, np.array([[4, 5], [0, 3]])) == (1, [3, 2])
    assert contradiction(7, must, np.array([[4, 5], [0, 6]])) is None
    assert contradiction(7, NONE, np.array([[2, 2]])) == (0, [])
