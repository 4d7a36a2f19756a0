"""More structural inputs of an undirected edge: how far the neighbourhoods of its two ends overlap.

Legend: N vertices, K neighbours, E edges, F inputs (``NUM_OVERLAPS``), D feature dimension, A averages.
Each input is symmetric in the two ends, carries no scale of the vectors' domain, and depends on the edge and its ends'
two rows of the graph alone. Sums are integers, so the bits do not depend on which end is read first.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from engine.graph.intrinsics import prefetch_row, widen
from engine.graph.structural_inputs import _AHEAD, _TABLE_BITS, MAX_RANKS, _hash, _place_row, held_end
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

WALK_SCALES = (10, 20, 40, 80)
WALK_WIDTHS = (0.05, 0.2, 0.25)  # a step becomes e times less likely over so much similarity; the last is NEP's
AVERAGED = (5, 12, 25)
OVERLAP_NAMES = (
    *(f"walks_{width}_top_{scale}" for width in WALK_WIDTHS[:2] for scale in WALK_SCALES),
    *(f"nep_top_{scale}" for scale in WALK_SCALES),
    *(
        f"{end}_{name}"
        for name in ("before", "relative", "first", "range", "density", "gap_rank", "gap")
        for end in ("least", "most")
    ),
)
NUM_OVERLAPS = len(OVERLAP_NAMES)

_PROFILED = 5  # first columns of a vertex's profile, which are inputs themselves
NUM_PROFILE = _PROFILED + len(WALK_SCALES) * len(WALK_WIDTHS)

PROFILE_ROWS = 4_096
AVERAGE_ROWS = 256
_BINS = 2_048  # tabulated weights per unit of similarity
_UNIT = 1 << 20
_DENSE = 10


def _tabulate() -> Array:
    """Tabulate a step's weight by how far its similarity lies below the first: its square root but for NEP."""
    below = np.arange(2 * _BINS + 2) / _BINS
    wide = [2 * WALK_WIDTHS[0], 2 * WALK_WIDTHS[1], WALK_WIDTHS[2]]
    return np.round(_UNIT * np.exp(-below[:, None] / np.array(wide))).astype(np.int64)


_WEIGHTS = _tabulate()
_SCALE_OF_RANK = np.searchsorted(np.array(WALK_SCALES), np.arange(MAX_RANKS), side="right").astype(np.int64)
_LOG = np.log(np.arange(1, MAX_RANKS + 3)).astype(np.float32)


def vertex_profiles(neighbors_nK: Array, similarities_nK: Array, *, threads: int = 1) -> Array:
    """Describe each row by its similarities alone: (n, P) float32.

    The columns are the first similarity; first minus last; the mean of the first 10; the logarithm of 1 + the rank
    before the largest gap, and that gap; then, for each scale and width of a walk, the sum that its steps' weights are
    divided by.
    """
    neighbors, known = np.asarray(neighbors_nK), np.asarray(similarities_nK)
    result = np.empty((len(neighbors), NUM_PROFILE), np.float32)
    map_tiles(
        lambda tile: _profile(neighbors[slice(*tile)], known[slice(*tile)], result[slice(*tile)]),
        tile_bounds(0, len(neighbors), PROFILE_ROWS),
        threads,
    )
    return result


def neighborhood_averages(
    neighbors_nK: Array, features_ND: Array, start: int, *, counts: tuple[int, ...] = AVERAGED, threads: int = 1
) -> Array:
    """Average each row from ``start`` on with its first neighbours: (n, A, D) float16 unit vectors.

    ``counts`` says with how many neighbours, an average for each. ``features_ND``: float16 unit rows, plain or
    memory-mapped. Vectors are summed in rank order, the row itself first.
    """
    rows_n = np.arange(start, start + len(neighbors_nK), dtype=np.int64)
    return averages_of(neighbors_nK, features_ND, rows_n, counts=counts, threads=threads)


def averages_of(
    neighbors_nK: Array, features_ND: Array, rows_n: Array, *, counts: tuple[int, ...] = AVERAGED, threads: int = 1
) -> Array:
    """As ``neighborhood_averages``, of the rows ``rows_n`` (n,) that have these lists."""
    neighbors = np.asarray(neighbors_nK)
    result = np.empty((len(neighbors), len(counts), features_ND.shape[1]), np.float32)
    source = features_ND.view(np.int16)

    def run(tile: tuple[int, int]) -> None:
        _average(neighbors, source, rows_n, np.array(counts), *tile, result)

    map_tiles(run, tile_bounds(0, len(neighbors), AVERAGE_ROWS), threads)
    return result.astype(np.float16)


