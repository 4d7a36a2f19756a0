"""Steps of the approximate KNN graph, mode ``partition``: passes, until the recall is high enough.

    cells_1 -> probes_1 -> order -> vertices -> near_1 -> join_1 -> check_1
    [cells_2 -> probes_2 -> sort_2 -> near_2 -> join_2 -> check_2] ...    as long as the last check says so
    knn: the last join's neighbours with their similarities

Vertices are numbered by the first pass's cells. A check compares a random sample of rows with exact search.
Legend: J neighbours that a join keeps, K of them or, where K is small, more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.graph import cuda, knn, probing
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
from engine.random_streams import PASS_ROWS, stream
from engine.runs.step import RowStep, Step, Task
from engine.stages import Cost
from engine.steps.ingest import Vectors
from engine.steps.knn import (
    RECALL_FLOOR,
    Knn,
    Order,
    OrderFacts,
    Truth,
    Vertices,
    vertex_rows,
    vertex_usable,
    write_order,
)
from engine.storage.context import hold
from engine.units import CHUNK_ROWS, NO_NEIGHBOR

VERSION = 4  # of every step here
TRAIN_ITERATIONS = 3
MOST_CELLS = 1 << 20
FOUR_PASSES_ROWS = 1 << 22  # for more rows a fourth pass would take too long
# A pass lists at least so many neighbours before the join; a join follows each row's first NEAR neighbours to their
# first FAR neighbours.
LISTED = 64
NEAR, FAR = 10, 16
# For projections: multiply-adds of codes per second on two cores, and seconds per row for all other work.
RATE = 1.5e11
_SEARCH_BYTES = probing.SEARCH_CANDIDATES * 2 + 48 * (probing.STRETCH_ROWS + probing.LINK_ROWS) * 8


def listed_neighbors(k: int) -> int:
    """Tell how many neighbours a pass lists per row: joins fill up to twice as many, even among equal rows."""
    return LISTED if k <= 2 * LISTED else k


def joined_neighbors(k: int) -> int:
    """Tell how many neighbours a join keeps per row: a small K needs spare ones, because codes order only roughly."""
    return max(k, LISTED)


def compared_cells(num_cells: int, probes: int) -> float:
    """Project how many centroids and leaders a row is compared with on average; groups fill whole panels."""
    groups = count_groups(num_cells)
    return groups + groups_to_search(probes, groups) * (num_cells / groups + PANEL / 2)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedCells(Step[Any]):
    """One pass's ``Cells``: ``centroids``, ``leaders``, ``offsets``. Passes count from 1."""

    kind, version, title = "passes.cells", VERSION, "cells"
    vectors: Vectors[Any]
    of_pass: int
    num_cells: int
    train_rows_per_cell: int
    seed: int

    @property
    def number(self) -> int:
        return self.of_pass

    def cost(self) -> Cost:
        """Project the sample's codes, and the iterations over them."""
        n, dim = self.vectors.num_rows, self.vectors.dim
        sample = min(self.num_cells * self.train_rows_per_cell, n)
        return Cost(
            fixed_bytes=sample * (2 * code_width(dim) + 32) + self.num_cells * dim * 22,
            disk_bytes=self.num_cells * dim,
            seconds=2.5 * TRAIN_ITERATIONS * sample * compared_cells(self.num_cells, 1) * dim / RATE,
            kind="codes",
        )

    def run(self, task: Task, start: int, stop: int) -> dict[str, Any]:
        """Train on a random sample of rows."""
        features_ND = task.array(self.vectors, "features")
        wanted = min(len(features_ND), self.num_cells * self.train_rows_per_cell)
        rng = stream(self.seed, PASS_ROWS, self.number)
        rows = np.sort(rng.choice(len(features_ND), wanted, replace=False))
        sample_SW = np.concatenate(
            [encode(features_ND[rows[begin : begin + CHUNK_ROWS]]) for begin in range(0, wanted, CHUNK_ROWS)]
        )
        cells = train_centroids(
            sample_SW, self.num_cells, TRAIN_ITERATIONS, self.number, lambda cells: _load(cells, task)
        )
        for name, array in cells._asdict().items():
            task.write_npy(name, array)
        return {"num_cells": len(cells.centroids), "num_groups": len(cells.leaders), "sample_rows": wanted}


