"""The steps of an update: rows are joined, or left out of all that is kept; clusters are made anew where they move."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.clustering.matching import EVENTS, with_lost
from engine.collection.additions import Scorer, add_rows
from engine.collection.answers import joined_answers
from engine.collection.clusters import Repartition, repartition, touch_ends
from engine.collection.compaction import compact
from engine.collection.kept import PREFIXES, Kept
from engine.collection.state import Layer, State, open_state
from engine.collection.versions import KEPT_FILE
from engine.errors import DataError
from engine.runs.step import Facts, Step, Task, where
from engine.stages import Cost
from engine.steps.ingest import Ingest, bad_rows, zero_rows
from engine.storage.context import read_npy
from engine.storage.manifest import file_checksum, read_json
from engine.storage.row_ids import RowIds
from engine.units import CHUNK_ROWS

VERSION = 6  # of every step here


@dataclass(frozen=True)
class Place:
    """Where a version lies: the run's folder, what the version rests on, and its layers; as plain data."""

    root: str
    kept: dict[str, Any]
    layers: tuple[dict[str, Any], ...]
    clusters: str

    def open(self, *, room: int = 0, threads: int = 1) -> State:
        """Open the version."""
        layers = [Layer.from_dict(tree) for tree in self.layers]
        kept, clusters = Kept.from_json(self.kept), Path(self.clusters) if self.clusters else None
        return open_state(Path(self.root), kept, layers, clusters, room=room, threads=threads)


@dataclass(frozen=True, kw_only=True, eq=False)
class OnVersion(Step[Facts]):
    """A step of the ``update`` of this number, which reads the version ``before`` of ``held`` rows, at ``place``."""

    before: str
    update: int
    held: int
    k: int
    dim: int
    place: Mapping[str, Any] = where()

    def state(self, task: Task, room: int = 0) -> State:
        """Open the version before."""
        return Place(**self.place).open(room=room, threads=task.threads)

    def lists_bytes(self) -> int:
        """Project the pages of lists that are changed in memory, of two graphs."""
        return self.held * (self.k * 20 + 200)


