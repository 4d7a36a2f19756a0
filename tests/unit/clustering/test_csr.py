import numpy as np
import pytest

from engine.clustering.csr import build_adjacency, build_weighted_adjacency
from engine.errors import DataError


def blocks_of(sources, targets, weights, num_blocks=1):
    columns = np.array(sources, np.int32), np.array(targets, np.int32), np.array(weights, np.float32)
    return lambda: [tuple(column[start::num_blocks].copy() for column in columns) for start in range(num_blocks)]


def test_rows_are_sorted_and_repeats_keep_the_largest_weight():
    blocks = blocks_of([3, 0, 2, 3, 1], [0, 3, 2, 1, 3], [0.5, 0.75, 9, -0.25, -2])
    indptr, indices, weights = build_weighted_adjacency(4, blocks)
    assert (indptr.dtype, indices.dtype, weights.dtype) == (np.int64, np.int32, np.float32)
    assert indptr.tolist() == [0, 1, 2, 2, 4]
    assert indices.tolist() == [3, 3, 0, 1]
    assert weights.tolist() == [0.75, -0.25, 0.75, -0.25]


def test_any_order_and_cut_give_the_links_of_the_unweighted():
    random = np.random.default_rng(0)
    sources, targets = random.integers(0, 300, (2, 5000))
    weights = random.normal(size=5000)
    one = build_weighted_adjacency(300, blocks_of(sources, targets, weights))
    order = random.permutation(5000)
    other = build_weighted_adjacency(300, blocks_of(targets[order], sources[order], weights[order], 7), threads=3)
    for a, b in zip(one, other, strict=True):
        assert np.array_equal(a, b)
    plain = build_adjacency(300, lambda: [(sources, targets)])
    assert np.array_equal(one[0], plain[0])
    assert np.array_equal(one[1], plain[1])
    best = np.full((300, 300), -np.inf, np.float32)
    for a, b, w in zip(sources, targets, weights.astype(np.float32), strict=True):
        best[a, b] = best[b, a] = max(best[a, b], w)
    rows = np.repeat(np.arange(300), np.diff(one[0]))
    assert np.array_equal(one[2], best[rows, one[1]])


@pytest.mark.parametrize("weights", [[1.0, 2.0], [np.nan]])
def test_bad_weights_are_refused(weights):
    values = np.array(weights, np.float32)
    with pytest.raises(DataError, match="weight"):
        build_weighted_adjacency(3, lambda: [(np.array([0]), np.array([1]), values)])
