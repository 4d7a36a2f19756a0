"""A version of a collection in memory: what it rests on, with the rows of later updates taken in.

Arrays of the full run are mapped from their files. Rows that came later follow after them, and lists that took new rows
in are changed in memory alone. Vertices are numbered as in the first graph; a row of a later update has the same
number as vertex of every graph and as row.
Legend: N vertices, K neighbours, D dimensions, P profile, n new rows, I insertions, R rows done anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from engine.collection.kept import PREFIXES, Kept, KeptGraph
from engine.graph.insertion import Cells, insert_lists, insert_values, make_cells, mean_of_cells
from engine.graph.overlaps import AVERAGED, vertex_profiles
from engine.graph.structural_inputs import SHARED_SCALES
from engine.learning import metric
from engine.learning.tensors import read_arrays
from engine.methods.structural.scorer import Neighborhoods, SecondScores
from engine.steps.edges import SCORED, iterate_edges
from engine.steps.ingest import row_column, zero_rows
from engine.storage.arrays import map_extended
from engine.storage.context import read_npy, stage_facts, table_parts
from engine.storage.row_ids import RowIds
from engine.storage.tables import read_columns
from engine.units import NO_NEIGHBOR, NO_SIMILARITY

Array = np.ndarray[Any, Any]
FAR_QUANTILE = 20


@dataclass
class GraphState:
    """One graph of a version. ``priors`` and ``listed`` (N, K) are empty where a method has none.

    ``rows_V``: the row of each vertex, ``None`` if vertices are rows. ``cell_of_later``: the cell of each vertex that
    has come since the full run.
    """

    features: Array
    neighbors: Array
    similarities: Array
    profiles: Array
    averages: tuple[Array, ...]
    originals: Array | None
    priors: Array
    listed: Array
    rows_V: Array | None
    centroids: Array | None
    offsets: Array | None
    cell_of_later: Array
    metric: metric.Metric | None

    @property
    def around(self) -> Neighborhoods:
        """The graph as the structural scorer's kernels take it."""
        return Neighborhoods(self.neighbors, self.similarities, self.profiles, self.averages, self.originals)

    def cells(self, num_kept: int) -> Cells | None:
        """Which vertices lie near each other; ``None`` if the graph was searched without cells."""
        if self.offsets is None:
            return None
        if self.centroids is None:
            self.centroids = mean_of_cells(self.features, self.offsets)
        return make_cells(self.centroids, self.offsets, self.cell_of_later, num_kept)

    def describe(self, rows: Array, threads: int) -> None:
        """Compute the profiles of these vertices again, because their lists have changed."""
        if len(self.profiles):
            self.profiles[rows] = vertex_profiles(self.neighbors[rows], self.similarities[rows], threads=threads)


