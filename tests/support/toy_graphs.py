"""Small KNN graphs for tests of the graph and learning kernels."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from engine.graph.adjacency import aggregate, symmetric_rows
from engine.methods.star_fc.minibatches import GraphData

Array = np.ndarray[Any, Any]


def unit(vectors: Array) -> Array:
    """Rows of length one, float32."""
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def exact_graph(vectors: Array, k: int) -> tuple[Array, Array]:
    """Neighbours and cosines (N, K) of every unit row but itself, all pairs compared."""
    cosines = vectors @ vectors.T
    np.fill_diagonal(cosines, -2)
    neighbors = np.argsort(-cosines, axis=1, kind="stable")[:, :k].astype(np.int32)
    return neighbors, np.take_along_axis(cosines, neighbors, axis=1)


def make_graph(num: int, width: int, seed: int, short_rows: bool = True) -> tuple[Array, Array]:
    """Random directed lists, some shorter than ``width``, some similarities below 0."""
    rng = np.random.default_rng(seed)
    similarity = rng.uniform(-0.3, 1.0, (num, num)).astype(np.float32)
    similarity = np.maximum(similarity, similarity.T)
    neighbors = np.full((num, width), -1, np.int32)
    values = np.zeros((num, width), np.float32)
    for row in range(num):
        length = rng.integers(0, width + 1) if short_rows else width
        others = rng.permutation(np.delete(np.arange(num), row))[:length]
        others = others[np.lexsort((others, -similarity[row, others]))]
        neighbors[row, : len(others)] = others
        values[row, : len(others)] = similarity[row, others]
    return neighbors, values


@functools.cache
def toy_graph() -> GraphData:
    """60 identities of 8 noisy rows, exact neighbours, and some rows of unknown identity."""
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(60), 8)
    vectors = rng.normal(size=(60, 24))[identities] + 0.9 * rng.normal(size=(480, 24))
    features = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
    products = features.astype(np.float32) @ features.T.astype(np.float32)
    np.fill_diagonal(products, -2)
    neighbors = np.argsort(-products, axis=1, kind="stable")[:, :12].astype(np.int32)
    similarities = np.take_along_axis(products, neighbors, axis=1)
    aggregated = aggregate(*symmetric_rows(neighbors, similarities, 0, 480), features).astype(np.float16)
    identities[:5] = -1
    return GraphData(features, aggregated, neighbors, similarities, identities)


class Memory:
    """A checkpoint that may refuse to be written a second time, as if the process had died."""

    def __init__(self, die_after: int = 99) -> None:
        self.data: bytes | None = None
        self.left = die_after

    def read(self) -> bytes | None:
        return self.data

    def write(self, data: bytes) -> None:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        self.data = data
