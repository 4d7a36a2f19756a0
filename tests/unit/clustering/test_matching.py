"""Clusters keep their ids over a change, and the lineage tells what became of the others."""

from __future__ import annotations

import numpy as np

from engine.clustering.matching import EVENTS, Lineage, match_clusters, with_lost


def lines(found: Lineage) -> list[tuple[str, int, int, int]]:
    columns = [EVENTS[code] for code in found.events], found.clusters, found.others, found.rows
    return [(event, int(a), int(b), int(c)) for event, a, b, c in zip(*columns, strict=True)]


def test_the_greatest_overlap_keeps_the_id_and_the_rest_is_told() -> None:
    before = np.array([7, 7, 7, 7, 3, 3, 5, 5, 5, -1, -1, -1])
    after = np.array([0, 0, 2, 2, 0, 0, 4, 4, 4, 4, 6, -1])
    labels, next_id, lineage = match_clusters(before, after, 10)
    # Cluster 3 and a half of 7 are together: both have two rows there, and the lower id stays.
    np.testing.assert_array_equal(labels, [3, 3, 7, 7, 3, 3, 5, 5, 5, 5, 10, -1])
    assert next_id == 11
    assert lines(lineage) == [("grown", 3, -1, 2), ("grown", 5, -1, 1), ("shrunk", 7, -1, 2), ("born", 10, -1, 1)]


def test_a_merge_and_a_split_name_the_other_cluster() -> None:
    labels, next_id, lineage = match_clusters(np.array([1, 1, 1, 2, 2, 4, 4, 4]), np.array([0, 0, 0, 0, 0, 9, 9, 8]), 5)
    np.testing.assert_array_equal(labels, [1, 1, 1, 1, 1, 4, 4, 5])
    assert ("merged into", 2, 1, 2) in lines(lineage)
    assert ("split from", 5, 4, 1) in lines(lineage)
    assert next_id == 6


def test_an_unchanged_clustering_has_no_lineage() -> None:
    before = np.array([4, 4, 2, 2, 9])
    labels, next_id, lineage = match_clusters(before, np.array([0, 0, 1, 1, 2]), 10)
    np.testing.assert_array_equal(labels, before)
    assert (next_id, len(lineage)) == (10, 0)


def test_rows_taken_out_end_or_shrink_their_clusters() -> None:
    nothing = Lineage(*(np.empty(0, np.int64) for _ in range(4)))
    found = with_lost(nothing, np.array([1, 3]), np.array([2, 1]), np.array([3, 3]), np.array([3, 3]))
    assert lines(found) == [("ended", 1, -1, 2), ("shrunk", 3, -1, 1)]
