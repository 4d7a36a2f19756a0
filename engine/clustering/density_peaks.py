"""Density-peak linking: each vertex joins its best denser neighbour; a vertex without a denser neighbour is a peak.

Rodriguez and Laio, Science 2014, on a scored graph as in GCN-V (Yang et al., CVPR 2020). Deviation: a vertex's density
is the sum of its edges' scores from ``min_score`` on; no network learns it. N vertices, E edges.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from engine.clustering.union_find import check_edges, component_roots

Array = np.ndarray[Any, Any]

_UNIT = 1 << 24  # scores are summed as integers of this unit, so that their order does not matter


class DensityPeaks:
    """Two passes over edges that arrive in blocks: ``add_density`` all of them, then ``link`` all of them.

    Edges below ``min_score`` (compared as float32) do not count; for links ``least``, if given, takes its place. As
    densities stay the same, a higher ``least`` never joins what a lower one keeps apart. Of two vertices of equal
    density the lower id is the denser one; of neighbours with equal scores the densest is joined. Each edge must come
    once; the order, blocks and direction of the edges do not change the result. Memory: 16 bytes per vertex.
    """

    def __init__(self, num_vertices: int, min_score: float, least: float | None = None) -> None:
        self._min_score, self._least = np.float32(min_score), np.float32(min_score if least is None else least)
        self._densities_N = np.zeros(num_vertices, np.int64)
        self._parents_N = np.full(num_vertices, -1, np.int32)
        self._scores_N = np.zeros(num_vertices, np.float32)

    def add_density(self, sources_E: Array, targets_E: Array, scores_E: Array) -> None:
        """Add a block's scores to its ends' densities; raises ``DataError`` for vertices out of range."""
        check_edges(sources_E, targets_E, len(self._densities_N))
        _add(sources_E, targets_E, scores_E, self._min_score, self._densities_N)

    def link(self, sources_E: Array, targets_E: Array, scores_E: Array) -> None:
        """Offer a block's edges to their less dense ends."""
        _link(sources_E, targets_E, scores_E, self._least, self._densities_N, self._parents_N, self._scores_N)

    def roots(self) -> Array:
        """Roots (N,) int32: the lowest vertex of each vertex's cluster."""
        linked = np.flatnonzero(self._parents_N >= 0).astype(np.int32)
        return component_roots(len(self._parents_N), linked, self._parents_N[linked])


def density_peaks(
    num_vertices: int, sources_E: Array, targets_E: Array, scores_E: Array, min_score: float, least: float | None = None
) -> Array:
    """Run ``DensityPeaks`` over edges in memory: roots (N,) int32."""
    found = DensityPeaks(num_vertices, min_score, least)
    found.add_density(sources_E, targets_E, scores_E)
    found.link(sources_E, targets_E, scores_E)
    return found.roots()


@njit(nogil=True, cache=True)
def _add(sources: Array, targets: Array, scores: Array, min_score: float, densities: Array) -> None:
    for edge in range(len(sources)):
        if scores[edge] >= min_score and sources[edge] != targets[edge]:
            units = np.int64(np.rint(np.float64(scores[edge]) * _UNIT))
            densities[sources[edge]] += units
            densities[targets[edge]] += units


@njit(nogil=True, cache=True)
def _denser(densities: Array, vertex: int, other: int) -> bool:
    if densities[vertex] != densities[other]:
        return bool(densities[vertex] > densities[other])
    return vertex < other


@njit(nogil=True, cache=True)
def _link(
    sources: Array, targets: Array, scores: Array, min_score: float, densities: Array, parents: Array, best: Array
) -> None:
    for edge in range(len(sources)):
        score = scores[edge]
        if score < min_score or sources[edge] == targets[edge]:
            continue
        low, high = sources[edge], targets[edge]
        if _denser(densities, low, high):
            low, high = high, low
        held = parents[low]
        if held < 0 or score > best[low] or (score == best[low] and held != high and _denser(densities, high, held)):
            parents[low], best[low] = high, score
