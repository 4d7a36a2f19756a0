"""KNN kernels: equal to brute force, whatever the tiles, threads, ties and cells."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph import knn
from engine.graph.faiss_kmeans import spherical_kmeans


def unit_rows(num_rows: int, dim: int, seed: int = 0, clusters: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((num_rows, dim)).astype(np.float32)
    if clusters:
        rows = (
            0.4 * rows + rng.standard_normal((clusters, dim)).astype(np.float32)[rng.integers(clusters, size=num_rows)]
        )
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def brute_force(features: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    similarities = features.astype(np.float32) @ features.astype(np.float32).T
    np.fill_diagonal(similarities, -np.inf)
    ids = np.argsort(-similarities, axis=1, kind="stable")[:, :k].astype(np.int32)
    return ids, np.take_along_axis(similarities, ids, axis=1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("num_rows", "dim", "k"), [(2, 8, 1), (70, 3, 69), (1500, 16, 10), (5000, 33, 80)])
def test_exact_search_equals_brute_force(num_rows: int, dim: int, k: int, dtype: type) -> None:
    features = unit_rows(num_rows, dim).astype(dtype)
    ids, similarities = knn.exact_neighbors(features, 0, num_rows, k, None, threads=2)
    expected_ids, expected = brute_force(features, k)
    np.testing.assert_allclose(similarities, expected, atol=2e-6)
    assert (ids == expected_ids).mean() > 0.999  # equal but for values that differ in the last bit
    assert not (ids == np.arange(num_rows)[:, None]).any()


def test_blocks_and_threads_never_change_a_bit() -> None:
    features = unit_rows(6000, 24, clusters=50).astype(np.float16)
    whole = knn.exact_neighbors(features, 0, 6000, 20, None, threads=2)
    for start, stop, threads in ((0, 4096, 1), (4096, 6000, 2)):
        part = knn.exact_neighbors(features, start, stop, 20, None, threads)
        np.testing.assert_array_equal(part[0], whole[0][start:stop])
        np.testing.assert_array_equal(part[1], whole[1][start:stop])


def test_ties_go_to_the_lower_id() -> None:
    features = np.tile(unit_rows(3, 8), (400, 1))  # every vector 400 times
    ids, similarities = knn.exact_neighbors(features, 0, 1200, 20, None, threads=1)
    copies = np.arange(0, 1200, 3)
    for row in (0, 3, 597, 1197):
        expected = copies[copies != row][:20]
        np.testing.assert_array_equal(np.sort(ids[row]), expected)
    assert similarities.min() > 0.9999


def test_one_vector_ten_thousand_times() -> None:
    features = np.concatenate([np.tile(unit_rows(1, 16), (10_000, 1)), unit_rows(500, 16, seed=1)]).astype(np.float16)
    ids, similarities = knn.exact_neighbors(features, 0, len(features), 10, None, threads=2)
    assert (similarities[:10_000] > 0.999).all()
    assert (ids[:10_000] < 10_000).all()
    expected, _ = brute_force(features[10_000:], 1)
    assert (ids[10_000:] >= 10_000).any()
    assert expected.shape == (500, 1)


def test_unusable_rows_are_no_neighbours_and_have_none() -> None:
    features = unit_rows(300, 8)
    usable = np.ones(300, dtype=bool)
    usable[[0, 7, 299]] = False
    features[~usable] = 0
    ids, similarities = knn.exact_neighbors(features, 0, 300, 5, usable, threads=1)
    assert (ids[~usable] == knn.NO_NEIGHBOR).all()
    assert (similarities[~usable] == knn.NO_SIMILARITY).all()
    assert not np.isin(ids[usable], np.flatnonzero(~usable)).any()


def test_fewer_rows_than_k_leave_places_empty() -> None:
    features = unit_rows(4, 8)
    ids, _ = knn.exact_neighbors(features, 0, 4, 10, None, threads=1)
    assert (ids[:, 3:] == knn.NO_NEIGHBOR).all()
    assert (ids[:, :3] >= 0).all()


def cells_of(features: np.ndarray, num_cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    centroids = spherical_kmeans(features.astype(np.float32), num_cells, seed=0)
    cells = knn.assign_cells(features, centroids, 0, len(features), threads=2)
    order = np.argsort(cells, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(cells, minlength=num_cells))])
    return features[order], centroids, offsets


def test_all_cells_probed_is_exact_search() -> None:
    features, centroids, offsets = cells_of(unit_rows(5000, 16, clusters=40).astype(np.float16), 12)
    ids, similarities = knn.cell_neighbors(features, centroids, offsets, 0, 5000, 15, 12, None, threads=2)
    exact_ids, exact = knn.exact_neighbors(features, 0, 5000, 15, None, threads=2)
    np.testing.assert_allclose(similarities, exact, atol=2e-6)
    assert (ids == exact_ids).mean() > 0.999


def test_few_cells_probed_find_most_near_neighbours_in_any_blocks() -> None:
    features, centroids, offsets = cells_of(unit_rows(9000, 32, clusters=300), 60)
    found = knn.cell_neighbors(features, centroids, offsets, 0, 9000, 10, 8, None, threads=2)
    exact = knn.exact_neighbors(features, 0, 9000, 10, None, threads=2)
    recall, near = knn.measure_recall(found[1], exact[1], floor=0.5)
    assert near > 0.9
    assert near >= recall
    for start, stop in ((0, 4096), (4096, 8192), (8192, 9000)):
        part = knn.cell_neighbors(features, centroids, offsets, start, stop, 10, 8, None, threads=1)
        np.testing.assert_array_equal(part[0], found[0][start:stop])
        np.testing.assert_array_equal(part[1], found[1][start:stop])


def test_the_quantiser_is_the_same_every_time() -> None:
    features = unit_rows(2000, 16, clusters=20)
    np.testing.assert_array_equal(spherical_kmeans(features, 10, seed=3), spherical_kmeans(features, 10, seed=3))


def test_recall_counts_what_is_as_near_as_the_exact_ones() -> None:
    exact = np.array([[0.9, 0.3], [0.9, 0.8]], dtype=np.float32)
    found = np.array([[0.9, 0.2], [0.9, 0.8]], dtype=np.float32)
    assert knn.measure_recall(found, exact, floor=0.5) == (0.75, 1.0)
    assert knn.measure_recall(found[:, :1], exact, floor=0.5) == (0.5, pytest.approx(2 / 3))
    assert knn.measure_recall(exact, exact, floor=0.5) == (1.0, 1.0)
    assert knn.measure_recall(exact - 1e-6, exact, floor=0.5) == (1.0, 1.0)  # another order of the sums


def test_recall_takes_any_of_equals_but_no_more_than_there_are_places() -> None:
    exact = np.array([[0.9, 0.9, 0.6]], dtype=np.float32)
    assert knn.measure_recall(np.array([[0.9, 0.9, 0.9]], np.float32), exact, floor=0.8) == (1.0, 1.0)
    assert knn.measure_recall(np.array([[0.9, 0.6, 0.6]], np.float32), exact, floor=0.8) == (1.0, 0.5)


def test_recall_where_there_is_nothing_to_find_is_whole() -> None:
    nothing = np.full((3, 2), knn.NO_SIMILARITY, dtype=np.float32)
    assert knn.measure_recall(nothing, nothing, floor=0.5) == (1.0, 1.0)
    low = np.full((3, 2), 0.25, dtype=np.float32)
    assert knn.measure_recall(nothing, low, floor=0.5) == (0.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 60), st.sampled_from([1, 4, 16]), st.integers(1, 12), st.integers(0, 1000))
def test_many_exact_ties_equal_brute_force_to_the_bit(num_rows: int, dim: int, k: int, seed: int) -> None:
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(num_rows, dim))
    features = (signs / np.sqrt(dim)).astype(np.float32)  # products of such rows are exact in float32
    k = min(k, num_rows - 1)
    ids, similarities = knn.exact_neighbors(features, 0, num_rows, k, None, threads=1)
    expected_ids, expected = brute_force(features, k)
    np.testing.assert_array_equal(similarities, expected)
    np.testing.assert_array_equal(ids, expected_ids)


def test_searches_of_spans_join_to_one_search() -> None:
    features, rows = np.repeat(unit_rows(3000, 24), 2, axis=0).astype(np.float16), np.arange(0, 6000, 40)
    usable = np.arange(6000) % 7 > 0
    whole = knn.neighbors_of_rows(features, rows, 20, usable, threads=1)
    spans = [(0, 2048), (2048, 4096), (4096, 6000)]
    parts = [knn.neighbors_of_rows(features, rows, 20, usable, threads=2, span=span) for span in spans]
    for found, expected in zip(knn.nearest_of(parts, 20), whole, strict=True):
        np.testing.assert_array_equal(found, expected)
