"""Symmetric CSR adjacency of undirected edges that come in blocks. Shape suffixes: N vertices, E edges."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.union_find import Ids, check_edges
from engine.errors import DataError
from engine.tiles import map_tiles, tile_bounds

TILE_VERTICES = 1 << 18

Adjacency = tuple[NDArray[np.int64], NDArray[np.int32]]
WeightedAdjacency = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]


def build_adjacency(num_vertices: int, blocks: Callable[[], Iterable[tuple[Ids, Ids]]], threads: int = 1) -> Adjacency:
    """Build the symmetric CSR adjacency of undirected edges given block by block.

    ``blocks`` is called twice, once to count and once to fill, and must give the same edges each time; an edge may come
    in either or both directions and repeatedly. Returns (indptr_N+1 int64, indices int32): each row ascending, without
    repeats and without the vertex itself. Equal for any order and cutting of the edges.
    Memory: 8 bytes per edge and 8 per vertex, besides one block. Raises ``DataError`` for ids outside the vertices.
    """
    indptr, indices, _ = _build(num_vertices, blocks, threads, weighted=False)
    return indptr, indices[: _drop_repeats(indptr, indices, None)]


def build_weighted_adjacency(
    num_vertices: int, blocks: Callable[[], Iterable[tuple[Ids, Ids, NDArray[np.float32]]]], threads: int = 1
) -> WeightedAdjacency:
    """Build the symmetric CSR adjacency of undirected edges with weights: (indptr, indices, weights float32).

    Arguments and order as in ``build_adjacency``; of a repeated edge the largest weight counts. Memory: 16 bytes per
    edge and 8 per vertex, besides one block. Raises ``DataError`` also for weights that are not float32, not one per
    edge, or not a number.
    """
    indptr, indices, weights = _build(num_vertices, blocks, threads, weighted=True)
    kept = _drop_repeats(indptr, indices, weights)
    return indptr, indices[:kept], weights[:kept]


def adjacent_rows(
    start: int, stop: int, blocks: Iterable[tuple[Ids, Ids]]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Build rows ``start..stop`` of ``build_adjacency`` from the edges that end in them: indptr_n+1, indices."""
    indptr, indices, _ = _build_rows(start, stop, *(np.concatenate(column) for column in zip(*blocks, strict=True)))
    return indptr, indices


def weighted_rows(
    start: int, stop: int, blocks: Iterable[tuple[Ids, Ids, NDArray[np.float32]]]
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]:
    """Build rows ``start..stop`` of ``build_weighted_adjacency`` from the edges that end in them."""
    return _build_rows(start, stop, *(np.concatenate(column) for column in zip(*blocks, strict=True)))


def _build_rows(start: int, stop: int, sources_E: Ids, targets_E: Ids, values_E: Any = None) -> Any:
    indptr = np.zeros(stop - start + 1, np.int64)
    _count_rows(indptr, sources_E, targets_E, start)
    np.cumsum(indptr, out=indptr)
    indices = np.empty(indptr[-1], np.int32)
    weights = None if values_E is None else np.empty(indptr[-1], np.float32)
    _fill_rows(indptr[:-1].copy(), indices, weights, sources_E, targets_E, values_E, start)
    _sort_rows(indptr, indices, weights, 0, stop - start)
    kept = _drop_repeats(indptr, indices, weights)
    return indptr, indices[:kept], None if weights is None else weights[:kept]


def _build(num_vertices: int, blocks: Callable[[], Iterable[Any]], threads: int, *, weighted: bool) -> Any:
    if num_vertices >= 2**31:
        raise DataError(f"adjacency: {num_vertices} vertices do not fit int32 ids; cut the graph into parts first")
    indptr = np.zeros(num_vertices + 1, np.int64)
    for block in blocks():
        check_edges(block[0], block[1], num_vertices)
        if weighted:
            _check_weights(block[2], len(block[0]))
        _count(indptr, block[0], block[1])
    np.cumsum(indptr, out=indptr)
    indices = np.empty(indptr[-1], np.int32)
    weights = np.empty(indptr[-1], np.float32) if weighted else None
    # While rows are filled, each row's start is its write position, so it ends as the next row's start.
    filled = sum(_fill(indptr, indices, weights, *(block if weighted else (*block, None))) for block in blocks())
    if filled != len(indices):
        raise DataError("adjacency: the two passes over the edge blocks gave different edges; blocks must not change")
    indptr[1:] = indptr[:-1]
    indptr[0] = 0
    map_tiles(
        lambda tile: _sort_rows(indptr, indices, weights, *tile), tile_bounds(0, num_vertices, TILE_VERTICES), threads
    )
    return indptr, indices, weights


