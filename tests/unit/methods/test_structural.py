"""The structural scorer's learning parts, without disk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.errors import DataError
from engine.graph.adjacency import undirected_edges
from engine.graph.overlaps import AVERAGED, neighborhood_averages, vertex_profiles
from engine.graph.support import store_priors
from engine.learning.held_out import UNSEEN, hold_out, split_identities
from engine.methods.structural import scorer as structural
from engine.methods.structural.settings import TreesSettings
from engine.methods.structural.trees import fit_trees
from tests.support.toy_graphs import toy_graph

CONFIG = TreesSettings(num_trees=15, levels=4, min_weight=5, max_edges=2_000)


def graph() -> structural.Neighborhoods:
    data = toy_graph()
    averages = neighborhood_averages(data.neighbors_NK, data.features_ND, 0)
    return structural.Neighborhoods(
        data.neighbors_NK, data.similarities_NK, vertex_profiles(data.neighbors_NK, data.similarities_NK),
        tuple(np.ascontiguousarray(averages[:, place]) for place in range(len(AVERAGED))),
    )  # fmt: skip


def fitted() -> tuple[structural.StructuralScorer, np.ndarray, np.ndarray]:
    """A scorer of the toy graph, its priors and halves."""
    identities = toy_graph().identities_N
    halves = split_identities(identities, hold_out(identities, 0.2, 0), 0)
    listed = graph()
    blocks = [undirected_edges(listed.neighbors_NK, listed.similarities_NK, *rows) for rows in ((0, 200), (200, 480))]
    trees = []
    for half in (0, 1):
        edges, same, held_out = structural.draw_edges(blocks, identities, halves, half, CONFIG, 0)
        trees.append(
            fit_trees(structural.edge_inputs(listed, edges), same, np.ones(len(same)), held_out, CONFIG, seed=0)
        )
    priors = structural.prior_rows(tuple(trees), listed, 0, 480, halves)
    edges, same, held_out = structural.draw_edges(blocks, identities, halves, -1, CONFIG, 0)
    inputs = structural.edge_inputs(listed, edges, priors)
    assert inputs.shape == (len(same), len(structural.ALL_NAMES))
    final = fit_trees(inputs, same, np.ones(len(same)), held_out, CONFIG, seed=0)
    return structural.StructuralScorer(tuple(trees), final, 1.5, -0.5), priors, halves


def test_scores_tell_identities_apart_and_survive_a_file() -> None:
    scorer, priors, _ = fitted()
    listed, identities = graph(), toy_graph().identities_N
    edges = undirected_edges(listed.neighbors_NK, listed.similarities_NK, 0, 480)
    scores = structural.score_edges(scorer, listed, priors, edges)
    known = (identities[edges.sources] >= 0) & (identities[edges.targets] >= 0)
    same = (identities[edges.sources] == identities[edges.targets])[known]
    assert scores[known][same].mean() > 0.5 > 0.2 > scores[known][~same].mean()
    again = structural.from_tensors(structural.to_tensors(scorer))
    assert np.array_equal(structural.score_edges(again, listed, priors, edges, threads=2), scores)


def test_priors_do_not_depend_on_blocks_and_never_come_from_trees_that_saw_the_edge() -> None:
    scorer, priors, halves = fitted()
    pieces = [structural.prior_rows(scorer.priors, graph(), *rows, halves) for rows in ((0, 100), (100, 480))]
    assert np.array_equal(np.concatenate(pieces), priors)
    for half in (0, 1):
        alone = structural.prior_rows((scorer.priors[1 - half],), graph(), 0, 480)
        inside = (halves == half)[:, None] & (halves[graph().neighbors_NK] == half)
        assert inside.any()
        assert np.array_equal(priors[inside], alone[inside])


def test_drawn_edges_are_of_the_half_or_held_out() -> None:
    identities = toy_graph().identities_N
    halves = split_identities(identities, hold_out(identities, 0.2, 0), 0)
    assert set(halves[identities < 0]) == {UNSEEN}
    listed = graph()
    blocks = [undirected_edges(listed.neighbors_NK, listed.similarities_NK, 0, 480)]
    config = CONFIG.model_copy(update={"max_edges": 1_000})
    edges, same, held_out = structural.draw_edges(blocks, identities, halves, 1, config, 0)
    assert (~held_out).sum() <= 1_000
    assert held_out.sum() <= 250
    ends = np.stack([halves[edges.sources], halves[edges.targets]])
    assert (ends[:, ~held_out] == 1).all()
    assert (ends[:, held_out] == UNSEEN).any(axis=0).all()
    assert np.array_equal(same, identities[edges.sources] == identities[edges.targets])
    with pytest.raises(DataError, match="no edge joins"):
        structural.draw_edges([], identities, halves, 1, config, 0)


def test_an_edge_with_one_unseen_end_is_held_out_half_as_often_as_one_with_two() -> None:
    identities = toy_graph().identities_N
    halves = split_identities(identities, hold_out(identities, 0.2, 0), 0)
    listed = graph()
    every = undirected_edges(listed.neighbors_NK, listed.similarities_NK, 0, 480)
    config = CONFIG.model_copy(update={"max_edges": 100_000})
    drawn, _, held_out = structural.draw_edges([every], identities, halves, -1, config, 0)

    def count(edges: structural.EdgeList, ends: int) -> int:
        known = (identities[edges.sources] >= 0) & (identities[edges.targets] >= 0)
        unseen = halves[np.stack(edges[:2])] == UNSEEN
        return int((known & (unseen.sum(axis=0) == ends)).sum())

    assert count(drawn, 2) == count(every, 2) > 0
    assert count(drawn, 1) == pytest.approx(count(every, 1) / 2, rel=0.15)
    assert held_out.sum() == count(drawn, 1) + count(drawn, 2)


def test_calibration_undoes_a_slope_and_an_offset() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=2, size=20_000)
    same = rng.random(20_000) < 1 / (1 + np.exp(-(0.5 * logits - 1)))
    slopes, offset = structural.calibrate(same, logits)
    assert (*slopes, offset) == pytest.approx((0.5, -1), abs=0.06)
    assert structural.calibrate(np.ones(20_000, bool), logits) == ([1.0], 0.0)


def test_calibration_weighs_two_scores_by_what_they_add_and_none_against_itself() -> None:
    rng = np.random.default_rng(1)
    first, second, noise = rng.normal(scale=2, size=(3, 40_000))
    same = rng.random(40_000) < 1 / (1 + np.exp(-(0.7 * first + 0.2 * second - 1)))
    slopes, offset = structural.calibrate(same, first, second)
    assert (*slopes, offset) == pytest.approx((0.7, 0.2, -1), abs=0.06)
    slopes, _ = structural.calibrate(same, noise - second, first)  # the first of these contradicts what is true
    assert slopes[0] == 0
    assert slopes[1] == pytest.approx(structural.calibrate(same, first)[0][0])
    assert structural.calibrate(np.zeros(5, bool), *np.ones((2, 5))) == ([0.5, 0.5], 0.0)


def test_a_second_graph_is_asked_by_either_end_and_by_its_own_numbers() -> None:
    neighbors = np.array([[1, 2], [0, -1], [-1, -1], [1, -1]], np.int32)  # of its vertices
    scores = store_priors(np.array([[0.9, 0.3], [0.9, 0], [0, 0], [1, 0]]))
    vertices = np.array([3, 2, 1, 0], np.int32)  # of the first graph's vertices 0 to 3
    second = structural.SecondScores(neighbors, scores, vertices)
    sources, targets = np.array([2, 1, 0, 0], np.int32), np.array([3, 3, 2, 3], np.int32)
    found = second.log_odds(sources, targets, np.array([5.0, 5.0, 5.0, 5.0], np.float32))
    assert found[:2] == pytest.approx(np.log([9, 3 / 7]), abs=1e-3)  # 1 and 0 list each other; 0 lists 2
    assert 11 < found[2] < 12  # certain, as far as can be stored
    assert found[3] == structural.UNLISTED
    assert second.log_odds(sources[3:], targets[3:], np.array([-4.0], np.float32)) == -4


def test_a_second_graph_moves_scores_as_its_slope_says() -> None:
    scorer, priors, _ = fitted()
    listed = graph()
    edges = undirected_edges(listed.neighbors_NK, listed.similarities_NK, 0, 480)
    second = structural.SecondScores(
        listed.neighbors_NK, structural.listed_scores(scorer, listed, priors, 0, 480, threads=2)
    )
    alone = structural.score_edges(scorer, listed, priors, edges)
    both = structural.score_edges(
        replace(scorer, slope=0.75, offset=-0.25, second_slope=0.5), listed, priors, edges, second
    )
    assert np.abs(both - alone).max() < 1e-3  # the mean of a score and itself
    pieces = [structural.listed_scores(scorer, listed, priors, *rows) for rows in ((0, 100), (100, 480))]
    assert np.array_equal(np.concatenate(pieces), second.scores_NK)


def test_what_log_odds_explain_of_held_out_edges() -> None:
    same = np.random.default_rng(2).random(10_000) < 0.2
    assert structural.explained_share(np.where(same, 9.0, -9.0), same) > 0.99
    assert structural.explained_share(np.full(10_000, np.log(0.2 / 0.8)), same) == pytest.approx(0, abs=0.01)
    assert structural.explained_share(np.where(same, -2.0, 2.0), same) < 0
    assert (
        structural.explained_share(np.ones(5), np.ones(5, bool))
        == 0
        == structural.explained_share(np.ones(0), np.ones(0, bool))
    )
