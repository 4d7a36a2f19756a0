"""Cosines of listed pairs: numpy's to the last digits, and the same bits in any order and tiling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph.similarity import TILE_ROWS, listed_similarities, sort_neighbors
from engine.units import NO_NEIGHBOR, NO_SIMILARITY


def unit_rows(num_rows: int, dim: int, dtype: type, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("dim", [1, 2, 7, 8, 15, 16, 17, 33, 512, 1024])
def test_equal_to_numpy(dim: int, dtype: type) -> None:
    features = unit_rows(90, dim, dtype)
    features[5] = 0
    rows = np.random.default_rng(1).integers(0, 90, 40)
    neighbors = np.random.default_rng(2).integers(-3, 95, (40, 9)).astype(np.int32)
    found = listed_similarities(features, rows, neighbors)
    missing = (neighbors < 0) | (neighbors >= 90)
    wide = features.astype(np.float64)
    expected = np.minimum((wide[rows, None] * wide[np.where(missing, 0, neighbors)]).sum(axis=2), 1)
    np.testing.assert_allclose(found[~missing], expected[~missing], atol=1e-6)
    assert (found[missing] == NO_SIMILARITY).all()
    assert found.max() <= 1
    assert found.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_extreme_halves_and_rows_with_gaps(dtype: type) -> None:
    rows = np.array([[1, 0, 0], [-1, 6e-8, 0], [0.6, -0.8, 6.1e-5], [0, 0, 0]], dtype=dtype)
    apart = np.zeros((8, 6), dtype)
    apart[::2, ::2] = rows
    everyone = np.tile(np.arange(4, dtype=np.int32), (4, 1))
    expected = np.minimum(rows.astype(np.float64) @ rows.T.astype(np.float64), 1)
    for features in (rows, apart[::2, ::2]):
        np.testing.assert_allclose(listed_similarities(features, np.arange(4), everyone), expected, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_the_same_bits_from_either_side_in_any_cut_and_on_any_threads(dtype: type) -> None:
    num_rows = 3 * TILE_ROWS + 7
    features = unit_rows(num_rows, 37, dtype)
    neighbors = np.random.default_rng(0).integers(0, num_rows, (num_rows, 5)).astype(np.int32)
    rows = np.arange(num_rows)
    whole = listed_similarities(features, rows, neighbors, threads=3)
    for start, stop in ((0, 100), (100, TILE_ROWS + 1), (TILE_ROWS + 1, num_rows)):
        part = listed_similarities(features, rows[start:stop], neighbors[start:stop])
        np.testing.assert_array_equal(part, whole[start:stop])
    turned = listed_similarities(features, neighbors[:, 0].astype(np.int64), rows[:, None].astype(np.int32))
    np.testing.assert_array_equal(turned[:, 0], whole[:, 0])
    assert listed_similarities(features, rows[:0], neighbors[:0]).shape == (0, 5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5), st.integers(1, 12), st.integers(0, 10**6))
def test_neighbours_are_sorted_by_similarity_then_id(num_rows: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((num_rows, 20)), axis=1)[:, :k].astype(np.int32)
    values = rng.choice(np.array([-1, -0.5, 0, 0.25, 1], np.float32), (num_rows, k))
    missing = rng.random((num_rows, k)) < 0.3
    ids[missing], values[missing] = NO_NEIGHBOR, NO_SIMILARITY
    rank = np.lexsort((ids, -values), axis=1)
    expected = np.take_along_axis(ids, rank, 1), np.take_along_axis(values, rank, 1)
    sort_neighbors(ids, values, threads=2)
    np.testing.assert_array_equal(ids, expected[0])
    np.testing.assert_array_equal(values, expected[1])
