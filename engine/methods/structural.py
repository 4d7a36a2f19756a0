"""Structural scorer: boosted trees over what the KNN graph alone says about an edge, whatever the vectors are of.

``neighborhoods`` summarises each vertex, ``prior`` gives a first score to all that each vertex lists, ``score`` gives
every edge its final one from its own inputs and the priors around it. Training fits the first score on either half of
the identities (``fit_prior``), so that the second (``fit``) learns from priors of edges not learned by heart.
With labels a metric is learned first and the graph is built in it (``engine.stages.metric``). A model without one has
no dimension: trained on some vectors it scores any others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from engine.config import Settings
from engine.errors import DataError
from engine.graph.overlaps import AVERAGED, NUM_PROFILE
from engine.learning import metric, structural
from engine.learning.tensors import read_arrays
from engine.methods.base import METRIC, MODEL, GraphShape, Method, Model, select_stage, which_edges
from engine.methods.structural_tasks import SECOND_TENSORS
from engine.plan import Cost, Stage, name_apart

VERSION = 10
SECOND = "second_"  # before the names of the second graph's stages
_TASKS = "engine.methods.structural_tasks"


class Structural(Method):
    """The structural scorer's stages."""

    name = "structural"
    learned = True
    needs_model = True
    metric_spaces = 2
    run_sections = ("metric",)
    training_sections = ("trees",)

    def check_weights(self, model: Model) -> None:
        """Refuse what is no scorer: trees that split on inputs there are not, a metric of another dimension."""
        tensors = read_arrays(model.weights)
        projected = METRIC in model.facts
        second = {
            name.removeprefix(SECOND_TENSORS): tensor
            for name, tensor in tensors.items()
            if name.startswith(SECOND_TENSORS)
        }
        try:
            structural.check_tensors(tensors, originals=projected)
            if second or model.facts.get("second_graph"):
                structural.check_tensors(second, originals=False)
                structural.check_alone(tensors)
            if projected and len(metric.from_tensors(tensors).mean) != model.dim:
                raise DataError(f"the metric is not of {model.dim} dimensions")
        except DataError as error:
            raise DataError(f"{model.weights}: {error}; {MODEL.remedy}") from None

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``neighborhoods``, ``prior`` and ``score``, with the trees of ``model``."""
        assert model is not None
        params = {"model": model.digest, "projected": graph.originals is not None}
        where = {"weights": model.weights}

        def prepared(shape: GraphShape, tensors: str) -> list[Stage]:
            given = {"model": model.digest, "projected": shape.originals is not None, "tensors": tensors}
            prior = Stage(
                "prior", f"{_TASKS}:prior", VERSION, given, _inputs(shape), shape.num_rows, _cost(shape, 2), where
            )
            return [_neighborhoods(shape), prior]

        given = {"model": model.digest, "tensors": SECOND_TENSORS}
        second = _second_stages(graph, lambda shape: prepared(shape, SECOND_TENSORS), given, {}, where)
        return [
            *second, *prepared(graph, ""), _score(graph, params | which_edges(settings, model), {}, where, second),
        ]  # fmt: skip

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``neighborhoods``, ``fit_prior``, ``prior``, ``fit``, ``score`` of the whole graph, and ``select``."""
        where = {"labels": labels["labels"], "column": labels["column"]}
        select = select_stage(graph, settings, labels, settings.trees.holdout)
        return [
            *fitting_stages(graph, settings, {"labels": labels["digest"]}, {}, where, which_edges(settings)),
            select,
        ]


def fitting_stages(
    graph: GraphShape, settings: Settings, params: Mapping[str, Any], known: Mapping[str, str],
    where: Mapping[str, Any], edges: Mapping[str, Any], before: Callable[[GraphShape], list[Stage]] = lambda _: [],
) -> list[Stage]:  # fmt: skip
    """``neighborhoods``, ``fit_prior``, ``prior``, ``fit``, and ``score`` of the whole graph; first those of a second.

    Identities are those of the labels that ``where`` names, or of the stage ``first`` among the inputs ``known``, which
    ``before`` makes of the second graph.
    """

    def fits(shape: GraphShape, further: Mapping[str, str]) -> list[Stage]:
        return _fits(shape, settings, params, known, where, further)

    second = _second_stages(graph, lambda shape: [*before(shape), *fits(shape, {})], {}, {"fit": "fit"}, {})
    projected = {"projected": graph.originals is not None}
    return [
        *second, *fits(graph, _second_inputs(graph) | {"second_fit": f"{SECOND}fit"} if second else {}),
        _score(graph, {**edges, **projected}, {"fit": "fit", **known}, {}, second),
    ]  # fmt: skip


