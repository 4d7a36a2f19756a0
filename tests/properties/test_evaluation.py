"""Metrics against scikit-learn and against definitions written out; sweeps and picks against any order and blocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

from engine.clustering.forest import block_forest, strongest_forest
from engine.evaluation.explain import ClusteredEdges, Explainer, RowEvidence, as_columns, explain_clusters, explain_rows
from engine.evaluation.metrics import evaluate_labels, pair_counts
from engine.evaluation.sweep import ThresholdSweep, threshold_sweep

labellings = (
    st.integers(1, 40)
    .flatmap(lambda n: st.tuples(*[st.lists(st.integers(-1, 6), min_size=n, max_size=n).map(np.array)] * 2))
    .filter(lambda pair: (pair[1] >= 0).any())
)


@st.composite
def graphs(draw):
    num = draw(st.integers(2, 24))
    count = draw(st.integers(0, 60))
    vertex = st.integers(0, num - 1)
    ends = draw(st.lists(st.tuples(vertex, vertex), min_size=count, max_size=count))
    # few distinct values, so that ties and exact thresholds occur
    values = draw(st.lists(st.integers(-4, 10), min_size=count, max_size=count))
    sources, targets = np.array(ends, np.int32).reshape(-1, 2).T.copy()
    return num, sources, targets, np.array(values, np.float32) / 10


def own_labels(labels):
    """Each -1 becomes a label nobody else has."""
    return np.where(labels == -1, 1000 + np.arange(len(labels)), labels)


def components(num, sources, targets):
    labels, before = list(range(num)), None
    pairs = list(zip(sources.tolist(), targets.tolist(), strict=True))
    while labels != before:
        before = labels.copy()
        for a, b in pairs:
            labels[a] = labels[b] = min(labels[a], labels[b])
    return np.array(labels)


@given(labellings)
def test_scores_equal_scikit_learn_and_the_definitions(pair):
    predicted, identities = pair
    scores = evaluate_labels(predicted, identities)
    every, known = own_labels(predicted), identities >= 0
    p, t = every[known], identities[known]
    same_p, same_t = p[:, None] == p, t[:, None] == t
    n = len(p)
    both, in_p, in_t = ((m.sum() - n) // 2 for m in (same_p & same_t, same_p, same_t))
    counts = pair_counts(predicted, identities)
    assert (counts.both, counts.predicted_pairs, counts.true_pairs) == (both, in_p, in_t)
    confusion = pair_confusion_matrix(t, p)
    assert (2 * both, 2 * (in_p - both), 2 * (in_t - both)) == (confusion[1, 1], confusion[0, 1], confusion[1, 0])
    assert scores.pairwise_precision == (both / in_p if in_p else 1.0)
    assert scores.pairwise_recall == (both / in_t if in_t else 0.0)
    hits = (same_p & same_t).sum(1)
    assert scores.bcubed_precision == pytest.approx((hits / same_p.sum(1)).mean())
    assert scores.bcubed_recall == pytest.approx((hits / same_t.sum(1)).mean())
    assert scores.ari == pytest.approx(adjusted_rand_score(t, p), abs=1e-9)
    assert scores.nmi == pytest.approx(normalized_mutual_info_score(t, p), abs=1e-9)
    assert scores.num_clusters == len(np.unique(every))
    assert scores.num_singletons == (np.bincount(np.unique(every, return_inverse=True)[1]) == 1).sum()
    assert all(np.isfinite(v) for v in scores.as_dict().values())


@given(labellings, st.randoms(use_true_random=False))
def test_renaming_labels_and_reordering_rows_change_no_count(pair, random):
    predicted, identities = pair
    order = list(range(len(predicted)))
    random.shuffle(order)
    renamed = np.where(predicted == -1, -1, 10**12 + 7 * (6 - predicted))
    assert pair_counts(renamed[order], identities[order]) == pair_counts(predicted, identities)


@settings(deadline=None)
@given(graphs(), st.data())
def test_a_sweep_equals_components_scored_one_threshold_at_a_time(graph, data):
    num, sources, targets, values = graph
    identities = np.array(data.draw(st.lists(st.integers(-1, 4), min_size=num, max_size=num)))
    identities[0] = max(identities[0], 0)
    held_out = np.array(data.draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    thresholds = [0.8, 0.3, 0.0, -0.2]
    plain = threshold_sweep(num, sources, targets, values, thresholds, identities)
    touching = threshold_sweep(num, sources, targets, values, thresholds, identities, held_out)
    for threshold, row, held in zip(thresholds, plain, touching, strict=True):
        kept = values >= np.float32(threshold)
        labels = components(num, sources[kept], targets[kept])
        scores = evaluate_labels(labels, identities)
        assert row.threshold == threshold
        assert (row.num_clusters, row.num_singletons) == (scores.num_clusters, scores.num_singletons)
        assert row.largest == np.bincount(labels).max()
        assert (row.pairwise_precision, row.pairwise_recall, row.pairwise_f) == (
            scores.pairwise_precision,
            scores.pairwise_recall,
            scores.pairwise_f,
        )
        rest = pair_counts(labels[~held_out], identities[~held_out])
        counts = pair_counts(labels, identities) - rest
        assert (held.pairwise_precision, held.pairwise_recall) == (counts.precision, counts.recall)


@settings(deadline=None)
@given(graphs(), st.integers(1, 7), st.randoms(use_true_random=False))
def test_order_and_blocks_of_edges_never_change_a_sweep(graph, block, random):
    num, sources, targets, values = graph
    thresholds = np.arange(9, -4, -1) / 10
    order = list(range(len(values)))
    random.shuffle(order)
    sweep = ThresholdSweep(num, thresholds, np.arange(num) % 3)
    for start in range(0, len(order), block):
        part = order[start : start + block]
        sweep.add(targets[part], sources[part], values[part])
        sweep.rows()  # reading in between changes nothing
    assert sweep.rows() == threshold_sweep(num, sources, targets, values, thresholds, np.arange(num) % 3)


def explain(labels, sources, targets, values, block, cuts=()):
    """Explain the rows range by range, with blocks of edges; the forest is that of the edges inside clusters."""
    labels = labels.astype(np.int32)
    parts = []
    for start, stop in pairwise([0, *cuts, len(labels)]):
        explainer = Explainer(start, stop)
        for give in (explainer.look, explainer.weigh):
            for first in range(0, len(values), block):
                part = slice(first, first + block)
                a, b = sources[part], targets[part]
                give(ClusteredEdges(a, b, values[part], values[part], labels[a], labels[b]))
        parts.append(explainer.evidence())
    evidence = RowEvidence(*map(np.concatenate, zip(*(as_columns(part).values() for part in parts), strict=True)))
    inside = (labels[sources] == labels[targets]) & (labels[sources] >= 0)
    forest = strongest_forest(sources[inside], targets[inside], values[inside])
    num_clusters = int(labels.max(initial=-1)) + 1
    rows = explain_rows(labels, num_clusters, evidence)
    return rows, explain_clusters(labels, num_clusters, evidence, rows, forest)


@settings(deadline=None)
@given(graphs(), st.integers(1, 7), st.integers(0, 9))
def test_blocks_of_edges_and_ranges_of_rows_never_change_an_explanation(graph, block, cut):
    num, sources, targets, values = graph
    labels = np.arange(num) % 3 - 1
    whole = explain(labels, sources, targets, values, 1 << 30)
    for table, other in zip(whole, explain(labels, sources, targets, values, block, [min(cut, num)]), strict=True):
        for name, column in as_columns(table).items():
            np.testing.assert_array_equal(column, as_columns(other)[name], err_msg=name)


@settings(deadline=None)
@given(graphs(), st.integers(0, 9), st.integers(0, 9))
def test_forests_of_blocks_are_the_strongest_forest(graph, start, length):
    num, sources, targets, values = graph
    start, stop = min(start, num), min(start + length, num)
    block = block_forest(start, stop, sources, targets, values)
    for found, expected in zip(block, strongest_forest(sources, targets, values), strict=True):
        np.testing.assert_array_equal(found, expected)


@settings(deadline=None)
@given(graphs())
def test_the_weakest_link_is_where_a_cluster_falls_apart(graph):
    num, sources, targets, values = graph
    labels = np.unique(components(num, sources, targets), return_inverse=True)[1]
    table = explain(labels, sources, targets, values, 1 << 30)[1]
    for place, label in enumerate(table.labels):
        weakest = np.float32(table.weakest_score[place])
        if table.sizes[place] == 1:
            assert np.isnan(weakest)
            continue
        members = np.flatnonzero(labels == label)
        at, above = values >= weakest, values > weakest
        assert len(np.unique(components(num, sources[at], targets[at])[members])) == 1
        assert len(np.unique(components(num, sources[above], targets[above])[members])) > 1
        inside = (labels[sources] == label) & (sources != targets)
        assert table.cohesion[place] == pytest.approx(np.maximum(values[inside], 0).mean(), abs=1e-6)