@numba.njit(nogil=True, cache=True)
def fill_overlaps(
    neighbors: Array, known: Array, profiles: Array, sources: Array, targets: Array, similarities: Array, out: Array
) -> None:
    """Write the overlap inputs of edges into the first columns of ``out`` (E, >= F) float32, on the calling thread.

    The columns are those of ``OVERLAP_NAMES``; ``profiles`` come from ``vertex_profiles``. A walk steps from a vertex
    to itself and to its first K neighbours with probability ∝ exp(similarity / width); the vertex is as near
    to itself as to its first neighbour. For K of 10, 20, 40, 80, the columns hold the Bhattacharyya overlap of both
    ends' steps at widths 0.05 and 0.2 (Hard-Clusters' TPDi), and NEP, the mean share of steps that lead to vertices
    that both ends list (FC-ES, width 0.25). Then come, each as the least and the most of the two ends: of the vertices
    that an end lists before the other end, the share that the other end lists too; the similarity's place between the
    last and the first that the end lists; and the end's profile. Only the first 80 neighbours are read. The work is
    fastest if edges come grouped by source.
    """
    width = min(neighbors.shape[1], MAX_RANKS)
    scales, kinds = len(WALK_SCALES), len(WALK_WIDTHS)
    places = np.empty(1 << _TABLE_BITS, np.uint8)
    ids = np.full(MAX_RANKS + 2, np.int32(-1))
    weights = np.zeros((MAX_RANKS + 2, kinds), np.int64)
    scale_of = np.zeros(MAX_RANKS + 2, np.int64)
    sums = np.zeros((scales, kinds + 1), np.int64)
    held = np.int32(-1)
    multiplier = np.uint64(1)
    length = 0
    for edge in range(len(sources)):
        end = held_end(sources, targets, edge, held)
        other = targets[edge] if end == sources[edge] else sources[edge]
        later = min(edge + _AHEAD, len(sources) - 1)
        prefetched = targets[later] if end == sources[later] else sources[later]
        prefetch_row(neighbors, prefetched)
        prefetch_row(known, prefetched)
        prefetch_row(profiles, prefetched)
        if end != held:
            held = end
            length = _list_steps(neighbors, known, held, width, ids, weights, scale_of)
            multiplier = _place_row(ids, length, places, multiplier)
        place = places[_hash(other, multiplier)]
        rank_of_other = np.int64(place) - 1 if ids[place] == other else width
        listed, first = neighbors[other], known[other, 0]
        sums[:] = 0
        found = before_held = before_other = 0
        rank_of_held, rank = width, -1
        while rank < width:  # rank -1 is the step to itself
            vertex = other if rank < 0 else listed[rank]
            if vertex < 0:
                break
            place = places[_hash(vertex, multiplier)]
            if ids[place] == vertex:
                bin_of = _bin(first, known[other, max(rank, 0)])
                bucket = max(_SCALE_OF_RANK[max(rank, 0)], scale_of[place])
                sums[bucket, 0] += _WEIGHTS[bin_of, 0] * weights[place, 0]
                sums[bucket, 1] += _WEIGHTS[bin_of, 1] * weights[place, 1]
                sums[bucket, 2] += _WEIGHTS[bin_of, 2]
                sums[bucket, 3] += weights[place, 2]
                if vertex == held:
                    rank_of_held, before_held = rank, found
                elif rank >= 0:
                    found += 1
                    before_other += int(np.int64(place) - 1 < rank_of_other)
            rank += 1
        if rank_of_held == width:
            before_held = found
        row, profile, other_profile = out[edge], profiles[held], profiles[other]
        for scale in range(scales):
            if scale > 0:
                for kind in range(kinds + 1):
                    sums[scale, kind] += sums[scale - 1, kind]
            norm = _PROFILED + scale * kinds
            for kind in range(2):
                scaled = np.sqrt(profile[norm + kind] * other_profile[norm + kind])
                row[kind * scales + scale] = np.float32(sums[scale, kind]) / scaled
            row[2 * scales + scale] = np.float32(0.5) * (
                np.float32(sums[scale, 3]) / profile[norm + 2] + np.float32(sums[scale, 2]) / other_profile[norm + 2]
            )
        column = kinds * scales
        a = np.float32(before_other + 1) / np.float32(min(rank_of_other, length - 1) + 1)
        b = np.float32(before_held + 1) / np.float32(min(rank_of_held, rank) + 1)
        row[column], row[column + 1] = min(a, b), max(a, b)
        a, b = _place_in(profile, similarities[edge]), _place_in(other_profile, similarities[edge])
        row[column + 2], row[column + 3] = min(a, b), max(a, b)
        column += 4
        for index in range(_PROFILED):
            row[column] = min(profile[index], other_profile[index])
            row[column + 1] = max(profile[index], other_profile[index])
            column += 2


