"""Unit vectors as small integers, and their inner products in exact integer arithmetic.

Legend: n rows, D dimensions, W code width (D rounded up to 32), C columns of a product, P panels.

A coordinate x of a unit vector becomes round(90 x), an int8. The inner product of two codes is an exact integer: it is
the same on every machine and for any shape of tiles. Divided by 8,100 it misses the cosine by a standard deviation of
0.0045, which is good enough to choose candidates that are compared again in float32. A product is about 8,100 at most.
It never exceeds 32,400, because rounding at most doubles a coordinate, so it fits 16 bits.

Why 90: x86's multiply of unsigned by signed bytes adds two products into 16 bits, and (90 + 90) * 90 * 2 is the largest
such sum that cannot overflow. Sums of pairs wrap, but the total fits and is recovered modulo 2^16. That is four times
the rate of float32. Machines without AVX2 multiply the same integers as float32, with the same result.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from engine.errors import EngineError
from engine.graph.intrinsics import prefetch_row

Array = np.ndarray[Any, Any]

PANEL = 24
TILE_ROWS = 3
WIDTH_UNIT = 32
_VECTORS = PANEL // 8


class Panels(NamedTuple):
    """Codes laid out as the right-hand side of ``products``: (P, W / 4, PANEL) int32
    of four bytes each, and 90 x their sums (P, PANEL) int32."""

    codes: Array
    corrections: Array


def code_width(dim: int) -> int:
    """Tell how many bytes the code of a vector of ``dim`` coordinates has."""
    return -(-dim // WIDTH_UNIT) * WIDTH_UNIT


def encode(rows_nD: Array) -> Array:
    """Encode unit rows, float16 or float32: (n, W) int8; a zero vector's code is zero."""
    codes = np.zeros((len(rows_nD), code_width(rows_nD.shape[1])), np.int8)
    _encode(np.ascontiguousarray(rows_nD, dtype=np.float32), codes)
    return codes


@numba.njit(nogil=True, cache=True)
def _encode(rows_nD, codes):  # type: ignore[no-untyped-def]
    for row in range(rows_nD.shape[0]):
        for d in range(rows_nD.shape[1]):
            value = np.rint(rows_nD[row, d] * np.float32(90.0))
            codes[row, d] = np.int8(min(max(value, np.float32(-90.0)), np.float32(90.0)))


