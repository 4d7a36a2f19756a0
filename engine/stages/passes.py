"""Stages of the approximate KNN graph, mode ``partition``: passes, until the recall will do.

    cells_1 -> probes_1 -> order -> vertices -> near_1 -> join_1 -> check_1
    [cells_2 -> probes_2 -> sort_2 -> near_2 -> join_2 -> check_2] ...    as long as the last check says so
    knn: the last join's neighbours with their similarities

Vertices are numbered by the first pass's cells. A check compares a random sample of rows with exact search.
Legend: J neighbours that a join keeps, K of them or, where K is small, more.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.graph import cuda, knn, partitions
from engine.graph.cells import (
    ASSIGN_ROWS,
    LEADER_ROWS,
    Cells,
    Finder,
    count_groups,
    groups_to_search,
    load_cells,
    sort_by_cell,
)
from engine.graph.cells import train_cells as train_centroids
from engine.graph.codes import PANEL, code_width, encode
from engine.graph.similarity import listed_similarities, sort_neighbors
from engine.plan import CHUNK_ROWS, Cost
from engine.stages import knn as knn_stages
from engine.storage.context import TaskContext, hold, read_npy
from engine.storage.formats import NO_NEIGHBOR

VERSION = 4
TRAIN_ITERATIONS = 3
MOST_CELLS = 1 << 20
FOUR_PASSES_ROWS = 1 << 22  # beyond, a fourth pass would cost more time than ten million rows have
# Neighbours that a pass lists before they are joined, at least; ranks that lead on, and how far.
LISTED = 64
NEAR, FAR = 10, 16
# Products of codes per second on two cores, in multiply-adds, and what is not a product per row, for projections.
RATE = 1.5e11


def listed_neighbors(k: int) -> int:
    """Neighbours that a pass lists per row: joins fill up to twice as many, even among equal rows."""
    return LISTED if k <= 2 * LISTED else k


def joined_neighbors(k: int) -> int:
    """Neighbours that a join keeps per row: a small K needs spare ones, as codes order near ones only roughly."""
    return max(k, LISTED)


def compared_cells(num_cells: int, probes: int) -> float:
    """Centroids and leaders that a row is compared with, on average, for projections; groups fill whole panels."""
    groups = count_groups(num_cells)
    return groups + groups_to_search(probes, groups) * (num_cells / groups + PANEL / 2)


def cells_cost(num_cells: int, dim: int, rows_per_cell: int, num_rows: int) -> Cost:
    sample = min(num_cells * rows_per_cell, num_rows)
    return Cost(
        fixed_bytes=sample * (2 * code_width(dim) + 32) + num_cells * dim * 22,
        disk_bytes=num_cells * dim,
        seconds=2.5 * TRAIN_ITERATIONS * sample * compared_cells(num_cells, 1) * dim / RATE,
        kind="codes",
    )


def train_cells(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Train one partition's ``Cells`` on a random sample of rows: ``centroids``, ``leaders``, ``offsets``."""
    features_ND = task.array("features", "features")
    num_cells, number = task.params["num_cells"], task.params["pass"]
    wanted = min(len(features_ND), num_cells * task.params["train_rows_per_cell"])
    rng = np.random.default_rng([task.params["seed"], 3, number])
    rows = np.sort(rng.choice(len(features_ND), wanted, replace=False))
    sample_SW = np.concatenate([
        encode(features_ND[rows[begin : begin + CHUNK_ROWS]]) for begin in range(0, wanted, CHUNK_ROWS)
    ])  # fmt: skip
    cells = train_centroids(sample_SW, num_cells, TRAIN_ITERATIONS, number, lambda cells: _load(cells, task))
    for name, array in cells._asdict().items():
        task.write_npy(name, array)
    return {"num_cells": len(cells.centroids), "num_groups": len(cells.leaders), "sample_rows": wanted}


def probes_cost(num_rows: int, dim: int, num_cells: int, num_probes: int) -> Cost:
    return Cost(
        fixed_bytes=num_cells * code_width(dim) * 2,
        bytes_per_thread=LEADER_ROWS * 4 * count_groups(num_cells)
        + ASSIGN_ROWS * 16 * groups_to_search(num_probes, count_groups(num_cells)),
        bytes_per_row=num_probes * 8 + dim * 6 + code_width(dim),
        disk_bytes=num_rows * num_probes * 4,
        seconds=1.5 * num_rows * compared_cells(num_cells, num_probes) * dim / RATE,
        kind="codes",
    )


