"""What edges say of pairs that a person could be asked about: across each cut of a cluster, and between clusters.

N vertices, E edges, F edges of a spanning forest, n vertices of a range. Evidence is counted in units of 2^-30, so that
sums over ranges have no order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.evaluation.explain import ClusteredEdges

UNITS = 2.0**30  # of evidence

Array = NDArray[Any]


class CutTree(NamedTuple):
    """A rooted forest (N,): each vertex's parent, an order from roots down, depths, and values of the edges up."""

    parents: NDArray[np.int32]
    order: NDArray[np.int32]
    depths: NDArray[np.int32]
    values: NDArray[np.float32]


class CutEvidence(NamedTuple):
    """Numbers by vertex whose sums over what hangs below a vertex are the evidence, and edges, across the cut there."""

    vertices: NDArray[np.int32]
    sums: NDArray[np.int64]
    counts: NDArray[np.int64]


class MergeEvidence(NamedTuple):
    """Evidence and number of the edges from clusters to their nearest other, and the best edge of sure rows."""

    clusters: NDArray[np.int32]
    sums: NDArray[np.int64]
    counts: NDArray[np.int64]
    best: NDArray[np.float32]
    first: NDArray[np.int32]
    second: NDArray[np.int32]


class DrawnPairs(NamedTuple):
    """Edges inside clusters, those of least hash, by ascending hash."""

    hashes: NDArray[np.uint64]
    first: NDArray[np.int32]
    second: NDArray[np.int32]
    evidence: NDArray[np.float32]


def cut_tree(num: int, sources_F: Array, targets_F: Array, values_F: Array) -> CutTree:
    """Root the trees of a spanning forest at their lowest vertices."""
    near = np.concatenate([sources_F, targets_F])
    order = np.argsort(near, kind="stable")
    starts = np.searchsorted(near[order], np.arange(num + 1))
    others, values = np.concatenate([targets_F, sources_F])[order], np.concatenate([values_F, values_F])[order]
    return CutTree(*_root(starts, others, values))


def cuts_of(tree: CutTree, sums_N: Array, counts_N: Array) -> tuple[Array, ...]:
    """Give of each tree edge its lower and upper end, its value, the mean evidence across, and the pairs parted."""
    sizes, sums, counts, roots = _gather(tree.parents, tree.order, sums_N, counts_N)
    lower = np.flatnonzero(tree.parents != np.arange(len(tree.parents)))
    pairs = sizes[lower] * (sizes[roots[lower]] - sizes[lower])
    mean = sums[lower] / UNITS / np.maximum(counts[lower], 1)
    return lower, tree.parents[lower], tree.values[lower], mean, pairs


def weigh_cuts(tree: CutTree, edges: ClusteredEdges, start: int, stop: int) -> CutEvidence:
    """Count edges inside clusters for all the tree's edges between their ends; most ends lie in the range."""
    inside = _inside(edges)
    sources, targets, evidence = edges.sources[inside], edges.targets[inside], edges.evidence[inside]
    sums_n, counts_n = np.zeros(stop - start, np.int64), np.zeros(stop - start, np.int64)
    room = 3 * len(sources)
    others, sums, counts = np.empty(room, np.int32), np.empty(room, np.int64), np.empty(room, np.int64)
    own = start, stop, sums_n, counts_n
    filled = _cross(sources, targets, evidence, tree.parents, tree.depths, *own, others, sums, counts)
    touched = np.flatnonzero(counts_n).astype(np.int32)
    vertices, places = np.unique(others[:filled], return_inverse=True)
    more = np.zeros((2, len(vertices)), np.int64)
    np.add.at(more[0], places, sums[:filled])
    np.add.at(more[1], places, counts[:filled])
    return CutEvidence(
        np.concatenate([start + touched, vertices]).astype(np.int32),
        np.concatenate([sums_n[touched], more[0]]),
        np.concatenate([counts_n[touched], more[1]]),
    )


def weigh_merges(edges: ClusteredEdges, nearest_C: Array, sure_a: Array, sure_b: Array) -> MergeEvidence:
    """Sum the edges between each cluster and its nearest other, and find the best of them between sure rows.

    ``sure_a``, ``sure_b`` (E,): how sure either end's cluster is of it. Of equal edges the first one counts.
    """
    a, b = edges.source_clusters, edges.target_clusters
    apart = np.flatnonzero((a != b) & (a >= 0) & (b >= 0))
    found = [apart[nearest_C[own[apart]] == other[apart]] for own, other in ((a, b), (b, a))]
    edge = np.concatenate(found)
    own = np.concatenate([a[found[0]], b[found[1]]])
    units, values = _units(edges.evidence[edge]), edges.evidence[edge] * sure_a[edge] * sure_b[edge]
    return _by_cluster(own, units, np.ones(len(edge), np.int64), values, edges.sources[edge], edges.targets[edge], edge)


