"""Neighbours and labels are the same bytes for any executor, number of workers and threads, and block size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import api, units
from engine.commands.configuration import load_settings
from engine.commands.resources import Resources
from engine.executors.local import LocalExecutor
from engine.executors.protocol import Executor
from engine.runs.progress import Quiet
from engine.runs.runner import Workshop, run_plan
from engine.storage.arrays import map_array
from engine.storage.places import Place
from tests.support.vectors import make_blobs

# All ways of searching (in passes, as many as the target asks for: two), all ways of partitioning, a learned method.
RUNS = {
    "exact": {"partition": {"method": "propagation", "min_score": 0.5, "max_size": 25}, "knn.mode": "exact"},
    "modules": {
        "partition": {"method": "map_equation"},
        "knn.mode": "exact",
        "method": "self_trained",
        "trees": {"num_trees": 8, "levels": 3, "max_edges": 20_000},
    },
    "ivf": {
        "partition": {"method": "components", "min_score": 0.5, "min_intimacy": 0.3},
        "knn": {"mode": "ivf", "num_probes": 8},
    },
    "partition": {
        "partition": {"method": "components", "min_score": 0.5, "min_intimacy": 0.3},
        "knn": {"mode": "partition", "num_probes": 1, "recall": 0.7},
    },
}
SMALL = {"knn.k": 20, "knn.recall_samples": 50, "partition.curve_rows": 0}


def result_bytes(features: Path, root: Path, mode: str, executor: Executor, threads: int, block_rows: int) -> bytes:
    settings = load_settings(overrides={**RUNS[mode], **SMALL})
    resources = Resources(executor=executor.name, workers=executor.workers, block_rows=block_rows, device="cpu")  # type: ignore[arg-type]
    prepared = api.prepare("run", root, api.Request(str(features), settings), resources)
    request: dict[str, Any] = {**prepared.request.as_dict(), "source": prepared.source.as_dict()}
    folders = run_plan(prepared.plan, Workshop(Place(root), executor, Quiet(), threads, "cpu"), request)
    graph = b"".join(map_array(folders["knn"], name).tobytes() for name in ("neighbors", "similarities"))
    return (folders["labels"] / "labels.npy").read_bytes() + graph


@pytest.fixture(scope="module")
def rows_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """9,000 x 32 vectors as an .npy file: three chunks of rows, the last one short."""
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, make_blobs(9_000, 32))
    return path


@pytest.fixture(scope="module", params=list(RUNS))
def reference(
    request: pytest.FixtureRequest, rows_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, bytes]:
    """The mode, and the results of one local task a stage on two threads."""
    root = tmp_path_factory.mktemp("reference") / "run"
    found = result_bytes(rows_path, root, request.param, LocalExecutor(), threads=2, block_rows=65_536)
    return request.param, found


@pytest.mark.parametrize(("threads", "block_rows"), [(1, 4096), (3, 8192)])
def test_local(reference: tuple[str, bytes], rows_path: Path, tmp_path: Path, threads: int, block_rows: int) -> None:
    mode, expected = reference
    assert result_bytes(rows_path, tmp_path / "run", mode, LocalExecutor(), threads, block_rows) == expected


def test_files_of_more_rows(
    reference: tuple[str, bytes], rows_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode, expected = reference
    if mode != "partition":
        pytest.skip("one way of searching is enough, because all store their arrays alike")
    monkeypatch.setattr(units, "MOST_FILES", 2)  # two chunks a file, as in arrays of more than 17 million rows
    assert result_bytes(rows_path, tmp_path / "run", mode, LocalExecutor(), 2, block_rows=4096) == expected
    assert len(list((tmp_path / "run").glob("knn-*/neighbors/c/*"))) == 2


@pytest.fixture(scope="module")
def ray_executor(ray_session: None) -> Iterator[Executor]:
    from engine.executors.ray import RayExecutor

    executor = RayExecutor(workers=2, threads=1)
    yield executor
    executor.close()


@pytest.mark.ray
def test_ray(reference: tuple[str, bytes], rows_path: Path, tmp_path: Path, ray_executor: Executor) -> None:
    mode, expected = reference
    assert result_bytes(rows_path, tmp_path / "run", mode, ray_executor, 1, block_rows=4096) == expected