def probe_cells(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the nearest cells of every row, ``probes`` (N, P) int32, nearest first."""
    key = ("cell finder", task.call.inputs["cells"], task.call.device, task.threads)
    find = hold(key, lambda: _load(Cells(*(np.array(read_npy(task.input("cells"), n)) for n in Cells._fields)), task))
    task.write_rows("probes", find(encode(task.array("features", "features")[start:stop]), task.params["num_probes"]),
                    np.int32)  # fmt: skip
    return {}


def _load(cells: Cells, task: TaskContext) -> Finder:
    """Make ready to find each row's nearest cells, on the task's device."""
    if task.call.device != "cpu":
        return cuda.load_cells(cells, task.call.device)
    return load_cells(cells, task.threads)


def order_cells(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Number the vertices cell by cell, as ``engine.stages.knn.order_cells``."""
    return knn_stages.write_order(task, *_cell_order(task))


def vertices_cost(num_rows: int, dim: int, stored: int) -> Cost:
    width = code_width(dim)
    return Cost(bytes_per_row=dim * (2 * stored + 4) + width, disk_bytes=num_rows * (dim * stored + width),
                seconds=num_rows / 1.6e5)  # fmt: skip


def order_features(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Copy the features into vertex order, ``features``, and write their ``codes`` (N, W) int8."""
    features_ND = task.array("ingest", "features")
    ordered_nD = features_ND[read_npy(task.input("order"), "row_of_vertex")[start:stop]]
    task.write_rows("features", ordered_nD, features_ND.dtype)
    task.write_rows("codes", encode(ordered_nD), np.int8)
    return {}


def sort_cost(num_rows: int, dim: int) -> Cost:
    width = code_width(dim)
    return Cost(fixed_bytes=num_rows * 12, bytes_per_row=width, disk_bytes=num_rows * width, seconds=num_rows / 1e6)


def sort_codes(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Copy the ``codes`` into the order of this pass's cells: near reads each cell many times, then in one piece."""
    task.write_rows("codes", task.array("vertices", "codes")[_cell_order(task)[0][start:stop]], np.int8)
    return {}


def near_cost(num_rows: int, dim: int, num_cells: int, num_probes: int, listed: int) -> Cost:
    compared = 1.6 * num_probes * num_rows / num_cells
    return Cost(
        fixed_bytes=num_rows * (4 + 4 * num_probes),
        bytes_per_thread=_SEARCH_BYTES,
        bytes_per_row=listed * 8 + 16,
        disk_bytes=num_rows * listed * 4,
        seconds=num_rows * (compared * dim / RATE + (4e-6 + compared * 2e-9)),
    )


_SEARCH_BYTES = partitions.SEARCH_CANDIDATES * 2 + 48 * (partitions.STRETCH_ROWS + partitions.LINK_ROWS) * 8


def search_cells(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the nearest rows in the probed cells, ``neighbors`` (N, M) int32, in the order of this pass's cells.

    From the second pass on they are the nearest of those and of the neighbours known before.
    """
    order_N, offsets, probes_NP = _partition(task)
    known, size = None, listed_neighbors(task.params["k"])
    if "joined" in task.call.inputs:
        known = task.array("joined", "neighbors"), task.array("joined", "products")
        size = known[0].shape[1]
    found = partitions.probe_neighbors(
        task.array("sorted", "codes"), order_N, offsets, probes_NP, start, stop, size, task.threads, known
    )
    task.write_rows("neighbors", found, np.int32)
    return {}


def _partition(task: TaskContext) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A pass's vertices in cell order, where cells begin, and every vertex's probes."""

    def load() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        probes_NP = task.array("probes", "probes")
        if task.params["pass"] == 1:  # these were found in row order, and their cells number the vertices
            probes_NP = probes_NP[read_npy(task.input("order"), "row_of_vertex")]
            order_N = np.arange(len(probes_NP), dtype=np.int32)
            return order_N, np.array(read_npy(task.input("order"), "cell_offsets")), probes_NP
        return *_cell_order(task), probes_NP

    return hold(("partition", task.call.folder), load)


def _cell_order(task: TaskContext) -> tuple[np.ndarray, np.ndarray]:
    """The probed rows in the order of their nearest cells, and where cells begin; near and join both ask for it."""

    def load() -> tuple[np.ndarray, np.ndarray]:
        probes_NP = task.array("probes", "probes")
        return sort_by_cell(np.ascontiguousarray(probes_NP[:, 0]), int(probes_NP.max()) + 1)

    return hold(("cell order", task.call.inputs["probes"]), load)


def join_cost(num_rows: int, dim: int, k: int) -> Cost:
    tile = 2 * partitions.JOIN_CANDIDATES * (code_width(dim) + 4 * partitions.JOINED_ROWS + 32)
    return Cost(
        fixed_bytes=num_rows * 12,
        bytes_per_thread=tile,
        bytes_per_row=joined_neighbors(k) * 12,
        disk_bytes=num_rows * joined_neighbors(k) * 6,
        seconds=num_rows * 8e-6,
    )


def join(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the nearest of the neighbours and their neighbours: ``neighbors`` (N, J) int32, nearest first, and the
    ``products`` (N, J) int16 of their codes, which the next pass goes on from."""
    places_N = np.empty(0, np.int32)
    if task.params["pass"] > 1:
        places_N = hold(("places", task.call.folder), lambda: _places(task))
    graph, codes_NW = (task.array("near", "neighbors"), places_N), task.array("vertices", "codes")
    size = joined_neighbors(task.params["k"])
    found, products = partitions.join_neighbors(codes_NW, graph, NEAR, FAR, size, start, stop, task.threads)
    task.write_rows("neighbors", found, np.int32)
    task.write_rows("products", products, np.int16)
    return {}


def _places(task: TaskContext) -> np.ndarray:
    order_N = _cell_order(task)[0]
    places_N = np.empty_like(order_N)
    places_N[order_N] = np.arange(len(order_N), dtype=order_N.dtype)
    return places_N


def check_cost(samples: int, k: int) -> Cost:
    return Cost(fixed_bytes=samples * joined_neighbors(k) * 40, disk_bytes=4096, seconds=0.1)


def check_recall(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Tell in the record's facts whether the joined graph's recall is ``enough``."""
    rows, exact_SK = read_npy(task.input("truth"), "rows"), read_npy(task.input("truth"), "similarities")
    neighbors_SJ = task.array("joined", "neighbors")[rows]
    found_SJ = listed_similarities(task.array("vertices", "features"), rows, neighbors_SJ, threads=task.threads)
    found_SJ = -np.sort(-found_SJ, axis=1)
    recall, recall_above = knn.measure_recall(found_SJ, exact_SK, knn_stages.RECALL_FLOOR)
    return {"recall": recall, "recall_above_floor": recall_above, "enough": recall_above >= task.params["recall"]}


def similarities_cost(num_rows: int, dim: int, k: int) -> Cost:
    return Cost(bytes_per_row=joined_neighbors(k) * 20, disk_bytes=num_rows * k * 8, seconds=num_rows * k * 9e-8)


def write_similarities(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``neighbors`` (N, K) int32 and ``similarities`` (N, K) float32, ordered by (-similarity, id)."""
    neighbors_nJ = np.array(task.array("joined", "neighbors")[start:stop])
    usable_N = hold(("usable", task.call.folder), lambda: knn_stages.vertex_usable(task))
    if usable_N is not None:
        neighbors_nJ[~usable_N[neighbors_nJ] | ~usable_N[start:stop, None]] = NO_NEIGHBOR
    rows_n, features_ND = np.arange(start, stop), task.array("vertices", "features")
    similarities_nJ = listed_similarities(features_ND, rows_n, neighbors_nJ, threads=task.threads)
    sort_neighbors(neighbors_nJ, similarities_nJ, threads=task.threads)
    k = task.params["k"]
    task.write_rows("neighbors", neighbors_nJ[:, :k], np.int32)
    task.write_rows("similarities", similarities_nJ[:, :k], np.float32)
    return {}
