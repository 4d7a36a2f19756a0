"""The structural scorer trained on the run's own first clusters: no labels, no model, no threshold.

The mean of all vectors is taken away, because a direction that all rows share tells none apart, and copies of a row are
left out of the graph. Then two opinions say who belongs together. ``by_evidence`` joins rows where strangers do not
explain how similar they are (``strangers``). ``by_codelength`` joins rows so that a walk on the graph takes the fewest
bits. They err in different ways, so the structural scorer is fitted to the edges of which both say the same, as if
those were known (co-training; Blum and Mitchell, COLT 1998). It ranks all edges, opinions say how many are true
(``odds``), and the map equation partitions by the probabilities.

If there are not too many rows, a metric is learned from the first clusters, and all this is done once more in the graph
that the metric gives. The log-odds of both scorers are averaged. The trees are few and shallow, unless the settings say
otherwise. Where the first clusters give nothing to learn from, those by evidence are the result.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from engine.clustering.label_free import LEAST_PROBABILITY, SHALLOW
from engine.errors import ConfigError
from engine.learning.settings import MetricSettings
from engine.methods.base import Graph, Method, Scoring, Training, which_edges
from engine.methods.model_card import Model
from engine.methods.self_trained.copies import CountedOnce, Distinct, NearCopies, NearDistinct
from engine.methods.self_trained.odds import corrected
from engine.methods.self_trained.steps import (
    Agreed,
    ByCodelength,
    ByEvidence,
    CodelengthForest,
    Edges,
    EdgesCrossing,
    EvidenceCrossing,
    EvidenceScores,
    FirstPoint,
    FoundStrangers,
    ListedStrangers,
    NearStrangers,
)
from engine.methods.structural.method import fit_and_score
from engine.methods.structural.settings import TreesSettings
from engine.methods.structural.steps import First
from engine.settings import Settings
from engine.steps.copies import Copies
from engine.steps.edges import Scores
from engine.steps.labels import OutsideFile
from engine.steps.metric import LearnedMetric


class FirstMetric(LearnedMetric):
    """The second graph's metric, learned from first clusters."""

    title = "first_metric"


class SelfTrained(Method):
    """Two opinions without labels, then the structural scorer fitted to what they agree on."""

    name = "self_trained"
    learned = True
    run_sections = (TreesSettings, MetricSettings)
    learns_in_runs = True

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """The steps of both opinions, of two graphs if rows are not too many, and of the scorer fitted to them."""
        trees = TreesSettings(**SHALLOW | settings.of(TreesSettings).model_dump(exclude_unset=True))
        settings = settings.model_copy(update={"trees": trees})
        listed, copies = counted_once(graph, settings.seed)
        make_second = graph.second
        graph = without_copies(graph, copies)
        if make_second is not None:
            graph = replace(graph, second=lambda metric: without_copies(make_second(metric), copies))

        def metric_of(first: First) -> LearnedMetric:
            return FirstMetric(vectors=graph.rows, first=first, order=graph.order, seed=settings.seed, holdout=0.0)

        def first_of(each: Graph) -> tuple[Agreed, Scores]:
            first = opinions(each, settings, copies, listed if each.prefix == graph.prefix else None)
            return first, first.by_evidence.score

        fit, scoring = fit_and_score(graph, settings, {}, which_edges(settings), first_of, metric_of)
        assert isinstance(fit.first, Agreed)
        score = corrected(scoring.score, fit.first, copies, graph.order, fit)
        return scoring._replace(score=score, copies=copies, opinions=score.said)

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """Refuse: it learns in every run, from no labels."""
        raise ConfigError("method self_trained learns in every run, without labels; with labels train structural")


def counted_once(graph: Graph, seed: int) -> tuple[ListedStrangers, CountedOnce]:
    """The strangers of a graph as it was searched, and the copies to leave out of it."""
    listed = ListedStrangers(prefix=graph.prefix, features=graph.features, knn=graph.knn, seed=seed)
    near = NearCopies(prefix=graph.prefix, features=graph.features, knn=graph.knn, order=graph.order, strangers=listed)
    distinct = NearDistinct(**_lists(graph, near), scratch=True)
    counted: dict[str, Any] = {"order": graph.order, "copies": near, "listed": listed}
    without = NearStrangers(prefix=graph.prefix, features=graph.features, knn=distinct, seed=seed, **counted)
    return listed, CountedOnce(prefix=graph.prefix, near=near, without=without, listed=listed)


def without_copies(graph: Graph, copies: Copies) -> Graph:
    """The same graph, whose lists leave copies out, and whose scorer reads no vectors but those searched."""
    return replace(graph, knn=Distinct(**_lists(graph, copies)), originals=None)


def _lists(graph: Graph, copies: Copies) -> dict[str, Any]:
    """The fields of the graph's lists without copies."""
    knn = graph.knn
    shared = {"num_rows": knn.num_rows, "features": knn.features, "rows": knn.rows, "k": knn.k, "order": knn.order}
    return {"prefix": graph.prefix, "listed": knn, "copies": copies, **shared}


def opinions(graph: Graph, settings: Settings, copies: Copies, listed: ListedStrangers | None) -> Agreed:
    """Both opinions, and where they agree.

    ``copies``: what the graph's lists leave out. ``listed``: the strangers of the same graph with its copies.
    """
    step, prefix = settings.partition.step, graph.prefix
    edges = {"num_rows": graph.num_rows, "knn": graph.knn, "scratch": True, "prefix": prefix, **which_edges(settings)}
    strangers = FoundStrangers(
        prefix=prefix,
        features=graph.features,
        knn=graph.knn,
        seed=settings.seed,
        order=graph.order,
        copies=copies,
        listed=listed,
    )
    evident = EvidenceScores(strangers=strangers, **edges)
    crossing: dict[str, Any] = {"num_rows": graph.num_rows, "scratch": True, "prefix": prefix}
    by_evidence = ByEvidence(
        prefix=prefix,
        score=evident,
        crossing=EvidenceCrossing(score=evident, **crossing),
        chosen=None,
        given={"min_score": LEAST_PROBABILITY, "weight": "log_odds"},
        precision_bias=0.0,
        learned=True,
        seed=settings.seed,
        offered=graph.k,
    )
    cosines = Edges(**edges)
    cut: dict[str, Any] = {
        "prefix": prefix,
        "score": cosines,
        "chosen": FirstPoint.along(graph.knn, score=None, features=None, step=step, prefix=prefix),
        "given": {"min_score": None, "max_size": None},
        "precision_bias": 0.0,
        "learned": False,
        "step": step,
    }
    forest = CodelengthForest(num_rows=graph.num_rows, **cut, scratch=True)
    by_codelength = ByCodelength(forest=forest, **cut)
    return Agreed(
        prefix=prefix,
        by_evidence=by_evidence,
        by_codelength=by_codelength,
        strangers=strangers,
        edges=cosines,
        crossing=EdgesCrossing(score=cosines, **crossing),
        knn=graph.knn,
        seed=settings.seed,
    )