def _check_weights(weights_E: NDArray[np.float32], num_edges: int) -> None:
    if weights_E.shape != (num_edges,) or weights_E.dtype != np.float32:
        raise DataError(
            f"edges: expected float32 weights of shape ({num_edges},), got {weights_E.dtype} of {weights_E.shape}"
        )
    if num_edges and bool(np.isnan(weights_E).any()):
        raise DataError(f"edge {int(np.argmax(np.isnan(weights_E)))}: its weight is not a number")


@njit(nogil=True, cache=True)
def copy_lists(first, indptr, lists, indices):  # type: ignore[no-untyped-def]
    """Copy lists that begin at places ``first`` of ``lists`` to rows of an adjacency (numba)."""
    for row in range(len(first)):
        for place in range(indptr[row + 1] - indptr[row]):
            indices[indptr[row] + place] = lists[first[row] + place]


@njit(nogil=True, cache=True)
def _count(indptr, sources, targets):  # type: ignore[no-untyped-def]
    for edge in range(len(sources)):
        if sources[edge] != targets[edge]:
            indptr[sources[edge] + 1] += 1
            indptr[targets[edge] + 1] += 1


@njit(nogil=True, cache=True)
def _count_rows(indptr, sources, targets, start):  # type: ignore[no-untyped-def]
    stop = start + len(indptr) - 1
    for edge in range(len(sources)):
        if sources[edge] != targets[edge]:
            for row in (sources[edge], targets[edge]):
                if start <= row < stop:
                    indptr[row - start + 1] += 1


@njit(nogil=True, cache=True)
def _fill_rows(places, indices, weights, sources, targets, values, start):  # type: ignore[no-untyped-def]
    stop = start + len(places)
    for edge in range(len(sources)):
        if sources[edge] != targets[edge]:
            for row, other in ((sources[edge], targets[edge]), (targets[edge], sources[edge])):
                if start <= row < stop:
                    indices[places[row - start]] = other
                    if weights is not None:
                        weights[places[row - start]] = values[edge]
                    places[row - start] += 1


@njit(nogil=True, cache=True)
def _fill(indptr, indices, weights, sources, targets, values):  # type: ignore[no-untyped-def]
    filled = 0
    for edge in range(len(sources)):
        i, j = sources[edge], targets[edge]
        if i != j:
            if max(indptr[i], indptr[j]) < len(indices):
                indices[indptr[i]], indices[indptr[j]] = j, i
                if weights is not None:
                    weights[indptr[i]] = weights[indptr[j]] = values[edge]
                indptr[i] += 1
                indptr[j] += 1
            filled += 2
    return filled


@njit(nogil=True, cache=True)
def _sort_rows(indptr, indices, weights, start, stop):  # type: ignore[no-untyped-def]
    for vertex in range(start, stop):
        row = slice(indptr[vertex], indptr[vertex + 1])
        if weights is None:
            indices[row].sort()
        else:
            _sort_row(indices[row], weights[row])


@njit(nogil=True, cache=True)
def _sort_row(indices, weights):  # type: ignore[no-untyped-def]
    """Sort by id, then by weight: id and orderable bits of the weight form one word, so one sort does both."""
    words, bits = np.empty(len(indices), np.uint64), weights.view(np.uint32)
    sign = np.uint32(1 << 31)
    for place in range(len(indices)):
        rank = ~bits[place] if bits[place] & sign else bits[place] | sign
        words[place] = (np.uint64(indices[place]) << np.uint64(32)) | np.uint64(np.uint32(rank))
    words.sort()
    for place in range(len(indices)):
        rank = np.uint32(words[place] & np.uint64(0xFFFFFFFF))
        indices[place] = np.int32(words[place] >> np.uint64(32))
        bits[place] = np.uint32(rank & ~sign if rank & sign else ~rank)


@njit(nogil=True, cache=True)
def _drop_repeats(indptr, indices, weights):  # type: ignore[no-untyped-def]
    """Move each row's distinct ids, each with its last weight, to the front of the arrays; return their number."""
    written = 0
    start = 0
    for vertex in range(len(indptr) - 1):
        stop = indptr[vertex + 1]
        row = written
        for position in range(start, stop):
            if written == row or indices[position] != indices[written - 1]:
                indices[written] = indices[position]
                written += 1
            if weights is not None:
                weights[written - 1] = weights[position]
        start = stop
        indptr[vertex + 1] = written
    return written
