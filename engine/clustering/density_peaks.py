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


def add_densities(
    start: int, stop: int, sources_E: Array, targets_E: Array, scores_E: Array, min_score: float, densities_n: Array
) -> None:
    """Add a block's scores to the densities (n,) int64 of the vertices ``start..stop`` among its ends.

    Edges below ``min_score`` (compared as float32) do not count. Each edge must come once; the order, blocks and
    direction of the edges do not change the result.
    """
    _add(sources_E, targets_E, scores_E, np.float32(min_score), start, stop, densities_n)


class DensityLinks:
    """The best denser neighbour of the vertices ``start..stop``, from edges that arrive in blocks.

    Of two vertices of equal density the lower id is the denser one; of neighbours with equal scores the densest is
    joined. ``densities_N``: of all vertices, as ``add_densities`` found them. Each edge must come once; the order,
    blocks and direction of the edges do not change the result. Memory: 8 bytes per vertex of the range.
    """

    def __init__(self, start: int, stop: int, min_score: float, densities_N: Array) -> None:
        self._bounds, self._min_score, self._densities_N = (start, stop), np.float32(min_score), densities_N
        self.parents_n = np.full(stop - start, -1, np.int32)
        self._scores_n = np.zeros(stop - start, np.float32)

    def link(self, sources_E: Array, targets_E: Array, scores_E: Array) -> None:
        """Offer a block's edges to their less dense ends."""
        edges = sources_E, targets_E, scores_E, self._min_score
        _link(*edges, *self._bounds, self._densities_N, self.parents_n, self._scores_n)


def linked_roots(parents_N: Array) -> Array:
    """Give the roots (N,) int32, the lowest vertex of each vertex's cluster; ``parents_N``: -1 for a peak."""
    linked = np.flatnonzero(parents_N >= 0).astype(np.int32)
    return component_roots(len(parents_N), linked, parents_N[linked])


def density_peaks(
    num_vertices: int, sources_E: Array, targets_E: Array, scores_E: Array, min_score: float, least: float | None = None
) -> Array:
    """Link all vertices over edges in memory: roots (N,) int32.

    Densities count edges of ``min_score`` and more; links those of ``least`` and more, if given. As densities stay the
    same, a higher ``least`` never joins what a lower one keeps apart. Raises ``DataError`` for vertices out of range.
    """
    check_edges(sources_E, targets_E, num_vertices)
    densities_N = np.zeros(num_vertices, np.int64)
    add_densities(0, num_vertices, sources_E, targets_E, scores_E, min_score, densities_N)
    links = DensityLinks(0, num_vertices, min_score if least is None else least, densities_N)
    links.link(sources_E, targets_E, scores_E)
    return linked_roots(links.parents_n)


@njit(nogil=True, cache=True)
def _add(
    sources: Array, targets: Array, scores: Array, min_score: float, start: int, stop: int, densities: Array
) -> None:
    for edge in range(len(sources)):
        if scores[edge] >= min_score and sources[edge] != targets[edge]:
            units = np.int64(np.rint(np.float64(scores[edge]) * _UNIT))
            for end in (sources[edge], targets[edge]):
                if start <= end < stop:
                    densities[end - start] += units


@njit(nogil=True, cache=True)
def _denser(densities: Array, vertex: int, other: int) -> bool:
    if densities[vertex] != densities[other]:
        return bool(densities[vertex] > densities[other])
    return vertex < other


@njit(nogil=True, cache=True)
def _link(
    sources: Array,
    targets: Array,
    scores: Array,
    min_score: float,
    start: int,
    stop: int,
    densities: Array,
    parents: Array,
    best: Array,
) -> None:
    for edge in range(len(sources)):
        score = scores[edge]
        if score < min_score or sources[edge] == targets[edge]:
            continue
        low, high = sources[edge], targets[edge]
        if _denser(densities, low, high):
            low, high = high, low
        if low < start or low >= stop:
            continue
        place = low - start
        held = parents[place]
        if held < 0 or score > best[place] or (
            score == best[place] and held != high and _denser(densities, high, held)
        ):  # fmt: skip
            parents[place], best[place] = high, score
