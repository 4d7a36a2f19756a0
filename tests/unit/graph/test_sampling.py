"""Subgraph and edge sampling: sizes, determinism, and the balance over identities."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import DataError
from engine.graph.adjacency import EdgeList, undirected_edges
from engine.graph.sampling import EdgeSampler, SubgraphSampler, subgraph_edges
from engine.learning.settings import SamplingSettings
from tests.support.toy_graphs import make_graph

Array = np.ndarray[Any, Any]


def labelled_vectors(num_identities: int = 30, rows: int = 6) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    identities = rng.permutation(np.repeat(np.arange(num_identities), rows))
    centers = rng.normal(size=(num_identities, 8))
    features = centers[identities] + 0.1 * rng.normal(size=(len(identities), 8))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16), identities


def test_subgraph_holds_the_seeds_and_their_nearest_identities() -> None:
    features, identities = labelled_vectors()
    config = SamplingSettings(num_seeds=1, num_nearest=4, cluster_share=1, vertex_share=1, far_share=0)
    sampler = SubgraphSampler(features, identities, config, seed=3)
    vertices = sampler.vertices(5)
    assert np.all(np.diff(vertices) > 0)
    sampled = np.unique(identities[vertices])
    assert len(sampled) == 5
    assert len(vertices) == 5 * 6
    closeness = sampler.centers @ sampler.centers.T
    assert any(set(np.argsort(-row)[:5]) == set(sampled) for row in closeness)


def test_subgraphs_follow_from_seed_and_index_alone() -> None:
    features, identities = labelled_vectors()
    config = SamplingSettings(num_nearest=5)
    first, second = (SubgraphSampler(features, identities, config, seed=1) for _ in range(2))
    first.vertices(0)
    assert np.array_equal(first.vertices(7), second.vertices(7))
    assert not np.array_equal(first.vertices(7), first.vertices(8))
    assert not np.array_equal(first.vertices(7), SubgraphSampler(features, identities, config, seed=2).vertices(7))


def test_limits_shares_and_unlabelled_rows() -> None:
    features, identities = labelled_vectors()
    identities[identities == 3] = -1
    config = SamplingSettings(num_nearest=30, far_share=0.5, vertex_share=0.5)
    vertices = SubgraphSampler(features, identities, config, seed=0).vertices(0)
    assert np.all(identities[vertices] >= 0)
    assert np.unique(np.bincount(identities[vertices])).tolist() in ([3], [0, 3])
    capped = config.model_copy(update={"max_per_identity": 2, "max_vertices": 21})
    vertices = SubgraphSampler(features, identities, capped, seed=0).vertices(0)
    assert len(vertices) == 20
    with pytest.raises(DataError, match="no row has an identity"):
        SubgraphSampler(features, np.full(len(features), -1), config, seed=0)


def test_subgraph_edges_are_the_global_edges_among_its_vertices() -> None:
    neighbors, similarities = make_graph(60, 8, seed=2)
    vertices = np.sort(np.random.default_rng(0).permutation(60)[:25]).astype(np.int32)
    everything = undirected_edges(neighbors, similarities, 0, 60)
    inside = np.isin(everything.sources, vertices) & np.isin(everything.targets, vertices)
    expected = {tuple(edge) for edge in zip(*(c[inside].tolist() for c in everything), strict=True)}
    found = subgraph_edges(neighbors, similarities, vertices)
    assert len(found.sources) == len(expected)
    assert {tuple(edge) for edge in zip(*(column.tolist() for column in found), strict=True)} == expected


@pytest.mark.parametrize(("balance", "expected"), [(0.0, 45 / 46), (1.0, 0.5)])
def test_edge_sampler_balances_identities(balance: float, expected: float) -> None:
    identities = np.array([0] * 10 + [1] * 2)
    sources, targets = (part.astype(np.int32) for part in np.triu_indices(12, 1))
    edges = EdgeList(sources, targets, np.ones(len(sources), np.float32))
    sampler = EdgeSampler(edges, identities, SamplingSettings(identity_balance=balance, positive_share=0.25))
    places, same = sampler.draw(np.random.default_rng(0), 8_000)
    assert np.all(np.diff(places) >= 0)
    assert np.array_equal(identities[sources[places]] == identities[targets[places]], same)
    assert same.sum() == 2_000
    large = identities[sources[places[same]]] == 0
    assert large.mean() == pytest.approx(expected, abs=0.04)


def test_edge_sampler_without_positives_draws_negatives_only() -> None:
    edges = EdgeList(np.array([0], np.int32), np.array([1], np.int32), np.ones(1, np.float32))
    places, same = EdgeSampler(edges, np.array([0, 1]), SamplingSettings()).draw(np.random.default_rng(0), 10)
    assert places.tolist() == [0] * 5
    assert not same.any()
