"""What a version says of each cluster besides its edges. Legend: as in ``state``; C clusters."""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.collection.state import State
from engine.tiles import tile_bounds
from engine.units import CHUNK_ROWS

Array = np.ndarray[Any, Any]


def cluster_table(state: State, clusters_C: Array) -> tuple[Array, Array]:
    """Find the medoid of each cluster, and the row to keep: (C,) int64 row numbers each.

    The medoid has the largest sum of similarities to the cluster's rows, in the first graph's metric; ties go to the
    lower vertex. The row to keep is the one that stands for its copies. ``clusters_C``: ids, ascending.
    """
    rows_V = state.row_numbers
    label_V = state.labels_N[rows_V]
    place_V = np.searchsorted(clusters_C, label_V)
    features = state.graphs[0].features
    sums = np.zeros((len(clusters_C), features.shape[1]), np.float32)
    for begin, end in tile_bounds(0, state.num_rows, CHUNK_ROWS):
        known = np.flatnonzero(label_V[begin:end] >= 0)
        np.add.at(sums, place_V[begin:end][known], np.asarray(features[begin:end][known], np.float32))
    best = np.full(len(clusters_C), -np.inf, np.float32)
    medoids = np.zeros(len(clusters_C), np.int64)
    for begin, end in tile_bounds(0, state.num_rows, CHUNK_ROWS):
        known = np.flatnonzero(label_V[begin:end] >= 0)
        places = place_V[begin:end][known]
        near = np.einsum("nd,nd->n", np.asarray(features[begin:end][known], np.float32), sums[places])
        order = np.lexsort((known, -near, places))
        firsts = order[np.unique(places[order], return_index=True)[1]]
        better = near[firsts] > best[places[firsts]]
        chosen = firsts[better]
        best[places[chosen]], medoids[places[chosen]] = near[chosen], rows_V[begin + known[chosen]]
    return medoids, state.leaders_N[medoids].astype(np.int64)
