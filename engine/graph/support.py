"""Inputs of an undirected edge from a first score of all edges: what the neighbours of its two ends say about it.

Legend: N vertices, K neighbours, E edges, F inputs (``NUM_SUPPORT``).
A prior is the first score's probability that a vertex and a neighbour it lists are one identity. It is held as an
integer, 1 being ``PRIOR_ONE``, so that sums are exact and do not depend on which end is read first.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from engine.graph.adjacency import rank_listed
from engine.graph.intrinsics import prefetch_row
from engine.graph.structural_inputs import _AHEAD, _TABLE_BITS, MAX_RANKS, _hash, _place_row, held_end

Array = np.ndarray[Any, Any]

SUPPORT_NAMES = (
    "prior",
    *(f"{end}_{name}" for name in ("strength", "of_best", "ahead", "covered") for end in ("least", "most")),
    "prior_cosine",
    "best_path",
    "conflict",
    "both",
)
NUM_SUPPORT = len(SUPPORT_NAMES)
PRIOR_ONE = 65_535


def store_priors(probabilities: Array) -> Array:
    """Convert probabilities to uint16 priors."""
    return np.round(np.asarray(probabilities, np.float64) * PRIOR_ONE).astype(np.uint16)


@numba.njit(nogil=True, cache=True)
def fill_support(neighbors: Array, priors: Array, sources: Array, targets: Array, out: Array) -> None:
    """Write the inputs of edges from uint16 priors into the first columns of ``out`` (E, >= F) float32.

    The columns are those of ``SUPPORT_NAMES``. They hold the log-odds of the edge's prior; then, each as the least and
    the most of the two ends: the logarithm of 1 + the sum of the end's priors; the edge's prior divided by the end's
    largest; the logarithm of 1 + the number of vertices to which the end gives a larger prior; the share of the end's
    priors that the other end has too. The last columns are over the vertices that both ends list, the ends themselves
    among them with prior 1: the cosine of the ends' priors; the smaller prior of the best common neighbour; how far the
    priors differ, as a share of the larger; and the logarithm of 1 + the sum of their products. Only the first 80
    neighbours are read. Inputs are symmetric in the two ends.
    """
    width = min(neighbors.shape[1], MAX_RANKS)
    one = np.int64(PRIOR_ONE)
    unit = np.float32(1.0) / np.float32(PRIOR_ONE)
    places = np.empty(1 << _TABLE_BITS, np.uint8)
    ids = np.full(MAX_RANKS + 2, np.int32(-1))
    given = np.zeros(MAX_RANKS + 2, np.int64)
    held = np.int32(-1)
    multiplier = np.uint64(1)
    length = 0
    strength, square, best = np.int64(0), np.int64(0), np.int64(0)
    for edge in range(len(sources)):
        end = held_end(sources, targets, edge, held)
        other = targets[edge] if end == sources[edge] else sources[edge]
        later = min(edge + _AHEAD, len(sources) - 1)
        prefetched = targets[later] if end == sources[later] else sources[later]
        prefetch_row(neighbors, prefetched)
        prefetch_row(priors, prefetched)
        if end != held:
            held = end
            ids[:] = np.int32(-1)
            ids[0], given[0], length = held, one, 1
            strength, square, best = np.int64(0), one * one, np.int64(0)
            while length <= width and neighbors[held, length - 1] >= 0:
                prior = np.int64(priors[held, length - 1])
                ids[length], given[length] = neighbors[held, length - 1], prior
                strength += prior
                square += prior * prior
                best = max(best, prior)
                length += 1
            multiplier = _place_row(ids, length, places, multiplier)
        place = places[_hash(other, multiplier)]
        listed = ids[place] == other
        own = given[place] if listed else np.int64(0)
        other_strength, other_square, other_best = np.int64(0), one * one, np.int64(0)
        product = own * one
        covered, other_covered = own, np.int64(0)
        path, differ, larger = np.int64(0), np.int64(0), np.int64(0)
        rank, found = 0, np.int64(-1)
        while rank < width and neighbors[other, rank] >= 0:
            vertex, prior = neighbors[other, rank], np.int64(priors[other, rank])
            other_strength += prior
            other_square += prior * prior
            other_best = max(other_best, prior)
            place = places[_hash(vertex, multiplier)]
            if ids[place] == vertex:
                product += prior * given[place]
                other_covered += prior
                if vertex == held:
                    found = prior
                else:
                    covered += given[place]
                    path = max(path, min(prior, given[place]))
                    differ += abs(prior - given[place])
                    larger += max(prior, given[place])
            rank += 1
        prior = max(own, found)
        ahead = other_ahead = 0
        for position in range(1, length):
            ahead += int(given[position] > prior)
        for position in range(rank):
            other_ahead += int(np.int64(priors[other, position]) > prior)
        row = out[edge]
        share = min(max(np.float32(prior) * unit, np.float32(1e-5)), np.float32(1 - 1e-5))
        row[0] = np.log(share / (np.float32(1.0) - share))
        a, b = np.float32(strength) * unit, np.float32(other_strength) * unit
        row[1], row[2] = np.log1p(min(a, b)), np.log1p(max(a, b))
        a, b = _share(prior, max(best, prior)), _share(prior, max(other_best, prior))
        row[3], row[4] = min(a, b), max(a, b)
        row[5] = np.log(np.float32(1 + min(ahead, other_ahead)))
        row[6] = np.log(np.float32(1 + max(ahead, other_ahead)))
        a, b = _share(covered, strength), _share(other_covered, other_strength)
        row[7], row[8] = min(a, b), max(a, b)
        row[9] = np.float32(product) / np.sqrt(np.float32(square) * np.float32(other_square))
        row[10] = np.float32(path) * unit
        row[11] = _share(differ, larger)
        row[12] = np.log1p(np.float32(product) * unit * unit)


@numba.njit(nogil=True, cache=True)
def fill_listed(neighbors: Array, priors: Array, sources: Array, targets: Array, out: Array) -> None:
    """Write the prior that either end of each edge has of the other, int32; -1 where neither lists the other."""
    for edge in range(len(sources)):
        out[edge] = -1
        for end, other in ((sources[edge], targets[edge]), (targets[edge], sources[edge])):
            rank = rank_listed(neighbors[end], other)
            if rank >= 0:
                out[edge] = priors[end, rank]
                break


@numba.njit(nogil=True, cache=True, inline="always")
def _share(part: Any, whole: Any) -> Any:
    return np.float32(part) / np.float32(max(whole, 1))
