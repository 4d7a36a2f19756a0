"""What of a graph is nearer than chance: noise, real neighbours among it, and data of which nothing can be said."""

from __future__ import annotations

import numpy as np
import pytest

from engine.clustering.chance import chance_similarity
from tests.support.toy_graphs import exact_graph, unit

Array = np.ndarray


def graph(vectors: Array) -> tuple[Array, Array]:
    return exact_graph(vectors, 20)


def noise(rows: int, dim: int, seed: int = 0) -> Array:
    return unit(np.random.default_rng(seed).normal(size=(rows, dim)))


def around(num_identities: int, size: int, spread: float, dim: int = 128) -> Array:
    """Rows of identities, of mean cosine 1 / (1 + spread²) inside one."""
    centres = np.repeat(noise(num_identities, dim, 1), size, axis=0)
    return unit(centres + spread / np.sqrt(dim) * np.random.default_rng(2).normal(size=centres.shape))


@pytest.mark.parametrize(("rows", "dim"), [(2_000, 32), pytest.param(3_000, 128, marks=pytest.mark.slow), (500, 512)])
def test_one_row_of_noise_in_a_thousand_has_a_neighbor_nearer_than_chance(rows: int, dim: int) -> None:
    nearer, drawn = 0, 0
    for seed in range(4):
        vectors = noise(rows, dim, seed)
        neighbors, similarities = graph(vectors)
        reach = chance_similarity(vectors, neighbors, similarities)
        assert reach is not None
        nearer, drawn = nearer + int((similarities[:, 0] > reach).sum()), drawn + rows
    assert nearer / drawn < 0.004


def test_true_neighbors_among_noise_are_nearer() -> None:
    vectors = np.concatenate([around(100, 2, 0.8), noise(1_500, 128)])
    neighbors, similarities = graph(vectors)
    reach = chance_similarity(vectors, neighbors, similarities)
    assert reach is not None
    assert (similarities[:200, 0] > reach).mean() > 0.98
    assert (similarities[200:, 0] > reach).mean() < 0.01
    halves = vectors.astype(np.float16)
    assert chance_similarity(halves, neighbors, similarities, threads=2) == pytest.approx(reach, abs=1e-3)


@pytest.mark.parametrize(
    "vectors",
    [
        around(200, 10, 0.8),  # most rows have such a neighbour
        around(6, 200, 1.7),  # few have, but large identities are dense
        around(1, 800, 1.0),  # all of one direction
        noise(2_000, 8),  # of few dimensions
        np.ones((50, 64), np.float32) / 8,
    ],
)
def test_nothing_is_said_of_other_data(vectors: Array) -> None:
    assert chance_similarity(vectors, *graph(vectors)) is None


def test_nothing_is_said_of_a_graph_of_other_similarities_or_of_no_edges() -> None:
    vectors = noise(400, 64)
    neighbors, similarities = graph(vectors)
    assert chance_similarity(vectors, neighbors, similarities) is not None
    assert chance_similarity(vectors, neighbors, similarities * 0.8) is None
    assert chance_similarity(vectors, np.full_like(neighbors, -1), np.full_like(similarities, -2)) is None
    assert chance_similarity(vectors[:1], neighbors[:1, :0], similarities[:1, :0]) is None
