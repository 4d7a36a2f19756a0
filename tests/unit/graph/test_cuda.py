"""The CUDA paths beside the CPU's: same cells, same neighbours, as good a model. Skipped where torch sees no GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine import cluster, evaluate, train
from engine.graph import cuda, knn
from engine.graph.cells import load_cells, train_cells
from engine.graph.codes import encode
from engine.storage.manifest import read_json
from tests.support.vectors import standin

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: torch sees none here"),
]


def unit_rows(num_rows: int, dim: int, dtype: type, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32)
    rows[1::7] = rows[::7][: len(rows[1::7])]  # every seventh row twice
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("num_rows", "dim", "k"), [(2, 8, 1), (5_000, 64, 80), (200_000, 24, 20)])
def test_exact_search_finds_what_the_cpu_finds(dtype: type, num_rows: int, dim: int, k: int) -> None:
    rows = unit_rows(num_rows, dim, dtype)
    usable = None if num_rows < 10 else np.random.default_rng(1).random(num_rows) > 0.01
    start, stop = max(0, num_rows // 2 - 600), min(num_rows, num_rows // 2 + 600)
    found, similarities = cuda.exact_neighbors(rows, cuda.to_device(rows, DEVICE), start, stop, k, usable, 2)
    expected, best = knn.exact_neighbors(rows, start, stop, k, usable, 2)
    np.testing.assert_allclose(similarities, best, atol=2e-6)
    differing = found != expected  # only where similarities are as good as equal
    assert differing.mean() < 0.01
    np.testing.assert_allclose(similarities[differing], best[differing], atol=2e-6)


@pytest.mark.parametrize("num_cells", [3, 500, 9_000])
def test_cells_are_the_cpus_to_the_bit(num_cells: int) -> None:
    codes = encode(unit_rows(20_000, 64, np.float32))
    cells = train_cells(codes, num_cells, 2, 0, lambda held: load_cells(held, 2))
    on_device = train_cells(codes, num_cells, 2, 0, lambda held: cuda.load_cells(held, DEVICE))
    for one, other in zip(cells, on_device, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(cuda.load_cells(cells, DEVICE)(codes, 4), load_cells(cells, 2)(codes, 4))


def test_a_model_trained_and_run_on_the_device_is_as_good(tmp_path: Path) -> None:
    fitting, unseen = standin(150, 20), standin(150, 21)
    scores = {}
    for device in ("cpu", DEVICE):
        where = {"resources": {"device": device}}
        train(*fitting, tmp_path / f"model-{device}", **where, **{"train.max_steps": 150})
        labels = cluster(unseen[0], model=tmp_path / f"model-{device}", workspace=tmp_path / device, **where).labels
        scores[device] = evaluate(labels, unseen[1])["pairwise_f"]
    assert scores[DEVICE] > scores["cpu"] - 0.03
    assert read_json(tmp_path / f"model-{DEVICE}/model.json")["method"] == "star_fc"


def test_a_run_on_the_device_gives_the_same_labels_every_time(tmp_path: Path) -> None:
    vectors, _ = standin(300, 5)
    runs = [
        cluster(
            vectors, workspace=tmp_path / f"{number}", knn={"mode": "partition"}, resources={"device": device}
        ).labels
        for number, device in enumerate((DEVICE, DEVICE, "cpu"))
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(runs[0], runs[2])
