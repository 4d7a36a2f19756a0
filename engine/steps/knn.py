"""Steps of the KNN graph: exact or over cells, or imported; and its recall against exact search.

If there are cells, vertices are numbered in cell order from here on (``row_of_vertex`` maps back), so that neighbours
lie close in memory for every later step.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.graph import cuda, knn
from engine.graph.cells import sort_by_cell
from engine.graph.faiss_kmeans import spherical_kmeans
from engine.graph.similarity import listed_similarities
from engine.random_streams import CENTROID_ROWS, RECALL_ROWS, stream
from engine.runs.step import RowStep, Step, Task, where
from engine.stages import Cost
from engine.steps.ingest import Rows, Vectors, usable_rows
from engine.steps.source import files_at, refuse_changed
from engine.storage.context import hold, table_parts
from engine.storage.formats.knn_graph import normalise_knn_block, open_knn_graph
from engine.storage.tables import read_columns
from engine.units import CHUNK_ROWS, NO_NEIGHBOR, NO_SIMILARITY

VERSION = 3  # of every step here
RECALL_FLOOR = 0.5
# Multiply-adds per second of one small machine (two cores, float32), for projected times only.
FLOPS = 9e10
GPU_SPEED = 220.0  # exact search on one H100, against two cores: benchmarks/records/gpu.json
PROBED_ROWS = 64


@dataclass(frozen=True)
class OrderFacts:
    """Number and sizes of the cells."""

    largest_cell: int
    empty_cells: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Order(Step[OrderFacts]):
    """The numbering of the vertices, cell by cell: ``row_of_vertex`` (N,) int32, ``cell_offsets`` (C + 1,)."""

    title = "order"
    facts = OrderFacts
    num_rows: int

    def cost(self) -> Cost:
        """Project the order and its sort."""
        return Cost(
            fixed_bytes=self.num_rows * 24 + (4 << 20), disk_bytes=self.num_rows * 4, seconds=self.num_rows / 2e7
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Knn(RowStep[Any]):
    """A KNN graph: ``neighbors`` (N, K) int32 and ``similarities`` (N, K) float32, by (-similarity, id).

    ``features``: the vectors searched, by vertex. ``rows``: the source's rows; zero vectors among them are left out.
    """

    title = "knn"
    features: Vectors[Any]
    rows: Rows
    k: int
    order: Order | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Quantiser(Step[Any]):
    """Centroids of the cells of mode ``ivf``: ``centroids`` (C, D) float32."""

    kind, version, title = "knn.quantiser", VERSION, "quantiser"
    vectors: Vectors[Any]
    num_cells: int
    train_rows_per_cell: int
    seed: int

    def cost(self) -> Cost:
        """Project the sample, held as float32, and ten passes over it."""
        dim = self.vectors.dim
        sample = self.num_cells * self.train_rows_per_cell * dim
        return Cost(
            fixed_bytes=sample * 12 + self.num_cells * dim * 16,
            disk_bytes=self.num_cells * dim * 4,
            seconds=10 * 2.0 * sample * self.num_cells / (FLOPS / 2),
            kind="floats",
        )

    def run(self, task: Task, start: int, stop: int) -> dict[str, Any]:
        """Train the centroids on distinct rows of a random sample, because duplicates would attract most of them."""
        features_ND = task.array(self.vectors, "features")
        dim = features_ND.shape[1]
        wanted = min(len(features_ND), self.num_cells * self.train_rows_per_cell)
        rows = np.sort(stream(self.seed, CENTROID_ROWS).choice(len(features_ND), wanted, replace=False))
        sample_SD = np.ascontiguousarray(features_ND[rows])
        distinct = np.unique(sample_SD.view(np.dtype((np.void, sample_SD.itemsize * dim))), return_index=True)[1]
        sample_SD = sample_SD[np.sort(distinct)].astype(np.float32)
        num_cells = min(self.num_cells, len(sample_SD))
        task.write_npy("centroids", spherical_kmeans(sample_SD, num_cells, self.seed))
        return {"num_cells": num_cells, "sample_rows": wanted, "dim": dim}


@dataclass(frozen=True, kw_only=True, eq=False)
class Assign(RowStep[None]):
    """The nearest ``cell`` of every row, (N,) int32."""

    kind, version, title = "knn.assign", VERSION, "assign"
    vectors: Vectors[Any]
    quantiser: Quantiser

    def cost(self) -> Cost:
        """Project the comparison of every row with every centroid."""
        n, dim, num_cells = self.num_rows, self.vectors.dim, self.quantiser.num_cells
        return Cost(
            bytes_per_thread=knn.EXACT_TILE_ROWS * (num_cells + dim) * 8,
            bytes_per_row=8,
            disk_bytes=n * 4,
            seconds=2.0 * n * num_cells * dim / FLOPS,
            kind="floats",
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Assign these rows."""
        centroids_CD = _centroids(task, self.quantiser)
        cells = knn.assign_cells(task.array(self.vectors, "features"), centroids_CD, start, stop, task.threads)
        task.write_rows("cell", cells, np.int32)


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderCells(Order):
    """Vertices by cell, and by row within a cell."""

    kind, version = "knn.order", VERSION
    assign: Assign
    num_cells: int

    def run(self, task: Task, start: int, stop: int) -> OrderFacts:
        """Sort the rows by their cells."""
        return write_order(task, *sort_by_cell(np.asarray(task.array(self.assign, "cell")), self.num_cells))