@numba.njit(nogil=True, cache=True, inline="always")
def _place_in(profile: Array, similarity: Any) -> Any:
    return (similarity - profile[0] + profile[1]) / (profile[1] + np.float32(1e-3))


@numba.njit(nogil=True, cache=True, inline="always")
def _bin(first: Any, similarity: Any) -> Any:
    return np.int64((first - similarity) * np.float32(_BINS) + np.float32(0.5))


@numba.njit(nogil=True, cache=True)
def _list_steps(
    neighbors: Array, known: Array, row: int, width: int, ids: Array, weights: Array, scale_of: Array
) -> int:
    """Write the steps from a row, first the one to itself; return how many there are."""
    ids[:] = np.int32(-1)
    ids[0] = row
    length = 1
    while length <= width and neighbors[row, length - 1] >= 0:
        ids[length] = neighbors[row, length - 1]
        length += 1
    for position in range(length):
        rank = max(position - 1, 0)
        scale_of[position] = _SCALE_OF_RANK[rank]
        bin_of = _bin(known[row, 0], known[row, rank])
        for kind in range(len(WALK_WIDTHS)):
            weights[position, kind] = _WEIGHTS[bin_of, kind]
    return length


@numba.njit(nogil=True, cache=True)
def _profile(neighbors: Array, known: Array, out: Array) -> None:
    width = min(neighbors.shape[1], MAX_RANKS)
    norms = np.zeros((len(WALK_SCALES), len(WALK_WIDTHS)), np.int64)
    for row in range(len(neighbors)):
        norms[:] = 0
        total, gap, place, length = np.float32(0.0), np.float32(0.0), 0, 0
        while length < width and neighbors[row, length] >= 0:
            if length < _DENSE:
                total += known[row, length]
            if length > 0 and known[row, length - 1] - known[row, length] > gap:
                gap, place = known[row, length - 1] - known[row, length], length
            length += 1
        for position in range(length + 1):
            rank = max(position - 1, 0)
            bin_of = _bin(known[row, 0], known[row, rank])
            for scale in range(_SCALE_OF_RANK[rank], len(WALK_SCALES)):
                norms[scale, 0] += _WEIGHTS[bin_of, 0] * _WEIGHTS[bin_of, 0]
                norms[scale, 1] += _WEIGHTS[bin_of, 1] * _WEIGHTS[bin_of, 1]
                norms[scale, 2] += _WEIGHTS[bin_of, 2]
        out[row, 0] = known[row, 0]
        out[row, 1] = known[row, 0] - known[row, max(length - 1, 0)]
        out[row, 2] = total / np.float32(max(min(length, _DENSE), 1))
        out[row, 3] = _LOG[place]
        out[row, 4] = gap
        for scale in range(len(WALK_SCALES)):
            for kind in range(len(WALK_WIDTHS)):
                out[row, _PROFILED + scale * len(WALK_WIDTHS) + kind] = np.float32(norms[scale, kind])


@numba.njit(nogil=True, cache=True)
def _average(neighbors: Array, source: Array, rows: Array, counts: Array, begin: int, end: int, out: Array) -> None:
    dimension = source.shape[1]
    total = np.empty(dimension, np.float32)
    for row in range(begin, end):
        for column in range(dimension):
            total[column] = widen(source[rows[row], column])
        rank = 0
        for average in range(len(counts)):
            while rank < min(counts[average], neighbors.shape[1]) and neighbors[row, rank] >= 0:
                for column in range(dimension):
                    total[column] += widen(source[neighbors[row, rank], column])
                rank += 1
            norm = np.float32(0.0)
            for column in range(dimension):
                norm += total[column] * total[column]
            scale = np.float32(1.0) / np.sqrt(max(norm, np.float32(1e-12)))
            for column in range(dimension):
                out[row, average, column] = total[column] * scale
