"""New rows in a KNN graph: found among all rows by their cells, and taken into the lists of the rows there were.

Legend: N vertices, K neighbours, D dimensions, C cells, n new rows, I insertions, M queries of a tile.
A list is ordered by (-similarity, id); ``NO_NEIGHBOR`` fills its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from engine.graph.knn import DATABASE_BLOCK_ROWS, replace_worst
from engine.graph.similarity import listed_similarities, sort_neighbors
from engine.tiles import map_tiles, tile_bounds
from engine.units import NO_NEIGHBOR, NO_SIMILARITY

Array = np.ndarray[Any, Any]

TILE_QUERIES = 2_048
CELL_ROWS = 1 << 15  # of a cell's members that are compared at a time
WALKED, FOLLOWED = 12, 24  # a query's nearest found vertices whose nearest neighbours it is compared with


@dataclass(frozen=True)
class Cells:
    """Which vertices lie near each other: ``centroids`` (C, D) float32, and the members of each cell.

    ``offsets`` (C + 1,): cell c holds vertices ``offsets[c]`` to ``offsets[c + 1]``, and those of ``later``, which have
    come since, at ``later_offsets[c]`` to ``later_offsets[c + 1]``.
    """

    centroids: Array
    offsets: Array
    later: Array
    later_offsets: Array

    def members(self, cell: int) -> Array:
        """List the vertices of a cell, ascending."""
        own = np.arange(self.offsets[cell], self.offsets[cell + 1], dtype=np.int32)
        return np.concatenate([own, self.later[self.later_offsets[cell] : self.later_offsets[cell + 1]]])


def make_cells(centroids: Array, offsets: Array, cell_of_later: Array, first: int) -> Cells:
    """Sort the vertices that have come since, numbered from ``first`` on, into their cells."""
    order = np.argsort(cell_of_later, kind="stable")
    counts = np.bincount(cell_of_later, minlength=len(centroids))
    return Cells(centroids, offsets, (order + first).astype(np.int32), np.append(0, np.cumsum(counts)))


def mean_of_cells(features_ND: Array, offsets: Array) -> Array:
    """Give the unit mean of each cell's vertices: (C, D) float32; zeros for a cell without any."""
    centroids = np.zeros((len(offsets) - 1, features_ND.shape[1]), np.float32)
    for first, last in tile_bounds(0, len(centroids), 1_024):
        rows = np.asarray(features_ND[offsets[first] : offsets[last]], np.float32)
        filled = np.flatnonzero(np.diff(offsets[first : last + 1]))
        if len(filled):
            sums = np.add.reduceat(rows, (offsets[first:last] - offsets[first])[filled], axis=0)
            centroids[first + filled] = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    return centroids


def nearest_cells(queries_nD: Array, centroids: Array, num_probes: int, threads: int) -> Array:
    """Find the nearest cells of each query, nearest first, ties to the lower cell: (n, P) int32."""
    probes = min(num_probes, len(centroids))

    def run(tile: tuple[int, int]) -> Array:
        products = np.asarray(queries_nD[slice(*tile)], np.float32) @ centroids.T
        found = np.empty((len(products), probes), np.int32)
        _greatest(products, found)
        return found

    parts = map_tiles(run, tile_bounds(0, len(queries_nD), TILE_QUERIES), threads)
    return np.concatenate([np.empty((0, probes), np.int32), *parts])


