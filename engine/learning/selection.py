"""Choose the thresholds of the partitions on held-out train identities.

Legend: N vertices, E scored edges. Every candidate clusters the whole train graph, so the density of the graph is that
of real use. What counts is, of each held-out row, which rows it shares its cluster with, so no counted pair was trained
on. A pair counts once for each of its rows that is held out: those of one identity do with both, false ones mostly with
one, so counted alike false ones would weigh nearly twice what they do among unseen identities, and thresholds would
come out too high. Pairwise F alone is ruled by the largest few identities held out, hence its mean with BCubed F.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numba
import numpy as np

from engine.clustering.union_find import component_roots
from engine.errors import DataError
from engine.evaluation.metrics import PairCounts, f_from_counts, harmonic_mean

Array = np.ndarray[Any, Any]
Point = dict[str, Any]

VERSION = 7  # of what is chosen from the same scores
FINEST_LOGIT = 0.125
HIGHEST_LOGIT = 15.0
MODULE_LOGITS = tuple(np.arange(2.0, -2.6, -0.5).tolist())  # floors of map equation and density peaks: beyond, F falls
NO_WORSE = 0.002  # in F: floors of the map equation that are told apart by chance
LINK_QUANTILES = 101


def search_scores(evaluate: Callable[[float], Point], scores_E: Array, num_vertices: int, sizes: Array) -> Point:
    """The best of the points that ``evaluate`` gives at a least score, by logits.

    Logits go from steps of 2 down to ``FINEST_LOGIT`` around the best. None is tried at which more edges would be kept
    than identities of these ``sizes`` account for twice. Equal F goes to the first tried, from high thresholds down.
    """
    return _search(evaluate, _lowest_logit(scores_E, num_vertices, sizes), HIGHEST_LOGIT)


def scan_scores(evaluate: Callable[[float], Point]) -> Point:
    """The best of the points that ``evaluate`` gives at a least score, by steps of half a logit.

    The best mean F of one, counted twice, and its two neighbours decides, because F is flat and rugged. Of those that
    are ``NO_WORSE`` the one next to even odds is taken, which is right if scores are calibrated.
    """
    found = [evaluate(_score(logit)) for logit in MODULE_LOGITS]
    values = np.array([mean_f(each) for each in found])
    padded = np.concatenate([values[:1], values, values[-1:]])
    smooth = (padded[:-2] + 2 * values + padded[2:]) / 4
    as_good = np.flatnonzero(smooth >= smooth.max() - NO_WORSE)
    return found[int(as_good[np.argmin(np.abs(np.array(MODULE_LOGITS)[as_good]))])]


def select_links(linked_N: Array, cosines_N: Array, identities_N: Array, held_out_N: Array) -> Point:
    """Choose the least cosine of links, of ``LINK_QUANTILES`` of them, by the mean of pairwise and BCubed F.

    ``linked_N``: the vertex that each links to, -1 if none. Returns a point of ``components``; raises as
    ``held_out_measure``.
    """
    measure = held_out_measure(identities_N, held_out_N)
    rows = np.flatnonzero(linked_N >= 0)

    def attempt(least: float) -> Point:
        kept = rows[cosines_N[rows] >= np.float32(least)]
        roots_N = component_roots(len(linked_N), kept.astype(np.int32), linked_N[kept])
        return {"min_score": least, "min_intimacy": 0.0, **measure(roots_N)}

    quantiles = np.quantile(cosines_N[rows], np.linspace(1, 0, LINK_QUANTILES)) if len(rows) else np.ones(1)
    return best_of(attempt(float(least)) for least in quantiles)


def mean_f(point: Point) -> float:
    """The mean of pairwise and BCubed F, by which one point is better than another."""
    return float(point["held_out_f"] + point["held_out_bcubed_f"]) / 2


def held_out_measure(identities_N: Array, held_out_N: Array) -> Callable[[Array], dict[str, float]]:
    """Give what scores clusters (N,) by whom held-out rows share theirs with; ``DataError`` if no pair counts."""
    sizes = np.unique(identities_N[identities_N >= 0], return_counts=True)[1]
    if not np.any(held_out_N) or sizes.max(initial=0) < 2:
        raise DataError("thresholds: no held-out identity has two rows; expected labels with repeated identities")
    return _HeldOutRows(identities_N, held_out_N).measure


class _HeldOutRows:
    """Scores clusters by what each held-out row shares its cluster with, among rows of known identity."""

    def __init__(self, identities_N: Array, held_out_N: Array) -> None:
        known = np.flatnonzero(identities_N >= 0)
        self.rows = known[np.argsort(identities_N[known], kind="stable")]
        sizes = np.unique(identities_N[known], return_counts=True)[1]
        self.indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self.held_out_N = held_out_N

    def measure(self, roots_N: Array) -> dict[str, float]:
        """Compare clusters, named by a vertex of each, with the identities."""
        pairs, precision, recall = _compare(roots_N, self.rows, self.indptr, self.held_out_N)
        counts = PairCounts(*pairs)
        return {
            "held_out_f": f_from_counts(counts),
            "held_out_precision": counts.precision,
            "held_out_recall": counts.recall,
            "held_out_bcubed_f": harmonic_mean(precision, recall),
        }


@numba.njit(nogil=True, cache=True)
def _compare(roots: Array, rows: Array, indptr: Array, held_out: Array) -> tuple[tuple[int, int, int], float, float]:
    """Sum over held-out rows: other rows of the identity, of the cluster, of both; BCubed precision and recall."""
    sizes, own = np.zeros(len(roots), np.int64), np.zeros(len(roots), np.int64)
    for row in rows:
        sizes[roots[row]] += 1
    true = predicted = both = held = 0
    precision = recall = 0.0
    for identity in range(len(indptr) - 1):
        members = rows[indptr[identity] : indptr[identity + 1]]
        for row in members:
            own[roots[row]] += 1
        for row in members:
            if held_out[row]:
                shared, size = own[roots[row]], sizes[roots[row]]
                true += len(members) - 1
                predicted += size - 1
                both += shared - 1
                precision += shared / size
                recall += shared / len(members)
                held += 1
        for row in members:
            own[roots[row]] = 0
    return (true, predicted, both), precision / max(held, 1), recall / max(held, 1)


def _lowest_logit(scores_E: Array, num_vertices: int, sizes: Array) -> float:
    """Return the logit below which more edges would be kept than the identities' sizes can account for twice."""
    wanted = int(2 * num_vertices * max(1.0, float(np.mean(sizes.astype(np.float64) ** 2) / np.mean(sizes)) / 2))
    if wanted >= len(scores_E):
        score = float(scores_E.min(initial=1.0))
    else:
        score = float(np.partition(scores_E, len(scores_E) - wanted)[len(scores_E) - wanted])
    score = min(max(score, 1e-6), 1 - 1e-7)
    return float(np.clip(np.floor(np.log(score / (1 - score))), -4.0, HIGHEST_LOGIT - 1))


def _search(evaluate: Callable[[float], Point], lowest: float, highest: float) -> Point:
    """Evaluate every second logit, then halve the distance around the best."""
    tried: dict[float, Point] = {}

    def attempt(logit: float) -> None:
        if logit not in tried and lowest <= logit <= highest:
            tried[logit] = evaluate(_score(logit))

    for logit in np.arange(highest - 1, lowest - 1e-9, -2.0).tolist():
        attempt(logit)
    distance = 1.0
    while distance >= FINEST_LOGIT:
        best = max(tried, key=lambda logit: (mean_f(tried[logit]), logit))
        attempt(best + distance)
        attempt(best - distance)
        distance /= 2
    return best_of(tried[logit] for logit in sorted(tried, reverse=True))


def _score(logit: float) -> float:
    return float(np.float32(1 / (1 + np.exp(-logit))))


def best_of(candidates: Iterable[Point]) -> Point:
    """The point of best mean F, the first of equals."""
    return max(candidates, key=mean_f)
