"""Cells: trained the same everywhere, and found exactly among those looked into, on the CPU's way and torch's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.graph import cells, cuda
from engine.graph.cells import Cells, Finder, load_cells, sort_by_cell, train_cells, ungrouped
from engine.graph.codes import encode


def on(threads: int) -> Callable[[Cells], Finder]:
    return lambda found: load_cells(found, threads)


def make_codes(num_rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Codes of random unit vectors, some of them twice and some zero."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((num_rows, dim))
    rows[rng.random(num_rows) < 0.1] = rows[0]
    rows[rng.random(num_rows) < 0.02] = 0
    return encode((rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32))


def products(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return left.astype(np.int32) @ right.astype(np.int32).T


def in_groups(codes: np.ndarray, num_groups: int, seed: int) -> Cells:
    """Centroids cut into groups anywhere, with leaders that have nothing to do with them."""
    cuts = np.sort(np.random.default_rng(seed).choice(np.arange(1, len(codes)), num_groups - 1, replace=False))
    return Cells(codes, make_codes(num_groups, codes.shape[1], seed), np.concatenate([[0], cuts, [len(codes)]]))


def found_by_hand(codes: np.ndarray, given: Cells, probes: int, num_listed: int) -> np.ndarray:
    """Nearest centroids, by (-product, cell), in the nearest groups and those in the bin of the last of them."""
    leading = products(codes, given.leaders)
    floors = -np.sort(-leading, axis=1)[:, num_listed - 1 : num_listed] // 32 * 32
    group_of_cell = np.repeat(np.arange(len(given.leaders)), np.diff(given.offsets))
    values = products(codes, given.centroids)
    values[(leading < floors)[:, group_of_cell]] = -(2**30)
    return np.argsort(-values, axis=1, kind="stable")[:, :probes]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 1100), st.integers(1, 6), st.sampled_from([2, 40]), st.integers(0, 1000))
def test_nearest_of_all_cells_are_a_sort(num_rows: int, num_cells: int, probes: int, dim: int, seed: int) -> None:
    codes, centroids = make_codes(num_rows, dim, seed), make_codes(num_cells, dim, seed + 1)
    found = load_cells(ungrouped(centroids), 2)(codes, probes)
    np.testing.assert_array_equal(found, found_by_hand(codes, ungrouped(centroids), min(probes, num_cells), 1))


@pytest.mark.parametrize(("probes", "per_probe"), [(1, 1), (1, 3), (4, 2), (4, 64)])
def test_nearest_cells_of_the_nearest_groups_on_both_ways(
    probes: int, per_probe: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "GROUPS_PER_PROBE", per_probe)
    codes, given = make_codes(700, 40, 1), in_groups(make_codes(400, 40, 2), 23, 3)
    expected = found_by_hand(codes, given, probes, min(probes * per_probe, 23))
    np.testing.assert_array_equal(load_cells(given, 2)(codes, probes), expected)
    monkeypatch.setattr(cells, "ASSIGN_ROWS", 64)
    np.testing.assert_array_equal(load_cells(given, 3)(codes, probes), expected)
    monkeypatch.setattr(cuda, "QUERY_ROWS", 100)
    np.testing.assert_array_equal(cuda.load_cells(given, "cpu")(codes, probes), expected)


@pytest.mark.parametrize("num_cells", [1, 7, 300])
def test_cells_are_no_more_than_distinct_rows_and_the_same_every_time(num_cells: int) -> None:
    sample = np.repeat(make_codes(60, 24), 30, axis=0)
    num_distinct = len(np.unique(sample, axis=0))
    found = train_cells(sample, num_cells, 3, 1, on(1))
    assert found.centroids.shape == (min(num_cells, num_distinct), sample.shape[1])
    for one, other in zip(found, train_cells(sample, num_cells, 3, 1, on(2)), strict=True):
        np.testing.assert_array_equal(one, other)
    if num_cells > num_distinct:  # every distinct row is a centroid
        np.testing.assert_array_equal(np.unique(found.centroids, axis=0), np.unique(sample, axis=0))


def test_many_cells_lie_in_groups_around_their_nearest_leader() -> None:
    sample = make_codes(6000, 24)
    found = train_cells(sample, 900, 2, 0, on(2))
    assert len(found.centroids) == found.offsets[-1] == 900
    assert 2 < len(found.leaders) <= cells.count_groups(900)
    nearest = np.argmax(products(found.centroids, found.leaders), axis=1)
    np.testing.assert_array_equal(nearest, np.repeat(np.arange(len(found.leaders)), np.diff(found.offsets)))
    assert (np.diff(found.offsets) > 0).all()
    on_device = train_cells(sample, 900, 2, 0, lambda held: cuda.load_cells(held, "cpu"))
    for one, other in zip(found, on_device, strict=True):
        np.testing.assert_array_equal(one, other)


def test_zero_and_equal_rows_make_cells() -> None:
    assert not train_cells(np.zeros((50, 32), np.int8), 8, 4, 0, on(1)).centroids.any()
    assert train_cells(np.full((1, 32), 7, np.int8), 8, 4, 0, on(1)).centroids.shape == (1, 32)


def test_sort_by_cell_keeps_rows_in_order_within_a_cell() -> None:
    cells = np.random.default_rng(0).integers(0, 9, 500).astype(np.int32)
    order, offsets = sort_by_cell(cells, 12)
    members = defaultdict(list)
    for row, cell in enumerate(cells):
        members[cell].append(row)
    assert len(offsets) == 13
    for cell in range(12):
        assert order[offsets[cell] : offsets[cell + 1]].tolist() == members[cell]
