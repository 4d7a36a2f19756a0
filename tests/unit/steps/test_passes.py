"""The partition graph through the public API: passes follow the recall asked for; hard data keeps its invariants."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import api
from engine.commands.status import run_status
from engine.storage.arrays import map_array
from engine.storage.context import read_npy, stage_facts
from engine.units import NO_NEIGHBOR, NO_SIMILARITY
from tests.support.vectors import make_blobs


def cluster(features: np.ndarray, folder: Path, zero_vectors: str = "error", **knn: Any) -> np.ndarray:
    """Labels by components at cosine 0.9, after a check of what every graph must be."""
    folder.mkdir(exist_ok=True)
    if not (folder / "features.npy").exists():
        np.save(folder / "features.npy", features.astype(np.float32))
    found = api.cluster(
        folder / "features.npy", workspace=folder / "run", knn={"mode": "partition", "recall_samples": 200} | knn,
        ingest={"zero_vectors": zero_vectors},
        partition={"method": "components", "min_score": 0.9, "min_intimacy": 0.0},
    )  # fmt: skip
    neighbors, similarities, rows = read_graph(folder)
    num_rows = len(features)
    assert sorted(rows) == list(range(num_rows))
    missing = neighbors == NO_NEIGHBOR
    assert ((neighbors >= 0) & (neighbors < num_rows) | missing).all()
    assert (missing == (similarities == NO_SIMILARITY)).all()
    assert (np.diff(similarities, axis=1) <= 0).all()
    assert not (neighbors == np.arange(num_rows)[:, None]).any()
    ordered = np.sort(neighbors, axis=1)
    assert ((np.diff(ordered, axis=1) > 0) | (ordered[:, 1:] < 0)).all()
    unit = features[rows] / np.maximum(np.linalg.norm(features[rows], axis=1, keepdims=True), 1e-9)
    few = slice(0, 300)
    expected = (unit[few, None] * unit[neighbors[few]]).sum(axis=2)
    np.testing.assert_allclose(similarities[few][~missing[few]], expected[~missing[few]], atol=1e-3)
    return np.asarray(found.labels)


def read_graph(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    (knn,), (order,) = (folder / "run").glob("knn-*"), (folder / "run").glob("order-*")
    return map_array(knn, "neighbors"), map_array(knn, "similarities"), read_npy(order, "row_of_vertex")


def recall(folder: Path) -> float:
    (path,) = (folder / "run").glob("recall-*")
    return float(stage_facts(path)[0]["recall_above_floor"])


def passes(folder: Path) -> list[int]:
    names = [line["stage"] for line in run_status(folder / "run")["stages"]]
    return [int(name.removeprefix("join_")) for name in names if name.startswith("join_")]


def unit_rows(num_rows: int, dim: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, dim))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


@pytest.mark.slow
def test_passes_follow_the_recall_asked_for_and_stop_at_the_most_allowed(tmp_path: Path) -> None:
    features, steps = make_blobs(6000, 32), {"k": 20, "num_probes": 1, "max_passes": 3}
    graphs, recalls = [], []
    for target, expected in ((0.3, [1]), (0.8, [1, 2]), (1.0, [1, 2, 3])):  # in one folder: what is there is taken
        cluster(features, tmp_path, recall=target, **steps)
        assert passes(tmp_path) == expected
        graphs.append(np.array(read_graph(tmp_path)[1]))
        recalls.append(recall(tmp_path))
    assert recalls[0] < 0.8 <= recalls[1] < recalls[2] < 1.0
    assert (graphs[1] >= graphs[0] - 0.03).all()  # a join loses none but for what codes cannot tell apart
    cluster(features, tmp_path, recall_samples=0, **steps)
    assert passes(tmp_path) == [1, 2, 3]
    np.testing.assert_array_equal(read_graph(tmp_path)[1], graphs[2])


@pytest.mark.parametrize("num_cells", [0, 1])
def test_duplicates_by_the_thousand_are_one_cluster(tmp_path: Path, num_cells: int) -> None:
    centre = unit_rows(1, 33)
    near = centre + 0.25 * unit_rows(300, 33, seed=1)
    features = np.concatenate([near, np.repeat(centre, 9000, axis=0), unit_rows(700, 33, seed=2)])
    labels = cluster(features, tmp_path, num_cells=num_cells)
    assert len(np.unique(labels[300:9300])) == 1
    assert len(np.unique(labels)) == 701
    assert passes(tmp_path) == [1]


def test_binary_vectors_whose_codes_are_long(tmp_path: Path) -> None:
    groups = np.sign(unit_rows(40, 256))[np.arange(1200) % 40]
    labels = cluster(groups, tmp_path, k=20)
    np.testing.assert_array_equal(labels, labels[np.arange(1200) % 40])
    assert len(np.unique(labels)) == 40


@pytest.mark.parametrize(("num_rows", "dim"), [(2, 1), (5, 1024), (65, 2)])
def test_few_rows_and_few_dimensions(tmp_path: Path, num_rows: int, dim: int) -> None:
    features = unit_rows(num_rows, dim)
    labels = cluster(features, tmp_path)
    if dim == 1:
        assert len(np.unique(labels)) == len(np.unique(np.sign(features)))
    assert recall(tmp_path) == 1.0


@pytest.mark.parametrize(
    ("num_rows", "num_zeros", "zero_vectors"), [(5, 2, "singleton"), (65, 65, "singleton"), (1500, 900, "drop")]
)
def test_zero_vectors_have_no_neighbours(tmp_path: Path, num_rows: int, num_zeros: int, zero_vectors: str) -> None:
    features = unit_rows(num_rows, 33)
    zeros = np.random.default_rng(0).permutation(num_rows)[:num_zeros]
    features[zeros] = 0
    labels = cluster(features, tmp_path, zero_vectors)
    neighbors, _, rows = read_graph(tmp_path)
    assert (neighbors[np.isin(rows, zeros)] == NO_NEIGHBOR).all()
    assert not np.isin(rows[neighbors[neighbors >= 0]], zeros).any()
    assert (labels[zeros] == -1).all() if zero_vectors == "drop" else len(np.unique(labels[zeros])) == num_zeros


@pytest.mark.parametrize(
    ("knobs", "least"),
    [
        ({"k": 1}, 0.97),
        ({"k": 600}, 0.97),
        ({"num_cells": 10_000, "num_probes": 10_000, "train_rows_per_cell": 1, "k": 10}, 0.97),
    ],
)
def test_knobs_at_their_ends(tmp_path: Path, knobs: dict[str, Any], least: float) -> None:
    features = unit_rows(100, 20)[np.arange(800) % 100] + 0.2 * unit_rows(800, 20, seed=1)
    cluster(features, tmp_path, **knobs)
    assert recall(tmp_path) >= least
