"""Models that others may have written: whatever a model's two files hold, a sentence says what is wrong with them."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from engine import api
from engine.commands.configuration import load_settings
from engine.commands.conversion import convert
from engine.errors import DataError, EngineError, ManifestMismatch
from engine.methods.model_card import MODEL
from engine.methods.registry import METHODS, read_model
from engine.methods.structural.trees import Trees
from engine.storage.manifest import file_checksum, read_json, write_owned
from tests.support.vectors import make_blobs

DIM = 8
Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A trained structural model, with a metric and a second graph, and a converted one of a network."""
    root = tmp_path_factory.mktemp("models")
    vectors = make_blobs(300, DIM)
    drawn = np.random.default_rng(0)
    labels = (drawn.standard_normal((25, DIM)), drawn.permutation(300) % 25)[1]  # as ``make_blobs`` draws them
    settings = {"trees.num_trees": 3, "trees.min_weight": 1, "knn.k": 12}
    np.save(root / "x.npy", vectors)
    np.save(root / "y.npy", labels)
    api.train(root / "x.npy", root / "y.npy", root / "structural", method="structural", **settings)
    state = {"conv1.weight": torch.ones(2 * DIM, 4), "conv1.bias": torch.ones(4)}
    state |= {"classifier.0.weight": torch.ones(4, 4), "classifier.0.bias": torch.ones(4)}
    state |= {"classifier.1.weight": torch.ones(4), "classifier.2.weight": torch.ones(1, 4)}
    torch.save(state | {"classifier.2.bias": torch.ones(1)}, root / "state.pth")
    convert("gcn_v", [root / "state.pth"], root / "gcn_v", k=12)
    return {name: root / name for name in ("structural", "gcn_v")}


def bare(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name not in ("checksum", "format_version")}


def check(folder: Path, dim: int = DIM) -> None:
    model = read_model(folder, dim)
    METHODS[model.method].check_model(model)


def changed(
    model: Path, out: Path, tree: Callable[[Any], Any] | None, tensors: Callable[[Tensors], Any] | None
) -> Path:
    """A copy whose files were changed by someone who keeps the checksums right."""
    out.mkdir()
    weights = load_file(model / "model.safetensors")
    if tensors is not None:
        tensors(weights)
    save_file(weights, out / "model.safetensors")
    held = read_json(model / "model.json")
    held = bare(held)
    held["weights_checksum"] = file_checksum(out / "model.safetensors")
    if tree is not None:
        tree(held)
    write_owned(out / "model.json", MODEL, held)
    return out


def test_what_training_and_conversion_leave_is_taken(models: Mapping[str, Path]) -> None:
    for folder in models.values():
        check(folder)


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("structural", lambda t: t["final.inputs"].__setitem__((0, 0), 30_000), "split on input 30000, expected"),
        ("structural", lambda t: t["prior_1.inputs"].__setitem__((0, 0), -1), "an input is below 0"),
        ("structural", lambda t: t["second.final.inputs"].__setitem__((0, 0), 999), "split on input 999"),
        ("structural", lambda t: t["final.values"].__setitem__((0, 0), np.nan), "a value is not finite"),
        ("structural", lambda t: t["final.thresholds"].__setitem__((0, 0), np.nan), "a threshold is NaN"),
        ("structural", lambda t: t.update({"final.values": t["final.values"][:, :-1].copy()}), r"tensors final\.\*"),
        ("structural", lambda t: t.update({"final.inputs": t["final.inputs"][:, :-1].copy()}), r"expected \(trees, 2"),
        ("structural", lambda t: t.update({"final.inputs": t["final.inputs"].astype(np.int64)}), "is int64 of shape"),
        ("structural", lambda t: t.pop("final.bias"), "tensor final.bias is missing"),
        ("structural", lambda t: t.pop("alone"), "tensor alone is missing"),
        ("structural", lambda t: t.pop("metric.mean"), "tensor metric.mean is missing"),
        ("structural", lambda t: t.update({"metric.projection": np.ones((9, 8), np.float32)}), "expected float32 of"),
        ("structural", lambda t: t.update({"calibration": np.full(3, np.inf)}), "calibration holds NaN"),
        ("structural", lambda t: t.clear(), "tensor calibration is missing"),
        ("gcn_v", lambda t: t.pop("first.weight"), "tensor first.weight is missing"),
        ("gcn_v", lambda t: t.update({"more": np.ones(3)}), "tensors of another network: more"),
        ("gcn_v", lambda t: t.update({"first.bias": np.ones(5, np.float32)}), r"of shape \(5,\), expected float32 of"),
        ("gcn_v", lambda t: t.update({"first.bias": np.ones(4)}), "first.bias is float64 of shape"),
        ("gcn_v", lambda t: t["first.bias"].__setitem__(0, np.nan), "first.bias holds NaN"),
    ],
)  # fmt: skip
def test_tensors_of_another_model_are_named(
    models: Mapping[str, Path], tmp_path: Path, method: str, change: Callable[[Tensors], Any], message: str
) -> None:
    folder = changed(models[method], tmp_path / "model", None, change)
    with pytest.raises(DataError, match=message) as raised:
        check(folder)
    assert str(folder / "model.safetensors") in str(raised.value)


def put(*names: str, value: Any) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        for name in names[:-1]:
            tree = tree[name]
        tree[names[-1]] = value

    return change