@numba.njit(nogil=True, cache=True)
def empty_panels(count, width):  # type: ignore[no-untyped-def]
    """Allocate panels and corrections for ``count`` codes of ``width`` bytes (numba)."""
    num_panels = (count + PANEL - 1) // PANEL
    return np.zeros((num_panels, width // 4, PANEL), np.int32), np.zeros((num_panels, PANEL), np.int32)


@numba.njit(nogil=True, cache=True)
def pack(codes_nW, rows, panels, corrections):  # type: ignore[no-untyped-def]
    """Lay out the given rows of ``codes_nW`` as the panels' columns, from column 0 on (numba)."""
    words_nW = codes_nW.view(np.int32)
    for column in range(len(rows)):
        if column + 8 < len(rows):
            prefetch_row(codes_nW, rows[column + 8])
        panel, place = column // PANEL, column % PANEL
        code, words = codes_nW[rows[column]], words_nW[rows[column]]
        total = np.int32(0)
        for d in range(code.shape[0]):
            total = np.int32(total + np.int32(code[d]))
        corrections[panel, place] = total * 90
        target = panels[panel]
        for step in range(target.shape[0]):
            target[step, place] = words[step]


@numba.njit(nogil=True, cache=True)
def shifted(codes_nW, rows):  # type: ignore[no-untyped-def]
    """Give the codes of ``rows`` plus 90, uint8: the left-hand side of ``products`` (numba)."""
    out = np.empty((len(rows), codes_nW.shape[1]), np.uint8)
    for place in range(len(rows)):
        code = codes_nW[rows[place]]
        for d in range(code.shape[0]):
            out[place, d] = np.uint8(np.int16(code[d]) + np.int16(90))
    return out


def _microkernel(rows: int) -> Any:
    """Generate the product of ``rows`` shifted codes with one panel, in vector registers."""
    int16, int32, int64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
    bytes32, shorts16 = ir.VectorType(ir.IntType(8), 32), ir.VectorType(int16, 16)
    ints8, floats8 = ir.VectorType(int32, 8), ir.VectorType(ir.FloatType(), 8)

    @intrinsic
    def kernel(typing, left, left_stride, panel, correction, steps, out, out_stride):  # type: ignore[no-untyped-def]
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            left, left_stride, panel, correction, steps, out, out_stride = arguments
            pairs = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(shorts16, [bytes32, bytes32]), "llvm.x86.avx2.pmadd.ub.sw"
            )
            widen = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(ints8, [shorts16, shorts16]), "llvm.x86.avx2.pmadd.wd"
            )

            def load(base: Any, offset: Any, kind: Any) -> Any:
                return builder.load(builder.inttoptr(builder.add(base, offset), kind.as_pointer()), align=1)

            def at(row: int, stride: Any) -> Any:
                return builder.mul(stride, ir.Constant(int64, row))

            zero = ir.Constant(shorts16, [0] * 16)
            sums = [[cgutils.alloca_once_value(builder, zero) for _ in range(_VECTORS)] for _ in range(rows)]
            with cgutils.for_range(builder, steps) as loop:
                start = builder.add(panel, builder.mul(loop.index, ir.Constant(int64, 4 * PANEL)))
                columns = [load(start, ir.Constant(int64, 32 * v), bytes32) for v in range(_VECTORS)]
                for row in range(rows):
                    step = builder.add(at(row, left_stride), builder.mul(loop.index, ir.Constant(int64, 4)))
                    word = builder.insert_element(
                        ir.Constant(ints8, ir.Undefined), load(left, step, int32), ir.Constant(int32, 0)
                    )
                    word = builder.shuffle_vector(word, ir.Constant(ints8, ir.Undefined), ir.Constant(ints8, [0] * 8))
                    for v in range(_VECTORS):
                        product = builder.call(pairs, [builder.bitcast(word, bytes32), columns[v]])
                        builder.store(builder.add(builder.load(sums[row][v]), product), sums[row][v])
            ones, half = ir.Constant(shorts16, [1] * 16), ir.Constant(ints8, [16] * 8)
            for v in range(_VECTORS):
                wrapped = load(correction, ir.Constant(int64, 32 * v), ints8)
                for row in range(rows):
                    total = builder.sub(builder.call(widen, [builder.load(sums[row][v]), ones]), wrapped)
                    total = builder.ashr(builder.shl(total, half), half)
                    place = builder.add(builder.add(out, at(row, out_stride)), ir.Constant(int64, 32 * v))
                    builder.store(
                        builder.sitofp(total, floats8), builder.inttoptr(place, floats8.as_pointer()), align=1
                    )
            return context.get_dummy_value()

        return types.void(*[types.intp] * 7), generate

    return kernel


_many_rows, _one_row = _microkernel(TILE_ROWS), _microkernel(1)


@numba.njit(nogil=True, cache=True)
def _products_avx2(left_MW, panels, corrections, out_MC):  # type: ignore[no-untyped-def]
    num_rows, steps = left_MW.shape[0], panels.shape[1]
    left, stride = left_MW.ctypes.data, left_MW.strides[0]
    out, out_stride = out_MC.ctypes.data, out_MC.strides[0]
    for number in range(panels.shape[0]):
        panel = panels.ctypes.data + number * panels.strides[0]
        correction = corrections.ctypes.data + number * corrections.strides[0]
        target = out + number * 4 * PANEL
        row = 0
        while row + TILE_ROWS <= num_rows:
            _many_rows(left + row * stride, stride, panel, correction, steps, target + row * out_stride, out_stride)
            row += TILE_ROWS
        while row < num_rows:
            _one_row(left + row * stride, stride, panel, correction, steps, target + row * out_stride, out_stride)
            row += 1


