"""Floors: the structural scorer on identities it never saw, trained on others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine import cluster, evaluate, train
from engine.commands.run_folder import stage_folder
from engine.storage import manifest
from tests.support.vectors import standin

FEW = {"trees.num_trees": 20, "trees.levels": 4, "trees.max_edges": 20_000}


def plain_f(run: Path) -> float:
    """Pairwise F of plain thresholding at the best threshold there is."""
    folder = stage_folder(run, "analysis")
    assert folder is not None
    return float(manifest.read_json(folder / "analysis.json")["plain"]["metrics"]["pairwise_f"])


def test_unseen_standin_identities_beat_the_best_plain_threshold(tmp_path: Path) -> None:
    vectors, labels = standin(50, 10)
    train(vectors, labels, tmp_path / "model", method="structural", **FEW)
    vectors, labels = standin(50, 11)
    np.save(tmp_path / "truth.npy", labels)
    result = cluster(vectors, model=tmp_path / "model", labels=tmp_path / "truth.npy", workspace=tmp_path / "run")
    plain = plain_f(cluster(vectors, method="cosine", labels=tmp_path / "truth.npy", workspace=tmp_path / "cosine").run)
    assert evaluate(result.labels, labels)["pairwise_f"] > plain + 0.05
    train(*standin(30, 10), tmp_path / "plain", method="structural", **FEW, **{"metric.learn": "none"})
    narrow = vectors[:, :200].copy()  # a model without a metric has no dimension
    result = cluster(narrow, model=tmp_path / "plain", workspace=tmp_path / "narrow")
    assert evaluate(result.labels, labels)["pairwise_f"] > 0.6


def test_labels_and_weights_are_the_same_for_any_threads_and_blocks(tmp_path: Path) -> None:
    vectors, labels = standin(20, 3)
    weights, found = [], []
    for threads, rows in ((1, 0), (2, 4096)):
        resources = {"threads": threads, "block_rows": rows}
        model = train(vectors, labels, tmp_path / f"model{threads}", method="structural", resources=resources, **FEW)
        weights.append((model / "model.safetensors").read_bytes())
        found.append(
            cluster(vectors, model=model, workspace=tmp_path / f"run{threads}", resources=resources).labels.tobytes()
        )
    assert weights[0] == weights[1]
    assert found[0] == found[1]