def drop(*names: str) -> Callable[[Any], None]:
    def change(tree: Any) -> None:
        for name in names[:-1]:
            tree = tree[name]
        del tree[names[-1]]

    return change


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("gcn_v", put("k", value=10**9), "k: input should be less than or equal to 1024, got '1000000000'"),
        ("gcn_v", put("k", value=True), "k: input should be a valid integer"),
        ("gcn_v", put("dim", value=10**9), "dim: input should be less than"),
        ("gcn_v", put("dim", value="8"), "dim: input should be a valid integer, got '8'"),
        ("gcn_v", put("method", value="gcn_x"), "method: input should be"),
        ("gcn_v", put("preferred", value="components/.."), "preferred"),
        ("gcn_v", put("preferred", value="own"), "prefers the partition own"),
        ("gcn_v", put("operating_points", value={}), "has operating points for none"),
        ("gcn_v", put("operating_points", "elsewhere", value={"min_score": 0.5}), "operating_points.elsewhere"),
        ("gcn_v", put("operating_points", "components", "min_score", value="high"), "components.min_score"),
        ("gcn_v", put("operating_points", "components", "min_score", value=float("nan")), "components.min_score"),
        ("gcn_v", put("operating_points", "components", "min_score", value=-5), "components.min_score"),
        ("gcn_v", drop("operating_points", "components", "min_score"), "components.min_score: field required"),
        ("gcn_v", put("facts", "network", value={"hidden": 10**9}), "expected float32 of shape"),
        ("gcn_v", put("facts", "network", value={"hidden": 10**15}), "describes no network"),
        ("gcn_v", put("facts", "network", value={"hidden": -1}), "describes no network"),
        ("gcn_v", put("facts", "network", value={"depth": 3}), "describes no network"),
        ("gcn_v", put("facts", "network", value=[]), "facts.network"),
        ("gcn_v", put("facts", "pass", value="third"), "facts.pass"),
        ("gcn_v", drop("facts", "pass"), "facts.pass is missing"),
        ("gcn_v", put("weights_checksum", value="0" * 32), "does not match the checksum in model.json"),
        ("structural", put("facts", "shrinkage", value="no"), "facts.shrinkage"),
        *[("gcn_v", drop(name), name) for name in (
            "dim", "engine_version", "facts", "k", "method", "operating_points", "preferred", "settings",
            "weights_checksum",
        )],
    ],
)  # fmt: skip
def test_a_model_that_says_what_cannot_be_is_named(
    models: Mapping[str, Path], tmp_path: Path, method: str, change: Callable[[Any], None], message: str
) -> None:
    folder = changed(models[method], tmp_path / "model", change, None)
    with pytest.raises(DataError) as raised:
        check(folder)
    assert str(folder) in str(raised.value)
    assert message in str(raised.value)


def test_a_changed_byte_or_a_lost_one_is_named(models: Mapping[str, Path], tmp_path: Path) -> None:
    for name in ("model.json", "model.safetensors"):
        data = (models["gcn_v"] / name).read_bytes()
        for number, other in enumerate([b"", data[:-1], data[: len(data) // 2], *(
            data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :] for place in range(0, len(data), 37)
        )]):  # fmt: skip
            folder = tmp_path / f"{name}-{number}"
            shutil.copytree(models["gcn_v"], folder)
            (folder / name).write_bytes(other)
            with pytest.raises(EngineError) as raised:
                check(folder)
            assert str(folder) in str(raised.value)


def test_a_model_of_an_earlier_version_is_refused(models: Mapping[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["gcn_v"], tmp_path / "model")
    (tmp_path / "model/model.json").write_text(json.dumps({"format_version": 1, "method": "gcn_v"}))
    with pytest.raises(ManifestMismatch, match="written by an earlier version"):
        check(tmp_path / "model")


@pytest.mark.parametrize("header", [b"\xff" * 8, struct.pack("<Q", 99_000_000), struct.pack("<Q", 2) + b"{]"])
def test_a_header_that_lies_is_named(models: Mapping[str, Path], tmp_path: Path, header: bytes) -> None:
    folder = changed(models["gcn_v"], tmp_path / "model", None, None)
    (folder / "model.safetensors").write_bytes(header)
    tree = read_json(folder / "model.json")
    tree["weights_checksum"] = file_checksum(folder / "model.safetensors")
    write_owned(folder / "model.json", MODEL, bare(tree))
    with pytest.raises(DataError, match=r"model\.safetensors: cannot be read as tensors"):
        check(folder)


def test_trees_never_read_a_column_that_rows_lack() -> None:
    trees = Trees(np.array([[3]], np.int16), np.zeros((1, 1), np.float32), np.ones((1, 2), np.float32), 0.0)
    assert trees.logits(np.zeros((2, 4), np.float32)).tolist() == [1.0, 1.0]
    with pytest.raises(DataError, match="split on input 3, expected inputs 0 to 2"):
        trees.logits(np.zeros((2, 3), np.float32))


def test_a_run_with_a_hostile_model_is_refused_before_it_begins(models: Mapping[str, Path], tmp_path: Path) -> None:
    folder = changed(models["gcn_v"], tmp_path / "model", put("k", value=10**9), None)
    np.save(tmp_path / "x.npy", make_blobs(40, DIM))
    request = api.Request(str(tmp_path / "x.npy"), load_settings(), model=str(folder))
    with pytest.raises(DataError, match=r"model\.json: k:"):
        api.prepare("run", tmp_path / "run", request)
    assert not (tmp_path / "run").exists()
