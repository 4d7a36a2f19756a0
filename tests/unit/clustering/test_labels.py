import numpy as np
import pytest

from engine.clustering.labels import dense_labels, expand_labels
from engine.errors import DataError


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_clusters_are_numbered_by_their_lowest_vertex(dtype):
    labels = dense_labels(np.array([0, 1, 0, 3, 1, 3], dtype))
    assert labels.dtype == np.int64
    assert labels.tolist() == [0, 1, 0, 2, 1, 2]
    assert dense_labels(np.array([], dtype)).tolist() == []


@pytest.mark.parametrize("roots", [[1, 1], [0, 0, 1], [-1], [5]])
def test_malformed_roots_are_refused(roots):
    with pytest.raises(DataError, match="lowest vertex id"):
        dense_labels(np.array(roots))


def test_dropped_rows_get_minus_one_and_singletons_labels_at_the_end():
    labels = expand_labels(np.array([0, 1, 0]), np.array([1, 3, 4]), 7, np.array([6, 0]))
    assert labels.tolist() == [2, 0, -1, 1, 0, -1, 3]


def test_all_rows_dropped_or_single():
    none = np.array([], np.int64)
    assert expand_labels(none, none, 2).tolist() == [-1, -1]
    assert expand_labels(none, none, 2, np.array([1])).tolist() == [-1, 0]


@pytest.mark.parametrize(
    ("labels", "kept", "single", "message"),
    [
        ([0], [0, 1], [], "2 rows for 1 labels"),
        ([0], [3], [], "expected 0..2"),
        ([0], [-1], [], "expected 0..2"),
        ([0, 1], [1, 1], [], "named twice"),
        ([0], [1], [1], "named twice"),
    ],
)
def test_malformed_rows_are_refused(labels, kept, single, message):
    with pytest.raises(DataError, match=message):
        expand_labels(np.array(labels), np.array(kept), 3, np.array(single, np.int64))