@dataclass(frozen=True)
class Layer:
    """What an update has committed: folders of its stages. ``rows``: ids and items of the new rows.

    An update by answers alone has only ``clusters``. ``source``: the digest of the file that the rows came in.
    ``update``: its number.
    """

    added: Path | None = None
    rows: Path | None = None
    clusters: Path | None = None
    source: str = ""
    update: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The layer as plain data."""
        return {name: str(value) if isinstance(value, Path) else value for name, value in self.__dict__.items()}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Layer:
        """Read what ``as_dict`` gave."""
        return cls(**{**tree, **{name: Path(tree[name]) for name in ("added", "rows", "clusters") if tree[name]}})

    @property
    def num_rows(self) -> int:
        """How many rows the update has added."""
        return 0 if self.added is None else len(read_npy(self.added, "leaders"))

    @property
    def folders(self) -> tuple[Path, Path]:
        """The folders of ``added`` and ``rows``."""
        assert self.added is not None
        assert self.rows is not None
        return self.added, self.rows


@dataclass
class State:
    """A version of a collection.

    ``labels_N``: the cluster of each row, -1 for a row that was dropped. ``leaders_N``: the row that stands for each
    row, itself unless it is a copy. ``changed_VS``: how many entries each list has taken in among its first
    ``SHARED_SCALES`` since its edges were scored. ``cut``: for each layer, the vertices whose edges it scored anew.
    ``next_cluster``, ``next_row``: the first id that no cluster and no row without an id of the source's has had.
    ``pairs`` (P, 2), ``same`` (P,): rows that people decided to be of one cluster, or not. ``history``: folders with
    tables of lineage.
    """

    kept: Kept
    root: Path
    graphs: list[GraphState]
    ids: RowIds
    labels_N: Array
    leaders_N: Array
    listable_V: Array
    changed_VS: Array
    next_cluster: int
    next_row: int
    pairs: Array
    same: Array
    layers: list[Layer] = field(default_factory=list)
    cut: list[Array] = field(default_factory=list)
    history: list[Path] = field(default_factory=list)

    @property
    def num_rows(self) -> int:
        return len(self.labels_N)

    @property
    def dim(self) -> int:
        """Dimensions of the vectors as they are given."""
        return int(self.graphs[0].features.shape[1])

    @property
    def point_partition(self) -> str:
        """The partition that made the clusters."""
        return str(self.kept.point["partition"])

    @property
    def row_numbers(self) -> Array:
        """The row of each vertex, (N,) int32."""
        rows = self.graphs[0].rows_V
        return np.arange(self.num_rows, dtype=np.int32) if rows is None else rows

    @property
    def vertices(self) -> Array:
        """The vertex of each row, (N,) int32."""
        return inverse(self.row_numbers)

    def cluster_sizes(self) -> Array:
        """How many rows the cluster of each vertex has, 1 for a vertex in none: (N,) int64."""
        label_V = self.labels_N[self.row_numbers[: self.num_rows]]
        _, places, counts = np.unique(label_V, return_inverse=True, return_counts=True)
        return np.where(label_V >= 0, counts[places], 1)

    def edges(self, names: tuple[str, ...] = SCORED) -> Iterator[tuple[Array, ...]]:
        """Give columns of all scored edges by vertex, each undirected edge once, in blocks."""
        sources = [self.root / self.kept.edges, *(layer.folders[0] for layer in self.layers)]
        for number, folder in enumerate(sources):
            later = self.cut[number:]
            gone = np.zeros(self.num_rows, np.bool_)
            for rows in later:
                gone[rows] = True
            for block in iterate_edges(folder, ("source", "target", *names[2:])):
                kept = ~(gone[block[0]] | gone[block[1]]) if any(len(rows) for rows in later) else slice(None)
                yield tuple(column[kept] for column in block)

    def near_similarity(self) -> float:
        """The similarity that the nearest neighbours of one in ``FAR_QUANTILE`` rows of the full run stay below."""
        if "near" in self.kept.facts:
            return float(self.kept.facts["near"])
        nearest = self.graphs[0].similarities[: self.kept.num_rows, 0]
        nearest = nearest[nearest > NO_SIMILARITY]
        return float(np.quantile(nearest, 1 / FAR_QUANTILE)) if len(nearest) else float(NO_SIMILARITY)

    def scored_by(self, number: int) -> Iterator[tuple[Array, ...]]:
        """Give (source, target, score) of the edges that a layer scored, in blocks."""
        return iterate_edges(self.layers[number].folders[0], SCORED)

    def second_scores(self) -> SecondScores | None:
        """What the second graph says, by vertices of the first; ``None`` if there is none."""
        if len(self.graphs) < 2:
            return None
        first, second = self.graphs
        numbers = None
        if first.rows_V is not None or second.rows_V is not None:
            own = self.row_numbers
            numbers = own if second.rows_V is None else inverse(second.rows_V)[own]
        return SecondScores(second.neighbors, second.listed, numbers)

    def add_layer(self, layer: Layer, threads: int) -> None:
        """Take in what an update has committed; there must be room for its rows."""
        if layer.added is None:
            assert layer.clusters is not None
            self.read_clusters(layer.clusters)
            return
        start, (folder, rows_folder) = self.num_rows, layer.folders
        facts = read_npy(folder, "leaders")
        stop = start + len(facts)
        redone = np.asarray(read_npy(folder, "redone"))
        for prefix, graph in zip(PREFIXES, self.graphs, strict=False):
            read = _Reader(folder, prefix)
            graph.features[start:stop] = read("features")
            if graph.originals is not None:
                graph.originals[start:stop] = read("originals")
            graph.neighbors[start:stop], graph.similarities[start:stop] = read("neighbors"), read("similarities")
            places = np.asarray(read("places"))
            rows, others, values = (
                np.asarray(read(f"inserted_{name}")) for name in ("rows", "neighbors", "similarities")
            )
            insert_lists(graph.neighbors, graph.similarities, rows, others, values, places.copy())
            own = redone if prefix == PREFIXES[0] else np.asarray(read("redone"))
            for table, name in ((graph.priors, "priors"), (graph.listed, "listed")):
                if len(table):
                    insert_values(table, rows, places, np.asarray(read(f"inserted_{name}")))
                    table[start:stop] = read(name)
                    table[own] = read(f"redone_{name}")
            for vectors, count in zip(graph.averages, AVERAGED, strict=False):
                vectors[start:stop] = read(f"averages_{count}")
                vectors[own] = read(f"redone_averages_{count}")
            graph.describe(np.unique(np.concatenate([rows, np.arange(start, stop)])), threads)
            graph.cell_of_later = np.concatenate([graph.cell_of_later, np.asarray(read("cells"))])
            if graph.offsets is not None:
                graph.centroids = np.asarray(read("centroids"))
            if graph.rows_V is not None:
                graph.rows_V = np.concatenate([graph.rows_V, np.arange(start, stop, dtype=np.int32)])
            if prefix == PREFIXES[0]:
                new_nS = np.zeros((stop - start, len(SHARED_SCALES)), np.int32)
                self.changed_VS = np.concatenate([self.changed_VS, new_nS]) + count_places(rows, places, stop)
                self.changed_VS[redone] = 0
        self.leaders_N = np.concatenate([self.leaders_N, np.asarray(facts, np.int32)])
        self.listable_V = np.concatenate([self.listable_V, np.asarray(read_npy(folder, "listable"))])
        self.cut.append(redone)
        self.layers.append(layer)
        self.labels_N = np.concatenate([self.labels_N, np.full(stop - start, -1, np.int64)])
        new_ids = layer_ids(rows_folder, self.next_row, stop - start)
        self.ids, self.next_row = self.ids.joined(new_ids), new_ids.next_number(self.next_row)
        if layer.clusters is not None:
            self.read_clusters(layer.clusters)

    def read_clusters(self, folder: Path) -> None:
        """Take the clusters that a later version has."""
        self.history.append(folder)
        self.labels_N = np.array(read_npy(folder, "labels"))
        self.next_cluster = int(read_npy(folder, "next_cluster")[0])
        answers = answers_of(folder)
        if answers is not None:
            self.pairs, self.same = answers


def answers_of(clusters: Path) -> tuple[Array, Array] | None:
    """The decided pairs (P, 2) by row that a stage ``clusters`` holds, and which are the same; ``None`` if untold."""
    told = stage_facts(clusters)[0].get("pairs")
    if told is None:
        return None
    if not told:
        return np.empty((0, 2), np.int64), np.empty(0, np.bool_)
    return np.array(read_npy(clusters, "pairs")), np.array(read_npy(clusters, "same"))


class _Reader:
    """Reads a graph's arrays of a layer."""

    def __init__(self, folder: Path, prefix: str) -> None:
        self.folder, self.prefix = folder, prefix

    def __call__(self, name: str) -> Array:
        return read_npy(self.folder, f"{self.prefix}{name}")


