"""The steps of a training: from labelled rows to weights and operating points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.flow.graph import make_committee, make_graph
from engine.flow.metric import allows_second_graph, project, second_graph
from engine.flow.rows import source_rows
from engine.methods.registry import METHODS
from engine.runs.step import in_order
from engine.settings import Settings
from engine.stages import Stage
from engine.steps.labels import OutsideFile
from engine.steps.metric import LearnedMetric
from engine.steps.source import Source


def training_stages(
    source: Source,
    settings: Settings,
    labels: OutsideFile,
    knn_graph: OutsideFile | None = None,
    committee: Sequence[Source] = (),
) -> list[Stage]:
    """The stages that fit a method, and choose its operating points on held-out identities."""
    method, rows = METHODS[settings.method], source_rows(source, settings)
    metric = projected = None
    if method.metric_spaces and settings.metric.learn == "auto" and knn_graph is None:
        holdout = settings.train.holdout if method.metric_spaces == 1 else 0.0  # two spaces hold out each other
        metric = LearnedMetric(vectors=rows, seed=settings.seed, holdout=holdout, **labels.given())
        projected = project(rows, settings, metric, spaces=method.metric_spaces)
    graph = make_graph(rows, settings, knn_graph, projected)
    graph = replace(graph, metric=metric, committee=make_committee(committee, settings, source.num_rows))
    if metric is not None and method.metric_spaces == 2 and allows_second_graph(rows, settings):
        graph = replace(graph, second=second_graph(rows, settings))
    training = method.train(graph, settings, labels)
    recalls = [member.recall for member in (graph, *graph.committee)]
    return in_order(*recalls, *training.further, training.fit, training.select)