@dataclass(frozen=True, kw_only=True, eq=False)
class Probes(RowStep[None]):
    """The nearest cells of every row or vertex, ``probes`` (N, P) int32, nearest first."""

    kind, version, title = "passes.probes", VERSION, "probes"
    vectors: Vectors[Any]
    cells: TrainedCells
    num_probes: int

    @property
    def number(self) -> int:
        return self.cells.number

    def cost(self) -> Cost:
        """Project the comparison with leaders, then with the centroids of the nearest groups."""
        n, dim, num_cells = self.num_rows, self.vectors.dim, self.cells.num_cells
        return Cost(
            fixed_bytes=num_cells * code_width(dim) * 2,
            bytes_per_thread=LEADER_ROWS * 4 * count_groups(num_cells)
            + ASSIGN_ROWS * 16 * groups_to_search(self.num_probes, count_groups(num_cells)),
            bytes_per_row=self.num_probes * 8 + dim * 6 + code_width(dim),
            disk_bytes=n * self.num_probes * 4,
            seconds=1.5 * n * compared_cells(num_cells, self.num_probes) * dim / RATE,
            kind="codes",
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Find these rows' cells."""
        key = ("cell finder", str(task.input(self.cells)), task.call.device, task.threads)
        find = hold(key, lambda: _load(Cells(*(np.array(task.npy(self.cells, name)) for name in Cells._fields)), task))
        codes_nW = encode(task.array(self.vectors, "features")[start:stop])
        task.write_rows("probes", find(codes_nW, self.num_probes), np.int32)


def _load(cells: Cells, task: Task) -> Finder:
    """Prepare the search for each row's nearest cells on the task's device."""
    if task.call.device != "cpu":
        return cuda.load_cells(cells, task.call.device)
    return load_cells(cells, task.threads)


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderProbed(Order):
    """Vertices by the first pass's nearest cell, and by row within a cell."""

    kind, version = "passes.order", VERSION
    probes: Probes

    def run(self, task: Task, start: int, stop: int) -> OrderFacts:
        """Sort the rows by their cells."""
        return write_order(task, *_cell_order(task, self.probes))


@dataclass(frozen=True, kw_only=True, eq=False)
class CodedVertices(Vertices):
    """The vectors in vertex order, ``features``, and their ``codes`` (N, W) int8."""

    kind, version = "passes.vertices", VERSION

    def cost(self) -> Cost:
        """Project a copy of the vectors, and their codes."""
        width = code_width(self.dim)
        return Cost(
            bytes_per_row=self.dim * (2 * self.stored + 4) + width,
            disk_bytes=self.num_rows * (self.dim * self.stored + width),
            seconds=self.num_rows / 1.6e5,
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Copy these vertices' vectors, and encode them."""
        features_ND = task.array(self.vectors, "features")
        ordered_nD = features_ND[vertex_rows(task, self.order)[start:stop]]
        task.write_rows("features", ordered_nD, features_ND.dtype)
        task.write_rows("codes", encode(ordered_nD), np.int8)


@dataclass(frozen=True, kw_only=True, eq=False)
class SortedCodes(RowStep[None]):
    """The ``codes`` in the order of a later pass's cells, because ``near`` reads each cell many times."""

    kind, version, title = "passes.sort", VERSION, "sort"
    vertices: CodedVertices
    probes: Probes

    @property
    def number(self) -> int:
        return self.probes.number

    def cost(self) -> Cost:
        """Project a copy of the codes."""
        width, n = code_width(self.vertices.dim), self.num_rows
        return Cost(fixed_bytes=n * 12, bytes_per_row=width, disk_bytes=n * width, seconds=n / 1e6)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Copy the codes of these places."""
        order_N = _cell_order(task, self.probes)[0]
        task.write_rows("codes", task.array(self.vertices, "codes")[order_N[start:stop]], np.int8)


@dataclass(frozen=True, kw_only=True, eq=False)
class Near(RowStep[None]):
    """The nearest rows in the probed cells, ``neighbors`` (N, M) int32, in the order of this pass's cells.

    ``coded`` holds the codes in that order. From the second pass on, the neighbours known before, ``joined``, compete
    with the rows of the probed cells. The first pass's cells number the vertices, by ``order``.
    """

    kind, version, title = "passes.near", VERSION, "near"
    coded: CodedVertices | SortedCodes
    probes: Probes
    order: Order | None
    joined: Join | None
    k: int

    @property
    def number(self) -> int:
        return self.probes.number

    def cost(self) -> Cost:
        """Project the products with the rows of the probed cells."""
        n, probed, cells = self.num_rows, self.probes.num_probes, self.probes.cells
        listed = listed_neighbors(self.k) if self.joined is None else joined_neighbors(self.k)
        compared = 1.6 * probed * n / cells.num_cells
        return Cost(
            fixed_bytes=n * (4 + 4 * probed),
            bytes_per_thread=_SEARCH_BYTES,
            bytes_per_row=listed * 8 + 16,
            disk_bytes=n * listed * 4,
            seconds=n * (compared * cells.vectors.dim / RATE + (4e-6 + compared * 2e-9)),
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Search these places."""
        order_N, offsets, probes_NP = hold(("partition", task.call.folder), lambda: self._partition(task))
        known, size = None, listed_neighbors(self.k)
        if self.joined is not None:
            known = task.array(self.joined, "neighbors"), task.array(self.joined, "products")
            size = known[0].shape[1]
        found = probing.probe_neighbors(
            task.array(self.coded, "codes"), order_N, offsets, probes_NP, start, stop, size, task.threads, known
        )
        task.write_rows("neighbors", found, np.int32)

    def _partition(self, task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give a pass's vertices in cell order, where cells begin, and each vertex's probes."""
        probes_NP = task.array(self.probes, "probes")
        if self.order is not None:  # probes were found in row order, and their cells number the vertices
            probes_NP = probes_NP[vertex_rows(task, self.order)]
            order_N = np.arange(len(probes_NP), dtype=np.int32)
            return order_N, np.array(task.npy(self.order, "cell_offsets")), probes_NP
        return *_cell_order(task, self.probes), probes_NP


def _cell_order(task: Task, probes: Probes) -> tuple[np.ndarray, np.ndarray]:
    """Order the probed rows by their nearest cells; give also where cells begin. Near and join hold the result."""

    def load() -> tuple[np.ndarray, np.ndarray]:
        probes_NP = task.array(probes, "probes")
        return sort_by_cell(np.ascontiguousarray(probes_NP[:, 0]), int(probes_NP.max()) + 1)

    return hold(("cell order", str(task.input(probes))), load)


@dataclass(frozen=True, kw_only=True, eq=False)
class Join(RowStep[None]):
    """The nearest of each row's neighbours and their neighbours, from which the next pass goes on.

    It writes ``neighbors`` (N, J) int32, nearest first, and the ``products`` (N, J) int16 of their codes.
    """

    kind, version, title = "passes.join", VERSION, "join"
    vertices: CodedVertices
    near: Near
    probes: Probes

    @property
    def number(self) -> int:
        return self.probes.number

    @property
    def k(self) -> int:
        return self.near.k

    def cost(self) -> Cost:
        """Project a tile's candidates."""
        n, joined = self.num_rows, joined_neighbors(self.k)
        tile = 2 * probing.JOIN_CANDIDATES * (code_width(self.vertices.dim) + 4 * probing.JOINED_ROWS + 32)
        return Cost(
            fixed_bytes=n * 12,
            bytes_per_thread=tile,
            bytes_per_row=joined * 12,
            disk_bytes=n * joined * 6,
            seconds=n * 8e-6,
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Join these vertices' lists."""
        places_N = np.empty(0, np.int32)
        if self.probes.number > 1:
            places_N = hold(("places", task.call.folder), lambda: self._places(task))
        graph, codes_NW = (task.array(self.near, "neighbors"), places_N), task.array(self.vertices, "codes")
        size = joined_neighbors(self.k)
        found, products = probing.join_neighbors(codes_NW, graph, NEAR, FAR, size, start, stop, task.threads)
        task.write_rows("neighbors", found, np.int32)
        task.write_rows("products", products, np.int16)

    def _places(self, task: Task) -> np.ndarray:
        order_N = _cell_order(task, self.probes)[0]
        places_N = np.empty_like(order_N)
        places_N[order_N] = np.arange(len(order_N), dtype=order_N.dtype)
        return places_N


@dataclass(frozen=True)
class CheckFacts:
    """The joined graph's recall, with the meaning of ``RecallFacts``, and whether it is ``enough``."""

    recall: float
    recall_above_floor: float
    enough: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Check(Step[CheckFacts]):
    """Tells whether a pass's graph has the ``recall`` asked for."""

    kind, version, title = "passes.check", VERSION, "check"
    facts = CheckFacts
    joined: Join
    vertices: CodedVertices
    truth: Truth
    recall: float

    @property
    def number(self) -> int:
        return self.joined.number

    def cost(self) -> Cost:
        """Project the sample's lists."""
        return self.truth.lists_cost(joined_neighbors(self.joined.k), disk_bytes=4096)

    def run(self, task: Task, start: int, stop: int) -> CheckFacts:
        """Compare with the sample's exact neighbours."""
        rows, exact_SK = self.truth.read(task)
        neighbors_SJ = task.array(self.joined, "neighbors")[rows]
        found_SJ = listed_similarities(task.array(self.vertices, "features"), rows, neighbors_SJ, threads=task.threads)
        found_SJ = -np.sort(-found_SJ, axis=1)
        recall, recall_above = knn.measure_recall(found_SJ, exact_SK, RECALL_FLOOR)
        return CheckFacts(recall, recall_above, recall_above >= self.recall)


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedNeighbors(Knn):
    """Mode ``partition``: the last pass's neighbours with their similarities, measured again in float32."""

    kind, version = "passes.knn", VERSION
    joined: Join
    order: Order

    def cost(self) -> Cost:
        """Project the lists, and a gather of the rows that they name."""
        n, k = self.num_rows, self.k
        return Cost(bytes_per_row=joined_neighbors(k) * 20, disk_bytes=n * k * 8, seconds=n * k * 9e-8)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Measure and sort these vertices' neighbours."""
        neighbors_nJ = np.array(task.array(self.joined, "neighbors")[start:stop])
        usable_N = hold(("usable", task.call.folder), lambda: vertex_usable(task, self.rows, self.order))
        if usable_N is not None:
            neighbors_nJ[~usable_N[neighbors_nJ] | ~usable_N[start:stop, None]] = NO_NEIGHBOR
        rows_n, features_ND = np.arange(start, stop), task.array(self.features, "features")
        similarities_nJ = listed_similarities(features_ND, rows_n, neighbors_nJ, threads=task.threads)
        sort_neighbors(neighbors_nJ, similarities_nJ, threads=task.threads)
        task.write_rows("neighbors", neighbors_nJ[:, : self.k], np.int32)
        task.write_rows("similarities", similarities_nJ[:, : self.k], np.float32)