def kept_ids(root: Path, kept: Kept) -> RowIds:
    """The ids of the rows that a version rests on: those of its source, or their numbers."""
    column = row_column(root / kept.rows, "id")
    return RowIds(column, str(root)) if column is not None else RowIds.numbered(0, kept.num_rows)


def layer_ids(folder: Path, next_row: int, num_rows: int) -> RowIds:
    """The ids of an update's rows: those of its source, or the next numbers if the collection's rows have numbers."""
    column = row_column(folder, "id")
    if column is not None:
        return RowIds(column, str(folder.parent))
    return RowIds.numbered(next_row, next_row + num_rows)


LINEAGE = ("update", "event", "cluster", "other", "rows")


def read_lineage(folders: Sequence[Path]) -> dict[str, Array]:
    """Join the tables of lineage in these folders, column by column."""
    paths = [path for folder in folders for path in table_parts(folder, "lineage")]
    parts = [read_columns(path, LINEAGE) for path in paths]
    empty = [np.empty(0, np.int64)] * len(LINEAGE)
    return {name: np.concatenate([empty[at], *(part[at] for part in parts)]) for at, name in enumerate(LINEAGE)}


def inverse(numbers: Array) -> Array:
    """Invert a numbering, int32."""
    found = np.empty(len(numbers), np.int32)
    found[numbers] = np.arange(len(numbers), dtype=np.int32)
    return found


