"""Structural inputs of an undirected edge: what the KNN graph alone says about its two ends.

Legend: N vertices, D feature dimension, K neighbours, E edges, F inputs (``NUM_STRUCTURAL``).
Every input is symmetric in the two ends, knows nothing of the domain the vectors come from, and depends on the edge and
the two rows of the graph only, so that blocks, tiles and threads cannot change a bit of it.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from engine.graph.adjacency import HALF_BITS, HALF_SCALE
from engine.tiles import map_tiles, tile_bounds

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

TILE_EDGES = 16_384
_TABLE_SLOTS = 512  # at most 81 keys: most look-ups of an absent key end at the first slot
_LANES = 32  # independent partial sums, so that dot products fill whole registers without reordering additions


def structural_features(
    neighbors_NK: Array,
    similarities_NK: Array,
    sources: Array,
    targets: Array,
    similarities: Array,
    *,
    threads: int = 1,
) -> Array:
    """Compute (E, F) float32 structural inputs, columns as in ``STRUCTURAL_NAMES``.

    Per edge: its similarity; the logarithms of 2 + the ranks at which either end lists the other, lower and higher
    (``MAX_RANKS`` where it does not); the cosine of the two ends' rows of the graph; the vertices both ends list among
    their first 5, 10, 20, 40, 80, themselves counted, as shares; and how far the similarity stands above what each end
    has at eight ranks, least and most of the two ends. Ranks past the end of a short row take its last entry. Only the
    first ``MAX_RANKS`` neighbours are read. Fastest when edges come grouped by source.
    """
    neighbors, known = np.asarray(neighbors_NK), np.asarray(similarities_NK)
    result = np.empty((len(sources), NUM_STRUCTURAL), np.float32)

    def run(tile: tuple[int, int]) -> None:
        part = slice(*tile)
        fill_structural(neighbors, known, sources[part], targets[part], similarities[part], result[part])

    map_tiles(run, tile_bounds(0, len(sources), TILE_EDGES), threads)
    return result


def pair_cosines(vectors_ND: Array, sources: Array, targets: Array, *, threads: int = 1) -> Array:
    """Compute the cosine of each pair of rows of a float16 array: (E,) float32; 0 where a row is zero."""
    vectors = np.asarray(vectors_ND)
    result = np.empty(len(sources), np.float32)

    def run(tile: tuple[int, int]) -> None:
        part = slice(*tile)
        fill_cosines(vectors, sources[part], targets[part], result[part])

    map_tiles(run, tile_bounds(0, len(sources), TILE_EDGES), threads)
    return result


def fill_cosines(vectors: Array, sources: Array, targets: Array, out: Array) -> None:
    """Write ``pair_cosines`` of a tile into ``out`` on the calling thread."""
    _half_cosines(vectors.view(np.int16), sources, targets, out)


@numba.njit(nogil=True, cache=True)
def fill_structural(
    neighbors: Array, known: Array, sources: Array, targets: Array, similarities: Array, out: Array
) -> None:
    """Write ``structural_features`` of a tile into the first columns of ``out`` on the calling thread."""
    width = min(neighbors.shape[1], MAX_RANKS)
    keys = np.full(_TABLE_SLOTS, np.int32(-1))
    ranks = np.empty(_TABLE_SLOTS, np.int32)
    current = np.int32(-1)
    source_norm, source_length = np.float32(0.0), 0
    shared = np.zeros(len(SHARED_SCALES), np.int32)
    for edge in range(len(sources)):
        source, target, similarity = sources[edge], targets[edge], similarities[edge]
        if source != current:
            current = source
            keys[:] = np.int32(-1)
            source_length, source_norm = _row_length_and_norm(neighbors, known, source, width)
            for rank in range(-1, source_length):
                vertex = source if rank < 0 else neighbors[source, rank]
                slot = _slot(vertex)
                while keys[slot] >= 0:
                    slot = (slot + 1) & (_TABLE_SLOTS - 1)
                keys[slot] = vertex
                ranks[slot] = rank
        target_length, target_norm = _row_length_and_norm(neighbors, known, target, width)
        shared[:] = 0
        product = np.float32(0.0)
        lower = higher = MAX_RANKS
        for rank in range(-1, target_length):
            vertex = target if rank < 0 else neighbors[target, rank]
            slot = _slot(vertex)
            while keys[slot] >= 0 and keys[slot] != vertex:
                slot = (slot + 1) & (_TABLE_SLOTS - 1)
            if keys[slot] < 0:
                continue
            other = ranks[slot]
            if rank < 0:
                lower = other
            elif other < 0:
                higher = rank
            further = max(rank, other)
            for index in range(len(SHARED_SCALES)):
                shared[index] += np.int32(further < SHARED_SCALES[index])
            weight = np.float32(1.0) if rank < 0 else known[target, rank]
            product += weight * (np.float32(1.0) if other < 0 else known[source, other])
        row = out[edge]
        row[0] = similarity
        row[1] = np.log(np.float32(2.0 + min(lower, higher)))
        row[2] = np.log(np.float32(2.0 + max(lower, higher)))
        row[3] = product / np.sqrt(source_norm * target_norm)
        for index in range(len(SHARED_SCALES)):
            row[4 + index] = np.float32(shared[index]) / np.float32(1 + min(SHARED_SCALES[index], width))
        place = 4 + len(SHARED_SCALES)
        for index in range(len(PROFILE_RANKS)):
            first = similarity - known[source, min(PROFILE_RANKS[index], source_length - 1)]
            second = similarity - known[target, min(PROFILE_RANKS[index], target_length - 1)]
            row[place] = min(first, second)
            row[place + 1] = max(first, second)
            place += 2


@numba.njit(nogil=True, cache=True, inline="always")
def _slot(vertex: Any) -> Any:
    return ((np.int64(vertex) * 2_654_435_761) >> 11) & (_TABLE_SLOTS - 1)


@numba.njit(nogil=True, cache=True)
def _row_length_and_norm(neighbors: Array, known: Array, row: int, width: int) -> tuple[int, Any]:
    total = np.float32(1.0)
    for rank in range(width):
        if neighbors[row, rank] < 0:
            return rank, total
        total += known[row, rank] * known[row, rank]
    return width, total


@numba.njit(nogil=True, cache=True)
def _half_cosines(vectors: Array, sources: Array, targets: Array, out: Array) -> None:
    dimension = vectors.shape[1]
    held, read = np.empty(dimension, np.float32), np.empty(dimension, np.float32)
    partial = np.empty(_LANES, np.float32)
    current = np.int32(-1)
    source_norm = np.float32(0.0)
    for edge in range(len(sources)):
        if sources[edge] != current:
            current = sources[edge]
            _decode_half(vectors[current], held)
            source_norm = _dot(held, held, partial)
        _decode_half(vectors[targets[edge]], read)
        scale = source_norm * _dot(read, read, partial)
        out[edge] = _dot(held, read, partial) / np.sqrt(scale) if scale > 0 else np.float32(0.0)


@numba.njit(nogil=True, cache=True)
def _decode_half(vector: Array, out: Array) -> None:
    for column in range(len(vector)):
        bits = np.int32((np.int32(vector[column]) << np.int32(13)) & HALF_BITS)
        out[column] = bits.view(np.float32) * HALF_SCALE


@numba.njit(nogil=True, cache=True)
def _dot(first: Array, second: Array, partial: Array) -> Any:
    partial[:] = np.float32(0.0)
    whole = len(first) - len(first) % _LANES
    for start in range(0, whole, _LANES):
        for lane in range(_LANES):
            partial[lane] += first[start + lane] * second[start + lane]
    for lane in range(len(first) - whole):
        partial[lane] += first[whole + lane] * second[whole + lane]
    total = np.float32(0.0)
    for lane in range(_LANES):
        total += partial[lane]
    return total
