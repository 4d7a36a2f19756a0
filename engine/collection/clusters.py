"""Clusters made anew where a change can move them, from scores that are stored.

The clusters with a touched row are opened. What they share an edge with may join them, and everything else stays as it
is. For the map equation all other clusters are one node each, so that the walk is that of the whole graph, and the
opened clusters are improved from what they were. Any other partition makes the opened clusters, and those that they
border on, from their edges alone.
Legend: N rows or vertices, n nodes, S vertices of a part of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.clustering.contraction import contract
from engine.clustering.decided import hold
from engine.clustering.evidence import weigh_edges
from engine.clustering.map_equation import refine_modules
from engine.clustering.matching import Lineage, match_clusters
from engine.collection.state import State
from engine.partitions import PARTITIONS
from engine.partitions.base import Edges

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Repartition:
    """The clusters after a change: ``labels_N`` int64, the next cluster's id, and what became of clusters."""

    labels_N: Array
    next_cluster: int
    lineage: Lineage


def repartition(state: State, touched_V: Array, unplaced_N: Array, threads: int) -> Repartition:
    """Make clusters anew where they hold a touched vertex, and give rows without a cluster one.

    ``touched_V``: bool, by vertex. ``unplaced_N``: bool, rows that have no cluster yet; other rows without one stay so.
    A cluster that holds no touched row and shares no edge with one that does keeps its id and its rows.
    """
    rows_V = state.row_numbers
    before_V = state.labels_N[rows_V]
    stands_V = state.leaders_N[rows_V] == rows_V  # copies have no edges of their own
    copied_N = np.zeros(state.num_rows, np.bool_)
    copied_N[state.leaders_N[unplaced_N]] = True  # what a new row is a copy of takes it in
    touched_V = touched_V | copied_N[rows_V]
    opened = np.unique(before_V[touched_V & (before_V >= 0)])
    free_V = (np.isin(before_V, opened) | unplaced_N[rows_V]) & stands_V
    if not free_V.any():
        groups_V, affected_V = np.full(len(before_V), -1, np.int64), np.zeros(len(before_V), np.bool_)
    elif state.point_partition == "map_equation":
        groups_V, affected_V = _walk_again(state, before_V, free_V, stands_V, threads)
    else:
        groups_V, affected_V = _cluster_again(state, before_V, free_V, threads)
    groups_N, affected_N = np.full(state.num_rows, -1, np.int64), np.zeros(state.num_rows, np.bool_)
    groups_N[rows_V], affected_N[rows_V] = groups_V, affected_V
    groups_N, affected_N = groups_N[state.leaders_N], affected_N[state.leaders_N]
    if len(state.pairs):
        groups_N = _hold(state, np.where(affected_N, groups_N, -1))
        affected_N = np.ones(state.num_rows, np.bool_)
    rows = np.flatnonzero(affected_N)
    labels_N = state.labels_N.copy()
    labels_N[rows], next_cluster, lineage = match_clusters(labels_N[rows], groups_N[rows], state.next_cluster)
    return Repartition(labels_N, next_cluster, lineage)


def _hold(state: State, groups_N: Array) -> Array:
    """Keep what people decided: pairs of rows of one cluster together, and others apart.

    ``groups_N``: rows of -1 have the cluster that they had, or none.
    """
    none_N = (groups_N < 0) & (state.labels_N < 0)
    first = int(groups_N.max(initial=0)) + 1
    whole_N = np.where(groups_N >= 0, groups_N, first + state.labels_N)
    whole_N[none_N] = first + int(state.labels_N.max(initial=0)) + 1 + np.flatnonzero(none_N)
    _, before_N = np.unique(whole_N, return_inverse=True)
    named_N = np.isin(before_N, before_N[state.pairs.ravel()])
    rows_V = state.row_numbers
    copies = np.flatnonzero((state.leaders_N != np.arange(state.num_rows)) & named_N)
    found = [(state.leaders_N[copies].astype(np.int64), copies, np.ones(len(copies), np.float32))]
    for sources, targets, scores in state.edges():
        a, b = rows_V[sources].astype(np.int64), rows_V[targets].astype(np.int64)
        inside = named_N[a] & named_N[b]
        found.append((a[inside], b[inside], scores[inside]))
    sources, targets, scores = (np.concatenate(column) for column in zip(*found, strict=True))
    must, cannot = state.pairs[state.same], state.pairs[~state.same]
    even = float(state.kept.point.get("min_score") or 0.5)
    held_N = np.asarray(hold(before_N, must, cannot, sources, targets, scores, even), np.int64)
    return np.where(none_N, -1, held_N)


