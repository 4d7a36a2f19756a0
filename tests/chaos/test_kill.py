"""Runs killed with SIGKILL resume to the same bytes and redo nothing that was committed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from engine.errors import DataError
from tests.support import killing

NUM_KILLS = 8


def early(durations: dict[str, float]) -> dict[str, float]:
    """Durations to kill within: the run that took them may have compiled, and a late kill passes stages over."""
    return {stage: min(seconds, 0.03) for stage, seconds in durations.items()}


def test_killed_again_and_again_it_ends_with_the_same_bytes(
    undisturbed: Path, blobs_path: Path, tmp_path: Path
) -> None:
    rng = random.Random(5)
    durations = early(killing.stage_seconds(undisturbed))
    stages = sorted(rng.sample(list(durations), NUM_KILLS), key=list(durations).index)
    kills = killing.kill_repeatedly(blobs_path, tmp_path / "run", durations, stages, rng)
    assert len(kills) >= NUM_KILLS // 2
    assert killing.labels_bytes(tmp_path / "run") == killing.labels_bytes(undisturbed)
    assert max(killing.commits(tmp_path / "run").values()) == 1
    assert list((tmp_path / "run").rglob("*.tmp")) == []


def test_killed_between_passes_it_makes_as_many_as_undisturbed(blobs_path: Path, tmp_path: Path) -> None:
    root, whole = tmp_path / "run", tmp_path / "whole"
    process = killing.start(blobs_path, whole, arguments=killing.IN_PASSES)
    process.join()
    assert process.exitcode == 0
    durations = killing.stage_seconds(whole)
    assert "join_2" in durations
    assert "join_3" not in durations
    stages, rng = ["join_1", "near_2"], random.Random(3)
    kills = killing.kill_repeatedly(blobs_path, root, early(durations), stages, rng, killing.IN_PASSES)
    assert kills
    assert set(killing.stage_seconds(root)) == set(durations)
    assert {path.name for path in root.glob("*-*")} == {path.name for path in whole.glob("*-*")}
    assert killing.labels_bytes(root) == killing.labels_bytes(whole)
    assert max(killing.commits(root).values()) == 1


def test_the_command_line_resumes_what_was_killed(undisturbed: Path, blobs_path: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    run = [sys.executable, "-m", "engine", "run", "--features", str(blobs_path), "--out", str(root)]
    settings = [
        "knn.k=20", "knn.mode=ivf", "knn.num_probes=8", "knn.recall_samples=50", "partition.method=components",
        "partition.min_score=0.5", "partition.min_intimacy=0.3",
    ]  # fmt: skip
    for setting in settings:
        run += ["--set", setting]
    process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(root.glob("knn-*/neighbors/c/0/0")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(root.glob("labels-*/records/*.json"))
    resume = [sys.executable, "-m", "engine", "resume", str(root)]
    resumed = subprocess.run(resume, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert killing.labels_bytes(root) == killing.labels_bytes(undisturbed)
    assert max(killing.commits(root).values()) == 1


def test_two_at_once_are_refused_with_a_reason(undisturbed: Path, blobs_path: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    process = killing.start(blobs_path, root)
    while not list(root.glob("*/records/*.json")):
        assert process.is_alive()
        time.sleep(0.005)
    with pytest.raises(DataError, match="another process is working on"):
        killing.cluster(blobs_path, root)
    process.join()
    assert process.exitcode == 0
    assert killing.labels_bytes(root) == killing.labels_bytes(undisturbed)
    assert max(killing.commits(root).values()) == 1


@pytest.mark.ray
def test_a_run_goes_on_when_its_ray_workers_are_killed(undisturbed: Path, blobs_path: Path, tmp_path: Path) -> None:
    root = tmp_path / "run"
    process = killing.start(blobs_path, root, "ray", {**killing.RESOURCES, "workers": 2})
    durations = dict.fromkeys(killing.stage_seconds(undisturbed), 0.2)
    kills = killing.kill_workers(process, root, durations, 3, random.Random(1))
    process.join()
    assert process.exitcode == 0
    assert len(kills) == 3
    assert killing.labels_bytes(root) == killing.labels_bytes(undisturbed)
    assert max(killing.commits(root).values()) == 1


@pytest.mark.ray
def test_a_killed_driver_takes_its_workers_with_it_and_resumes_without(
    undisturbed: Path, blobs_path: Path, tmp_path: Path
) -> None:
    root = tmp_path / "run"
    process = killing.start(blobs_path, root, "ray", {**killing.RESOURCES, "workers": 1})
    while not list(root.glob("knn-*/records/*.json")):
        assert process.is_alive()
        time.sleep(0.01)
    workers = killing.workers_of(process.pid)
    assert workers
    process.kill()
    process.join()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert alive == []
    committed = killing.compare_committed(root, {})
    killing.cluster(blobs_path, root)
    killing.compare_committed(root, committed)
    assert killing.labels_bytes(root) == killing.labels_bytes(undisturbed)
