"""Size-capped label propagation: components that are too large retry on their stronger edges (CDP, ECCV 2018).

Shape suffixes: N vertices, E edges, F edges of a forest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.labels import dense_labels
from engine.clustering.union_find import Ids, check_edges, find_root, flatten, id_dtype, union
from engine.errors import ConfigError, DataError

MIN_STEP = 1e-3  # keeps the number of rounds below 20,000
ROUNDING = 1e-3  # cosines and probabilities may exceed 1 by this much


def propagate(
    num_vertices: int,
    sources_E: Ids,
    targets_E: Ids,
    scores_E: NDArray[np.float32],
    *,
    min_score: float | None = None,
    max_size: int,
    step: float,
    least: float | None = None,
) -> Ids:
    """Cluster scored edges into components of at most ``max_size`` vertices.

    The rule: start at th = ``min_score`` (``None``: the least score). Components over edges of score ≥ th that have at
    most ``max_size`` vertices are final; the others repeat with th ← th + (1 − th)·step. A vertex left without edges is
    a singleton. A component of more than ``max_size`` vertices that no threshold below 1 cuts is final as it stands
    (deviation: the released code puts everything left after 100 rounds in one cluster).
    ``least``, if given, is the score from which edges join, above or below ``min_score``. The rounds then begin at the
    last threshold up to it, of those that lead to and on from ``min_score``. So a higher ``least`` never joins what a
    lower one keeps apart.

    Scores: float32 up to 1, compared with th rounded to float32; an edge may come in either or both directions.
    Returns roots_N: the lowest vertex id of each vertex's cluster (int32; int64 from 2**31 vertices), equal for any
    order of the edges. The rounds run backwards, strongest edges first, so the edges are passed over twice for any
    number of thresholds. Memory besides the edges: 4 bytes per edge (8 from 2**31 edges) and 12 per vertex. To save
    memory, pass the ``strongest_forest`` of the edges: it gives the same clusters and has fewer edges than vertices.
    Raises ``DataError`` for bad ids or scores, ``ConfigError`` for a step outside [0.001, 1) or a size below 1.
    """
    check_edges(sources_E, targets_E, num_vertices)
    _check_scores(scores_E, len(sources_E))
    if not MIN_STEP <= step < 1 or max_size < 1:
        raise ConfigError(
            f"propagation: expected {MIN_STEP} ≤ step < 1 and max_size ≥ 1, got step {step} and max_size {max_size}"
        )
    roots_N = np.arange(num_vertices, dtype=id_dtype(num_vertices))
    if not len(sources_E):
        return roots_N
    first = float(scores_E.min()) if min_score is None else min_score
    least = first if least is None else least
    thresholds = score_levels(first, least, step)
    order = np.empty(len(scores_E), id_dtype(len(scores_E)))
    starts = np.zeros(len(thresholds) + 1, np.int64)
    _order_by_level(scores_E, thresholds, order, starts)
    connected_N, sizes_N = roots_N.copy(), np.ones_like(roots_N)
    for level in range(len(thresholds) - 1, -1, -1):
        edges = order[starts[level] : starts[level + 1]]
        cap = num_vertices if level == len(thresholds) - 1 else max_size
        _join_level(connected_N, sizes_N, roots_N, sources_E, targets_E, scores_E, np.float32(least), edges, cap)
    flatten(roots_N)
    return roots_N


def graph_propagation(
    pairs: NDArray[Any], scores: NDArray[Any], max_sz: int = 600, step: float = 0.05, num_vertices: int | None = None
) -> NDArray[np.int64]:
    """Cluster scored pairs by size-capped propagation from the least score (CDP's ``graph_propagation``).

    ``pairs`` (E, 2) integer vertex ids, in any order and direction; ``scores`` (E,), higher is more alike, at most 1.
    Returns labels (int64) of vertices 0..num_vertices − 1 (default: up to the largest id): 0, 1, ... by each cluster's
    lowest vertex, −1 for a vertex in no pair. See ``propagate`` for the rule, its deviation and its errors.
    """
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or pairs.dtype.kind not in "iu":
        raise DataError(f"pairs: expected integer ids of shape (E, 2), got {pairs.dtype} of shape {pairs.shape}")
    if num_vertices is None:
        num_vertices = int(pairs.max(initial=-1)) + 1
    check_edges(pairs[:, 0].astype(np.int64), pairs[:, 1].astype(np.int64), num_vertices)
    dtype = id_dtype(num_vertices)
    paired_N = np.zeros(num_vertices, bool)
    paired_N[pairs] = True
    roots_N = propagate(
        num_vertices,
        pairs[:, 0].astype(dtype),
        pairs[:, 1].astype(dtype),
        np.array(scores, np.float32),
        max_size=max_sz,
        step=step,
    )
    labels_N = np.full(num_vertices, -1, np.int64)
    rank_N = np.cumsum(paired_N) - 1  # unpaired vertices take no number
    labels_N[paired_N] = dense_labels(rank_N[roots_N[paired_N]])
    return labels_N


def _check_scores(scores_E: NDArray[np.float32], num_edges: int) -> None:
    if scores_E.shape != (num_edges,) or scores_E.dtype != np.float32:
        raise DataError(
            f"scores: expected float32 of shape ({num_edges},), one per edge, got {scores_E.dtype} {scores_E.shape}"
        )
    if num_edges and not (scores_E.max() <= 1 + ROUNDING and scores_E.min() > -np.inf):  # NaN fails both
        edge = int(np.flatnonzero(~((scores_E <= 1 + ROUNDING) & (scores_E > -np.inf)))[0])
        raise DataError(
            f"scores: edge {edge} has score {scores_E[edge]}, expected a number up to 1, which thresholds approach; "
            "rescale the scores"
        )


def lowest_threshold(least: float, step: float) -> float:
    """The threshold that ``step`` leads to ``least``: edges below it are read in no round of ``propagate``."""
    return (least - step) / (1 - step)


def score_levels(first: float, least: float, step: float) -> NDArray[np.float32]:
    """List the thresholds of all rounds, ascending, equal ones (in float32) once, up to the nearest one below 1."""
    lower = [first]
    while lower[-1] > least:
        lower.append(lowest_threshold(lower[-1], step))
    values = lower[::-1]
    while values[-1] < 1 and values[-1] + (1 - values[-1]) * step > values[-1]:
        values.append(values[-1] + (1 - values[-1]) * step)
    below = max(int(np.searchsorted(values, least, side="right")) - 1, 0)
    return np.unique(np.array(values[below:], np.float32))


@njit(nogil=True, cache=True)
def _order_by_level(scores, thresholds, order, starts):  # type: ignore[no-untyped-def]
    """Sort edges by the last threshold that they pass, without edges that pass none; level l is starts[l : l + 2]."""
    for score in scores:
        level = np.searchsorted(thresholds, score, side="right")
        if level > 0:
            starts[level] += 1
    for level in range(len(thresholds)):
        starts[level + 1] += starts[level]
    position = starts[:-1].copy()
    for edge in range(len(scores)):
        level = np.searchsorted(thresholds, scores[edge], side="right") - 1
        if level >= 0:
            order[position[level]] = edge
            position[level] += 1


@njit(nogil=True, cache=True)
def _join_level(connected, sizes, roots, sources, targets, scores, least, edges, cap):  # type: ignore[no-untyped-def]
    """Connect one level's edges, then make clusters of the components that still fit the cap; reorders ``edges``.

    Components only grow from level to level. A component that fits is therefore a cluster so far. The edges of a
    component that is too large join nothing, because its parts of the level before are final.
    """
    joining = 0
    for edge in edges:
        a, b = find_root(connected, sources[edge]), find_root(connected, targets[edge])
        if a != b:
            low, high = min(a, b), max(a, b)
            connected[high] = low
            sizes[low] += sizes[high]
            edges[joining] = edge
            joining += 1
    for edge in edges[:joining]:
        if scores[edge] >= least and sizes[find_root(connected, sources[edge])] <= cap:
            union(roots, sources[edge], targets[edge])
