"""Floors: STAR-FC trained on some identities beats cosine on identities it never saw."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from engine import cluster, evaluate, train
from engine.commands.run_folder import operating_point, stage_folder
from engine.commands.trained_model import training_folder
from engine.errors import ConfigError, DataError, ManifestMismatch
from engine.storage import manifest
from engine.storage.context import stage_facts
from tests.support import ROOT
from tests.support.vectors import standin

FEW = {"train.max_steps": 20, "train.evaluate_every": 5, "train.steps_per_subgraph": 10, "train.edges_per_step": 512}
DATA = Path(os.environ.get("ASTERISM_DATA", ROOT.parent / "shared/data"))


def plain_f(run: Path) -> float:
    """Pairwise F of plain thresholding at the best threshold there is."""
    folder = stage_folder(run, "analysis")
    assert folder is not None
    return float(manifest.read_json(folder / "analysis.json")["plain"]["metrics"]["pairwise_f"])


def test_unseen_standin_identities_beat_the_best_plain_threshold(tmp_path: Path, whole: bool) -> None:
    identities, steps = (150, 150) if whole else (50, 60)
    vectors, labels = standin(identities, 10)
    train(vectors, labels, tmp_path / "model", seed=1, **{"train.max_steps": steps})
    vectors, labels = standin(identities, 11)
    np.save(tmp_path / "truth.npy", labels)
    truth = tmp_path / "truth.npy"
    plain = plain_f(cluster(vectors, method="cosine", labels=truth, workspace=tmp_path / "cosine").run)
    for partition in ("components", "propagation"):
        result = cluster(vectors, partition={"method": partition}, model=tmp_path / "model", workspace=tmp_path / "run")
        print(partition, evaluate(result.labels, labels)["pairwise_f"], plain)
        assert evaluate(result.labels, labels)["pairwise_f"] > plain + 0.05


@pytest.mark.data
def test_historical_figures_quarter(tmp_path: Path, whole: bool) -> None:
    folder = DATA / "historical_figures"
    if not folder.is_dir():
        pytest.skip(f"the real data sets are not at {DATA} (set ASTERISM_DATA)")
    features, labels, split = (np.load(folder / f"{part}.npy") for part in ("features", "labels", "split"))
    fitting, unseen = (split == 0) & (labels % 2 == 0), (split == 1) & (labels % 2 == 0)
    train(features[fitting], labels[fitting], tmp_path / "model", **{"train.max_steps": 200 if whole else 40})
    for partition, floor in (("components", 0.90), ("propagation", 0.93)):
        result = cluster(
            features[unseen], model=tmp_path / "model", workspace=tmp_path / "run", partition={"method": partition}
        )
        assert evaluate(result.labels, labels[unseen])["pairwise_f"] >= floor


def test_training_is_the_same_for_any_threads_and_kills(tmp_path: Path) -> None:
    vectors, labels = standin(20, 3)
    for threads in (1, 2):
        train(vectors, labels, tmp_path / f"model{threads}", resources={"threads": threads}, **FEW)
    weights = [(tmp_path / f"model{threads}/model.safetensors").read_bytes() for threads in (1, 2)]
    assert weights[0] == weights[1]
    points = [manifest.read_json(tmp_path / f"model{threads}/model.json") for threads in (1, 2)]
    assert points[0]["operating_points"] == points[1]["operating_points"]


@pytest.mark.ray
def test_two_ray_workers_train_as_one(ray_session: None, tmp_path: Path) -> None:
    vectors, labels = standin(20, 3)
    curves = []
    for workers in (1, 2):
        resources = {"executor": "ray" if workers > 1 else "local", "workers": workers, "threads": 1}
        train(vectors, labels, tmp_path / str(workers), method="star_fc", resources=resources, **FEW)
        fit = stage_folder(Path(training_folder(tmp_path / str(workers))), "fit")
        assert fit is not None
        (facts,) = stage_facts(fit)
        curves.append([(entry["train_loss"], entry["held_out_loss"]) for entry in facts["history"]])
    assert curves[0] != curves[1]
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.05)


def test_a_model_meets_other_data(tmp_path: Path) -> None:
    vectors, labels = standin(20, 3)
    train(vectors, labels, tmp_path / "model", **FEW)
    with pytest.raises(ManifestMismatch, match="trained on 256 dimensions, the features have 255"):
        cluster(vectors[:, :255].copy(), model=tmp_path / "model", workspace=tmp_path / "run")
    with pytest.raises(ConfigError, match="needs --model"):
        cluster(vectors, method="star_fc", workspace=tmp_path / "run")
    (tmp_path / "model/model.safetensors").write_bytes(b"damaged")
    with pytest.raises(DataError, match="does not match the checksum"):
        cluster(vectors, model=tmp_path / "model", workspace=tmp_path / "run")


def test_the_published_preset_trains_and_runs(tmp_path: Path) -> None:
    vectors, labels = standin(10, 3)
    few = {**FEW, "train.max_steps": 4, "train.edges_per_step": 128}
    train(vectors, labels, tmp_path / "model", config="star_fc/original", **few)
    result = cluster(vectors, model=tmp_path / "model", config="star_fc/original", workspace=tmp_path / "run")
    assert operating_point(result.run) == {"partition": "components", "min_score": 0.70, "min_intimacy": 0.72}
    assert len(result.labels) == len(vectors)


@pytest.mark.parametrize(("change", "message"), [("short", "expected"), ("unknown", "every label is -1")])
def test_labels_that_cannot_train_are_refused(tmp_path: Path, change: str, message: str) -> None:
    vectors, labels = standin(40, 3)
    labels = labels[:-1] if change == "short" else np.full_like(labels, -1)
    with pytest.raises(DataError, match=message):
        train(vectors, labels, tmp_path / "model", **{"train.max_steps": 5})
