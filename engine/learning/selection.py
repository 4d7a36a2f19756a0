"""Choose the thresholds of the partitions on held-out train identities.

Legend: N vertices, E scored edges. Every candidate clusters the whole train graph, so the density of the graph is that
of real use. What counts is, of each held-out row, which rows it shares its cluster with, so no counted pair was trained
on. A pair counts once for each of its rows that is held out: those of one identity do with both, false ones mostly with
one, so counted alike false ones would weigh nearly twice what they do among unseen identities, and thresholds would
come out too high. Pairwise F alone is ruled by the largest few identities held out, hence its mean with BCubed F.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np

from engine.clustering.adjacency import build_adjacency, build_weighted_adjacency
from engine.clustering.density_peaks import density_peaks
from engine.clustering.evidence import weigh_edges
from engine.clustering.forest import strongest_forest
from engine.clustering.map_equation import map_equation
from engine.clustering.propagation import propagate
from engine.clustering.pruning import node_intimacy
from engine.clustering.union_find import component_roots
from engine.errors import DataError
from engine.evaluation.metrics import PairCounts, f_from_counts, harmonic_mean

Array = np.ndarray[Any, Any]

VERSION = 7  # of what is chosen from the same scores
PARTITIONS = ("components", "propagation", "density_peaks", "map_equation")
FINEST_LOGIT = 0.125
HIGHEST_LOGIT = 15.0
MODULE_LOGITS = tuple(np.arange(2.0, -2.6, -0.5).tolist())  # floors of map equation and density peaks: beyond, F falls
HEAD_START = 0.01  # of the map equation: unseen identities chain more than held-out ones, and it is tuned the least
NO_WORSE = 0.002  # in F: floors of the map equation that are told apart by chance
LINK_QUANTILES = 101
SIZE_QUANTILES = (0.5, 0.75, 0.9, 0.99, 1.0)
SIZE_FACTORS = (1.0, 1.5)
INTIMACIES = (0.0, 0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)


def select_operating_points(
    sources_E: Array,
    targets_E: Array,
    scores_E: Array,
    *,
    identities_N: Array,
    held_out_N: Array,
    step: float = 0.05,
    seed: int = 0,
    threads: int = 1,
    partitions: Sequence[str] = PARTITIONS,
) -> dict[str, Any]:
    """Search the partitions' settings for the best mean of pairwise and BCubed F over held-out rows.

    ``components``: ``min_score`` (τ1) and ``min_intimacy`` (τ2). ``propagation``: ``min_score`` and ``max_size``, whose
    candidates are quantiles of the train identities' sizes. ``density_peaks`` and ``map_equation``: ``min_score``
    alone, the latter's weights being the log-odds above it. Score thresholds of the first two go by logits, from steps
    of 2 down to ``FINEST_LOGIT`` around the best; of the others by steps of half a logit, where the mean of each and
    its neighbours decides, as their F is flat and rugged. Each comes with ``held_out_f``, ``held_out_precision``,
    ``held_out_recall`` (pairwise) and ``held_out_bcubed_f``; ``preferred`` names the best, the map equation with a
    ``HEAD_START``. Equal F of the first two goes to the first tried, from high thresholds down. Memory: about 40 bytes
    per edge kept at the lowest threshold tried. Raises ``DataError`` if no pair could be counted, or no edge is.
    """
    if len(scores_E) == 0:
        raise DataError("thresholds: no edge was scored; lower score.min_similarity")
    num_vertices = len(identities_N)
    _, sizes = np.unique(identities_N[identities_N >= 0], return_counts=True)
    measure = _measure(identities_N, held_out_N)
    forest = strongest_forest(sources_E, targets_E, scores_E)
    caps = sorted({int(np.ceil(np.quantile(sizes, q) * f)) for q in SIZE_QUANTILES for f in SIZE_FACTORS} - {1})

    def best_cap(min_score: float) -> dict[str, Any]:
        def try_cap(cap: int) -> dict[str, Any]:
            roots_N = propagate(num_vertices, *forest, min_score=min_score, max_size=cap, step=step)
            return {"min_score": min_score, "max_size": cap, **measure(roots_N)}

        return _best(try_cap(cap) for cap in caps)

    def best_intimacy(min_score: float) -> dict[str, Any]:
        kept = scores_E >= min_score
        sources, targets = sources_E[kept], targets_E[kept]
        adjacency = build_adjacency(num_vertices, lambda: [(sources, targets)], threads)
        intimacies = node_intimacy(*adjacency, sources, targets, threads)
        first, second, weights = strongest_forest(sources, targets, intimacies)

        def try_intimacy(floor: float) -> dict[str, Any]:
            joined = weights >= np.float32(floor)
            roots_N = component_roots(num_vertices, first[joined], second[joined])
            return {"min_score": min_score, "min_intimacy": floor, **measure(roots_N)}

        return _best(try_intimacy(floor) for floor in reversed(INTIMACIES))

    def peaks(min_score: float) -> dict[str, Any]:
        return {
            "min_score": min_score,
            **measure(density_peaks(num_vertices, sources_E, targets_E, scores_E, min_score)),
        }

    def modules(min_score: float) -> dict[str, Any]:
        edges = weigh_edges((sources_E, targets_E, scores_E), "log_odds", min_score)
        graph = build_weighted_adjacency(num_vertices, lambda: [edges], threads)
        return {"min_score": min_score, **measure(map_equation(*graph, threads=threads, seed=seed).roots_N)}

    lowest = _lowest_logit(scores_E, num_vertices, sizes)
    searches: dict[str, Callable[[], dict[str, Any]]] = {
        "components": lambda: _search(best_intimacy, lowest, HIGHEST_LOGIT),
        "propagation": lambda: _search(best_cap, lowest, HIGHEST_LOGIT),
        "density_peaks": lambda: _scan(peaks),
        "map_equation": lambda: _scan(modules),
    }
    found = {name: searches[name]() for name in partitions}
    preferred = max(found, key=lambda name: mean_f(found[name]) + HEAD_START * (name == "map_equation"))
    return {**found, "preferred": preferred}


def select_links(linked_N: Array, cosines_N: Array, identities_N: Array, held_out_N: Array) -> dict[str, Any]:
    """Choose the least cosine of links, of ``LINK_QUANTILES`` of them, by the mean of pairwise and BCubed F.

    ``linked_N``: the vertex that each links to, -1 if none. Returns a point of ``components``; raises as
    ``select_operating_points``.
    """
    measure = _measure(identities_N, held_out_N)
    rows = np.flatnonzero(linked_N >= 0)

    def attempt(least: float) -> dict[str, Any]:
        kept = rows[cosines_N[rows] >= np.float32(least)]
        roots_N = component_roots(len(linked_N), kept.astype(np.int32), linked_N[kept])
        return {"min_score": least, "min_intimacy": 0.0, **measure(roots_N)}

    quantiles = np.quantile(cosines_N[rows], np.linspace(1, 0, LINK_QUANTILES)) if len(rows) else np.ones(1)
    return _best(attempt(float(least)) for least in quantiles)


def mean_f(point: dict[str, Any]) -> float:
    """The mean of pairwise and BCubed F, by which one point is better than another."""
    return float(point["held_out_f"] + point["held_out_bcubed_f"]) / 2


def _measure(identities_N: Array, held_out_N: Array) -> Callable[[Array], dict[str, float]]:
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


def _search(evaluate: Callable[[float], dict[str, Any]], lowest: float, highest: float) -> dict[str, Any]:
    """Evaluate every second logit, then halve the distance around the best."""
    tried: dict[float, dict[str, Any]] = {}

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
    return _best(tried[logit] for logit in sorted(tried, reverse=True))


def _scan(evaluate: Callable[[float], dict[str, Any]]) -> dict[str, Any]:
    """Evaluate all of ``MODULE_LOGITS``; the best mean F of one, counted twice, and its two neighbours decides.

    Of those that are ``NO_WORSE`` the one next to even odds is taken, which is right if scores are calibrated.
    """
    found = [evaluate(_score(logit)) for logit in MODULE_LOGITS]
    values = np.array([mean_f(each) for each in found])
    padded = np.concatenate([values[:1], values, values[-1:]])
    smooth = (padded[:-2] + 2 * values + padded[2:]) / 4
    as_good = np.flatnonzero(smooth >= smooth.max() - NO_WORSE)
    return found[int(as_good[np.argmin(np.abs(np.array(MODULE_LOGITS)[as_good]))])]


def _score(logit: float) -> float:
    return float(np.float32(1 / (1 + np.exp(-logit))))


def _best(candidates: Any) -> dict[str, Any]:
    return max(candidates, key=mean_f)
