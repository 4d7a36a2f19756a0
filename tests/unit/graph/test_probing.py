"""Probes and joins: exact on codes within what is compared, whatever the cuts, threads and ties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clustering.union_find import component_roots
from engine.graph import largest
from engine.graph import probing as partitions
from engine.graph.cells import load_cells, sort_by_cell, train_cells
from engine.graph.codes import encode
from engine.units import NO_NEIGHBOR

NOWHERE = np.empty(0, np.int32)


def make_codes(num_rows: int, dim: int, seed: int = 0, groups: int = 0) -> np.ndarray:
    """Codes of random unit vectors; around ``groups`` centres, with some rows twice and some zero."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((num_rows, dim))
    if groups:
        rows = 0.5 * rows + rng.standard_normal((groups, dim))[rng.integers(groups, size=num_rows)]
        rows[rng.random(num_rows) < 0.1] = rows[0]
        rows[rng.random(num_rows) < 0.02] = 0
    return encode((rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)).astype(np.float32))


def products(codes: np.ndarray) -> np.ndarray:
    return codes.astype(np.int32) @ codes.astype(np.int32).T


def nearest_of(values: np.ndarray, ids: np.ndarray, own: int, size: int) -> np.ndarray:
    """The reference: ids without ``own``, by (-value, id), padded."""
    keep = ids != own
    order = np.lexsort((ids[keep], -values[keep].astype(np.int64)))[:size]
    return np.append(ids[keep][order], np.full(size - len(order), NO_NEIGHBOR)).astype(np.int32)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 300), st.integers(1, 90), st.sampled_from([1, 3, 40, 9000, 32_768]), st.booleans(),
    st.integers(0, 10**6),
)  # fmt: skip
def test_select_nearest_is_a_sort(count: int, size: int, spread: int, with_own: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-spread, spread, count).astype(np.int16)
    if count:
        values[rng.integers(count)] = rng.choice([-32_768, 32_767])
    ids = rng.choice(2**31 - 2, count, replace=False).astype(np.int32) if count else NOWHERE
    own = int(ids[rng.integers(count)]) if with_own and count else 2**31 - 1
    expected = nearest_of(values, ids, own, size)
    twice = rng.choice(count, rng.integers(0, count + 1), replace=False)  # such as were known before
    values, ids = np.append(values, values[twice]), np.append(ids, ids[twice])
    out, products_out = np.empty(size, np.int32), np.empty(size, np.int16)
    largest.select_nearest(values, ids, own, len(twice), np.empty(largest.BINS, np.int32), out, products_out)
    np.testing.assert_array_equal(out, expected)
    value_of = dict(zip(ids.tolist(), values.tolist(), strict=True))
    assert [value_of[row] for row in out.tolist() if row >= 0] == products_out[out >= 0].tolist()


def cells_of(codes: np.ndarray, num_cells: int, probes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cells = train_cells(codes, num_cells, 2, 0, lambda cells: load_cells(cells, 1))
    probes_NP = load_cells(cells, 1)(codes, probes)
    return *sort_by_cell(probes_NP[:, 0].copy(), len(cells.centroids)), probes_NP


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 500), st.sampled_from([1, 2, 33, 64]), st.integers(1, 12), st.integers(1, 70), st.integers(0, 999)
)
def test_all_cells_probed_is_brute_force(num_rows: int, dim: int, num_cells: int, size: int, seed: int) -> None:
    codes = make_codes(num_rows, dim, seed, groups=9)
    order, offsets, probes = cells_of(codes, num_cells, num_cells)
    found = partitions.probe_neighbors(codes[order], order, offsets, probes, 0, num_rows, size, 1)
    values, everyone = products(codes), np.arange(num_rows, dtype=np.int32)
    for place, row in enumerate(order):
        np.testing.assert_array_equal(found[place], nearest_of(values[row], everyone, row, size))


