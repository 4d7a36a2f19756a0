"""Size-capped propagation (CDP, Zhan et al., ECCV 2018, section 3.4), on the maximum spanning forest of the edges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.clustering.evidence import biased_score
from engine.clustering.forest import MaximumForest, block_forest, strongest_forest
from engine.clustering.propagation import lowest_threshold, propagate
from engine.learning.selection import best_of, search_scores
from engine.partitions.base import (
    Array,
    Clustered,
    Edges,
    EdgeThresholds,
    Find,
    Partition,
    Point,
    Trial,
    Work,
    unbiased_score,
)
from engine.partitions.settings import PartitionName
from engine.runs.step import Facts, RowStep, Task
from engine.stages import Cost
from engine.steps.crossing import READ_ROWS
from engine.steps.edges import SCORED, read_edges
from engine.storage.context import table_parts
from engine.storage.tables import read_columns
from engine.tiles import map_tiles, tile_bounds
from engine.units import CHUNK_ROWS

SIZE_QUANTILES = (0.5, 0.75, 0.9, 0.99, 1.0)
SIZE_FACTORS = (1.0, 1.5)


@dataclass(frozen=True, kw_only=True, eq=False)
class StrongestEdges(EdgeThresholds, RowStep[Facts]):
    """The table ``forest``: a maximum spanning forest of the edges that a task's rows own and that the rounds may read.

    It has the same components at every threshold as the edges, and so have the forests of all blocks together.
    """

    kind, version, title = "propagation.forest", 1, "forest"
    step: float

    def cost(self) -> Cost:
        """Project the edges of a range for each thread, and the forest of the rows."""
        n, k = self.num_rows, self.score.knn.k
        return Cost(
            bytes_per_thread=min(n, READ_ROWS) * (k * 40 + 340),
            bytes_per_row=12 * 4 + 84 * 3,
            disk_bytes=n * 12 * 2,
            seconds=n * k / 1.5e7,
        )

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Reduce ranges of rows, then the ranges' forests together."""
        point, folder = self.operating_point(task), task.input(self.score)
        least = float(point["min_score"])
        lowest = np.float32(least if least == unbiased_score(point) else lowest_threshold(least, self.step))

        def reduce(bounds: tuple[int, int]) -> tuple[Array, Array, Array]:
            pieces = list(read_edges(folder, *bounds, SCORED, READ_ROWS // CHUNK_ROWS))
            sources, targets, scores = (np.concatenate(column) for column in zip(*pieces, strict=True))
            kept = scores >= lowest
            return block_forest(*bounds, sources[kept], targets[kept], scores[kept])

        found = map_tiles(reduce, tile_bounds(start, stop, READ_ROWS), task.threads)
        sources, targets, scores = (np.concatenate(column) for column in zip(*found, strict=True))
        if len(found) > 1:
            sources, targets, scores = block_forest(start, stop, sources, targets, scores)
        task.write_table("forest", {"source": sources, "target": targets, "score": scores})
        return {"forest_edges": len(scores)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Propagated(EdgeThresholds, Clustered):
    """Propagation over all edges of score >= min_score, by rounds that begin near it.

    The maximum spanning forest of the edges has the same components at every threshold, so memory follows the number of
    vertices.
    """

    kind, version = "propagation.roots", 5
    forest: StrongestEdges
    step: float

    def cost(self) -> Cost:
        """Project the forest and the components."""
        n = self.num_vertices
        return Cost(fixed_bytes=n * (100 + 24 * 4), disk_bytes=n * 4, seconds=n / 4e6)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Propagate over the forest."""
        point = self.operating_point(task)
        even, least = unbiased_score(point), float(point["min_score"])
        forest = MaximumForest(self.num_vertices)
        for path in table_parts(task.input(self.forest), "forest"):
            forest.add(*read_columns(path, SCORED))
        roots = propagate(
            self.num_vertices,
            *forest.edges(),
            min_score=even,
            max_size=int(point["max_size"]),
            step=self.step,
            least=least,
        )
        task.write_npy("roots", roots)
        return {**point, "partition": "propagation"}


class PropagationPartition(Partition):
    """Components of more than ``max_size`` rows are tried again at a higher threshold."""

    name: PartitionName = "propagation"
    words = "size-capped propagation"
    thresholds = ("min_score", "max_size")
    takes_step = True

    def point_words(self, point: Point) -> list[str]:
        """Describe the size cap."""
        return [f"at most {point['max_size']:,} rows before a component is split"]

    def cluster(self, work: Work) -> Clustered:
        """Make ``forest`` and ``roots``."""
        given = self.given(work)
        shared: dict[str, Any] = {
            "score": work.score,
            "chosen": self.chosen(work, given),
            "given": given,
            "learned": work.learned,
            "precision_bias": work.config.precision_bias,
            "step": work.config.step,
        }
        forest = StrongestEdges(num_rows=work.score.num_rows, **shared, scratch=True)
        return Propagated(forest=forest, **shared)

    def find(
        self, edges: Edges, num_vertices: int, point: Point, *, learned: bool, step: float, seed: int, threads: int
    ) -> Find:
        """Propagate with the point's size cap."""
        forest, even = strongest_forest(*edges), unbiased_score(point)
        cap = int(point["max_size"])

        def find(bias: float) -> Array:
            least = biased_score(even, bias, learned)
            return propagate(num_vertices, *forest, min_score=even, max_size=cap, step=step, least=least)

        return find

    def search(self, trial: Trial) -> Point:
        """Search ``min_score`` by logits, and at each the best ``max_size`` of quantiles of the identities' sizes."""
        forest = strongest_forest(*trial.edges)
        sizes = [float(np.quantile(trial.sizes, share)) for share in SIZE_QUANTILES]
        caps = sorted({int(np.ceil(size * factor)) for size in sizes for factor in SIZE_FACTORS} - {1})

        def best_cap(min_score: float) -> Point:
            def try_cap(cap: int) -> Point:
                roots_N = propagate(trial.num_vertices, *forest, min_score=min_score, max_size=cap, step=trial.step)
                return {"min_score": min_score, "max_size": cap, **trial.measure(roots_N)}

            return best_of(try_cap(cap) for cap in caps)

        return search_scores(best_cap, trial.edges.scores, trial.num_vertices, trial.sizes)
