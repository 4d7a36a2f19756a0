import numpy as np
import pytest

from engine.clustering.label_free import LEAST_SCORE, STEP_BANDWIDTH, STEP_REACH
from engine.clustering.merge_tree import UNIT, cut, merge_tree, walk_block
from engine.clustering.operating_point import (
    choose_operating_point,
    choose_scored_point,
    graph_forest,
    join_forests,
    join_walk,
)
from engine.clustering.propagation import propagate
from engine.errors import DataError
from tests.support.toy_graphs import exact_graph


def blobs(num_clusters, size, noise, seed=0, dim=32):
    """Unit vectors around random centres, and their exact neighbours."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(num_clusters), size)
    points = rng.normal(size=(num_clusters, dim))[truth] + noise * rng.normal(size=(len(truth), dim))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return *exact_graph(points.astype(np.float32), 30), truth


def edges_of(neighbors, similarities):
    row, column = np.nonzero(neighbors >= 0)
    return row.astype(np.int32), neighbors[row, column].astype(np.int32), similarities[row, column]


@pytest.mark.parametrize(("num_clusters", "size"), [(100, 6), (30, 20), (6, 100)])
def test_clusters_of_any_size_are_found(num_clusters, size):
    neighbors, similarities, truth = blobs(num_clusters, size, 0.4)
    point = choose_operating_point(neighbors, similarities)
    assert size <= point.max_size < (2 * size if num_clusters > 50 else len(truth) + 1)
    roots = propagate(
        len(truth), *edges_of(neighbors, similarities), min_score=point.min_score, max_size=point.max_size, step=0.05
    )
    same = roots[:, None] == roots
    together = truth[:, None] == truth
    assert not (same & ~together).any()
    assert (same & together).sum() > 0.95 * together.sum()
    assert f"{point.min_score:.3f}" in point.reason


@pytest.mark.parametrize("sizes", [[1_500], [1_200, 20], [500, 150, 60, 20, 6, 2]])
def test_few_large_clusters_are_whole_and_small_ones_beside_them_apart(sizes):
    rng = np.random.default_rng(3)
    truth = np.repeat(np.arange(len(sizes)), sizes)
    points = rng.normal(size=(len(sizes), 96))[truth] + 0.5 * rng.normal(size=(len(truth), 96))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    graph = exact_graph(points.astype(np.float32), 80)
    point = choose_operating_point(*graph)
    chosen = propagate(len(truth), *edges_of(*graph), min_score=point.min_score, max_size=point.max_size, step=0.05)
    assert ((chosen[:, None] == chosen) == (truth[:, None] == truth)).all()


def test_outliers_are_left_out():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(20, 64)).repeat(15, axis=0)
    points = np.concatenate([centres + 0.4 * rng.normal(size=centres.shape), rng.normal(size=(20, 64))])
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    neighbors, similarities = exact_graph(points.astype(np.float32), 30)
    point = choose_operating_point(neighbors, similarities)
    assert point.min_score > np.median(similarities[300:, 0])


def test_codelength_of_two_pairs_by_hand():
    neighbors = np.array([[1, 2], [0, -1], [3, -1], [2, -1]], np.int32)
    similarities = np.array([[0.9, 0.87], [0.9, -1], [0.8, -1], [0.8, -1]], np.float32)
    near = 1 / (1 + np.exp(-1))
    edges = {(0, 1): (near + 1) / 8, (0, 2): (1 - near) / 8, (2, 3): 2 / 8}
    flows = np.array([sum(flow for edge, flow in edges.items() if vertex in edge) for vertex in range(4)])

    def term(x):
        return np.sum(x * np.log2(x))

    exits = np.array([edges[0, 2], edges[0, 2] + edges[2, 3], edges[2, 3]])  # of 0 with 1, of 2 and of 3
    inside = np.array([flows[:2].sum(), *flows[2:]])
    expected = term(exits.sum()) - 2 * term(exits) - term(flows) + term(inside + exits)
    walk = walk_of(neighbors, similarities)
    assert walk.flows_N / UNIT == pytest.approx(flows)
    assert walk.flows_N.sum() / UNIT == pytest.approx(1)
    cuts = cut(walk, 0.8, [1, 2, 4], 0.05)
    assert cuts.clusters.tolist() == [4, 3, 1]
    assert cuts.bits[1:] == pytest.approx([expected, -term(flows)])


def walk_of(neighbors, similarities):
    forest = graph_forest(neighbors, similarities, 0, len(neighbors), len(neighbors))
    through, parting = walk_block(neighbors, similarities, 0, merge_tree(forest, len(neighbors)))
    return join_walk(forest, len(neighbors), [through], [parting])


@pytest.mark.parametrize("seed", range(4))
def test_one_pass_measures_every_clustering_of_propagation(seed):
    neighbors, similarities, _ = blobs(12, 20, 0.6, seed)
    similarities = np.round(similarities, 2)  # many equal ones
    walk, caps = walk_of(neighbors, similarities), [1, 2, 3, 7, 20, 21, 60, 240]
    flow = (similarities - similarities[:, :1]).astype(np.float64)
    flow = np.where(flow >= -STEP_REACH, np.exp(flow / STEP_BANDWIDTH), 0)
    flow *= 0.5 / flow.sum(axis=1, keepdims=True) / len(flow)
    through = flow.sum(axis=1) + np.bincount(neighbors.ravel(), flow.ravel(), len(flow))
    for least in (float(similarities.min()), 0.3, 0.6, 0.9):
        found = cut(walk, least, caps, 0.05)
        for place, cap in enumerate(caps):
            roots = propagate(240, *edges_of(neighbors, similarities), min_score=least, max_size=cap, step=0.05)
            leaving = (roots[:, None] != roots[neighbors]) * flow
            exits = np.bincount(np.repeat(roots, 30), leaving.ravel(), 240)
            exits += np.bincount(roots[neighbors].ravel(), leaving.ravel(), 240)
            inside = np.bincount(roots, through, 240)
            bits = [np.sum(np.where(x > 0, x * np.log2(np.maximum(x, 1e-300)), 0)) for x in (
                exits.sum(), exits + inside, exits, through)]  # fmt: skip
            assert found.bits[place] == pytest.approx(bits[0] + bits[1] - 2 * bits[2] - bits[3])
            assert found.clusters[place] == len(np.unique(roots))
            assert found.inside[place] / UNIT == pytest.approx(flow.sum() - leaving.sum())


def test_blocks_of_the_walk_add_up_to_the_same_flows():
    neighbors, similarities, _ = blobs(30, 20, 0.5)
    whole, cuts = walk_of(neighbors, similarities), [(0, 250), (250, 260), (260, 600)]
    forests = [graph_forest(neighbors[a:b], similarities[a:b], a, b, 600) for a, b in cuts]
    forest = join_forests(forests)
    for found, expected in zip(forest, whole.forest, strict=True):
        np.testing.assert_array_equal(found, expected)
    tree = merge_tree(forest, 600)
    blocks = [walk_block(neighbors[a:b], similarities[a:b], a, tree) for a, b in reversed(cuts)]
    joined = join_walk(forest, 600, (flows for flows, _ in blocks), (parting for _, parting in blocks))
    np.testing.assert_array_equal(joined.flows_N, whole.flows_N)
    np.testing.assert_array_equal(joined.inside_F, whole.inside_F)


def test_threads_and_half_precision_do_not_matter():
    neighbors, similarities, _ = blobs(20, 12, 0.5)
    half = similarities.astype(np.float16)
    one = choose_operating_point(neighbors, half)
    assert choose_operating_point(neighbors.astype(np.int64), half.astype(np.float32), threads=3) == one


def test_missing_neighbours_duplicates_and_empty_graphs():
    none = choose_operating_point(np.full((3, 2), -1), np.full((3, 2), -1.0))
    assert (none.min_score, none.max_size) == (0.0, 1)
    assert choose_operating_point(np.empty((0, 5), int), np.empty((0, 5))).max_size == 1
    neighbors, ones = np.array([[1, 2], [0, 2], [0, 1], [-1, -1]]), np.ones((4, 2), np.float32)
    point = choose_operating_point(neighbors, ones)
    edges = edges_of(neighbors, ones)
    roots = propagate(4, *edges, min_score=point.min_score, max_size=point.max_size, step=0.05)
    assert roots.tolist() == [0, 0, 0, 3]


def test_arrays_that_disagree_are_refused():
    with pytest.raises(DataError, match="one shape"):
        choose_operating_point(np.zeros((3, 2), int), np.zeros((3, 3)))


def test_overconfident_scores_are_held_to_what_the_clusters_hold():
    neighbors, similarities, truth = blobs(60, 10, 0.4)
    sources, targets, values = edges_of(neighbors, similarities)
    fair = 1 / (1 + np.exp(-20 * (values - 0.6)))
    for scores in (fair, fair**0.1):
        pieces = [(sources[a:b], targets[a:b], scores[a:b].astype(np.float32)) for a, b in ((0, 700), (700, None))]
        point = choose_scored_point(neighbors, similarities, lambda pieces=pieces: pieces)
        assert 10 <= point.max_size < 20
        kept = scores >= point.min_score
        same = truth[sources] == truth[targets]
        assert same[kept].mean() > 0.95
        assert kept[same].mean() > 0.95
    assert point.min_score > LEAST_SCORE
    assert choose_scored_point(neighbors, similarities, list).max_size == 1
