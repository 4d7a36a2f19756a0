"""Density peaks (Rodriguez and Laio, Science 2014): each vertex joins its best denser neighbour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.clustering.density_peaks import DensityLinks, add_densities, density_peaks, linked_roots
from engine.clustering.evidence import biased_score
from engine.learning.selection import scan_scores
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
from engine.steps.crossing import READ_ROWS, Crossing, Incident
from engine.tiles import map_tiles, tile_bounds

_SMALL = 4 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class OfDensity(EdgeThresholds, RowStep[Facts]):
    """A step over rows that reads the edges of score >= min_score of each range of rows."""

    crossing: Crossing

    def cost(self) -> Cost:
        """Project the edges of a range for each thread."""
        n, k = self.num_rows, self.score.knn.k
        return Cost(
            bytes_per_thread=min(n, READ_ROWS) * k * 40, bytes_per_row=24, disk_bytes=n * 8, seconds=n * k / 3e7
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Densities(OfDensity):
    """The density of each vertex, ``densities`` (N,) int64."""

    kind, version, title = "density_peaks.densities", 1, "densities"

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Add up the edges of these rows."""
        min_score, incident = unbiased_score(self.operating_point(task)), Incident(task, self.score, self.crossing)

        def add(bounds: tuple[int, int]) -> Array:
            densities_n = np.zeros(bounds[1] - bounds[0], np.int64)
            for edges in incident.read(*bounds):
                add_densities(*bounds, *edges, min_score, densities_n)
            return densities_n

        found = map_tiles(add, tile_bounds(start, stop, READ_ROWS), task.threads)
        task.write_rows("densities", np.concatenate(found), np.int64)
        return {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Links(OfDensity):
    """The best denser neighbour of each vertex, ``parents`` (N,) int32, -1 for a peak."""

    kind, version, title = "density_peaks.links", 1, "density_links"
    densities: Densities

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Link these rows."""
        min_score, incident = float(self.operating_point(task)["min_score"]), Incident(task, self.score, self.crossing)
        densities_N = task.array(self.densities, "densities")

        def link(bounds: tuple[int, int]) -> Array:
            links = DensityLinks(*bounds, min_score, densities_N)
            for edges in incident.read(*bounds):
                links.link(*edges)
            return links.parents_n

        found = map_tiles(link, tile_bounds(start, stop, READ_ROWS), task.threads)
        task.write_rows("parents", np.concatenate(found), np.int32)
        return {}


@dataclass(frozen=True, kw_only=True, eq=False)
class DensityLinked(EdgeThresholds, Clustered):
    """Density-peak linking over all edges of score >= min_score: the components of the links."""

    kind, version = "density_peaks.roots", 5
    links: Links

    def cost(self) -> Cost:
        """Project the links and the components."""
        n = self.num_vertices
        return Cost(fixed_bytes=n * 28 + _SMALL, disk_bytes=n * 4, seconds=n / 1e7)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Join what is linked."""
        task.write_npy("roots", linked_roots(task.array(self.links, "parents")))
        return {**self.operating_point(task), "partition": "density_peaks"}


class DensityPeaksPartition(Partition):
    """Links to denser neighbours."""

    name: PartitionName = "density_peaks"
    words = "density peaks"

    def cluster(self, work: Work) -> Clustered:
        """Make ``densities``, ``links`` and ``roots``."""
        given = self.given(work)
        shared: dict[str, Any] = {
            "score": work.score,
            "chosen": self.chosen(work, given),
            "given": given,
            "learned": work.learned,
            "precision_bias": work.config.precision_bias,
        }
        rows: dict[str, Any] = {"num_rows": work.score.num_rows, "crossing": work.crossing, "scratch": True}
        densities = Densities(**rows, **shared)
        return DensityLinked(links=Links(densities=densities, **rows, **shared), **shared)

    def find(
        self, edges: Edges, num_vertices: int, point: Point, *, learned: bool, step: float, seed: int, threads: int
    ) -> Find:
        """Link density peaks over edges from the bias's score on."""
        even = unbiased_score(point)
        return lambda bias: density_peaks(num_vertices, *edges, even, biased_score(even, bias, learned))

    def search(self, trial: Trial) -> Point:
        """Search ``min_score`` alone, by steps of half a logit."""

        def peaks(min_score: float) -> Point:
            return {"min_score": min_score, **trial.measure(density_peaks(trial.num_vertices, *trial.edges, min_score))}

        return scan_scores(peaks)
