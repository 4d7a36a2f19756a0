"""K nearest neighbours by cosine, as tiles of inner products scanned against each query's current K-th value.

Legend: N database rows, M queries of a tile, B rows of a database block, D dimensions, K neighbours, C cells.

The bounds of each product tile depend on global row numbers alone, and single-threaded BLAS computes it in float32, so
results are the same bits for any number of threads or rows per task. Neighbours are ordered by (-similarity, id): ties
go to the lower id, whatever the order of the scan.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numba
import numpy as np

from engine.tiles import map_tiles, tile_bounds
from engine.units import NO_NEIGHBOR, NO_SIMILARITY

EXACT_TILE_ROWS = 1024
SAMPLE_TILE_ROWS = 256  # a sample is small, and smaller tiles give each thread some of it
CELL_TILE_ROWS = 4096
DATABASE_BLOCK_ROWS = 2048
_SCAN_WIDTH = 64
# A cosine summed in float32 in two orders differs by less.
_ROUNDING = np.float32(1e-5)


def exact_neighbors(
    features_ND: np.ndarray, start: int, stop: int, k: int, usable_N: np.ndarray | None, threads: int
) -> tuple[np.ndarray, np.ndarray]:
    """Search rows ``start..stop`` against all rows; return ids (n, k) int32 and similarities (n, k) float32.

    ``features_ND``: unit rows, float16 or float32. A row is never its own neighbour. A row with ``usable_N`` False has
    no neighbours and is nobody's neighbour. Missing places hold ``NO_NEIGHBOR`` and ``NO_SIMILARITY``.
    """
    tiles = [np.arange(a, b, dtype=np.int32) for a, b in tile_bounds(start, stop, EXACT_TILE_ROWS)]
    return _search_tiles(features_ND, tiles, k, usable_N, threads)


def neighbors_of_rows(
    features_ND: np.ndarray,
    rows_M: np.ndarray,
    k: int,
    usable_N: np.ndarray | None,
    threads: int,
    span: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Search the given rows (int, any order) against all rows; returns what ``exact_neighbors`` does.

    ``span``: search these rows only, from a multiple of ``DATABASE_BLOCK_ROWS`` on. ``nearest_of`` joins the results of
    spans to the bytes of one search.
    """
    rows_M = np.asarray(rows_M, dtype=np.int32)
    tiles = [rows_M[a : a + SAMPLE_TILE_ROWS] for a in range(0, len(rows_M), SAMPLE_TILE_ROWS)]
    return _search_tiles(features_ND, tiles, k, usable_N, threads, span)


def nearest_of(parts: Sequence[tuple[np.ndarray, np.ndarray]], k: int) -> tuple[np.ndarray, np.ndarray]:
    """Join the neighbours (ids, similarities) that searches of several spans found for the same rows."""
    ids_MJ, similarities_MJ = (np.concatenate(column, axis=1) for column in zip(*parts, strict=True))
    order_MK = np.lexsort((ids_MJ, -similarities_MJ), axis=1)[:, :k]
    return np.take_along_axis(ids_MJ, order_MK, axis=1), np.take_along_axis(similarities_MJ, order_MK, axis=1)


