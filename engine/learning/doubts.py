"""How far to believe a scorer that was fitted to clusters nobody checked, from those clusters alone.

A scorer fitted to first clusters as if they were identities takes their mistakes for the truth, and the share of true
edges among what it saw for that of all: rows alone in their cluster teach it nothing. Where many are alone and the
rest lie in small clusters, a true edge is rare and the fitted odds are far too good; where few are, and clusters are
large, the first clusters are more likely to have cut identities up. ``benchmarks/doubts.py`` fits the line below to
variants of all labelled data sets and shows, set by set, what one fitted to the others is worth on it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BASE, BY_LOG_SIZE, BY_ALONE = 4.0, -2.0, 6.0  # of benchmarks/doubts.py
MOST = 8.0  # and as many the other way


def describe_clusters(roots_N: Array) -> tuple[float, float]:
    """Logarithm of the mean size of clusters of two rows and more (of 2 if there are none); share of rows alone."""
    sizes_M = np.unique(roots_N, return_counts=True)[1]
    joined = sizes_M[sizes_M > 1]
    return float(np.log(joined.mean() if len(joined) else 2.0)), float((sizes_M == 1).sum() / max(len(roots_N), 1))


def estimate_doubts(roots_N: Array) -> float:
    """How many times to halve the odds of a scorer fitted to these first clusters: roots (N,) of any kind."""
    log_size, alone = describe_clusters(roots_N)
    return float(np.clip(BASE + BY_LOG_SIZE * log_size + BY_ALONE * alone, -MOST, MOST))
