"""Metrics at their edges: conventions, errors, the sweep's rows, and which clusters are picked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.clustering.forest import MaximumForest
from engine.errors import ConfigError, DataError
from engine.evaluation.galleries import SizeBin, cluster_size_histogram
from engine.evaluation.metrics import PairCounts, dense_labels, evaluate_labels, f_from_counts, pair_counts
from engine.evaluation.sweep import ThresholdSweep, threshold_sweep

KEYS = [
    "pairwise_f",
    "pairwise_precision",
    "pairwise_recall",
    "bcubed_f",
    "bcubed_precision",
    "bcubed_recall",
    "nmi",
    "ari",
    "num_clusters",
    "num_singletons",
]


def edges(*triples):
    sources, targets, values = zip(*triples, strict=True)
    return np.array(sources, np.int32), np.array(targets, np.int32), np.array(values, np.float32)


def test_a_worked_example():
    scores = evaluate_labels(np.array([0, 0, 0, 1, 1]), np.array([7, 7, 9, 9, 9]))
    assert list(scores.as_dict()) == KEYS
    assert (scores.pairwise_precision, scores.pairwise_recall) == (0.5, 0.5)
    assert scores.bcubed_precision == pytest.approx((2 / 3 + 2 / 3 + 1 / 3 + 1 + 1) / 5)
    assert scores.bcubed_recall == pytest.approx((1 + 1 + 1 / 3 + 2 / 3 + 2 / 3) / 5)
    assert (scores.num_clusters, scores.num_singletons) == (2, 0)


def test_all_singletons_have_defined_scores():
    scores = evaluate_labels(np.arange(6), np.array([0, 0, 0, 1, 1, 1]))
    assert (scores.pairwise_precision, scores.pairwise_recall, scores.pairwise_f) == (1.0, 0.0, 0.0)
    assert (scores.bcubed_precision, scores.num_singletons) == (1.0, 6)
    assert scores.ari == 0.0
    assert not np.isnan(list(scores.as_dict().values())).any()


@pytest.mark.parametrize("label", [0, 5, -1])
def test_a_single_row_is_scored(label):
    scores = evaluate_labels(np.array([label]), np.array([3]))
    assert (scores.pairwise_f, scores.bcubed_f, scores.nmi, scores.ari) == (0.0, 1.0, 1.0, 1.0)
    assert (scores.num_clusters, scores.num_singletons) == (1, 1)


def test_unassigned_rows_are_clusters_of_their_own_and_unknown_identities_are_not_scored():
    predicted, identities = np.array([-1, 7, 4, 4, 4, 7, -1, 9]), np.array([0, 0, 1, 1, -1, -1, 2, -1])
    scores = evaluate_labels(predicted, identities)
    known = evaluate_labels(np.array([0, 1, 2, 2, 3]), identities[identities >= 0])
    assert (scores.num_clusters, scores.num_singletons) == (5, 3)  # of all rows
    assert replace(scores, num_clusters=known.num_clusters, num_singletons=known.num_singletons) == known
    assert pair_counts(predicted, identities) == PairCounts(true_pairs=2, predicted_pairs=1, both=1)
    assert pair_counts(predicted, np.full(8, -1)) == PairCounts(0, 0, 0)


def test_huge_labels_are_renumbered_like_small_ones():
    labels = np.array([2**62, -1, 5, 2**62, -1])
    dense, num = dense_labels(labels)
    assert (dense.tolist(), num) == ([1, 2, 0, 1, 3], 4)
    assert dense_labels(np.array([9, -1, 5, 9, -1]))[0].tolist() == dense.tolist()


def test_pair_counts_and_ari_stay_exact_beyond_int64_products():
    n = 3_000_000
    scores = evaluate_labels(np.zeros(n, np.int32), np.arange(n, dtype=np.int32) % 2)
    assert pair_counts(np.zeros(n, np.int32), np.zeros(n, np.int32)).both == n * (n - 1) // 2
    assert scores.ari == pytest.approx(0.0, abs=1e-12)
    assert scores.pairwise_recall == 1.0


def test_counts_of_parts_subtract_to_the_pairs_that_touch_the_held_out_rows():
    predicted, identities = np.array([0, 0, 1, 1, 1]), np.array([0, 0, 0, 1, 1])
    held_out = np.array([False, False, True, True, False])
    touching = pair_counts(predicted, identities) - pair_counts(predicted[~held_out], identities[~held_out])
    assert touching == PairCounts(true_pairs=3, predicted_pairs=3, both=1)
    assert f_from_counts(touching) == pytest.approx(1 / 3)
    assert touching + pair_counts(predicted[~held_out], identities[~held_out]) == pair_counts(predicted, identities)


@pytest.mark.parametrize(
    ("predicted", "identities", "message"),
    [
        (np.array([], np.int64), np.array([], np.int64), "no rows"),
        (np.array([0, 0]), np.array([-1, -1]), "no rows to score; expected at least one row with an identity"),
        (np.array([0, 0]), np.array([0, -3]), "identities: row 1 holds -3"),
        (np.array([1, 2]), np.array([1]), r"shape \(2,\)"),
        (np.array([0, -2]), np.array([0, 0]), "row 1 holds -2"),
        (np.array([0.0, 1.0]), np.array([0, 0]), "expected integers"),
    ],
)
def test_bad_labels_are_refused(predicted, identities, message):
    with pytest.raises(DataError, match=message):
        evaluate_labels(predicted, identities)


def test_a_sweep_counts_components_at_each_threshold():
    rows = threshold_sweep(5, *edges((0, 1, 0.9), (1, 2, 0.7), (3, 4, 0.5), (0, 2, 0.6)), [0.95, 0.7, 0.4])
    assert [(r.threshold, r.num_clusters, r.num_singletons, r.largest) for r in rows] == [
        (0.95, 5, 5, 1),
        (0.7, 3, 2, 3),  # an edge of exactly the threshold joins
        (0.4, 2, 0, 3),
    ]
    assert rows[0].pairwise_f is None


def test_a_sweep_without_edges_or_vertices_is_defined():
    assert ThresholdSweep(3, [0.5]).rows()[0].num_singletons == 3
    assert ThresholdSweep(0, [0.5], np.array([], np.int64)).rows()[0].pairwise_f == 0.0


def test_a_sweep_refuses_what_it_cannot_use():
    with pytest.raises(ConfigError, match="descending"):
        ThresholdSweep(3, [0.5, 0.6])
    with pytest.raises(DataError, match="2 identities for 3"):
        ThresholdSweep(3, [0.5], np.array([0, 1]))
    with pytest.raises(DataError, match="target of edge 0 is 3, expected ids from 0 to 2"):
        ThresholdSweep(3, [0.5]).add(*edges((0, 3, 0.5)))
    with pytest.raises(DataError, match="edge 1: its value is not a number"):
        ThresholdSweep(3, [0.5]).add(*edges((0, 1, 0.5), (0, 2, np.nan)))


def test_the_forest_forgets_edges_that_cannot_matter():
    rng = np.random.default_rng(0)
    forest = MaximumForest(50)
    for _ in range(5):
        ids = rng.integers(0, 50, (2, 40_000), dtype=np.int32)
        forest.add(ids[0], ids[1], rng.random(40_000, dtype=np.float32))
    sources, _, values = forest.edges()
    assert len(sources) == 49
    assert (np.diff(values) <= 0).all()


def test_negative_values_sort_below_positive_ones():
    forest = MaximumForest(4)
    forest.add(*edges((0, 1, -0.5), (1, 2, 0.25), (2, 3, -0.25), (0, 3, -2.0)))
    assert forest.edges()[2].tolist() == [0.25, -0.25, -0.5]


def test_size_bins_double_and_cover_every_cluster():
    assert cluster_size_histogram(np.array([1, 1, 2, 4, 9])) == [
        SizeBin(1, 1, 2, 2),
        SizeBin(2, 2, 1, 2),
        SizeBin(3, 4, 1, 4),
        SizeBin(5, 8, 0, 0),
        SizeBin(9, 16, 1, 9),
    ]
    assert cluster_size_histogram(np.array([], np.int64)) == []
