"""No model: an edge's score is its cosine similarity."""

from __future__ import annotations

from typing import Any

from engine.config import Settings
from engine.methods.base import GraphShape, Method, Model, which_edges
from engine.plan import Cost, Stage
from engine.stages.edges import EDGE_BYTES, STORED_BYTES, write_edges
from engine.storage.context import TaskContext


class Cosine(Method):
    """The graph as it is, the control beside every learned method."""

    name = "cosine"

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """One stage that lists every undirected edge once."""
        listed = graph.num_rows * graph.k
        cost = Cost(bytes_per_row=graph.k * EDGE_BYTES, disk_bytes=listed * STORED_BYTES, seconds=listed / 1.5e7)
        params = which_edges(settings)
        return [Stage("score", "engine.methods.cosine:score", 1, params, {"knn": "knn"}, graph.num_rows, cost)]


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges of these rows with their similarity as score."""
    return write_edges(task, start, stop, lambda _s, _t, similarities: similarities)
