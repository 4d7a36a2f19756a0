"""Ranges of a union-find: rounds on long paths, messages no larger than they need be, 64-bit ids, bad edges."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine.clustering import range_union_find
from engine.clustering.range_union_find import VertexRange, iterate_roots, unite_ranges
from engine.clustering.union_find import component_roots
from engine.errors import DataError
from engine.storage.companions import CompanionsHere


def make_ranges(num_ranges: int, num_vertices: int, *blocks: tuple[np.ndarray, np.ndarray]) -> CompanionsHere:
    return CompanionsHere([VertexRange(number, num_ranges, num_vertices, blocks) for number in range(num_ranges)])


def paths(num_vertices: int, num_ranges: int) -> dict[str, np.ndarray]:
    up = np.arange(num_vertices, dtype=np.int32)
    return {
        "up": up,
        "scattered": np.random.default_rng(0).permutation(up),
        "from range to range": up.reshape(num_ranges, -1).T.ravel(),
        "from end to end": np.stack([up, up[::-1]], axis=1).ravel()[:num_vertices],
    }


@pytest.mark.parametrize("num_ranges", [2, 32])
@pytest.mark.parametrize("num_vertices", [1 << 10, 1 << 15])
def test_rounds_on_long_paths_grow_with_the_logarithm_of_the_ranges(num_vertices: int, num_ranges: int) -> None:
    for name, path in paths(num_vertices, num_ranges).items():
        ranges = make_ranges(num_ranges, num_vertices, (path[:-1], path[1:]))
        assert unite_ranges(ranges) <= 2 * math.log2(num_ranges) + 3, name
        assert not np.concatenate(list(iterate_roots(ranges))).any()


def test_an_edge_that_goes_down_every_range_profits_from_jumps() -> None:
    num_ranges, length = 64, 4
    chain = np.arange(num_ranges, dtype=np.int32) * length + 3
    sources, targets = np.append(chain[1:], chain[-1]), np.append(chain[:-1], np.int32(1))
    ranges = make_ranges(num_ranges, num_ranges * length, (sources, targets))
    assert unite_ranges(ranges) <= 2 * math.log2(num_ranges) + 3
    expected = component_roots(num_ranges * length, sources, targets)
    assert np.array_equal(np.concatenate(list(iterate_roots(ranges))), expected)


def test_trees_of_one_link_ask_once_and_only_changes_are_answered() -> None:
    star = np.arange(1, 1000, dtype=np.int32)
    upper = VertexRange(1, 2, 1000, [(star, np.zeros_like(star))])
    assert [edges.shape[1] for edges in upper.give_edges()] == [0, 0]
    assert [links.tolist() for links in upper.ask()] == [[0], []]
    lower = VertexRange(0, 2, 1000, [])
    lower.hear(np.array([0], np.int32), np.array([], np.int32))
    assert [changes.shape for changes in lower.answer()] == [(2, 0), (2, 0)]


def test_ids_beyond_32_bits_are_64_bit_in_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_union_find, "id_dtype", lambda num_vertices: np.int64)
    path = np.random.default_rng(1).permutation(1000)
    ranges = make_ranges(3, 1000, (path[:-1], path[1:]))
    unite_ranges(ranges)
    roots = np.concatenate(list(iterate_roots(ranges)))
    assert roots.dtype == np.int64
    assert not roots.any()


def test_an_edge_outside_the_vertices_is_refused() -> None:
    ends = np.array([0, 9], np.int32)
    with pytest.raises(DataError, match="ids from 0 to 8"):
        unite_ranges(make_ranges(2, 9, (ends, ends)))
