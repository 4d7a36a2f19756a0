"""Cluster proposals: super-vertices at several least similarities, and unions of them (Yang et al., CVPR 2019).

Legend: N vertices, D feature dimension, P proposals, M members of all proposals together, S super-vertices, K of their
neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from engine.clustering.forest import strongest_forest
from engine.clustering.propagation import propagate
from engine.clustering.union_find import component_roots
from engine.graph.adjacency import EdgeList, aggregate, undirected_edges
from engine.graph.faiss_kmeans import spherical_kmeans
from engine.graph.knn import assign_cells, cell_neighbors, exact_neighbors
from engine.methods.gcn_d.settings import GcnDSettings
from engine.tiles import tile_bounds

Array = np.ndarray[Any, Any]

STEP = 0.05  # th <- th + (1 - th) * step, in either iteration
MEAN_ROWS = 4_096
EXACT_MEANS = 50_000  # more are searched by cells
_CELLS, _PROBES, _TRAIN_ROWS = 1.3, 32, 64  # cells per root of S, those probed, and means of a cell to train it


@dataclass(frozen=True)
class Proposals:
    """P sets of vertices: proposal p is ``members_M[starts[p] : starts[p + 1]]``, ascending ids, int32."""

    members_M: Array
    starts: Array

    def __len__(self) -> int:
        return len(self.starts) - 1

    @classmethod
    def gather(cls, parts: Sequence[Array]) -> Proposals:
        """Proposals of these members."""
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum([len(part) for part in parts])]).astype(np.int64)
        return cls(np.concatenate([np.empty(0, np.int32), *parts]), starts)

    def sets(self) -> list[Array]:
        """The members of each."""
        return [self.members_M[a:b] for a, b in pairwise(self.starts)]

    def take(self, chosen: Array) -> Proposals:
        """Some of them, in the order given."""
        sizes = np.diff(self.starts)[chosen]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        at = np.arange(starts[-1]) - np.repeat(starts[:-1], sizes) + np.repeat(self.starts[chosen], sizes)
        return Proposals(self.members_M[at], starts)


def propose(edges: EdgeList, features_ND: Array, config: GcnDSettings, *, threads: int = 1) -> tuple[Proposals, int]:
    """Super-vertices at each of ``config.thresholds``, and unions of those at each of ``config.union_thresholds``.

    Super-vertices (section 3.2): components, cut at higher similarities until ``max_size`` holds; proposals are those
    of ``min_size`` vertices and more. Unions: the same once more, of the means of all super-vertices, single vertices
    included, where for each (k, most) of ``unions`` a mean is joined to its k - 1 nearest from ``union_similarity`` on
    and ``most`` means at most to each other; proposals are those of two super-vertices and more that have ``min_size``
    to ``union_max_size`` vertices. A copy of one found before is left out. ``features_ND``: unit vectors, of which a
    tile is read at a time. Returns the number of components that were cut in the first iteration, too. Equal for any
    number of threads; memory: two bytes for each coordinate of a mean, 4 for each member of a proposal, twice.
    """
    forest = strongest_forest(*edges)
    parts, seen, cut = [], set(), 0

    def keep(found: Iterator[Array]) -> None:
        for members in found:
            key = members.tobytes()
            if key not in seen:
                seen.add(key)
                parts.append(members)

    num_vertices = len(features_ND)
    united = united_thresholds(config)
    for least in dict.fromkeys((*config.thresholds, *united)):
        roots_N = propagate(num_vertices, *forest, min_score=least, max_size=config.max_size, step=STEP)
        if least in config.thresholds:
            kept = forest[2] >= np.float32(least)
            sizes = np.bincount(component_roots(num_vertices, forest[0][kept], forest[1][kept]))
            cut += int((sizes > config.max_size).sum())
            keep(_sets(roots_N, config.min_size, num_vertices))
        if least in united:
            for union_N in unite(roots_N, features_ND, config, threads=threads):
                keep(_sets(union_N, config.min_size, config.union_max_size))
    return Proposals.gather(parts), cut


def united_thresholds(config: GcnDSettings) -> tuple[float, ...]:
    """The least similarities of the super-vertices that the second iteration joins; none without ``config.unions``."""
    return (config.union_thresholds or config.thresholds) if config.unions else ()


def unite(roots_N: Array, features_ND: Array, config: GcnDSettings, *, threads: int = 1) -> Iterator[Array]:
    """For each of ``config.unions``: the root of each vertex's union, -1 where it is one super-vertex alone."""
    places_N = np.unique(roots_N, return_inverse=True)[1].reshape(-1)
    means_SD = mean_vectors(places_N, features_ND, threads=threads)
    width = min(max(k for k, _ in config.unions), len(means_SD)) - 1
    neighbors_SK, similarities_SK = nearest_means(means_SD, max(width, 1), threads=threads)
    least = config.union_similarity
    for k, most in config.unions:
        nearest, cosines = (np.ascontiguousarray(each[:, : k - 1]) for each in (neighbors_SK, similarities_SK))
        edges = undirected_edges(nearest, cosines, 0, len(means_SD), least, threads=threads)
        roots_S = propagate(len(means_SD), *edges, min_score=least, max_size=most, step=STEP)
        alone_S = np.bincount(roots_S, minlength=len(roots_S))[roots_S] < 2
        yield np.where(alone_S, -1, roots_S)[places_N]


