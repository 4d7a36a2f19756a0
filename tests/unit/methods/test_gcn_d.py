"""Cluster proposals: rated truly, refined, and freed of overlaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.graph.adjacency import undirected_edges
from engine.learning.held_out import hold_out
from engine.learning.settings import TrainSettings
from engine.methods.gcn_d.proposals import (
    Graph,
    build_network,
    rate,
    rate_truly,
    refine,
    remove_overlap,
    train_proposals,
)
from engine.methods.gcn_d.settings import GcnDSettings
from engine.methods.gcn_d.super_vertices import Proposals, propose
from tests.support.toy_graphs import Memory, toy_graph

MODEL = GcnDSettings(thresholds=(0.3, 0.45, 0.6), max_size=60, widths=(16, 8), proposals_per_step=16)
CONFIG = TrainSettings(max_steps=40, evaluate_every=10, patience=9, learning_rate=5e-3)


def toy_proposals() -> Proposals:
    graph = toy_graph()
    edges = undirected_edges(graph.neighbors_NK, graph.similarities_NK, 0, 480)
    return propose(edges, graph.features_ND, MODEL)[0]


def sets(proposals: Proposals) -> list[tuple[int, ...]]:
    return [tuple(members) for members in proposals.sets()]


def test_true_ratings() -> None:
    proposals = Proposals(np.array([0, 1, 2, 3, 4, 5], np.int32), np.array([0, 3, 5, 6]))
    identities = np.array([7, 7, 8, 9, -1, -1, 7])
    ious, iops, majority = rate_truly(proposals, identities)
    assert ious.tolist() == pytest.approx([2 / 4, 1 / 2, 0])
    assert iops.tolist() == pytest.approx([2 / 3, 1 / 2, 0])
    assert majority.tolist() == [7, 9, -1]


def test_each_vertex_goes_to_the_best_rated_proposal() -> None:
    proposals = Proposals(np.array([0, 1, 2, 1, 2, 3], np.int32), np.array([0, 3, 6]))
    assert remove_overlap(5, proposals, np.array([0.3, 0.9], np.float32)).tolist() == [0, 1, 1, 1, 4]
    assert remove_overlap(5, proposals, np.array([0.9, 0.3], np.float32)).tolist() == [0, 0, 0, 3, 4]
    assert remove_overlap(3, Proposals(np.empty(0, np.int32), np.zeros(1, np.int64)), np.empty(0)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("segments", [False, True])
def test_it_learns_and_resumes_to_the_same_bits(segments: bool) -> None:
    data = toy_graph()
    graph, proposals = Graph(data.features_ND, data.neighbors_NK), toy_proposals()
    held_out = hold_out(data.identities_N, CONFIG.holdout, 0)
    given: Any = {"segments": segments, "model": MODEL, "config": CONFIG, "seed": 0}
    whole, history = train_proposals(graph, proposals, data.identities_N, held_out, **given)
    checkpoint = Memory(die_after=2)
    with pytest.raises(KeyboardInterrupt):
        train_proposals(graph, proposals, data.identities_N, held_out, checkpoint=checkpoint, **given)
    checkpoint.left = 99
    resumed, again = train_proposals(graph, proposals, data.identities_N, held_out, checkpoint=checkpoint, **given)
    assert again == history
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in whole.state_dict().items())
    assert min(entry.held_out_loss for entry in history) < history[0].held_out_loss
    if not segments:
        ratings = rate(whole, graph, proposals, threads=2)
        true = rate_truly(proposals, data.identities_N)[0]
        assert np.corrcoef(ratings[:, 0], true)[0, 1] > 0.5


def test_cuts_are_parts_of_their_proposals() -> None:
    data = toy_graph()
    graph, proposals = Graph(data.features_ND, data.neighbors_NK), toy_proposals()
    rater, segmenter = (build_network(24, MODEL, 0, segments=segments) for segments in (False, True))
    cuts, ratings = refine(segmenter, rater, graph, proposals, 3)
    one, same = refine(segmenter, rater, graph, proposals, 3, threads=2)
    assert len(cuts) == len(ratings) > 0
    assert np.array_equal(cuts.members_M, one.members_M)
    assert np.array_equal(ratings, same)
    wholes = [set(each) for each in sets(proposals)]
    assert all(any(set(cut) <= whole for whole in wholes) for cut in sets(cuts))
