import numpy as np
import pytest

from engine.clustering.forest import strongest_forest
from engine.clustering.propagation import graph_propagation, propagate
from engine.errors import ConfigError, DataError


def run(num_vertices, pairs, scores, **settings):
    pairs = np.array(pairs, np.int32).reshape(-1, 2)
    settings = {"max_size": 2, "step": 0.05, **settings}
    return propagate(
        num_vertices, pairs[:, 0].copy(), pairs[:, 1].copy(), np.array(scores, np.float32), **settings
    ).tolist()


def test_a_component_that_fits_keeps_its_weak_edges():
    assert run(3, [(0, 1), (1, 2)], [0.9, 0.1], max_size=3) == [0, 0, 0]


def test_a_component_too_large_loses_its_weak_edges():
    assert run(4, [(0, 1), (1, 2), (2, 3)], [0.9, 0.5, 0.9]) == [0, 0, 2, 2]


def test_a_vertex_that_loses_all_edges_is_a_singleton():
    assert run(3, [(0, 1), (1, 2)], [0.9, 0.5]) == [0, 0, 2]


def test_edges_below_the_least_score_are_dropped_and_those_at_it_kept():
    assert run(4, [(0, 1), (2, 3)], [0.5, 0.4], min_score=0.5) == [0, 0, 2, 3]
    assert run(2, [(0, 1)], [0.44], min_score=0.44) == [0, 0]


def test_edges_no_threshold_can_cut_end_the_loop_as_components():
    pairs = [(0, 1), (1, 2), (3, 4), (4, 5), (2, 3)]
    assert run(6, pairs, [1, 1, 1.0001, 1, 0.3]) == [0, 0, 0, 3, 3, 3]


def test_the_last_threshold_cuts_every_score_below_one():
    below = np.nextafter(np.float32(1), np.float32(0))
    assert run(3, [(0, 1), (1, 2)], [below, 1], step=0.001) == [0, 1, 1]
    assert run(3, [(0, 1), (1, 2)], [1, below], min_score=-1.0, step=0.5) == [0, 0, 2]


def test_cap_of_one_and_thresholds_above_every_score_leave_singletons():
    assert run(3, [(0, 1), (1, 2)], [0.2, 0.9], max_size=1) == [0, 1, 2]
    assert run(3, [(0, 1), (1, 2)], [0.2, 0.9], min_score=2.0) == [0, 1, 2]
    assert run(3, [], []) == [0, 1, 2]


@pytest.mark.parametrize("scores", [[np.nan, 0.5], [0.5, 1.5], [0.5, -np.inf]])
def test_scores_that_thresholds_cannot_order_are_refused(scores):
    with pytest.raises(DataError, match="rescale"):
        run(3, [(0, 1), (1, 2)], scores)


@pytest.mark.parametrize("settings", [{"step": 0.0}, {"step": 0.0009}, {"step": 1.0}, {"max_size": 0}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        run(3, [(0, 1), (1, 2)], [0.5, 0.6], **settings)


def test_scores_of_another_type_or_length_are_refused():
    with pytest.raises(DataError, match="float32 of shape"):
        run(3, [(0, 1), (1, 2)], [0.5])


def test_graph_propagation_labels_paired_vertices_and_keeps_its_arguments():
    pairs, scores = np.array([[5, 4], [4, 5], [4, 2], [2, 1]]), np.array([0.9, 0.9, 0.3, 0.9])
    labels = graph_propagation(pairs, scores, max_sz=2, step=0.05, num_vertices=7)
    assert labels.tolist() == [-1, 0, 0, -1, 1, 1, -1]
    assert graph_propagation(pairs, scores).tolist() == [-1, 0, 0, -1, 0, 0]
    assert scores.tolist() == [0.9, 0.9, 0.3, 0.9]
    assert graph_propagation(np.empty((0, 2), int), np.empty(0)).tolist() == []


def test_graph_propagation_refuses_pairs_of_another_shape():
    with pytest.raises(DataError, match=r"shape \(E, 2\)"):
        graph_propagation(np.zeros((2, 3), int), np.zeros(2))


def test_strongest_forest_keeps_the_stronger_edges():
    sources, targets = np.array([10, 20, 10, 10]), np.array([20, 30, 30, 10])
    forest = strongest_forest(sources, targets, np.array([0.5, 0.9, 0.7, 1.0], np.float32))
    assert [part.tolist() for part in forest[:2]] == [[20, 10], [30, 30]]
