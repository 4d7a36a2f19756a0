"""What changed between two clusterings of the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_SHOWN = 40


def changes(before_N: NDArray[np.int64], after_N: NDArray[np.int64]) -> dict[str, Any]:
    """Count what changed, and list the changed clusters, those of most rows first.

    Labels of -1 belong to no cluster. Returns ``clusters`` and ``clusters_before``, ``joined`` and ``parted`` (pairs of
    rows), and ``changed``: of each changed cluster its label ``after``, ``size``, and the labels and numbers of
    rows that came ``from`` clusters before.
    """
    kept = (before_N >= 0) & (after_N >= 0)
    before, after = before_N[kept], after_N[kept]
    width = int(after.max(initial=-1)) + 1
    keys, counts = np.unique(before * width + after, return_counts=True)
    old, new = keys // max(width, 1), keys % max(width, 1)
    old_sizes, new_sizes = np.bincount(before), np.bincount(after)
    both = _pairs(counts)
    touched = (counts != old_sizes[old]) | (counts != new_sizes[new])
    changed = []
    labels = np.unique(new[touched])
    for label in labels[np.lexsort((labels, -new_sizes[labels]))][:MOST_SHOWN].tolist():
        came = new == label
        order = np.argsort(-counts[came], kind="stable")
        sources = [[int(old[came][n]), int(counts[came][n])] for n in order]
        changed.append({"after": label, "size": int(new_sizes[label]), "from": sources})
    return {
        "clusters": int((new_sizes > 0).sum()),
        "clusters_before": int((old_sizes > 0).sum()),
        "joined": _pairs(new_sizes) - both,
        "parted": _pairs(old_sizes) - both,
        "num_changed": len(labels),
        "changed": changed,
    }


def _pairs(sizes: NDArray[np.int64]) -> int:
    return int((sizes * (sizes - 1) // 2).sum())
