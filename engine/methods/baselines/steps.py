"""The baselines' steps: what each searches, the parameters that training tries, and the clusters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from engine.evaluation.metrics import f_from_counts, pair_counts
from engine.methods.baselines import searches
from engine.methods.baselines.searches import Sample, Search
from engine.methods.fitting import write_weights
from engine.partitions import OWN, Clustered
from engine.runs.step import F, Facts, Step, Task
from engine.stages import Cost
from engine.steps.ingest import Vectors
from engine.steps.knn import Knn, Order
from engine.steps.labels import Labelled

VERSION = 3  # of every step here
DISTANCES = tuple(round(float(each), 2) for each in np.arange(0.05, 0.81, 0.01))


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
KINDS: dict[str, Kind] = {
    "kmeans": Kind(searches.kmeans, {"num_clusters": ()}, most_rows=1_000_000, pair_seconds=2e-9),
    "minibatch_kmeans": Kind(searches.minibatch_kmeans, {"num_clusters": ()}, most_rows=3_000_000),
    "spectral": Kind(searches.spectral, {"num_clusters": ()}, most_rows=100_000, row_bytes=8_000),
    "ward": Kind(searches.ward, {"distance": _HEIGHTS}, **_PAIRS),
    "average_linkage": Kind(searches.average_linkage, {"distance": DISTANCES}, **_PAIRS),
    "single_linkage": Kind(searches.single_linkage, {"distance": DISTANCES}),
    "dbscan": Kind(
        searches.dbscan, {"min_rows": (2, 5), "distance": DISTANCES[::4]}, most_rows=100_000, pair_seconds=4e-9
    ),
    "knn_dbscan": Kind(searches.knn_dbscan, {"min_rows": (2, 3, 5, 10), "distance": DISTANCES}),
    "hdbscan": Kind(
        searches.hdbscan, {"min_rows": (2, 4), "selection": ("eom", "leaf")}, most_rows=40_000, pair_seconds=3e-8
    ),
    "mean_shift": Kind(searches.mean_shift, {"distance": (0.2, 0.3, 0.4)}, most_rows=5_000, pair_seconds=1e-6),
    "chinese_whispers": Kind(searches.chinese_whispers, {"distance": DISTANCES[::2]}),
    "rank_order": Kind(searches.rank_order, {"distance": _RANKS}),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Searching(Step[F]):
    """A step that clusters by a baseline."""

    features: Vectors[Any]
    knn: Knn
    order: Order | None
    baseline: str
    seed: int

    def kind_cost(self, tried: int) -> Cost:
        """Of as many searches."""
        n, kind = self.knn.num_rows, KINDS[self.baseline]
        return Cost(
            fixed_bytes=n * (kind.row_bytes + self.features.dim * 12 + self.knn.k * 40) + n * n // 2 * kind.pair_bytes,
            disk_bytes=n * 4,
            seconds=n * self.knn.k / 5e6 * tried + n * n * kind.pair_seconds * min(tried, 4),
        )

    def sample(self, task: Task) -> Sample:
        """What a baseline clusters."""
        neighbors_NK, similarities_NK = (
            np.asarray(task.array(self.knn, name)) for name in ("neighbors", "similarities")
        )
        features_ND = task.array(self.features, "features")
        return Sample(features_ND, neighbors_NK, similarities_NK, self.seed, task.threads)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChoosePoint(Searching[Facts], Labelled[Facts]):
    """The point of best pairwise F, the first of equals; the weights are none."""

    kind, version, title = "baseline.fit", VERSION, "fit"

    def cost(self) -> Cost:
        """A search for each point."""
        return self.kind_cost(int(np.prod([len(values) or 1 for values in KINDS[self.baseline].values.values()])))

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Choose."""
        identities_N, kind = self.identities(self.order, task), KINDS[self.baseline]
        write_weights(task, {})
        known = np.flatnonzero(identities_N >= 0)
        if "num_clusters" in kind.values:
            count = len(np.unique(identities_N[known]))
            return {"point": {"rows_per_cluster": len(known) / count}}
        points = [dict(zip(kind.values, each, strict=True)) for each in product(*kind.values.values())]
        points = [point for point in points if point.get("min_rows", 0) <= len(identities_N)]
        scores = []
        for number, labels_N in enumerate(kind.search(self.sample(task), points)):
            scores.append(f_from_counts(pair_counts(labels_N[known], identities_N[known])))
            task.report((number + 1) / len(points), f"point {number + 1} of {len(points)}")
        best = int(np.argmax(scores))
        return {"point": points[best], "train_f": scores[best]}


@dataclass(frozen=True, kw_only=True, eq=False)
class BaselineClusters(Searching[Facts], Clustered):
    """The baseline's clusters at one point."""

    kind, version = "baseline.roots", VERSION
    point: Mapping[str, Any]

    def cost(self) -> Cost:
        """One search."""
        return self.kind_cost(1)

    def run(self, task: Task, start: int, stop: int) -> Facts:
        """Cluster."""
        point, kind = dict(self.point), KINDS[self.baseline]
        (labels_N,) = kind.search(self.sample(task), [point])
        first, places = np.unique(labels_N, return_index=True, return_inverse=True)[1:]
        task.write_npy("roots", first[places].astype(np.int32))
        return {**point, "partition": OWN}
