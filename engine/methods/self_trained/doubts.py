"""How far to believe a scorer that was fitted to clusters nobody checked, from those clusters alone.

A scorer fitted to first clusters as if they were identities takes their mistakes for the truth, and the share of true
edges among what it saw for that of all: rows alone in their cluster teach it nothing. Where many are alone and the
rest lie in small clusters, a true edge is rare and the fitted odds are far too good; where few are, and clusters are
large, the first clusters are more likely to have cut identities up. The line below is fitted by
``benchmarks/doubts.py`` to variants of three labelled data sets (historical_figures, pricerunner, a stand-in; their
train identities); faces are left out, which gave more on their own test half. The benchmark shows, set by
set, what a line fitted to the others loses. Its record is of odds log2(1.8) = 0.85 doublings lower, for held-out edges
with one unseen end were all counted then: the base has those added.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.clustering.label_free import CLEAR_CUT, DOUBTS_LINE, MOST_DOUBTS

Array = np.ndarray[Any, Any]


def describe_clusters(roots_N: Array) -> tuple[float, float, float]:
    """Describe clusters by three numbers, from roots (N,) of any kind.

    They are the mean logarithm of the sizes of clusters of two rows and more (log 2 if there are none), in which a few
    giants do not decide; the share of the rows that are alone; and the share of the clusters that hold one row.
    """
    sizes_M = np.unique(roots_N, return_counts=True)[1]
    joined, alone = sizes_M[sizes_M > 1], int((sizes_M == 1).sum())
    log_size = float(np.log(joined).mean() if len(joined) else np.log(2))
    return log_size, alone / max(len(roots_N), 1), alone / max(len(sizes_M), 1)


def estimate_doubts(roots_N: Array) -> float:
    """Estimate how many times to halve the odds of a scorer that was fitted to these first clusters, roots (N,)."""
    base, *slopes = DOUBTS_LINE
    return float(np.clip(base + np.dot(slopes, describe_clusters(roots_N)), -MOST_DOUBTS, MOST_DOUBTS))


def limit_doubts(doubts: float, explained: float, log_odds_E: Array) -> float:
    """Cap the halvings where held-out clusters are clear-cut: the median edge inside them keeps odds of 2 to 1.

    Otherwise the doubts would push every edge below even odds, and every row would end alone. ``explained``: share of
    the entropy of the held-out edges that the trees explain. ``log_odds_E``: fitted log-odds, in nats, of the held-out
    edges that lie inside a cluster.
    """
    return min(doubts, float(np.median(log_odds_E)) / float(np.log(2)) - 1) if explained >= CLEAR_CUT else doubts
