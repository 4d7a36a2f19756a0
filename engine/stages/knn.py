"""Stages of the KNN graph: exact or over cells, or imported; and its recall against exact search.

With cells, vertices are numbered in cell order from here on (``row_of_vertex`` maps back), so that neighbours lie close
in memory for every later stage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.graph import cuda, knn
from engine.graph.cells import sort_by_cell
from engine.graph.similarity import listed_similarities
from engine.ingest import files_at, refuse_changed
from engine.plan import Cost
from engine.stages.ingest import usable_rows
from engine.storage.context import TaskContext, hold, read_npy
from engine.storage.formats import NO_NEIGHBOR, NO_SIMILARITY, normalise_knn_block, open_knn_graph

VERSION = 3
RECALL_FLOOR = 0.5
# Multiply-adds per second of one small machine (two cores, float32), for projected times only.
FLOPS = 9e10
PROBED_ROWS = 64


def quantiser_cost(num_cells: int, dim: int, rows_per_cell: int) -> Cost:
    sample = num_cells * rows_per_cell * dim
    return Cost(fixed_bytes=sample * 12 + num_cells * dim * 16, disk_bytes=num_cells * dim * 4,
                seconds=10 * 2.0 * sample * num_cells / (FLOPS / 2), kind="floats")  # fmt: skip


def train_quantiser(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Train the centroids on a random sample of distinct rows (bulk duplicates would draw most of them)."""
    features_ND = task.array("ingest", "features")
    num_cells, dim = task.params["num_cells"], features_ND.shape[1]
    wanted = min(len(features_ND), num_cells * task.params["train_rows_per_cell"])
    rows = np.sort(np.random.default_rng([task.params["seed"], 1]).choice(len(features_ND), wanted, replace=False))
    sample_SD = np.ascontiguousarray(features_ND[rows])
    distinct = np.unique(sample_SD.view(np.dtype((np.void, sample_SD.itemsize * dim))), return_index=True)[1]
    sample_SD = sample_SD[np.sort(distinct)].astype(np.float32)
    num_cells = min(num_cells, len(sample_SD))
    task.write_npy("centroids", knn.train_cells(sample_SD, num_cells, task.params["seed"]))
    return {"num_cells": num_cells, "sample_rows": wanted, "dim": dim}


def assign_cost(num_rows: int, dim: int, num_cells: int) -> Cost:
    return Cost(bytes_per_thread=knn.EXACT_TILE_ROWS * (num_cells + dim) * 8, bytes_per_row=8, disk_bytes=num_rows * 4,
                seconds=2.0 * num_rows * num_cells * dim / FLOPS, kind="floats")  # fmt: skip


