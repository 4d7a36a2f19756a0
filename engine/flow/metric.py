"""Vectors in a learned metric, and the second graph of the same rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engine.flow.graph import make_graph
from engine.methods.base import Graph
from engine.runs.step import Step
from engine.settings import Settings
from engine.steps.ingest import Rows
from engine.steps.metric import LearnedMetric, Project


def project(rows: Rows, settings: Settings, metric: Step[Any] | None, spaces: int = 1, **given: Any) -> Project:
    """The step that projects the rows: by the ``metric`` that a step writes, or by the model in ``given``."""
    return Project(
        num_rows=rows.num_rows, dim=spaces * rows.dim, vectors=rows, metric=metric, dtype=settings.ingest.dtype, **given
    )


def allows_second_graph(rows: Rows, settings: Settings) -> bool:
    """Tell whether the settings let edges of so many rows be scored in two graphs."""
    return settings.metric.learn == "auto" and rows.num_rows <= settings.metric.second_graph_rows


def second_graph(rows: Rows, settings: Settings) -> Callable[[LearnedMetric | None], Graph]:
    """Return what makes a second graph of the same rows: of the vectors as they are, or in a given metric."""

    def make(metric: LearnedMetric | None) -> Graph:
        projected = project(rows, settings, metric, prefix="second_") if metric else None
        return make_graph(rows, settings, None, projected, "second_")

    return make