def open_kept(root: Path, kept: Kept, room: int) -> State:
    """Open what a collection rests on, with room for so many further rows."""
    graphs = [_open_graph(root, graph, kept, room) for graph in kept.graphs]
    labels_N = np.array(read_npy(root / kept.labels[0], kept.labels[1]))
    rows_folder = root / kept.rows
    ids = kept_ids(root, kept)
    leaders_N = np.arange(kept.num_rows, dtype=np.int32)
    if kept.leaders is not None:
        leaders_N = np.array(read_npy(root / kept.leaders[0], kept.leaders[1]))
    state = State(
        kept=kept,
        root=root,
        graphs=graphs,
        ids=ids,
        labels_N=labels_N,
        leaders_N=leaders_N,
        listable_V=np.ones(kept.num_rows, np.bool_),
        changed_VS=_changed(root, kept),
        next_cluster=int(kept.facts.get("next_cluster", labels_N.max(initial=-1) + 1)),
        next_row=kept.next_row,
        pairs=np.empty((0, 2), np.int64) if kept.answers is None else np.array(read_npy(root / kept.answers, "pairs")),
        same=np.empty(0, np.bool_) if kept.answers is None else np.array(read_npy(root / kept.answers, "same")),
    )
    listable_N = leaders_N == np.arange(kept.num_rows)
    listable_N[zero_rows(rows_folder)] = False
    state.listable_V = listable_N[state.row_numbers]
    if "lineage" in kept.facts:
        state.history.append(root / kept.facts["lineage"])
    return state


def _changed(root: Path, kept: Kept) -> Array:
    if kept.changed is None:
        return np.zeros((kept.num_rows, len(SHARED_SCALES)), np.int32)
    return np.array(read_npy(root / kept.changed, "changed"))


def count_places(rows: Array, places: Array, num_vertices: int) -> Array:
    """Count what each list has taken in among its first ``SHARED_SCALES``: (V, S) int32."""
    taken = [rows[(places >= 0) & (places < scale)] for scale in SHARED_SCALES]
    return np.stack([np.bincount(each, minlength=num_vertices) for each in taken], axis=1).astype(np.int32)


def _open_graph(root: Path, kept: KeptGraph, whole: Kept, room: int) -> GraphState:
    def open_array(name: str) -> Array:
        folder, array = kept.arrays[name]
        return map_extended(root / folder, array, room)

    def optional(name: str, dtype: Any) -> Array:
        return open_array(name) if name in kept.arrays else np.empty((0, 0), dtype)

    neighbors, similarities = open_array("neighbors"), open_array("similarities")
    neighbors[whole.num_rows :], similarities[whole.num_rows :] = NO_NEIGHBOR, NO_SIMILARITY
    features = open_array("features")
    offsets = rows_V = None
    if kept.order is not None:
        rows_V = np.array(read_npy(root / kept.order[0], kept.order[1]))
    if kept.offsets is not None:
        offsets = np.array(read_npy(root / kept.offsets[0], kept.offsets[1]))
    tensors = None if kept.metric is None else read_arrays(root / kept.metric)
    return GraphState(
        features=features,
        neighbors=neighbors,
        similarities=similarities,
        profiles=optional("profiles", np.float32),
        averages=tuple(open_array(f"averages_{count}") for count in AVERAGED if f"averages_{count}" in kept.arrays),
        originals=open_array("originals") if "originals" in kept.arrays else None,
        priors=optional("priors", np.uint16),
        listed=optional("listed", np.uint16),
        rows_V=rows_V,
        centroids=None,
        offsets=offsets,
        cell_of_later=np.empty(0, np.int32),
        metric=None if tensors is None else metric.from_tensors(tensors),
    )


def open_state(
    root: Path, kept: Kept, layers: Sequence[Layer], clusters: Path | None = None, *, room: int = 0, threads: int = 1
) -> State:
    """Open a version: what it rests on, its ``clusters`` if they were made since, and its layers in order.

    There is room for so many further rows.
    """
    later = sum(layer.num_rows for layer in layers)
    state = open_kept(root, kept, later + room)
    if clusters is not None:
        state.read_clusters(clusters)
    for layer in layers:
        state.add_layer(layer, threads)
    return state
