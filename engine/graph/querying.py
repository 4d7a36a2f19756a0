"""The nearest vertices of rows that are in no graph, by the cells of one and by what the nearest list.

Legend: N vertices, W code width, K neighbours, C cells, n queries, P probes, M vertices wanted.

Candidates are chosen by products of integer codes (``engine.graph.codes``), which are exact, so what a query finds
depends on no other query. Ties go to the lower vertex.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from engine.graph.cells import GROUP_CELLS, Finder, load_cells
from engine.graph.cells import Cells as CodedCells
from engine.graph.codes import dot, encode
from engine.graph.insertion import FOLLOWED, WALKED, Cells
from engine.graph.largest import BINS, select_nearest
from engine.tiles import map_tiles, tile_bounds
from engine.units import NO_NEIGHBOR, NO_SIMILARITY

Array = np.ndarray[Any, Any]

TILE_QUERIES, TILE_DOUBLED = 256, 64
ENCODED_ROWS = 1 << 16


class CodedGraph(NamedTuple):
    """What a search reads: ``codes_VW`` of vertices, with room for queries after them; a finder of nearest cells."""

    codes_VW: Array
    finder: Finder
    cells: Cells
    neighbors_VK: Array
    listable_V: Array


def encode_graph(
    features_ND: Array, cells: Cells, neighbors_NK: Array, listable_N: Array, room: int, threads: int
) -> CodedGraph:
    """Encode the vertices and their cells, once for all searches. ``listable_N``: vertices that may be found.

    The finder compares a query with groups of cells first; cells that follow each other lie near each other, so they
    are grouped in their order.
    """
    num = len(listable_N)
    first = encode(np.asarray(features_ND[:1], np.float32))
    codes_VW = np.empty((num + room, first.shape[1]), np.int8)

    def run(tile: tuple[int, int]) -> None:
        codes_VW[slice(*tile)] = encode(np.asarray(features_ND[slice(*tile)], np.float32))

    map_tiles(run, tile_bounds(0, num, ENCODED_ROWS), threads)
    starts = np.arange(0, len(cells.centroids), GROUP_CELLS)
    means = np.add.reduceat(cells.centroids, starts, axis=0)
    leaders = encode(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12))
    coded = CodedCells(encode(cells.centroids), leaders, np.append(starts, len(cells.centroids)))
    return CodedGraph(codes_VW, load_cells(coded, threads), cells, neighbors_NK, listable_N)


def search_queries(
    graph: CodedGraph, queries_nD: Array, num_probes: int, most: int, threads: int
) -> tuple[Array, Array]:
    """Find the ``most`` vertices nearest to each query: ids (n, M) int32, -1 at the end, by descending product.

    A query is compared with the members of its nearest cells, then with what the nearest that it found list. Also
    gives an order of the queries in which such that lie near each other follow each other.
    """
    start = len(graph.listable_V)
    codes_nW = encode(np.asarray(queries_nD, np.float32))
    graph.codes_VW[start : start + len(codes_nW)] = codes_nW
    probes_nP = graph.finder(codes_nW, num_probes)
    order = np.argsort(probes_nP[:, 0], kind="stable")
    found = np.empty((len(codes_nW), most), np.int32)
    cells = graph.cells
    places = cells.offsets, cells.later, cells.later_offsets

    def run(tile: tuple[int, int]) -> None:
        own = order[slice(*tile)]
        _search(graph.codes_VW, start, own, probes_nP, *places, graph.neighbors_VK, graph.listable_V, found)

    map_tiles(run, tile_bounds(0, len(order), TILE_QUERIES), threads)
    return found, order


@njit(nogil=True, cache=True)
def _search(codes, start, own, probes, offsets, later, later_offsets, neighbors, listable, found):  # type: ignore[no-untyped-def]
    most = np.int64(0)
    for query in own:
        room = np.int64(WALKED * FOLLOWED)
        for cell in probes[query]:
            room += offsets[cell + 1] - offsets[cell] + later_offsets[cell + 1] - later_offsets[cell]
        most = max(most, room)
    ids, values = np.empty(most, np.int32), np.empty(most, np.int16)
    width = np.int64(1)
    while width < 2 * most:
        width *= 2
    table = np.empty(width, np.int32)
    walked = np.empty(WALKED, np.int32)
    histogram, nothing = np.empty(BINS, np.int32), np.empty(0, np.int16)
    for query in own:
        count = 0
        for cell in probes[query]:
            for vertex in range(offsets[cell], offsets[cell + 1]):
                if listable[vertex]:
                    ids[count], values[count] = vertex, dot(codes, start + query, vertex)
                    count += 1
            for place in range(later_offsets[cell], later_offsets[cell + 1]):
                if listable[later[place]]:
                    ids[count], values[count] = later[place], dot(codes, start + query, later[place])
                    count += 1
        select_nearest(values[:count], ids[:count], -1, 0, histogram, walked, nothing)
        table[:] = -1
        for place in range(count):
            _put(table, ids[place])
        for near in walked:
            if near < 0:
                break
            for rank in range(min(FOLLOWED, neighbors.shape[1])):
                other = neighbors[near, rank]
                if other < 0:
                    break
                if listable[other] and _put(table, other):
                    ids[count], values[count] = other, dot(codes, start + query, other)
                    count += 1
        select_nearest(values[:count], ids[:count], -1, 0, histogram, found[query], nothing)


@njit(nogil=True, cache=True)
def _put(table, vertex):  # type: ignore[no-untyped-def]
    """Add a vertex to an open-addressed set of a power of two of places; tell whether it is new."""
    mask = len(table) - 1
    place = (np.int64(vertex) * 2654435761 >> 7) & mask
    while table[place] >= 0:
        if table[place] == vertex:
            return False
        place = (place + 1) & mask
    table[place] = vertex
    return True


def take_in(
    neighbors_VK: Array,
    similarities_VK: Array,
    priors_VK: Array,
    profiles_VP: Array,
    own: Array,
    first: int,
    count: int,
    threads: int,
) -> tuple[Array, Array]:
    """Write lists in which each query's ``count`` nearest vertices list the query, as if it were a vertex of the graph.

    Query q's vertex of rank r gets a double at row ``first + q * count + r``: its list, with the query in its place,
    and its profile as it was. The query, and the doubles of its other nearest vertices, list doubles in place of the
    vertices. Beside the query stands a prior of 0. Gives the vertices (n, count) int32, -1 where there is none, and
    where a double lists the query, int16, -1 where it does not.
    """
    vertices, places = neighbors_VK[own, :count], np.empty((len(own), count), np.int16)
    lists = neighbors_VK, similarities_VK, priors_VK

    def run(tile: tuple[int, int]) -> None:
        part, start = slice(*tile), first + tile[0] * count
        _take_in(*lists, own[part], start, count, places[part])
        _copy_rows(profiles_VP, start, vertices[part].ravel())

    map_tiles(run, tile_bounds(0, len(own), TILE_DOUBLED), threads)
    return vertices, places


@njit(nogil=True, cache=True)
def _copy_rows(table, first, rows):  # type: ignore[no-untyped-def]
    for place in range(len(rows)):
        if rows[place] >= 0:
            for column in range(table.shape[1]):
                table[first + place, column] = table[rows[place], column]


@njit(nogil=True, cache=True)
def _take_in(neighbors, similarities, priors, own, first, count, places):  # type: ignore[no-untyped-def]
    width = neighbors.shape[1]
    size = np.int64(1)
    while size < 4 * count:
        size *= 2
    mask = size - 1
    keys, values = np.empty(size, np.int32), np.empty(size, np.int32)
    for query in range(len(own)):
        vertex, base = own[query], first + query * count
        keys[:] = -1
        for rank in range(min(count, width)):
            nearest = neighbors[vertex, rank]
            if nearest < 0:
                break
            place = (np.int64(nearest) * 2654435761 >> 7) & mask
            while keys[place] >= 0:
                place = (place + 1) & mask
            keys[place], values[place] = nearest, base + rank
        for rank in range(count):
            places[query, rank] = -1
            if rank >= width or neighbors[vertex, rank] < 0:
                continue
            nearest, double, similarity = neighbors[vertex, rank], base + rank, similarities[vertex, rank]
            written, inserted = 0, False
            for other in range(width):
                listed = neighbors[nearest, other]
                if not inserted and (listed < 0 or similarities[nearest, other] < similarity):
                    neighbors[double, written], similarities[double, written] = vertex, similarity
                    priors[double, written] = 0
                    places[query, rank], inserted = written, True
                    written += 1
                if listed < 0 or written == width:
                    break
                place = (np.int64(listed) * 2654435761 >> 7) & mask
                while keys[place] >= 0 and keys[place] != listed:
                    place = (place + 1) & mask
                neighbors[double, written] = values[place] if keys[place] == listed else listed
                similarities[double, written] = similarities[nearest, other]
                priors[double, written] = priors[nearest, other]
                written += 1
            for other in range(written, width):
                neighbors[double, other], similarities[double, other] = NO_NEIGHBOR, NO_SIMILARITY
                priors[double, other] = 0
        for rank in range(min(count, width)):
            if neighbors[vertex, rank] >= 0:
                neighbors[vertex, rank] = base + rank