def cell_neighbors(
    features_ND: np.ndarray,
    centroids_CD: np.ndarray,
    cell_offsets: np.ndarray,
    start: int,
    stop: int,
    k: int,
    num_probes: int,
    usable_N: np.ndarray | None,
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Search rows ``start..stop`` against the rows of each query's ``num_probes`` nearest cells (IVF, list-major).

    ``features_ND`` lie in cell order: cell c holds rows ``cell_offsets[c]..cell_offsets[c + 1]``. For a tile of queries
    each probed cell is one matrix product with the queries that probe it. Returns what ``exact_neighbors`` does.
    """
    num_probes = min(num_probes, len(centroids_CD))

    def search(bounds: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        rows_M = np.arange(*bounds, dtype=np.int32)
        queries_MD = features_ND[bounds[0] : bounds[1]].astype(np.float32)
        probes_MP = _nearest_cells(queries_MD, centroids_CD, num_probes)
        heaps = _empty_heaps(len(rows_M), k)
        order = np.argsort(probes_MP.ravel(), kind="stable")
        cells, firsts = np.unique(probes_MP.ravel()[order], return_index=True)
        members = np.split((order // num_probes).astype(np.int32), firsts[1:])
        for cell, rows in zip(cells, members, strict=True):
            span = (int(cell_offsets[cell]), int(cell_offsets[cell + 1]))
            for begin in range(0, len(rows), EXACT_TILE_ROWS):
                part = rows[begin : begin + EXACT_TILE_ROWS]
                _scan_span(features_ND, span, queries_MD[part], rows_M, part, usable_N, heaps)
        return _finish(heaps, rows_M, usable_N)

    return _joined(map_tiles(search, tile_bounds(start, stop, CELL_TILE_ROWS), threads))


def assign_cells(features_ND: np.ndarray, centroids_CD: np.ndarray, start: int, stop: int, threads: int) -> np.ndarray:
    """Find the nearest centroid of rows ``start..stop``: (n,) int32; ties go to the lower cell."""

    def assign(bounds: tuple[int, int]) -> np.ndarray:
        products = features_ND[bounds[0] : bounds[1]].astype(np.float32) @ centroids_CD.T
        return products.argmax(axis=1).astype(np.int32)

    return np.concatenate(map_tiles(assign, tile_bounds(start, stop, EXACT_TILE_ROWS), threads))


def measure_recall(found_MK: np.ndarray, exact_MK: np.ndarray, floor: float) -> tuple[float, float]:
    """Compare the similarities of found and of exact neighbours of the same rows, each row descending.

    Returns recall@K and the recall of neighbours of similarity >= ``floor``. A found neighbour counts if it is as near
    as the last exact one, because a row may have thousands of equally near duplicates. The recall is 1 if there is no
    neighbour to find.
    """
    return _recall(found_MK, exact_MK, exact_MK != NO_SIMILARITY), _recall(found_MK, exact_MK, exact_MK >= floor)


def _recall(found_MK: np.ndarray, exact_MK: np.ndarray, wanted_MK: np.ndarray) -> float:
    counts_M = wanted_MK.sum(axis=1)
    if not counts_M.any():
        return 1.0
    last_M = np.take_along_axis(exact_MK, np.maximum(counts_M - 1, 0)[:, None], axis=1)[:, 0]
    hits_M = (found_MK >= last_M[:, None] - _ROUNDING).sum(axis=1)
    return float(np.minimum(hits_M, counts_M).sum() / counts_M.sum())


def _search_tiles(
    features_ND: np.ndarray,
    tiles: Iterable[np.ndarray],
    k: int,
    usable_N: np.ndarray | None,
    threads: int,
    span: tuple[int, int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    def search(rows_M: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        queries_MD = features_ND[rows_M].astype(np.float32)
        heaps = _empty_heaps(len(rows_M), k)
        places = np.arange(len(rows_M), dtype=np.int32)
        _scan_span(features_ND, span or (0, len(features_ND)), queries_MD, rows_M, places, usable_N, heaps)
        return _finish(heaps, rows_M, usable_N)

    return _joined(map_tiles(search, tiles, threads))


def _scan_span(
    features_ND: np.ndarray,
    span: tuple[int, int],
    queries_MD: np.ndarray,
    rows: np.ndarray,
    places: np.ndarray,
    usable_N: np.ndarray | None,
    heaps: tuple[np.ndarray, np.ndarray],
) -> None:
    usable = np.zeros(0, dtype=np.bool_) if usable_N is None else usable_N
    for begin in range(span[0], span[1], DATABASE_BLOCK_ROWS):
        block_BD = features_ND[begin : min(begin + DATABASE_BLOCK_ROWS, span[1])].astype(np.float32)
        _scan(queries_MD @ block_BD.T, begin, rows, places, usable, *heaps)


def _nearest_cells(queries_MD: np.ndarray, centroids_CD: np.ndarray, num_probes: int) -> np.ndarray:
    heaps = _empty_heaps(len(queries_MD), num_probes)
    places = np.arange(len(queries_MD), dtype=np.int32)
    nobody = np.full(len(queries_MD), -1, dtype=np.int32)
    _scan(queries_MD @ centroids_CD.T, 0, nobody, places, np.zeros(0, dtype=np.bool_), *heaps)
    return heaps[1]


def _empty_heaps(num_rows: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    similarities = np.full((num_rows, k), NO_SIMILARITY, dtype=np.float32)
    return similarities, np.full((num_rows, k), np.iinfo(np.int32).max, dtype=np.int32)


def _finish(
    heaps: tuple[np.ndarray, np.ndarray], rows_M: np.ndarray, usable_N: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    similarities, ids = heaps
    order = np.lexsort((ids, -similarities), axis=1)
    ids = np.take_along_axis(ids, order, axis=1)
    similarities = np.take_along_axis(similarities, order, axis=1)
    missing = similarities == NO_SIMILARITY
    if usable_N is not None:
        missing |= ~usable_N[rows_M, None]
    ids[missing] = NO_NEIGHBOR
    similarities[missing] = NO_SIMILARITY
    return ids, np.clip(similarities, NO_SIMILARITY, 1.0)


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


@numba.njit(nogil=True, cache=True)
def _scan(products_MB, first_id, rows, places, usable_N, similarities, ids):  # type: ignore[no-untyped-def]
    """Offer every product to its query's heap; row m of the tile has heap ``places[m]``, query ``rows[places[m]]``.

    A block of 64 products is first compared with the query's K-th value, which the compiler does in vector registers.
    Only in a block with a candidate are products looked at one by one.
    """
    num_columns = products_MB.shape[1]
    for m in range(products_MB.shape[0]):
        place = places[m]
        own = rows[place]
        for begin in range(0, num_columns, _SCAN_WIDTH):
            end = min(begin + _SCAN_WIDTH, num_columns)
            worst = similarities[place, 0]
            any_above = 0
            for b in range(begin, end):
                any_above |= products_MB[m, b] >= worst
            if not any_above:
                continue
            for b in range(begin, end):
                value = products_MB[m, b]
                if value < similarities[place, 0]:
                    continue
                candidate = np.int32(first_id + b)
                if candidate == own or (usable_N.size > 0 and not usable_N[candidate]):
                    continue
                if value > similarities[place, 0] or candidate < ids[place, 0]:
                    replace_worst(similarities[place], ids[place], value, candidate)


@numba.njit(nogil=True, cache=True, inline="always")
def _worse(value_a, id_a, value_b, id_b):  # type: ignore[no-untyped-def]
    return value_a < value_b or (value_a == value_b and id_a > id_b)


@numba.njit(nogil=True, cache=True)
def replace_worst(values, ids, value, candidate):  # type: ignore[no-untyped-def]
    """Replace the root of a heap whose root is its worst element, and sift down."""
    size = values.shape[0]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and _worse(values[child + 1], ids[child + 1], values[child], ids[child]):
            child += 1
        if not _worse(values[child], ids[child], value, candidate):
            break
        values[place], ids[place] = values[child], ids[child]
        place = child
    values[place], ids[place] = value, candidate
