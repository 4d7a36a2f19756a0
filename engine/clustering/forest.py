"""The maximum spanning forest of edges that arrive in blocks: all that single linkage needs.

E edges, V vertices, B edges in the buffers. Memory follows the number of vertices, not of edges.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.union_find import Ids, check_edges, compact_ids, find_root, flatten, union_edges
from engine.errors import DataError

_MIN_PENDING = 1 << 16


class MaximumForest:
    """Keep the maximum spanning forest of all edges added so far.

    For every t, forest edges of value >= t join the same components as all edges of value >= t, so a threshold sweep
    and a search for weakest links need nothing else. The multiset of forest values does not depend on the order or the
    blocks of the edges; which of several equal edges is kept does. Peak about 84 bytes per vertex.

    Most edges of a dense graph lie inside components that stronger edges have joined already. Therefore the components
    of the forest's stronger half are kept too, and an edge inside one of these that is weaker than the half is dropped.
    """

    def __init__(self, num_vertices: int) -> None:
        capacity = num_vertices + max(2 * num_vertices, _MIN_PENDING)
        self.num_vertices = num_vertices
        self._sources_B = np.empty(capacity, np.int32)
        self._targets_B = np.empty(capacity, np.int32)
        self._values_B = np.empty(capacity, np.float32)
        self._filled = 0
        self._settled_V = np.arange(num_vertices, dtype=np.int32)
        self._settled_value = np.float32(-np.inf)

    def add(self, sources_E: NDArray[np.int32], targets_E: NDArray[np.int32], values_E: NDArray[np.float32]) -> None:
        """Add a block of undirected edges; duplicates, both directions and self loops are harmless.

        Raises ``DataError`` for unequal lengths, vertices out of range and values that are not numbers.
        """
        check_edges(sources_E, targets_E, self.num_vertices)
        _check_numbers(values_E, len(sources_E))
        buffers, start = (self._sources_B, self._targets_B, self._values_B), 0
        while start < len(values_E):
            block = sources_E[start:], targets_E[start:], values_E[start:]
            read, self._filled = _store(*block, self._settled_V, self._settled_value, *buffers, self._filled)
            start += read
            if self._filled == len(self._values_B):
                self._compact()
                self._settle()

    def edges(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
        """Return the forest's sources, targets and values, at most V - 1 edges, by descending value."""
        self._compact()
        end = self._filled
        return self._sources_B[:end].copy(), self._targets_B[:end].copy(), self._values_B[:end].copy()

    def _settle(self) -> None:
        """Find the components of the forest's stronger half; the forest is ordered by descending value."""
        half = self._filled // 2
        parent_V = np.arange(self.num_vertices, dtype=np.int32)
        union_edges(parent_V, self._sources_B[:half], self._targets_B[:half])
        flatten(parent_V)
        self._settled_V, self._settled_value = parent_V, self._values_B[max(half - 1, 0)]

    def _compact(self) -> None:
        end = self._filled
        order_E = _descending(self._values_B[:end])
        parent_V = np.arange(self.num_vertices, dtype=np.int32)
        kept_E = order_E[: _keep_forest(order_E, self._sources_B, self._targets_B, parent_V)]
        for buffer in (self._sources_B, self._targets_B, self._values_B):
            buffer[: len(kept_E)] = buffer[kept_E]
        self._filled = len(kept_E)


def block_forest(
    start: int, stop: int, sources_E: Ids, targets_E: Ids, values_E: NDArray[np.float32]
) -> tuple[Ids, Ids, NDArray[np.float32]]:
    """Reduce edges of which most ends lie in ``start..stop`` to a maximum spanning forest, by descending value.

    The result is that of ``strongest_forest``, edge for edge, in a third of its time: the ends in the range keep their
    order as numbers, only the others are sorted, and most edges never are.
    """
    outside = [ends_E[(ends_E < start) | (ends_E >= stop)] for ends_E in (sources_E, targets_E)]
    others = np.unique(np.concatenate(outside)).astype(sources_E.dtype)
    a_E, b_E = np.empty(len(sources_E), np.int32), np.empty(len(sources_E), np.int32)
    _number(sources_E, start, stop, others, a_E)
    _number(targets_E, start, stop, others, b_E)
    forest = MaximumForest(stop - start + len(others))
    forest.add(a_E, b_E, values_E)
    sources_F, targets_F, values_F = forest.edges()
    ids = np.concatenate([np.arange(start, stop, dtype=sources_E.dtype), others])
    return ids[sources_F], ids[targets_F], values_F


