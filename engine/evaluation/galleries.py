"""Choose the clusters that a person should look at, and count clusters by size, for the report.

C clusters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluation.explain import ClusterTable

GALLERY_CLUSTERS = 9
GALLERY_ROWS = 24
CONFIDENCE_BINS = 20
LEAST_ROWS = 3  # a smaller cluster is never called uncertain, because its confidence follows from one score


@dataclass(frozen=True)
class SizeBin:
    """Clusters of ``low`` to ``high`` rows, both included."""

    low: int
    high: int
    num_clusters: int
    num_rows: int


@dataclass(frozen=True)
class ClusterPicks:
    """Places of clusters in a ``ClusterTable``, chosen for the galleries, the strongest case of each kind first.

    ``likely_merges``: pairs of clusters (two places each).
    """

    likely_merges: list[tuple[int, int]]
    likely_splits: list[int]
    least_certain: list[int]
    largest: list[int]


def cluster_size_histogram(sizes_C: NDArray[np.integer[Any]]) -> list[SizeBin]:
    """Count clusters by size in bins 1, 2, 3-4, 5-8, ... doubling up to the largest; empty bins are kept."""
    bins, low, high = [], 1, 1
    largest = int(sizes_C.max()) if len(sizes_C) else 0
    while low <= largest:
        inside_C = sizes_C[(sizes_C >= low) & (sizes_C <= high)]
        bins.append(SizeBin(low, high, len(inside_C), int(inside_C.sum(dtype=np.int64))))
        low, high = high + 1, 2 * high
    return bins


def pick_clusters(table: ClusterTable, num: int = 12) -> ClusterPicks:
    """Pick up to ``num`` of each kind; ties go to the lower label.

    Likely merges: a cluster and its nearest other, by the affinity of the smaller to the larger; larger clusters rank
    a little higher, because merging them changes more, and pairs of single rows come last. Likely splits: the greatest
    fall from cohesion to bridge score. Least certain: the lowest confidence among clusters of 3 rows or more. Largest:
    by size.
    """
    sure = np.where(table.sizes >= LEAST_ROWS, table.confidence, np.nan)
    return ClusterPicks(
        _merges(table, num),
        _lowest(table.bridge_score - table.cohesion)[:num],
        _lowest(sure)[:num],
        np.argsort(-table.sizes, kind="stable")[:num].tolist(),
    )


def _merges(table: ClusterTable, num: int) -> list[tuple[int, int]]:
    own = np.flatnonzero(table.nearest >= 0)
    other = np.searchsorted(table.labels, table.nearest[own])
    smaller = np.minimum(table.sizes[own], table.sizes[other])
    # Only the smaller cluster's affinity counts, because a large cluster's rows hardly ever all lean one way.
    own, other, smaller = (part[table.sizes[own] == smaller] for part in (own, other, smaller))
    alone = (smaller == 1) & (table.sizes[other] == 1)  # two single rows come last, as such pairs matter least
    order = np.lexsort((-table.affinity[own] * smaller / (smaller + 1), alone))
    pairs: dict[tuple[int, int], None] = {}
    for place in order:
        a, b = int(own[place]), int(other[place])
        pairs.setdefault((min(a, b), max(a, b)))
        if len(pairs) == num:
            break
    return list(pairs)


def _lowest(values_C: NDArray[np.float64]) -> list[int]:
    """Order clusters by ascending value; clusters without a value are left out."""
    order = np.argsort(values_C, kind="stable")
    found: list[int] = order[: int(np.count_nonzero(~np.isnan(values_C)))].tolist()
    return found


def confidence_histogram(confidence_N: np.ndarray) -> dict[str, Any]:
    """Count rows by confidence; rows without one are left out."""
    counts, edges = np.histogram(confidence_N[~np.isnan(confidence_N)], CONFIDENCE_BINS, (0.0, 1.0))
    return {"bin_edges": edges.tolist(), "rows": counts.tolist()}


def describe_galleries(items: Any, table: ClusterTable, places_N: np.ndarray) -> dict[str, list[dict[str, Any]]]:
    """Describe the clusters to look at, by some of their rows and items; a likely merge has both, one as ``beside``.

    ``places_N``: the place of each row's cluster in the table, -1 for none. ``items``: an Arrow column, or ``None``.
    """
    picks: ClusterPicks = pick_clusters(table, GALLERY_CLUSTERS)
    shown = np.zeros(len(table.labels) + 1, np.bool_)
    pairs = [place for places in picks.likely_merges for place in places]
    shown[[*pairs, *picks.likely_splits, *picks.least_certain, *picks.largest]] = True
    members_N = np.flatnonzero(shown[places_N])  # -1 is the last place
    places_of_members = places_N[members_N]

    def describe(place: int, marked: tuple[int, ...] = ()) -> dict[str, Any]:
        label = int(table.labels[place])
        members = members_N[places_of_members == place]
        rows = sorted({*marked, *members[: GALLERY_ROWS - len(marked)].tolist()})
        numbers = {name: getattr(table, name)[place] for name in ("confidence", "cohesion", "weakest_score")}
        return {
            "label": label,
            "size": int(table.sizes[place]),
            "rows": rows,
            "marked": list(marked),
            "items": [] if items is None else [items[row].as_py() for row in rows],
            **{name: None if np.isnan(number) else float(number) for name, number in numbers.items()},
        }

    def pair(places: tuple[int, int]) -> dict[str, Any]:
        larger, smaller = sorted(places, key=lambda place: (-int(table.sizes[place]), place))
        return {**describe(larger), "beside": describe(smaller), "affinity": float(table.affinity[smaller])}

    return {
        "likely_merges": [pair(places) for places in picks.likely_merges],
        "likely_splits": [describe(place, tuple(table.bridge_rows[place].tolist())) for place in picks.likely_splits],
        "least_certain": [describe(place) for place in picks.least_certain],
        "largest": [describe(place) for place in picks.largest],
    }