@numba.njit(nogil=True, cache=True)
def _products_float(left_MW, panels, corrections, out_MC):  # type: ignore[no-untyped-def]
    left = left_MW.astype(np.float32) - np.float32(90.0)
    width = left_MW.shape[1]
    right = np.empty((width, PANEL), np.float32)
    for number in range(panels.shape[0]):
        for step in range(width // 4):
            for place in range(PANEL):
                for d in range(4):
                    right[4 * step + d, place] = np.int8(panels[number, step, place] >> (8 * d))
        out_MC[:, PANEL * number : PANEL * number + PANEL] = np.dot(left, right)


@intrinsic
def _dot_avx2_at(typing, left, right, blocks):  # type: ignore[no-untyped-def]
    """Multiply two codes at addresses ``left`` and ``right``, 32 bytes at a time: their product modulo 2^16."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        left, right, blocks = arguments
        int16, int32, int64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
        bytes32, shorts16 = ir.VectorType(ir.IntType(8), 32), ir.VectorType(int16, 16)

        def named(name: str, result: Any, *given: Any) -> Any:
            return cgutils.get_or_insert_function(builder.module, ir.FunctionType(result, given), name)

        absolute = named("llvm.abs.v32i8", bytes32, bytes32, ir.IntType(1))
        signed = named("llvm.x86.avx2.psign.b", bytes32, bytes32, bytes32)
        pairs = named("llvm.x86.avx2.pmadd.ub.sw", shorts16, bytes32, bytes32)
        reduced = named("llvm.vector.reduce.add.v16i16", int16, shorts16)
        total = cgutils.alloca_once_value(builder, ir.Constant(shorts16, [0] * 16))
        with cgutils.for_range(builder, blocks) as loop:
            offset = builder.mul(loop.index, ir.Constant(int64, 32))
            one, other = (
                builder.load(builder.inttoptr(builder.add(base, offset), bytes32.as_pointer()), align=1)
                for base in (left, right)
            )
            product = builder.call(
                pairs,
                [builder.call(absolute, [one, ir.Constant(ir.IntType(1), 0)]), builder.call(signed, [other, one])],
            )
            builder.store(builder.add(builder.load(total), product), total)
        return builder.sext(builder.call(reduced, [builder.load(total)]), int32)

    return types.int32(types.intp, types.intp, types.intp), generate


@numba.njit(nogil=True, cache=True)
def _dot_avx2(codes_NW, row, other):  # type: ignore[no-untyped-def]
    data, stride = codes_NW.ctypes.data, codes_NW.strides[0]
    return _dot_avx2_at(data + row * stride, data + other * stride, codes_NW.shape[1] // 32)


@numba.njit(nogil=True, cache=True)
def _dot_plain(codes_NW, row, other):  # type: ignore[no-untyped-def]
    total = np.int32(0)
    for d in range(codes_NW.shape[1]):
        total = np.int32(total + np.int32(np.int32(codes_NW[row, d]) * np.int32(codes_NW[other, d])))
    return total


def _has_avx2() -> bool:
    try:
        return bool(llvm.get_host_cpu_features().get("avx2", False))
    except RuntimeError as error:  # LLVM cannot say on some systems
        raise EngineError(f"LLVM cannot read this processor's features: {error}") from None


# products(left_MW, panels, corrections, out_MC): inner products of shifted codes with the panels' columns, as float32
# integers, into ``out_MC`` (M, >= 24 P), contiguous rows (numba).
products = _products_avx2 if _has_avx2() else _products_float
# dot(codes_NW, row, other): inner product of two rows' codes, an integer (numba).
dot = _dot_avx2 if _has_avx2() else _dot_plain
