"""How far a scorer fitted to first clusters is believed."""

from __future__ import annotations

import numpy as np
import pytest

from engine.clustering.label_free import CLEAR_CUT, MOST_DOUBTS
from engine.methods.self_trained.doubts import describe_clusters, estimate_doubts, limit_doubts


def roots_of(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)) * 7, sizes).astype(np.int32)


def test_clusters_are_described_by_their_mean_size_and_the_rows_alone() -> None:
    log_size, alone, single = describe_clusters(roots_of([1, 1, 2, 8]))
    assert log_size == pytest.approx(np.log(4))
    assert alone == pytest.approx(1 / 6)
    assert single == 0.5
    assert describe_clusters(roots_of([1, 1])) == (pytest.approx(np.log(2)), 1.0, 1.0)
    assert describe_clusters(roots_of([]))[1] == 0


def test_more_is_doubted_the_smaller_the_clusters_and_the_more_rows_are_alone() -> None:
    crowded, small, lonely = roots_of([50] * 20), roots_of([4] * 250), roots_of([4] * 200 + [1] * 200)
    assert estimate_doubts(crowded) < estimate_doubts(small) < estimate_doubts(lonely)
    assert estimate_doubts(np.random.default_rng(0).permutation(small)) == estimate_doubts(small)
    assert -MOST_DOUBTS <= estimate_doubts(roots_of([10_000])) < 0
    assert estimate_doubts(roots_of([1] * 100)) <= MOST_DOUBTS


def test_doubts_of_clear_cut_clusters_leave_the_median_edge_at_odds_of_two() -> None:
    log_odds = np.log(2) * np.array([1.0, 7.0, 9.0])
    assert limit_doubts(8.0, CLEAR_CUT, log_odds) == pytest.approx(6.0)
    assert limit_doubts(2.0, 1.0, log_odds) == 2.0
    assert limit_doubts(8.0, CLEAR_CUT - 0.01, log_odds) == 8.0