def add_merges(parts: Sequence[MergeEvidence]) -> MergeEvidence:
    """Add up the evidence of several ranges, in their order."""
    own, sums, counts, best, first, second = (np.concatenate(column) for column in zip(*parts, strict=True))
    return _by_cluster(own, sums, counts, best, first, second, np.arange(len(own)))


def draw_pairs(edges: ClusteredEdges, rows_a: Array, rows_b: Array, samples: int) -> DrawnPairs:
    """Keep the edges inside clusters of least hash; ``rows_a``, ``rows_b`` (E,): the numbers that are hashed."""
    inside = _inside(edges)
    pairs = np.sort(np.stack([rows_a[inside], rows_b[inside]], axis=1).astype(np.int64), axis=1)
    drawn = DrawnPairs(_hash(pairs), edges.sources[inside], edges.targets[inside], edges.evidence[inside])
    return least_of([drawn], samples)


def least_of(parts: Sequence[DrawnPairs], samples: int) -> DrawnPairs:
    """Keep the edges of least hash of several draws: the same for any draws."""
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")[:samples]
    return DrawnPairs(*(column[order] for column in columns))


def _inside(edges: ClusteredEdges) -> NDArray[np.bool_]:
    """Tell which edges (E,) join two vertices of one cluster."""
    same = edges.source_clusters == edges.target_clusters
    return np.asarray(same & (edges.source_clusters >= 0) & (edges.sources != edges.targets))


def _units(evidence_E: Array) -> NDArray[np.int64]:
    return np.rint(evidence_E.astype(np.float64) * UNITS).astype(np.int64)


def _by_cluster(
    own: Array, sums: Array, counts: Array, best: Array, first: Array, second: Array, place: Array
) -> MergeEvidence:
    order = np.lexsort((place, -best, own))
    clusters, begins = np.unique(own[order], return_index=True)
    top = order[begins]
    if not len(clusters):
        return MergeEvidence(own, sums, counts, best, first, second)
    sums, counts = (np.add.reduceat(column[order], begins) for column in (sums, counts))
    return MergeEvidence(clusters, sums, counts, best[top], first[top], second[top])


def _hash(pairs: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash pairs of rows (splitmix64): a fixed order that has nothing to do with rows or scores."""
    with np.errstate(over="ignore"):
        x = pairs[:, 0].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + pairs[:, 1].astype(np.uint64)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True)
def _root(starts, others, values):  # type: ignore[no-untyped-def]
    """Root each tree at its lowest vertex; give parents, an order from roots down, depths, values of the edges up."""
    num = len(starts) - 1
    parents, order = np.full(num, -1, np.int32), np.empty(num, np.int32)
    depths, up = np.zeros(num, np.int32), np.zeros(num, np.float32)
    filled = 0
    for root in range(num):
        if parents[root] >= 0:
            continue
        parents[root], order[filled] = root, root
        reached = filled
        filled += 1
        while reached < filled:
            vertex = order[reached]
            reached += 1
            for place in range(starts[vertex], starts[vertex + 1]):
                other = others[place]
                if parents[other] < 0:
                    parents[other], depths[other], up[other] = vertex, depths[vertex] + 1, values[place]
                    order[filled] = other
                    filled += 1
    return parents, order, depths, up


@njit(nogil=True, cache=True)
def _cross(sources, targets, evidence, parents, depths, start, stop, sums_n, counts_n, others, sums, counts):  # type: ignore[no-untyped-def]
    """Add each edge at both ends, and take it away twice where they meet; list what lies outside of the range."""
    filled = 0
    for edge in range(len(evidence)):
        a, b = sources[edge], targets[edge]
        units = np.int64(np.rint(min(np.float64(evidence[edge]), 1.0) * UNITS))
        top, other = a, b
        while top != other:
            if depths[top] >= depths[other]:
                top = parents[top]
            else:
                other = parents[other]
        for vertex, times in ((a, 1), (b, 1), (top, -2)):
            if start <= vertex < stop:
                sums_n[vertex - start] += times * units
                counts_n[vertex - start] += times
            else:
                others[filled], sums[filled], counts[filled] = vertex, times * units, times
                filled += 1
    return filled


@njit(nogil=True, cache=True)
def _gather(parents, order, sums, counts):  # type: ignore[no-untyped-def]
    """Add up what hangs below each vertex: vertices, evidence and number of the edges that leave it; and its root."""
    sizes, below, numbers = np.ones(len(parents), np.int64), sums.copy(), counts.copy()
    roots = parents.copy()
    for place in range(len(order) - 1, -1, -1):
        vertex = order[place]
        if parents[vertex] != vertex:
            sizes[parents[vertex]] += sizes[vertex]
            below[parents[vertex]] += below[vertex]
            numbers[parents[vertex]] += numbers[vertex]
    for vertex in order:
        roots[vertex] = roots[parents[vertex]]
    return sizes, below, numbers, roots
