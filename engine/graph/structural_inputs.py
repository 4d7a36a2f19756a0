"""Structural inputs of an undirected edge: what the KNN graph alone says about its two ends.

Legend: N vertices, D feature dimension, K neighbours, E edges, F inputs (``NUM_STRUCTURAL``).
Each input is symmetric in the two ends and carries no scale of the vectors' domain. It depends on the edge and on its
ends' two rows of the graph alone, so its bits are the same for any blocks, tiles and threads.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from engine.graph.intrinsics import LANES, dot_whole, prefetch_row, widen

Array = np.ndarray[Any, Any]

SHARED_SCALES = (5, 10, 20, 40, 80)
PROFILE_RANKS = (0, 1, 2, 4, 9, 19, 39, 79)
MAX_RANKS = 80
NUM_STRUCTURAL = 4 + len(SHARED_SCALES) + 2 * len(PROFILE_RANKS)
STRUCTURAL_NAMES = (
    "similarity",
    "log_lower_rank",
    "log_higher_rank",
    "row_cosine",
    *(f"shared_top_{scale}" for scale in SHARED_SCALES),
    *(f"{end}_above_rank_{rank}" for rank in PROFILE_RANKS for end in ("least", "most")),
)

_TABLE_BITS = 12  # 4,096 places for at most 81 vertices: about every second multiplier gives each its own place
_ABSENT = MAX_RANKS + 1
_AHEAD = 8  # a row is asked for so many edges before it is read
_FIELD_BITS = 8  # width of a shared count, which is at most 81
_UNIT = np.float32(2.0**40)  # products are summed as integers of this unit, so their order does not matter
_LOG_RANKS = np.log(np.arange(2, MAX_RANKS + 3)).astype(np.float32)


def fill_cosines(vectors: Array, sources: Array, targets: Array, out: Array) -> None:
    """Write the cosine of each pair of rows of a float16 array into ``out``, float32; 0 where a row is zero."""
    _half_products(vectors.view(np.int16), sources, targets, True, out)


def fill_products(vectors: Array, sources: Array, targets: Array, out: Array) -> None:
    """Write the dot product of each pair of rows of a float16 array into ``out`` on the calling thread."""
    _half_products(vectors.view(np.int16), sources, targets, False, out)


@numba.njit(nogil=True, cache=True)
def fill_structural(
    neighbors: Array, known: Array, sources: Array, targets: Array, similarities: Array, out: Array
) -> None:
    """Write the structural inputs of edges into the first columns of ``out`` (E, >= F) float32, on the calling thread.

    The columns are those of ``STRUCTURAL_NAMES``. They hold the edge's similarity; the logarithms of 2 + the ranks at
    which either end lists the other, the lower rank first (``MAX_RANKS`` where an end does not list the other); the
    cosine of the two ends' rows of the graph; the shares of vertices that both ends list among their first 5, 10, 20,
    40, 80, the ends themselves counted; and how far the similarity stands above what each end has at eight ranks, the
    least and the most of the two ends. A rank past the end of a short row takes the row's last entry. Only the first
    ``MAX_RANKS`` neighbours are read. The work is fastest if edges come grouped by source.
    """
    width = min(neighbors.shape[1], MAX_RANKS)
    scales = len(SHARED_SCALES)
    places = np.empty(1 << _TABLE_BITS, np.uint8)
    # The held end and what it lists: ids, similarities, and one bit for each scale that the rank lies within.
    ids = np.full(MAX_RANKS + 2, np.int32(-1))
    values = np.zeros(MAX_RANKS + 2, np.float32)
    within = np.zeros(MAX_RANKS + 2, np.int64)
    profile, other_profile = np.empty(len(PROFILE_RANKS), np.float32), np.empty(len(PROFILE_RANKS), np.float32)
    held = np.int32(-1)
    multiplier = np.uint64(1)
    held_norm = np.float32(0.0)
    for edge in range(len(sources)):
        end = held_end(sources, targets, edge, held)
        other = targets[edge] if end == sources[edge] else sources[edge]
        later = min(edge + _AHEAD, len(sources) - 1)
        prefetched = targets[later] if end == sources[later] else sources[later]
        prefetch_row(neighbors, prefetched)
        prefetch_row(known, prefetched)
        if end != held:
            held = end
            length, held_norm = _list_row(neighbors, known, held, width, ids, values, within)
            multiplier = _place_row(ids, length, places, multiplier)
            for index in range(len(PROFILE_RANKS)):
                profile[index] = known[held, min(PROFILE_RANKS[index], length - 2)]
        place = places[_hash(other, multiplier)]
        rank_of_other = np.int64(place) - 1 if ids[place] == other else MAX_RANKS
        rank_of_held = MAX_RANKS
        shared = within[place] if ids[place] == other else np.int64(0)
        product = np.int64(values[place] * _UNIT) if ids[place] == other else np.int64(0)
        norm = np.float32(1.0)
        listed, rank = neighbors[other], 0
        for scale in range(scales):
            fields = np.int64(-1) << (_FIELD_BITS * scale)
            while rank < min(SHARED_SCALES[scale], width):
                vertex, value = listed[rank], known[other, rank]
                if vertex < 0:
                    break
                place = places[_hash(vertex, multiplier)]
                # Read in any case, because choosing a value costs less than a branch that is hard to predict.
                bits, unit = within[place] & fields, np.int64((value * values[place]) * _UNIT)
                found = ids[place] == vertex
                shared += bits if found else np.int64(0)
                product += unit if found else np.int64(0)
                norm += value * value
                rank_of_held = rank if vertex == held else rank_of_held
                rank += 1
        for index in range(len(PROFILE_RANKS)):
            other_profile[index] = known[other, min(PROFILE_RANKS[index], rank - 1)]
        row, similarity = out[edge], similarities[edge]
        row[0] = similarity
        row[1] = _LOG_RANKS[min(rank_of_other, rank_of_held)]
        row[2] = _LOG_RANKS[max(rank_of_other, rank_of_held)]
        row[3] = np.float32(product) / _UNIT / np.sqrt(held_norm * norm)
        for scale in range(scales):
            count = (shared >> (_FIELD_BITS * scale)) & ((1 << _FIELD_BITS) - 1)
            row[4 + scale] = np.float32(count) / np.float32(1 + min(SHARED_SCALES[scale], width))
        column = 4 + scales
        for index in range(len(PROFILE_RANKS)):
            first, second = similarity - profile[index], similarity - other_profile[index]
            row[column] = min(first, second)
            row[column + 1] = max(first, second)
            column += 2


@numba.njit(nogil=True, cache=True, inline="always")
def held_end(sources: Array, targets: Array, edge: int, held: int) -> Any:
    """Choose the end of an edge to prepare: the one already held, else the one that the next edge shares (numba)."""
    source, target = sources[edge], targets[edge]
    if source == held or target == held:
        return held
    following = min(edge + 1, len(sources) - 1)
    return target if target == sources[following] or target == targets[following] else source


@numba.njit(nogil=True, cache=True)
def _list_row(
    neighbors: Array, known: Array, row: int, width: int, ids: Array, values: Array, within: Array
) -> tuple[int, Any]:
    """Write a row's own id, then those that it lists; return their count and the squared norm of their values."""
    ids[:] = np.int32(-1)
    ids[0], values[0] = row, np.float32(1.0)
    within[0] = 0
    for scale in range(len(SHARED_SCALES)):
        within[0] |= np.int64(1) << (_FIELD_BITS * scale)
    norm = np.float32(1.0)
    for rank in range(width):
        if neighbors[row, rank] < 0:
            return rank + 1, norm
        ids[rank + 1], values[rank + 1] = neighbors[row, rank], known[row, rank]
        norm += known[row, rank] * known[row, rank]
        within[rank + 1] = 0
        for scale in range(len(SHARED_SCALES)):
            within[rank + 1] |= np.int64(rank < SHARED_SCALES[scale]) << (_FIELD_BITS * scale)
    return width + 1, norm


