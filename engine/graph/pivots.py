"""Pivot subgraphs: the vertices around one vertex and the edges among them, many pivots in one flat batch.

These are L-GCN's instance pivot subgraphs (Wang et al., CVPR 2019, section 3.2) and GCN-E's candidate subgraphs (Yang
et al., CVPR 2020, section 3.3). A batch is flat: without padding, none can enter a mean or a statistic.
Legend: N vertices, K neighbours, B pivots, M members of all pivots together.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np

Array = np.ndarray[Any, Any]


class PivotBatch(NamedTuple):
    """Members of B pivots, pivot after pivot, ascending within one.

    ``members_M``: vertex ids, int32. ``owners_M``: the place in the batch of each member's pivot, int32. ``indptr``
    (M + 1) int64 and ``indices`` int32: symmetric adjacency among a pivot's members, by their places in the batch,
    without self loops. ``scored``: places of the members to score, pivot after pivot by rank; ``scored_rows`` and
    ``scored_ranks``: for each, the pivot's place and the member's rank in the pivot's list.
    """

    members_M: Array
    owners_M: Array
    indptr: Array
    indices: Array
    scored: Array
    scored_rows: Array
    scored_ranks: Array


def pivot_batch(
    neighbors_NK: Array, pivots_B: Array, wanted_BK: Array, *, second_hop: int, active: int, with_pivot: bool
) -> PivotBatch:
    """Build the subgraphs of the pivots.

    Members are the listed neighbours marked in ``wanted_BK`` (bool), the first ``second_hop`` neighbours of each, and
    with ``with_pivot`` the pivot itself. Two members are joined if either lists the other among its first ``active``
    neighbours.
    """
    width = int(wanted_BK.sum(axis=1).max(initial=0)) * (1 + second_hop) + 1
    members = np.empty((len(pivots_B), width), np.int32)
    counts = np.empty(len(pivots_B), np.int64)
    neighbors_NK = np.asarray(neighbors_NK)
    _find_members(neighbors_NK, pivots_B, wanted_BK, second_hop, with_pivot, members, counts)
    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
    flat = members[np.arange(width) < counts[:, None]]
    indptr, indices = join_members(neighbors_NK, flat, starts, active)
    owners = np.repeat(np.arange(len(pivots_B), dtype=np.int32), counts)
    rows, ranks = np.nonzero(wanted_BK)
    scored = np.empty(len(rows), np.int64)
    _find_places(neighbors_NK, pivots_B, rows, ranks, flat, starts, scored)
    return PivotBatch(flat, owners, indptr, indices, scored, rows, ranks)


def join_members(neighbors_NK: Array, members_M: Array, starts: Array, active: int) -> tuple[Array, Array]:
    """Join two members of a group if either lists the other among its first ``active``: ``indptr``, ``indices`` int32.

    Group g is ``members_M[starts[g] : starts[g + 1]]``, ascending ids; indices are places in ``members_M``.
    """
    degrees, room = np.zeros(len(members_M), np.int64), np.empty(2 * active * len(members_M) + 1, np.int32)
    table = np.zeros((int(np.diff(starts).max(initial=1)),) * 2, np.bool_)
    used = _join_members(np.asarray(neighbors_NK), members_M, starts, active, table, degrees, room)
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(degrees)]), room[:used].copy()


@numba.njit(nogil=True, cache=True)
def mean_rows(indptr: Array, indices: Array, values: Array, scale: bool, out: Array) -> None:
    """Sum, or with ``scale`` average, the rows of ``values`` (M, H) of each row's neighbours; 0 without neighbours."""
    for row in range(len(indptr) - 1):
        out[row] = 0
        for entry in range(indptr[row], indptr[row + 1]):
            other = indices[entry]
            for column in range(values.shape[1]):
                out[row, column] += values[other, column]
        if scale and indptr[row + 1] > indptr[row] + 1:
            share = np.float32(1.0) / np.float32(indptr[row + 1] - indptr[row])
            for column in range(values.shape[1]):
                out[row, column] *= share


@numba.njit(nogil=True, cache=True)
def _find_members(
    neighbors: Array, pivots: Array, wanted: Array, second_hop: int, with_pivot: bool, members: Array, counts: Array
) -> None:
    hop = min(second_hop, neighbors.shape[1])
    for place in range(len(pivots)):
        count = 0
        pivot, row = pivots[place], members[place]
        if with_pivot:
            row[0] = pivot
            count = 1
        for rank in range(wanted.shape[1]):
            if not wanted[place, rank]:
                continue
            first = neighbors[pivot, rank]
            row[count] = first
            count += 1
            for second in neighbors[first, :hop]:
                if second >= 0 and second != pivot:
                    row[count] = second
                    count += 1
        ordered = np.sort(row[:count])
        kept = 0
        for value in ordered:
            if kept == 0 or row[kept - 1] != value:
                row[kept] = value
                kept += 1
        counts[place] = kept


@numba.njit(nogil=True, cache=True)
def _join_members(
    neighbors: Array, members: Array, starts: Array, active: int, joined: Array, degrees: Array, indices: Array
) -> int:
    used = 0
    for place in range(len(starts) - 1):
        begin = starts[place]
        count = starts[place + 1] - begin
        row = members[begin : begin + count]
        for own in range(count):
            for other in neighbors[row[own], :active]:
                if other < 0:
                    break
                at = np.searchsorted(row, other)
                if at < count and row[at] == other:
                    joined[own, at] = True
                    joined[at, own] = True
        for own in range(count):
            for at in range(count):
                if joined[own, at]:
                    joined[own, at] = False
                    indices[used] = begin + at
                    used += 1
                    degrees[begin + own] += 1
    return used


@numba.njit(nogil=True, cache=True)
def _find_places(
    neighbors: Array, pivots: Array, rows: Array, ranks: Array, flat: Array, starts: Array, places: Array
) -> None:
    for number in range(len(rows)):
        begin, end = starts[rows[number]], starts[rows[number] + 1]
        places[number] = begin + np.searchsorted(flat[begin:end], neighbors[pivots[rows[number]], ranks[number]])
