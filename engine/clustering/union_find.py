"""Connected components: union-find by minimum id with path halving.

Union by minimum id makes each result a function of the edge *set*: order, duplication and cutting into blocks do not
matter. A block of edges reduces to a spanning forest, whose edges can be united with those of other forests.
Shape suffixes: N vertices, E edges, F edges of a forest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.errors import DataError

Ids = NDArray[Any]  # int32 or int64


def id_dtype(num_vertices: int) -> type[np.signedinteger[Any]]:
    """Give int32, or int64 if so many vertices do not fit int32."""
    return np.int32 if num_vertices < 2**31 else np.int64


class UnionFind:
    """Union edges block by block over vertices ``0..num_vertices - 1``.

    Memory: 4 bytes per vertex (8 from 2**31 vertices). A block costs O(E) and no copy of it is kept.
    """

    def __init__(self, num_vertices: int) -> None:
        self.num_vertices = num_vertices
        self._parents_N: Ids = np.arange(num_vertices, dtype=id_dtype(num_vertices))

    def add(self, sources_E: Ids, targets_E: Ids) -> None:
        """Union both ends of every edge; raises ``DataError`` for an id outside the vertices."""
        check_edges(sources_E, targets_E, self.num_vertices)
        union_edges(self._parents_N, sources_E, targets_E)

    def roots(self) -> Ids:
        """Give each vertex the minimum id of its component (N, int32 or int64); more edges may still be added."""
        flatten(self._parents_N)
        return self._parents_N.copy()

    def forest(self) -> tuple[Ids, Ids]:
        """Reduce the edges added so far to their canonical forest; more may still be added.

        Returns (members_F, roots_F), int32 or int64: every vertex but the roots, ascending, and the minimum id of its
        component. Fewer edges than vertices, equal for any order, direction or duplication of the same edges.
        """
        flatten(self._parents_N)
        members_F = np.empty(_count_members(self._parents_N), self._parents_N.dtype)
        roots_F = np.empty_like(members_F)
        _list_members(self._parents_N, members_F, roots_F)
        return members_F, roots_F


def component_roots(num_vertices: int, sources_E: Ids, targets_E: Ids) -> Ids:
    """Give each vertex the minimum id of its connected component (N, int32; int64 from 2**31 vertices)."""
    forest = UnionFind(num_vertices)
    forest.add(sources_E, targets_E)
    return forest.roots()


def compact_ids(sources_E: Ids, targets_E: Ids) -> tuple[Ids, Ids, Ids]:
    """Number an edge block's distinct ids by ascending id; return those ids and both ends as numbers."""
    check_edges(sources_E, targets_E, None)
    ids = np.concatenate([sources_E, targets_E])
    if not len(ids):
        return ids, sources_E, targets_E
    ids.sort()
    ids = ids[: _drop_repeats(ids)]
    # There are about as many equal buckets as ids, so finding the rank of an id costs O(1) if ids are spread out.
    shift = max(0, (int(ids[-1]) - int(ids[0])).bit_length() - len(ids).bit_length())
    buckets = (ids - ids[0]) >> shift
    starts = np.searchsorted(buckets, np.arange(int(buckets[-1]) + 2))
    ranks = [np.empty(len(ends), id_dtype(len(ids))) for ends in (sources_E, targets_E)]
    for ends, out in zip((sources_E, targets_E), ranks, strict=True):
        _rank(ids, starts, shift, ends, out)
    return ids, ranks[0], ranks[1]


def check_edges(sources_E: Ids, targets_E: Ids, num_vertices: int | None) -> None:
    """Raise ``DataError`` unless both arrays are 1-d integer ids of one length within ``0..num_vertices - 1``."""
    if sources_E.ndim != 1 or sources_E.shape != targets_E.shape:
        raise DataError(
            f"edges: expected two 1-d arrays of one length, got shapes {sources_E.shape} and {targets_E.shape}"
        )
    limit = np.inf if num_vertices is None else num_vertices
    for name, ids in (("source", sources_E), ("target", targets_E)):
        if ids.dtype not in (np.int32, np.int64):
            raise DataError(f"edges: expected {name} ids of type int32 or int64, got {ids.dtype}")
        if len(ids) and not (ids.min() >= 0 and ids.max() < limit):
            edge = int(np.flatnonzero((ids < 0) | (ids >= limit))[0])
            bound = "any id from 0" if num_vertices is None else f"ids from 0 to {num_vertices - 1}"
            raise DataError(f"edges: {name} of edge {edge} is {ids[edge]}, expected {bound}; rebuild the edge block")


@njit(nogil=True, cache=True)
def find_root(parents, vertex):  # type: ignore[no-untyped-def]
    """Follow parents to the root, halving the path (numba)."""
    while parents[vertex] != vertex:
        parents[vertex] = parents[parents[vertex]]
        vertex = parents[vertex]
    return vertex


@njit(nogil=True, cache=True)
def union(parents, a, b):  # type: ignore[no-untyped-def]
    """Join the trees of two vertices under the smaller root (numba)."""
    if parents[a] != parents[b]:
        a, b = find_root(parents, a), find_root(parents, b)
        if a < b:
            parents[b] = a
        elif b < a:
            parents[a] = b


@njit(nogil=True, cache=True)
def union_edges(parents, sources, targets):  # type: ignore[no-untyped-def]
    """Join the ends of every edge (numba)."""
    for edge in range(len(sources)):
        union(parents, sources[edge], targets[edge])


@njit(nogil=True, cache=True)
def flatten(parents):  # type: ignore[no-untyped-def]
    """Point every vertex straight at its root (numba)."""
    for vertex in range(len(parents)):  # parents are never larger than their child, so theirs are final
        parents[vertex] = parents[parents[vertex]]


@njit(nogil=True, cache=True)
def _count_members(roots):  # type: ignore[no-untyped-def]
    count = 0
    for vertex in range(len(roots)):
        count += roots[vertex] != vertex
    return count


@njit(nogil=True, cache=True)
def _list_members(roots, members_F, roots_F):  # type: ignore[no-untyped-def]
    filled = 0
    for vertex in range(len(roots)):
        if roots[vertex] != vertex:
            members_F[filled], roots_F[filled] = vertex, roots[vertex]
            filled += 1


@njit(nogil=True, cache=True)
def _drop_repeats(ids):  # type: ignore[no-untyped-def]
    last = 0
    for i in range(1, len(ids)):
        if ids[i] != ids[last]:
            last += 1
            ids[last] = ids[i]
    return last + 1


@njit(nogil=True, cache=True)
def _rank(ids, starts, shift, values, out):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        value = values[i]
        bucket = (value - ids[0]) >> shift
        low, high = starts[bucket], starts[bucket + 1] - 1
        while low < high:
            middle = (low + high) // 2
            if ids[middle] < value:
                low = middle + 1
            else:
                high = middle
        out[i] = low
