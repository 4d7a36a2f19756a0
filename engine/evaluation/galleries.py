"""Which clusters a person should look at, and how sizes are distributed: what the report shows of the result.

E edges, N rows, C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from engine.clustering.forest import MaximumForest
from engine.clustering.union_find import check_edges, find_root
from engine.errors import DataError
from engine.evaluation.metrics import Labels


@dataclass(frozen=True)
class SizeBin:
    """Clusters of ``low`` to ``high`` rows, both included."""

    low: int
    high: int
    num_clusters: int
    num_rows: int


@dataclass(frozen=True)
class PickedCluster:
    """A cluster worth a look; scores are ``None`` where no scored edge joins its rows.

    ``bridge_rows``: the two rows whose edge has ``bridge_score``: where to look for the seam of two identities.
    """

    label: int
    size: int
    cohesion: float | None
    weakest_score: float | None
    bridge_score: float | None
    bridge_rows: tuple[int, int] | None


@dataclass(frozen=True)
class ClusterPicks:
    """Clusters chosen for the three galleries, most telling first."""

    largest: list[PickedCluster]
    least_certain: list[PickedCluster]
    most_bridge_like: list[PickedCluster]


def cluster_size_histogram(sizes_C: NDArray[np.integer[Any]]) -> list[SizeBin]:
    """Count clusters by size in bins 1, 2, 3-4, 5-8, ... doubling up to the largest; empty bins are kept."""
    bins, low, high = [], 1, 1
    largest = int(sizes_C.max()) if len(sizes_C) else 0
    while low <= largest:
        inside_C = sizes_C[(sizes_C >= low) & (sizes_C <= high)]
        bins.append(SizeBin(low, high, len(inside_C), int(inside_C.sum(dtype=np.int64))))
        low, high = high + 1, 2 * high
    return bins


class ClusterPicker:
    """Measure every cluster from edges that arrive in blocks, then pick; memory follows N.

    Per cluster: cohesion = mean score of the edges inside it; weakest score = lowest edge of its maximum spanning
    forest, the score at which it would fall apart; bridge score = lowest score that holds two groups of at least two
    rows each together, so that one stray row is not taken for a bridge.
    ``labels_N``: >= -1; rows of -1 belong to no cluster. Edges in a fixed order give the same sums in any blocks.
    Peak about 70 bytes per row.
    """

    def __init__(self, labels_N: Labels) -> None:
        if len(labels_N) and int(labels_N.min()) < -1:
            raise DataError(f"cluster labels: expected -1 or more, got {int(labels_N.min())}")
        assigned_N = labels_N >= 0
        self._labels_C, members = np.unique(labels_N[assigned_N], return_inverse=True)
        self._clusters_N = np.full(len(labels_N), -1, np.int32)
        self._clusters_N[assigned_N] = members
        self._sums_C = np.zeros(len(self._labels_C), np.float64)
        self._counts_C = np.zeros(len(self._labels_C), np.int64)
        self._forest = MaximumForest(len(labels_N))

    def add(self, sources_E: NDArray[np.int32], targets_E: NDArray[np.int32], scores_E: NDArray[np.float32]) -> None:
        """Add a block of scored edges, each undirected edge once overall; those between clusters are ignored."""
        check_edges(sources_E, targets_E, len(self._clusters_N))
        inside_E = self._clusters_N[sources_E] == self._clusters_N[targets_E]
        inside_E &= (self._clusters_N[sources_E] >= 0) & (sources_E != targets_E)
        sources_E, targets_E, scores_E = sources_E[inside_E], targets_E[inside_E], scores_E[inside_E]
        _add_scores(self._clusters_N[sources_E], scores_E, self._sums_C, self._counts_C)
        self._forest.add(sources_E, targets_E, scores_E)

    def pick(self, num: int = 12) -> ClusterPicks:
        """Pick up to ``num`` clusters of each kind; ties go to the lower label.

        Largest: by size. Least certain: lowest cohesion among clusters of 3 rows or more. Most bridge-like: greatest
        fall from cohesion to bridge score.
        """
        sizes_C = np.bincount(self._clusters_N[self._clusters_N >= 0], minlength=len(self._labels_C))
        sources_E, targets_E, scores_E = self._forest.edges()
        weakest_C, bridge_C = _weakest_links(sources_E, targets_E, self._clusters_N, len(sizes_C))
        weakest_scores_C, bridge_scores_C = _take(scores_E, weakest_C), _take(scores_E, bridge_C)
        cohesion_C = np.full(len(sizes_C), np.nan)
        np.divide(self._sums_C, self._counts_C, out=cohesion_C, where=self._counts_C > 0)

        def describe(cluster: int) -> PickedCluster:
            edge = int(bridge_C[cluster])
            return PickedCluster(
                label=int(self._labels_C[cluster]),
                size=int(sizes_C[cluster]),
                cohesion=_number(cohesion_C[cluster]),
                weakest_score=_number(weakest_scores_C[cluster]),
                bridge_score=_number(bridge_scores_C[cluster]),
                bridge_rows=(int(sources_E[edge]), int(targets_E[edge])) if edge >= 0 else None,
            )

        def build(order: NDArray[np.int64]) -> list[PickedCluster]:
            return [describe(int(cluster)) for cluster in order[:num]]

        sure = np.where(sizes_C >= 3, cohesion_C, np.nan)
        return ClusterPicks(
            build(np.argsort(-sizes_C, kind="stable")),
            build(_lowest(sure)),
            build(_lowest(bridge_scores_C - cohesion_C)),
        )


def pick_clusters(
    labels_N: Labels,
    sources_E: NDArray[np.int32],
    targets_E: NDArray[np.int32],
    scores_E: NDArray[np.float32],
    num: int = 12,
) -> ClusterPicks:
    """Pick clusters from edges held in memory; see ``ClusterPicker``."""
    picker = ClusterPicker(labels_N)
    picker.add(sources_E, targets_E, scores_E)
    return picker.pick(num)


def _lowest(values_C: NDArray[np.float64]) -> NDArray[np.int64]:
    """Clusters by ascending value, those without one left out."""
    order = np.argsort(values_C, kind="stable")
    return order[: int(np.count_nonzero(~np.isnan(values_C)))]


def _take(scores_E: NDArray[np.float32], edges_C: NDArray[np.int64]) -> NDArray[np.float64]:
    """Scores of the given edges, NaN where there is none (-1)."""
    found_C = np.full(len(edges_C), np.nan)
    found_C[edges_C >= 0] = scores_E[edges_C[edges_C >= 0]]
    return found_C


def _number(value: np.floating[Any]) -> float | None:
    return None if np.isnan(value) else float(value)


@njit(nogil=True, cache=True)
def _add_scores(
    clusters_E: NDArray[np.int32],
    scores_E: NDArray[np.float32],
    sums_C: NDArray[np.float64],
    counts_C: NDArray[np.int64],
) -> None:
    for edge in range(len(clusters_E)):
        sums_C[clusters_E[edge]] += scores_E[edge]
        counts_C[clusters_E[edge]] += 1


@njit(nogil=True, cache=True)
def _weakest_links(
    sources_E: NDArray[np.int32], targets_E: NDArray[np.int32], clusters_N: NDArray[np.int32], num_clusters: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Replay the forest from strong to weak: each cluster's last join, and its last of two groups of >= 2 rows."""
    parent_N = np.arange(len(clusters_N)).astype(np.int32)
    sizes_N = np.ones(len(clusters_N), np.int32)
    weakest_C = np.full(num_clusters, -1, np.int64)
    bridge_C = np.full(num_clusters, -1, np.int64)
    for edge in range(len(sources_E)):
        a, b = find_root(parent_N, sources_E[edge]), find_root(parent_N, targets_E[edge])
        cluster = clusters_N[a]
        weakest_C[cluster] = edge
        if min(sizes_N[a], sizes_N[b]) >= 2:
            bridge_C[cluster] = edge
        parent_N[max(a, b)] = min(a, b)
        sizes_N[min(a, b)] = sizes_N[a] + sizes_N[b]
    return weakest_C, bridge_C
