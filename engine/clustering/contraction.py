"""A weighted graph in which whole clusters are one node each, so that the map equation sees all flow and moves little.

Legend: N vertices, E edges, n nodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


def contract(
    num_nodes: int, node_N: Array, free_n: Array, blocks: Iterable[tuple[Array, Array, Array]]
) -> tuple[Array, Array, Array]:
    """Build the symmetric CSR graph of nodes from weighted edges between vertices: (indptr, indices, weights float32).

    ``node_N``: int32, each vertex's node, -1 for none. ``free_n``: nodes of a single vertex. Weights of parallel edges
    are added. A node's edges between its own vertices are a self loop of twice their weight, as it counts for both
    ends. Sums are in the order of the edges.
    """
    loops = np.zeros(num_nodes)
    plain: list[tuple[Array, ...]] = []
    joint: list[tuple[Array, ...]] = []
    for sources, targets, weights in blocks:
        a, b = node_N[sources], node_N[targets]
        inside = (a == b) & (a >= 0)
        _add(loops, a[inside], weights[inside])
        between = (a != b) & (a >= 0) & (b >= 0)
        alone = free_n[a] & free_n[b]
        for parts, chosen in ((plain, between & alone), (joint, between & ~alone)):
            parts.append((np.minimum(a, b)[chosen], np.maximum(a, b)[chosen], weights[chosen]))
    none = (np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32))
    first, second, weight = (np.concatenate(column) for column in zip(none, *plain, strict=True))
    a, b, values = (np.concatenate(column) for column in zip(none, *joint, strict=True))
    keys, places = np.unique(a.astype(np.int64) * num_nodes + b, return_inverse=True)
    summed = np.bincount(places, values, len(keys)).astype(np.float32)
    first = np.concatenate([first, (keys // num_nodes).astype(np.int32)])
    second = np.concatenate([second, (keys % num_nodes).astype(np.int32)])
    weight = np.concatenate([weight, summed])
    looped = np.flatnonzero(loops > 0).astype(np.int32)
    degrees = np.bincount(first, minlength=num_nodes) + np.bincount(second, minlength=num_nodes)
    degrees[looped] += 1
    indptr = np.append(0, np.cumsum(degrees)).astype(np.int64)
    indices, weights_out = np.empty(indptr[-1], np.int32), np.empty(indptr[-1], np.float32)
    own = (2 * loops[looped]).astype(np.float32)
    _fill(indptr[:-1].copy(), indices, weights_out, first, second, weight, looped, own)
    return indptr, indices, weights_out


@njit(nogil=True, cache=True)
def _add(loops, nodes, weights):  # type: ignore[no-untyped-def]
    for edge in range(len(nodes)):
        loops[nodes[edge]] += weights[edge]


@njit(nogil=True, cache=True)
def _fill(cursor, indices, weights, first, second, values, looped, loops):  # type: ignore[no-untyped-def]
    for edge in range(len(first)):
        a, b = first[edge], second[edge]
        indices[cursor[a]], indices[cursor[b]] = b, a
        weights[cursor[a]] = weights[cursor[b]] = values[edge]
        cursor[a] += 1
        cursor[b] += 1
    for entry in range(len(looped)):
        node = looped[entry]
        indices[cursor[node]], weights[cursor[node]] = node, loops[entry]
        cursor[node] += 1
