"""Clusters before and after a change, matched so that each keeps its id as long as most of it stays together.

Legend: N rows, P pairs of a cluster before and a group after that share rows, C clusters, G groups, L lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

BORN, GROWN, MERGED, SPLIT, ENDED, SHRUNK = "born", "grown", "merged into", "split from", "ended", "shrunk"
EVENTS = (BORN, GROWN, MERGED, SPLIT, ENDED, SHRUNK)


@dataclass(frozen=True)
class Lineage:
    """What became of clusters: the event's place in ``EVENTS``, the cluster, the other or -1, and how many rows moved.

    ``born``: of rows that were in no cluster. ``grown``, ``shrunk``: has more or fewer rows than before. ``merged
    into`` the other, which holds most of its rows. ``split from`` the other, which most of its rows were in. ``ended``:
    its rows are gone, or in no cluster.
    """

    events: Array
    clusters: Array
    others: Array
    rows: Array

    def __len__(self) -> int:
        return len(self.events)

    def columns(self, update: int) -> dict[str, Array]:
        """Give the table's columns, with the number of the update that did it."""
        return {
            "update": np.full(len(self), update, np.int64),
            "event": self.events,
            "cluster": self.clusters,
            "other": self.others,
            "rows": self.rows,
        }


def match_clusters(before_N: Array, groups_N: Array, next_id: int) -> tuple[Array, int, Lineage]:
    """Give the groups of rows after a change their ids: those of the clusters before, or new ones.

    ``before_N``: int64, the cluster of each row before, -1 for none. ``groups_N``: any integers from 0 on that say who
    is together afterwards, -1 for no cluster. Pairs with the most common rows are matched first; ties go to the lower
    cluster, then to the group with the lower first row. A group without a match gets the next id from ``next_id`` on,
    in the order of first rows. Returns the clusters' ids (N,) int64, the next id that is free, and the lineage.
    """
    groups_N = np.asarray(groups_N, np.int64)
    assigned = groups_N >= 0
    names, firsts, places = np.unique(groups_N[assigned], return_index=True, return_inverse=True)
    order = np.argsort(firsts, kind="stable")  # groups by first row
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    group_N = np.full(len(groups_N), -1, np.int64)
    group_N[assigned] = rank[places]
    clusters = np.unique(before_N[before_N >= 0])
    cluster_N = np.where(before_N >= 0, np.searchsorted(clusters, before_N), -1)
    both = (cluster_N >= 0) & (group_N >= 0)
    keys, common = np.unique(cluster_N[both] * max(len(names), 1) + group_N[both], return_counts=True)
    cluster_P, group_P = keys // max(len(names), 1), keys % max(len(names), 1)
    kept_C, kept_G = np.full(len(clusters), -1, np.int64), np.full(len(names), -1, np.int64)
    for pair in np.lexsort((group_P, cluster_P, -common)):
        cluster, group = cluster_P[pair], group_P[pair]
        if kept_C[cluster] < 0 and kept_G[group] < 0:
            kept_C[cluster], kept_G[group] = group, cluster
    ids_G = np.where(kept_G >= 0, np.append(clusters, -1)[kept_G], -1)
    unnamed = np.flatnonzero(kept_G < 0)
    ids_G[unnamed] = next_id + np.arange(len(unnamed))
    labels_N = np.append(ids_G, -1)[group_N]
    lineage = _lineage(clusters, cluster_N, group_N, ids_G, (cluster_P, group_P, common), kept_C, kept_G)
    return labels_N, next_id + len(unnamed), lineage


def with_lost(lineage: Lineage, clusters_C: Array, lost_C: Array, before_N: Array, after_N: Array) -> Lineage:
    """Add to a lineage of the rows that are left that clusters have lost rows: so many of each were taken out.

    A cluster of which no row is left has ended; another has shrunk, unless the lineage tells of it already.
    """
    left = np.isin(clusters_C, before_N)
    told = np.isin(clusters_C, lineage.clusters) | (left & ~np.isin(clusters_C, after_N))
    added = np.flatnonzero(~told)
    events = np.where(left[added], EVENTS.index(SHRUNK), EVENTS.index(ENDED))
    columns = [
        np.concatenate([lineage.events, events]),
        np.concatenate([lineage.clusters, clusters_C[added]]),
        np.concatenate([lineage.others, np.full(len(added), -1)]),
        np.concatenate([lineage.rows, lost_C[added]]),
    ]
    order = np.lexsort((columns[2], columns[0], columns[1]))
    return Lineage(columns[0][order].astype(np.int8), *(column[order].astype(np.int64) for column in columns[1:]))


def _lineage(
    clusters: Array,
    cluster_N: Array,
    group_N: Array,
    ids_G: Array,
    pairs: tuple[Array, Array, Array],
    kept_C: Array,
    kept_G: Array,
) -> Lineage:
    cluster_P, group_P, common_P = pairs
    sizes_C = np.bincount(cluster_N[cluster_N >= 0], minlength=len(clusters))
    sizes_G = np.bincount(group_N[group_N >= 0], minlength=len(ids_G))
    most_C = _largest(cluster_P, group_P, common_P, len(clusters))
    most_G = _largest(group_P, cluster_P, common_P, len(ids_G))
    lines: list[tuple[int, str, int, int]] = []
    for group in np.flatnonzero(kept_G < 0):
        origin, rows = most_G[group]
        if origin < 0:
            lines.append((int(ids_G[group]), BORN, -1, int(sizes_G[group])))
        else:
            lines.append((int(ids_G[group]), SPLIT, int(clusters[origin]), rows))
    for cluster in range(len(clusters)):
        own, group = int(clusters[cluster]), kept_C[cluster]
        if group < 0:
            target, rows = most_C[cluster]
            event = (own, ENDED, -1, int(sizes_C[cluster])) if target < 0 else (own, MERGED, int(ids_G[target]), rows)
            lines.append(event)
        elif sizes_G[group] != sizes_C[cluster]:
            more = int(sizes_G[group] - sizes_C[cluster])
            lines.append((own, GROWN if more > 0 else SHRUNK, -1, abs(more)))
    lines.sort()
    columns = list(zip(*lines, strict=True)) if lines else [(), (), (), ()]
    events = np.array([EVENTS.index(event) for event in columns[1]], np.int8)
    return Lineage(events, *(np.array(columns[place], np.int64) for place in (0, 2, 3)))


def _largest(owners: Array, others: Array, common: Array, count: int) -> list[tuple[int, int]]:
    """Give for each owner the other with most common rows, ties to the lower, and these rows; (-1, 0) without any."""
    found = [(-1, 0)] * count
    for pair in np.lexsort((others, -common)):
        if found[owners[pair]][0] < 0:
            found[owners[pair]] = (int(others[pair]), int(common[pair]))
    return found
