"""Structural scorer: boosted trees over what the KNN graph alone says about an edge, whatever the vectors are of.

``neighborhoods`` summarises each vertex, ``prior`` gives a first score to all that each vertex lists, ``score`` gives
every edge its final one from its own inputs and the priors around it. Training fits the first score on either half of
the identities (``fit_prior``), so that the second (``fit``) learns from priors of edges not learned by heart.
With labels a metric is learned first and the graph is built in it (``engine.steps.metric``). A model without one has
no dimension: trained on some vectors it scores any others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from engine.errors import DataError
from engine.learning import metric
from engine.learning.settings import MetricSettings
from engine.learning.tensors import read_arrays
from engine.methods.base import Graph, Method, Scoring, Training, select, which_edges
from engine.methods.fitting import from_model
from engine.methods.model_card import MODEL, Model
from engine.methods.structural import scorer as structural
from engine.methods.structural.settings import TreesSettings
from engine.methods.structural.steps import (
    SECOND_TENSORS,
    First,
    Fit,
    FitPrior,
    Listed,
    Neighborhoods,
    Prior,
    StructuralScores,
)
from engine.settings import Settings
from engine.steps.edges import Scores
from engine.steps.labels import OutsideFile
from engine.steps.metric import LearnedMetric


class Structural(Method):
    """Boosted trees over neighbourhoods."""

    name = "structural"
    learned = True
    needs_model = True
    adapts = True
    metric_spaces = 2
    any_dimension = True
    run_sections = (MetricSettings,)
    training_sections = (TreesSettings,)
    learns_in_halves = True

    def holdout(self, settings: Settings) -> float | None:
        """Return the share of identities that the trees hold out."""
        return settings.of(TreesSettings).holdout

    def check_weights(self, model: Model) -> None:
        """Refuse what is no scorer: trees that split on inputs there are not, a metric of another dimension."""
        tensors = read_arrays(model.weights)
        projected = model.projects
        second = {
            name.removeprefix(SECOND_TENSORS): tensor
            for name, tensor in tensors.items()
            if name.startswith(SECOND_TENSORS)
        }
        try:
            structural.check_tensors(tensors, originals=projected)
            if second or model.nature.second_graph:
                structural.check_tensors(second, originals=False)
                structural.check_alone(tensors)
            if projected and len(metric.from_tensors(tensors).mean) != model.dim:
                raise DataError(f"the metric is not of {model.dim} dimensions")
        except DataError as error:
            raise DataError(f"{model.weights}: {error}; {MODEL.remedy}") from None

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """``neighborhoods``, ``prior`` and ``score``, with the trees of ``model``."""
        assert model is not None
        given = from_model(model)
        second, further = None, None
        if graph.second is not None:
            other = graph.second(None)
            around = neighborhoods(other)
            prior = Prior(**_of(other, around), **given, tensors=SECOND_TENSORS)
            listed = Listed(**_of(other, around), prior=prior, **given, tensors=SECOND_TENSORS)
            second, further = Second(other, listed, None), other.recall
        around, edges = neighborhoods(graph), which_edges(settings, model)
        prior = Prior(**_of(graph, around), **given)
        return Scoring(_scores(graph, around, prior, second, **given, **edges), (further,))

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``neighborhoods``, ``fit_prior``, ``prior``, ``fit``, ``score`` of the whole graph, and ``select``."""
        fit, scoring = fit_and_score(graph, settings, labels.given(), which_edges(settings))
        chosen = select(graph, settings, labels, scoring.score, settings.of(TreesSettings).holdout)
        return Training(fit, chosen, scoring.further)


class Second(NamedTuple):
    """A second graph, the scores of what its rows list, and the fit that these are of."""

    graph: Graph
    listed: Listed
    fit: Fit | None


def fit_and_score(
    graph: Graph,
    settings: Settings,
    known: dict[str, Any],
    edges: dict[str, Any],
    first_of: Callable[[Graph], tuple[First, Scores]] | None = None,
    metric_of: Callable[[First], LearnedMetric] | None = None,
) -> tuple[Fit, Scoring]:
    """The scorer fitted to the graph, and to the second one if there is any, and the scores of all edges.

    Identities are those of the labels that the fields ``known`` name, or of the clusters that ``first_of`` makes of a
    graph, with the scores that stand if they teach nothing; ``metric_of`` learns the metric of a second graph from the
    first one's clusters.
    """
    first, otherwise = first_of(graph) if first_of else (None, None)
    second, further = None, None
    if graph.second is not None:
        other = graph.second(metric_of(first) if metric_of and first is not None else None)
        other_first = first_of(other)[0] if first_of else None
        around, prior, fit = _fits(other, settings, known, other_first, None)
        second, further = Second(other, Listed(**_of(other, around), prior=prior, fit=fit), fit), other.recall
    around, prior, fit = _fits(graph, settings, known, first, second)
    score = _scores(graph, around, prior, second, fit=fit, first=first, otherwise=otherwise, **edges)
    return fit, Scoring(score, (further,))


def neighborhoods(graph: Graph) -> Neighborhoods:
    """What surrounds each vertex of the graph."""
    return Neighborhoods(
        prefix=graph.prefix,
        num_rows=graph.num_rows,
        features=graph.features,
        knn=graph.knn,
        originals=graph.originals,
        order=graph.order if graph.originals is not None else None,
    )


def _fits(
    graph: Graph, settings: Settings, known: dict[str, Any], first: First | None, second: Second | None
) -> tuple[Neighborhoods, Prior, Fit]:
    around = neighborhoods(graph)
    shared: dict[str, Any] = {
        "prefix": graph.prefix,
        "neighborhoods": around,
        "knn": graph.knn,
        "order": graph.order,
        "first": first,
        "trees": settings.of(TreesSettings),
        "seed": settings.seed,
        **known,
    }
    fit_prior = FitPrior(**shared)
    prior = Prior(num_rows=graph.num_rows, fit=fit_prior, **shared)
    fit = Fit(
        fit_prior=fit_prior,
        prior=prior,
        metric=graph.metric,
        second_fit=second.fit if second else None,
        **shared | _beside(graph, second),
    )
    return around, prior, fit


def _of(graph: Graph, around: Neighborhoods) -> dict[str, Any]:
    return {"prefix": graph.prefix, "num_rows": graph.num_rows, "neighborhoods": around, "knn": graph.knn}


def _beside(graph: Graph, second: Second | None) -> dict[str, Any]:
    """The fields of a step that reads a second graph's scores."""
    if second is None:
        return {}
    orders = {"order": graph.order, "second_order": second.graph.order} if graph.order is not None else {}
    return {"second": second.listed, "second_knn": second.graph.knn, **orders}


def _scores(graph: Graph, around: Neighborhoods, prior: Prior, second: Second | None, **given: Any) -> StructuralScores:
    return StructuralScores(**_of(graph, around) | _beside(graph, second) | given, prior=prior)
