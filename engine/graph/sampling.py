"""Structure-preserved subgraph sampling (SPSS) and the draw of training edges (STAR-FC, section 3.2).

Legend: N vertices, D feature dimension, K neighbours, C identities, E edges of a subgraph.
A subgraph depends on the seed and its index alone, so training resumes at any step without replaying earlier ones.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from engine.errors import DataError
from engine.graph.adjacency import EdgeList, larger_listing
from engine.learning.settings import SamplingSettings
from engine.random_streams import SUBGRAPH, stream

Array = np.ndarray[Any, Any]

BLOCK_ROWS = 65_536


class SubgraphSampler:
    """Draw the vertices of training subgraphs around seed identities.

    A subgraph starts from ``num_seeds`` random identities, each with its ``num_nearest`` nearest by the cosine of their
    centres. It keeps ``cluster_share`` of these identities at random, and the seeds in any case. It adds random
    identities from anywhere, ``far_share`` of the number kept; this is not published, but without it no subgraph holds
    two far identities. Of each identity's rows it keeps ``vertex_share``, at most ``max_per_identity``. It leaves out
    whole identities at random until at most ``max_vertices`` rows are left.
    """

    def __init__(self, features_ND: Array, identities_N: Array, config: SamplingSettings, seed: int) -> None:
        """Group the rows by identity (-1: never sampled) and average their vectors: C x D float32, one pass."""
        used = np.flatnonzero(identities_N >= 0)
        if not len(used):
            raise DataError("sampling: no row has an identity to train on; expected identities >= 0")
        known, dense, sizes = np.unique(identities_N[used], return_inverse=True, return_counts=True)
        self.rows = used[np.argsort(dense, kind="stable")].astype(np.int32)
        self.indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        centers = np.zeros((len(known), features_ND.shape[1]), np.float32)
        for start in range(0, len(used), BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            _add_rows(np.asarray(features_ND[used[part]], np.float32), dense[part], centers)
        self.centers = centers / np.maximum(np.linalg.norm(centers, axis=1, keepdims=True), 1e-12)
        self.config, self.seed = config, seed

    def vertices(self, index: int) -> Array:
        """Return the sorted vertex ids (int32) of subgraph ``index``."""
        config = self.config
        rng = stream(self.seed, SUBGRAPH, index)
        count = len(self.centers)
        seeds = rng.choice(count, min(config.num_seeds, count), replace=False)
        wanted = min(config.num_nearest + 1, count)
        gathered = np.zeros(count, bool)
        for seed in seeds:
            closeness = self.centers @ self.centers[seed]
            gathered[np.argpartition(-closeness, wanted - 1)[:wanted]] = True
        gathered[seeds] = False
        near = rng.permutation(np.flatnonzero(gathered))
        near = near[: round(config.cluster_share * (len(near) + len(seeds)))]
        gathered[seeds] = True
        far = rng.permutation(np.flatnonzero(~gathered))
        far = far[: round(config.far_share * (len(near) + len(seeds)))]
        chosen: list[Array] = []
        room = config.max_vertices
        for identity in np.concatenate([seeds, rng.permutation(np.concatenate([near, far]))]):
            members = self.rows[self.indptr[identity] : self.indptr[identity + 1]]
            keep = max(2, round(config.vertex_share * len(members)))
            if config.max_per_identity:
                keep = min(keep, config.max_per_identity)
            if keep < len(members):
                members = rng.permutation(members)[:keep]
            if len(members) > room and chosen:
                break
            chosen.append(members)
            room -= len(members)
        return np.sort(np.concatenate(chosen))


def subgraph_edges(neighbors_NK: Array, similarities_NK: Array, vertices_n: Array) -> EdgeList:
    """List each undirected edge of the KNN graph with both ends in ``vertices_n`` once, as global ids.

    Deviation from the released code: edges come from the global graph, not from a KNN search inside the subgraph, so
    that similarities, ranks and shared neighbours mean the same in training and in use.
    """
    member = np.zeros(len(neighbors_NK), bool)
    member[vertices_n] = True
    room = len(vertices_n) * neighbors_NK.shape[1]
    sources, targets = np.empty(room, np.int32), np.empty(room, np.int32)
    similarities = np.empty(room, np.float32)
    count = _edges_within(
        np.asarray(neighbors_NK), np.asarray(similarities_NK), vertices_n, member, sources, targets, similarities
    )
    return EdgeList(sources[:count].copy(), targets[:count].copy(), similarities[:count].copy())


class EdgeSampler:
    """Draw minibatches of a subgraph's edges, positives and negatives in a fixed ratio, balanced over identities."""

    def __init__(self, edges: EdgeList, identities_N: Array, config: SamplingSettings) -> None:
        """Weigh every edge.

        An identity touched by n positive (or negative) edges gives each of these edges n ** -identity_balance of its
        weight. At 0 every edge counts the same, so a few large identities dominate the loss; at 1 every identity counts
        the same.
        """
        ends = identities_N[edges.sources], identities_N[edges.targets]
        self.same = ends[0] == ends[1]
        self.positive_share = config.positive_share
        self.groups: list[tuple[Array, Array]] = []
        for chosen in (np.flatnonzero(self.same), np.flatnonzero(~self.same)):
            first, second = ends[0][chosen], ends[1][chosen]
            dense = np.unique(np.concatenate([first, second]), return_inverse=True)[1]
            weight = np.bincount(dense).astype(np.float64) ** -config.identity_balance
            self.groups.append((chosen, np.cumsum(weight[dense[: len(first)]] + weight[dense[len(first) :]])))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Array, Array]:
        """Draw ``count`` edges with replacement: their places in the edge list, sorted, and which are positive."""
        positives = round(count * self.positive_share)
        picked = []
        for (chosen, cumulative), wanted in zip(self.groups, (positives, count - positives), strict=True):
            if len(chosen):
                picked.append(chosen[draw_places(rng, cumulative, wanted)])
        places = np.sort(np.concatenate(picked)) if picked else np.empty(0, np.int64)
        return places, self.same[places]


def balance_rows(identities_n: Array, identity_balance: float) -> Array:
    """Weigh rows by the size of their identity to the power -``identity_balance``: (n,) float64, cumulated."""
    places, sizes = np.unique(identities_n, return_inverse=True, return_counts=True)[1:]
    return np.cumsum(sizes[places].astype(np.float64) ** -identity_balance)


def draw_places(rng: np.random.Generator, cumulative: Array, count: int) -> Array:
    """Draw ``count`` places with replacement, by weights given as their running sum."""
    at = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    return np.minimum(at, len(cumulative) - 1)


@numba.njit(nogil=True, cache=True)
def _add_rows(vectors: Array, groups: Array, sums: Array) -> None:
    for row in range(len(vectors)):
        for column in range(vectors.shape[1]):
            sums[groups[row], column] += vectors[row, column]


@numba.njit(nogil=True, cache=True)
def _edges_within(
    neighbors: Array, known: Array, vertices: Array, member: Array, sources: Array, targets: Array, values: Array
) -> int:
    count = 0
    width = neighbors.shape[1]
    for row in vertices:
        for rank in range(width):
            other = neighbors[row, rank]
            if other < 0:
                break
            if not member[other]:
                continue
            value, owned, _ = larger_listing(neighbors, known, row, rank)
            if not owned:
                continue
            sources[count] = min(row, other)
            targets[count] = max(row, other)
            values[count] = value
            count += 1
    return count