def mean_vectors(places_N: Array, features_ND: Array, *, threads: int = 1) -> Array:
    """Unit means (S, D) float16 of the vectors of each place 0..S - 1, summed by ascending vertex."""
    order_N = np.argsort(places_N, kind="stable").astype(np.int32)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(places_N))])
    means_SD = np.empty((len(starts) - 1, features_ND.shape[1]), np.float16)
    ones_N = np.ones(len(order_N), np.float32)
    for a, b in tile_bounds(0, len(means_SD), MEAN_ROWS):
        sums = aggregate(starts[a : b + 1], order_N, ones_N, features_ND, threads=threads)
        means_SD[a:b] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), np.float32(1e-6))
    return means_SD


def nearest_means(means_SD: Array, k: int, *, exact_means: int = EXACT_MEANS, threads: int = 1) -> tuple[Array, Array]:
    """The ``k`` nearest of each mean, without itself: ids (S, k) int32 and cosines (S, k) float32.

    Exact up to ``exact_means``; beyond, each is searched for in the cells nearest to it.
    """
    count = len(means_SD)
    if count <= exact_means:
        return exact_neighbors(means_SD, 0, count, k, None, threads)
    num_cells = _num_cells(count)
    sample = np.unique(np.linspace(0, count - 1, num_cells * _TRAIN_ROWS).astype(np.int64))
    centroids_CD = spherical_kmeans(means_SD[sample].astype(np.float32), num_cells, seed=0)
    cells_S = assign_cells(means_SD, centroids_CD, 0, count, threads)
    order_S = np.argsort(cells_S, kind="stable")
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(cells_S, minlength=num_cells))])
    found, cosines = cell_neighbors(means_SD[order_S], centroids_CD, offsets, 0, count, k, _PROBES, None, threads)
    neighbors_SK, similarities_SK = np.empty_like(found), np.empty_like(cosines)
    neighbors_SK[order_S] = np.where(found < 0, found, order_S[found])
    similarities_SK[order_S] = cosines
    return neighbors_SK, similarities_SK


def searched_means(count: int) -> float:
    """Means that each of ``count`` is compared with, about, for projections."""
    return count if count <= EXACT_MEANS else _num_cells(count) + count * _PROBES / _num_cells(count)


def _num_cells(count: int) -> int:
    return round(_CELLS * count**0.5)


def _sets(roots_N: Array, least: int, most: int) -> Iterator[Array]:
    """The members, ascending, of each root >= 0 that has ``least`` to ``most`` of them."""
    order = np.argsort(roots_N, kind="stable").astype(np.int32)
    order = order[np.searchsorted(roots_N[order], 0) :]
    bounds = np.flatnonzero(np.diff(roots_N[order], prepend=-1, append=-1))
    for a, b in pairwise(bounds):
        if least <= b - a <= most:
            yield order[a:b]
