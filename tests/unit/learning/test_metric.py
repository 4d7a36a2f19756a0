"""The learned metric: what it undoes, what it is judged by, and that no row is seen by a metric learned from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from engine import cluster, evaluate, train
from engine.commands.run_folder import stage_folder
from engine.commands.trained_model import training_folder
from engine.errors import ConfigError, ManifestMismatch
from engine.learning.metric import Metric, average_precision, choose_rows, choose_shrinkage, sum_scatter
from engine.steps.edges import iterate_edges
from engine.storage.arrays import map_array
from engine.storage.manifest import read_json

DIM = 12
EDGE = ("source", "target", "score")


def disturbed(num_identities: int, per: int, seed: int, most: float = 1.2) -> tuple[np.ndarray, np.ndarray]:
    """Rows of one identity differ in the first three dimensions most of all; all have an offset in common."""
    rng = np.random.default_rng(seed)
    identities = np.repeat(np.arange(num_identities), per)
    spread = np.where(np.arange(DIM) < 3, most, 0.12)
    centres = rng.standard_normal((num_identities, DIM)) * 0.5
    rows = centres[identities] + rng.standard_normal((len(identities), DIM)) * spread + 0.8
    mixed = np.linalg.qr(np.random.default_rng(99).standard_normal((DIM, DIM)))[0]
    order = rng.permutation(len(rows))
    return (rows @ mixed).astype(np.float32)[order], identities[order]


def blocks(rows: np.ndarray, size: int):  # type: ignore[no-untyped-def]
    return ((first, rows[first : first + size]) for first in range(0, len(rows), size))


def test_the_scatter_is_the_weighted_covariance_within_identities() -> None:
    rows, identities = disturbed(30, 4, 0)
    identities[::9] = -1
    chosen = identities % 3 != 1
    found = sum_scatter(blocks(rows, 17), identities, chosen, DIM)
    expected, weight = np.zeros((DIM, DIM)), 0.0
    for identity in np.unique(identities[chosen & (identities >= 0)]):
        own = rows[(identities == identity) & chosen].astype(np.float64)
        if len(own) > 1:
            share = 1 / (len(own) - 1) ** 0.5
            expected += share * (own - own.mean(axis=0)).T @ (own - own.mean(axis=0))
            weight += share * len(own)
    np.testing.assert_allclose(found.within, expected, atol=1e-4)
    assert found.weight == pytest.approx(weight)
    known = chosen & (identities >= 0)
    np.testing.assert_allclose(found.total, rows[known].sum(axis=0), rtol=1e-4)
    assert found.num_rows == known.sum()
    parts = [sum_scatter(blocks(rows, 40), identities, chosen & (identities % 2 == half), DIM) for half in (0, 1)]
    np.testing.assert_allclose(parts[0].plus(parts[1]).within, expected, atol=1e-4)


def test_projected_rows_of_an_identity_differ_alike_in_every_direction() -> None:
    rows, identities = disturbed(400, 5, 1)
    metric = sum_scatter(blocks(rows, 4096), identities, identities >= 0, DIM).metric(1e-6)
    projected = (rows - metric.mean) @ metric.projection
    means = np.stack([projected[identities == identity].mean(axis=0) for identity in range(400)])
    within = np.cov((projected - means[identities]).T, bias=True)
    np.testing.assert_allclose(within, np.eye(DIM) * np.trace(within) / DIM, atol=0.02)
    np.testing.assert_allclose(np.linalg.norm(metric.project(rows), axis=1), 1, atol=1e-5)


def test_projection_gives_the_same_bits_wherever_a_row_stands() -> None:
    rows, identities = disturbed(2_000, 5, 2)
    metric = sum_scatter(blocks(rows, 4096), identities, identities >= 0, DIM).metric(0.1)
    whole = metric.project(rows, threads=2)
    np.testing.assert_array_equal(metric.project(rows[4_321:9_000]), whole[4_321:9_000])


def test_equal_rows_and_single_rows_leave_a_usable_metric() -> None:
    for rows in (np.ones((10, 4), np.float32), np.eye(4, dtype=np.float32)):
        metric = sum_scatter(blocks(rows, 3), np.arange(len(rows)) // 2 * 2, np.ones(len(rows), bool), 4).metric(0.1)
        assert np.isfinite(metric.projection).all()
        assert np.isfinite(metric.project(rows)).all()


def test_average_precision_of_a_ranking() -> None:
    angles = np.array([0.0, 0.1, 0.5, 0.6])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    assert average_precision(rows, np.array([0, 0, 1, 1]), np.arange(4)) == 1.0
    # (0, 1) and (2, 3), both wrong, come first, then (1, 2), wrong, then two right ones, each listed by both its rows.
    found = average_precision(rows, np.array([0, 1, 0, 1]), np.arange(4))
    assert found == pytest.approx((1 / 7 + 2 / 8 + 3 / 9 + 4 / 10) / 4)
    assert average_precision(rows, np.arange(4), np.arange(4)) == 1.0
    assert choose_shrinkage([0.1, 0.5, 0.5, 0.2, 0.1, 0.1, 0.1]) == 0.3


def test_queries_come_from_whole_identities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.learning.metric.DATABASE_ROWS", 50)
    identities = np.repeat(np.arange(40), 5)
    rows, queries = choose_rows(identities, identities % 2 == 0, 0)
    assert (np.bincount(identities[rows])[np.unique(identities[rows])] == 5).all()
    assert len(rows) <= 50
    assert np.isin(queries, rows).all()
    assert (identities[rows] % 2 == 0).all()


@pytest.mark.slow
def test_a_learned_metric_finds_what_cosines_do_not(tmp_path: Path) -> None:
    small = {"trees.num_trees": 20, "trees.levels": 3, "knn.k": 20}
    (fitting, known), (unseen, truth) = disturbed(400, 6, 3), disturbed(300, 6, 4)
    scores = {}
    for metric in ("auto", "none"):
        model = tmp_path / f"model-{metric}"
        train(fitting, known, model, method="structural", **small, **{"metric.learn": metric})
        result = cluster(unseen, model=model, workspace=tmp_path / metric, knn={"k": 20})
        scores[metric] = evaluate(result.labels, truth)["pairwise_f"]
    assert scores["auto"] > scores["none"] + 0.1
    facts = read_json(tmp_path / "model-auto/model.json")["facts"]
    assert 0 < facts["average_precision"] <= 1
    assert facts["shrinkage"] > 0
    with pytest.raises(ManifestMismatch, match="trained on 12 dimensions"):
        cluster(unseen[:, :8].copy(), model=tmp_path / "model-auto", workspace=tmp_path / "narrow")
    np.save(tmp_path / "knn.npy", np.random.default_rng(0).integers(len(unseen), size=(len(unseen), 8)))
    with pytest.raises(ConfigError, match="has learned a metric"):
        cluster(unseen, model=tmp_path / "model-auto", workspace=tmp_path / "given", knn_graph=tmp_path / "knn.npy")


def test_training_projects_each_half_by_the_others_metric(tmp_path: Path) -> None:
    vectors, identities = disturbed(120, 5, 5)
    vectors[7] = 0
    labels = np.where(np.arange(len(vectors)) % 11 == 0, -1, identities)
    small = {"trees.num_trees": 5, "trees.levels": 2, "knn.k": 10, "ingest.zero_vectors": "singleton"}
    train(vectors, labels, tmp_path / "model", method="structural", **small)
    training = Path(training_folder(tmp_path / "model"))
    (projected,) = (map_array(folder, "features") for folder in training.glob("project-*"))
    halves = np.load(next(training.glob("metric-*")) / "halves.npy")
    assert projected.shape == (len(vectors), 2 * DIM)
    assert all(len(set(halves[labels == identity])) == 1 for identity in range(120))
    for half in (0, 1):
        other = slice((1 - half) * DIM, (2 - half) * DIM)
        assert not projected[halves == half][:, other].any()
    assert not projected[7].any()
    tensors = load_file(next(training.glob("metric-*")) / "metric.safetensors")
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    by_other = Metric(tensors["half_1.mean"], tensors["half_1.projection"]).project(unit.astype(np.float16))
    own = (halves == 0) & (np.arange(len(vectors)) != 7)
    np.testing.assert_allclose(projected[own][:, :DIM], by_other[own], atol=2e-3)


def scores_by_rows(run: Path) -> dict[tuple[int, int], float]:
    columns = [np.concatenate(parts) for parts in zip(*iterate_edges(stage_folder(run, "score"), EDGE), strict=True)]
    order = stage_folder(run, "order")
    if order is not None:
        rows = np.load(order / "row_of_vertex.npy")
        columns[:2] = [rows[column] for column in columns[:2]]
    pairs = np.sort(np.stack(columns[:2], axis=1), axis=1)
    return dict(zip(map(tuple, pairs.tolist()), columns[2].tolist(), strict=True))


@pytest.mark.slow
def test_few_rows_are_scored_in_two_graphs_however_their_vertices_are_numbered(tmp_path: Path) -> None:
    small = {"trees.num_trees": 20, "trees.levels": 3, "knn.k": 20}
    (fitting, known), (unseen, _) = disturbed(400, 6, 3, 0.9), disturbed(300, 6, 4, 0.9)
    for name, rows in (("two", 200_000), ("one", 2_399)):
        train(fitting, known, tmp_path / name, method="structural", **small, **{"metric.second_graph_rows": rows})
    facts = {name: read_json(tmp_path / name / "model.json")["facts"] for name in ("one", "two")}
    assert len(facts["two"]["slopes"]) == 2
    assert len(facts["one"]["slopes"]) == 1
    assert "second_graph" not in facts["one"]
    found = {}
    for model, mode in (("one", "exact"), ("two", "exact"), ("two", "partition")):
        run, probes = tmp_path / f"{model}-{mode}", {"num_probes": 1_000} if mode == "partition" else {}
        cluster(unseen, model=tmp_path / model, workspace=run, knn={"k": 20, "mode": mode} | probes)
        assert (stage_folder(run, "second_knn") is not None) == (model == "two")
        found[model, mode] = scores_by_rows(run)
    # two graphs may choose another floor of similarity than one
    given = {"metric.second_graph_rows": 0, "score.min_similarity": facts["one"]["min_similarity"]}
    alone = cluster(unseen, model=tmp_path / "two", workspace=tmp_path / "off", **given, knn={"k": 20})
    assert stage_folder(alone.run, "second_knn") is None
    assert scores_by_rows(alone.run) == found["one", "exact"]  # the same trees, calibrated alone
    exact = found["two", "exact"]
    likely = [pair for pair, score in exact.items() if score > 0.2]

    def difference(other: dict[tuple[int, int], float]) -> float:
        return float(np.mean([abs(exact[pair] - other.get(pair, 0.0)) for pair in likely]))

    assert difference(found["two", "partition"]) < 1e-6
    assert difference(found["one", "exact"]) > 0.01


@pytest.mark.slow
def test_without_labels_a_metric_comes_from_first_clusters(tmp_path: Path) -> None:
    vectors, truth = disturbed(200, 6, 6, 0.4)
    scores = {}
    for name, rows in (("two", 200_000), ("one", 0)):
        settings = {"method": "self_trained", "metric.second_graph_rows": rows}
        result = cluster(vectors, workspace=tmp_path / name, **settings)
        scores[name] = evaluate(result.labels, truth)["pairwise_f"]
    assert scores["two"] > scores["one"] + 0.05
    few = cluster(vectors[:60], workspace=tmp_path / "few", method="self_trained")  # too few clusters to learn from
    tensors = load_file(stage_folder(few.run, "first_metric") / "metric.safetensors")
    assert np.array_equal(tensors["metric.projection"], np.eye(DIM))
    assert not tensors["metric.mean"].any()
