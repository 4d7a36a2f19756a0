"""Turn the directed KNN graph into undirected structure: row-normalised adjacency, averaged vectors, the edge list.

Legend: N vertices, D feature dimension, K neighbours, n rows of the block ``start..stop``, E edges.
``neighbors_NK`` holds ids by descending similarity, -1 as padding at the end of short rows, the row itself left out.
Each function gives the same bits for any number of threads and any cut of the vertices into blocks.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

from engine.graph.intrinsics import prefetch_row, widen
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

SCAN_ROWS = 65_536
TILE_ROWS = 1_024
AGGREGATE_ROWS = 256


class AdjacencyRows(NamedTuple):
    """Rows ``start..stop`` of the row-normalised adjacency, as CSR with global column ids."""

    indptr: Array
    indices: Array
    weights: Array


class EdgeList(NamedTuple):
    """Undirected edges, ``sources < targets``."""

    sources: Array
    targets: Array
    similarities: Array


def symmetric_rows(
    neighbors_NK: Array, similarities_NK: Array, start: int, stop: int, *, threads: int = 1
) -> AdjacencyRows:
    """Build rows ``start..stop`` of Â: max-symmetrised, self loop of weight 1 added, row-normalised.

    An entry (i, j) exists if either lists the other; its weight is the larger of the listed similarities clipped to
    [0, 1], divided by the row's sum (STAR-FC, section 3). Returns ``indptr`` int64 (n + 1), ``indices`` int32 sorted
    within a row, ``weights`` float32. Reverse neighbours come from one scan over all N rows, ``SCAN_ROWS`` at a time:
    peak memory is about 40 bytes per entry of the block.
    """

    def scan(bounds: tuple[int, int]) -> tuple[Array, Array, Array]:
        a, b = bounds
        neighbors = np.ascontiguousarray(neighbors_NK[a:b], dtype=np.int32)
        similarities = np.ascontiguousarray(similarities_NK[a:b], dtype=np.float32)
        count = _count_listed(neighbors, start, stop)
        rows, sources = np.empty(count, np.int32), np.empty(count, np.int32)
        values = np.empty(count, np.float32)
        _collect_listed(neighbors, similarities, a, start, stop, rows, sources, values)
        return rows, sources, values

    found = map_tiles(scan, tile_bounds(0, len(neighbors_NK), SCAN_ROWS), threads)
    own_neighbors = np.ascontiguousarray(neighbors_NK[start:stop], dtype=np.int32)
    own_similarities = np.ascontiguousarray(similarities_NK[start:stop], dtype=np.float32)
    counts = np.zeros(stop - start, np.int64)
    for rows, _, _ in found:
        counts += np.bincount(rows, minlength=stop - start)
    reverse_indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    reverse_ids = np.empty(reverse_indptr[-1], np.int32)
    reverse_values = np.empty(reverse_indptr[-1], np.float32)
    cursor = reverse_indptr[:-1].copy()
    while found:  # scans are in row order, so each row's reverse neighbours come out sorted
        _scatter(*found.pop(0), cursor, reverse_ids, reverse_values)

    bounds = tile_bounds(start, stop, TILE_ROWS)
    sizes = np.empty(stop - start, np.int64)
    upper = reverse_indptr[1:] - reverse_indptr[:-1] + own_neighbors.shape[1] + 1
    room = np.concatenate([np.zeros(1, np.int64), np.cumsum(upper)])
    ids, values = np.empty(room[-1], np.int32), np.empty(room[-1], np.float32)

    def merge(tile: tuple[int, int]) -> None:
        a, b = tile[0] - start, tile[1] - start
        _merge_rows(
            own_neighbors,
            own_similarities,
            reverse_indptr,
            reverse_ids,
            reverse_values,
            start,
            a,
            b,
            room,
            ids,
            values,
            sizes,
        )

    map_tiles(merge, bounds, threads)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    _compact(room, indptr, ids, values)
    return AdjacencyRows(indptr, ids[: indptr[-1]], values[: indptr[-1]])


def aggregate(indptr: Array, indices: Array, weights: Array, features_ND: Array, *, threads: int = 1) -> Array:
    """Compute Âx for the rows of one CSR block: (n, D) float32, summed in the order of ``indices``.

    ``features_ND`` is float16 or float32, plain or memory-mapped. Float16 is decoded exactly while it is read, so
    no array larger than the result is allocated.
    """
    num_rows, dimension = len(indptr) - 1, features_ND.shape[1]
    result = np.zeros((num_rows, dimension), np.float32)
    half = features_ND.dtype == np.float16
    source = features_ND.view(np.int16) if half else np.asarray(features_ND, dtype=np.float32)

    def run(tile: tuple[int, int]) -> None:
        if half:
            _aggregate_half(indptr, indices, weights, source, *tile, result)
        else:
            _aggregate_single(indptr, indices, weights, source, *tile, result)

    map_tiles(run, tile_bounds(0, num_rows, AGGREGATE_ROWS), threads)
    return result


def undirected_edges(
    neighbors_NK: Array,
    similarities_NK: Array,
    start: int,
    stop: int,
    min_similarity: float = -1.0,
    *,
    max_per_vertex: int = 0,
    threads: int = 1,
) -> EdgeList:
    """List the undirected edges owned by rows ``start..stop``: over all blocks, each edge exactly once.

    If both ends list each other, the lower id owns the edge; otherwise the row that lists the other end does. The
    edge's similarity is the larger of the two listed. Edges below ``min_similarity`` are left out. So are edges that
    neither end lists among its first ``max_per_vertex`` neighbours, unless that is 0. Edges are ordered by (owner,
    rank) and given as (lower id, higher id, similarity): int32, int32, float32.
    """
    offered = max_per_vertex or neighbors_NK.shape[1]

    def run(tile: tuple[int, int]) -> tuple[Array, Array, Array]:
        a, b = tile
        capacity = (b - a) * neighbors_NK.shape[1]
        sources, targets = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
        similarities = np.empty(capacity, np.float32)
        count = _owned_edges(
            neighbors_NK, similarities_NK, a, b, np.float32(min_similarity), offered, sources, targets, similarities
        )
        return sources[:count].copy(), targets[:count].copy(), similarities[:count].copy()

    parts = map_tiles(run, tile_bounds(start, stop, TILE_ROWS), threads)
    empty = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
    columns = zip(empty, *parts, strict=True)
    return EdgeList(*(np.concatenate(column) for column in columns))


@numba.njit(nogil=True, cache=True)
def _count_listed(neighbors: Array, start: int, stop: int) -> int:
    count = 0
    for row in range(neighbors.shape[0]):
        for rank in range(neighbors.shape[1]):
            count += int(start <= neighbors[row, rank] < stop)
    return count


@numba.njit(nogil=True, cache=True)
def _collect_listed(
    neighbors: Array, similarities: Array, first: int, start: int, stop: int, rows: Array, sources: Array, values: Array
) -> None:
    place = 0
    for row in range(neighbors.shape[0]):
        for rank in range(neighbors.shape[1]):
            other = neighbors[row, rank]
            if start <= other < stop:
                rows[place] = other - start
                sources[place] = first + row
                values[place] = similarities[row, rank]
                place += 1


@numba.njit(nogil=True, cache=True)
def _scatter(rows: Array, sources: Array, values: Array, cursor: Array, ids_out: Array, values_out: Array) -> None:
    for place in range(len(rows)):
        row = rows[place]
        ids_out[cursor[row]] = sources[place]
        values_out[cursor[row]] = values[place]
        cursor[row] += 1


@numba.njit(nogil=True, cache=True)
def _merge_rows(
    neighbors: Array,
    similarities: Array,
    reverse_indptr: Array,
    reverse_ids: Array,
    reverse_values: Array,
    first: int,
    begin: int,
    end: int,
    room: Array,
    ids: Array,
    values: Array,
    sizes: Array,
) -> None:
    width = neighbors.shape[1]
    own = np.empty(width + 1, np.int32)
    own_values = np.empty(width + 1, np.float32)
    for row in range(begin, end):
        count = 1
        own[0] = first + row
        own_values[0] = np.float32(1.0)
        for rank in range(width):
            if neighbors[row, rank] < 0:
                break
            own[count] = neighbors[row, rank]
            own_values[count] = similarities[row, rank]
            count += 1
        order = np.argsort(own[:count])
        place, reverse, reverse_end = room[row], reverse_indptr[row], reverse_indptr[row + 1]
        total = np.float64(0.0)
        value = np.float32(0.0)
        forward = 0
        while forward < count or reverse < reverse_end:
            left = own[order[forward]] if forward < count else np.int32(2147483647)
            right = reverse_ids[reverse] if reverse < reverse_end else np.int32(2147483647)
            value = np.float32(0.0)
            if left <= right:
                value = own_values[order[forward]]
                forward += 1
            if right <= left:
                value = max(value, reverse_values[reverse])
                reverse += 1
            value = min(max(value, np.float32(0.0)), np.float32(1.0))
            ids[place] = min(left, right)
            values[place] = value
            total += value
            place += 1
        sizes[row] = place - room[row]
        for entry in range(room[row], place):
            values[entry] = values[entry] / total


@numba.njit(nogil=True, cache=True)
def _compact(room: Array, indptr: Array, ids: Array, values: Array) -> None:
    for row in range(len(indptr) - 1):
        for entry in range(indptr[row + 1] - indptr[row]):
            ids[indptr[row] + entry] = ids[room[row] + entry]
            values[indptr[row] + entry] = values[room[row] + entry]


@numba.njit(nogil=True, cache=True)
def _aggregate_half(
    indptr: Array, indices: Array, weights: Array, source: Array, begin: int, end: int, out: Array
) -> None:
    total = np.empty(source.shape[1], np.float32)
    for row in range(begin, end):
        total[:] = np.float32(0.0)
        entry, stop = indptr[row], indptr[row + 1]
        while entry + 4 <= stop:  # four at a time, added in order, so that the sum is read and written once per four
            for later in range(entry + 8, entry + 12):
                prefetch_row(source, indices[min(later, stop - 1)])
            a, b = source[indices[entry]], source[indices[entry + 1]]
            c, d = source[indices[entry + 2]], source[indices[entry + 3]]
            wa, wb, wc, wd = weights[entry], weights[entry + 1], weights[entry + 2], weights[entry + 3]
            for column in range(len(total)):
                value = (total[column] + wa * widen(a[column])) + wb * widen(b[column])
                total[column] = (value + wc * widen(c[column])) + wd * widen(d[column])
            entry += 4
        while entry < stop:
            vector, weight = source[indices[entry]], weights[entry]
            for column in range(len(total)):
                total[column] += weight * widen(vector[column])
            entry += 1
        out[row] = total


@numba.njit(nogil=True, cache=True)
def _aggregate_single(
    indptr: Array, indices: Array, weights: Array, source: Array, begin: int, end: int, out: Array
) -> None:
    dimension = source.shape[1]
    for row in range(begin, end):
        for entry in range(indptr[row], indptr[row + 1]):
            other, weight = indices[entry], weights[entry]
            for column in range(dimension):
                out[row, column] += weight * source[other, column]


@numba.njit(nogil=True, cache=True)
def rank_listed(listed: Array, vertex: int) -> Any:
    """Find the rank at which a row lists a vertex, -1 if it does not (numba)."""
    found, wanted = np.int32(-1), np.int32(vertex)
    for rank in range(np.int32(len(listed))):  # int32 and no early exit: the compiler then compares eight at once
        found = max(found, np.int32(rank) if listed[rank] == wanted else np.int32(-1))
    return found


@numba.njit(nogil=True, cache=True, inline="always")
def larger_listing(neighbors: Array, similarities: Array, row: int, rank: int) -> tuple[float, bool, int]:
    """Give the larger similarity and the lower rank that the ends list, and whether ``row`` owns the edge (numba)."""
    other = neighbors[row, rank]
    back = rank_listed(neighbors[other], row)
    if back < 0:
        return similarities[row, rank], True, rank
    return max(similarities[row, rank], similarities[other, back]), row < other, min(rank, back)


@numba.njit(nogil=True, cache=True)
def _owned_edges(
    neighbors: Array,
    similarities: Array,
    begin: int,
    end: int,
    min_similarity: float,
    offered: int,
    sources: Array,
    targets: Array,
    values: Array,
) -> int:
    count = 0
    width = neighbors.shape[1]
    for row in range(begin, end):
        for rank in range(width):
            other = neighbors[row, rank]
            if other < 0:
                break
            prefetch_row(neighbors, max(neighbors[row, min(rank + 8, width - 1)], 0))
            value, owned, nearest = larger_listing(neighbors, similarities, row, rank)
            if not owned or value < min_similarity or nearest >= offered:
                continue
            sources[count] = min(row, other)
            targets[count] = max(row, other)
            values[count] = value
            count += 1
    return count