def test_probes_find_the_nearest_rows_of_their_cells_and_empty_cells_hold_none() -> None:
    codes = make_codes(800, 24, groups=40)
    order, offsets, probes = cells_of(codes, 30, 3)
    # Cells that nobody is in, but some probe.
    offsets = np.concatenate([offsets, [800, 800]])
    probes = np.concatenate([probes, np.full((800, 1), 31, np.int32)], axis=1)
    found = partitions.probe_neighbors(codes[order], order, offsets, probes, 0, 800, 25, 1)
    values = products(codes)
    for place, row in enumerate(order):
        ids = np.concatenate([order[offsets[cell] : offsets[cell + 1]] for cell in probes[row]])
        np.testing.assert_array_equal(found[place], nearest_of(values[row, ids], ids, row, 25))


@pytest.mark.parametrize("num_cells", [1, 60])
def test_cuts_tiles_and_threads_never_change_what_is_found(num_cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    num_rows = 9000
    codes = make_codes(num_rows, 24, groups=300)
    order, offsets, probes = cells_of(codes, num_cells, 3)
    whole = partitions.probe_neighbors(codes[order], order, offsets, probes, 0, num_rows, 30, 2)
    monkeypatch.setattr(partitions, "SEARCH_ROWS", 700)
    monkeypatch.setattr(partitions, "SEARCH_CANDIDATES", 100_000)
    for start, stop, threads in ((0, 1, 1), (1, 4096, 3), (4096, num_rows, 2)):
        part = partitions.probe_neighbors(codes[order], order, offsets, probes, start, stop, 30, threads)
        np.testing.assert_array_equal(part, whole[start:stop])
    monkeypatch.setattr(partitions, "SEARCH_CANDIDATES", 1)
    part = partitions.probe_neighbors(codes[order], order, offsets, probes, 5, 40, 30, 1)
    np.testing.assert_array_equal(part, whole[5:40])


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 200), st.integers(1, 30), st.integers(1, 10), st.data())
def test_rows_of_a_stretch_meet_it_whole_and_links_once(
    size: int, stretch: int, links: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitions, "STRETCH_ROWS", stretch)
        patch.setattr(partitions, "LINK_ROWS", 2 * links)
        patch.setattr(partitions, "_stretch", partitions._stretch.py_func)
        order, offsets = np.arange(1000, 1400, dtype=np.int32), np.array([0, 100, 100 + size, 400])
        place = data.draw(st.integers(0, 399))
        near = order[partitions._near.py_func(offsets, 1, place)]
        assert len(np.unique(near)) == len(near) <= max(stretch + 2 * links, 1)
        assert np.isin(near, order[100 : 100 + size]).all()
        begin = 100 + (place - 100) // stretch * stretch if 100 <= place < 100 + size else 100
        if size <= stretch:
            np.testing.assert_array_equal(near, order[100 : 100 + size])
        assert np.isin(order[begin : min(begin + stretch, 100 + size)], near).all()
        assert order[100] in near
        assert np.diff(np.sort(near)).max(initial=0) <= size // links + 1


@pytest.mark.parametrize(("others", "equals"), [(0, 9000), (300, 9000), (4031, 5000)])
def test_equal_rows_of_a_large_cell_are_connected(others: int, equals: int) -> None:
    codes = make_codes(others + 1, 24)[np.minimum(np.arange(others + equals), others)]
    num_rows = len(codes)
    everyone, probes = np.arange(num_rows, dtype=np.int32), np.zeros((num_rows, 1), np.int32)
    found = partitions.probe_neighbors(codes, everyone, np.array([0, num_rows]), probes, 0, num_rows, 20, 2)
    pairs = np.stack([np.repeat(everyone, 20), found.ravel()])[:, found.ravel() != NO_NEIGHBOR]
    pairs = pairs[:, (pairs >= others).all(axis=0)]
    roots = component_roots(num_rows, pairs[0], pairs[1])
    assert len(np.unique(roots[others:])) == 1


def random_graph(num_rows: int, width: int, seed: int) -> np.ndarray:
    """Distinct other rows for each row, with missing places at the end of some."""
    rng = np.random.default_rng(seed)
    step = rng.permutation(num_rows - 1)[:width] + 1
    graph = ((np.arange(num_rows)[:, None] + step) % num_rows).astype(np.int32)
    cut = rng.integers(0, 3 * width, num_rows)
    graph[np.arange(width) >= cut[:, None]] = NO_NEIGHBOR
    return graph


