"""No model: an edge's score is its cosine similarity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.config import Settings
from engine.errors import ConfigError
from engine.methods.base import GraphShape, Model, which_edges
from engine.plan import Cost, Stage
from engine.stages.edges import EDGE_BYTES, STORED_BYTES, write_edges
from engine.storage.context import TaskContext


class Cosine:
    """The graph as it is, the control beside every learned method."""

    name = "cosine"
    learned = False
    needs_model = False
    metric_spaces = 0

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """One stage that lists every undirected edge once."""
        listed = graph.num_rows * graph.k
        cost = Cost(bytes_per_row=graph.k * EDGE_BYTES, disk_bytes=listed * STORED_BYTES, seconds=listed / 1.5e7)
        params = which_edges(settings)
        return [Stage("score", "engine.methods.cosine:score", 1, params, {"knn": "knn"}, graph.num_rows, cost)]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """Refuse: nothing is learned."""
        raise ConfigError("method cosine learns nothing; train with --method star_fc")


def score(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the edges of these rows with their similarity as score."""
    return write_edges(task, start, stop, lambda _s, _t, similarities: similarities)
