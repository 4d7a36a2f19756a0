"""Runs kept on an S3 server: the same bytes as local ones, through kills, other hosts and errors of the storage."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine import api
from engine.errors import DataError, DiskBudgetExceeded, RunBusy, StorageFailed
from engine.runs.events import read_events
from engine.storage import cache, lease, places, remote
from engine.storage.remote import Storage
from tests.support.vectors import make_blobs

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 'asterism-clustering[s3]'")
pytest.importorskip("moto", reason="the S3 server is not installed: pip install 'asterism-clustering[dev]'")

from tests.support.s3_server import BUCKET, S3Server

SETTINGS = {"knn.k": 10, "partition.method": "components", "partition.min_score": 0.5}
ROWS = 10_000


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features") / "rows.npy"
    np.save(path, make_blobs(ROWS, 16))
    return path


@pytest.fixture(scope="module")
def expected(features: Path) -> np.ndarray:
    return api.cluster(features, method="cosine", **SETTINGS).labels


@pytest.fixture
def out(server: S3Server, features: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """URL for a run of the features that lie beside it; this host's cache is empty."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv(remote.CACHE_FOLDER, str(tmp_path / "cache"))
    places._PULLED.clear()
    server.on_write, server.failing = lambda path: None, False
    url = f"s3://{BUCKET}/{tmp_path.name}"
    Storage(url).put([features], ["rows.npy"])
    return url


def run(out: str) -> np.ndarray:
    return api.cluster(f"{out}/rows.npy", workspace=f"{out}/run", method="cosine", resources={"block_rows": 4096},
                       **SETTINGS).labels  # fmt: skip


def commits(out: str) -> Counter[tuple[str, int]]:
    events = read_events(api.open_run(f"{out}/run"))
    return Counter((event["stage"], event["start"]) for event in events if event["event"] == "task_committed")


def test_killed_on_one_host_it_is_resumed_on_another(
    out: str, server: S3Server, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-m", "engine", "run", "--features", f"{out}/rows.npy", "--out", f"{out}/run",
               "--method", "cosine", "--block-rows", "4096", "--quiet"]  # fmt: skip
    for name, value in SETTINGS.items():
        command += ["--set", f"{name}={value}"]
    process = subprocess.Popen(command, env={**os.environ, remote.CACHE_FOLDER: str(tmp_path / "elsewhere")})
    reached = threading.Event()

    def kill(path: str) -> None:
        if "/records/" in path and "/knn-" in path and path.endswith("000000004096.json"):
            process.send_signal(signal.SIGKILL)
            reached.set()

    server.on_write = kill
    assert process.wait(120) == -signal.SIGKILL
    assert reached.is_set()
    server.on_write = lambda path: None
    monkeypatch.setattr(lease.socket, "gethostname", lambda: "another-host")  # which cannot see that it is dead
    monkeypatch.setattr(lease, "LEASE_S", 1.0)
    np.testing.assert_array_equal(run(out), expected)
    assert max(commits(out).values()) == 1


def test_errors_of_the_storage_are_waited_out(out: str, server: S3Server, expected: np.ndarray) -> None:
    def fail_for_a_while(path: str) -> None:
        if "/records/" in path and "/score-" in path and not server.refused:
            server.failing = True
            threading.Timer(3.0, lambda: setattr(server, "failing", False)).start()

    server.refused, server.on_write = 0, fail_for_a_while
    np.testing.assert_array_equal(run(out), expected)
    assert server.refused > 0
    assert max(commits(out).values()) == 1


def test_a_storage_that_stays_away_is_a_clear_error_and_the_run_resumes(
    out: str, server: S3Server, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: str) -> None:
        server.failing = server.failing or ("/records/" in path and "/knn-" in path)

    server.on_write = fail
    with monkeypatch.context() as patch:
        patch.setattr(remote, "PATIENCE_S", 1.0)
        with pytest.raises(StorageFailed, match=r"could not write .* run again to resume"):
            run(out)
    server.on_write, server.failing = lambda path: None, False
    np.testing.assert_array_equal(run(out), expected)


def test_a_cache_that_is_full_is_a_clear_error_and_the_run_resumes(
    out: str, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("engine.storage.manifest.os.fsync", fail)
        with pytest.raises(DiskBudgetExceeded, match=r"the disk is full while writing .*cache"):
            run(out)
    np.testing.assert_array_equal(run(out), expected)


def test_with_a_cache_smaller_than_the_run_the_labels_are_the_same(
    out: str, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(cache.CACHE_LIMIT, "1000000")  # the graph alone is as large
    np.testing.assert_array_equal(run(out), expected)


def test_a_hostile_bucket_writes_nothing_outside_of_the_cache(out: str, server: S3Server, tmp_path: Path) -> None:
    evil = "rows/../../../../../escaped"
    server.client.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/{evil}", Body=b"evil")
    with pytest.raises(DataError, match=r"refused the name .*escaped'"):
        api.cluster(f"{out}/rows", method="cosine")
    assert not list(tmp_path.rglob("*escaped*"))


@pytest.mark.parametrize("name", ["a*.npy", "[a].npy", "a?b#c.npy", "a b.npy", "a%20b.npy"])
def test_names_that_are_patterns_elsewhere_are_copied_one_to_one(out: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"right")
    (tmp_path / "other").write_bytes(b"wrong")
    Storage(f"{out}/names").put([tmp_path / "other", tmp_path / "file"], ["ab.npy", name])
    copy = cache.local_copy(f"{out}/names")
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {"ab.npy": b"wrong", name: b"right"}


def test_a_marker_of_a_folder_is_no_file(out: str, server: S3Server, tmp_path: Path) -> None:
    for key in ("marked/", "marked/a/", "marked/a/b"):
        server.client.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/{key}", Body=b"" if key.endswith("/") else b"1")
    assert sorted(Storage(f"{out}/marked").files()) == ["a/b"]


def test_of_two_that_take_a_lease_at_once_one_is_refused(out: str) -> None:
    """By a write that fails where the object exists: neither has seen the other."""
    storage = Storage(f"{out}/run")
    assert storage.create("run.lock", b"first") is True
    assert storage.create("run.lock", b"second") is False
    assert storage.read("run.lock") == b"first"
    storage.remove(["run.lock"])
    takers, ready, ends = [lease.Lease(storage, "run.lock") for _ in range(2)], threading.Barrier(2), []

    def take(taker: lease.Lease) -> None:
        taker._wait_for_holder = lambda: ready.wait() and None  # type: ignore[method-assign]
        try:
            taker.take()
            ends.append("took")
        except RunBusy:
            ends.append("refused")

    threads = [threading.Thread(target=take, args=(taker,)) for taker in takers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["refused", "took"]
    for taker in takers:
        if taker._thread.is_alive():
            taker.give_back()
    assert storage.read("run.lock") is None
