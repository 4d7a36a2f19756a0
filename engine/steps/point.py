"""Step point: an operating point chosen from the graph, if no threshold is set and no model brings one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from engine.clustering.chance import chance_similarity
from engine.clustering.operating_point import TILE_ROWS, choose_operating_point, choose_scored_point
from engine.runs.step import Step, Task
from engine.stages import Cost
from engine.steps.edges import Scores, iterate_edges
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenPoint(Step[dict[str, Any]]):
    """``point.json``: min_score, max_size and the reason in words, for learned scores if given, else for cosines.

    For cosines, ``chance`` is the cosine from which a neighbour is nearer than chance, if few rows have one.
    """

    kind, version, title = "point", 3, "point"
    knn: Knn
    score: Scores | None
    features: Vectors[Any] | None
    step: float

    def cost(self) -> Cost:
        """Project a walk over the lists."""
        n, k = self.knn.num_rows, self.knn.k
        tile = min(n, TILE_ROWS) * k * 62
        return Cost(fixed_bytes=n * 120, bytes_per_thread=tile, disk_bytes=4096, seconds=n * k / 2.8e6)

    def run(self, task: Task, start: int, stop: int) -> dict[str, Any]:
        """Choose the operating point."""
        neighbors_NK, similarities_NK = task.array(self.knn, "neighbors"), task.array(self.knn, "similarities")
        facts: dict[str, Any] = {}
        if self.score is not None:
            folder = task.input(self.score)
            point = choose_scored_point(
                neighbors_NK,
                similarities_NK,
                lambda: iterate_edges(folder, ("source", "target", "score")),
                step=self.step,
                threads=task.threads,
            )
        else:
            chance = None
            if self.features is not None:
                features_ND = task.array(self.features, "features")
                chance = chance_similarity(features_ND, neighbors_NK, similarities_NK, threads=task.threads)
            if chance is not None:
                facts["chance"] = chance
            point = choose_operating_point(
                neighbors_NK, similarities_NK, chance=chance, step=self.step, threads=task.threads
            )
        facts |= {"min_score": float(point.min_score), "max_size": int(point.max_size), "reason": point.reason}
        task.write_json("point", facts)
        return facts
