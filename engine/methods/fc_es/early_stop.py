"""How far a vertex's list of neighbours can be followed before the two ends of an edge stop sharing theirs (FC-ES).

Legend: N vertices, K neighbours, C of them that are read, n rows, E edges.
Sums run in integers, so that an edge's value is the same bits from either end, and blocks, tiles and threads cannot
change it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from engine.graph.adjacency import rank_listed
from engine.graph.features import _TABLE_BITS, MAX_RANKS, _hash, _place_row
from engine.graph.intrinsics import prefetch_row, widen
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

WIDTH = 0.25  # similarity over which a step becomes e times less likely: exp(-(2 - 2 cos) / 0.5)
TILE_ROWS = 256
TILE_EDGES = 65_536
_BINS = 4_096  # of the tabulated weights, per unit of similarity
_UNIT = 1 << 24  # weight of a step to a vertex itself
_AHEAD = 4
_WEIGHTS = np.round(_UNIT * np.exp((np.arange(_BINS + 1) / _BINS - 1) / WIDTH)).astype(np.int64)


def edge_probabilities(
    neighbors_NK: Array, similarities_NK: Array, start: int, stop: int, *, count: int = MAX_RANKS, threads: int = 1
) -> Array:
    """Compute (n, C) float16 for rows ``start..stop``: NEP of each listed neighbour, in their order.

    Only the first C neighbours are read, ``count`` of the K at most. A vertex steps to itself and to each of them with
    probability proportional to exp(-(2 - 2 cos) / 0.5), cosines clipped to [0, 1]. NEP of i and j is half the
    probability that i steps to a vertex that both list, themselves counted, and half that j does (FC-ES, arXiv
    2408.13431, and its released code). Places without a neighbour get 0. A walk that stops at the first NEP below a
    threshold passes the neighbours whose least NEP up to there reaches it.
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
    """Give each edge (E,) float32 the larger value of its ends: their NEP of it, 0 where they do not list it.

    ``walked``: the least NEP met up to there instead, so the largest threshold at which a walk of either end passes it.
    ``nep_NC``: as ``edge_probabilities`` gives it.
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
            own_shared, row_shared = np.int64(_UNIT), weights[place]  # that ``row`` lists
            for other_rank in range(width):
                vertex = listed[other_rank]
                if vertex < 0:
                    break
                place = places[_hash(vertex, multiplier)]
                # Read in any case: choosing a value costs less than a branch that is hard to foresee.
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
