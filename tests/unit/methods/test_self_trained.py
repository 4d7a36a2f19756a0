"""What strangers look like, how many edges are true, and copies of rows."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graph.knn import exact_neighbors
from engine.methods.self_trained.steps import _leave_out_copies
from engine.methods.self_trained.strangers import _falling, edge_log_odds, find_strangers
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
    found = _falling(np.array([3.0, 1.0, 2.0, 2.0, 0.0]), np.array([1.0, 1.0, 1.0, 2.0, 1.0]))
    np.testing.assert_allclose(found, [3, 1.75, 1.75, 1.75, 0])


def test_copies_leave_the_lists_and_are_named_by_the_lowest() -> None:
    vectors = unit(np.random.default_rng(3).normal(size=(6, 16)))[[0, 1, 0, 2, 3, 0]].astype(np.float16)
    neighbors, similarities = exact_neighbors(vectors, 0, 6, 5, None, 1)
    original = np.arange(6, dtype=np.int32)
    _leave_out_copies(vectors.view(np.int16), neighbors, similarities, original)
    assert original.tolist() == [0, 1, 0, 3, 4, 0]
    assert set(neighbors[0]) == {1, 3, 4, -1}
    assert (similarities[0] == -2).sum() == 2
