"""Clusterings that the field compares with: by scikit-learn, or by our own code where no maintained library has one.

Legend: N rows, D feature dimension, K neighbours, E undirected edges. A search yields labels (N,) for one setting after
the other and does once what all settings share. Distances are 1 - cosine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any

import numba
import numpy as np

from engine.clustering.csr import build_weighted_adjacency
from engine.clustering.forest import strongest_forest
from engine.clustering.union_find import component_roots
from engine.errors import ConfigError
from engine.graph.adjacency import EdgeList, rank_listed, undirected_edges
from engine.installation import install_hint
from engine.random_streams import WHISPERS, stream

Array = np.ndarray[Any, Any]
Point = dict[str, Any]

WHISPER_ROUNDS = 20
MOST_EIGENVECTORS = 256  # more would take hours


@dataclass(frozen=True)
class Sample:
    """Vectors (N, D) of any length, and their KNN graph: ``neighbors_NK`` int32 and ``similarities_NK`` float32."""

    vectors_ND: Array
    neighbors_NK: Array
    similarities_NK: Array
    seed: int = 0
    threads: int = 1

    def __len__(self) -> int:
        return len(self.neighbors_NK)

    @property
    def library_seed(self) -> int:
        """The seed as scikit-learn takes it, in 32 bits."""
        return self.seed % 2**32

    @cached_property
    def unit_vectors(self) -> Array:
        """The vectors at unit length, float32; zero vectors stay so."""
        vectors = np.asarray(self.vectors_ND, np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)

    @cached_property
    def edges(self) -> EdgeList:
        """The graph's undirected edges."""
        return undirected_edges(self.neighbors_NK, self.similarities_NK, 0, len(self), threads=self.threads)

    def sparse_matrix(self, kept_E: Array | slice, values_E: Array) -> Any:
        """The graph's edges ``kept_E`` with these values, as scipy's symmetric sparse matrix."""
        sources, targets = self.edges.sources[kept_E], self.edges.targets[kept_E]
        ends = np.concatenate([sources, targets]), np.concatenate([targets, sources])
        return _library("scipy.sparse").coo_array((np.tile(values_E, 2), ends), shape=(len(self),) * 2).tocsr()


Search = Callable[[Sample, Sequence[Point]], Iterator[Array]]


