"""Turn the roots of clusters into the labels that users see. Shape suffix: N vertices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.union_find import Ids
from engine.errors import DataError


def dense_labels(roots_N: Ids) -> NDArray[np.int64]:
    """Number clusters 0, 1, ... by their lowest vertex id.

    ``roots_N``: the lowest vertex id of each vertex's cluster, as ``component_roots`` and ``propagate`` give it.
    Returns labels_N (int64). Raises ``DataError`` if a root is not its own root or exceeds its member.
    """
    labels_N = np.empty(len(roots_N), np.int64)
    wrong = _number(roots_N, labels_N)
    if wrong >= 0:
        raise DataError(
            f"labels: vertex {wrong} has root {roots_N[wrong]}, expected the lowest vertex id of its cluster"
        )
    return labels_N


def expand_labels(
    labels_kept: NDArray[np.int64],
    kept_rows: NDArray[Any],
    num_source_rows: int,
    singleton_rows: NDArray[Any] | None = None,
) -> NDArray[np.int64]:
    """Place the labels of kept rows among all source rows (num_source_rows, int64).

    ``kept_rows``: source row of each label. ``singleton_rows`` get labels of their own after the largest label, by
    ascending row. All other rows were dropped and get −1. Raises ``DataError`` for rows out of range or named twice.
    """
    if len(labels_kept) != len(kept_rows):
        raise DataError(f"labels: expected one row per label, got {len(kept_rows)} rows for {len(labels_kept)} labels")
    singles = np.sort(np.asarray([] if singleton_rows is None else singleton_rows, np.int64))
    for name, rows in (("kept", kept_rows), ("singleton", singles)):
        if len(rows) and not (rows.min() >= 0 and rows.max() < num_source_rows):
            raise DataError(
                f"labels: {name} rows span {rows.min()}..{rows.max()}, expected 0..{num_source_rows - 1} (source rows)"
            )
    named_rows = np.zeros(num_source_rows, bool)
    named_rows[kept_rows] = True
    named_rows[singles] = True
    if np.count_nonzero(named_rows) != len(kept_rows) + len(singles):
        raise DataError("labels: a source row is named twice among the kept and singleton rows")
    labels = np.full(num_source_rows, -1, np.int64)
    labels[kept_rows] = labels_kept
    labels[singles] = np.arange(len(singles)) + (labels_kept.max(initial=-1) + 1)
    return labels


@njit(nogil=True, cache=True)
def _number(roots, labels):  # type: ignore[no-untyped-def]
    num_clusters = 0
    for vertex in range(len(roots)):
        root = roots[vertex]
        if root == vertex:
            labels[vertex] = num_clusters
            num_clusters += 1
        elif 0 <= root < vertex and roots[root] == root:
            labels[vertex] = labels[root]
        else:
            return vertex
    return -1
