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
look like the truth: the fitted odds are wrong by a factor, which ``doubts`` estimates from the first
clusters unless ``trees.doubts`` says it. As the labels are that doubtful, the trees are few and shallow, unless the
settings say otherwise, and there is one round: a second one lowers F. Where the first clusters give nothing to learn
from, the result is the clustering by cosine of least codelength, which unlike them leaves nothing out for one percent,
unless nearly all rows are alone in them: then they stand.
"""

from __future__ import annotations

from typing import Any

from engine.clustering.label_free import SHALLOW
from engine.errors import ConfigError
from engine.learning.settings import MetricSettings
from engine.methods.base import Graph, Method, Scoring, Training, which_edges
from engine.methods.model_card import Model
from engine.methods.self_trained.steps import Edges, FirstClusters, FirstMetric, FirstPoint
from engine.methods.structural.method import fit_and_score
from engine.methods.structural.settings import TreesSettings
from engine.partitions import Clustered
from engine.settings import Settings
from engine.steps.labels import OutsideFile
from engine.steps.metric import LearnedMetric


class SelfTrained(Method):
    """Cosine clusters, then the structural scorer fitted to them."""

    name = "self_trained"
    learned = True
    run_sections = (TreesSettings, MetricSettings)
    learns_in_runs = True

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``edges``, ``first_point``, ``first``, of two graphs of few rows; the structural method's fitted to those."""
        trees = TreesSettings(**SHALLOW | settings.of(TreesSettings).model_dump(exclude_unset=True))
        settings = settings.model_copy(update={"trees": trees})

        def metric_of(first: Clustered) -> LearnedMetric:
            return FirstMetric(vectors=graph.rows, first=first, order=graph.order, seed=settings.seed, holdout=0.0)

        return fit_and_score(
            graph, settings, {}, which_edges(settings), lambda each: _first_clusters(each, settings), metric_of
        )[1]

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """Refuse: it learns in every run, from no labels."""
        raise ConfigError("method self_trained learns in every run, without labels; with labels train structural")


def _first_clusters(graph: Graph, settings: Settings) -> FirstClusters:
    step, prefix = settings.partition.step, graph.prefix
    edges = Edges(num_rows=graph.num_rows, knn=graph.knn, scratch=True, prefix=prefix, **which_edges(settings))
    point = FirstPoint(knn=graph.knn, score=None, features=graph.features, step=step, prefix=prefix)
    given: dict[str, Any] = {"min_score": None, "max_size": None}
    return FirstClusters(
        score=edges, chosen=point, given=given, precision_bias=0.0, learned=False, step=step, prefix=prefix
    )
