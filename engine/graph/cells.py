"""Train the centroids of very many cells, and find the cells nearest to a row.

Legend: n rows, W code width, C cells, G groups of cells, P probes, T groups looked into.

Comparing every row with every centroid costs N x C products, which would be most of a run of many millions of rows.
Centroids are therefore kept in groups around G leaders, about forty to a group. A row is compared with all leaders,
then with the centroids of its 32 P nearest groups (a two-level k-means; IVF over the centroids). This misses some near
cells, more of them the more groups there are; other passes have other cells and miss others. Products are exact
integers of codes, and ties go to the lower group or cell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from engine.graph.codes import PANEL, Panels, dot, empty_panels, pack, products, shifted
from engine.graph.intrinsics import REACHED, reaching
from engine.graph.largest import BINS, bin_floor, list_largest
from engine.random_streams import FIRST_CENTROIDS, stream
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

ASSIGN_ROWS = 8192
LEADER_ROWS = 48  # rows compared with all leaders at a time: their products stay in a core's second-level cache
GROUP_CELLS = 40
GROUPS_PER_PROBE = 32
LEADER_ITERATIONS = 8
# A larger group (a mass of equal centroids) keeps its order, because chaining it costs its size squared.
CHAINED_CELLS = 8192


class Cells(NamedTuple):
    """Centroids (C, W) int8 group by group, the groups' leaders (G, W) int8, where groups begin (G + 1,) int64."""

    centroids: Array
    leaders: Array
    offsets: Array


Finder = Callable[[Array, int], Array]


def ungrouped(centroids_CW: Array) -> Cells:
    """Put all centroids in one group, so that every row is compared with each of them."""
    return Cells(centroids_CW, centroids_CW[:1], np.array([0, len(centroids_CW)]))


def groups_to_search(probes: int, num_groups: int) -> int:
    """Tell how many nearest groups (T) a search for ``probes`` cells looks into at least."""
    return min(GROUPS_PER_PROBE * probes, num_groups)


