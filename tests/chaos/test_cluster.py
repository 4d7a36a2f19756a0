"""On a real Ray cluster of several processes: hosts come and go under a run, and a job survives whatever is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.commands.status import run_status
from engine.runs.effort import run_effort
from engine.runs.events import read_events
from engine.units import CHUNK_ROWS
from tests.support import ROOT, killing
from tests.support.toy_stages import make_calls

JOB = ROOT / "jobs" / "cluster.py"
HOSTS = 3
PATIENCE_S = 60.0
NUM_CALLS = 250

pytestmark = pytest.mark.ray


def wait_for(what: Callable[[], Any], process: Any = None) -> Any:
    """Wait until ``what`` is true while a process runs."""
    limit = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert process is None or process.poll() is None, f"ended with {process.poll()} before that"
        assert time.monotonic() < limit, "waited too long"
        time.sleep(0.02)
    return found


def run_toy_calls(environment: dict[str, str], folder: Path, log: Path) -> None:
    """Body of a driver: many short tasks on as many workers as the cluster holds, each outcome a line of ``log``."""
    os.environ.update(environment)
    import engine.executors.ray.executor as ray_executor

    ray_executor.POLL_S = 0.2
    executor = ray_executor.RayExecutor(workers=0, threads=1)
    waiting = make_calls(folder, "crowd", NUM_CALLS * CHUNK_ROWS, room=str(folder))
    with open(log, "w") as stream:
        while waiting:
            again = []
            for outcome in executor.run(waiting):
                print(json.dumps([outcome.call.start, outcome.pid, outcome.lost]), file=stream, flush=True)
                again += [outcome.call] if outcome.retry else []
            waiting = again
    executor.close()


def test_workers_come_and_go_with_hosts(ray_cluster: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    (tmp_path / "stage").mkdir()
    arguments = (ray_cluster.environment, tmp_path / "stage", log)
    process = killing.CONTEXT.Process(target=run_toy_calls, args=arguments)

    def done_by() -> dict[int, int]:
        lines = log.read_text().split("\n")[:-1] if log.exists() else []
        return {pid: start for start, pid, lost in map(json.loads, lines) if not lost}

    process.start()
    wait_for(lambda: len(done_by()) == HOSTS)
    before = set(done_by())
    ray_cluster.kill_host()
    ray_cluster.kill_host()
    ray_cluster.restore(HOSTS)
    wait_for(lambda: len(set(done_by()) - before) == 2)
    process.join()
    assert process.exitcode == 0
    outcomes = [json.loads(line) for line in log.read_text().splitlines()]
    finished = [start for start, _, lost in outcomes if not lost]
    assert sorted(finished) == list(range(0, NUM_CALLS * CHUNK_ROWS, CHUNK_ROWS))
    assert len(outcomes) - len(finished) == 2


def test_a_job_survives_the_loss_of_workers_hosts_and_driver(
    ray_cluster: Any, undisturbed: Path, blobs_path: Path, tmp_path: Path
) -> None:
    config, root = tmp_path / "config.yaml", tmp_path / "run"
    resources = {"executor": "ray", "threads": 1, "memory_bytes": "2GB", "block_rows": CHUNK_ROWS}
    config.write_text(yaml.safe_dump({"resources": resources, **killing.ARGUMENTS}))
    command = [sys.executable, str(JOB), "--config", str(config), "--features", str(blobs_path), "--out", str(root)]

    def submit() -> subprocess.Popen[str]:
        return subprocess.Popen(
            command, env=ray_cluster.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def in_stage(stage: str) -> Callable[[], bool]:
        return lambda: any(e["event"] == "stage_started" and e["stage"] == stage for e in read_events(root))

    driver = submit()
    wait_for(in_stage("knn"), driver)
    wait_for(ray_cluster.workers, driver)[0].kill()
    wait_for(in_stage("score"), driver)
    assert run_status(root)["state"] == "running"
    ray_cluster.kill_host()
    wait_for(in_stage("prune"), driver)
    driver.kill()
    driver.communicate()
    committed = killing.compare_committed(root, {})
    assert committed
    assert not list(root.glob("labels-*/labels.npy"))
    ray_cluster.restore(HOSTS)
    driver = submit()
    output, errors = driver.communicate()
    assert driver.returncode == 0, errors
    killing.compare_committed(root, committed)
    assert killing.labels_bytes(root) == killing.labels_bytes(undisturbed)
    assert max(killing.commits(root).values()) == 1
    effort = run_effort(root)
    assert (effort.starts, effort.executor, len(effort.hosts)) == (2, "ray", 1)
    assert str(effort) in output
    assert "analysis: done in" in errors


def test_a_job_that_is_refused_says_why_and_ends_with_2(ray_cluster: Any, blobs_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(JOB), "--features", str(blobs_path), "--out", str(tmp_path / "run")]
    config = tmp_path / "config.yaml"
    config.write_text("resources: {executor: ray}\n")
    environment = {**ray_cluster.environment, "RAY_AUTH_MODE": "disabled"}
    job = subprocess.run([*command, "--config", str(config)], env=environment, capture_output=True, text=True)
    assert job.returncode == 2
    assert "RAY_AUTH_MODE is disabled, so anyone who reaches this cluster" in job.stderr
