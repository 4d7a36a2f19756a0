"""Instructions that numba lacks: reading float16, prefetching memory, comparing and multiplying whole vectors.

A float16 arrives in an int16 view and is widened exactly by the processor. x86-64 does it by F16C, which every
processor with AVX2 has; ARM64 does it by base instructions.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import for_range
from numba.extending import intrinsic

LINE_BYTES = 64
REACHED = 8
LANES = 32  # partial sums of a dot product: their number is fixed, so that the bits follow from the vectors alone


@intrinsic
def widen(_context, bits):  # type: ignore[no-untyped-def]
    """Give the float32 value of a float16 held in an int16 (numba)."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.fpext(builder.bitcast(arguments[0], ir.HalfType()), ir.FloatType())

    return types.float32(types.int16), generate


@intrinsic
def prefetch_row(_context, array, row):  # type: ignore[no-untyped-def]
    """Prefetch a row (>= 0) of a 2-d array; it changes no result (numba)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        matrix = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte, number = ir.IntType(8), ir.IntType(32)
        stride, row_bytes = builder.extract_value(matrix.strides, 0), builder.extract_value(matrix.strides, 1)
        row_bytes = builder.mul(row_bytes, builder.extract_value(matrix.shape, 1))
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        first = builder.gep(builder.bitcast(matrix.data, byte.as_pointer()), [builder.mul(index, stride)])
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), number, number, number])
        hint = builder.module.declare_intrinsic("llvm.prefetch", [byte.as_pointer()], kind)
        with for_range(builder, builder.udiv(row_bytes, ir.Constant(row_bytes.type, LINE_BYTES))) as loop:
            line = builder.gep(first, [builder.mul(loop.index, ir.Constant(loop.index.type, LINE_BYTES))])
            builder.call(hint, [line, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(array, row), generate


@intrinsic
def reaching(_context, values, first, floor):  # type: ignore[no-untyped-def]
    """Tell which of the ``REACHED`` float32 values from ``first`` on reach ``floor``: bit l for the l-th (numba)."""
    signature = types.int64(values, first, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        lanes = ir.VectorType(ir.FloatType(), REACHED)
        index = context.cast(builder, arguments[1], signature.args[1], types.intp)
        read = builder.load(builder.bitcast(builder.gep(array.data, [index]), lanes.as_pointer()), align=4)
        held = builder.insert_element(ir.Constant(lanes, ir.Undefined), arguments[2], ir.Constant(ir.IntType(32), 0))
        order = ir.Constant(ir.VectorType(ir.IntType(32), REACHED), [0] * REACHED)
        above = builder.fcmp_ordered(">=", read, builder.shuffle_vector(held, held, order))
        return builder.zext(builder.bitcast(above, ir.IntType(REACHED)), ir.IntType(64))

    return signature, generate


@intrinsic
def dot_whole(_context, held, read):  # type: ignore[no-untyped-def]
    """Give (held · read, read · read) of a float32 and a float16 vector, of a multiple of ``LANES`` in length (numba).

    Lane l sums the products l, l + LANES, ... in order; then the lanes are added in halves. If the vectors swap
    parts, so that the other one is widened, the bits stay the same.
    """
    signature = types.UniTuple(types.float32, 2)(held, read)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        arrays = [
            context.make_array(kind)(context, builder, value)
            for kind, value in zip(signature.args, arguments, strict=True)
        ]
        length = builder.extract_value(arrays[0].shape, 0)
        floats, halves = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.HalfType(), LANES)
        before = builder.block
        test, body, end = (builder.append_basic_block(name) for name in ("test", "body", "end"))
        builder.branch(test)
        builder.position_at_end(test)
        position = builder.phi(length.type)
        sums = [builder.phi(floats), builder.phi(floats)]
        position.add_incoming(ir.Constant(length.type, 0), before)
        for total in sums:
            total.add_incoming(ir.Constant(floats, [0.0] * LANES), before)
        builder.cbranch(builder.icmp_signed("<", position, length), body, end)
        builder.position_at_end(body)
        first, second = (
            builder.load(builder.bitcast(builder.gep(array.data, [position]), kind.as_pointer()), align=align)
            for array, kind, align in zip(arrays, (floats, halves), (4, 2), strict=True)
        )
        second = builder.fpext(second, floats)
        for total, left in zip(sums, (first, second), strict=True):
            total.add_incoming(builder.fadd(total, builder.fmul(left, second)), body)
        position.add_incoming(builder.add(position, ir.Constant(length.type, LANES)), body)
        builder.branch(test)
        builder.position_at_end(end)
        return context.make_tuple(builder, signature.return_type, [_add_lanes(builder, total) for total in sums])

    return signature, generate


def _add_lanes(builder: Any, vector: Any) -> Any:
    number = ir.IntType(32)
    width = LANES
    while width > 1:
        width //= 2
        low, high = (
            builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(number, width), list(lanes)))
            for lanes in (range(width), range(width, 2 * width))
        )
        vector = builder.fadd(low, high)
    return builder.extract_element(vector, ir.Constant(number, 0))
