"""Cosines of listed pairs of rows in float32, summed in a fixed order: the same bits wherever they are computed.

Legend: N rows, D dimensions, n rows of a block, K neighbours.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.graph.intrinsics import widen
from engine.tiles import map_tiles, tile_bounds
from engine.units import NO_NEIGHBOR, NO_SIMILARITY

Array = np.ndarray[Any, Any]

TILE_ROWS = 512
_LANES = 16


def listed_similarities(features_ND: Array, rows_n: Array, neighbors_nK: Array, *, threads: int = 1) -> Array:
    """Compute the cosine of row ``rows_n[i]`` with each row listed in ``neighbors_nK[i]``: (n, K) float32, at most 1.

    ``features_ND``: unit rows, float16 or float32. Places below 0 or from N on get ``NO_SIMILARITY``.
    """
    out = np.empty(neighbors_nK.shape, np.float32)
    half = features_ND.dtype == np.float16
    source = features_ND.view(np.int16) if half else features_ND

    def compute(bounds: tuple[int, int]) -> None:
        part = slice(*bounds)
        (_half_pairs if half else _single_pairs)(source, rows_n[part], neighbors_nK[part], out[part])

    map_tiles(compute, tile_bounds(0, len(neighbors_nK), TILE_ROWS), threads)
    return out


def sort_neighbors(neighbors_nK: Array, similarities_nK: Array, *, threads: int = 1) -> None:
    """Put each row's neighbours in order, in place: by descending similarity, ties by lower id, missing ones last."""

    def sort(bounds: tuple[int, int]) -> None:
        _sort_rows(neighbors_nK[slice(*bounds)], similarities_nK[slice(*bounds)])

    map_tiles(sort, tile_bounds(0, len(neighbors_nK), TILE_ROWS), threads)


@numba.njit(nogil=True, cache=True)
def _half_pairs(source_ND, rows_n, neighbors_nK, out):  # type: ignore[no-untyped-def]
    width = (source_ND.shape[1] + _LANES - 1) // _LANES * _LANES
    own, other = np.zeros(width, np.float32), np.zeros(width, np.float32)
    for row in range(len(neighbors_nK)):
        _decode(source_ND[rows_n[row]], own)
        for rank in range(neighbors_nK.shape[1]):
            neighbor = neighbors_nK[row, rank]
            if neighbor < 0 or neighbor >= len(source_ND):
                out[row, rank] = NO_SIMILARITY
                continue
            _decode(source_ND[neighbor], other)
            out[row, rank] = min(_dot(own, other), np.float32(1.0))


@numba.njit(nogil=True, cache=True)
def _single_pairs(source_ND, rows_n, neighbors_nK, out):  # type: ignore[no-untyped-def]
    width = (source_ND.shape[1] + _LANES - 1) // _LANES * _LANES
    own, other = np.zeros(width, np.float32), np.zeros(width, np.float32)
    for row in range(len(neighbors_nK)):
        own[: source_ND.shape[1]] = source_ND[rows_n[row]]
        for rank in range(neighbors_nK.shape[1]):
            neighbor = neighbors_nK[row, rank]
            if neighbor < 0 or neighbor >= len(source_ND):
                out[row, rank] = NO_SIMILARITY
                continue
            other[: source_ND.shape[1]] = source_ND[neighbor]
            out[row, rank] = min(_dot(own, other), np.float32(1.0))


@numba.njit(nogil=True, cache=True)
def _decode(halves, out):  # type: ignore[no-untyped-def]
    for d in range(len(halves)):
        out[d] = widen(halves[d])


@intrinsic
def _dot_at(typing, left, right, blocks):  # type: ignore[no-untyped-def]
    """Multiply two float32 vectors at addresses: 16 running sums, which are then added in order."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        left, right, blocks = arguments
        int64, lanes = ir.IntType(64), ir.VectorType(ir.FloatType(), _LANES)
        total = cgutils.alloca_once_value(builder, ir.Constant(lanes, [0.0] * _LANES))
        with cgutils.for_range(builder, blocks) as loop:
            offset = builder.mul(loop.index, ir.Constant(int64, 4 * _LANES))
            one, other = (
                builder.load(builder.inttoptr(builder.add(base, offset), lanes.as_pointer()), align=4)
                for base in (left, right)
            )
            builder.store(builder.fadd(builder.load(total), builder.fmul(one, other)), total)
        result = ir.Constant(ir.FloatType(), 0.0)
        for lane in range(_LANES):
            result = builder.fadd(
                result, builder.extract_element(builder.load(total), ir.Constant(ir.IntType(32), lane))
            )
        return result

    return types.float32(types.intp, types.intp, types.intp), generate


@numba.njit(nogil=True, cache=True, inline="always")
def _dot(a, b):  # type: ignore[no-untyped-def]
    return _dot_at(a.ctypes.data, b.ctypes.data, len(a) // _LANES)


@numba.njit(nogil=True, cache=True)
def _sort_rows(neighbors_nK, similarities_nK):  # type: ignore[no-untyped-def]
    """Sort rows by insertion, because they are nearly in order."""
    for row in range(len(neighbors_nK)):
        ids, values = neighbors_nK[row], similarities_nK[row]
        for place in range(1, len(ids)):
            value, neighbor, rank = values[place], ids[place], place
            while rank > 0 and (
                values[rank - 1] < value or (values[rank - 1] == value and NO_NEIGHBOR < neighbor < ids[rank - 1])
            ):
                values[rank], ids[rank] = values[rank - 1], ids[rank - 1]
                rank -= 1
            values[rank], ids[rank] = value, neighbor
