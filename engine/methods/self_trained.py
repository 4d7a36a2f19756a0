"""The structural scorer trained on the run's own first clusters: no labels, no model, no threshold.

``first`` clusters the graph by cosine, at the operating point that describes a walk on it in the fewest bits; where few
rows have a neighbour nearer than chance (``engine.clustering.chance``), by such edges, and no other edge counts. The
structural scorer is then fitted to those clusters as if they were identities, all but rows that are alone in theirs:
those were never joined to anything, which is no proof that they should not have been, so nothing is learned from them.
What the trees learn of an edge's surroundings holds beyond the pairs that the first clusters got right (self-training;
Yarowsky, ACL 1995), and the map equation partitions by what they say.

Of few rows, a metric is learned from the first clusters, and all this is done once more in the graph that the metric
gives: other first clusters, with other mistakes. The log-odds of both scorers are averaged.

Edges of rows left alone, most of them wrong, are missing from what was fitted, and the first clusters' own mistakes
look like the truth: the fitted odds are wrong by a factor, which ``engine.learning.doubts`` estimates from the first
clusters unless ``trees.doubts`` says it. As the labels are that doubtful, the trees are few and shallow, unless the
settings say otherwise, and there is one round: a second one lowers F. Where the first clusters give nothing to learn
from, the result is the clustering by cosine of least codelength, which unlike them leaves nothing out for one percent,
unless nearly all rows are alone in them: then they stand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from engine.config import Settings, TreesConfig
from engine.errors import ConfigError
from engine.methods import structural
from engine.methods.base import GraphShape, Method, Model, which_edges
from engine.methods.cosine import Cosine
from engine.plan import Stage
from engine.stages import metric, partition, point

SHALLOW = {"num_trees": 60, "levels": 4, "patience": 15}


class SelfTrained(Method):
    """Cosine clusters, then the structural scorer fitted to them."""

    name = "self_trained"
    learned = True
    run_sections = ("trees", "metric")
    first_metric = "first_metric"

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``edges``, ``first_point``, ``first``, of two graphs of few rows; the structural method's fitted to those."""
        trees = TreesConfig(**SHALLOW | settings.trees.model_dump(exclude_unset=True))
        settings = settings.model_copy(update={"trees": trees})
        learned = []
        if graph.second is not None:
            inputs = {"features": graph.second.shape.originals or "", "first": "first"} | graph.ordered
            params, cost = {"seed": settings.seed, "holdout": 0.0}, metric.learn_cost(graph.num_rows, graph.dim)
            learn = "engine.stages.metric:learn"
            learned = [Stage(self.first_metric, learn, metric.VERSION, params, inputs, 1, cost, granule=1)]

        def first(shape: GraphShape) -> list[Stage]:
            return _first_stages(shape, settings)

        known = {"first": "first"}
        fitting = structural.fitting_stages(graph, settings, {}, known, {}, which_edges(settings), first)
        return [*first(graph), *learned, *fitting]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """Refuse: it learns in every run, from no labels."""
        raise ConfigError("method self_trained learns in every run, without labels; with labels train structural")


def _first_stages(graph: GraphShape, settings: Settings) -> list[Stage]:
    n, k, step = graph.num_rows, graph.k, settings.partition.step
    (edges,) = Cosine().scoring_stages(graph, settings, None)
    chosen: dict[str, Any] = {
        "point": {"min_score": None, "max_size": None}, "step": step, "num_vertices": n,
        "precision_bias": 0.0, "learned": False,
    }  # fmt: skip
    return [
        replace(edges, name="edges", scratch=True),
        Stage("first_point", "engine.stages.point:run", point.VERSION, {"step": step},
              {"knn": "knn", "features": graph.features}, 1, point.cost(n, k), granule=1),
        Stage("first", "engine.stages.partition:propagation", partition.VERSION, chosen,
              {"score": "edges", "point": "first_point"}, 1, partition.propagation_cost(n, k), granule=1),
    ]  # fmt: skip
