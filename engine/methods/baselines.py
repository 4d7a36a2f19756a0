"""The field's baselines as methods: they give clusters at once, by vectors or KNN graph, and score no edge.

Parameters are those of section ``baseline``; training chooses them by pairwise F on labelled vectors, all of them, and
a model holds nothing else. The number of clusters is kept as rows per cluster. Edges are the cosine graph's, for the
report. A size beyond a baseline is refused before anything runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from engine.clustering import baselines
from engine.clustering.baselines import Point, Sample, Search
from engine.config import BaselineConfig, MethodName, Settings
from engine.errors import ConfigError
from engine.evaluation.metrics import f_from_counts, pair_counts
from engine.methods.base import GraphShape, Method, Model, select_own_stage
from engine.methods.cosine import Cosine
from engine.methods.fitting import write_weights
from engine.plan import Cost, Stage
from engine.stages.metric import vertex_identities
from engine.storage.context import TaskContext

VERSION = 3
DISTANCES = tuple(round(float(each), 2) for each in np.arange(0.05, 0.81, 0.01))
_HERE = "engine.methods.baselines"


@dataclass(frozen=True)
class Kind:
    """How a baseline searches, among what, the most rows it takes, and its memory: bytes per row, and per pair."""

    search: Search
    values: Mapping[str, tuple[Any, ...]]
    most_rows: int = 10_000_000
    row_bytes: int = 2_000
    pair_bytes: int = 0
    pair_seconds: float = 0.0


_PAIRS: dict[str, Any] = {"most_rows": 40_000, "pair_bytes": 8, "pair_seconds": 3e-8}
_HEIGHTS = tuple(round(float(each), 2) for each in np.geomspace(0.05, 200, 80))  # of merges, which grow with the rows
_RANKS = tuple(round(float(each), 3) for each in np.geomspace(0.02, 4, 40))
KINDS: dict[MethodName, Kind] = {
    "kmeans": Kind(baselines.kmeans, {"num_clusters": ()}, most_rows=1_000_000, pair_seconds=2e-9),
    "minibatch_kmeans": Kind(baselines.minibatch_kmeans, {"num_clusters": ()}, most_rows=3_000_000),
    "spectral": Kind(baselines.spectral, {"num_clusters": ()}, most_rows=100_000, row_bytes=8_000),
    "ward": Kind(baselines.ward, {"distance": _HEIGHTS}, **_PAIRS),
    "average_linkage": Kind(baselines.average_linkage, {"distance": DISTANCES}, **_PAIRS),
    "single_linkage": Kind(baselines.single_linkage, {"distance": DISTANCES}),
    "dbscan": Kind(baselines.dbscan, {"min_rows": (2, 5), "distance": DISTANCES[::4]}, most_rows=100_000,
                   pair_seconds=4e-9),
    "knn_dbscan": Kind(baselines.knn_dbscan, {"min_rows": (2, 3, 5, 10), "distance": DISTANCES}),
    "hdbscan": Kind(baselines.hdbscan, {"min_rows": (2, 4), "selection": ("eom", "leaf")}, most_rows=40_000,
                    pair_seconds=3e-8),
    "mean_shift": Kind(baselines.mean_shift, {"distance": (0.2, 0.3, 0.4)}, most_rows=5_000, pair_seconds=1e-6),
    "chinese_whispers": Kind(baselines.chinese_whispers, {"distance": DISTANCES[::2]}),
    "rank_order": Kind(baselines.rank_order, {"distance": _RANKS}),
}  # fmt: skip


class Baseline(Method):
    """One of ``KINDS``."""

    partitions = ("own",)
    chooses = True
    run_sections = ("baseline",)
    read_facts = ("point",)

    def __init__(self, name: MethodName) -> None:
        self.name, self.kind = name, KINDS[name]

    def scoring_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """The cosine graph's edges, for the report."""
        return Cosine().scoring_stages(graph, settings, None)

    def clustering_stages(self, graph: GraphShape, settings: Settings, model: Model | None) -> list[Stage]:
        """``roots`` at the parameters set, else the model's; raises ``ConfigError`` where one is neither."""
        point = self._point(graph.num_rows, settings.baseline, dict(model.facts["point"]) if model else {})
        return [self._stage("roots", graph, {"point": point, "seed": settings.seed}, {}, 1)]

    def training_stages(self, graph: GraphShape, settings: Settings, labels: Mapping[str, Any]) -> list[Stage]:
        """``fit``, which chooses the parameters, and ``select``, which hands them on."""
        where = {"labels": labels["labels"], "column": labels["column"]}
        params = {"seed": settings.seed, "labels": labels["digest"]}
        tried = int(np.prod([len(values) or 1 for values in self.kind.values.values()]))
        return [self._stage("fit", graph, params, where, tried), select_own_stage()]

    def _stage(
        self, name: str, graph: GraphShape, params: Mapping[str, Any], where: Mapping[str, Any], tried: int
    ) -> Stage:
        n, kind = graph.num_rows, self.kind
        if n > kind.most_rows:
            raise ConfigError(
                f"method {self.name} takes at most {kind.most_rows:,} rows, the source has {n:,}"
                + (f"; it would need {n * n // 2 * kind.pair_bytes / 1e9:,.0f} GB" if kind.pair_bytes else "")
            )
        inputs = {"features": graph.features, "knn": "knn"} | graph.ordered
        cost = Cost(
            fixed_bytes=n * (kind.row_bytes + graph.dim * 12 + graph.k * 40) + n * n // 2 * kind.pair_bytes,
            disk_bytes=n * 4, seconds=n * graph.k / 5e6 * tried + n * n * kind.pair_seconds * min(tried, 4),
        )  # fmt: skip
        given = {"kind": self.name, **params}
        function = f"{_HERE}:{'cluster' if name == 'roots' else 'fit'}"
        return Stage(name, function, VERSION, given, inputs, 1, cost, where, granule=1)

    def _point(self, num_rows: int, config: BaselineConfig, chosen: Point) -> Point:
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


def fit(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Choose the point of best pairwise F, the first of equals; the weights are none."""
    identities_N, kind = vertex_identities(task), KINDS[task.params["kind"]]
    write_weights(task, {})
    known = np.flatnonzero(identities_N >= 0)
    if "num_clusters" in kind.values:
        count = len(np.unique(identities_N[known]))
        return {"point": {"rows_per_cluster": len(known) / count}}
    points = [dict(zip(kind.values, each, strict=True)) for each in product(*kind.values.values())]
    points = [point for point in points if point.get("min_rows", 0) <= len(identities_N)]
    scores = []
    for number, labels_N in enumerate(kind.search(_sample(task), points)):
        scores.append(f_from_counts(pair_counts(labels_N[known], identities_N[known])))
        task.report((number + 1) / len(points), f"point {number + 1} of {len(points)}")
    best = int(np.argmax(scores))
    return {"point": points[best], "train_f": scores[best]}


def cluster(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write ``roots`` (N,): the lowest vertex of each vertex's cluster."""
    point, kind = dict(task.params["point"]), KINDS[task.params["kind"]]
    (labels_N,) = kind.search(_sample(task), [point])
    first, places = np.unique(labels_N, return_index=True, return_inverse=True)[1:]
    task.write_npy("roots", first[places].astype(np.int32))
    return {**point, "partition": "own"}


def _sample(task: TaskContext) -> Sample:
    neighbors_NK, similarities_NK = (np.asarray(task.array("knn", name)) for name in ("neighbors", "similarities"))
    return Sample(task.array("features", "features"), neighbors_NK, similarities_NK, task.params["seed"], task.threads)
