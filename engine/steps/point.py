"""Steps of the operating point, chosen from the graph if no threshold is set and no model brings one.

    forest (rows, in parallel) -> tree -> walk (rows, in parallel) -> point

Each has a name of its own for each purpose: ``point_forest``, and ``first_point_forest`` for a method's first clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.clustering.chance import chance_similarity
from engine.clustering.forest import MaximumForest, block_forest
from engine.clustering.merge_tree import Forest, MergeTree, Sums, add_sums, merge_tree, parted, sum_by_key, walk_block
from engine.clustering.operating_point import (
    SCORE_BINS,
    choose_cut,
    choose_scored_cut,
    count_scores,
    graph_forest,
    join_walk,
)
from engine.runs.step import Facts, RowStep, Step, Task, where
from engine.stages import Cost
from engine.steps.crossing import READ_ROWS
from engine.steps.edges import SCORED, Scores, read_edges
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn
from engine.storage.context import table_parts
from engine.storage.tables import read_columns
from engine.tiles import map_tiles, tile_bounds
from engine.units import CHUNK_ROWS

_FOREST = ("source", "target", "weight")


@dataclass(frozen=True, kw_only=True, eq=False)
class OfPoint(Step[Facts]):
    """A step towards a point; ``purpose`` is the name of the point's stage."""

    knn: Knn
    purpose: str = where("point")

    @property
    def name(self) -> str:
        return f"{self.prefix}{self.purpose}_{self.title}"


