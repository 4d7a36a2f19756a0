"""Stages of a learned metric: ``metric`` learns it from labels, or first clusters; ``project`` writes the vectors.

What is learned from rows flatters those rows. So where a method can be trained so (two ``spaces``), identities are put
in two halves, either of which is projected by the metric of the other, into dimensions of its own: the halves meet
nowhere in the graph, and all that is learned from it sees rows as a later run will see rows of new identities.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from safetensors.numpy import save

from engine.errors import DataError
from engine.learning import metric
from engine.learning.tensors import read_arrays
from engine.learning.training import hold_out
from engine.plan import CHUNK_ROWS, Cost
from engine.stages.first import first_identities_by_row
from engine.stages.ingest import zero_rows
from engine.storage.context import TaskContext, hold, read_npy, stage_facts
from engine.storage.formats import read_labels
from engine.tiles import tile_bounds

VERSION = 2
WEIGHTS = "metric.safetensors"
FEWEST_PER_DIMENSION = 2  # identities, for a fit in their own metric


def learn_cost(num_rows: int, dim: int) -> Cost:
    searched = min(num_rows, metric.DATABASE_ROWS)
    products = 2 * len(metric.SHRINKAGES) * (metric.QUERY_ROWS * searched * dim + searched * dim * dim)
    return Cost(
        fixed_bytes=num_rows * (40 + dim * 4) + searched * dim * 12 + CHUNK_ROWS * dim * 16 + dim * dim * 80,
        bytes_per_thread=250 * searched * 12,
        disk_bytes=3 * dim * dim * 4 + num_rows,
        seconds=2.0 * (products + num_rows * dim * dim) / 2e10 + num_rows * dim / 5e7,
        kind="floats",
    )


def learn(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write the metrics of either half and of all identities, and the half of each row: ``halves`` (N,) int8.

    A share ``holdout`` of the identities, those that a fit holds out with the same seed, is left out of all metrics, so
    that thresholds are chosen on rows that the metric has not seen either. A fit that holds some out learns from the
    rest in their own metric: of few identities that would be too flattering, so then it does little but centre.
    """
    features_ND = task.array("features", "features")
    identities_N = first_identities_by_row(task) if "first" in task.call.inputs else read_identities(task)
    if identities_N is None:  # too few first clusters to learn from: vectors stay as they are
        mean, projection = np.zeros(features_ND.shape[1], np.float32), np.eye(features_ND.shape[1], dtype=np.float32)
        task.write_file(WEIGHTS, lambda stream: stream.write(save(metric.to_tensors(metric.Metric(mean, projection)))))
        return {}
    known, places = np.unique(identities_N, return_inverse=True)
    drawn = np.random.default_rng([task.params["seed"], 5]).permutation(len(known)) % 2
    halves_N = np.where(identities_N < 0, np.arange(len(identities_N)) % 2, drawn[places]).astype(np.int8)

    def blocks() -> Iterator[tuple[int, np.ndarray]]:
        for begin, end in tile_bounds(0, len(features_ND), CHUNK_ROWS):
            yield begin, features_ND[begin:end]

    seed, holdout, dim = task.params["seed"], task.params["holdout"], features_ND.shape[1]
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
    return {"shrinkage": shrinkage, "average_precision": float(precisions.max())}


def read_identities(task: TaskContext) -> np.ndarray:
    """The identities of ``--labels`` in source order; raises ``DataError`` if none is known."""
    identities_N = read_labels(task.where["labels"], column=task.where["column"])
    if (identities_N < 0).all():
        raise DataError(f"{task.where['labels']}: every label is -1; training needs identities")
    return identities_N


def vertex_identities(task: TaskContext) -> np.ndarray:
    """The identities of ``--labels`` in vertex order; raises ``DataError`` if none is known."""
    identities_N = read_identities(task)
    return identities_N[read_npy(task.input("order"), "row_of_vertex")] if "order" in task.call.inputs else identities_N


def project_cost(num_rows: int, dim: int, width: int, dtype: str) -> Cost:
    stored = 2 if dtype == "float16" else 4
    return Cost(
        fixed_bytes=dim * dim * 12, bytes_per_row=dim * 8 + width * (4 + stored), disk_bytes=num_rows * width * stored,
        seconds=2.0 * num_rows * dim * dim / 2e10 + num_rows * width / 2e8,
    )  # fmt: skip


def project(task: TaskContext, start: int, stop: int) -> dict[str, Any]:
    """Write projected ``features``, unit rows, zero vectors as zeros: (N, D), or (N, 2 D) in two spaces."""
    features_ND = task.array("vectors", "features")
    zeros = zero_rows(task.input("vectors"))
    path = task.where.get("weights") or str(task.input("metric") / WEIGHTS)
    tensors = hold(("metric", path, task.call.digest), lambda: read_arrays(path))
    given, width = features_ND[start:stop], features_ND.shape[1]
    if task.params["width"] == width:
        unit = metric.from_tensors(tensors).project(given, threads=task.threads)
    else:
        halves_n = read_npy(task.input("metric"), "halves")[start:stop]
        unit = np.zeros((len(given), 2 * width), np.float32)
        for half in (0, 1):
            own, other = halves_n == half, metric.from_tensors(tensors, f"half_{1 - half}")
            unit[own, half * width : (half + 1) * width] = other.project(given[own], threads=task.threads)
    unit[zeros[(zeros >= start) & (zeros < stop)] - start] = 0
    task.write_rows("features", unit, task.params["dtype"])
    return {}


def learned(task: TaskContext) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """What a ``fit`` adds to its model: the metric of all identities, and the facts of its choice; or nothing."""
    if "metric" not in task.call.inputs:
        return {}, {}
    tensors = metric.to_tensors(metric.from_tensors(read_arrays(task.input("metric") / WEIGHTS)))
    return tensors, stage_facts(task.input("metric"))[0]
