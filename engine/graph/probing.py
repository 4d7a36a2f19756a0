"""Approximate nearest neighbours: search each row's nearest cells, then the neighbours of its neighbours.

Legend: N rows, W code width, C cells, P probes, M neighbours listed while searching. ``engine.graph.cells`` makes the
cells and finds the nearest of them.

Cells are as small as K rows where that is affordable: a cell is then about an identity, and the few cells nearest to a
row hold most of its neighbours. For many rows, cells are larger. Several passes then cut the rows into cells around
other random centroids, each adding to the neighbours found before, and a join compares each row with the neighbours of
its neighbours. (Overlapping cells: PiPNN, cuVS' all_neighbors. The join: NN-descent, here by one matrix product for a
tile of rows that lie close.)

All decisions are taken on products of integer codes (``engine.graph.codes``), which are exact, so results do not depend
on tiles, threads or machine. Ties go to the lower id.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from engine.graph.codes import PANEL, empty_panels, pack, products, shifted
from engine.graph.intrinsics import prefetch_row
from engine.graph.largest import BINS, list_largest, select_nearest
from engine.tiles import map_tiles, tile_bounds

Array = np.ndarray[Any, Any]

SEARCH_ROWS = 32_768
JOIN_ROWS = 1024
JOINED_ROWS = 64
# A cell of more rows (thousands of duplicates, say) is searched a stretch at a time. A stretch is also compared with
# so many link rows: half from the stretch before, half spread over the cell, so that the cell's rows stay connected.
STRETCH_ROWS = 4096
LINK_ROWS = 256
# Candidates of a search tile, and of a tile of joined rows (up to twice as many for large K): they bound the memory.
SEARCH_CANDIDATES = 1 << 24
JOIN_CANDIDATES = 1 << 13
AHEAD = 8  # a row is asked for so many rows before it is read


def probe_neighbors(
    sorted_NW: Array,
    order: Array,
    offsets: Array,
    probes_NP: Array,
    start: int,
    stop: int,
    size: int,
    threads: int,
    known: tuple[Array, Array] | None = None,
) -> Array:
    """Find the nearest rows in each row's probed cells, for places ``start..stop`` of ``order``, nearest first.

    ``order`` and ``offsets``: from ``sort_by_cell``. ``sorted_NW``: the rows' codes in that order, so that the codes of
    a cell lie together. ``probes_NP``: in the order of the rows. ``known``: the neighbours of all rows found before and
    their products, from ``join_neighbors``; they compete too. Returns row numbers (n, size) int32; missing places hold
    ``NO_NEIGHBOR``.
    """
    out = np.empty((stop - start, size), np.int32)
    before_NM = (np.empty((0, 0), np.int32), np.empty((0, 0), np.int16)) if known is None else known

    def search(bounds: tuple[int, int]) -> None:
        rows = order[slice(*bounds)]
        sizes_nP = np.minimum(np.diff(offsets), STRETCH_ROWS + LINK_ROWS)[probes_NP[rows]]
        before = np.concatenate([[0], np.cumsum(sizes_nP.sum(axis=1))])
        a = 0
        while a < len(rows):
            b = max(a + 1, int(np.searchsorted(before, before[a] + SEARCH_CANDIDATES, side="right")) - 1)
            place = bounds[0] + a
            part = out[place - start : place - start + b - a]
            _probe(sorted_NW, order, offsets, probes_NP[rows[a:b]], place, *before_NM, part)
            a = b

    map_tiles(search, tile_bounds(start, stop, SEARCH_ROWS), threads)
    return out


@numba.njit(nogil=True, cache=True)
def _stretch(offsets, cell, place):  # type: ignore[no-untyped-def]
    """Tell in which stretch of a cell the row at ``place`` is; 0 for rows of other cells."""
    return (place - offsets[cell]) // STRETCH_ROWS if offsets[cell] <= place < offsets[cell + 1] else 0


@numba.njit(nogil=True, cache=True)
def _near(offsets, cell, place):  # type: ignore[no-untyped-def]
    """Give the distinct places of a cell to compare the row at ``place`` with: all, or one stretch and its links."""
    first, last = offsets[cell], offsets[cell + 1]
    if last - first <= STRETCH_ROWS:
        return np.arange(first, last)
    begin = first + _stretch(offsets, cell, place) * STRETCH_ROWS
    end = min(begin + STRETCH_ROWS, last)
    begin = max(begin - LINK_ROWS // 2, first)
    step = (last - first) // (LINK_ROWS // 2) + 1
    after = first + (end - first + step - 1) // step * step
    return np.concatenate((np.arange(first, begin, step), np.arange(begin, end), np.arange(after, last, step)))


@numba.njit(nogil=True, cache=True)
def _probe(sorted_NW, order, offsets, probes_nP, start, known, known_products, out):  # type: ignore[no-untyped-def]
    """Multiply each cell's rows with the queries that probe it, then select each query's largest products."""
    num_rows, num_probes = probes_nP.shape
    begins = np.empty(num_rows * num_probes + 1, np.int64)
    begins[0] = 0
    for pair in range(num_rows * num_probes):
        cell = probes_nP[pair // num_probes, pair % num_probes]
        size = offsets[cell + 1] - offsets[cell]
        if size > STRETCH_ROWS:
            size = len(_near(offsets, cell, start + pair // num_probes))
        begins[pair + 1] = begins[pair] + size
    values = np.empty(begins[-1], np.int16)
    flat = probes_nP.copy().ravel()
    pairs = np.argsort(flat, kind="mergesort")
    buffer = np.empty((48, (STRETCH_ROWS + LINK_ROWS + PANEL - 1) // PANEL * PANEL), np.float32)
    begin = 0
    while begin < len(pairs):
        cell, end = flat[pairs[begin]], begin + 1
        place = start + pairs[begin] // num_probes
        stretch, near = _stretch(offsets, cell, place), _near(offsets, cell, place)
        while end < len(pairs) and flat[pairs[end]] == cell:
            if _stretch(offsets, cell, start + pairs[end] // num_probes) != stretch:
                break
            end += 1
        _multiply(sorted_NW, near, pairs[begin:end], num_probes, start, buffer, begins, values)
        begin = end
    histogram = np.empty(BINS, np.int32)
    most = 0
    for row in range(num_rows):
        most = max(most, begins[(row + 1) * num_probes] - begins[row * num_probes])
    num_known = known.shape[1]
    ids = np.empty(most + num_known, np.int32)
    found = np.empty(most + num_known, np.int16)
    no_products = np.empty(0, np.int16)
    for row in range(num_rows):
        first = begins[row * num_probes]
        for probe in range(num_probes):
            pair = row * num_probes + probe
            near = _near(offsets, flat[pair], start + row)
            for place in range(len(near)):
                ids[begins[pair] - first + place] = order[near[place]]
        count = begins[(row + 1) * num_probes] - first
        found[:count] = values[first : first + count]
        own = order[start + row]
        if num_known:
            later = order[start + min(row + AHEAD, num_rows - 1)]
            prefetch_row(known, later)
            prefetch_row(known_products, later)
        for rank in range(num_known):
            if known[own, rank] >= 0:
                ids[count], found[count] = known[own, rank], known_products[own, rank]
                count += 1
        select_nearest(found[:count], ids[:count], own, num_known, histogram, out[row], no_products)


@numba.njit(nogil=True, cache=True)
def _multiply(sorted_NW, near, pairs, num_probes, start, buffer, begins, values):  # type: ignore[no-untyped-def]
    panels, corrections = empty_panels(len(near), sorted_NW.shape[1])
    pack(sorted_NW, near, panels, corrections)
    for first in range(0, len(pairs), 48):
        few = pairs[first : first + 48]
        products(shifted(sorted_NW, start + few // num_probes), panels, corrections, buffer)
        for row in range(len(few)):
            target = values[begins[few[row]] : begins[few[row]] + len(near)]
            for column in range(len(near)):
                target[column] = np.int16(buffer[row, column])


def join_neighbors(
    codes_NW: Array, graph: tuple[Array, Array], near: int, far: int, size: int, start: int, stop: int, threads: int
) -> tuple[Array, Array]:
    """Find the nearest rows among the neighbours, and their neighbours, of rows ``start..stop``, nearest first.

    ``graph``: neighbours (N, M) int32, nearest first, and the place of each row in them (N,), which is empty if the
    place is the row's number. A row's candidates are its neighbours and the first ``far`` neighbours of its first
    ``near`` neighbours, as long as there is room. Up to 64 rows are joined at a time, counted from multiples of
    ``JOIN_ROWS`` or from ``start``; each is compared with the other rows and with the candidates of all. Returns ids
    (n, size) int32 and the products of their codes with the row's, int16 (0 at missing places).
    """
    out, products_out = np.empty((stop - start, size), np.int32), np.zeros((stop - start, size), np.int16)

    def join(bounds: tuple[int, int]) -> None:
        part = slice(bounds[0] - start, bounds[1] - start)
        _join(codes_NW, *graph, near, far, bounds[0], out[part], products_out[part])

    map_tiles(join, tile_bounds(start, stop, JOIN_ROWS), threads)
    return out, products_out


@numba.njit(nogil=True, cache=True)
def _join(codes_NW, graph, places, near, far, start, out, products_out):  # type: ignore[no-untyped-def]
    width, joined = graph.shape[1], JOINED_ROWS
    while joined > 1 and joined * (1 + width) > 2 * JOIN_CANDIDATES:
        joined //= 2
    room = max(JOIN_CANDIDATES, joined * (1 + width))  # enough for the rows and their own neighbours in any case
    table = np.empty(4 * JOIN_CANDIDATES, np.int32)
    found = np.empty(room, np.int32)
    panels, corrections = empty_panels(room, codes_NW.shape[1])
    buffer = np.empty((joined, len(panels) * PANEL), np.float32)
    values, positions = np.empty(room, np.int16), np.empty(room, np.int32)
    histogram = np.empty(BINS, np.int32)
    for begin in range(0, len(out), joined):
        end = min(begin + joined, len(out))
        rows = np.arange(start + begin, start + end)
        table[:] = -1
        count = _add_listed(rows.astype(np.int32), joined, table, found, 0)
        for row in rows:
            count = _add_listed(graph[places[row] if places.size else row], width, table, found, count)
        for row in rows:
            own = graph[places[row] if places.size else row]
            for rank in range(min(near, len(own))):
                if own[rank] < 0:
                    break
                listed = graph[places[own[rank]] if places.size else own[rank]]
                count = _add_listed(listed, far, table, found, count)
        pack(codes_NW, found[:count], panels, corrections)
        num_panels = (count + PANEL - 1) // PANEL
        products(shifted(codes_NW, rows), panels[:num_panels], corrections[:num_panels], buffer)
        for row in range(begin, end):
            few = list_largest(buffer[row - begin], count, out.shape[1] + 1, histogram, values, positions)
            for place in range(few):
                positions[place] = found[positions[place]]
            select_nearest(values[:few], positions[:few], start + row, 0, histogram, out[row], products_out[row])


@numba.njit(nogil=True, cache=True)
def _add_listed(listed, most, table, found, count):  # type: ignore[no-untyped-def]
    """Add the first of some listed rows to an open-addressed set, unless it is full; returns the new count."""
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