def kmeans(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
    """Run scikit-learn's k-means on the unit vectors, by k-means++ from one start."""
    for point in points:
        model = _library("sklearn.cluster").KMeans(point["num_clusters"], n_init=1, random_state=sample.library_seed)
        yield model.fit(sample.unit_vectors).labels_


def minibatch_kmeans(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
    """Run scikit-learn's MiniBatch k-means on the unit vectors; a batch has at least as many rows as clusters."""
    for point in points:
        count = point["num_clusters"]
        model = _library("sklearn.cluster").MiniBatchKMeans(
            count, n_init=1, batch_size=max(1024, 2 * count), random_state=sample.library_seed, reassignment_ratio=0.0
        )
        yield model.fit(sample.unit_vectors).labels_


def spectral(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
    """Cluster the KNN graph spectrally: eigenvectors of its normalised Laplacian, then k-means of unit rows.

    Deviations from scikit-learn: MiniBatch k-means, because clusters are many, and at most ``MOST_EIGENVECTORS``.
    """
    kept = sample.edges.similarities > 0
    graph = sample.sparse_matrix(kept, sample.edges.similarities[kept].astype(np.float64))
    for point in points:
        count = point["num_clusters"]
        vectors = _library("sklearn.manifold").spectral_embedding(
            graph, n_components=min(count, MOST_EIGENVECTORS), random_state=sample.library_seed, drop_first=False
        )
        model = _library("sklearn.cluster").MiniBatchKMeans(
            count, n_init=1, batch_size=max(1024, 2 * count), random_state=sample.library_seed
        )
        yield model.fit(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)).labels_


def _linkage(kind: str) -> Search:
    def search(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
        pairs = _library("scipy.spatial.distance").pdist(sample.unit_vectors.astype(np.float64), "sqeuclidean") / 2
        hierarchy = _library("scipy.cluster.hierarchy")
        tree = hierarchy.linkage(np.sqrt(2 * pairs) if kind == "ward" else pairs, kind)
        for point in points:
            cut = np.sqrt(2 * point["distance"]) if kind == "ward" else point["distance"]
            yield hierarchy.fcluster(tree, cut, "distance")

    search.__doc__ = f"scipy's {kind} linkage of all pairs of unit vectors, cut at a distance."
    return search


ward = _linkage("ward")
average_linkage = _linkage("average")


def single_linkage(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
    """Run single linkage (FastHAC): components of the KNN graph's edges up to a distance, by its spanning forest."""
    sources, targets, similarities = strongest_forest(*sample.edges)
    for point in points:
        kept = similarities >= np.float32(1 - point["distance"])
        yield component_roots(len(sample), sources[kept], targets[kept])


def dbscan(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
    """Run scikit-learn's DBSCAN on the unit vectors, all pairs compared; each noise row is a cluster of its own."""
    for point in points:
        reach = float(np.sqrt(2 * point["distance"]))
        found = _library("sklearn.cluster").DBSCAN(eps=reach, min_samples=point["min_rows"], n_jobs=-1)
        yield _noise_alone(found.fit(sample.unit_vectors).labels_)


def knn_dbscan(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
    """Run DBSCAN on the KNN graph (Ester et al., KDD 1996); each noise row is a cluster of its own.

    Only the graph's edges count and join. A row with too few edges joins the nearest dense row that it has an edge to,
    the first of equally near ones; the paper leaves this choice open.
    """
    sources, targets, similarities = sample.edges
    for point in points:
        kept = similarities >= np.float32(1 - point["distance"])
        a, b, near = sources[kept], targets[kept], similarities[kept]
        dense_N = np.bincount(a, minlength=len(sample)) + np.bincount(b, minlength=len(sample)) + 1 >= point["min_rows"]
        both, first, second = dense_N[a] & dense_N[b], dense_N[a] & ~dense_N[b], ~dense_N[a] & dense_N[b]
        sparse, dense = np.concatenate([b[first], a[second]]), np.concatenate([a[first], b[second]])
        order = np.lexsort((dense, -np.concatenate([near[first], near[second]]), sparse))
        rows, firsts = np.unique(sparse[order], return_index=True)
        links = np.concatenate([a[both], rows]), np.concatenate([b[both], dense[order][firsts]])
        yield component_roots(len(sample), *links)


def hdbscan(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
    """Run scikit-learn's HDBSCAN on the unit vectors; each noise row is a cluster of its own."""
    for point in points:
        found = _library("sklearn.cluster").HDBSCAN(
            min_cluster_size=max(2, point["min_rows"]),
            cluster_selection_method=point["selection"],
            copy=True,
            n_jobs=-1,
        )
        yield _noise_alone(found.fit(sample.unit_vectors.astype(np.float64)).labels_)


def mean_shift(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
    """Run scikit-learn's mean shift on the unit vectors, with a flat kernel, from every row."""
    for point in points:
        reach = float(np.sqrt(2 * point["distance"]))
        yield (_library("sklearn.cluster").MeanShift(bandwidth=reach, n_jobs=-1).fit(sample.unit_vectors).labels_)


def chinese_whispers(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
    """Run Chinese Whispers (Biemann, 2006): each row takes, round after round, its neighbours' class of most weight.

    Edges up to a distance count, weighted by cosine; ties go to the lower class. Each round draws a new order of the
    rows. The search ends when no row changes, or after ``WHISPER_ROUNDS``. Deviation: labels are in row order, while
    the field's released code gives them in cluster order.
    """
    sources, targets, similarities = sample.edges
    for point in points:
        kept = similarities >= np.float32(1 - point["distance"])
        block = sources[kept], targets[kept], similarities[kept]
        graph = build_weighted_adjacency(len(sample), lambda block=block: [block], sample.threads)  # type: ignore[misc]
        rng = stream(sample.seed, WHISPERS)
        classes = np.arange(len(sample), dtype=np.int32)
        for _ in range(WHISPER_ROUNDS):
            if not _whisper(*graph[:3], rng.permutation(len(sample)), classes, np.zeros(len(sample), np.float64)):
                break
        yield classes


def rank_order(sample: Sample, points: Sequence[Point]) -> Iterator[Array]:
    """Run approximate rank-order clustering (Otto et al., TPAMI 2018): components of pairs up to a rank distance.

    D(i, j) = (d_ij + d_ji) / min(O_ij, O_ji). O_ij is the rank, from 1, at which i lists j; d_ij counts the rows that i
    lists up to j and that j does not list. The distance is infinite unless both rows list each other.
    """
    sources, targets, _ = sample.edges
    distances = np.empty(len(sources), np.float32)
    _rank_distances(np.asarray(sample.neighbors_NK), sources, targets, distances)
    first, second, closeness = strongest_forest(sources, targets, -distances)
    for point in points:
        kept = closeness >= np.float32(-point["distance"])
        yield component_roots(len(sample), first[kept], second[kept])


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(f"this baseline is {name}'s: {install_hint('baselines')}") from None


def _noise_alone(labels_N: Array) -> Array:
    alone = labels_N < 0
    return np.where(alone, labels_N.max(initial=0) + 1 + np.cumsum(alone), labels_N)


@numba.njit(nogil=True, cache=True)
def _whisper(indptr: Array, indices: Array, weights: Array, order: Array, classes: Array, sums: Array) -> bool:
    changed = False
    for row in order:
        best, most = classes[row], 0.0
        for entry in range(indptr[row], indptr[row + 1]):
            sums[classes[indices[entry]]] += weights[entry]
        for entry in range(indptr[row], indptr[row + 1]):
            other = classes[indices[entry]]
            if sums[other] > most or (sums[other] == most and other < best):
                best, most = other, sums[other]
        for entry in range(indptr[row], indptr[row + 1]):
            sums[classes[indices[entry]]] = 0.0
        if best != classes[row]:
            classes[row] = best
            changed = True
    return changed


@numba.njit(nogil=True, cache=True)
def _rank_distances(neighbors: Array, sources: Array, targets: Array, distances: Array) -> None:
    for edge in range(len(sources)):
        first, second = sources[edge], targets[edge]
        ahead, back = rank_listed(neighbors[first], second), rank_listed(neighbors[second], first)
        if ahead < 0 or back < 0:
            distances[edge] = np.inf
            continue
        missing = 0
        for own, other, rank in ((first, second, ahead), (second, first, back)):
            for place in range(rank + 1):
                listed = neighbors[own, place]
                missing += int(listed != other and rank_listed(neighbors[other], listed) < 0)
        distances[edge] = np.float32(missing) / np.float32(min(ahead, back) + 1)
