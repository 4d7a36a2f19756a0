"""The field's baselines as methods: they give clusters at once, by vectors or KNN graph, and score no edge.

Parameters are those of section ``baseline``; training chooses them by pairwise F on labelled vectors, all of them, and
a model holds nothing else. The number of clusters is kept as rows per cluster. Edges are the cosine graph's, for the
report. A size beyond a baseline is refused before anything runs.
"""

from __future__ import annotations

from typing import Any

from engine.errors import ConfigError
from engine.methods.base import Graph, Method, Scoring, Training
from engine.methods.baselines.searches import Point
from engine.methods.baselines.settings import BaselineSettings
from engine.methods.baselines.steps import KINDS, BaselineClusters, ChoosePoint
from engine.methods.cosine.method import Cosine
from engine.methods.model_card import Model
from engine.partitions import OWN, Clustered
from engine.partitions.select import SelectOwn
from engine.settings import Settings
from engine.steps.edges import Scores
from engine.steps.labels import OutsideFile


class Baseline(Method):
    """One of ``KINDS``."""

    partitions = (OWN,)
    chooses = True
    run_sections = (BaselineSettings,)
    read_facts = ("point",)

    def __init__(self, name: str) -> None:
        self.name, self.kind = name, KINDS[name]

    def score(self, graph: Graph, settings: Settings, model: Model | None) -> Scoring:
        """The cosine graph's edges, for the report."""
        return Cosine().score(graph, settings, None)

    def cluster(self, graph: Graph, settings: Settings, model: Model | None, score: Scores) -> Clustered:
        """``roots`` at the parameters set, else the model's; raises ``ConfigError`` where one is neither."""
        point = self._point(
            graph.num_rows,
            settings.of(BaselineSettings),
            model.nature.point.model_dump(exclude_unset=True) if model else {},
        )
        return BaselineClusters(**self._searching(graph, settings), point=point)

    def train(self, graph: Graph, settings: Settings, labels: OutsideFile) -> Training:
        """``fit``, which chooses the parameters, and ``select``, which hands them on."""
        fit = ChoosePoint(**self._searching(graph, settings), **labels.given())
        return Training(fit, SelectOwn(fit=fit))

    def _searching(self, graph: Graph, settings: Settings) -> dict[str, Any]:
        n, kind = graph.num_rows, self.kind
        if n > kind.most_rows:
            raise ConfigError(
                f"method {self.name} takes at most {kind.most_rows:,} rows, the source has {n:,}"
                + (f"; it would need {n * n // 2 * kind.pair_bytes / 1e9:,.0f} GB" if kind.pair_bytes else "")
            )
        return {
            "features": graph.features,
            "knn": graph.knn,
            "order": graph.order,
            "baseline": self.name,
            "seed": settings.seed,
        }

    def _point(self, num_rows: int, config: BaselineSettings, chosen: Point) -> Point:
        if "rows_per_cluster" in chosen:
            chosen["num_clusters"] = max(1, round(num_rows / chosen.pop("rows_per_cluster")))
        most = {"num_clusters": num_rows - (self.name == "spectral"), "min_rows": num_rows}
        point = {}
        for name in self.kind.values:
            value, limit = getattr(config, name), most.get(name)
            if value is not None and limit is not None and value > limit:
                raise ConfigError(
                    f"baseline.{name} = {value}: method {self.name} takes at most {limit:,} for {num_rows:,} rows"
                )
            if value is None and name in chosen:
                value = chosen[name] if limit is None else min(chosen[name], limit)
            if value is None:
                raise ConfigError(
                    f"method {self.name} needs baseline.{name}: set it, or choose it on labelled vectors with "
                    f"asterism train --method {self.name} and give --model"
                )
            point[name] = value
        return point
