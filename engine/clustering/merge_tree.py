"""What every cut of a maximum spanning forest would cluster, from one pass over the edges and one over the forest.

The edges of a forest, strongest first, join components: they make a tree of merges. Two vertices part at the weakest
edge between them, so what lies inside a cluster, at any threshold and size cap, is the sum of what parts at its edges.

Shape suffixes: N vertices, F edges of a forest by descending weight, n rows of a block, K neighbours, M size caps.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.label_free import STEP_BANDWIDTH, STEP_REACH
from engine.clustering.propagation import score_levels
from engine.clustering.union_find import Ids, find_root

UNIT = 1 << 62  # a flow of 1: all flows together are 1, so sums of flows are exact and in no order
_ROOT = np.iinfo(np.int32).max  # rank of a vertex that hangs on none

Forest = tuple[Ids, Ids, NDArray[np.float32]]
Sums = tuple[NDArray[np.int32], NDArray[np.int64]]  # ascending keys, and the sum of each


class MergeTree(NamedTuple):
    """Each vertex's ``parents`` (N,) and ``ranks`` (N,), both int32: the place of the edge by which it hangs there."""

    parents: NDArray[np.int32]
    ranks: NDArray[np.int32]


class Walk(NamedTuple):
    """A forest; the flow of a random walk through each vertex, and the flow of the steps that part at each edge."""

    forest: Forest
    flows_N: NDArray[np.int64]
    inside_F: NDArray[np.int64]


class Cuts(NamedTuple):
    """For each size cap (M,): bits of a step of the walk by the map equation, number of clusters, flow inside them."""

    bits: NDArray[np.float64]
    clusters: NDArray[np.int64]
    inside: NDArray[np.int64]


def merge_tree(forest: Forest, num_vertices: int) -> MergeTree:
    """Hang the smaller component on the larger at each edge, which keeps the tree a few links deep."""
    tree = MergeTree(np.arange(num_vertices, dtype=np.int32), np.full(num_vertices, _ROOT, np.int32))
    _hang(forest[0], forest[1], *tree)
    return tree


def walk_block(
    neighbors_nK: NDArray[Any], similarities_nK: NDArray[np.float32], start: int, tree: MergeTree
) -> tuple[Sums, Sums]:
    """Sum the flows of a walk's steps from the rows ``start``...: through each vertex, and parting at each edge.

    The walk steps from i to its neighbour j with probability ∝ exp(s_ij / ``STEP_BANDWIDTH``), symmetrised: it flows
    through either end. Flows are integers, so sums of blocks are added in any order. A step whose ends are in no common
    tree parts at none.
    """
    num_steps = _count_steps(neighbors_nK, similarities_nK)
    ends, edges = np.empty(num_steps, np.int32), np.empty(num_steps, np.int32)
    flows, own_n = np.empty(num_steps, np.int64), np.zeros(len(neighbors_nK), np.int64)
    _walk(neighbors_nK, similarities_nK, start, *tree, own_n, ends, edges, flows)
    rows = np.arange(start, start + len(own_n), dtype=np.int32)
    through = sum_by_key(np.concatenate([rows, ends]), np.concatenate([own_n, flows]))
    return through, sum_by_key(edges[edges >= 0], flows[edges >= 0])


def parted(sources_E: Ids, targets_E: Ids, tree: MergeTree) -> Sums:
    """Count the edges that part at each edge of the forest."""
    edges = np.empty(len(sources_E), np.int32)
    _part(sources_E, targets_E, *tree, edges)
    edges = edges[edges >= 0]
    return sum_by_key(edges, np.ones(len(edges), np.int64))


def sum_by_key(keys: NDArray[np.int32], values: NDArray[np.int64]) -> Sums:
    """Sum the values of each key."""
    order = np.argsort(keys, kind="stable")
    keys, firsts = np.unique(keys[order], return_index=True)
    return keys, np.add.reduceat(values[order], firsts) if len(firsts) else np.empty(0, np.int64)


@njit(nogil=True, cache=True)
def add_sums(totals, keys, sums):  # type: ignore[no-untyped-def]
    """Add the sums of a block to the totals by key (numba)."""
    for place in range(len(keys)):
        totals[keys[place]] += sums[place]


def cut(walk: Walk, min_score: float, caps: list[int], step: float) -> Cuts:
    """Measure the clusters that ``propagate`` makes of the forest with ``min_score``, for each ascending size cap.

    One pass over the forest for all caps. A component of s rows that next grows to p is a cluster for the caps from s
    to below p; one of the highest level is a cluster for lower caps, too. Memory: 50 bytes per vertex.
    """
    sources_F, targets_F, weights_F = walk.forest
    levels = score_levels(min_score, min_score, step)
    stops = np.searchsorted(-weights_F, -levels[::-1], side="right")
    caps_M = np.array(caps, np.int64)
    exits = np.zeros(len(caps), np.int64)
    found = Cuts(np.zeros(len(caps)), np.zeros(len(caps), np.int64), np.zeros(len(caps), np.int64))
    _sweep(sources_F, targets_F, walk.inside_F, walk.flows_N, stops, caps_M, exits, *found)
    constant = sum(_terms(walk.flows_N[begin : begin + (1 << 20)]) for begin in range(0, len(walk.flows_N), 1 << 20))
    bits = found.bits + np.array([_term(exit) for exit in exits]) - constant
    return found._replace(bits=bits)


