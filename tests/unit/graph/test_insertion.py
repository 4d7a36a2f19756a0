"""New rows are found among all, and lists take them in as if they had been there."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph import knn
from engine.graph.insertion import (
    drop_entries,
    insert_lists,
    insert_values,
    make_cells,
    mean_of_cells,
    nearest_cells,
    reversed_lists,
    search_new,
)
from engine.units import NO_NEIGHBOR, NO_SIMILARITY
from tests.support.vectors import make_blobs

OLD, NEW, K = 300, 40, 24


def vectors() -> np.ndarray:
    rows = make_blobs(OLD + NEW, 16, seed=1)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


@pytest.mark.parametrize("with_cells", [False, True])
def test_lists_are_those_of_a_search_of_all_rows(with_cells: bool) -> None:
    features = vectors()
    cells = None
    if with_cells:  # probing all cells finds all
        offsets = np.arange(0, OLD + 1, 20)
        centroids = mean_of_cells(features, offsets)
        cells = make_cells(centroids, offsets, nearest_cells(features[OLD:], centroids, 1, 1)[:, 0], OLD)
    neighbors = np.full((OLD + NEW, K), NO_NEIGHBOR, np.int32)
    similarities = np.full((OLD + NEW, K), NO_SIMILARITY, np.float32)
    neighbors[:OLD], similarities[:OLD] = knn.exact_neighbors(features[:OLD], 0, OLD, K, None, 1)
    wide = search_new(features, neighbors, cells, np.ones(OLD + NEW, bool), OLD, OLD + NEW, OLD + NEW - 1, 15, 2)
    neighbors[OLD:], similarities[OLD:] = wide[0][:, :K], wide[1][:, :K]
    taken = reversed_lists(*wide, OLD)
    insert_lists(neighbors, similarities, *taken)
    exact = knn.exact_neighbors(features, 0, OLD + NEW, K, None, 1)
    np.testing.assert_allclose(similarities, exact[1], atol=2e-6)
    assert (neighbors == exact[0]).mean() > 0.99  # rounding may swap equals


def test_values_move_with_their_entries_and_fall_off_with_them() -> None:
    neighbors = np.array([[5, 7, 9], [5, 8, -1]], np.int32)
    similarities = np.array([[0.9, 0.8, 0.7], [0.6, 0.5, NO_SIMILARITY]], np.float32)
    table = np.array([[90, 80, 70], [60, 50, 0]], np.uint16)
    rows, ids = np.array([0, 0, 0, 1], np.int32), np.array([20, 21, 22, 20], np.int32)
    values, places = np.array([0.85, 0.8, 0.1, 0.4], np.float32), np.empty(4, np.int16)
    insert_lists(neighbors, similarities, rows, ids, values, places)
    insert_values(table, rows, places, np.array([85, 81, 10, 40], np.uint16))
    np.testing.assert_array_equal(neighbors, [[5, 20, 7], [5, 8, 20]])
    np.testing.assert_array_equal(table, [[90, 85, 80], [60, 50, 40]])
    np.testing.assert_array_equal(places, [1, -1, -1, 2])


def test_a_vertex_that_goes_leaves_no_entry() -> None:
    neighbors = np.array([[1, 2, 3], [0, -1, -1]], np.int32)
    similarities = np.array([[0.9, 0.8, 0.7], [0.9, NO_SIMILARITY, NO_SIMILARITY]], np.float32)
    table = np.array([[9, 8, 7], [9, 0, 0]], np.uint16)
    lost = drop_entries(neighbors, similarities, table, np.array([True, True, False, True]))
    np.testing.assert_array_equal(lost, [True, False])
    np.testing.assert_array_equal(neighbors[0], [1, 3, NO_NEIGHBOR])
    np.testing.assert_array_equal(table[0], [9, 7, 0])
