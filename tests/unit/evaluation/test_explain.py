"""Explanations by hand: confidence, cohesion, weakest links, nearest others, and what is picked to look at."""

import numpy as np
import pytest

from engine.clustering.forest import strongest_forest
from engine.evaluation.explain import ClusteredEdges, ClusterTable, Explainer, RowTable, explain_clusters, explain_rows
from engine.evaluation.galleries import pick_clusters


def explain(labels: np.ndarray, *edges: tuple[int, int, float]) -> tuple[RowTable, ClusterTable]:
    ends = np.array([edge[:2] for edge in edges], np.int32).reshape(-1, 2).T
    scores = np.array([edge[2] for edge in edges], np.float32)
    clusters, forest = (
        labels.astype(np.int32),
        strongest_forest(*ends[:, inside(labels, ends)], scores[inside(labels, ends)]),
    )
    block = ClusteredEdges(ends[0], ends[1], scores, scores, clusters[ends[0]], clusters[ends[1]])
    explainer, num_clusters = Explainer(0, len(labels)), int(labels.max()) + 1
    explainer.look(block)
    explainer.weigh(block)
    rows = explain_rows(clusters, num_clusters, explainer.evidence())
    return rows, explain_clusters(clusters, num_clusters, explainer.evidence(), rows, forest)


def inside(labels: np.ndarray, ends: np.ndarray) -> np.ndarray:
    return (labels[ends[0]] == labels[ends[1]]) & (labels[ends[0]] >= 0)


def test_a_row_is_as_sure_as_it_is_closer_to_its_own_cluster() -> None:
    rows, clusters = explain(
        np.array([0, 0, 1, 1, 2, -1]),
        (0, 1, 0.9), (2, 3, 0.8), (1, 2, 0.3), (1, 3, 0.1), (0, 4, 0.25), (4, 5, 0.99), (0, 5, 0.99),
    )  # fmt: skip
    assert rows.confidence.tolist() == pytest.approx([0.9 / 1.15, 0.9 / 1.1, 0.8 / 1.1, 0.8 / 0.9, 0.75, np.nan],
                                                     nan_ok=True)  # fmt: skip
    assert rows.nearest.tolist() == [2, 1, 0, 0, 0, 0]  # of equal ones the lower label
    assert rows.nearest_score.tolist() == pytest.approx([0.25, 0.3, 0.3, 0.1, 0.25, 0.99])
    assert clusters.labels.tolist() == [0, 1, 2]
    assert clusters.sizes.tolist() == [2, 2, 1]
    assert clusters.nearest.tolist() == [2, 0, 0]  # row 0 alone says 0.25, row 1 says 0.2 on average
    assert clusters.affinity.tolist() == pytest.approx([0.125, 0.2, 0.25])
    assert clusters.confidence.tolist() == pytest.approx([(0.9 / 1.15 + 0.9 / 1.1) / 2, (0.8 / 1.1 + 0.8 / 0.9) / 2,
                                                          0.75])  # fmt: skip


def test_rows_without_evidence_are_half_sure_and_alone_without_neighbours_wholly() -> None:
    rows, clusters = explain(np.array([0, 0, 1]))
    assert rows.confidence.tolist() == [0.5, 0.5, 1.0]
    assert rows.nearest.tolist() == [-1, -1, -1]
    assert np.isnan([clusters.cohesion, clusters.weakest_score, clusters.bridge_score]).all()
    assert clusters.bridge_rows.tolist() == [[-1, -1]] * 2
    nobody = explain(np.full(3, -1))[1]
    assert len(nobody.labels) == 0


def test_picks_tell_a_bridge_from_a_stray_row_and_from_a_loose_cluster() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, -1])
    bridge = [(0, 1, 0.9), (2, 3, 0.9), (1, 2, 0.3)]
    stray = [(4, 5, 0.9), (5, 6, 0.9), (6, 7, 0.2)]
    loose = [(8, 9, 0.5), (9, 10, 0.5)]
    _, table = explain(labels, *bridge, *stray, *loose, (8, 3, 0.4), (10, 11, 0.99))
    picks = pick_clusters(table)
    assert table.labels[picks.largest].tolist() == [0, 1, 2]
    assert table.labels[picks.likely_splits].tolist() == [0]
    assert table.bridge_rows[0].tolist() == [1, 2]
    assert table.weakest_score.tolist() == pytest.approx([0.3, 0.2, 0.5])
    assert np.isnan(table.bridge_score[1])
    assert table.cohesion[2] == pytest.approx(0.5)
    assert table.labels[picks.least_certain].tolist() == [2, 0, 1]
    assert [table.labels[list(pair)].tolist() for pair in picks.likely_merges] == [[0, 2]]


def test_likely_merges_come_once_from_the_smaller_side_strongest_first() -> None:
    labels = np.array([0, 0, 0, 1, 2, 2, 3])
    inside = [(0, 1, 0.9), (1, 2, 0.9), (4, 5, 0.9)]
    _, table = explain(labels, *inside, (3, 0, 0.6), (4, 0, 0.5), (5, 0, 0.5), (6, 5, 0.1))
    picks = pick_clusters(table)
    assert picks.likely_merges == [(0, 2), (0, 1), (2, 3)]
    assert pick_clusters(table, 1).likely_merges == [(0, 2)]
