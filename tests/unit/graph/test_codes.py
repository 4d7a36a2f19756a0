"""Codes and their products: equal to plain integer arithmetic, whatever the shape and on either path."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph import codes

PATHS = [codes._products_float]
if codes._has_avx2():
    PATHS.append(codes._products_avx2)


def unit_rows(num_rows: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def sign_rows(num_rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit vectors of +-1 / sqrt(D), the farthest that rounding can take codes from their vectors."""
    return (np.random.default_rng(seed).choice([-1, 1], (num_rows, dim)) / np.sqrt(dim)).astype(np.float32)


def multiply(left: np.ndarray, right: np.ndarray, path: object) -> np.ndarray:
    """All products of two sets of codes; what lies beyond the output's columns must stay as it was."""
    panels, corrections = codes.empty_panels(len(right), right.shape[1])
    codes.pack(right, np.arange(len(right)), panels, corrections)
    out = np.full((len(left) + 1, 24 * len(panels) + 8), 0.5, np.float32)
    path(codes.shifted(left, np.arange(len(left))), panels, corrections, out[: len(left)])  # type: ignore[operator]
    assert (out[len(left) :] == 0.5).all()
    assert (out[:, 24 * len(panels) :] == 0.5).all()
    return out[: len(left), : len(right)]


def plain(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left.astype(np.int64) @ right.astype(np.int64).T


@pytest.mark.parametrize("path", PATHS)
@settings(max_examples=60, deadline=None)
@given(st.integers(0, 8), st.integers(0, 75), st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([0, 1, 2]))
def test_products_equal_integer_products(
    path: object, rows: int, columns: int, units: int, seed: int, kind: int
) -> None:
    rng = np.random.default_rng(seed)
    width = codes.WIDTH_UNIT * units
    draw = [
        lambda n: rng.integers(-90, 91, (n, width)).astype(np.int8),
        lambda n: rng.choice(np.array([-90, 0, 90], np.int8), (n, width)),
        lambda n: np.repeat(rng.choice(np.array([-90, 0, 90], np.int8), (n, 1)), width, axis=1),
    ][kind]
    left, right = draw(rows), draw(columns)
    expected = plain(left, right)
    found = multiply(left, right, path).astype(np.int64)
    # Of any codes modulo 2^16; those of unit vectors fit.
    np.testing.assert_array_equal((found - expected) % (1 << 16), 0)
    fits = np.abs(expected) < 1 << 15
    np.testing.assert_array_equal(found[fits], expected[fits])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 7), st.integers(1, 50), st.integers(0, 10**6), st.booleans())
def test_both_paths_and_dot_give_the_same_bits(dim: int, rows: int, columns: int, seed: int, signs: bool) -> None:
    both = codes.encode((sign_rows if signs else unit_rows)(rows + columns, dim, seed))
    both[0] = 0
    left, right = both[:rows], both[rows:]
    expected = plain(left, right)
    for path in PATHS:
        np.testing.assert_array_equal(multiply(left, right, path), expected)
    for row in range(rows):
        for column in range(0, columns, 7):
            assert codes.dot(both, row, rows + column) == expected[row, column]
            assert codes._dot_plain(both, row, rows + column) == expected[row, column]


def test_codes_taken_by_rows_with_gaps() -> None:
    every = codes.encode(unit_rows(60, 70))
    some = every[::2]
    for path in PATHS:
        np.testing.assert_array_equal(multiply(some[:5], some, path), plain(some[:5], some))
    assert codes.dot(some, 1, 29) == plain(some, some)[1, 29]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("dim", [1, 8, 31, 32, 33, 1000])
def test_codes_are_rounded_coordinates(dim: int, dtype: type) -> None:
    rows = unit_rows(50, dim).astype(dtype)
    rows[7] = 0
    found = codes.encode(rows[::3])
    assert found.shape == (17, codes.code_width(dim))
    assert found.shape[1] % codes.WIDTH_UNIT == 0
    assert np.abs(found[:, :dim] - 90 * rows[::3].astype(np.float32)).max() <= 0.5001
    assert not found[:, dim:].any()
    assert codes.encode(rows[:0]).shape == (0, codes.code_width(dim))
    assert not codes.encode(rows)[7].any()


@pytest.mark.parametrize("dim", [1, 4, 225, 256, 1024, 8100, 14_400, 32_300])
def test_no_unit_vector_has_a_product_beyond_16_bits(dim: int) -> None:
    found = codes.encode(sign_rows(2, dim).astype(np.float16))
    for path in PATHS:
        np.testing.assert_array_equal(multiply(found, found, path), plain(found, found))
    assert codes.dot(found, 1, 1) == plain(found, found)[1, 1] <= 32_500


def test_products_tell_cosines() -> None:
    rows = unit_rows(200, 128)
    found = multiply(*[codes.encode(rows)] * 2, codes.products) / 8100.0
    assert np.std(found - rows @ rows.T) < 0.006
