"""Density peaks (Rodriguez and Laio, Science 2014): each vertex joins its best denser neighbour."""

from __future__ import annotations

from dataclasses import dataclass

from engine.clustering.density_peaks import DensityPeaks, density_peaks
from engine.clustering.evidence import biased_score
from engine.learning.selection import scan_scores
from engine.partitions.base import Clustered, Edges, EdgeThresholds, Find, Partition, Point, Trial, Work, unbiased_score
from engine.partitions.settings import PartitionName
from engine.runs.step import Facts, Task
from engine.stages import Cost
from engine.steps.edges import SCORED, iterate_edges

_SMALL = 4 << 20


@dataclass(frozen=True, kw_only=True, eq=False)
class DensityLinked(EdgeThresholds, Clustered):
    """Density-peak linking over all edges of score >= min_score."""

    kind, version = "density_peaks.roots", 5

    def cost(self) -> Cost:
        """Project a few numbers of each vertex."""
        n = self.num_vertices
        return Cost(fixed_bytes=n * 40 + _SMALL, disk_bytes=n * 4, seconds=n * self.score.knn.k / 2e7)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Pass over the edges twice, for densities, then for links."""
        point = self.operating_point(task)
        found = DensityPeaks(self.num_vertices, unbiased_score(point), point["min_score"])
        for visit in (found.add_density, found.link):
            for sources, targets, scores in iterate_edges(task.input(self.score), SCORED):
                visit(sources, targets, scores)
        task.write_npy("roots", found.roots())
        return {**point, "partition": "density_peaks"}


class DensityPeaksPartition(Partition):
    """Links to denser neighbours."""

    name: PartitionName = "density_peaks"
    words = "density peaks"

    def cluster(self, work: Work) -> Clustered:
        """Make the one step."""
        given = self.given(work)
        return DensityLinked(
            score=work.score,
            chosen=self.chosen(work, given),
            given=given,
            learned=work.learned,
            precision_bias=work.config.precision_bias,
        )

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
