"""Cluster proposals made in two iterations: super-vertices, and unions of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import cluster, evaluate, train
from engine.clustering.propagation import propagate
from engine.clustering.union_find import component_roots
from engine.errors import ConfigError
from engine.graph.adjacency import EdgeList, undirected_edges
from engine.methods.gcn_d.settings import GcnDSettings
from engine.methods.gcn_d.super_vertices import Proposals, mean_vectors, nearest_means, propose
from engine.methods.registry import PRESETS
from tests.support.toy_graphs import toy_graph

Array = np.ndarray[Any, Any]

THRESHOLDS = (0.3, 0.45, 0.6)


def toy_edges() -> tuple[EdgeList, Array]:
    graph = toy_graph()
    return undirected_edges(graph.neighbors_NK, graph.similarities_NK, 0, 480), graph.features_ND


def toy_proposals(**settings: Any) -> tuple[Proposals, int]:
    return propose(*toy_edges(), GcnDSettings(**{"thresholds": THRESHOLDS, **settings}))


def sets(proposals: Proposals) -> list[tuple[int, ...]]:
    return [tuple(members.tolist()) for members in proposals.sets()]


def all_edges(features_ND: Array) -> EdgeList:
    sources, targets = np.triu_indices(len(features_ND), 1)
    products = features_ND.astype(np.float32) @ features_ND.T.astype(np.float32)
    return EdgeList(sources.astype(np.int32), targets.astype(np.int32), products[sources, targets])


def poses(identities: int, dim: int = 1024) -> tuple[Array, Array]:
    """Identities of two poses of 4 rows: cosines of about 0.85 within a pose and 0.65 between the two."""
    rng = np.random.default_rng(0)

    def unit(count: int) -> Array:
        rows = rng.normal(size=(count, dim))
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    labels = np.repeat(np.arange(identities), 8)
    parts = unit(identities)[labels], unit(2 * identities)[np.arange(8 * identities) // 4], unit(8 * identities)
    vectors = sum(np.sqrt(share) * part for share, part in zip((0.65, 0.2, 0.15), parts, strict=True))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16), labels


def test_proposals_are_the_components_at_each_threshold_once() -> None:
    edges, _ = toy_edges()
    expected = set()
    for least in THRESHOLDS:
        kept = edges.similarities >= np.float32(least)
        roots = component_roots(480, edges.sources[kept], edges.targets[kept])
        for root in np.unique(roots):
            members = tuple(np.flatnonzero(roots == root).tolist())
            if 2 <= len(members) <= 480:
                expected.add(members)
    whole, cut = toy_proposals(max_size=480)
    capped, cut_then = toy_proposals(max_size=60)
    assert cut == 0 < cut_then
    found = sets(whole)
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert max(len(each) for each in sets(capped)) <= 60


def test_taking_some() -> None:
    proposals, _ = toy_proposals(max_size=60)
    chosen = np.array([3, 0, 5])
    assert sets(proposals.take(chosen)) == [sets(proposals)[place] for place in chosen]


def test_an_identity_in_two_parts_is_proposed_whole_by_the_second_iteration_alone() -> None:
    features, labels = poses(20)
    edges = all_edges(features)
    identities = {tuple(np.flatnonzero(labels == each).tolist()) for each in range(20)}
    given: dict[str, Any] = {"thresholds": (0.75,), "min_size": 3}
    first = set(sets(propose(edges, features, GcnDSettings(**given))[0]))
    both = sets(propose(edges, features, GcnDSettings(unions=((2, 8),), **given))[0])
    assert not identities & first
    assert first == set(both[: len(first)])
    assert set(both) - first == identities
    assert len(both) == len(set(both))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, [(0, 1), (2, 3), (4, 5), (0, 1, 2, 3), (4, 5, 6)]),
        ({"min_size": 3}, [(0, 1, 2, 3), (4, 5, 6)]),
        ({"union_max_size": 3}, [(0, 1), (2, 3), (4, 5), (4, 5, 6)]),
        ({"union_similarity": 0.65}, [(0, 1), (2, 3), (4, 5), (4, 5, 6)]),
        ({"unions": ((2, 8), (3, 8))}, [(0, 1), (2, 3), (4, 5), (0, 1, 2, 3), (4, 5, 6)]),
        ({"unions": ((3, 2),), "union_similarity": 0.0}, [(0, 1), (2, 3), (4, 5), (0, 1, 2, 3), (4, 5, 6)]),
        ({"unions": ((3, 4),), "union_similarity": 0.0}, [(0, 1), (2, 3), (4, 5), (0, 1, 2, 3, 4, 5, 6)]),
    ],
)
def test_sizes_counts_and_caps_of_unions(settings: dict[str, Any], expected: list[tuple[int, ...]]) -> None:
    """Pairs 0, 1 and 2, 3 at cosine 0.6; the pair 4, 5 and the single row 6 at 0.7; the rest at 0.1 at most."""
    axes = np.eye(8)
    first, third = axes[0], axes[2]
    pairs = [first, 0.6 * first + 0.8 * axes[1], third, 0.7 * third + 0.71 * axes[3] + 0.1 * first]
    features = np.stack([pairs[place] for place in (0, 0, 1, 1, 2, 2, 3)])
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float16)
    config = GcnDSettings(**{"thresholds": (0.9,), "unions": ((2, 8),), **settings})
    assert sets(propose(all_edges(features), features, config)[0]) == expected


def test_unions_are_those_of_a_plain_search_for_any_threads() -> None:
    edges, features = toy_edges()
    unions = ((2, 8), (3, 5), (4, 4))
    given = {"thresholds": (0.45,), "union_thresholds": (0.6, 0.75), "unions": unions}
    config = GcnDSettings(**given, min_size=3, union_max_size=30)
    found, _ = propose(edges, features, config)
    again, _ = propose(edges, features, config, threads=2)
    assert np.array_equal(found.members_M, again.members_M)
    assert np.array_equal(found.starts, again.starts)
    expected = set(sets(propose(edges, features, config.model_copy(update={"unions": ()}))[0]))
    for least in config.union_thresholds:
        places = np.unique(propagate(480, *edges, min_score=least, max_size=300, step=0.05), return_inverse=True)[1]
        means = np.stack(
            [features[places == place].astype(np.float64).mean(axis=0) for place in range(places.max() + 1)]
        )
        means /= np.linalg.norm(means, axis=1, keepdims=True)
        found_means = mean_vectors(places, features).astype(np.float32)
        np.testing.assert_allclose(found_means, means, atol=1e-3)
        products = found_means @ found_means.T
        np.fill_diagonal(products, -2)
        for k, most in unions:
            nearest = np.argsort(-products, axis=1)[:, : k - 1]
            pairs = {(min(a, b), max(a, b)) for a, row in enumerate(nearest) for b in row if products[a, b] >= 0.4}
            first, second = np.array(sorted(pairs), np.int32).T
            scores = products[first, second].astype(np.float32)
            roots = propagate(len(means), first.copy(), second.copy(), scores, min_score=0.4, max_size=most, step=0.05)
            for root in np.unique(roots):
                joined = np.flatnonzero(roots == root)
                members = tuple(np.flatnonzero(np.isin(places, joined)).tolist())
                if len(joined) > 1 and 3 <= len(members) <= 30:
                    expected.add(members)
    assert set(sets(found)) == expected
    assert len(found) == len(expected)


def test_many_means_are_searched_by_cells() -> None:
    means = toy_graph().features_ND
    exact, _ = nearest_means(means, 3)
    found, cosines = nearest_means(means, 3, exact_means=100)
    again, _ = nearest_means(means, 3, exact_means=100, threads=2)
    assert np.array_equal(found, again)
    assert (found == exact).mean() > 0.95
    assert not (found == np.arange(480)[:, None]).any()
    expected = np.einsum("nd,nkd->nk", means.astype(np.float32), means[found].astype(np.float32))
    np.testing.assert_allclose(cosines, expected, atol=1e-5)


def test_published_sets_have_as_many_partitions_as_their_names_say() -> None:
    for count in (2, 5, 8, 20):
        config = GcnDSettings(**PRESETS[f"gcn_d/{count}_proposals"]["gcn_d"])
        assert len(config.thresholds) + len(config.union_thresholds) * len(config.unions) == count
        assert (config.min_size, config.union_max_size, config.union_similarity) == (3, 500, 0.4)


def test_a_run_with_unions_is_the_same_for_any_threads(tmp_path: Path) -> None:
    features, labels = poses(60)
    small = {"gcn_d.widths": [16, 8], "train.max_steps": 150, "train.learning_rate": 5e-3, "knn.k": 20}
    train(features, labels, tmp_path / "model", config="gcn_d/8_proposals", **small)
    found = [
        cluster(
            features[240:], model=tmp_path / "model", workspace=tmp_path / f"run{threads}",
            resources={"threads": threads}, **{"knn.k": 20},
        ).labels
        for threads in (1, 2)
    ]  # fmt: skip
    assert np.array_equal(*found)
    assert evaluate(found[0], labels[240:])["pairwise_f"] > 0.9
    with pytest.raises(ConfigError, match=r"gcn_d\.union_max_size: without gcn_d\.unions"):
        train(features, labels, tmp_path / "other", method="gcn_d", **{"gcn_d.union_max_size": 9})