def _walk_again(state: State, before_V: Array, free_V: Array, stands_V: Array, threads: int) -> tuple[Array, Array]:
    """Improve the opened clusters by the map equation; give each vertex's group, and which vertices may have moved."""
    present_V = stands_V & (free_V | (before_V >= 0))
    lowest_V = _lowest_members(before_V)
    vertices = np.arange(len(before_V))
    keys = np.where(free_V, vertices, lowest_V)[present_V]
    names, places = np.unique(keys, return_inverse=True)
    node_V = np.full(len(before_V), -1, np.int32)
    node_V[present_V] = places
    free_n = free_V[names]
    point = state.kept.point

    def blocks() -> Iterator[tuple[Array, Array, Array]]:
        for edges in state.edges():
            yield weigh_edges(edges, point["weight"], point["min_score"], point.get("bandwidth", 1.0))

    indptr, indices, weights = contract(len(names), node_V, free_n, blocks())
    start_n = np.arange(len(names), dtype=np.int32)
    known = free_n & (before_V[names] >= 0)
    _, firsts, cluster = np.unique(before_V[names][known], return_index=True, return_inverse=True)
    start_n[known] = np.flatnonzero(known)[firsts][cluster]
    found_n = refine_modules(indptr, indices, weights, start_n, threads=threads, seed=state.kept.seed).roots_N
    near_n = free_n.copy()
    owners = np.repeat(np.arange(len(names)), np.diff(indptr))
    near_n[owners[free_n[indices]]] = True
    groups_n = np.where(near_n, found_n, len(names) + np.arange(len(names)))  # who borders on nothing opened stays
    holds_free = np.zeros(2 * len(names), np.bool_)
    holds_free[groups_n[free_n]] = True
    affected_V, groups_V = np.zeros(len(before_V), np.bool_), np.full(len(before_V), -1, np.int64)
    affected_V[present_V] = holds_free[groups_n][places]
    groups_V[present_V] = groups_n[places]
    return groups_V, affected_V


def _cluster_again(state: State, before_V: Array, free_V: Array, threads: int) -> tuple[Array, Array]:
    """Cluster the opened clusters and those that they border on by their edges alone."""
    point = state.kept.point
    least = np.float32(point["min_score"])
    bordering = [np.empty(0, np.int64)]
    for sources, targets, scores in state.edges():
        across = (free_V[sources] != free_V[targets]) & (scores >= least)
        outer = np.where(free_V[sources[across]], targets[across], sources[across])
        bordering.append(before_V[outer])
    joined = np.unique(np.concatenate(bordering))
    part_V = free_V | np.isin(before_V, joined[joined >= 0])
    vertices = np.flatnonzero(part_V)
    number_V = np.full(len(before_V), -1, np.int32)
    number_V[vertices] = np.arange(len(vertices), dtype=np.int32)
    columns: list[tuple[Array, ...]] = [(np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))]
    for sources, targets, scores in state.edges():
        inside = part_V[sources] & part_V[targets]
        columns.append((number_V[sources[inside]], number_V[targets[inside]], scores[inside]))
    edges = Edges(*(np.concatenate(column) for column in zip(*columns, strict=True)))
    facts = state.kept.facts
    find = PARTITIONS[state.point_partition].find(
        edges,
        len(vertices),
        point,
        learned=state.kept.learned,
        step=facts["step"],
        seed=state.kept.seed,
        threads=threads,
    )
    groups_V = np.full(len(before_V), -1, np.int64)
    groups_V[vertices] = find(facts["precision_bias"])
    return groups_V, part_V


def _lowest_members(labels_V: Array) -> Array:
    """The lowest vertex of each vertex's cluster; of a vertex in none, itself."""
    lowest = np.arange(len(labels_V))
    known = np.flatnonzero(labels_V >= 0)
    _, firsts, places = np.unique(labels_V[known], return_index=True, return_inverse=True)
    lowest[known] = known[firsts][places]
    return lowest


def touch_ends(state: State, edges: tuple[Array, ...], touched_V: Array) -> None:
    """Mark the ends of the edges that count."""
    sources, targets, scores = edges
    counted = scores >= np.float32(state.kept.point["min_score"])
    touched_V[sources[counted]] = True
    touched_V[targets[counted]] = True