def count_groups(num_cells: int) -> int:
    """Tell in how many groups ``num_cells`` centroids are kept at most."""
    return max(1, min(num_cells // GROUP_CELLS, int(10 * num_cells**0.5)))


def train_cells(sample_SW: Array, num_cells: int, iterations: int, seed: int, load: Callable[[Cells], Finder]) -> Cells:
    """Run spherical k-means on codes; C is at most ``num_cells`` and at most the number of distinct rows.

    ``load(cells)`` gives a function (codes (n, W), P) -> nearest cells (n, P); it chooses the device. K-means starts
    from random distinct rows, so that dense regions get many cells. An emptied cell keeps its centroid. Cells close in
    number lie close in space.
    """
    distinct = _distinct_rows(sample_SW)
    chosen = stream(seed, FIRST_CENTROIDS).choice(distinct, min(num_cells, len(distinct)), replace=False)
    centroids_CW = np.ascontiguousarray(sample_SW[chosen])
    leaders_GW = centroids_CW[: count_groups(len(centroids_CW))]
    for _ in range(LEADER_ITERATIONS if len(leaders_GW) > 1 else 0):
        leaders_GW = _means(centroids_CW, load(ungrouped(leaders_GW))(centroids_CW, 1)[:, 0], leaders_GW)
    for _ in range(iterations):
        cells = _group(centroids_CW, leaders_GW, load)
        centroids_CW = _means(sample_SW, load(cells)(sample_SW, 1)[:, 0], cells.centroids)
    leaders_GW = np.ascontiguousarray(leaders_GW[_chain(leaders_GW)])
    cells = _group(centroids_CW, leaders_GW, load)
    order = [
        first + (_chain(part) if len(part) <= CHAINED_CELLS else np.arange(len(part)))
        for first, part in zip(cells.offsets, np.split(cells.centroids, cells.offsets[1:-1]), strict=False)
    ]
    return cells._replace(centroids=np.ascontiguousarray(cells.centroids[np.concatenate(order)]))


def load_cells(cells: Cells, threads: int) -> Finder:
    """Prepare the search for the nearest cells of rows; the function gives (n, P) int32, nearest first."""
    leaders = pack_all(cells.leaders)
    packed = _pack(cells)

    def find(codes_nW: Array, probes: int) -> Array:
        found_nP = np.empty((len(codes_nW), min(probes, len(cells.centroids))), np.int32)
        few = groups_to_search(probes, len(cells.leaders))

        def assign(bounds: tuple[int, int]) -> None:
            codes = codes_nW[slice(*bounds)]
            rows, begins = _list_groups(codes, *leaders, len(cells.leaders), few)
            _search_groups(codes, rows, begins, *packed, found_nP[slice(*bounds)])

        map_tiles(assign, tile_bounds(0, len(codes_nW), ASSIGN_ROWS), threads)
        return found_nP

    return find


def pack_all(codes_CW: Array) -> Panels:
    """Lay out all rows of ``codes_CW`` as panels."""
    panels = Panels(*empty_panels(len(codes_CW), codes_CW.shape[1]))
    pack(codes_CW, np.arange(len(codes_CW)), *panels)
    return panels


def sort_by_cell(cells_N: Array, num_cells: int) -> tuple[Array, Array]:
    """Order rows by cell, then by row number: (N,) int32, and where each cell begins (C + 1,) int64."""
    order = np.argsort(cells_N, kind="stable").astype(np.int32)
    return order, np.concatenate([[0], np.cumsum(np.bincount(cells_N, minlength=num_cells))])


def _group(centroids_CW: Array, leaders_GW: Array, load: Callable[[Cells], Finder]) -> Cells:
    """Sort centroids by their nearest leader; a leader without centroids is left out."""
    order, offsets = sort_by_cell(load(ungrouped(leaders_GW))(centroids_CW, 1)[:, 0], len(leaders_GW))
    filled = np.flatnonzero(np.diff(offsets))
    return Cells(np.ascontiguousarray(centroids_CW[order]), leaders_GW[filled], np.append(offsets[filled], len(order)))


def _pack(cells: Cells) -> tuple[Array, Array, Array, Array]:
    """Give panels, corrections, where each group begins, and its first panel; each group starts a new panel."""
    firsts = np.concatenate([[0], np.cumsum(-(-np.diff(cells.offsets) // PANEL))])
    panels, corrections = empty_panels(int(firsts[-1]) * PANEL, cells.centroids.shape[1])
    _pack_groups(cells.centroids, cells.offsets, firsts, panels, corrections)
    return panels, corrections, cells.offsets, firsts


@numba.njit(nogil=True, cache=True)
def _pack_groups(centroids_CW, offsets, firsts, panels, corrections):  # type: ignore[no-untyped-def]
    for group in range(len(offsets) - 1):
        part = slice(firsts[group], firsts[group + 1])
        pack(centroids_CW, np.arange(offsets[group], offsets[group + 1]), panels[part], corrections[part])


def _distinct_rows(codes_SW: Array) -> Array:
    """Give the first row of each set of rows with equal 64-bit hash: row numbers, ascending."""
    return np.sort(np.unique(_hash_rows(np.ascontiguousarray(codes_SW).view(np.int64)), return_index=True)[1])


@numba.njit(nogil=True, cache=True)
def _hash_rows(words_SV):  # type: ignore[no-untyped-def]
    hashes = np.empty(len(words_SV), np.uint64)
    for row in range(len(words_SV)):
        value = np.uint64(0x9E3779B97F4A7C15)
        for word in words_SV[row]:
            value = (value ^ np.uint64(word)) * np.uint64(0xD6E8FEB86659FD93)
            value ^= value >> np.uint64(32)
        hashes[row] = value
    return hashes


def _means(sample_SW: Array, cells: Array, centroids_CW: Array) -> Array:
    sums = np.zeros(centroids_CW.shape, np.int32)
    _add_rows(sample_SW, cells, sums)
    norms = np.sqrt(np.square(sums, dtype=np.float64).sum(axis=1, keepdims=True))
    means = np.rint(np.divide(sums * 90.0, norms, out=centroids_CW.astype(np.float64), where=norms > 0))
    return means.astype(np.int8)


@numba.njit(nogil=True, cache=True)
def _add_rows(rows, cells, sums):  # type: ignore[no-untyped-def]
    for row in range(len(cells)):
        for d in range(rows.shape[1]):
            sums[cells[row], d] += rows[row, d]


@numba.njit(nogil=True, cache=True)
def _chain(codes_CW):  # type: ignore[no-untyped-def]
    """Order rows so that each is followed by the nearest of the rows that are left, starting at the first."""
    left = np.arange(1, len(codes_CW))
    order = np.zeros(len(codes_CW), np.int64)
    for step in range(1, len(codes_CW)):
        best, best_value = 0, np.int32(-(2**31))
        for place in range(len(left)):
            value = dot(codes_CW, order[step - 1], left[place])
            if value > best_value:
                best, best_value = place, value
        order[step] = left[best]
        left[best] = left[-1]
        left = left[:-1]
    return order


@numba.njit(nogil=True, cache=True)
def _list_groups(codes_nW, panels, corrections, num_groups, few):  # type: ignore[no-untyped-def]
    """List the rows that look into each group, ascending, group after group, and where each group's rows begin.

    A row looks into a group if the leader's product lies in or above the bin of the row's ``few``-th largest product.
    """
    num_rows = len(codes_nW)
    begins = np.zeros(num_groups + 1, np.int64)
    if few >= num_groups:
        begins[1:] = num_rows
        begins = np.cumsum(begins)
        rows = np.empty(begins[-1], np.int32)
        for group in range(num_groups):
            rows[begins[group] : begins[group + 1]] = np.arange(num_rows)
        return rows, begins
    buffer = np.empty((LEADER_ROWS, len(panels) * PANEL), np.float32)
    histogram = np.empty(BINS, np.int32)
    values, groups = np.empty(num_groups, np.int16), np.empty(num_groups, np.int32)
    listed, ends = np.empty(num_rows * 2 * few, np.int32), np.zeros(num_rows + 1, np.int64)
    for begin in range(0, num_rows, LEADER_ROWS):
        end = min(begin + LEADER_ROWS, num_rows)
        products(shifted(codes_nW, np.arange(begin, end)), panels, corrections, buffer)
        for row in range(begin, end):
            count = list_largest(buffer[row - begin], num_groups, few, histogram, values, groups)
            floor, filled = bin_floor(values[:count], few, histogram), ends[row]
            if filled + count > len(listed):
                listed = np.concatenate((listed, np.empty(len(listed) + count, np.int32)))
            for place in range(count):
                if values[place] >= floor:
                    listed[filled] = groups[place]
                    begins[groups[place] + 1] += 1
                    filled += 1
            ends[row + 1] = filled
    begins = np.cumsum(begins)
    rows = np.empty(begins[-1], np.int32)
    places = begins[:-1].copy()
    for row in range(num_rows):
        for group in listed[ends[row] : ends[row + 1]]:
            rows[places[group]] = row
            places[group] += 1
    return rows, begins


@numba.njit(nogil=True, cache=True)
def _search_groups(codes_nW, rows, begins, panels, corrections, offsets, firsts, found_nP):  # type: ignore[no-untyped-def]
    """Compare each group's centroids with the rows that look into it: tiles of 96 rows and 40 panels stay in cache."""
    buffer = np.empty((96, 40 * PANEL), np.float32)
    values = np.full(found_nP.shape, -np.inf, np.float32)
    left = shifted(codes_nW, np.arange(len(codes_nW))).view(np.int64)
    few_left = np.empty((96, left.shape[1]), np.int64)
    for group in range(len(begins) - 1):
        size = offsets[group + 1] - offsets[group]
        for begin in range(begins[group], begins[group + 1], 96):
            few = rows[begin : min(begin + 96, begins[group + 1])]
            for place in range(len(few)):
                for word in range(left.shape[1]):
                    few_left[place, word] = left[few[place], word]
            for first in range(firsts[group], firsts[group + 1], 40):
                last = min(first + 40, firsts[group + 1])
                products(few_left[: len(few)].view(np.uint8), panels[first:last], corrections[first:last], buffer)
                before = (first - firsts[group]) * PANEL
                count = min((last - first) * PANEL, size - before)
                for place in range(len(few)):
                    row = few[place]
                    _keep_best(buffer[place], count, offsets[group] + before, values[row], found_nP[row])


@numba.njit(nogil=True, cache=True)
def _keep_best(row_values, count, first, values, ids):  # type: ignore[no-untyped-def]
    """Insert the first ``count`` values into a short ordered list; a later value does not pass an equal earlier one."""
    size = len(values)
    for begin in range(0, count, REACHED):
        found = reaching(row_values, begin, values[size - 1] + np.float32(1.0))  # above the last, as values are whole
        if found == 0:
            continue
        for place in range(begin, min(begin + REACHED, count)):
            value = row_values[place]
            if not found >> (place - begin) & 1 or value <= values[size - 1]:
                continue
            rank = size - 1
            while rank > 0 and values[rank - 1] < value:
                values[rank], ids[rank] = values[rank - 1], ids[rank - 1]
                rank -= 1
            values[rank], ids[rank] = value, first + place