@numba.njit(nogil=True, cache=True)
def _place_row(ids: Array, length: int, places: Array, multiplier: Any) -> Any:
    """Give each id a place of its own, an id listed twice that of its first rank; return the hash's multiplier."""
    while True:
        multiplier = (multiplier * np.uint64(1_664_525) + np.uint64(1_013_904_224)) & np.uint64(0xFFFFFFFF)
        multiplier |= np.uint64(1)
        places[:] = np.uint8(_ABSENT)
        alone = True
        for position in range(length):
            place = _hash(ids[position], multiplier)
            if places[place] == _ABSENT:
                places[place] = np.uint8(position)
            elif ids[places[place]] != ids[position]:
                alone = False
                break
        if alone:
            return multiplier


@numba.njit(nogil=True, cache=True, inline="always")
def _hash(vertex: Any, multiplier: Any) -> Any:
    return ((np.uint64(vertex) * multiplier) & np.uint64(0xFFFFFFFF)) >> np.uint64(32 - _TABLE_BITS)


@numba.njit(nogil=True, cache=True)
def _half_products(vectors: Array, sources: Array, targets: Array, cosine: bool, out: Array) -> None:
    """Write each pair's dot product, or its cosine."""
    dimension = vectors.shape[1]
    whole = dimension - dimension % LANES
    prepared = np.empty(dimension, np.float32)
    held = np.int32(-1)
    held_norm = np.float32(0.0)
    for edge in range(len(sources)):
        end = held_end(sources, targets, edge, held)
        other = targets[edge] if end == sources[edge] else sources[edge]
        later = min(edge + _AHEAD, len(sources) - 1)
        prefetch_row(vectors, targets[later] if end == sources[later] else sources[later])
        if end != held:
            held = end
            for column in range(dimension):
                prepared[column] = widen(vectors[held, column])
            held_norm = _products(prepared, vectors[held], whole)[1]
        product, norm = _products(prepared, vectors[other], whole)
        scale = held_norm * norm
        if cosine:
            product = product / np.sqrt(scale) if scale > 0 else np.float32(0.0)
        out[edge] = product


@numba.njit(nogil=True, cache=True, inline="always")
def _products(prepared: Array, read: Array, whole: int) -> tuple[Any, Any]:
    product, norm = dot_whole(prepared[:whole], read[:whole])
    for column in range(whole, len(read)):
        value = widen(read[column])
        product += prepared[column] * value
        norm += value * value
    return product, norm