@njit(nogil=True, cache=True)
def _hang(sources, targets, parents, ranks):  # type: ignore[no-untyped-def]
    sizes = np.ones(len(parents), np.int32)
    for edge in range(len(sources)):
        a, b = sources[edge], targets[edge]
        while parents[a] != a:
            a = parents[a]
        while parents[b] != b:
            b = parents[b]
        if sizes[a] < sizes[b] or (sizes[a] == sizes[b] and a > b):
            a, b = b, a
        parents[b], ranks[b] = a, edge
        sizes[a] += sizes[b]


@njit(nogil=True, cache=True, inline="always")
def _parting(a, b, parents, ranks):  # type: ignore[no-untyped-def]
    """Find the weakest edge between two vertices; -1 if there is none. Links grow weaker from a vertex upwards."""
    edge = -1
    while a != b:
        if ranks[a] <= ranks[b]:
            if ranks[a] == _ROOT:
                return -1
            edge, a = ranks[a], parents[a]
        else:
            edge, b = ranks[b], parents[b]
    return edge


@njit(nogil=True, cache=True)
def _part(sources, targets, parents, ranks, edges):  # type: ignore[no-untyped-def]
    for place in range(len(sources)):
        edges[place] = _parting(sources[place], targets[place], parents, ranks)


@njit(nogil=True, cache=True, inline="always")
def _reach(neighbors, similarities, row):  # type: ignore[no-untyped-def]
    """Count the neighbours that the walk may step to."""
    for k in range(neighbors.shape[1]):
        if neighbors[row, k] < 0 or similarities[row, 0] - similarities[row, k] > STEP_REACH:
            return k
    return neighbors.shape[1]


@njit(nogil=True, cache=True)
def _count_steps(neighbors, similarities):  # type: ignore[no-untyped-def]
    count = 0
    for row in range(len(neighbors)):
        count += _reach(neighbors, similarities, row)
    return count


@njit(nogil=True, cache=True)
def _walk(neighbors, similarities, start, parents, ranks, own, ends, edges, flows):  # type: ignore[no-untyped-def]
    place, odds = 0, np.empty(neighbors.shape[1])
    for row in range(len(neighbors)):
        total, reach = 0.0, _reach(neighbors, similarities, row)
        for k in range(reach):
            odds[k] = np.exp((similarities[row, k] - similarities[row, 0]) / STEP_BANDWIDTH)
            total += odds[k]
        for k in range(reach):
            flow = np.int64(np.rint(0.5 * odds[k] / (total * len(parents)) * UNIT))
            own[row] += flow
            ends[place], flows[place] = neighbors[row, k], flow
            edges[place] = _parting(start + row, neighbors[row, k], parents, ranks)
            place += 1


@njit(nogil=True, cache=True)
def _term(flow):  # type: ignore[no-untyped-def]
    share = flow / UNIT
    return share * np.log2(share) if share > 0 else 0.0


@njit(nogil=True, cache=True)
def _terms(flows):  # type: ignore[no-untyped-def]
    total = 0.0
    for flow in flows:
        total += _term(flow)
    return total


@njit(nogil=True, cache=True, inline="always")
def _count(flow, inner, low, high, exits, bits, clusters, inside):  # type: ignore[no-untyped-def]
    """Count a cluster for the caps from ``low`` to below ``high``."""
    leaving = flow - 2 * inner
    term = _term(leaving + flow) - 2 * _term(leaving)
    for cap in range(low, high):
        exits[cap] += leaving
        bits[cap] += term
        clusters[cap] += 1
        inside[cap] += inner


@njit(nogil=True, cache=True)
def _sweep(sources, targets, inside_F, flows_N, stops, caps, exits, bits, clusters, inside):  # type: ignore[no-untyped-def]
    num = len(flows_N)
    parents, sizes = np.arange(num).astype(np.int32), np.ones(num, np.int64)
    flows, inner = flows_N.copy(), np.zeros(num, np.int64)
    grown, more_flow, more_inner = np.zeros(num, np.int64), np.zeros(num, np.int64), np.zeros(num, np.int64)
    touched, begin = np.empty(num, np.int32), 0
    highest = np.ones(num, np.bool_)  # components of the highest level, which no cap divides
    for level in range(len(stops)):
        end, count = stops[level], 0
        for edge in range(begin, end):
            a, b = find_root(parents, sources[edge]), find_root(parents, targets[edge])
            for root in (a, b):
                if grown[root] == 0:  # a component of the level before
                    grown[root] = -1
                    touched[count] = root
                    count += 1
            parents[max(a, b)] = min(a, b)
        for root in touched[:count]:
            grown[root] = 0
        for root in touched[:count]:
            top = find_root(parents, root)
            grown[top] += sizes[root]
            more_flow[top] += flows[root]
            more_inner[top] += inner[root]
        for edge in range(begin, end):
            more_inner[find_root(parents, sources[edge])] += inside_F[edge]
        if level > 0:
            for root in touched[:count]:
                low = 0 if highest[root] else np.searchsorted(caps, sizes[root])
                high = np.searchsorted(caps, grown[find_root(parents, root)])
                _count(flows[root], inner[root], low, high, exits, bits, clusters, inside)
        for root in touched[:count]:
            if parents[root] == root:
                sizes[root], flows[root], inner[root] = grown[root], more_flow[root], more_inner[root]
                highest[root] = level == 0
                grown[root], more_flow[root], more_inner[root] = 0, 0, 0
        begin = end
    for root in range(num):
        if parents[root] == root:
            low = 0 if highest[root] else np.searchsorted(caps, sizes[root])
            _count(flows[root], inner[root], low, len(caps), exits, bits, clusters, inside)