def search_new(
    features_ND: Array,
    neighbors_NK: Array,
    cells: Cells | None,
    listable_N: Array,
    start: int,
    stop: int,
    k: int,
    num_probes: int,
    threads: int,
) -> tuple[Array, Array]:
    """Find the nearest vertices of rows ``start..stop``: ids (n, k) int32 and similarities (n, k) float32.

    A row is compared with the members of its nearest cells, then with what the nearest that it found list. Without
    cells it is compared with all, the new rows among them. A vertex with ``listable_N`` False is found by nobody.
    """

    def run(tile: tuple[int, int]) -> tuple[Array, Array]:
        first, end = tile
        queries = np.asarray(features_ND[first:end], np.float32)
        own = np.arange(first, end, dtype=np.int32)
        similarities = np.full((len(own), k), NO_SIMILARITY, np.float32)
        ids = np.full((len(own), k), np.iinfo(np.int32).max, np.int32)
        for places, members in _spans(queries, cells, stop, num_probes):
            block = np.asarray(features_ND[members], np.float32)
            _offer(queries[places] @ block.T, members, own, places, listable_N, similarities, ids)
        if cells is not None:
            order = np.lexsort((ids, -similarities), axis=1)[:, :WALKED]
            further = np.empty((len(own), WALKED * FOLLOWED), np.int32)
            _second_neighbors(neighbors_NK, np.take_along_axis(ids, order, axis=1), own, ids, listable_N, further)
            _offer_listed(listed_similarities(features_ND, own, further), further, similarities, ids)
        return _ordered(features_ND, own, similarities, ids)

    parts = map_tiles(run, tile_bounds(start, stop, TILE_QUERIES), threads)
    empty = np.empty((0, k), np.int32), np.empty((0, k), np.float32)
    return tuple(np.concatenate(column) for column in zip(empty, *parts, strict=True))  # type: ignore[return-value]


