"""Node intimacy over a pruned edge set.

Shape suffixes: N vertices, E edges.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.union_find import Ids, check_edges
from engine.tiles import map_tiles, tile_bounds

TILE_EDGES = 1 << 16
GALLOP_RATIO = 16  # a row so many times as long as the other is searched, not merged


def node_intimacy(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    sources_E: Ids,
    targets_E: Ids,
    threads: int = 1,
    vertices: Ids | None = None,
) -> NDArray[np.float32]:
    """Score edges by the share of neighbours that their ends have in common (E, float32 in 0..1, order of the edges).

    NI(i, j) = max(c / deg_i, c / deg_j) with c = |N[i] ∩ N[j]| and deg = |N[i]|, over the adjacency of
    ``build_adjacency`` (STAR-FC, CVPR 2021, section 3.4). Deviation: neighbourhoods are closed, i ∈ N[i]. With the
    published open neighbourhoods an isolated clique of m vertices scores (m − 2) / (m − 1), so the published threshold
    of 0.72 dissolves every cluster of up to 4 vertices; with closed ones a clique of any size scores 1. The result is
    equal for any number of threads.

    ``vertices``: whose rows the adjacency has, if it has not all; ends are then places among them.
    """
    check_edges(sources_E, targets_E, len(indptr) - 1)
    names = np.empty(0, np.int32) if vertices is None else vertices
    intimacy_E = np.empty(len(sources_E), np.float32)

    def score(tile: tuple[int, int]) -> None:
        edges = slice(*tile)
        intimacy_slice(indptr, indices, names, sources_E[edges], targets_E[edges], intimacy_E[edges])

    map_tiles(score, tile_bounds(0, len(sources_E), TILE_EDGES), threads)
    return intimacy_E


def intimate_edges(
    indptr: NDArray[np.int64],
    indices: NDArray[np.int32],
    sources_E: Ids,
    targets_E: Ids,
    least: float | Literal["adaptive"],
    threads: int = 1,
    vertices: Ids | None = None,
) -> NDArray[np.bool_]:
    """Tell which edges have a node intimacy of at least ``least`` (E,); ``adaptive``: ``adaptive_intimacy`` of each."""
    intimacy_E = node_intimacy(indptr, indices, sources_E, targets_E, threads, vertices)
    if least != "adaptive":
        return intimacy_E >= np.float32(least)
    degrees_N = np.diff(indptr) + 1
    return intimacy_E >= adaptive_intimacy(np.minimum(degrees_N[sources_E], degrees_N[targets_E]))


def adaptive_intimacy(degrees_E: NDArray[np.int64]) -> NDArray[np.float32]:
    """Compute the least node intimacy of edges by the smaller degree of their ends: 0.652, from 20 on 0.751, 30 0.774.

    0.78 / (0.85 ** (10 q) + 1) with q = 1..3, a tenth of the degree (STAR-FC, extended version). Deviation: a degree
    counts the vertex itself, because neighbourhoods are closed.
    """
    tenths = np.clip(degrees_E // 10, 1, 3)
    return (0.78 / (0.85 ** (10.0 * tenths) + 1)).astype(np.float32)


@njit(nogil=True, cache=True)
def intimacy_slice(indptr, indices, names, sources, targets, out):  # type: ignore[no-untyped-def]
    """Write the node intimacy of a slice of edges into ``out`` (numba); see ``node_intimacy``."""
    for edge in range(len(sources)):
        i, j = sources[edge], targets[edge]
        if indptr[i + 1] - indptr[i] > indptr[j + 1] - indptr[j]:
            i, j = j, i
        short, long = indices[indptr[i] : indptr[i + 1]], indices[indptr[j] : indptr[j + 1]]
        common = _count_common(short, long)
        if i == j:
            common += 1
        elif _contains(short, names[j] if len(names) else j):
            common += 2  # i itself lies in N[j], and j in N[i]
        out[edge] = common / (len(short) + 1)


@njit(nogil=True, cache=True)
def _count_common(short, long):  # type: ignore[no-untyped-def]
    common = 0
    b = 0
    if len(long) > GALLOP_RATIO * len(short):
        for a in range(len(short)):
            b += np.searchsorted(long[b:], short[a])
            if b == len(long):
                break
            if long[b] == short[a]:
                common += 1
        return common
    a = 0
    while a < len(short) and b < len(long):
        x, y = short[a], long[b]
        common += x == y
        a += x <= y
        b += y <= x
    return common


@njit(nogil=True, cache=True)
def _contains(row, vertex):  # type: ignore[no-untyped-def]
    position = np.searchsorted(row, vertex)
    return position < len(row) and row[position] == vertex
