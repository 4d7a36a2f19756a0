"""Every stream of random numbers that the engine draws, by its purpose.

A stream is keyed by the seed, the number of its purpose, and an index (a training step, a tile). The numbers decide the
bits that are drawn, so a number never changes. A new purpose takes a number that no other has. Numbers are shared below
where they were before this table: with equal seed and index, these purposes draw equal bits. Zeros at a key's end do
not count: the stream of index 0 is that of no index.

Other libraries draw from the seed itself: torch a network's first weights (``learning.layers.drawn_weights``), faiss
its k-means (``graph.knn``), scikit-learn its clusterings (``methods.baselines.searches``). The map equation orders its
vertices by a hash of the seed (``clustering.module_moves.shuffle``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import PCG64, SFC64


@dataclass(frozen=True)
class Purpose:
    """What a stream is for. ``number`` is ``None`` where the index stands in the number's place."""

    number: int | None
    bits: type[PCG64] | type[SFC64] = PCG64


def stream(seed: int, purpose: Purpose, *index: int) -> np.random.Generator:
    """Start the stream of a purpose: the same arguments give the same numbers on every machine."""
    number = () if purpose.number is None else (purpose.number,)
    return np.random.Generator(purpose.bits([seed, *number, *index]))


SUBGRAPH = Purpose(None)  # the identities of training subgraph [index]
FIRST_CENTROIDS = Purpose(None)  # distinct rows that k-means of codes starts from, whose seed is the pass's number
SPEED_PROBES = Purpose(None)  # the vectors on which speeds are measured

CENTROID_ROWS = Purpose(1)  # rows that the KNN search's centroids are trained on
HELD_OUT_IDENTITIES = Purpose(1)  # identities that training holds out

RECALL_ROWS = Purpose(2)  # rows whose exact neighbours measure recall
IDENTITY_HALVES = Purpose(2)  # the half of each identity, where trees are fitted on either half
MINIBATCH = Purpose(2)  # what training step [step] learns from, and its dropout

PASS_ROWS = Purpose(3)  # rows that the centroids of pass [number] are trained on
STANDARDISED_EDGES = Purpose(3)  # edges whose mean and deviation standardise a network's inputs
TREES = Purpose(3)  # rows that set the bins of the trees' inputs, and the inputs that each tree may split on

STOPPING_EDGES = Purpose(4)  # held-out edges that training is stopped on
FITTED_EDGES = Purpose(4)  # edges that the trees of half [half + 1] are fitted on

METRIC_HALVES = Purpose(5)  # the half of each identity, where a metric is fitted on either half
STOPPING_ROWS = Purpose(5)  # held-out rows, pairs or proposals that training is stopped on

WHISPERS = Purpose(6)  # the order in which Chinese Whispers visits rows
GRADIENT_SHARE = Purpose(6)  # dropout in share [number] of the gradient of step [step]
HELD_OUT_SEEDS = Purpose(6)  # the seed members of tile [tile] of held-out proposals
METRIC_ROWS = Purpose(6)  # rows that a metric's shrinkage is chosen on

COMPARED_HALVES = Purpose(7)  # the identities that `compare` trains on
THINNED_EDGES = Purpose(7)  # edges with one unseen end that are left out of the fit of half [half + 1]

UNRELATED_ROWS = Purpose(8)  # rows whose cosines stand for chance, by the number of rows in the seed's place
BELIEVED_EDGES = Purpose(10)  # edges of chunk [row] that evidence alone holds for false and trees are fitted to
STRANGERS = Purpose(9)  # rows that stand for all, walks among them [1], and curves of strangers alone [2]

STAND_IN_IDENTITIES = Purpose(0, SFC64)  # a stand-in's identities
STAND_IN_MODES = Purpose(1, SFC64)  # modes of tile [tile] of a stand-in
STAND_IN_SHARED = Purpose(1, SFC64)  # rotations and junk directions, by the dimensions in the seed's place
STAND_IN_ROWS = Purpose(2, SFC64)  # rows of tile [tile] of a stand-in
