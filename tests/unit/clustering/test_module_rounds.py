"""Modules found in ranges: the same bytes for any ranges, threads and tiles, as good as vertices that move in turn."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from engine.clustering import module_rounds
from engine.clustering.map_equation import find_modules, join_modules, map_equation
from engine.clustering.module_rounds import ModuleRange
from engine.storage.companions import CompanionsHere
from tests.unit.clustering.test_map_equation import planted


def in_ranges(graph, bounds, threads=1):
    indptr, indices, weights = graph
    ranges = []
    for start, stop in pairwise(bounds):
        links = slice(indptr[start], indptr[stop])
        rows = indptr[start : stop + 1] - indptr[start], indices[links].copy(), weights[links].copy()
        ranges.append(ModuleRange(start, len(indptr) - 1, *rows, threads=threads))
    return CompanionsHere(ranges)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_ranges_threads_and_tiles_do_not_show(monkeypatch, count):
    graph, _ = planted(3, [30] * 10 + [3] * 30, 0.4, 0.02)
    wanted = map_equation(*graph, seed=4)
    num = len(wanted.roots_N)
    assert 10 <= wanted.num_modules < num
    monkeypatch.setattr(module_rounds, "TILE_VERTICES", 16)
    random = np.random.default_rng(count)
    cuts = np.sort(random.integers(0, num + 1, count - 1))
    found = find_modules(in_ranges(graph, [0, *cuts, num], threads=2), 4)
    assert found.roots_N.tobytes() == wanted.roots_N.tobytes()
    assert (found.codelength, found.num_rounds) == (wanted.codelength, wanted.num_rounds)
    halves = np.where(np.arange(num) < num // 2, wanted.roots_N, np.arange(num)).astype(np.int32)
    joined = join_modules(in_ranges(graph, [0, *cuts, num]), halves, 4)
    assert joined.roots_N.tobytes() == join_modules(in_ranges(graph, [0, num]), halves, 4).roots_N.tobytes()


def test_flows_are_exact_sums():
    """Weights of very different sizes are rounded so that no sum depends on its order."""
    graph, _ = planted(0, [20] * 5, 0.6, 0.05)
    random = np.random.default_rng(1)
    sizes = np.exp(random.uniform(-30, 5, len(graph[2]))).astype(np.float32)
    rows = np.repeat(np.arange(100), np.diff(graph[0]))
    both = np.minimum(rows, graph[1]) * 100 + np.maximum(rows, graph[1])  # one weight for both directions
    first, number = np.unique(both, return_index=True, return_inverse=True)[1:]
    wanted = find_modules(in_ranges((*graph[:2], sizes[first][number]), [0, 100]), 0)
    found = find_modules(in_ranges((*graph[:2], sizes[first][number]), [0, 3, 50, 51, 100]), 0)
    assert found.codelength == wanted.codelength
    assert np.array_equal(found.roots_N, wanted.roots_N)


def test_two_vertices_that_want_each_other_do_not_change_places_for_ever():
    graph, groups = planted(0, [2] * 50, 1.0, 0.0)
    found = map_equation(*graph)
    assert found.num_modules == 50
    assert all(len(np.unique(found.roots_N[groups == group])) == 1 for group in range(50))
