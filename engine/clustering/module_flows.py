"""Flows of an undirected walk and the bits that describe them: the parts of the map equation that scan a graph.

Single-threaded numba over rows ``start..stop`` of a symmetric CSR, or of a range of its rows; weights that are not
positive are ignored. Shape suffixes: n nodes, M modules.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def plogp(share: float) -> Any:
    """Give x log2 x, and 0 for x up to 0 (numba)."""
    return share * np.log2(share) if share > 0 else 0.0


@njit(nogil=True, cache=True)
def sum_bits(flow_M, exit_M):  # type: ignore[no-untyped-def]
    """Give the bits of modules by their flow and exit flow: the map equation without its vertices' own bits (numba)."""
    total_exit, bits = 0.0, 0.0
    for module in range(len(flow_M)):
        total_exit += exit_M[module]
        bits += plogp(exit_M[module] + flow_M[module]) - 2 * plogp(exit_M[module])
    return bits + plogp(total_exit)


@njit(nogil=True, cache=True)
def round_weights(weights, unit):  # type: ignore[no-untyped-def]
    """Make weights multiples of ``unit``, positive ones at least one (numba)."""
    for entry in range(len(weights)):
        if weights[entry] > 0:
            weights[entry] = max(np.rint(weights[entry] / unit), 1.0) * unit


@njit(nogil=True, cache=True)
def take_strengths(indptr, indices, weights, begin, start, stop, strengths, out):  # type: ignore[no-untyped-def]
    """Sum each node's weights into ``strengths``, those to others into ``out``, and take self loops away (numba).

    Node 0 of the rows is vertex ``begin``.
    """
    for node in range(start, stop):
        loops, others = 0.0, 0.0
        for entry in range(indptr[node], indptr[node + 1]):
            if indices[entry] == begin + node:
                loops += max(weights[entry], np.float32(0))
                weights[entry] = 0
            elif weights[entry] > 0:
                others += weights[entry]
        strengths[node], out[node] = loops + others, others


@njit(nogil=True, cache=True)
def add_leaving(indptr, indices, weights, labels, begin, start, stop, leaving):  # type: ignore[no-untyped-def]
    """Sum each node's weights to vertices of other labels; node 0 is vertex ``begin`` (numba)."""
    for node in range(start, stop):
        leaving[node] = 0.0
        for entry in range(indptr[node], indptr[node + 1]):
            if weights[entry] > 0 and labels[indices[entry]] != labels[begin + node]:
                leaving[node] += weights[entry]


@njit(nogil=True, cache=True)
def find_wrong_link(indices, weights, num_vertices, start, stop):  # type: ignore[no-untyped-def]
    """Find the first link in ``start..stop`` that leaves the graph or has no finite weight, and the top weight (numba).

    The link is -1 if there is none.
    """
    wrong, top = -1, np.float32(0)
    for link in range(start, stop):
        if indices[link] < 0 or indices[link] >= num_vertices or not np.isfinite(weights[link]):
            wrong = link
            break
        top = max(top, weights[link])
    return wrong, top
