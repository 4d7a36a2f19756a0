"""GCN-V: targets, links that lead upwards, training that resumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from engine.clustering.union_find import component_roots
from engine.learning.selection import select_links
from engine.learning.settings import TrainSettings
from engine.methods.gcn_v.confidence import (
    ConfidenceData,
    confidence_targets,
    embed_vertices,
    link_scores,
    listed_cosines,
    nearest_confident,
    train_confidence,
)
from engine.methods.gcn_v.settings import GcnVSettings
from tests.support.toy_graphs import Memory, make_graph, toy_graph

CONFIG = TrainSettings(max_steps=12, evaluate_every=3, patience=9, learning_rate=5e-3)


def test_targets_are_the_signed_sums_over_the_largest() -> None:
    neighbors, similarities = make_graph(50, 7, 3)
    identities = np.random.default_rng(0).integers(-1, 6, 50)
    sums = np.zeros(50)
    for row in range(50):
        for other, value in zip(neighbors[row], similarities[row], strict=True):
            if other >= 0:
                sums[row] += value if identities[row] >= 0 and identities[row] == identities[other] else -value
    found = confidence_targets(neighbors, similarities, identities)
    assert np.allclose(found, sums / np.abs(sums).max(), atol=1e-6)


def test_links_go_to_the_nearest_of_higher_confidence_and_never_in_a_circle() -> None:
    neighbors, similarities = make_graph(80, 9, 4)
    confidence = np.random.default_rng(1).integers(0, 20, 80).astype(np.float32)  # with ties
    linked, cosines = nearest_confident(neighbors, similarities, confidence, 0)
    for row in range(80):
        higher = [
            (-similarities[row, rank], other)
            for rank, other in enumerate(neighbors[row])
            if other >= 0 and confidence[other] > confidence[row]
        ]
        expected = min(higher, default=(2.0, -1))
        assert (linked[row], cosines[row]) == (expected[1], -expected[0])
    parts = [nearest_confident(neighbors[a:b], similarities[a:b], confidence, a) for a, b in ((0, 33), (33, 80))]
    assert np.array_equal(np.concatenate([part[0] for part in parts]), linked)
    rows = np.flatnonzero(linked >= 0)
    roots = component_roots(80, rows.astype(np.int32), linked[rows])
    assert len(np.unique(roots)) == (linked < 0).sum()  # every component has one peak: no circle


def test_only_links_score() -> None:
    linked, cosines = np.array([1, -1, 0], np.int32), np.array([0.9, -2, 0.4], np.float32)
    sources, targets = np.array([0, 0, 1], np.int32), np.array([1, 2, 2], np.int32)
    assert link_scores(sources, targets, linked, cosines).tolist() == pytest.approx([0.9, 0.4, -1])


def test_listed_cosines() -> None:
    neighbors, _ = make_graph(30, 5, 5)
    codes = np.random.default_rng(2).normal(size=(30, 16))
    codes = (codes / np.linalg.norm(codes, axis=1, keepdims=True)).astype(np.float16)
    found = listed_cosines(codes, neighbors[10:], 10)
    exact = codes.astype(np.float32) @ codes.astype(np.float32).T
    for row in range(20):
        for rank, other in enumerate(neighbors[10 + row]):
            assert found[row, rank] == pytest.approx(exact[10 + row, other] if other >= 0 else -2, abs=2e-3)


def data() -> ConfidenceData:
    graph = toy_graph()
    targets = confidence_targets(graph.neighbors_NK, graph.similarities_NK, graph.identities_N)
    return ConfidenceData(graph.features_ND, graph.aggregated_ND, targets, graph.identities_N)


@pytest.mark.parametrize("per_step", [64, 0])
def test_resumed_training_gives_the_same_bits(per_step: int) -> None:
    model = GcnVSettings(hidden=16, vertices_per_step=per_step)
    given: Any = {"model": model, "config": CONFIG, "identity_balance": 0.5, "seed": 0}
    whole, history = train_confidence(data(), **given)
    checkpoint = Memory(die_after=2)
    with pytest.raises(KeyboardInterrupt):
        train_confidence(data(), checkpoint=checkpoint, **given)
    checkpoint.left = 99
    resumed, again = train_confidence(data(), checkpoint=checkpoint, **given)
    assert again == history
    expected = whole.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in resumed.state_dict().items())
    assert history[-1].held_out_loss < history[0].held_out_loss
    graph = toy_graph()
    codes, confidence = embed_vertices(whole, graph.features_ND, graph.aggregated_ND, threads=2)
    assert codes.shape == (480, 16)
    assert np.corrcoef(confidence, data().targets_N)[0, 1] > 0.1


def test_the_least_cosine_of_links_is_chosen_on_held_out_rows() -> None:
    identities = np.repeat(np.arange(20), 5)
    linked = np.where(np.arange(100) % 5 > 0, np.arange(100) - 1, np.arange(100) - 6).astype(np.int32)
    linked[0] = -1
    cosines = np.where(np.arange(100) % 5 > 0, 0.8, 0.3).astype(np.float32)
    held_out = identities % 4 == 0
    point = select_links(linked, cosines, identities, held_out)
    assert 0.3 < point["min_score"] < 0.81
    assert point["held_out_f"] == 1
