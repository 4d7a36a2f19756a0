"""Which identities training learns from, and how well scores tell identities apart.

Legend: N vertices, E edges.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.random_streams import HELD_OUT_IDENTITIES, IDENTITY_HALVES, stream

Array = np.ndarray[Any, Any]

UNSEEN = 2  # the half of vertices that neither first fit learns from


def hold_out(identities_N: Array, share: float, seed: int) -> Array:
    """Choose about ``share`` of the identities, alike in size to the rest: a mask of their rows (N,) bool.

    Of each run of 1/share identities consecutive in size one is drawn, so that the largest are represented too.
    """
    known, sizes = np.unique(identities_N[identities_N >= 0], return_counts=True)
    if len(known) < 4:
        raise DataError(f"training: {len(known)} identities in the labels; expected at least 4 to hold some out")
    rng = stream(seed, HELD_OUT_IDENTITIES)
    order = np.lexsort((rng.random(len(known)), -sizes))
    bounds = np.unique(np.round(np.arange(0, len(known) + 1e-9, 1 / share)).astype(np.int64))
    drawn = [order[rng.integers(a, b)] for a, b in pairwise(bounds)]
    return np.isin(identities_N, known[drawn or [order[-1]]])


def split_identities(identities_N: Array, held_out_N: Array, seed: int) -> Array:
    """Put every identity into half 0 or 1, at random; rows held out or not known are ``UNSEEN``: (N,) int8."""
    known, places = np.unique(identities_N, return_inverse=True)
    drawn = stream(seed, IDENTITY_HALVES).permutation(len(known)) % 2
    return np.where(held_out_N | (identities_N < 0), UNSEEN, drawn[places]).astype(np.int8)


def area_under_curve(scores: Array, same: Array) -> float:
    """Compute the probability that a positive outscores a negative, ties counted half."""
    _, dense, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2
    positives = int(same.sum())
    total = rank[dense[same]].sum() - positives * (positives + 1) / 2
    return float(total / (positives * (len(same) - positives)))