def strongest_forest(
    sources_E: Ids, targets_E: Ids, scores_E: NDArray[np.float32]
) -> tuple[Ids, Ids, NDArray[np.float32]]:
    """Reduce an edge block to a maximum spanning forest, by descending score (F ≤ vertices touched − 1).

    At every threshold the forest has the components of the block. Blocks may therefore be reduced alone, concatenated
    and reduced again: ``propagate`` finds the clusters of all edges. Ties go to the edge that comes first. Memory is
    proportional to the block, whatever the ids.
    """
    _check_numbers(scores_E, len(sources_E))
    ids, sources, targets = compact_ids(sources_E, targets_E)
    order = _descending(scores_E)
    kept = order[: _keep_forest(order, sources, targets, np.arange(len(ids), dtype=sources.dtype))]
    return sources_E[kept], targets_E[kept], scores_E[kept]


def _check_numbers(values_E: NDArray[np.float32], num_edges: int) -> None:
    if values_E.shape != (num_edges,):
        raise DataError(f"edges: values of shape {values_E.shape} for {num_edges} edges")
    if num_edges and bool(np.isnan(values_E).any()):
        raise DataError(f"edge {int(np.argmax(np.isnan(values_E)))}: its value is not a number")


def _descending(values_E: NDArray[np.float32]) -> NDArray[np.int64]:
    # Orderable bits of the value and the position form one word: its sort is several times as fast as a stable argsort.
    packed_E = _pack(values_E.view(np.uint32))
    packed_E.sort()
    packed_E &= np.uint64(0xFFFFFFFF)
    return packed_E.view(np.int64)


@njit(nogil=True, cache=True)
def _number(ids_E, start, stop, others, out):  # type: ignore[no-untyped-def]
    """Number the ids of a range by their place in it, and the others after them."""
    for edge in range(len(ids_E)):
        if start <= ids_E[edge] < stop:
            out[edge] = ids_E[edge] - start
        else:
            out[edge] = stop - start + np.searchsorted(others, ids_E[edge])


@njit(nogil=True, cache=True)
def _store(sources_E, targets_E, values_E, settled_V, settled_value, sources_B, targets_B, values_B, filled):  # type: ignore[no-untyped-def]
    """Append edges that may change the forest, until the buffers are full; return edges read and places filled."""
    for edge in range(len(values_E)):
        source, target, value = sources_E[edge], targets_E[edge], values_E[edge]
        if value < settled_value and settled_V[source] == settled_V[target]:
            continue
        sources_B[filled], targets_B[filled], values_B[filled] = source, target, value
        filled += 1
        if filled == len(values_B):
            return edge + 1, filled
    return len(values_E), filled


@njit(nogil=True, cache=True)
def _pack(bits_E: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Join each float's bits, changed so that greater values sort first, with its position."""
    packed_E = np.empty(len(bits_E), np.uint64)
    sign = np.uint32(1 << 31)
    for edge in range(len(bits_E)):
        bits = bits_E[edge]
        if bits == sign:  # -0 is 0
            bits = np.uint32(0)
        rank = bits if bits & sign else ~(bits | sign)
        packed_E[edge] = (np.uint64(np.uint32(rank)) << np.uint64(32)) | np.uint64(edge)
    return packed_E


@njit(nogil=True, cache=True)
def _keep_forest(order_E, sources_E, targets_E, parent_V):  # type: ignore[no-untyped-def]
    """Move the forest's positions to the front of ``order_E``; return how many there are (Kruskal)."""
    kept = 0
    for position in order_E:
        a, b = sources_E[position], targets_E[position]
        if parent_V[a] == parent_V[b]:  # most edges of a dense graph
            continue
        a, b = find_root(parent_V, a), find_root(parent_V, b)
        if a != b:
            parent_V[max(a, b)] = min(a, b)
            order_E[kept] = position
            kept += 1
            if kept == len(parent_V) - 1:
                break
    return kept
