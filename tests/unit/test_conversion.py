"""State dicts of the original shapes become models that give what the original networks give."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from engine import cluster
from engine.commands.conversion import convert
from engine.errors import ConfigError, DataError
from engine.graph.pivots import pivot_batch
from engine.learning.pivots import build_network
from engine.methods.gcn_v.confidence import build_network as build_confidence
from engine.methods.gcn_v.settings import GcnVSettings
from engine.methods.l_gcn.settings import LGcnSettings
from engine.methods.registry import read_model
from engine.methods.star_fc.network import build_model
from engine.methods.star_fc.settings import StarFcSettings
from tests.support.toy_graphs import make_graph
from tests.support.vectors import standin

H = 32  # published 512


def convolution(given: int, width: int) -> dict[str, Tensor]:
    return {"weight": 0.1 * torch.randn(2 * given, width), "bias": 0.1 * torch.randn(width)}


def named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def classifier(given: int, hidden: int, classes: int) -> dict[str, Tensor]:
    layers = nn.Sequential(nn.Linear(given, hidden), nn.PReLU(hidden), nn.Linear(hidden, classes))
    return named("classifier", layers.state_dict())


def classify(state: dict[str, Tensor], rows: Tensor) -> Tensor:
    hidden = functional.linear(rows, state["classifier.0.weight"], state["classifier.0.bias"])
    hidden = functional.prelu(hidden, state["classifier.1.weight"])
    return functional.linear(hidden, state["classifier.2.weight"], state["classifier.2.bias"])


def convolve(state: dict[str, Tensor], name: str, rows: Tensor, around: Tensor) -> Tensor:
    return functional.relu(torch.cat([rows, around], 1) @ state[f"{name}.weight"] + state[f"{name}.bias"])


def gcn_v(dim: int) -> dict[str, Tensor]:
    return named("conv1", convolution(dim, H)) | classifier(H, H, 1)


def four_convolutions(dim: int) -> dict[str, Tensor]:
    sizes = [dim, H, H, H // 2, H // 2]
    convolutions: dict[str, Tensor] = {}
    for number in range(4):
        convolutions |= named(f"conv{number + 1}", convolution(sizes[number], sizes[number + 1]))
    return convolutions | classifier(H // 2, H // 2, 2)


def l_gcn(dim: int) -> dict[str, Tensor]:
    statistics = {"running_mean": torch.randn(dim), "running_var": torch.rand(dim) + 0.5}
    return named("bn0", statistics | {"num_batches_tracked": torch.tensor(7)}) | four_convolutions(dim)


def weights_of(folder: Path, prefix: str = "") -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors = load_file(folder / "model.safetensors")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def test_gcn_v_gives_the_original_confidences(tmp_path: Path) -> None:
    state = gcn_v(16)
    torch.save({"meta": {"epoch": 3}, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "v.pth")
    convert("gcn_v", [tmp_path / "v.pth"], tmp_path / "model")
    network = build_confidence(16, GcnVSettings(hidden=H), 0)
    network.load_state_dict(weights_of(tmp_path / "model"))
    rows, around = torch.randn(2, 9, 16)
    embedded = convolve(state, "conv1", rows, around)
    assert torch.allclose(network(rows, around)[0], embedded, atol=1e-5)
    assert torch.allclose(network(rows, around)[1], classify(state, embedded).squeeze(1), atol=1e-5)


def test_l_gcn_gives_the_original_probabilities(tmp_path: Path) -> None:
    state = l_gcn(16)
    torch.save(state, tmp_path / "l.pth")
    convert("l_gcn", [tmp_path / "l.pth"], tmp_path / "model")
    network = build_network(16, LGcnSettings(widths=(H, H, H // 2, H // 2), hidden=H // 2), 0)
    network.load_state_dict(weights_of(tmp_path / "model"))
    neighbors, _ = make_graph(30, 6, 2)
    batch = pivot_batch(neighbors, np.array([4]), neighbors[[4]] >= 0, second_hop=3, active=4, with_pivot=True)
    size = len(batch.members_M)
    dense = torch.zeros(size, size)
    for row in range(size):
        dense[row, batch.indices[batch.indptr[row] : batch.indptr[row + 1]].astype(np.int64)] = 1
    dense /= dense.sum(dim=1, keepdim=True).clamp(min=1)
    relative = torch.randn(size, 16)
    rows = (relative - state["bn0.running_mean"]) / (state["bn0.running_var"] + 1e-5).sqrt()
    for number in range(4):
        rows = convolve(state, f"conv{number + 1}", rows, dense @ rows)
    expected = classify(state, rows[batch.scored]).softmax(dim=1)[:, 1]
    assert torch.allclose(torch.sigmoid(network(relative, batch)), expected, atol=1e-5)


def test_star_fc_gives_the_original_scores_of_both_orders(tmp_path: Path) -> None:
    state, head = named("conv1", convolution(16, H)), classifier(2 * H, H, 2)
    torch.save(state, tmp_path / "backbone.pth")
    torch.save(head, tmp_path / "head.pth")
    convert("star_fc", [tmp_path / "backbone.pth", tmp_path / "head.pth"], tmp_path / "model")
    network = build_model(16, StarFcSettings(head="concat", hidden=H, head_hidden=H), 0)
    network.load_state_dict(weights_of(tmp_path / "model"))
    rows, around = torch.randn(2, 10, 16)
    embedded = convolve(state, "conv1", rows, around)
    both = [classify(head, torch.cat(pair, 1)) for pair in ((embedded[:5], embedded[5:]), (embedded[5:], embedded[:5]))]
    expected = sum(logits[:, 1] - logits[:, 0] for logits in both) / 2
    codes = network.encode(rows, around)
    assert torch.allclose(network.edge_logits(codes[:5], codes[5:], torch.zeros(5, 1)), expected, atol=1e-5)


def test_converted_models_run(tmp_path: Path) -> None:
    vectors, _ = standin(12, 2)
    files = {"v": gcn_v(256), "e": four_convolutions(H), "l": l_gcn(256)}
    for name, state in files.items():
        torch.save(state, tmp_path / f"{name}.pth")
    for method, names, point in (("gcn_v", "v", 0.65), ("gcn_e", "ve", 0.80), ("l_gcn", "l", 0.5)):
        convert(method, [tmp_path / f"{name}.pth" for name in names], tmp_path / method)
        model = read_model(tmp_path / method, 256)
        assert model.operating_points[model.preferred].min_score == point
        assert len(cluster(vectors, model=tmp_path / method).labels) == len(vectors)


def test_what_cannot_be_converted_is_refused_with_its_reason(tmp_path: Path) -> None:
    state = gcn_v(16)
    short = {name: tensor for name, tensor in state.items() if name != "classifier.0.bias"}
    torch.save(short, tmp_path / "short.pth")
    torch.save(state | {"conv2.weight": torch.zeros(2)}, tmp_path / "more.pth")
    torch.save(state | {"classifier.0.bias": torch.zeros(3)}, tmp_path / "shape.pth")
    torch.save(state | {"conv1.weight": torch.zeros(0, H)}, tmp_path / "none.pth")
    torch.save({0: torch.zeros(2)}, tmp_path / "numbered.pth")
    torch.save({"conv1.weight": torch.zeros(2, 2).to_sparse()}, tmp_path / "sparse.pth")
    torch.save(nn.Linear(2, 2), tmp_path / "module.pth")
    (tmp_path / "unsafe.pth").write_bytes(pickle.dumps(Path(), protocol=2))
    (tmp_path / "damaged.pth").write_bytes((tmp_path / "short.pth").read_bytes()[:300])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("a text")
    (tmp_path / "folder.pth").mkdir()
    for name, message in (
        ("short", "no tensor classifier.0.bias"), ("more", "of another network: conv2.weight"),
        ("shape", r"classifier.0.bias is of shape \(3,\), expected \(32,\)"), ("unsafe", "and none is unpickled"),
        ("absent", "no such state dict"), ("none", r"\(0, 32\), expected \('any but 0', "),
        ("numbered", "holds a Tensor under 0; expected"), ("sparse", "conv1.weight is sparse_coo of float32"),
        ("module", r"holds objects of torch\.\S+, and none is unpickled"), ("damaged", "cannot be read"),
        ("empty", "is empty"), ("text", "begins with b'a text'"), ("folder", "is a folder, expected a regular file"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=message):
            convert("gcn_v", [tmp_path / f"{name}.pth"], tmp_path / "model")
    torch.save(state, tmp_path / "good.pth")
    for out in (tmp_path / "text.pth", tmp_path / "text.pth/model"):
        with pytest.raises(ConfigError, match=r"text\.pth.*: (is a file, expected|a part of this path is a file)"):
            convert("gcn_v", [tmp_path / "good.pth"], out)
    with pytest.raises(ConfigError, match=r"takes 2 state file\(s\), got 1"):
        convert("gcn_e", [tmp_path / "short.pth"], tmp_path / "model")
    with pytest.raises(ConfigError, match="convert knows"):
        convert("cosine", [], tmp_path / "model")
    assert not (tmp_path / "model").exists()