def assign(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the nearest ``cell`` of every row."""
    centroids_CD = hold(("centroids", task.call.inputs["quantiser"]), lambda: _centroids(task))
    cells = knn.assign_cells(task.array("ingest", "features"), centroids_CD, start, stop, task.threads)
    task.write_rows("cell", cells, np.int32)
    return {}


def order_cost(num_rows: int) -> Cost:
    return Cost(fixed_bytes=num_rows * 24 + (4 << 20), disk_bytes=num_rows * 4, seconds=num_rows / 2e7)


def order_cells(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Number the vertices cell by cell, and by row within a cell: ``row_of_vertex`` (N,), ``cell_offsets`` (C + 1,)."""
    return write_order(task, *sort_by_cell(np.asarray(task.array("assign", "cell")), task.params["num_cells"]))


def write_order(task: TaskContext, row_of_vertex: np.ndarray, offsets: np.ndarray) -> dict[str, Any]:
    """Write the rows in the order of their cells, and where the cells begin, as every later stage reads them."""
    task.write_npy("row_of_vertex", row_of_vertex)
    task.write_npy("cell_offsets", offsets)
    sizes = np.diff(offsets)
    return {"largest_cell": int(sizes.max()), "empty_cells": int((sizes == 0).sum())}


def vertices_cost(num_rows: int, dim: int, stored: int) -> Cost:
    return Cost(bytes_per_row=2 * dim * stored, disk_bytes=num_rows * dim * stored, seconds=num_rows / 4e5)


def order_features(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Copy the features into vertex order."""
    features_ND = task.array("ingest", "features")
    rows = read_npy(task.input("order"), "row_of_vertex")[start:stop]
    task.write_rows("features", features_ND[rows], features_ND.dtype)
    return {}


def search_cost(num_rows: int, dim: int, k: int, searched_rows: float) -> Cost:
    tile = (
        knn.CELL_TILE_ROWS * (k * 16 + dim * 8 + PROBED_ROWS * 16) + knn.EXACT_TILE_ROWS * knn.DATABASE_BLOCK_ROWS * 4
    )
    return Cost(
        bytes_per_thread=tile + knn.DATABASE_BLOCK_ROWS * dim * 4,
        bytes_per_row=k * 24,
        disk_bytes=num_rows * k * 8,
        seconds=2.0 * num_rows * searched_rows * dim / FLOPS,
        kind="floats",
    )


def search(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``neighbors`` (N, K) int32 and ``similarities`` (N, K) float32, ordered by (-similarity, id)."""
    features_ND = task.array("features", "features")
    usable_N = hold(("usable", task.call.folder), lambda: vertex_usable(task))
    k = task.params["k"]
    if "order" in task.call.inputs:
        offsets = np.array(read_npy(task.input("order"), "cell_offsets"))
        filled = np.flatnonzero(np.diff(offsets))
        offsets = offsets[np.append(filled, filled[-1] + 1)]
        centroids_CD = hold(("centroids", task.call.inputs["quantiser"]), lambda: _centroids(task))[filled]
        probes = task.params["num_probes"]
        found = knn.cell_neighbors(
            features_ND, centroids_CD, offsets, start, stop, k, probes, usable_N, task.threads
        )  # fmt: skip
    elif task.call.device != "cpu":
        key = ("on device", task.call.inputs["features"], task.call.device)
        held_ND = hold(key, lambda: cuda.to_device(features_ND, task.call.device))
        found = cuda.exact_neighbors(features_ND, held_ND, start, stop, k, usable_N, task.threads)
    else:
        found = knn.exact_neighbors(features_ND, start, stop, k, usable_N, task.threads)
    task.write_rows("neighbors", found[0], np.int32)
    task.write_rows("similarities", found[1], np.float32)
    return {}


def import_cost(num_rows: int, dim: int, k: int) -> Cost:
    return Cost(bytes_per_row=k * 60 + dim * 8, disk_bytes=num_rows * k * 8, seconds=num_rows * k / 1e7)


def import_graph(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Validate and normalise a graph made elsewhere; similarities are computed where it has none, else spot-checked."""
    features_ND = task.array("features", "features")
    path = task.where["path"]
    version = task.where["version"]
    graph = hold(("graph", path, version), lambda: open_knn_graph(path, len(features_ND)))
    ids, similarities = graph.read(start, stop)
    refuse_changed(Path(path), files_at(Path(path)), version)
    if similarities is None:
        similarities = listed_similarities(features_ND, np.arange(start, stop), ids, threads=task.threads)
    else:
        _spot_check(features_ND, ids, similarities, start, path)
    neighbors_NK, similarities_NK = normalise_knn_block(start, ids, similarities, len(features_ND))
    width = task.params["k"]
    if neighbors_NK.shape[1] < width:
        missing = ((0, 0), (0, width - neighbors_NK.shape[1]))
        neighbors_NK = np.pad(neighbors_NK, missing, constant_values=NO_NEIGHBOR)
        similarities_NK = np.pad(similarities_NK, missing, constant_values=NO_SIMILARITY)
    task.write_rows("neighbors", neighbors_NK[:, :width], np.int32)
    task.write_rows("similarities", similarities_NK[:, :width], np.float32)
    return {}


def truth_cost(num_rows: int, dim: int, k: int, samples: int) -> Cost:
    return Cost(
        fixed_bytes=samples * (k * 40 + dim * 4),
        bytes_per_thread=knn.DATABASE_BLOCK_ROWS * (knn.EXACT_TILE_ROWS + dim) * 4,
        disk_bytes=samples * k * 4,
        seconds=2.0 * samples * num_rows * dim / FLOPS,
        kind="floats",
    )


def find_truth(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Search a random sample of vertices exactly, to measure recall: ``rows`` (S,) and ``similarities`` (S, K)."""
    features_ND = task.array("features", "features")
    samples = min(task.params["samples"], len(features_ND))
    rng = np.random.default_rng([task.params["seed"], 2])
    rows = np.sort(rng.choice(len(features_ND), samples, replace=False))
    exact = knn.neighbors_of_rows(features_ND, rows, task.params["k"], vertex_usable(task), task.threads)
    task.write_npy("rows", rows)
    task.write_npy("similarities", exact[1])
    return {"samples": samples}


def recall_cost(samples: int, k: int) -> Cost:
    return Cost(fixed_bytes=samples * k * 40, seconds=0.1)


def measure_recall(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Compare the graph with the exact neighbours of a sample; the result is in the record's facts."""
    rows, exact_SK = read_npy(task.input("truth"), "rows"), read_npy(task.input("truth"), "similarities")
    recall, recall_above = knn.measure_recall(task.array("knn", "similarities")[rows], exact_SK, RECALL_FLOOR)
    return {
        "k": task.params["k"], "samples": len(rows), "recall": recall, "recall_above_floor": recall_above,
        "floor": RECALL_FLOOR, "neighbors_above_floor": int((exact_SK >= RECALL_FLOOR).sum()),
    }  # fmt: skip


def vertex_usable(task: TaskContext) -> np.ndarray | None:
    """``usable_rows`` in vertex order."""
    usable = usable_rows(task.input("ingest"), len(task.array("features", "features")))
    if usable is None or "order" not in task.call.inputs:
        return usable
    return np.ascontiguousarray(usable[read_npy(task.input("order"), "row_of_vertex")])


def _centroids(task: TaskContext) -> np.ndarray:
    return np.array(read_npy(task.input("quantiser"), "centroids"))


def _spot_check(features_ND: np.ndarray, ids: np.ndarray, similarities: np.ndarray, start: int, path: str) -> None:
    """Refuse a graph whose similarities are not these features' cosines (first rows of each block)."""
    few = slice(0, 64)
    valid = (ids[few] >= 0) & (ids[few] < len(features_ND))
    computed = listed_similarities(features_ND, np.arange(start, start + len(ids[few])), ids[few])
    off = valid & (np.abs(computed - similarities[few]) > 0.02)
    if off.mean() > 0.01:
        row, column = np.argwhere(off)[0]
        raise DataError(
            f"{path}: row {start + row:,}, neighbour {ids[row, column]:,}: similarity {similarities[row, column]:.4f} "
            f"in the graph, {computed[row, column]:.4f} from the features; the graph belongs to other features"
        )
