"""The cosine method's step."""

from __future__ import annotations

from dataclasses import dataclass

from engine.runs.step import Task
from engine.stages import Cost
from engine.steps.edges import EDGE_BYTES, STORED_BYTES, EdgeFacts, Scores


@dataclass(frozen=True, kw_only=True, eq=False)
class CosineScores(Scores):
    """Every edge with its similarity as score."""

    kind, version = "cosine.score", 1

    def cost(self) -> Cost:
        """A block of edges."""
        listed = self.num_rows * self.knn.k
        return Cost(bytes_per_row=self.knn.k * EDGE_BYTES, disk_bytes=listed * STORED_BYTES, seconds=listed / 1.5e7)

    def run(self, task: Task, start: int, stop: int) -> EdgeFacts:
        """Write the edges of these rows."""
        return self.write(task, start, stop, lambda _s, _t, similarities: similarities)
