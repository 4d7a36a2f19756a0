"""Connected components after pruning by score and node intimacy (STAR-FC, section 3.3).

Pruning keeps edges of score >= min_score and node intimacy >= min_intimacy and reduces each block's edges to a spanning
forest by union-find. Forests merge eight at a time, then all together by minimum id: in one process, or in ranges of
vertices that companions of the task hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.clustering.csr import adjacent_rows, build_adjacency, copy_lists
from engine.clustering.evidence import biased_score
from engine.clustering.forest import strongest_forest
from engine.clustering.pruning import intimate_edges, node_intimacy
from engine.clustering.range_union_find import PIECE_EDGES, VertexRange, iterate_roots, unite_ranges
from engine.clustering.union_find import UnionFind, compact_ids, component_roots, id_dtype
from engine.learning.selection import best_of, search_scores
from engine.partitions.base import (
    Array,
    Clustered,
    Edges,
    EdgeThresholds,
    Find,
    Partition,
    Point,
    Thresholds,
    Trial,
    Work,
    unbiased_score,
)
from engine.partitions.settings import PartitionName
from engine.runs.step import Facts, RowStep, Task, where
from engine.stages import Cost
from engine.steps.crossing import READ_ROWS, Crossing, Incident
from engine.steps.edges import SCORED, read_edges
from engine.storage.context import CompanionTask, TaskCall, committed_records, folder_digest, hold
from engine.storage.manifest import Record
from engine.storage.tables import read_columns
from engine.tiles import map_tiles, tile_bounds
from engine.units import CHUNK_ROWS

VERSION = 5  # of every step here
FAN_IN = 8
RANGE_ROWS = 1 << 28  # more vertices are united in ranges, each with 1 GiB of parents
FOREST_RANGE = f"{__name__}:ForestRange"
PIECE_CHUNKS = 8  # chunks of edges in memory at a time
INTIMACIES = (0.0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_UNION_S = 6e-9  # seconds per vertex to begin a union-find and to list its forest, for projections
_SMALL = 4 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptAdjacency(EdgeThresholds, RowStep[Facts]):
    """The neighbours of each row by edges of the least score and more, unbiased.

    ``first`` and ``count`` (N,), and a table ``lists``: a row's list begins at place ``first`` of the task's table,
    ascends, and has ``count`` neighbours.
    """

    kind, version, title = "components.adjacency", VERSION, "adjacency"
    crossing: Crossing

    def cost(self) -> Cost:
        """Project the edges of a range for each thread, and the lists of the rows."""
        n, k = self.num_rows, self.score.knn.k
        return Cost(
            bytes_per_thread=min(n, READ_ROWS) * k * 60,
            bytes_per_row=12 * k + 24,
            disk_bytes=n * (4 * k + 12),
            seconds=n * k / 1.5e7,
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """List the neighbours of these rows, range by range."""
        min_score = np.float32(unbiased_score(self.operating_point(task)))
        incident = Incident(task, self.score, self.crossing)

        def collect(bounds: tuple[int, int]) -> tuple[Array, Array]:
            pieces = []
            for sources, targets, scores in incident.read(*bounds):
                kept = scores >= min_score
                pieces.append((sources[kept], targets[kept]))
            return adjacent_rows(*bounds, pieces)

        found = map_tiles(collect, tile_bounds(start, stop, READ_ROWS), task.threads)
        counts = np.concatenate([np.diff(indptr) for indptr, _ in found])
        lists = np.concatenate([indices for _, indices in found])
        task.write_rows("first", np.cumsum(counts) - counts, np.int64)
        task.write_rows("count", counts, np.int32)
        task.write_table("lists", {"neighbor": lists})
        return {"neighbors": len(lists)}


class KeptLists:
    """The neighbours that ``KeptAdjacency`` wrote, of any rows."""

    def __init__(self, task: Task, adjacency: KeptAdjacency) -> None:
        folder = task.input(adjacency)
        self._first_N, self._count_N = (task.array(adjacency, name) for name in ("first", "count"))
        self._parts = hold(("lists", str(folder)), lambda: [
            (record.start, record.stop, *read_columns(_output(folder, record, "lists"), ("neighbor",)))
            for record in committed_records(folder, folder_digest(folder))
        ])  # fmt: skip

    def of(self, vertices: Array) -> tuple[Array, Array]:
        """Give the lists of ascending vertices as the rows of an adjacency: indptr, indices."""
        indptr = np.zeros(len(vertices) + 1, np.int64)
        np.cumsum(self._count_N[vertices], out=indptr[1:])
        indices, first_V = np.empty(indptr[-1], np.int32), self._first_N[vertices]
        for start, stop, neighbors in self._parts:
            low, high = np.searchsorted(vertices, np.array([start, stop], vertices.dtype))
            copy_lists(first_V[low:high], indptr[low : high + 1], neighbors, indices)
        return indptr, indices


@dataclass(frozen=True, kw_only=True, eq=False)
class Prune(EdgeThresholds, RowStep[Facts]):
    """The spanning ``forest`` (member, root) of the edges owned by a task's rows that survive both thresholds."""

    kind, version, title = "components.prune", VERSION, "prune"
    adjacency: KeptAdjacency | None

    def cost(self) -> Cost:
        """Project a piece of edges, and a union-find of all vertices."""
        n, k = self.num_rows, self.score.knn.k
        return Cost(
            fixed_bytes=PIECE_CHUNKS * CHUNK_ROWS * k * (20 if self.adjacency is None else 60) + n * 21,
            disk_bytes=n * 12,
            seconds=n * k / (7e6 if self.adjacency is not None else 5e7),
            seconds_per_task=n * _UNION_S,
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Prune and unite the edges of these rows."""
        point = self.operating_point(task)
        kept_lists = None if self.adjacency is None else KeptLists(task, self.adjacency)
        union = UnionFind(self.num_vertices)
        edges = after_score = after_both = 0
        for sources, targets, scores in read_edges(task.input(self.score), start, stop, SCORED, PIECE_CHUNKS):
            edges += len(scores)
            kept = scores >= np.float32(point["min_score"])
            sources, targets = sources[kept], targets[kept]
            after_score += len(sources)
            if kept_lists is not None:
                vertices, a, b = compact_ids(sources, targets)
                rows = kept_lists.of(vertices)
                close = intimate_edges(*rows, a, b, point["min_intimacy"], task.threads, vertices)
                sources, targets = sources[close], targets[close]
            after_both += len(sources)
            union.add(sources, targets)
        _write_forest(task, union)
        return {"edges": edges, "edges_kept_by_score": after_score, "edges_kept": after_both}


@dataclass(frozen=True, kw_only=True, eq=False)
class Merge(RowStep[None]):
    """The forests of the blocks that begin in a task's rows, merged into one ``forest``."""

    kind, version, title = "components.merge", VERSION, "merge"
    prune: Prune

    @property
    def granule(self) -> int:
        """Return the rows of the forests that are merged at a time."""
        return super().granule * FAN_IN

    def cost(self) -> Cost:
        """Project a union-find of all vertices."""
        n = self.num_rows
        return Cost(fixed_bytes=n * 28 + _SMALL, disk_bytes=n * 8, seconds=n / 5e6, seconds_per_task=n * _UNION_S)

    def run(self, task: Task, start: int, stop: int) -> None:
        """Merge these forests."""
        union = UnionFind(self.num_rows)
        for members, roots in _forests(task.input(self.prune), start, stop):
            union.add(members, roots)
        _write_forest(task, union)


@dataclass(frozen=True, kw_only=True, eq=False)
class Components(Thresholds, Clustered):
    """All forests joined by minimum id.

    With ``ranges`` above 1 each range of vertices is a companion, which reads its rows of every forest; the task holds
    the roots of one range at a time.
    """

    kind, version = "components.roots", VERSION
    merge: Merge
    ranges: int = where(1)

    def cost(self) -> Cost:
        """Project one range's memory: Ray spreads ranges over hosts; in one process all take less than labels do."""
        n, ranges = self.merge.num_rows, self.ranges
        cost = Cost(fixed_bytes=n * 24 + _SMALL, disk_bytes=n * 4, seconds=n / 5e6)
        if ranges == 1:
            return cost
        return replace(cost, fixed_bytes=-(-n // ranges) * 32 + (ranges + 2) * PIECE_EDGES * 8 + _SMALL)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Join the forests."""
        facts = {**self.operating_point(task), "partition": "components"}
        return facts | join_forests(task, task.input(self.merge), self.merge.num_rows, self.ranges)


def join_forests(task: Task, folder: Path, num_vertices: int, ranges: int) -> Facts:
    """Write ``roots`` (N,) of the forests in a merging stage's folder, by so many ranges of vertices."""
    if ranges == 1:
        union = UnionFind(num_vertices)
        for members, roots in _forests(folder, 0, np.iinfo(np.int64).max):
            union.add(members, roots)
        task.write_npy("roots", union.roots())
        return {}
    arguments = [(task.sent, number, ranges, num_vertices) for number in range(ranges)]
    with task.companions(FOREST_RANGE, arguments) as companions:
        rounds = unite_ranges(companions)
        task.write_npy_parts("roots", iterate_roots(companions), num_vertices, id_dtype(num_vertices))
    return {"ranges": ranges, "rounds": rounds}


class ForestRange(VertexRange):
    """A range that reads its own members' rows of the merged forests."""

    def __init__(self, call: TaskCall, number: int, num_ranges: int, num_vertices: int) -> None:
        self._task = CompanionTask(call)
        super().__init__(number, num_ranges, num_vertices, self._rows(self._task.input("merge")))

    def _rows(self, folder: Path) -> Iterator[tuple[Array, Array]]:
        for members, roots in _forests(folder, 0, np.iinfo(np.int64).max):
            own = slice(*np.searchsorted(members, np.array([self.start, self.stop], members.dtype)))
            yield members[own], roots[own]


def _write_forest(task: Task, union: UnionFind) -> None:
    members, roots = union.forest()
    task.write_table("forest", {"member": members, "root": roots})


def _forests(folder: Path, start: int, stop: int) -> Iterator[tuple[Array, Array]]:
    for record in committed_records(folder, folder_digest(folder)):
        if start <= record.start < stop:
            members, roots = read_columns(_output(folder, record, "forest"), ("member", "root"))
            yield members, roots


def _output(folder: Path, record: Record, table: str) -> Path:
    return folder / next(output.path for output in record.outputs if output.path.startswith(f"{table}/"))


class ComponentsPartition(Partition):
    """Pruning, then union-find."""

    name: PartitionName = "components"
    words = "components after pruning"
    thresholds = ("min_score", "min_intimacy")

    def point_words(self, point: Point) -> list[str]:
        """Describe the least node intimacy, if there is one."""
        least = point.get("min_intimacy")
        if not least:
            return []
        return [f"node intimacy ≥ {least:.3g}" if least != "adaptive" else "node intimacy by degree, ≥ 0.652"]

    def cluster(self, work: Work) -> Clustered:
        """Make ``adjacency`` if intimacy counts, ``prune``, ``merge`` and ``roots``."""
        given = self.given(work)
        if given["min_intimacy"] is None:
            given["min_intimacy"] = 0.0
        shared: dict[str, Any] = {
            "chosen": self.chosen(work, given),
            "given": given,
            "precision_bias": work.config.precision_bias,
            "learned": work.learned,
        }
        score, n = work.score, work.score.num_rows
        adjacency = None
        if given["min_intimacy"]:
            adjacency = KeptAdjacency(num_rows=n, score=score, crossing=work.crossing, **shared, scratch=True)
        merge = Merge(num_rows=n, prune=Prune(num_rows=n, score=score, adjacency=adjacency, **shared))
        return Components(merge=merge, ranges=work.config.union_find_ranges or -(-n // RANGE_ROWS), **shared)

    def find(
        self, edges: Edges, num_vertices: int, point: Point, *, learned: bool, step: float, seed: int, threads: int
    ) -> Find:
        """Cluster into components, by the point's intimacy."""
        even = unbiased_score(point)
        adjacency = (
            build_adjacency(num_vertices, lambda: [_above(edges, even)], threads) if point["min_intimacy"] else None
        )

        def find(bias: float) -> Array:
            block = _above(edges, biased_score(even, bias, learned))
            if adjacency is not None:
                close = intimate_edges(*adjacency, *block, point["min_intimacy"], threads)
                block = block[0][close], block[1][close]
            return component_roots(num_vertices, *block)

        return find

    def search(self, trial: Trial) -> Point:
        """Search ``min_score`` (τ1) by logits, and at each the best ``min_intimacy`` (τ2)."""

        def best_intimacy(min_score: float) -> Point:
            sources, targets = _above(trial.edges, min_score)
            adjacency = build_adjacency(trial.num_vertices, lambda: [(sources, targets)], trial.threads)
            intimacies = node_intimacy(*adjacency, sources, targets, trial.threads)
            first, second, weights = strongest_forest(sources, targets, intimacies)

            def try_intimacy(floor: float) -> Point:
                joined = weights >= np.float32(floor)
                roots_N = component_roots(trial.num_vertices, first[joined], second[joined])
                return {"min_score": min_score, "min_intimacy": floor, **trial.measure(roots_N)}

            return best_of(try_intimacy(floor) for floor in reversed(INTIMACIES))

        return search_scores(best_intimacy, trial.edges.scores, trial.num_vertices, trial.sizes)


def _above(edges: Edges, min_score: float) -> tuple[Array, Array]:
    kept = edges.scores >= np.float32(min_score)
    return edges.sources[kept], edges.targets[kept]
