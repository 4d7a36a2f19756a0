"""Node intimacy over a pruned edge set, and the adjacency it needs.

Shape suffixes: N vertices, E edges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.union_find import Ids, check_edges
from engine.errors import DataError
from engine.tiles import map_tiles, tile_bounds

TILE_EDGES = 1 << 16
TILE_VERTICES = 1 << 18
GALLOP_RATIO = 16  # rows this many times longer are searched, not merged


def build_adjacency(
    num_vertices: int, blocks: Callable[[], Iterable[tuple[Ids, Ids]]], threads: int = 1
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Build the symmetric CSR adjacency of undirected edges given block by block.

    ``blocks`` is called twice, once to count and once to fill, and must give the same edges each time; an edge may come
    in either or both directions and repeatedly. Returns (indptr_N+1 int64, indices int32): each row ascending, without
    repeats and without the vertex itself. Equal for any order and cutting of the edges.
    Memory: 8 bytes per edge and 8 per vertex, besides one block. Raises ``DataError`` for ids outside the vertices.
    """
    if num_vertices >= 2**31:
        raise DataError(f"adjacency: {num_vertices} vertices do not fit int32 ids; cut the graph into parts first")
    indptr = np.zeros(num_vertices + 1, np.int64)
    for sources_E, targets_E in blocks():
        check_edges(sources_E, targets_E, num_vertices)
        _count(indptr, sources_E, targets_E)
    np.cumsum(indptr, out=indptr)
    indices = np.empty(indptr[-1], np.int32)
    # Each row's start is its write position while filling and so ends as the next row's start.
    filled = sum(_fill(indptr, indices, sources_E, targets_E) for sources_E, targets_E in blocks())
    if filled != len(indices):
        raise DataError("adjacency: the two passes over the edge blocks gave different edges; blocks must not change")
    indptr[1:] = indptr[:-1]
    indptr[0] = 0
    map_tiles(
        lambda tile: _sort_rows(indptr, indices, tile[0], tile[1]), tile_bounds(0, num_vertices, TILE_VERTICES), threads
    )
    return indptr, indices[: _drop_repeats(indptr, indices)]


def node_intimacy(
    indptr: NDArray[np.int64], indices: NDArray[np.int32], sources_E: Ids, targets_E: Ids, threads: int = 1
) -> NDArray[np.float32]:
    """Score edges by the share of neighbours that their ends have in common (E, float32 in 0..1, order of the edges).

    NI(i, j) = max(c / deg_i, c / deg_j) with c = |N[i] ∩ N[j]| and deg = |N[i]|, over the adjacency of
    ``build_adjacency`` (STAR-FC, CVPR 2021, section 3.4). Deviation: neighbourhoods are closed, i ∈ N[i]. With the
    published open ones an isolated clique of m scores (m − 2) / (m − 1), so at the published threshold of 0.72 every
    cluster of up to 4 dissolves; closed, a clique scores 1 at any size. Equal for any number of threads.
    """
    check_edges(sources_E, targets_E, len(indptr) - 1)
    intimacy_E = np.empty(len(sources_E), np.float32)

    def score(tile: tuple[int, int]) -> None:
        edges = slice(*tile)
        intimacy_slice(indptr, indices, sources_E[edges], targets_E[edges], intimacy_E[edges])

    map_tiles(score, tile_bounds(0, len(sources_E), TILE_EDGES), threads)
    return intimacy_E


@njit(nogil=True, cache=True)
def intimacy_slice(indptr, indices, sources, targets, out):  # type: ignore[no-untyped-def]
    """Write the node intimacy of a slice of edges into ``out`` (numba); see ``node_intimacy``."""
    for edge in range(len(sources)):
        i, j = sources[edge], targets[edge]
        if indptr[i + 1] - indptr[i] > indptr[j + 1] - indptr[j]:
            i, j = j, i
        short, long = indices[indptr[i] : indptr[i + 1]], indices[indptr[j] : indptr[j + 1]]
        common = _count_common(short, long)
        if i == j:
            common += 1
        elif _contains(short, j):
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


@njit(nogil=True, cache=True)
def _count(indptr, sources, targets):  # type: ignore[no-untyped-def]
    for edge in range(len(sources)):
        if sources[edge] != targets[edge]:
            indptr[sources[edge] + 1] += 1
            indptr[targets[edge] + 1] += 1


@njit(nogil=True, cache=True)
def _fill(indptr, indices, sources, targets):  # type: ignore[no-untyped-def]
    filled = 0
    for edge in range(len(sources)):
        i, j = sources[edge], targets[edge]
        if i != j:
            if max(indptr[i], indptr[j]) < len(indices):
                indices[indptr[i]] = j
                indptr[i] += 1
                indices[indptr[j]] = i
                indptr[j] += 1
            filled += 2
    return filled


@njit(nogil=True, cache=True)
def _sort_rows(indptr, indices, start, stop):  # type: ignore[no-untyped-def]
    for vertex in range(start, stop):
        indices[indptr[vertex] : indptr[vertex + 1]].sort()


@njit(nogil=True, cache=True)
def _drop_repeats(indptr, indices):  # type: ignore[no-untyped-def]
    written = 0
    start = 0
    for vertex in range(len(indptr) - 1):
        stop = indptr[vertex + 1]
        row = written
        for position in range(start, stop):
            if written == row or indices[position] != indices[written - 1]:
                indices[written] = indices[position]
                written += 1
        start = stop
        indptr[vertex + 1] = written
    return written
