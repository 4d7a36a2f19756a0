import numpy as np
import pytest

from engine.clustering.union_find import UnionFind, compact_ids, component_roots, id_dtype
from engine.errors import DataError


def ids(*values, dtype=np.int64):
    return np.array(values, dtype)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_roots_are_minimum_ids(dtype):
    roots = component_roots(6, ids(5, 3, 4, dtype=dtype), ids(3, 1, 4, dtype=dtype))
    assert roots.dtype == np.int32
    assert roots.tolist() == [0, 1, 2, 1, 4, 1]


def test_path_star_giant_and_singletons():
    path = np.arange(999, dtype=np.int32)
    assert not component_roots(1000, path + 1, path).any()
    assert not component_roots(1000, path[::-1].copy() + 1, path[::-1].copy()).any()
    assert not component_roots(1000, np.full(999, 999, np.int32), path).any()
    assert component_roots(4, ids(), ids()).tolist() == [0, 1, 2, 3]
    assert component_roots(0, ids(), ids()).tolist() == []


def test_roots_may_be_asked_between_blocks():
    forest = UnionFind(4)
    forest.add(ids(3), ids(2))
    early = forest.roots()
    forest.add(ids(2), ids(0))
    assert early.tolist() == [0, 1, 2, 2]
    assert forest.roots().tolist() == [0, 1, 0, 0]


def forest(num_vertices, *blocks):
    union = UnionFind(num_vertices)
    for block in blocks:
        union.add(*block)
    return union.forest()


def test_the_forest_is_canonical():
    members, roots = forest(101, (ids(9, 7, 7, 100, 5, 3), ids(7, 9, 2, 50, 5, 2)))
    assert members.tolist() == [3, 7, 9, 100]
    assert roots.tolist() == [2, 2, 2, 50]
    assert members.dtype == roots.dtype == np.int32
    assert [len(part) for part in forest(3)] == [0, 0]


def test_forests_of_blocks_are_edges_again():
    merged = forest(10, forest(10, (ids(1, 2), ids(2, 3))), forest(10, (ids(3, 8), ids(0, 9))))
    assert [part.tolist() for part in merged] == [[1, 2, 3, 9], [0, 0, 0, 8]]


def test_huge_ids_cost_only_the_block():
    top = 2**62
    found, sources, targets = compact_ids(ids(top, 3, top - 5), ids(top - 5, 3, 0))
    assert found.tolist() == [0, 3, top - 5, top]
    assert (sources.tolist(), targets.tolist()) == ([3, 1, 2], [2, 1, 0])


def test_ids_widen_with_the_graph():
    assert id_dtype(2**31 - 1) is np.int32
    assert id_dtype(2**31) is np.int64


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        (ids(0, 4), ids(1, 1), "source of edge 1 is 4, expected ids from 0 to 3"),
        (ids(0, 1), ids(1, -1), "target of edge 1 is -1"),
        (ids(0), ids(0, 1), "one length"),
        (np.array([0.0]), np.array([1.0]), "float64"),
    ],
)
def test_bad_edges_are_refused(sources, targets, message):
    with pytest.raises(DataError, match=message):
        component_roots(4, sources, targets)


def test_negative_ids_are_refused_in_a_block():
    with pytest.raises(DataError, match="any id from 0"):
        compact_ids(ids(-1), ids(3))
