"""Scoring: no thread count, block or order changes a bit; probabilities are those of the plain model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.graph.adjacency import EdgeList, undirected_edges
from engine.methods.star_fc.network import StarFC, build_model
from engine.methods.star_fc.scoring import edge_inputs, embed_block, score_edges
from engine.methods.star_fc.settings import StarFcSettings
from tests.support.toy_graphs import toy_graph

HEADS = ["interaction", "concat"]


def make_model(head: str, **widths: int) -> StarFC:
    return build_model(24, StarFcSettings(head=head, **widths), seed=0)


@pytest.mark.parametrize("head", HEADS)
def test_blocks_threads_and_order_never_change_a_score(head: str) -> None:
    data, model = toy_graph(), make_model(head)
    graph = data.aggregated_ND, data.neighbors_NK, data.similarities_NK
    codes = embed_block(model, data.features_ND, data.aggregated_ND)
    cut = [
        embed_block(model, data.features_ND[a:b], data.aggregated_ND[a:b], threads=2) for a, b in ((0, 100), (100, 480))
    ]
    assert codes.dtype == np.float16
    assert np.array_equal(np.concatenate(cut), codes)

    edges = undirected_edges(data.neighbors_NK, data.similarities_NK, 0, 480)
    scores = score_edges(model, codes, *graph, edges)
    blocks = [undirected_edges(data.neighbors_NK, data.similarities_NK, a, b) for a, b in ((0, 77), (77, 480))]
    again = [score_edges(model, codes, *graph, block, threads=2) for block in blocks]
    assert np.array_equal(np.concatenate(again), scores)
    order = np.random.default_rng(0).permutation(len(scores))
    shuffled = EdgeList(*(column[order] for column in edges))
    assert np.array_equal(score_edges(model, codes, *graph, shuffled), scores[order])


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_the_models_probabilities(head: str) -> None:
    data, model = toy_graph(), make_model(head, hidden=16, code=8, head_hidden=12)
    edges = undirected_edges(data.neighbors_NK, data.similarities_NK, 0, 480)
    codes = embed_block(model, data.features_ND, data.aggregated_ND)
    scores = score_edges(model, codes, data.aggregated_ND, data.neighbors_NK, data.similarities_NK, edges)
    inputs = edge_inputs(data.neighbors_NK, data.similarities_NK, data.aggregated_ND, edges)
    with torch.no_grad():
        full = model.encode(*(torch.from_numpy(x.astype(np.float32)) for x in (data.features_ND, data.aggregated_ND)))
        logits = model.edge_logits(full[edges.sources], full[edges.targets], torch.from_numpy(inputs))
    np.testing.assert_allclose(scores, torch.sigmoid(logits).numpy(), atol=2e-3)
    assert scores.dtype == np.float32
    assert len(score_edges(model, codes, data.aggregated_ND, data.neighbors_NK, data.similarities_NK,
                           EdgeList(*(column[:0] for column in edges)))) == 0  # fmt: skip
