"""Walks along neighbours that stop at the first low NEP, against a plain reference, and FC-ES whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import cluster, evaluate, train
from engine.commands.configuration import load_settings
from engine.commands.run_folder import stage_folder
from engine.graph.adjacency import undirected_edges
from engine.methods.fc_es.early_stop import edge_probabilities, edge_scores
from engine.methods.registry import METHODS
from engine.partitions import PARTITIONS
from engine.steps.edges import iterate_edges
from engine.storage import manifest
from engine.storage.arrays import map_array
from tests.support.toy_graphs import make_graph
from tests.support.toy_steps import described_graph, partition_stages
from tests.support.vectors import standin

Array = np.ndarray[Any, Any]


def steps(neighbors: Array, similarities: Array, vertex: int) -> dict[int, float]:
    listed = neighbors[vertex] >= 0
    cosines = np.clip(similarities[vertex][listed].astype(np.float64), 0, 1)
    rates = {vertex: 1.0} | dict(zip(neighbors[vertex][listed].tolist(), np.exp(-(2 - 2 * cosines) / 0.5), strict=True))
    return {other: rate / sum(rates.values()) for other, rate in rates.items()}


def nep(neighbors: Array, similarities: Array, first: int, second: int) -> float:
    one, other = (steps(neighbors, similarities, vertex) for vertex in (first, second))
    return sum((one[vertex] + other[vertex]) / 2 for vertex in one.keys() & other.keys())


def test_the_first_neighbors_alone_are_those_of_a_shorter_graph() -> None:
    neighbors, similarities = make_graph(60, 14, seed=6)
    short = np.ascontiguousarray(neighbors[:, :5]), np.ascontiguousarray(similarities[:, :5])
    values = edge_probabilities(neighbors, similarities, 0, 60, count=5)
    assert np.array_equal(values, edge_probabilities(*short, 0, 60))
    edges = undirected_edges(neighbors, similarities, 0, 60)
    nearest = undirected_edges(neighbors, similarities, 0, 60, max_per_vertex=5)
    scores = edge_scores(neighbors, values, edges.sources, edges.targets, walked=True)
    assert (scores > 0).sum() == len(nearest.sources) < len(edges.sources)
    with pytest.raises(ValueError, match="80 neighbours at most"):
        edge_probabilities(neighbors, similarities, 0, 60, count=81)


@pytest.mark.parametrize(("num", "width"), [(50, 12), (110, 95)])
def test_values_are_the_nep_of_what_is_listed(num: int, width: int) -> None:
    neighbors, similarities = make_graph(num, width, seed=3)
    found = edge_probabilities(neighbors, similarities, 0, num)
    parts = [edge_probabilities(neighbors, similarities, a, b, threads=2) for a, b in ((0, 17), (17, num))]
    assert np.array_equal(found, np.concatenate(parts))
    assert found.shape[1] == min(width, 80)
    neighbors, similarities = neighbors[:, :80], similarities[:, :80]
    for row in range(0, num, 1 if num < 100 else 9):
        for rank, other in enumerate(neighbors[row]):
            if other < 0:
                assert not found[row, rank:].any()
                break
            assert found[row, rank] == pytest.approx(nep(neighbors, similarities, row, other), abs=2e-3)


def test_nep_is_the_same_bits_from_either_end() -> None:
    neighbors, similarities = make_graph(40, 30, seed=4)
    mutual = [(a, b) for a in range(40) for b in range(a) if b in neighbors[a] and a in neighbors[b]]
    for a, b in mutual[::7]:
        moved = neighbors.copy(), similarities.copy()
        for own, other in ((a, b), (b, a)):  # the edge comes first, so that nothing before it lowers its value
            rank = int(np.flatnonzero(neighbors[own] == other)[0])
            for array, original in zip(moved, (neighbors, similarities), strict=True):
                array[own, [0, rank]] = original[own, [rank, 0]]
        found = edge_probabilities(*moved, 0, 40)
        assert found[a, 0] == found[b, 0] > 0


def test_edges_that_reach_a_threshold_are_those_of_the_walks_that_stop_there() -> None:
    graph = make_graph(60, 14, seed=5)
    edges = undirected_edges(*graph, 0, 60)
    found = edge_probabilities(*graph, 0, 60)
    scores = edge_scores(graph[0], found, edges.sources, edges.targets, walked=True)
    swapped = edge_scores(graph[0], found, edges.targets, edges.sources, walked=True, threads=2)
    assert np.array_equal(scores, swapped)
    values = {
        (row, int(other)): nep(*graph, row, int(other)) for row in range(60) for other in graph[0][row] if other >= 0
    }
    known = np.array(list(values.values()))
    tried = 0
    for theta in np.linspace(0.1, 0.9, 33):
        if np.abs(known - theta).min() < 2e-3:
            continue
        tried += 1
        linked = set()
        for row in range(60):
            for other in graph[0][row]:
                if other < 0 or values[row, int(other)] < theta:
                    break
                linked.add((min(row, int(other)), max(row, int(other))))
        kept = scores >= np.float32(theta)
        assert set(zip(edges.sources[kept].tolist(), edges.targets[kept].tolist(), strict=True)) == linked
    assert tried > 3
    own = edge_scores(graph[0], found, edges.sources, edges.targets, walked=False)
    for a, b, score in zip(edges.sources.tolist(), edges.targets.tolist(), own, strict=True):
        assert score == pytest.approx(max(values.get((a, b), 0), values.get((b, a), 0)), abs=2e-3)


def test_without_a_model_theta_is_the_published_one() -> None:
    graph = described_graph(1_000, 16, 30)
    for kind in ("auto", "components", "map_equation", "density_peaks", "propagation"):
        stages = partition_stages(graph, load_settings(method="fc_es", overrides={"partition.method": kind}))
        points = [stage.params["given"] for stage in stages if "given" in stage.params]
        assert points
        assert all(point["min_score"] == 0.22 for point in points)


def test_training_chooses_neighbors_and_theta(tmp_path: Path) -> None:
    (vectors, labels), (others, truth) = standin(20, 10), standin(20, 11)
    given: dict[str, Any] = {"method": "fc_es", "knn.k": 20}
    train(vectors, labels, tmp_path / "model", **given, **{"score.min_similarity": 0.05})
    model = manifest.read_json(tmp_path / "model/model.json")
    assert set(model["operating_points"]) == set(PARTITIONS)
    assert model["facts"]["min_similarity"] == 0.05
    tried = model["facts"]["held_out_f"]
    assert set(tried) == {"10", "20"}
    assert tried[str(model["facts"]["neighbors"])] == max(tried.values())
    for name, more in (("original", {"config": "fc_es/original"}), ("chosen", {"model": tmp_path / "model"})):
        found = cluster(others, workspace=tmp_path / name, **given, **more).labels
        print(name, evaluate(found, truth)["pairwise_f"])
        assert evaluate(found, truth)["pairwise_f"] > 0.7


@pytest.mark.slow
def test_edges_beyond_the_stop_come_back_with_what_the_trees_say_of_them(tmp_path: Path) -> None:
    (vectors, labels), (others, truth) = standin(40, 10), standin(40, 11)
    given: dict[str, Any] = {"knn.k": 20, "fc_es.neighbors": 20}
    train(vectors, labels, tmp_path / "model", method="fc_eser", **given, **{"fc_es.delta": 0.2, "fc_es.eta": 0.7})
    facts = manifest.read_json(tmp_path / "model/model.json")["facts"]
    assert (facts["neighbors"], facts["delta"], facts["eta"]) == (20, 0.2, 0.7)
    found = cluster(others, model=tmp_path / "model", workspace=tmp_path / "run").labels
    knn, folder = stage_folder(tmp_path / "run", "knn"), stage_folder(tmp_path / "run", "score")
    graph = map_array(knn, "neighbors"), map_array(knn, "similarities")
    columns = zip(*iterate_edges(folder, ("source", "target", "score")), strict=True)
    sources, targets, scores = (np.concatenate(column) for column in columns)
    values = edge_probabilities(*graph, 0, len(others), count=20)
    passed, own = (edge_scores(graph[0], values, sources, targets, walked=walked) for walked in (True, False))
    back = scores > passed
    assert 0 < back.sum() < len(back)
    assert np.array_equal(scores[~back], passed[~back])
    assert own[back].min() >= np.float32(0.2)
    assert scores[back].min() >= np.float32(0.7)
    same = truth[sources] == truth[targets]
    assert same[back].mean() > 0.7 > same[~back & (passed < 0.22) & (own >= np.float32(0.2))].mean()
    plain = cluster(others, workspace=tmp_path / "plain", config="fc_es/original", **given).labels
    f, plain_f = (evaluate(each, truth)["pairwise_f"] for each in (found, plain))
    print(f, plain_f)
    assert f > plain_f


def test_what_is_taken_back_is_settled_by_training() -> None:
    for method, training, read in (("fc_es", True, False), ("fc_es", False, False), ("fc_eser", False, False),
                                   ("fc_eser", True, True)):  # fmt: skip
        assert METHODS[method].reads("fc_es.delta", training=training) == read
