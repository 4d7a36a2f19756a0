"""Scores of new edges where the first clusters of a run without labels taught no scorer, as with few rows.

Strangers then tell how likely an edge is, as in the full run. A new row's strangers are taken to be as similar to it as
those of its nearest neighbour are to that. Where the data had no gap, the first clusters are certain: a new row goes to
the cluster of its nearest neighbour.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.collection.state import State
from engine.graph.adjacency import EdgeList
from engine.methods.self_trained.steps import FILES
from engine.methods.self_trained.strangers import Lines, edge_log_odds
from engine.storage.context import read_npy

Array = np.ndarray[Any, Any]


def first_scores(state: State, edges: EdgeList) -> Array:
    """Score edges of the first graph, (E,) float32."""
    total = max(state.num_rows, int(edges.targets.max(initial=-1)) + 1)
    odds = edge_log_odds(lines_of(state, total), edges.sources, edges.targets, edges.similarities)
    return (1 / (1 + np.exp(-odds))).astype(np.float32)


def lines_of(state: State, total: int) -> Lines:
    """What strangers are like, by vertex, of so many vertices."""
    assert state.kept.strangers is not None
    folder = state.root / state.kept.strangers
    scale, place, classes, log_odds = (np.array(read_npy(folder, name)) for name in FILES)
    known = np.zeros(total, np.bool_)
    known[: len(scale)] = True
    origins = _origins(state, known)
    return Lines(scale[origins], place[origins], classes[origins], log_odds)


def _origins(state: State, known_V: Array) -> Array:
    """For each vertex itself if it is known, else the nearest known one in its list or its nearest one's, else 0."""
    neighbors = state.graphs[0].neighbors[: len(known_V)]
    origins = np.where(known_V, np.arange(len(known_V)), -1)
    for _ in range(8):
        for vertex in np.flatnonzero(origins < 0):
            listed = neighbors[vertex]
            found = origins[listed[listed >= 0]]
            found = found[found >= 0]
            if len(found):
                origins[vertex] = found[0]
    return np.maximum(origins, 0)
