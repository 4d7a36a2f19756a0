"""Halves widened and multiplied in numba, against numpy's."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from engine.graph.intrinsics import LANES, dot_whole, prefetch_row, widen


@numba.njit
def widen_all(bits: Any, out: Any) -> None:
    for place in range(len(bits)):
        out[place] = widen(bits[place])


@numba.njit
def products(held: Any, read: Any) -> Any:
    return dot_whole(held, read)


@numba.njit
def sum_with_prefetch(matrix: Any) -> float:
    total = 0.0
    for row in range(len(matrix)):
        prefetch_row(matrix, len(matrix) - 1 - row)
        total += matrix[row].sum()
    return total


def test_every_half_is_widened_exactly() -> None:
    bits = np.arange(-(1 << 15), 1 << 15, dtype=np.int16)
    found = np.empty(len(bits), np.float32)
    widen_all(bits, found)
    np.testing.assert_array_equal(found, bits.view(np.float16).astype(np.float32))


def test_products_are_right_and_the_same_from_either_end() -> None:
    rng = np.random.default_rng(0)
    for length in (0, LANES, 5 * LANES):
        first, second = rng.normal(size=(2, length)).astype(np.float16)
        product, norm = products(first.astype(np.float32), second.view(np.int16))
        swapped, other_norm = products(second.astype(np.float32), first.view(np.int16))
        wide = first.astype(np.float64), second.astype(np.float64)
        expected = [wide[0] @ wide[1], wide[1] @ wide[1], wide[0] @ wide[0]]
        np.testing.assert_allclose([product, norm, other_norm], expected, rtol=1e-5, atol=1e-5)
        assert product == swapped


def test_prefetching_changes_nothing() -> None:
    matrix = np.random.default_rng(1).normal(size=(9, 40)).astype(np.float32)
    assert np.isclose(sum_with_prefetch(matrix), matrix.sum(dtype=np.float64), rtol=1e-5)
