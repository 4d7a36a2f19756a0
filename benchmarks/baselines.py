"""Cosine baselines over a run's own KNN graph, their parameters chosen on given identities."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine import summary
from engine.clustering.forest import strongest_forest
from engine.clustering.propagation import propagate
from engine.evaluation.metrics import f_from_counts, pair_counts
from engine.evaluation.sweep import threshold_sweep
from engine.stages.edges import iterate_edges
from engine.storage.context import read_npy

THRESHOLDS = np.arange(0.95, 0.19, -0.01)
SIZE_QUANTILES = (0.5, 0.75, 0.9, 0.99, 1.0)
STEP = 0.05


def vertex_identities(run: Path, identities: np.ndarray) -> np.ndarray:
    """Identities by source row, in the run's vertex order."""
    order = summary.stage_folder(run, "order")
    return identities if order is None else identities[read_npy(order, "row_of_vertex")]


def choose_cosine(run: Path, identities: np.ndarray) -> tuple[float, tuple[float, int]]:
    """Choose components' threshold, and CDP's threshold and size cap, by pairwise F on a run's cosine graph."""
    folder = summary.stage_folder(run, "score")
    assert folder is not None
    parts = list(iterate_edges(folder, ("source", "target", "similarity")))
    edges = [np.concatenate(column) for column in zip(*parts, strict=True)]
    n = len(identities)
    rows = threshold_sweep(n, *edges, THRESHOLDS, identities)
    threshold = max(rows, key=lambda row: row.pairwise_f or 0).threshold
    forest = strongest_forest(*edges)
    sizes = np.unique(identities, return_counts=True)[1]
    caps = sorted({int(np.ceil(np.quantile(sizes, q) * factor)) for q in SIZE_QUANTILES for factor in (1.0, 1.5)} - {1})
    best = (-1.0, 0.0, 0)
    for cap in caps:
        for least in THRESHOLDS:
            copies = (part.copy() for part in forest)
            roots = propagate(n, *copies, min_score=float(least), max_size=cap, step=STEP)
            best = max(best, (f_from_counts(pair_counts(roots, identities)), float(least), cap))
    return threshold, best[1:]