def _spans(queries: Array, cells: Cells | None, last: int, num_probes: int) -> Iterator[tuple[Array, Array]]:
    """Give the queries that are compared with some vertices, and these."""
    everyone = np.arange(len(queries), dtype=np.int32)
    if cells is None:
        for begin in range(0, last, DATABASE_BLOCK_ROWS):
            yield everyone, np.arange(begin, min(begin + DATABASE_BLOCK_ROWS, last), dtype=np.int32)
        return
    probes = nearest_cells(queries, cells.centroids, num_probes, 1)
    order = np.argsort(probes.ravel(), kind="stable")
    asked, firsts = np.unique(probes.ravel()[order], return_index=True)
    for cell, places in zip(asked, np.split((order // probes.shape[1]).astype(np.int32), firsts[1:]), strict=True):
        members = cells.members(int(cell))
        for begin in range(0, len(members), CELL_ROWS):
            yield places, members[begin : begin + CELL_ROWS]


def _ordered(features_ND: Array, own: Array, similarities: Array, ids: Array) -> tuple[Array, Array]:
    """Order what was found, with cosines that do not depend on the shapes of the products that found it."""
    ids = np.sort(np.where(similarities == NO_SIMILARITY, NO_NEIGHBOR, ids), axis=1)[:, ::-1].copy()
    similarities = listed_similarities(features_ND, own, ids)
    sort_neighbors(ids, similarities)
    return ids, similarities


class Insertions(NamedTuple):
    """New neighbours of rows that were there: (I,) each, by row, then by (-similarity, neighbour).

    ``places``: the rank at which each was put when it was taken in, -1 if the list was full of nearer ones.
    """

    rows: Array
    neighbors: Array
    similarities: Array
    places: Array


def reversed_lists(neighbors_nK: Array, similarities_nK: Array, first: int) -> Insertions:
    """Turn the lists of new rows, numbered from ``first`` on, into insertions into the lists of rows before them."""
    row, rank = np.nonzero((neighbors_nK >= 0) & (neighbors_nK < first))
    targets, similarities = neighbors_nK[row, rank], similarities_nK[row, rank]
    own = (row + first).astype(np.int32)
    order = np.lexsort((own, -similarities, targets))
    return Insertions(targets[order], own[order], similarities[order], np.full(len(order), -1, np.int16))


@njit(nogil=True, cache=True)
def insert_lists(neighbors, similarities, rows, ids, values, places):  # type: ignore[no-untyped-def]
    """Take each id into its row's list at the place that its value and id have, and write that place.

    What falls off the end of a full list is gone.
    """
    width = neighbors.shape[1]
    for entry in range(len(rows)):
        row, place = rows[entry], width
        while place > 0:
            other, value = neighbors[row, place - 1], similarities[row, place - 1]
            if other >= 0 and (value > values[entry] or (value == values[entry] and other < ids[entry])):
                break
            place -= 1
        if place == width:
            places[entry] = -1
            continue
        for rank in range(width - 1, place, -1):
            neighbors[row, rank], similarities[row, rank] = neighbors[row, rank - 1], similarities[row, rank - 1]
        neighbors[row, place], similarities[row, place] = ids[entry], values[entry]
        places[entry] = place


@njit(nogil=True, cache=True)
def insert_values(table, rows, places, values):  # type: ignore[no-untyped-def]
    """Move what stands beside the lists as ``insert_lists`` moved these, and put a value beside each new entry."""
    width = table.shape[1]
    for entry in range(len(rows)):
        row, place = rows[entry], places[entry]
        if place < 0:
            continue
        for rank in range(width - 1, place, -1):
            table[row, rank] = table[row, rank - 1]
        table[row, place] = values[entry]


@njit(nogil=True, cache=True)
def drop_entries(neighbors, similarities, table, keep):  # type: ignore[no-untyped-def]
    """Take the vertices with ``keep`` False out of all lists, and what stands beside them out of ``table``.

    Returns which rows have lost an entry.
    """
    width = neighbors.shape[1]
    lost = np.zeros(len(neighbors), np.bool_)
    for row in range(len(neighbors)):
        kept = 0
        for rank in range(width):
            other = neighbors[row, rank]
            if other < 0:
                break
            if not keep[other]:
                lost[row] = True
                continue
            if kept < rank:
                neighbors[row, kept], similarities[row, kept] = other, similarities[row, rank]
                if table.shape[1] == width:
                    table[row, kept] = table[row, rank]
            kept += 1
        if lost[row]:
            for rank in range(kept, width):
                neighbors[row, rank], similarities[row, rank] = NO_NEIGHBOR, NO_SIMILARITY
                if table.shape[1] == width:
                    table[row, rank] = 0
    return lost


@njit(nogil=True, cache=True)
def _greatest(values, out):  # type: ignore[no-untyped-def]
    """Write the columns of each row's greatest values, the greatest first, ties to the lower column."""
    wanted = out.shape[1]
    best = np.empty(wanted, values.dtype)
    for row in range(len(values)):
        count = 0
        for column in range(values.shape[1]):
            value = values[row, column]
            if count == wanted and value <= best[wanted - 1]:
                continue
            place = min(count, wanted - 1)
            while place > 0 and best[place - 1] < value:
                best[place], out[row, place] = best[place - 1], out[row, place - 1]
                place -= 1
            best[place], out[row, place] = value, column
            count = min(count + 1, wanted)


@njit(nogil=True, cache=True)
def _offer(products, members, own, places, listable, similarities, ids):  # type: ignore[no-untyped-def]
    for query in range(products.shape[0]):
        place = places[query]
        for column in range(products.shape[1]):
            value = products[query, column]
            if value < similarities[place, 0]:
                continue
            candidate = members[column]
            if candidate == own[place] or not listable[candidate]:
                continue
            if value > similarities[place, 0] or candidate < ids[place, 0]:
                replace_worst(similarities[place], ids[place], value, candidate)


@njit(nogil=True, cache=True)
def _second_neighbors(neighbors, nearest, own, ids, listable, out):  # type: ignore[no-untyped-def]
    """Write what the nearest vertices of each query list first and the query has not met: ids (M, W), -1 at the end."""
    met = np.full(len(listable), -1, np.int32)  # the query that has met a vertex
    out[:] = NO_NEIGHBOR
    for query in range(len(nearest)):
        found = 0
        for rank in range(ids.shape[1]):
            if 0 <= ids[query, rank] < len(met):
                met[ids[query, rank]] = query
        for step in range(nearest.shape[1]):
            vertex = nearest[query, step]
            if vertex < 0 or vertex >= len(met):
                continue
            for rank in range(min(FOLLOWED, neighbors.shape[1])):
                candidate = neighbors[vertex, rank]
                if candidate < 0:
                    break
                if met[candidate] != query and candidate != own[query] and listable[candidate]:
                    met[candidate] = query
                    out[query, found] = candidate
                    found += 1


@njit(nogil=True, cache=True)
def _offer_listed(values, candidates, similarities, ids):  # type: ignore[no-untyped-def]
    for query in range(len(candidates)):
        for column in range(candidates.shape[1]):
            candidate, value = candidates[query, column], values[query, column]
            if candidate < 0:
                break
            if value > similarities[query, 0] or (value == similarities[query, 0] and candidate < ids[query, 0]):
                replace_worst(similarities[query], ids[query], value, candidate)