def _fits(
    graph: GraphShape, settings: Settings, params: Mapping[str, Any], known: Mapping[str, str],
    where: Mapping[str, Any], further: Mapping[str, str],
) -> list[Stage]:  # fmt: skip
    projected = {"projected": graph.originals is not None}
    given = dict(params) | projected | {"trees": settings.trees.model_dump(mode="json"), "seed": settings.seed}
    inputs = {**_inputs(graph), **graph.ordered, **known}
    fitted = {"fit_prior": "fit_prior"}
    final = {"prior": "prior", **({"metric": graph.metric} if graph.metric else {}), **further}
    drawn = settings.trees.max_edges * 5 // 4
    cost = Cost(
        fixed_bytes=graph.num_rows * 40 + drawn * (structural.NUM_ALL * 9 + 120) + (64 << 20),
        disk_bytes=4 << 20, seconds=drawn * (settings.trees.num_trees * settings.trees.levels / 8e6 + 1e-5),
    )  # fmt: skip
    return [
        _neighborhoods(graph),
        Stage("fit_prior", f"{_TASKS}:fit_prior", VERSION, given, inputs, 1, cost, where, granule=1),
        Stage("prior", f"{_TASKS}:prior", VERSION, given, inputs | fitted, graph.num_rows, _cost(graph, 2), where),
        Stage("fit", f"{_TASKS}:fit", VERSION, given, inputs | fitted | final, 1, cost, where, granule=1),
    ]


def _second_stages(
    graph: GraphShape, prepared: Callable[[GraphShape], list[Stage]], params: Mapping[str, Any],
    inputs: Mapping[str, str], where: Mapping[str, Any],
) -> list[Stage]:  # fmt: skip
    """Stages of the second graph, if there is one: the graph's, those ``prepared``, and ``listed``, its scores."""
    if graph.second is None:
        return []
    shape = graph.second.shape
    given = {"projected": shape.originals is not None, **params}
    read = _inputs(shape) | {"prior": "prior", **inputs}
    listed = Stage("listed", f"{_TASKS}:listed", VERSION, given, read, shape.num_rows, _cost(shape, 2), where)
    return name_apart([*graph.second.stages, *prepared(shape), listed], SECOND)[0]


def _second_inputs(graph: GraphShape) -> dict[str, str]:
    orders = graph.ordered | ({"second_order": f"{SECOND}order"} if graph.order else {})
    return {"second": f"{SECOND}listed", "second_knn": f"{SECOND}knn", **orders}


def _neighborhoods(graph: GraphShape) -> Stage:
    n, k, dim = graph.num_rows, graph.k, graph.dim
    row_bytes = NUM_PROFILE * 4 + (len(AVERAGED) + (graph.originals is not None)) * dim * 2
    cost = Cost(bytes_per_row=row_bytes + dim * 8 + k * 8, disk_bytes=n * row_bytes, seconds=n * dim / 1e7)
    inputs = {"features": graph.features, "knn": "knn"}
    if graph.originals:
        inputs |= {"originals": graph.originals} | graph.ordered
    return Stage("neighborhoods", f"{_TASKS}:summarise", VERSION, {}, inputs, n, cost)


def _inputs(graph: GraphShape) -> dict[str, str]:
    return {"neighborhoods": "neighborhoods", "knn": "knn"}


def _score(
    graph: GraphShape, params: Mapping[str, Any], fitted: Mapping[str, str], where: Mapping[str, Any],
    second: list[Stage],
) -> Stage:  # fmt: skip
    inputs = _inputs(graph) | {"prior": "prior", **fitted}
    if second:
        inputs |= _second_inputs(graph)
    return Stage("score", f"{_TASKS}:score", VERSION, dict(params), inputs, graph.num_rows, _cost(graph, 16), where)


def _cost(graph: GraphShape, entry_bytes: int) -> Cost:
    return Cost(
        bytes_per_row=graph.k * 64, fixed_bytes=64 << 20, disk_bytes=graph.num_rows * graph.k * entry_bytes,
        seconds=graph.num_rows * graph.k / 5e5,
    )  # fmt: skip
