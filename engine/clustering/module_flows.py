"""Flows of an undirected walk and the bits that describe them: the parts of the map equation that scan a graph.

Single-threaded numba over rows ``start..stop`` of a symmetric CSR; weights that are not positive are ignored.
Shape suffixes: n nodes, M modules.
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
def sum_bits(flow_M, exit_M, flow_n):  # type: ignore[no-untyped-def]
    """Give the two-level map equation of flows, summed one by one, so that empty modules change nothing (numba)."""
    total_exit, bits = 0.0, 0.0
    for module in range(len(flow_M)):
        total_exit += exit_M[module]
        bits += plogp(exit_M[module] + flow_M[module]) - 2 * plogp(exit_M[module])
    for node in range(len(flow_n)):
        bits -= plogp(flow_n[node])
    return bits + plogp(total_exit)


@njit(nogil=True, cache=True)
def add_strengths(indptr, indices, weights, start, stop, strengths, out):  # type: ignore[no-untyped-def]
    """Sum each node's weights into ``strengths``, and its weights to other nodes into ``out`` (numba)."""
    for node in range(start, stop):
        loops, others = 0.0, 0.0
        for entry in range(indptr[node], indptr[node + 1]):
            if weights[entry] > 0:
                if indices[entry] == node:
                    loops += weights[entry]
                else:
                    others += weights[entry]
        strengths[node], out[node] = loops + others, others


@njit(nogil=True, cache=True)
def add_leaving(indptr, indices, weights, labels, start, stop, leaving):  # type: ignore[no-untyped-def]
    """Sum each node's weights to nodes of other labels (numba)."""
    for node in range(start, stop):
        leaving[node] = 0.0
        for entry in range(indptr[node], indptr[node + 1]):
            if weights[entry] > 0 and labels[indices[entry]] != labels[node]:
                leaving[node] += weights[entry]


@njit(nogil=True, cache=True)
def find_wrong_link(indices, weights, num_vertices, start, stop):  # type: ignore[no-untyped-def]
    """Find the first link in ``start..stop`` that leaves the graph or has no finite weight; -1 if none (numba)."""
    for link in range(start, stop):
        if indices[link] < 0 or indices[link] >= num_vertices or not np.isfinite(weights[link]):
            return link
    return -1
