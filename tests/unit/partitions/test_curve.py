"""The curve of precision biases: each step is what a run with that bias gives, from the same scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine import cluster, evaluate
from engine.commands.run_folder import stage_folder
from engine.storage.manifest import read_json
from tests.support.vectors import standin

PARTITIONS: list[dict[str, Any]] = [
    {"method": "components", "min_score": 0.6, "min_intimacy": 0.3},
    {"method": "components", "min_score": 0.6, "min_intimacy": 0.0},
    {"method": "propagation"},
    {"method": "density_peaks", "min_score": 0.4},
    {"method": "map_equation"},
]
CASES = [*(("exact", each) for each in PARTITIONS), ("partition", PARTITIONS[0])]


def curve(run: Path) -> dict[float, dict[str, Any]]:
    folder = stage_folder(run, "curve")
    assert folder is not None
    return {row["threshold"]: row for row in read_json(folder / "curve.json")["rows"]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Identities in a file, and the runs of all cases: neighbours are searched once a mode."""
    return tmp_path_factory.mktemp("curve")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "partition"), CASES, ids=lambda each: each if isinstance(each, str) else each["method"]
)
def test_each_step_is_the_run_with_that_bias(folder: Path, mode: str, partition: dict[str, Any]) -> None:
    vectors, truth = standin(30, 4)
    np.save(folder / "truth.npy", truth)
    given = {"workspace": folder / mode, "labels": folder / "truth.npy", "method": "cosine", "knn": {"mode": mode}}
    first: dict[float, dict[str, Any]] = {}
    for bias in (0.0, 2.0, -3.0):
        result = cluster(vectors, partition=partition | {"precision_bias": bias}, **given)
        first = first or curve(result.run)
        sizes, scores = np.bincount(result.labels), evaluate(result.labels, truth)
        row = first[bias]
        assert (row["num_clusters"], row["num_singletons"]) == (len(sizes), (sizes == 1).sum())
        assert row["largest"] == sizes.max()
        assert row["pairwise_f"] == pytest.approx(scores["pairwise_f"])
        assert curve(result.run) == first
        assert "What other precision biases would give" in result.report.read_text()
    assert first[4.0]["pairwise_precision"] >= first[-4.0]["pairwise_precision"]


@pytest.mark.slow
def test_without_labels_it_counts_and_beyond_the_rows_allowed_it_is_left_out(tmp_path: Path) -> None:
    vectors, _ = standin(10, 5)
    counted = cluster(vectors, workspace=tmp_path / "run", method="cosine")
    assert curve(counted.run)[0.0]["pairwise_f"] is None
    few = cluster(vectors, workspace=tmp_path / "few", method="cosine", partition={"curve_rows": len(vectors) - 1})
    assert stage_folder(few.run, "curve") is None
    assert "What other precision biases would give" not in few.report.read_text()


def test_rows_that_were_dropped_do_not_count(tmp_path: Path) -> None:
    vectors = np.repeat(np.eye(20, 32, dtype=np.float32), 3, axis=0)
    vectors[::9] = 0
    partition = {"method": "components", "min_score": 0.6}
    zeros = {"ingest": {"zero_vectors": "drop"}, "method": "cosine", "partition": partition}
    run = cluster(vectors, workspace=tmp_path / "run", **zeros).run
    analysis = read_json(stage_folder(run, "analysis") / "analysis.json")
    rows = [curve(run)[0.0], *(row for row in analysis["sweeps"]["score"] if 0 < row["threshold"] < 1)]
    assert analysis["num_dropped"] == 7
    assert len(rows) > 2
    assert {(row["num_clusters"], row["num_singletons"]) for row in rows} == {(20, 0)}
