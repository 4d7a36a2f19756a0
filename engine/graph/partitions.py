"""Approximate nearest neighbours: partitions of the rows into very many cells, probed, then joined over the graph.

Legend: N rows, W code width, C cells, P probes, M neighbours listed while searching.

Cells are as small as K rows where that is affordable: then a cell is about an identity, and the few cells nearest to a
row hold most of its neighbours, which coarse cells do not. Where N is too large for that, cells grow, several
partitions from other random centroids are searched, and a join compares each row with the neighbours of its
neighbours in all of them. (Overlapping partitions: PiPNN, cuVS' all_neighbors. The join: NN-descent, here for tiles of
rows that lie close, with one matrix product.)

Everything is decided on integer codes (``engine.graph.codes``), exactly, so results do not depend on tiles, threads or
machine. Ties go to the lower id.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from engine.graph.codes import PANEL, Panels, dot, empty_panels, pack, products, shifted
from engine.storage.formats import NO_NEIGHBOR
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

ASSIGN_ROWS = 4096
SEARCH_ROWS = 32_768
JOIN_ROWS = 1024
JOINED_ROWS = 64
# A cell of more rows (thousands of duplicates, say) is searched a stretch at a time; half of so many rows lead over
# from the stretch before, half are spread over the cell, so that what belongs together stays connected.
STRETCH_ROWS = 4096
LINK_ROWS = 256
# Candidates of a search tile, and of a tile of joined rows (up to twice as many for large K): what bounds memory.
SEARCH_CANDIDATES = 1 << 24
JOIN_CANDIDATES = 1 << 13
# Bins of 32 that hold every 16-bit product: rounding can take those of codes well beyond 8,100.
BINS = 1 << 11


def train_cells(
    sample_SW: Array, num_cells: int, iterations: int, seed: int, assign: Callable[[Array, Array], Array]
) -> Array:
    """Spherical k-means on codes: centroids (C, W) int8, C at most ``num_cells`` and the number of distinct rows.

    ``assign(codes_nW, centroids_CW)`` gives each row's nearest centroid (n,), on whatever device.
    Starts from random distinct rows, so that dense regions get many cells; an emptied cell keeps its centroid. Cells
    close in number lie close in space.
    """
    as_bytes = np.ascontiguousarray(sample_SW).view(np.dtype((np.void, sample_SW.shape[1]))).ravel()
    distinct = np.sort(np.unique(as_bytes, return_index=True)[1])
    rng = np.random.default_rng(seed)
    chosen = rng.choice(distinct, min(num_cells, len(distinct)), replace=False)
    centroids_CW = np.ascontiguousarray(sample_SW[chosen])
    for _ in range(iterations):
        centroids_CW = _means(sample_SW, assign(sample_SW, centroids_CW), centroids_CW)
    return np.ascontiguousarray(centroids_CW[_close_order(centroids_CW, assign)])


def pack_all(codes_CW: Array) -> Panels:
    """All rows of ``codes_CW`` as panels."""
    panels = Panels(*empty_panels(len(codes_CW), codes_CW.shape[1]))
    pack(codes_CW, np.arange(len(codes_CW)), *panels)
    return panels


def nearest_cells(codes_nW: Array, centroids: Panels, num_cells: int, probes: int, threads: int) -> Array:
    """Nearest centroids of each row, (n, probes) int32, nearest first; ties go to the lower cell."""
    cells = np.empty((len(codes_nW), probes), np.int32)

    def assign(bounds: tuple[int, int]) -> None:
        _nearest_cells(codes_nW[slice(*bounds)], *centroids, num_cells, cells[slice(*bounds)])

    map_tiles(assign, tile_bounds(0, len(codes_nW), ASSIGN_ROWS), threads)
    return cells


def sort_by_cell(cells_N: Array, num_cells: int) -> tuple[Array, Array]:
    """Rows by cell and row number (N,) int32, and where each cell begins (C + 1,) int64."""
    order = np.argsort(cells_N, kind="stable").astype(np.int32)
    return order, np.concatenate([[0], np.cumsum(np.bincount(cells_N, minlength=num_cells))])


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


def _close_order(centroids_CW: Array, assign: Callable[[Array, Array], Array]) -> Array:
    """Order centroids so that each is followed by a near one; many of them by groups, around every so manyth one."""
    step = int(len(centroids_CW) ** 0.5)
    if step < 32:
        return _chain(centroids_CW)
    leaders_LW = np.ascontiguousarray(centroids_CW[::step])
    nearest, parts = assign(centroids_CW, leaders_LW), []
    for leader in _chain(leaders_LW):
        members = np.flatnonzero(nearest == leader)
        if len(members):
            parts.append(members[_chain(np.ascontiguousarray(centroids_CW[members]))])
    return np.concatenate(parts)


@numba.njit(nogil=True, cache=True)
def _chain(codes_CW):  # type: ignore[no-untyped-def]
    """Start at the first and go on to the nearest of those left, again and again."""
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
def _nearest_cells(codes_nW, panels, corrections, num_cells, cells_nP):  # type: ignore[no-untyped-def]
    """Blocks of 96 rows by 40 panels, so that the panels stay in the second-level cache."""
    num_probes = cells_nP.shape[1]
    buffer = np.empty((96, 40 * PANEL), np.float32)
    values = np.empty((96, num_probes), np.float32)
    for begin in range(0, len(cells_nP), 96):
        end = min(begin + 96, len(cells_nP))
        left = shifted(codes_nW, np.arange(begin, end))
        values[:] = -np.inf
        for first in range(0, panels.shape[0], 40):
            last = min(first + 40, panels.shape[0])
            products(left, panels[first:last], corrections[first:last], buffer)
            count = min(PANEL * last, num_cells) - PANEL * first
            for row in range(end - begin):
                _keep_best(buffer[row, :count], PANEL * first, values[row], cells_nP[begin + row])


@numba.njit(nogil=True, cache=True)
def _keep_best(row_values, first, values, ids):  # type: ignore[no-untyped-def]
    """Insert into a short list in order; a later equal value does not pass an earlier one."""
    size = len(values)
    for begin in range(0, len(row_values), 64):
        end = min(begin + 64, len(row_values))
        worst, any_above = values[size - 1], 0
        for place in range(begin, end):
            any_above |= row_values[place] > worst
        if not any_above:
            continue
        for place in range(begin, end):
            value = row_values[place]
            if value <= values[size - 1]:
                continue
            rank = size - 1
            while rank > 0 and values[rank - 1] < value:
                values[rank], ids[rank] = values[rank - 1], ids[rank - 1]
                rank -= 1
            values[rank], ids[rank] = value, first + place


def probe_neighbors(
    codes_NW: Array, order: Array, offsets: Array, probes_NP: Array, start: int, stop: int, size: int, threads: int
) -> Array:
    """Nearest rows among those of each row's probed cells, for places ``start..stop`` of ``order``, nearest first.

    ``order`` and ``offsets`` as ``sort_by_cell`` gives them; ``codes_NW`` and ``probes_NP`` in the order of the rows.
    Returns row numbers (n, size) int32; missing places hold ``NO_NEIGHBOR``.
    """
    out = np.empty((stop - start, size), np.int32)

    def search(bounds: tuple[int, int]) -> None:
        rows = order[slice(*bounds)]
        sizes_nP = np.minimum(np.diff(offsets), STRETCH_ROWS + LINK_ROWS)[probes_NP[rows]]
        before = np.concatenate([[0], np.cumsum(sizes_nP.sum(axis=1))])
        a = 0
        while a < len(rows):
            b = max(a + 1, int(np.searchsorted(before, before[a] + SEARCH_CANDIDATES, side="right")) - 1)
            place = bounds[0] + a
            _probe(codes_NW, order, offsets, probes_NP[rows[a:b]], place, out[place - start : place - start + b - a])
            a = b

    map_tiles(search, tile_bounds(start, stop, SEARCH_ROWS), threads)
    return out


@numba.njit(nogil=True, cache=True)
def _stretch(offsets, cell, place):  # type: ignore[no-untyped-def]
    """Number of the stretch of a cell that the row at ``place`` is in; 0 for rows of other cells."""
    return (place - offsets[cell]) // STRETCH_ROWS if offsets[cell] <= place < offsets[cell + 1] else 0


@numba.njit(nogil=True, cache=True)
def _near(order, offsets, cell, place):  # type: ignore[no-untyped-def]
    """Rows of a cell to compare the row at ``place`` with: all, or those of a stretch and its links; distinct."""
    first, last = offsets[cell], offsets[cell + 1]
    if last - first <= STRETCH_ROWS:
        return order[first:last]
    begin = first + _stretch(offsets, cell, place) * STRETCH_ROWS
    end = min(begin + STRETCH_ROWS, last)
    begin = max(begin - LINK_ROWS // 2, first)
    step = (last - first) // (LINK_ROWS // 2) + 1
    after = first + (end - first + step - 1) // step * step
    return np.concatenate((order[first:begin:step], order[begin:end], order[after:last:step]))


@numba.njit(nogil=True, cache=True)
def _probe(codes_NW, order, offsets, probes_nP, start, out):  # type: ignore[no-untyped-def]
    """Cell by cell, one product of the queries that probe it with its rows; then select each row's largest."""
    num_rows, num_probes = probes_nP.shape
    begins = np.empty(num_rows * num_probes + 1, np.int64)
    begins[0] = 0
    for pair in range(num_rows * num_probes):
        cell = probes_nP[pair // num_probes, pair % num_probes]
        size = offsets[cell + 1] - offsets[cell]
        if size > STRETCH_ROWS:
            size = len(_near(order, offsets, cell, start + pair // num_probes))
        begins[pair + 1] = begins[pair] + size
    values = np.empty(begins[-1], np.int16)
    flat = probes_nP.copy().ravel()
    pairs = np.argsort(flat, kind="mergesort")
    buffer = np.empty((48, (STRETCH_ROWS + LINK_ROWS + PANEL - 1) // PANEL * PANEL), np.float32)
    begin = 0
    while begin < len(pairs):
        cell, end = flat[pairs[begin]], begin + 1
        place = start + pairs[begin] // num_probes
        stretch, near = _stretch(offsets, cell, place), _near(order, offsets, cell, place)
        while end < len(pairs) and flat[pairs[end]] == cell:
            if _stretch(offsets, cell, start + pairs[end] // num_probes) != stretch:
                break
            end += 1
        _multiply(codes_NW, order, near, pairs[begin:end], num_probes, start, buffer, begins, values)
        begin = end
    histogram = np.empty(BINS, np.int32)
    most = 0
    for row in range(num_rows):
        most = max(most, begins[(row + 1) * num_probes] - begins[row * num_probes])
    ids = np.empty(most, np.int32)
    for row in range(num_rows):
        first = begins[row * num_probes]
        for probe in range(num_probes):
            pair = row * num_probes + probe
            near = _near(order, offsets, flat[pair], start + row)
            ids[begins[pair] - first : begins[pair + 1] - first] = near
        last = begins[(row + 1) * num_probes]
        select_nearest(values[first:last], ids[: last - first], order[start + row], histogram, out[row])


@numba.njit(nogil=True, cache=True)
def _multiply(codes_NW, order, near, pairs, num_probes, start, buffer, begins, values):  # type: ignore[no-untyped-def]
    panels, corrections = empty_panels(len(near), codes_NW.shape[1])
    pack(codes_NW, near, panels, corrections)
    for first in range(0, len(pairs), 48):
        few = pairs[first : first + 48]
        products(shifted(codes_NW, order[start + few // num_probes]), panels, corrections, buffer)
        for row in range(len(few)):
            target = values[begins[few[row]] : begins[few[row]] + len(near)]
            for column in range(len(near)):
                target[column] = np.int16(buffer[row, column])


@numba.njit(nogil=True, cache=True)
def select_nearest(values, ids, own, histogram, out):  # type: ignore[no-untyped-def]
    """Write the ids of the largest ``values`` to ``out``, in order, ties by lower id, without ``own`` (numba).

    ``ids`` are distinct. A histogram finds the bin of the last one wanted; only what is above or in it is sorted.
    """
    size = len(out)
    histogram[:] = 0
    for place in range(len(values)):
        histogram[(np.int32(values[place]) + np.int32(1 << 15)) >> 5] += 1
    wanted, limit = 0, BINS
    while limit > 0 and wanted < size + 1:  # one more, which may be the row itself
        limit -= 1
        wanted += histogram[limit]
    floor = np.int32((limit << 5) - (1 << 15))
    keys = np.empty(wanted, np.int64)
    count = 0
    for place in range(len(values)):
        if np.int32(values[place]) >= floor and ids[place] != own:
            keys[count] = (-np.int64(values[place]) << 32) | np.int64(ids[place])
            count += 1
    keys = np.sort(keys[:count])
    for rank in range(size):
        out[rank] = np.int32(keys[rank] & 0xFFFFFFFF) if rank < count else NO_NEIGHBOR


def join_neighbors(
    codes_NW: Array, graphs: list[tuple[Array, Array]], near: int, far: int, size: int, start: int, stop: int,
    threads: int,
) -> Array:  # fmt: skip
    """Nearest rows among the neighbours of rows ``start..stop`` and their neighbours, nearest first.

    ``graphs``: one or two of (neighbours (N, M) int32, nearest first; place of each row in them (N,), or empty if it
    is the row's number). Candidates of a row are its neighbours in all graphs and, of its ``near`` first ones in each,
    the ``far`` first neighbours in each, as long as there is room. Up to 64 rows are joined at a time, counted from
    multiples of ``JOIN_ROWS`` or from ``start``; each meets the others and the candidates of all. Returns ids (n, size)
    int32.
    """
    out = np.empty((stop - start, size), np.int32)
    first = graphs[0]
    second = graphs[1] if len(graphs) > 1 else (np.empty((0, 0), np.int32), np.empty(0, np.int32))

    def join(bounds: tuple[int, int]) -> None:
        a, b = bounds
        _join(codes_NW, *first, *second, near, far, a, out[a - start : b - start])

    map_tiles(join, tile_bounds(start, stop, JOIN_ROWS), threads)
    return out


@numba.njit(nogil=True, cache=True)
def _join(codes_NW, first, first_places, second, second_places, near, far, start, out):  # type: ignore[no-untyped-def]
    width, joined = first.shape[1] + second.shape[1], JOINED_ROWS
    while joined > 1 and joined * (1 + width) > 2 * JOIN_CANDIDATES:
        joined //= 2
    room = max(JOIN_CANDIDATES, joined * (1 + width))  # always enough for the rows and their own neighbours
    table = np.empty(4 * JOIN_CANDIDATES, np.int32)
    found = np.empty(room, np.int32)
    panels, corrections = empty_panels(room, codes_NW.shape[1])
    buffer = np.empty((joined, len(panels) * PANEL), np.float32)
    values = np.empty(room, np.int16)
    histogram = np.empty(BINS, np.int32)
    for begin in range(0, len(out), joined):
        end = min(begin + joined, len(out))
        rows = np.arange(start + begin, start + end)
        table[:] = -1
        count = _add_listed(rows.astype(np.int32).reshape(1, -1), first_places[:0], 0, joined, table, found, 0)
        for row in rows:
            count = _add_listed(first, first_places, row, first.shape[1], table, found, count)
            count = _add_listed(second, second_places, row, second.shape[1], table, found, count)
        for row in rows:
            for graph in range(2):
                listed, places = (first, first_places) if graph == 0 else (second, second_places)
                if not len(listed):
                    continue
                own = listed[places[row] if places.size else row]
                for rank in range(min(near, len(own))):
                    if own[rank] < 0:
                        break
                    count = _add_listed(first, first_places, own[rank], far, table, found, count)
                    count = _add_listed(second, second_places, own[rank], far, table, found, count)
        pack(codes_NW, found[:count], panels, corrections)
        num_panels = (count + PANEL - 1) // PANEL
        products(shifted(codes_NW, rows), panels[:num_panels], corrections[:num_panels], buffer)
        for row in range(begin, end):
            for column in range(count):
                values[column] = np.int16(buffer[row - begin, column])
            select_nearest(values[:count], found[:count], start + row, histogram, out[row])


@numba.njit(nogil=True, cache=True)
def _add_listed(graph, places, row, most, table, found, count):  # type: ignore[no-untyped-def]
    """Add the first neighbours of a row, if there is a graph, to an open-addressed set, unless it is full.

    Returns the new count.
    """
    if not len(graph):
        return count
    listed = graph[places[row] if places.size else row]
    mask = len(table) - 1
    for rank in range(min(most, len(listed))):
        other = listed[rank]
        if other < 0 or count == len(found):
            break
        place = (np.int64(other) * 2654435761 >> 7) & mask
        while table[place] >= 0 and table[place] != other:
            place = (place + 1) & mask
        if table[place] < 0:
            table[place] = other
            found[count] = other
            count += 1
    return count