@dataclass(frozen=True, kw_only=True, eq=False)
class Added(OnVersion):
    """New rows with their neighbours in each graph, what other rows' lists took in, and the table ``edges``.

    The arrays are those that ``State.add_layer`` reads; ``edges`` are all those scored. The facts tell how far the new
    rows lie from those of the full run.
    """

    kind, version, title = "collection.added", VERSION, "added"
    rows: Ingest

    def cost(self) -> Cost:
        """Project the lists in memory, and the new rows' search and edges."""
        n = self.rows.num_rows
        row_bytes = self.k * 60 + self.dim * 40
        return Cost(
            fixed_bytes=self.lists_bytes() + n * row_bytes + (256 << 20),
            disk_bytes=n * (self.k * 40 + self.dim * 30) + (64 << 20),
            seconds=self.held / 5e5 + n / 1e3 + 5,
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Join the rows."""
        state = self.state(task, self.rows.num_rows)
        vectors_nD = np.asarray(task.array(self.rows, "features"), np.float32)
        zeros = zero_rows(task.input(self.rows))
        added = add_rows(state, vectors_nD, zeros, Scorer(state), task.threads)
        for prefix, graph in zip(PREFIXES, added.graphs, strict=False):
            for name, array in graph.arrays.items():
                task.write_npy(f"{prefix}{name}", np.ascontiguousarray(array))
        for name in ("redone", "leaders", "listable"):
            task.write_npy(name, getattr(added, name))
        sources, targets, similarities, scores = added.edges
        task.write_table("edges", {"source": sources, "target": targets, "similarity": similarities, "score": scores})
        return {
            "rows": len(vectors_nD),
            "chunk_edges": [len(sources)],
            "edges": len(sources),
            "copies": int((added.leaders < state.num_rows).sum()),
            "redone": len(added.redone),
            "far_share": added.far_share,
        }


def rows_named(path: Path, ids: RowIds) -> np.ndarray:
    """The rows whose ids a file holds, one to a line: int64, ascending.

    Raises ``DataError`` for an id that names no row, and if no row or every row is named.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")  # not splitlines, as an id may hold other breaks
        names = [name for line in lines if (name := line.removesuffix("\r")).strip()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no UTF-8 text of ids, one to a line ({error})") from None
    try:
        rows = np.unique(ids.rows(names))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if not len(rows):
        raise DataError(f"{path}: holds no id; expected one to a line")
    if len(rows) == len(ids):
        raise DataError(f"{path}: names all {len(rows):,} rows; delete the run's folder instead")
    return rows


@dataclass(frozen=True, kw_only=True, eq=False)
class Gone(OnVersion):
    """``rows`` int64, ascending: those that a file names by their ids, one to a line. ``digest``: of the file."""

    kind, version, title = "collection.gone", VERSION, "gone"
    digest: str
    path: str = where()

    def cost(self) -> Cost:
        """Project the ids of all rows."""
        return Cost(fixed_bytes=self.held * 100, disk_bytes=self.held * 8, seconds=self.held / 1e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Look the ids up; raises what ``rows_named`` raises."""
        path = Path(self.path)
        if file_checksum(path) != self.digest:
            raise DataError(f"{path}: changed since the removal began; give the file as it was")
        rows = rows_named(path, self.state(task).ids)
        task.write_npy("rows", rows)
        return {"rows": len(rows)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Compacted(OnVersion):
    """All that a version holds, without layers and without the rows that are ``gone``; ``kept.json`` says where.

    ``touched``: bool, by vertex, of a cluster that has lost a row. ``lost`` (2, C): these clusters, and how many rows.
    """

    kind, version, title = "collection.compacted", VERSION, "compacted"
    gone: Gone | None = None

    @property
    def extent(self) -> int:
        return self.held

    @property
    def granule(self) -> int:
        return -(-self.held // CHUNK_ROWS) * CHUNK_ROWS  # all rows are one task

    def cost(self) -> Cost:
        """Project the lists in memory, the edges, and a copy of everything."""
        entries = self.held * self.k
        return Cost(
            fixed_bytes=self.lists_bytes() + entries * 40 + CHUNK_ROWS * self.dim * 64,
            disk_bytes=entries * 40 + self.held * self.dim * 20,
            seconds=self.held / 2e4,
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Write everything."""
        state = self.state(task)
        gone = np.empty(0, np.int64) if self.gone is None else np.asarray(task.npy(self.gone, "rows"))
        return compact(task, state, gone)


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters(OnVersion):
    """``labels`` (N,) int64, the cluster of each row; ``next_cluster`` (1,); the table ``lineage`` of the update.

    ``pairs`` (P, 2) and ``same`` (P,): what people decided, if anything; of a file of the checksum ``decisions``, too.
    """

    kind, version, title = "collection.clusters", VERSION, "clusters"
    decisions: str = ""
    decisions_path: str = where("")
    added: Added | None = None
    compacted: Compacted | None = None
    rows: Ingest | None = None

    def cost(self) -> Cost:
        """Project the edges of the clusters that are opened."""
        return Cost(
            fixed_bytes=self.lists_bytes() + self.held * (self.k * 20 + 200),
            disk_bytes=self.held * 8,
            seconds=self.held * self.k / 1e7 + 1,
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Make clusters anew where they can move."""
        if self.added is not None:
            assert self.rows is not None
            folder = task.input(self.added)
            state = self.state(task, len(read_npy(folder, "leaders")))
            first = state.num_rows
            state.add_layer(Layer(folder, task.input(self.rows)), task.threads)
            unplaced_N = np.zeros(state.num_rows, np.bool_)
            unplaced_N[first:] = True
            new = task.input(self.rows)
            unplaced_N[first + (zero_rows(new) if self.rows.zero_vectors == "drop" else bad_rows(new))] = False
            touched_V = np.zeros(state.num_rows, np.bool_)
            touched_V[state.cut[-1]] = True
            for edges in state.scored_by(len(state.layers) - 1):
                touch_ends(state, edges, touched_V)
        elif self.compacted is not None:
            folder = task.input(self.compacted)
            kept = Kept.from_json(read_json(folder / KEPT_FILE))
            state = open_state(Path(self.place["root"]), kept, (), threads=task.threads)
            unplaced_N = np.zeros(state.num_rows, np.bool_)
            touched_V = np.array(task.npy(self.compacted, "touched"))
            lost = np.asarray(task.npy(self.compacted, "lost"))
        else:
            state = self.state(task)
            unplaced_N, touched_V = np.zeros(state.num_rows, np.bool_), np.zeros(state.num_rows, np.bool_)
        if self.decisions:
            taken_back = self._read_answers(state)
            touched_V[state.vertices[state.leaders_N[taken_back]]] = True
        done = repartition(state, touched_V, unplaced_N, task.threads)
        if self.compacted is not None:
            done = replace(done, lineage=with_lost(done.lineage, lost[0], lost[1], state.labels_N, done.labels_N))
        return self._write(task, done, state)

    def _read_answers(self, state: State) -> np.ndarray:
        """Let a version hold what the file of decisions says, too; give the rows of pairs that it does not hold now."""
        path = self.decisions_path
        if file_checksum(Path(path)) != self.decisions:
            raise DataError(f"{path}: changed since the update was planned; start it again")
        removed = state.kept.removed > 0
        before = state.pairs, state.same
        state.pairs, state.same = joined_answers(state.ids, *before, path, removed=removed)
        held = set(zip(*state.pairs.T.tolist(), state.same.tolist(), strict=True))
        gone = [pair for *pair, same in zip(*before[0].T.tolist(), before[1].tolist(), strict=True)
                if not {(*pair, same), (*pair[::-1], same)} & held]  # fmt: skip
        return np.array(gone, np.int64).ravel()

    def _write(self, task: Task, done: Repartition, state: State) -> Facts:
        """Write the clusters after a change as every later version reads them."""
        for row in state.pairs[done.labels_N[state.pairs] < 0][:1].tolist():
            name = state.ids.take(np.array([row])).to_list()[0]
            raise DataError(f"{self.decisions_path}: names row {name!r}, which is in no cluster; withdraw that")
        if len(state.pairs):
            task.write_npy("pairs", state.pairs)
            task.write_npy("same", state.same)
        task.write_npy("labels", done.labels_N)
        task.write_npy("next_cluster", np.array([done.next_cluster], np.int64))
        lineage = done.lineage
        task.write_table("lineage", lineage.columns(self.update))
        counts = {EVENTS[code]: int(count) for code, count in enumerate(np.bincount(lineage.events)) if count}
        clusters = len(np.unique(done.labels_N[done.labels_N >= 0]))
        return {"rows": state.num_rows, "clusters": clusters, "lineage": counts, "pairs": len(state.pairs)}