def write_order(task: Task, row_of_vertex: np.ndarray, offsets: np.ndarray) -> OrderFacts:
    """Write the rows in the order of their cells, and where the cells begin, as every later step reads them."""
    task.write_npy("row_of_vertex", row_of_vertex)
    task.write_npy("cell_offsets", offsets)
    sizes = np.diff(offsets)
    return OrderFacts(int(sizes.max()), int((sizes == 0).sum()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Vertices(Vectors[None]):
    """The vectors in vertex order: ``features`` (N, D). ``stored``: bytes of one value."""

    kind, version, title = "knn.vertices", VERSION, "vertices"
    vectors: Vectors[Any]
    order: Order
    stored: int = where()

    def cost(self) -> Cost:
        """Project a copy of the vectors."""
        return Cost(
            bytes_per_row=2 * self.dim * self.stored,
            disk_bytes=self.num_rows * self.dim * self.stored,
            seconds=self.num_rows / 4e5,
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Copy these vertices' vectors."""
        features_ND = task.array(self.vectors, "features")
        rows = task.npy(self.order, "row_of_vertex")[start:stop]
        task.write_rows("features", features_ND[rows], features_ND.dtype)


def search_cost(num_rows: int, dim: int, k: int, searched_rows: float, gpu_speed: float = 0.0) -> Cost:
    """Project the comparison of every row with so many others."""
    tile = (
        knn.CELL_TILE_ROWS * (k * 16 + dim * 8 + PROBED_ROWS * 16) + knn.EXACT_TILE_ROWS * knn.DATABASE_BLOCK_ROWS * 4
    )
    return Cost(
        bytes_per_thread=tile + knn.DATABASE_BLOCK_ROWS * dim * 4,
        bytes_per_row=k * 24,
        disk_bytes=num_rows * k * 8,
        seconds=2.0 * num_rows * searched_rows * dim / FLOPS,
        kind="floats",
        gpu_speed=gpu_speed,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactNeighbors(Knn):
    """Every vertex is compared with every other, on a GPU if the worker has one."""

    kind, version = "knn.exact", VERSION

    def cost(self) -> Cost:
        """Project all pairs, twice."""
        return search_cost(self.num_rows, self.features.dim, self.k, self.num_rows, GPU_SPEED)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Search these vertices' neighbours."""
        features_ND = task.array(self.features, "features")
        usable_N = hold(("usable", task.call.folder), lambda: vertex_usable(task, self.rows, None))
        if task.call.device != "cpu":
            key = ("on device", str(task.input(self.features)), task.call.device)
            held_ND = hold(key, lambda: cuda.to_device(features_ND, task.call.device))
            found = cuda.exact_neighbors(features_ND, held_ND, start, stop, self.k, usable_N, task.threads)
        else:
            found = knn.exact_neighbors(features_ND, start, stop, self.k, usable_N, task.threads)
        _write_graph(task, *found)


@dataclass(frozen=True, kw_only=True, eq=False)
class CellNeighbors(Knn):
    """Mode ``ivf``: every vertex is compared with the vertices of its nearest cells."""

    kind, version = "knn.cells", VERSION
    order: Order
    quantiser: Quantiser
    num_probes: int

    def cost(self) -> Cost:
        """Project the vertices of the probed cells."""
        n = self.num_rows
        return search_cost(n, self.features.dim, self.k, self.num_probes * n / self.quantiser.num_cells)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Search these vertices' neighbours."""
        features_ND = task.array(self.features, "features")
        usable_N = hold(("usable", task.call.folder), lambda: vertex_usable(task, self.rows, self.order))
        offsets = np.array(task.npy(self.order, "cell_offsets"))
        filled = np.flatnonzero(np.diff(offsets))
        offsets = offsets[np.append(filled, filled[-1] + 1)]
        centroids_CD = _centroids(task, self.quantiser)[filled]
        found = knn.cell_neighbors(
            features_ND, centroids_CD, offsets, start, stop, self.k, self.num_probes, usable_N, task.threads
        )
        _write_graph(task, *found)


@dataclass(frozen=True, kw_only=True, eq=False)
class ImportedGraph(Knn):
    """A graph made elsewhere, in the file or folder ``path``. ``width``: the number of neighbours that it lists."""

    kind, version = "knn.import", VERSION
    digest: str
    width: int = where()
    path: str = where()
    path_version: str = where("")

    def cost(self) -> Cost:
        """Project a block of the graph's lists."""
        n, k = self.num_rows, self.width
        return Cost(bytes_per_row=k * 60 + self.features.dim * 8, disk_bytes=n * k * 8, seconds=n * k / 1e7)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Validate and normalise these rows; compute similarities if the graph has none, else spot-check them."""
        features_ND = task.array(self.features, "features")
        path, version = Path(self.path), self.path_version
        graph = hold(("graph", self.path, version), lambda: open_knn_graph(path, len(features_ND)))
        ids, similarities = graph.read(start, stop)
        refuse_changed(path, files_at(path), version)
        if similarities is None:
            similarities = listed_similarities(features_ND, np.arange(start, stop), ids, threads=task.threads)
        else:
            _spot_check(features_ND, ids, similarities, start, self.path)
        neighbors_NK, similarities_NK = normalise_knn_block(start, ids, similarities, len(features_ND))
        if neighbors_NK.shape[1] < self.k:
            missing = ((0, 0), (0, self.k - neighbors_NK.shape[1]))
            neighbors_NK = np.pad(neighbors_NK, missing, constant_values=NO_NEIGHBOR)
            similarities_NK = np.pad(similarities_NK, missing, constant_values=NO_SIMILARITY)
        _write_graph(task, neighbors_NK[:, : self.k], similarities_NK[:, : self.k])


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled(RowStep[None]):
    """The nearest vertices, among a task's rows, of a random sample of vertices: the table ``nearest``.

    Columns ``id`` and ``similarity`` hold K for each sampled row, one row after the other.
    """

    kind, version, title = "knn.sampled", 1, "sampled"
    features: Vectors[Any]
    rows: Rows
    order: Order | None
    k: int
    samples: int
    seed: int

    def cost(self) -> Cost:
        """Project the comparison of the sample with all rows, and each task's lists."""
        dim, samples = self.features.dim, min(self.samples, self.num_rows)
        return Cost(
            fixed_bytes=samples * (self.k * 40 + dim * 4) + self.num_rows,
            bytes_per_thread=knn.DATABASE_BLOCK_ROWS * (knn.EXACT_TILE_ROWS + dim) * 4,
            disk_bytes=samples * self.k * 8 * min(-(-self.num_rows // CHUNK_ROWS), 64),
            seconds=2.0 * samples * self.features.num_rows * dim / FLOPS,
            kind="floats",
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Search these rows for neighbours of the sample."""
        features_ND = task.array(self.features, "features")
        usable_N = hold(("usable", task.call.folder), lambda: vertex_usable(task, self.rows, self.order))
        found = knn.neighbors_of_rows(
            features_ND, self.drawn(), self.k, usable_N, task.threads, span=(start, min(stop, self.num_rows))
        )
        task.write_table("nearest", {"id": found[0].ravel(), "similarity": found[1].ravel()})

    def drawn(self) -> np.ndarray:
        """Draw the sample: vertices (S,), ascending."""
        wanted = min(self.samples, self.num_rows)
        return np.sort(stream(self.seed, RECALL_ROWS).choice(self.num_rows, wanted, replace=False))


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth(Step[Any]):
    """Exact neighbours of a random sample of vertices, to measure recall: ``rows`` (S,), ``similarities`` (S, K)."""

    kind, version, title = "knn.truth", VERSION, "truth"
    sampled: Sampled

    @property
    def samples(self) -> int:
        return self.sampled.samples

    def cost(self) -> Cost:
        """Project the lists of all tasks."""
        samples, k = self.samples, self.sampled.k
        return Cost(fixed_bytes=samples * k * 60, disk_bytes=samples * k * 4, seconds=0.1)

    def run(self, task: Task, start: int, stop: int) -> dict[str, Any]:
        """Join what the tasks found."""
        rows, k = self.sampled.drawn(), self.sampled.k
        found: tuple[np.ndarray, np.ndarray] | None = None
        for path in table_parts(task.input(self.sampled), "nearest"):
            ids, similarities = (column.reshape(len(rows), k) for column in read_columns(path, ("id", "similarity")))
            found = knn.nearest_of([found, (ids, similarities)] if found else [(ids, similarities)], k)
        assert found is not None
        task.write_npy("rows", rows)
        task.write_npy("similarities", found[1])
        return {"samples": len(rows)}

    def read(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Read the sample's rows (S,) and their exact similarities (S, K), each row descending."""
        return task.npy(self, "rows"), task.npy(self, "similarities")

    def lists_cost(self, width: int, disk_bytes: int = 0) -> Cost:
        """Project the comparison of the sample with ``width`` found neighbours of each row."""
        return Cost(fixed_bytes=self.samples * width * 40, disk_bytes=disk_bytes, seconds=0.1)


@dataclass(frozen=True)
class RecallFacts:
    """Share of a sample's true neighbours that the graph lists, and that share among cosines of at least ``floor``."""

    k: int
    samples: int
    recall: float
    recall_above_floor: float
    floor: float
    neighbors_above_floor: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Recall(Step[RecallFacts]):
    """Measures the graph's recall against the exact neighbours of a sample."""

    kind, version, title = "knn.recall", VERSION, "recall"
    facts = RecallFacts
    knn: Knn
    truth: Truth

    def cost(self) -> Cost:
        """Project the sample's lists."""
        return self.truth.lists_cost(self.knn.k)

    def run(self, task: Task, start: int, stop: int) -> RecallFacts:
        """Measure the recall."""
        rows, exact_SK = self.truth.read(task)
        found = knn.measure_recall(task.array(self.knn, "similarities")[rows], exact_SK, RECALL_FLOOR)
        return RecallFacts(self.knn.k, len(rows), *found, RECALL_FLOOR, int((exact_SK >= RECALL_FLOOR).sum()))


def vertex_usable(task: Task, rows: Rows, order: Order | None) -> np.ndarray | None:
    """Tell which vertices have a direction, bool (N,), or ``None`` if all have."""
    usable = usable_rows(task.input(rows), rows.num_rows)
    return usable if usable is None or order is None else np.ascontiguousarray(usable[vertex_rows(task, order)])


def vertex_rows(task: Task, order: Order) -> np.ndarray:
    """Map the source row of each vertex: (N,) int32."""
    return task.npy(order, "row_of_vertex")


def by_vertex(task: Task, values_N: np.ndarray, order: Order | None) -> np.ndarray:
    """Put values by source row in the order of vertices."""
    return values_N if order is None else values_N[vertex_rows(task, order)]


def _write_graph(task: Task, neighbors_nK: np.ndarray, similarities_nK: np.ndarray) -> None:
    task.write_rows("neighbors", neighbors_nK, np.int32)
    task.write_rows("similarities", similarities_nK, np.float32)


def _centroids(task: Task, quantiser: Quantiser) -> np.ndarray:
    folder = task.input(quantiser)
    return hold(("centroids", str(folder)), lambda: np.array(task.npy(quantiser, "centroids")))


def _spot_check(features_ND: np.ndarray, ids: np.ndarray, similarities: np.ndarray, start: int, path: str) -> None:
    """Refuse a graph whose similarities, in a block's first rows, are not the cosines of these vectors."""
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
