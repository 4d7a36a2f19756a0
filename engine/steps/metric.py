"""Steps of a learned metric: ``metric`` learns it from labels or first clusters; ``project`` writes the vectors.

A metric flatters the rows that it was learned from. If a method can be trained so (two ``spaces``), identities are
therefore put in two halves. Each half is projected by the metric of the other half, into dimensions of its own. The
halves then meet nowhere in the graph, and what is learned from the graph sees rows as a later run sees rows of new
identities.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save

from engine.learning import metric
from engine.learning.held_out import hold_out
from engine.learning.tensors import read_arrays
from engine.random_streams import METRIC_HALVES, stream
from engine.runs.step import Facts, Step, Task, where
from engine.stages import Cost
from engine.steps.first import first_identities_by_row
from engine.steps.ingest import Rows, Vectors, zero_rows
from engine.steps.knn import Order
from engine.steps.labels import Labelled
from engine.storage.context import hold
from engine.tiles import tile_bounds
from engine.units import CHUNK_ROWS

VERSION = 2  # of every step here
WEIGHTS = "metric.safetensors"
FEWEST_PER_DIMENSION = 2  # identities per dimension, for a fit in their own metric


@dataclass(frozen=True)
class MetricFacts:
    """The chosen shrinkage and its average precision on held-out identities; ``None`` if nothing was learned."""

    shrinkage: float | None = None
    average_precision: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedMetric(Labelled[MetricFacts]):
    """The metrics of each half and of all identities, and the half of each row: ``halves`` (N,) int8.

    Identities come from the labels, or from the clusters ``first``, whose vertices have the ``order``. A share
    ``holdout`` of the identities is left out of all metrics; a fit with the same seed holds out the same identities, so
    that thresholds are chosen on rows that the metric has not seen either. Such a fit learns from the other identities
    in their own metric. For few identities that metric would be too flattering, so it then does little but centre.
    """

    kind, version, title = "metric.learn", VERSION, "metric"
    facts = MetricFacts
    vectors: Rows
    first: Step[Facts] | None = None
    order: Order | None = None
    seed: int
    holdout: float

    def cost(self) -> Cost:
        """Project scatter matrices, and a search in a sample for each shrinkage tried."""
        num_rows, dim = self.vectors.num_rows, self.vectors.dim
        searched = min(num_rows, metric.DATABASE_ROWS)
        products = 2 * len(metric.SHRINKAGES) * (metric.QUERY_ROWS * searched * dim + searched * dim * dim)
        return Cost(
            fixed_bytes=num_rows * (40 + dim * 4) + searched * dim * 12 + CHUNK_ROWS * dim * 16 + dim * dim * 80,
            bytes_per_thread=250 * searched * 12,
            disk_bytes=3 * dim * dim * 4 + num_rows,
            seconds=2.0 * (products + num_rows * dim * dim) / 2e10 + num_rows * dim / 5e7,
            kind="floats",
        )

    def run(self, task: Task, start: int, stop: int) -> MetricFacts:
        """Learn the metrics."""
        features_ND = task.array(self.vectors, "features")
        if self.first is None:
            identities_N: np.ndarray | None = self.identities(None, task)
        else:
            identities_N = first_identities_by_row(task, self.first, self.order)
        if identities_N is None:  # too few first clusters to learn from: vectors stay as they are
            mean, projection = (
                np.zeros(features_ND.shape[1], np.float32),
                np.eye(features_ND.shape[1], dtype=np.float32),
            )
            tensors = metric.to_tensors(metric.Metric(mean, projection))
            task.write_file(WEIGHTS, lambda stream: stream.write(save(tensors)))
            return MetricFacts()
        known, places = np.unique(identities_N, return_inverse=True)
        drawn = stream(self.seed, METRIC_HALVES).permutation(len(known)) % 2
        halves_N = np.where(identities_N < 0, np.arange(len(identities_N)) % 2, drawn[places]).astype(np.int8)

        def blocks() -> Iterator[tuple[int, np.ndarray]]:
            for begin, end in tile_bounds(0, len(features_ND), CHUNK_ROWS):
                yield begin, features_ND[begin:end]

        seed, holdout, dim = self.seed, self.holdout, features_ND.shape[1]
        fitted_N = ~hold_out(identities_N, holdout, seed) if holdout else np.ones(len(identities_N), np.bool_)
        scatters = [metric.sum_scatter(blocks(), identities_N, (halves_N == half) & fitted_N, dim) for half in (0, 1)]
        task.report(0.3, "choosing the shrinkage")
        precisions = np.zeros(len(metric.SHRINKAGES))
        for half in (0, 1):
            rows, queries = metric.choose_rows(identities_N, halves_N == half, seed)
            given, own = np.asarray(features_ND[rows], np.float32), np.searchsorted(rows, queries)
            for place, shrinkage in enumerate(metric.SHRINKAGES):
                unit_MD = scatters[1 - half].metric(shrinkage).project(given, threads=task.threads)
                found = metric.average_precision(unit_MD, identities_N[rows], own, threads=task.threads)
                precisions[place] += found / 2
        shrinkage = metric.choose_shrinkage(precisions.tolist())
        if holdout and len(known) < FEWEST_PER_DIMENSION * dim:
            shrinkage = metric.SHRINKAGES[-1]
        tensors = metric.to_tensors(scatters[0].plus(scatters[1]).metric(shrinkage))
        for half in (0, 1):
            tensors |= metric.to_tensors(scatters[half].metric(shrinkage), f"half_{half}")
        task.write_file(WEIGHTS, lambda stream: stream.write(save(tensors)))
        task.write_npy("halves", halves_N)
        return MetricFacts(shrinkage, float(precisions.max()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Project(Vectors[None]):
    """The vectors in a metric that ``metric`` learned or a model holds: (N, D), or (N, 2 D) in two spaces."""

    kind, version, title = "metric.project", VERSION, "project"
    vectors: Rows
    metric: Step[Any] | None
    dtype: str
    model: str | None = None
    weights: str = where("")

    def cost(self) -> Cost:
        """Project a product with the projection."""
        n, dim, width = self.num_rows, self.vectors.dim, self.dim
        stored = 2 if self.dtype == "float16" else 4
        return Cost(
            fixed_bytes=dim * dim * 12,
            bytes_per_row=dim * 8 + width * (4 + stored),
            disk_bytes=n * width * stored,
            seconds=2.0 * n * dim * dim / 2e10 + n * width / 2e8,
        )

    def run(self, task: Task, start: int, stop: int) -> None:
        """Project these rows."""
        features_ND = task.array(self.vectors, "features")
        zeros = zero_rows(task.input(self.vectors))
        path = self.weights if self.metric is None else str(task.input(self.metric) / WEIGHTS)
        tensors = hold(("metric", path, task.call.digest), lambda: read_arrays(path))
        given, width = features_ND[start:stop], features_ND.shape[1]
        if self.dim == width:
            unit = metric.from_tensors(tensors).project(given, threads=task.threads)
        else:
            assert isinstance(self.metric, LearnedMetric)
            halves_n = task.npy(self.metric, "halves")[start:stop]
            unit = np.zeros((len(given), 2 * width), np.float32)
            for half in (0, 1):
                own, other = halves_n == half, metric.from_tensors(tensors, f"half_{1 - half}")
                unit[own, half * width : (half + 1) * width] = other.project(given[own], threads=task.threads)
        unit[zeros[(zeros >= start) & (zeros < stop)] - start] = 0
        task.write_rows("features", unit, self.dtype)


def learned(task: Task, step: LearnedMetric | None) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Give what a fit adds to its model: the metric of all identities and the facts of its choice, or nothing."""
    if step is None:
        return {}, {}
    tensors = metric.to_tensors(metric.from_tensors(read_arrays(task.input(step) / WEIGHTS)))
    return tensors, {name: value for name, value in asdict(task.facts(step)).items() if value is not None}