def joined_by_hand(
    codes: np.ndarray, neighbors: np.ndarray, places: np.ndarray, near: int, far: int, size: int
) -> np.ndarray:
    def listed(row: int, most: int) -> list[int]:
        return [other for other in neighbors[places[row] if places.size else row][:most].tolist() if other >= 0]

    values = products(codes)
    out = np.empty((len(codes), size), np.int32)
    for tile in range(0, len(codes), partitions.JOINED_ROWS):
        rows = range(tile, min(tile + partitions.JOINED_ROWS, len(codes)))
        candidates = set(rows)
        for row in rows:
            candidates.update(listed(row, 1 << 30), *(listed(other, far) for other in listed(row, near)))
        ids = np.array(sorted(candidates), dtype=np.int32)
        for row in rows:
            out[row] = nearest_of(values[row, ids], ids, row, size)
    return out


@pytest.mark.parametrize(("num_rows", "width"), [(2, 1), (65, 20), (700, 12)])
@pytest.mark.parametrize("placed", [False, True])
def test_join_compares_neighbours_and_their_neighbours(num_rows: int, width: int, placed: bool) -> None:
    codes = make_codes(num_rows, 24, groups=30)
    places = np.random.default_rng(3).permutation(num_rows).astype(np.int32) if placed else NOWHERE
    graph = random_graph(num_rows, width, 1)
    if placed:
        graph[places] = graph.copy()
    found, listed_products = partitions.join_neighbors(codes, (graph, places), 3, 4, 15, 0, num_rows, 2)
    np.testing.assert_array_equal(found, joined_by_hand(codes, graph, places, 3, 4, 15))
    expected = np.where(found >= 0, np.take_along_axis(products(codes), np.maximum(found, 0), axis=1), 0)
    np.testing.assert_array_equal(listed_products, expected)


def test_what_was_known_counts_with_what_the_cells_hold() -> None:
    codes = make_codes(800, 24, groups=40)
    order, offsets, probes = cells_of(codes, 30, 2)
    known = random_graph(800, 40, 3)
    values = products(codes)
    known_products = np.take_along_axis(values, np.maximum(known, 0), axis=1).astype(np.int16)
    found = partitions.probe_neighbors(codes[order], order, offsets, probes, 0, 800, 25, 1, (known, known_products))
    for place, row in enumerate(order):
        ids = np.concatenate([order[offsets[cell] : offsets[cell + 1]] for cell in probes[row]])
        ids = np.union1d(ids, known[row][known[row] >= 0]).astype(np.int32)
        np.testing.assert_array_equal(found[place], nearest_of(values[row, ids], ids, row, 25))


@pytest.mark.parametrize("width", [150, 1024])
def test_join_never_loses_a_nearer_listed_neighbour(width: int) -> None:
    # Neighbours at random, so that those of 64 rows are more than any room but one made for them.
    num_rows, rows = 30_000, 1100
    codes = make_codes(num_rows, 24)
    graph = random_graph(num_rows, width, 1)
    found, _ = partitions.join_neighbors(codes, (graph, NOWHERE), 3, 4, width, 0, rows, 2)
    for row in range(0, rows, 7):
        values = codes @ codes[row].astype(np.int32)
        listed = graph[row][graph[row] >= 0]
        before, after = -np.sort(-values[listed]), values[found[row][found[row] >= 0]]
        assert len(after) >= len(before)
        assert (after[: len(before)] >= before).all()
        assert row not in found[row]


def test_join_in_any_cuts_and_threads() -> None:
    num_rows = 5000
    codes = make_codes(num_rows, 24, groups=200)
    graph = (random_graph(num_rows, 40, 1), NOWHERE)
    whole, _ = partitions.join_neighbors(codes, graph, 5, 8, 30, 0, num_rows, 3)
    for start, stop in ((0, 1024), (1024, 4096), (4096, num_rows)):
        part, _ = partitions.join_neighbors(codes, graph, 5, 8, 30, start, stop, 1)
        np.testing.assert_array_equal(part, whole[start:stop])
