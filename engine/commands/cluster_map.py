"""A map of a run's clusters for its report: near each other where their vectors are, made with scikit-learn."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from engine.commands.run_folder import labels_of, stage_folder, vectors_folder
from engine.errors import DataError, DependencyMissing
from engine.installation import install_hint
from engine.report.data import MapPoint
from engine.steps.explain import read_clusters
from engine.steps.ingest import row_column
from engine.storage.arrays import map_array

MOST_CLUSTERS = 1000
_ROWS_OF_EACH = 16  # whose mean direction stands for a cluster
_FEWEST = 4

Array = np.ndarray[Any, Any]


def map_points(root: Path) -> list[MapPoint]:
    """Place the largest clusters of two rows and more, ``MOST_CLUSTERS`` at most, in the unit square.

    Raises ``DependencyMissing`` without scikit-learn, and ``DataError`` for fewer clusters than make a map.
    """
    explained = stage_folder(root, "explain", "clusters")
    if explained is None:
        raise DataError(f"{root} is not finished, or its method explains no clusters: there is nothing to map")
    table, labels_N = read_clusters(explained), labels_of(root, root)
    largest = np.lexsort((table.labels, -table.sizes))[:MOST_CLUSTERS]
    chosen_C = np.sort(largest[table.sizes[largest] > 1])
    if len(chosen_C) < _FEWEST:
        raise DataError(f"{root}: a map takes {_FEWEST} clusters of two rows and more; there are {len(chosen_C)}")
    order = np.argsort(labels_N, kind="stable")
    starts = np.searchsorted(labels_N, table.labels[chosen_C], sorter=order)
    rows = [order[a : a + min(size, _ROWS_OF_EACH)] for a, size in zip(starts, table.sizes[chosen_C], strict=True)]
    vectors = vectors_folder(root, "rows")
    features_ND, items = map_array(vectors, "features"), row_column(vectors, "item")
    means_CD = np.stack([np.asarray(features_ND[np.sort(each)], np.float32).mean(axis=0) for each in rows])
    return [
        MapPoint(
            label=int(table.labels[c]),
            size=int(table.sizes[c]),
            x=float(x),
            y=float(y),
            weakest_score=None if np.isnan(table.weakest_score[c]) else float(table.weakest_score[c]),
            text="" if items is None else str(items[int(of[0])].as_py() or ""),
        )
        for c, (x, y), of in zip(chosen_C, flat(means_CD), rows, strict=True)
    ]


def flat(vectors_CD: Array) -> Array:
    """Return places (C, 2) in the unit square of vectors (C, D), C >= 4: near each other where directions are.

    t-SNE from the two main components, seeded.
    """
    try:
        manifold = import_module("sklearn.manifold")
    except ImportError:
        raise DependencyMissing(f"a map needs scikit-learn: {install_hint('map')}") from None
    unit_CD = vectors_CD / np.maximum(np.linalg.norm(vectors_CD, axis=1, keepdims=True), 1e-12)
    perplexity = min(30.0, (len(unit_CD) - 1) / 3)
    begin = "pca" if unit_CD.shape[1] > 1 else "random"
    tsne = manifold.TSNE(perplexity=perplexity, init=begin, metric="cosine", random_state=0)
    placed = tsne.fit_transform(unit_CD)
    low, high = placed.min(axis=0), placed.max(axis=0)
    places: Array = (placed - low) / np.maximum(high - low, 1e-12)
    return places
