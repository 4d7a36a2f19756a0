"""No model: an edge's score is its cosine similarity."""

from __future__ import annotations

from engine.methods.base import Graph, Method, Scoring, which_edges
from engine.methods.cosine.steps import CosineScores
from engine.methods.model_card import Model
from engine.settings import Settings


class Cosine(Method):
    """The graph as it is, the control beside every learned method."""

    name = "cosine"

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """One step that lists every undirected edge once."""
        return Scoring(CosineScores(num_rows=graph.num_rows, knn=graph.knn, **which_edges(settings)))
