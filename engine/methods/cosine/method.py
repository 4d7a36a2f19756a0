"""No model: an edge's score is its cosine similarity."""

from __future__ import annotations

from dataclasses import dataclass

from engine.methods.base import Graph, Method, Scoring, which_edges
from engine.methods.model_card import Model
from engine.runs.step import Task
from engine.settings import Settings
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


class Cosine(Method):
    """The graph as it is, the control beside every learned method."""

    name = "cosine"

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """One step that lists every undirected edge once."""
        return Scoring(CosineScores(num_rows=graph.num_rows, knn=graph.knn, **which_edges(settings)))