@dataclass(frozen=True, kw_only=True, eq=False)
class PointForest(OfPoint, RowStep[Facts]):
    """The table ``forest`` of a task's rows: a maximum spanning forest of what they list, or of the scored edges."""

    kind, version, title = "point.forest", 1, "forest"
    score: Scores | None

    def cost(self) -> Cost:
        """Project the lists of a range for each thread, and the forest of the rows."""
        n, k = self.num_rows, self.knn.k
        return Cost(
            bytes_per_thread=min(n, READ_ROWS) * (k * 60 + 340),
            bytes_per_row=12 * 4,
            disk_bytes=n * 12 * 3,
            seconds=n * k / 1.2e7,
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Reduce these rows, range by range."""

        def reduce(bounds: tuple[int, int]) -> Forest:
            if self.score is not None:
                pieces = list(read_edges(task.input(self.score), *bounds, SCORED, READ_ROWS // CHUNK_ROWS))
                sources, targets, scores = (np.concatenate(column) for column in zip(*pieces, strict=True))
                return block_forest(*bounds, sources, targets, scores)
            neighbors, similarities = (task.array(self.knn, name) for name in ("neighbors", "similarities"))
            rows = slice(*bounds)
            return graph_forest(neighbors[rows], similarities[rows], *bounds, len(neighbors))

        found = map_tiles(reduce, tile_bounds(start, stop, READ_ROWS), task.threads)
        columns = [np.concatenate(column) for column in zip(*found, strict=True)]
        task.write_table("forest", dict(zip(_FOREST, columns, strict=True)))
        return {"forest_edges": len(columns[0])}


@dataclass(frozen=True, kw_only=True, eq=False)
class PointTree(OfPoint):
    """The forests joined: ``source``, ``target``, ``weight`` (F,); their tree: ``parents`` and ``ranks`` (N,)."""

    kind, version, title = "point.tree", 1, "tree"
    forest: PointForest

    def cost(self) -> Cost:
        """Project the buffers of the forest, and the tree."""
        n = self.knn.num_rows
        return Cost(fixed_bytes=n * 120, disk_bytes=n * 20, seconds=n / 3e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Join the forests in the order of their rows."""
        joined = MaximumForest(self.knn.num_rows)
        for path in table_parts(task.input(self.forest), "forest"):
            joined.add(*read_columns(path, _FOREST))
        forest = joined.edges()
        del joined
        for name, column in zip(_FOREST, forest, strict=True):
            task.write_npy(name, column)
        for name, column in merge_tree(forest, self.knn.num_rows)._asdict().items():
            task.write_npy(name, column)
        return {"forest_edges": len(forest[0])}

    def read(self, task: Task) -> tuple[Forest, MergeTree]:
        """Map what was written."""
        source, target, weight = (task.npy(self, name) for name in _FOREST)
        return (source, target, weight), MergeTree(*(task.npy(self, name) for name in MergeTree._fields))


@dataclass(frozen=True, kw_only=True, eq=False)
class PointWalk(OfPoint, RowStep[Facts]):
    """A walk's steps from a task's rows: tables ``through`` and ``parting``, flows by vertex and by edge of the forest.

    With scores also ``held``: the scored edges that part at each edge of the forest; facts: their ``scores`` in bins.
    """

    kind, version, title = "point.walk", 1, "walk"
    score: Scores | None
    tree: PointTree

    def cost(self) -> Cost:
        """Project the steps of a range for each thread."""
        n, k = self.num_rows, self.knn.k
        return Cost(
            bytes_per_thread=min(n, READ_ROWS) * (k * 80 + 100),
            bytes_per_row=12 * 6,
            disk_bytes=n * 12 * 6,
            seconds=n * k / 6e6,
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Take the steps of these rows."""
        _, tree = self.tree.read(task)
        neighbors_NK, similarities_NK = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")

        def walk(bounds: tuple[int, int]) -> tuple[Sums, ...]:
            rows = slice(*bounds)
            flows = walk_block(neighbors_NK[rows], similarities_NK[rows], bounds[0], tree)
            if self.score is None:
                return flows
            pieces = list(read_edges(task.input(self.score), *bounds, SCORED, READ_ROWS // CHUNK_ROWS))
            sources, targets, scores = (np.concatenate(column) for column in zip(*pieces, strict=True))
            bins = np.arange(SCORE_BINS + 1, dtype=np.int32)
            return *flows, parted(sources, targets, tree), (bins, count_scores(scores))

        found = map_tiles(walk, tile_bounds(start, stop, READ_ROWS), task.threads)
        names = ("through", "parting", "held")
        for name, sums in zip(names, zip(*found, strict=True), strict=False):
            keys, values = sum_by_key(*(np.concatenate(column) for column in zip(*sums, strict=True)))
            task.write_table(name, {"key": keys, "sum": values})
        return {} if self.score is None else {"scores": np.sum([sums[3][1] for sums in found], axis=0).tolist()}

    def sums(self, task: Task, name: str) -> Iterator[Sums]:
        """Read a table of sums, part by part."""
        for path in table_parts(task.input(self), name):
            keys, sums = read_columns(path, ("key", "sum"))
            yield keys, sums


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenPoint(Step[dict[str, Any]]):
    """``point.json``: min_score, max_size and the reason in words, for learned scores if given, else for cosines.

    For cosines, ``chance`` is the cosine from which a neighbour is nearer than chance, if few rows have one.
    """

    kind, version, title = "point", 4, "point"
    knn: Knn
    tree: PointTree
    walk: PointWalk
    features: Vectors[Any] | None
    step: float

    @classmethod
    def along(
        cls, knn: Knn, *, score: Scores | None, features: Vectors[Any] | None, step: float, prefix: str = ""
    ) -> ChosenPoint:
        """Make the step with those that it reads."""
        shared: dict[str, Any] = {"prefix": prefix, "knn": knn, "purpose": cls.title, "scratch": True}
        forest = PointForest(num_rows=knn.num_rows, score=score, **shared)
        tree = PointTree(forest=forest, **shared)
        walk = PointWalk(num_rows=knn.num_rows, score=score, tree=tree, **shared)
        return cls(prefix=prefix, knn=knn, tree=tree, walk=walk, features=features, step=step)

    def cost(self) -> Cost:
        """Project the forest with the flows, and ten passes over it."""
        n = self.knn.num_rows
        return Cost(fixed_bytes=n * 100, disk_bytes=4096, seconds=n / 8e5)

    def run(self, task: Task, start: int, stop: int) -> dict[str, Any]:
        """Choose the operating point."""
        forest, _ = self.tree.read(task)
        through, parting = self.walk.sums(task, "through"), self.walk.sums(task, "parting")
        walk = join_walk(forest, self.knn.num_rows, through, parting)
        facts: dict[str, Any] = {}
        if self.walk.score is not None:
            held_F, counts = np.zeros(len(forest[0]), np.int64), count_scores([])
            for keys, sums in self.walk.sums(task, "held"):
                add_sums(held_F, keys, sums)
            for found in task.all_facts(self.walk):
                counts += np.array(found["scores"], np.int64)
            point = choose_scored_cut(walk, held_F, counts, step=self.step)
        else:
            neighbors_NK, similarities_NK = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
            chance = None
            if self.features is not None:
                features_ND = task.array(self.features, "features")
                chance = chance_similarity(features_ND, neighbors_NK, similarities_NK, threads=task.threads)
            if chance is not None:
                facts["chance"] = chance
            point = choose_cut(walk, lambda: similarities_NK[:, 0], step=self.step, chance=chance)
        facts |= {"min_score": float(point.min_score), "max_size": int(point.max_size), "reason": point.reason}
        task.write_json("point", facts)
        return facts
