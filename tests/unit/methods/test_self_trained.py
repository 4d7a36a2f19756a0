"""What strangers look like, how many edges are true, and copies of rows."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph.knn import exact_neighbors
from engine.methods.self_trained.copies import _exact, _leaders, _leave_out
from engine.methods.self_trained.strangers import edge_log_odds, falling, find_strangers
from tests.support.toy_graphs import unit

K = 40


def pairs_among_noise(pairs: int, alone: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    rows = np.repeat(unit(random.normal(size=(pairs, 96))), 2, axis=0)
    rows = unit(rows + 0.5 / np.sqrt(96) * random.normal(size=rows.shape))
    labels = np.concatenate([np.repeat(np.arange(pairs), 2), pairs + np.arange(alone)])
    return np.concatenate([rows, unit(random.normal(size=(alone, 96)))]), labels


@pytest.mark.parametrize("pairs", [0, 100, 400])
def test_as_many_edges_are_expected_as_are_true(pairs: int) -> None:
    vectors, labels = pairs_among_noise(pairs, 800)
    neighbors, similarities = exact_neighbors(vectors, 0, len(vectors), K, None, 1)
    lines, told = find_strangers(vectors, neighbors, similarities)
    assert abs(told.expected - pairs) <= max(0.1 * pairs, 0.1 * 800 * (pairs == 0))
    if pairs:
        sources = np.repeat(np.arange(len(vectors), dtype=np.int32), K)
        log_odds = edge_log_odds(lines, sources, neighbors.ravel(), similarities.ravel())
        same = labels[sources] == labels[neighbors.ravel()]
        assert (log_odds[same] > 0).mean() > 0.95
        assert (log_odds[~same] > 0).mean() < 0.001


def test_the_same_for_any_threads() -> None:
    vectors, _ = pairs_among_noise(300, 500)
    neighbors, similarities = exact_neighbors(vectors, 0, len(vectors), K, None, 1)
    one, told = find_strangers(vectors, neighbors, similarities, threads=1)
    two, again = find_strangers(vectors, neighbors, similarities, threads=2)
    assert told == again
    assert all((left == right).all() for left, right in zip(one, two, strict=True))


def test_few_rows_have_no_strangers() -> None:
    vectors = unit(np.random.default_rng(2).normal(size=(5, 8)))
    neighbors, similarities = exact_neighbors(vectors, 0, 5, 4, None, 1)
    lines, told = find_strangers(vectors, neighbors, similarities)
    assert told.expected < 1
    assert np.isfinite(lines.scale_N).all()


def test_the_nearest_falling_sequence() -> None:
    found = falling(np.array([3.0, 1.0, 2.0, 2.0, 0.0]), np.array([1.0, 1.0, 1.0, 2.0, 1.0]))
    np.testing.assert_allclose(found, [3, 1.75, 1.75, 1.75, 0])


def test_the_first_row_of_a_group_stands_for_it_in_lists() -> None:
    leaders = np.array([0, 1, 0, 3, 3], np.int32)  # 2 is a copy of 0, and 4 of 3
    neighbors = np.array([[1, 3, 3, 0], [0, 0, 3, -1], [0, 1, -1, -1], [3, 1, 0, 0], [3, 1, -1, -1]], np.int32)
    similarities = np.array([[0.9, 0.8, 0.8, 0.7]] * 5, np.float32)
    _leave_out(neighbors, similarities, 0, leaders)
    assert neighbors.tolist() == [[1, 3, -1, -1], [0, 3, -1, -1], [-1] * 4, [1, 0, -1, -1], [-1] * 4]
    assert similarities[2].tolist() == [-2] * 4
    np.testing.assert_allclose(similarities[0], [0.9, 0.8, -2, -2])


def test_a_group_is_named_by_its_first_source_row() -> None:
    rows_of_vertices = np.array([4, 2, 0, 1, 3])
    groups_of_vertices = np.array([0, 0, 2, 3, 2])  # rows {4, 2}, {0, 3}, {1}
    assert _leaders(groups_of_vertices, rows_of_vertices).tolist() == [0, 1, 2, 0, 2]


def test_only_equal_vectors_are_exact_copies() -> None:
    vectors = unit(np.random.default_rng(3).normal(size=(3, 16)))[[0, 1, 0, 2]].astype(np.float16)
    vectors[3] = vectors[0]
    vectors[3, 5] = np.nextafter(vectors[3, 5], np.float16(1))
    ends = np.array([0, 0, 0, 2], np.int32), np.array([1, 2, 3, 3], np.int32)
    found = _exact(vectors.view(np.int16), *ends, np.array([0.2, 1, 1, 1], np.float32))
    assert found.tolist() == [False, True, False, False]


def test_rows_that_do_not_count_change_nothing() -> None:
    vectors, _ = pairs_among_noise(100, 400)
    doubled = np.concatenate([vectors, vectors])
    neighbors, similarities = exact_neighbors(vectors, 0, len(vectors), K, None, 1)
    lines, told = find_strangers(vectors, neighbors, similarities)
    missing = np.full_like(neighbors, -1), np.full_like(similarities, -2)
    lists = np.concatenate([neighbors, missing[0]]), np.concatenate([similarities, missing[1]])
    counted = np.arange(len(doubled)) < len(vectors)
    more, again = find_strangers(doubled, *lists, counted_N=counted)
    assert again == told
    np.testing.assert_array_equal(more.log_odds_CB, lines.log_odds_CB)
    np.testing.assert_array_equal(more.place_N[counted], lines.place_N)
