"""How far a vertex's list can be followed before vertex and neighbour stop sharing their neighbours (FC-ES).

Legend: N vertices, K neighbours, C neighbours that are read, n rows, E edges.
Sums are integers, so an edge's value has the same bits from either end and for any blocks, tiles and threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from engine.graph.adjacency import rank_listed
from engine.graph.intrinsics import prefetch_row, widen
from engine.graph.structural_inputs import _TABLE_BITS, MAX_RANKS, _hash, _place_row
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

WIDTH = 0.25  # a step becomes e times less likely over so much similarity: exp(-(2 - 2 cos) / 0.5)
TILE_ROWS = 256
TILE_EDGES = 65_536
_BINS = 4_096  # tabulated weights per unit of similarity
_UNIT = 1 << 24  # weight of a step from a vertex to itself
_AHEAD = 4
_WEIGHTS = np.round(_UNIT * np.exp((np.arange(_BINS + 1) / _BINS - 1) / WIDTH)).astype(np.int64)


def edge_probabilities(
    neighbors_NK: Array, similarities_NK: Array, start: int, stop: int, *, count: int = MAX_RANKS, threads: int = 1
) -> Array:
    """Compute (n, C) float16 for rows ``start..stop``: NEP of each listed neighbour, in the order of the list.

    C is ``count``, at most K; later neighbours are not read. A vertex steps to itself and to each of its neighbours
    with probability proportional to exp(-(2 - 2 cos) / 0.5), cosines clipped to [0, 1]. NEP of i and j is the mean of
    two probabilities: that i, and that j, steps to a vertex that both list, i and j themselves counted (FC-ES, arXiv
    2408.13431, and its released code). Places without a neighbour get 0. A walk that stops at the first NEP below a
    threshold passes each neighbour up to which every NEP reaches the threshold.
    """
    if count > MAX_RANKS:
        raise ValueError(f"count {count}: NEP reads {MAX_RANKS} neighbours at most")
    neighbors, known = np.asarray(neighbors_NK), np.asarray(similarities_NK)
    result = np.zeros((stop - start, min(count, neighbors.shape[1])), np.float16)

    def run(tile: tuple[int, int]) -> None:
        found = np.zeros((tile[1] - tile[0], result.shape[1]), np.float32)
        _compare(neighbors, known, tile[0], found)
        result[tile[0] - start : tile[1] - start] = found

    map_tiles(run, tile_bounds(start, stop, TILE_ROWS), threads)
    return result


def edge_scores(
    neighbors_NK: Array, nep_NC: Array, sources: Array, targets: Array, *, walked: bool, threads: int = 1
) -> Array:
    """Score edges (E,) float32: the larger NEP that either end has of the other, 0 if neither lists the other.

    With ``walked``, an end's value is the least NEP up to the other end's rank; the score is then the largest threshold
    at which a walk from either end passes the edge. ``nep_NC``: from ``edge_probabilities``.
    """
    neighbors, nep = np.asarray(neighbors_NK), np.asarray(nep_NC).view(np.int16)
    result = np.zeros(len(sources), np.float32)

    def run(tile: tuple[int, int]) -> None:
        part = slice(*tile)
        _take_larger(neighbors, nep, sources[part], targets[part], walked, result[part])

    map_tiles(run, tile_bounds(0, len(sources), TILE_EDGES), threads)
    return result


@numba.njit(nogil=True, cache=True)
def _compare(neighbors: Array, known: Array, first: int, out: Array) -> None:
    width = out.shape[1]
    places = np.empty(1 << _TABLE_BITS, np.uint8)
    ids = np.full(MAX_RANKS + 2, np.int32(-1))
    weights = np.zeros(MAX_RANKS + 2, np.int64)
    multiplier = np.uint64(1)
    for place_out in range(len(out)):
        row = first + place_out
        ids[:] = np.int32(-1)
        ids[0], weights[0] = row, _UNIT
        total, length = np.int64(_UNIT), 1
        while length <= width and neighbors[row, length - 1] >= 0:
            ids[length], weights[length] = neighbors[row, length - 1], _weigh(known[row, length - 1])
            total += weights[length]
            length += 1
        multiplier = _place_row(ids, length, places, multiplier)
        for rank in range(length - 1):
            later = ids[min(rank + 1 + _AHEAD, length - 1)]
            prefetch_row(neighbors, later)
            prefetch_row(known, later)
            other = ids[rank + 1]
            listed, values = neighbors[other], known[other]
            own_total = np.int64(_UNIT)
            place = places[_hash(other, multiplier)]
            own_shared, row_shared = np.int64(_UNIT), weights[place]  # shared weight of what ``row`` lists
            for other_rank in range(width):
                vertex = listed[other_rank]
                if vertex < 0:
                    break
                place = places[_hash(vertex, multiplier)]
                # Read in any case, because choosing a value costs less than a branch that is hard to predict.
                weight, row_weight = _weigh(values[other_rank]), weights[place]
                found = ids[place] == vertex
                own_total += weight
                own_shared += weight if found else np.int64(0)
                row_shared += row_weight if found else np.int64(0)
            out[place_out, rank] = 0.5 * (row_shared / total + own_shared / own_total)


@numba.njit(nogil=True, cache=True, inline="always")
def _weigh(cosine: Any) -> Any:
    clipped = min(max(cosine, np.float32(0.0)), np.float32(1.0))
    return _WEIGHTS[np.int64(clipped * np.float32(_BINS) + np.float32(0.5))]


@numba.njit(nogil=True, cache=True)
def _take_larger(neighbors: Array, nep: Array, sources: Array, targets: Array, walked: bool, out: Array) -> None:
    for edge in range(len(sources)):
        for own, other in ((sources[edge], targets[edge]), (targets[edge], sources[edge])):
            rank = rank_listed(neighbors[own], other)
            if 0 <= rank < nep.shape[1]:
                value = widen(nep[own, rank])
                for earlier in range(rank if walked else 0):
                    value = min(value, widen(nep[own, earlier]))
                out[edge] = max(out[edge], value)
