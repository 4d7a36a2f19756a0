"""Runs at URLs: mirrors of two hosts (two caches), the lease, and what is done when the URL was damaged."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile

from engine import api
from engine.commands.reporting import write_report
from engine.commands.status import run_status
from engine.errors import ConfigError, DataError, RunBusy
from engine.runs.events import read_events
from engine.storage import lease, manifest, owned, places, remote
from engine.storage.places import Mirror, Place, open_place
from engine.storage.remote import Storage
from tests.support.vectors import make_blobs

URL = "memory://bucket/run"


@pytest.fixture(autouse=True)
def on_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Change to the cache of a host, named freely, in a process that has read nothing yet."""

    def change(name: str) -> None:
        monkeypatch.setenv(remote.CACHE_FOLDER, str(tmp_path / name))
        places._PULLED.clear()

    change("first")
    monkeypatch.setattr(lease, "LEASE_S", 2.0)
    yield change
    fsspec.filesystem("memory").store.clear()


@pytest.fixture
def source(tmp_path: Path) -> str:
    np.save(tmp_path / "rows.npy", make_blobs(600, 16))
    Storage("memory://bucket").put([tmp_path / "rows.npy"], ["rows.npy"])
    return "memory://bucket/rows.npy"


def run(source: str, **settings: object) -> np.ndarray:
    return api.cluster(source, workspace=URL, method="cosine", **settings).labels


def test_a_run_at_a_url_is_the_local_run(source: str, tmp_path: Path, on_host: Callable[[str], None]) -> None:
    expected = api.cluster(tmp_path / "rows.npy", workspace=tmp_path / "run", method="cosine").labels
    np.testing.assert_array_equal(run(source), expected)
    on_host("second")
    np.testing.assert_array_equal(api.run_labels(URL), expected)
    assert run_status(api.open_run(URL))["state"] == "finished"
    assert b"<html" in (Storage(URL).read("report.html") or b"")
    held = json.loads(Storage(URL).read("run.json") or b"")
    assert held["request"]["source"]["path"] == source
    api.export(URL, tmp_path / "rows.parquet", "parquet")


def test_another_host_goes_on_where_the_first_was_stopped(
    source: str, on_host: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("engine.steps.labels.Labels.run", stop)
        with pytest.raises(KeyboardInterrupt):
            run(source)
    on_host("second")
    status = run_status(api.open_run(URL))
    done = {stage["stage"] for stage in status["stages"] if stage["rows_committed"]}
    assert "score" in done
    assert "labels" not in done
    run(source)
    events = [event for event in read_events(api.open_run(URL)) if event["event"] == "task_committed"]
    assert len(events) == len({(event["stage"], event["start"]) for event in events})


def test_records_of_the_cache_give_way_to_those_at_the_url(source: str) -> None:
    first = run(source)
    Storage(URL).remove(list(Storage(URL).files()))
    np.testing.assert_array_equal(run(source), first)
    assert "report.html" in Storage(URL).files()


def test_damage_at_the_url_is_found_and_mended(source: str, on_host: Callable[[str], None]) -> None:
    first = run(source)
    labels = next(name for name in Storage(URL).files() if name.endswith("labels.npy"))
    good = Storage(URL).read(labels) or b""
    Storage(URL).write(labels, good[:-1] + b"x")
    on_host("second")
    with pytest.raises(DataError, match=r"does not match its checksum.*resume"):
        api.run_labels(URL)
    np.testing.assert_array_equal(run(source), first)
    Storage(URL).remove([labels])
    on_host("third")
    np.testing.assert_array_equal(run(source), first)
    assert Storage(URL).read(labels) == good


@pytest.mark.slow
def test_a_model_a_store_and_labels_at_urls(source: str, tmp_path: Path, on_host: Callable[[str], None]) -> None:
    rng = np.random.default_rng(0)  # as make_blobs draws them
    rng.standard_normal((50, 16))
    np.save(tmp_path / "labels.npy", rng.permutation(600) % 50)
    Storage("memory://bucket").put([tmp_path / "labels.npy"], ["labels.npy"])
    labels, model, store = "memory://bucket/labels.npy", "memory://bucket/model", "memory://bucket/store"
    api.train(source, labels, model, method="structural", **{"knn.k": 10})
    api.execute(api.prepare("store", store, api.Request(features=source)), progress=False)
    on_host("second")
    found = api.cluster(store, model=model, labels=labels, workspace=URL, **{"knn.k": 10})
    assert len(found.labels) == 600
    assert "memory://bucket/model" in found.report.read_text()
    assert api.evaluate(found.labels, labels)["pairwise_f"] > 0.5
    with pytest.raises(ConfigError, match="cannot be kept at"):
        api.train(np.zeros((3, 2)), np.zeros(3, int), model)


def test_scratch_outputs_go_from_the_url_too(source: str) -> None:
    run(source, **{"knn.mode": "partition"})
    gone = [name for name in Storage(URL).files() if name.startswith("near_1-")]
    assert any(name.endswith("consumed.json") for name in gone)
    assert not any("/c/" in name for name in gone)


def test_a_lease_keeps_others_out_until_it_lapses(on_host: Callable[[str], None]) -> None:
    with Mirror(URL).locked():
        on_host("second")
        assert Mirror(URL).is_running()
        with pytest.raises(DataError, match=f"another process is working on {URL}.*{socket.gethostname()}"), \
                Mirror(URL).locked():  # fmt: skip
            pass
    assert not Mirror(URL).is_running()
    Storage(URL).write("run.lock", json.dumps({"token": "x", "beats": 1, "host": "gone", "pid": 1}).encode())
    with Mirror(URL).locked():
        pass


def holder(**changed: object) -> dict[str, object]:
    """What a process of this host, which has just ended, would have left of its lease."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    held = {"token": "x", "beats": 1, "host": socket.gethostname(), "pid": ended.pid, "system": lease._system()}
    return {**held, "started": "1", **changed}


def leave(held: dict[str, object]) -> None:
    Storage(URL).write("run.lock", json.dumps(held).encode())


ALIVE = {  # or not known to be dead, seen from here
    "another namespace": lambda: holder(system=lease._system().replace("pid:[", "pid:[1")),
    "another boot": lambda: holder(system="0" * 36 + lease._system()[36:]),
    "another host": lambda: holder(host="other"),
    "an unknown system": lambda: holder(system="", started=""),
    "an earlier version": lambda: {"token": "x", "beats": 1, "host": socket.gethostname(), "pid": 1},
    "another process of this system": lambda: holder(pid=os.getppid(), started=lease._started(os.getppid())),
}


@pytest.mark.parametrize("who", ALIVE)
def test_a_living_holder_is_waited_for(who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    held = ALIVE[who]()
    leave(held)
    looks = []

    def beat(seconds: float) -> None:
        looks.append(seconds)
        leave({**held, "beats": 1 + len(looks)})

    monkeypatch.setattr(lease.time, "sleep", beat)
    assert Mirror(URL).is_running()
    with pytest.raises(RunBusy, match=f"another process is working on {URL}"), Mirror(URL).locked():
        pass
    assert len(looks) == 2
    assert json.loads(Storage(URL).read("run.lock") or b"")["token"] == "x"


@pytest.mark.parametrize("dead", [holder, lambda: holder(pid=os.getpid()), lambda: holder(pid=os.getppid())])
def test_a_dead_holder_of_this_host_is_noticed_at_once(
    dead: Callable[[], dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process has ended, or its number is another process's now: the time at which that began tells."""
    leave(dead())
    monkeypatch.setattr(lease.time, "sleep", lambda _: pytest.fail("waited"))
    assert not Mirror(URL).is_running()
    with Mirror(URL).locked():
        assert json.loads(Storage(URL).read("run.lock") or b"")["token"] != "x"


def test_a_process_that_nobody_has_waited_for_has_ended() -> None:
    ended = subprocess.Popen(["true"])
    assert lease._started(os.getpid()).isdigit()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
    assert lease._started(ended.pid) == ""
    ended.wait()


def test_of_two_that_take_a_lease_at_once_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (lease.Lease(Storage(URL), "run.lock") for _ in range(2))
    looked = first._wait_for_holder, second._wait_for_holder
    both = [look() for look in looked]  # each has seen that there is none
    for taker, found in zip((first, second), both, strict=True):
        monkeypatch.setattr(taker, "_wait_for_holder", lambda found=found: found)
    first.take()
    with pytest.raises(RunBusy, match=f"another process is working on {URL}"):
        second.take()
    assert second._token not in lease._HELD
    first.give_back()
    assert Storage(URL).read("run.lock") is None


def test_a_lapsed_lease_that_another_took_meanwhile_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    leave(holder())
    first, second = (lease.Lease(Storage(URL), "run.lock") for _ in range(2))
    lapsed = second._wait_for_holder()
    first.take()
    monkeypatch.setattr(second, "_wait_for_holder", lambda: lapsed)
    with pytest.raises(RunBusy):
        second.take()
    first.give_back()


def test_a_lease_is_taken_where_the_storage_has_no_write_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Storage, "create", lambda *_: None)
    leave(holder())
    with Mirror(URL).locked():
        assert json.loads(Storage(URL).read("run.lock") or b"")["token"] != "x"
    assert Storage(URL).read("run.lock") is None


@pytest.mark.parametrize("junk", [b"", b"[]", b"null", b"[" * 5000, b'{"pid": "../x"}', b"\xff", b'{"beats": 1e999}'])
def test_a_lease_that_is_no_lease_lapses(junk: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_S", 0.1)
    Storage(URL).write("run.lock", junk)
    with Mirror(URL).locked():
        pass


def test_a_mirror_and_a_folder_are_told_apart(tmp_path: Path, source: str) -> None:
    run(source)
    mirror = Mirror(URL).root
    assert isinstance(open_place(mirror), Mirror)
    assert type(open_place(tmp_path)) is Place
    assert type(open_place(shutil.copytree(mirror, tmp_path / mirror.name))) is Place
    assert type(open_place(shutil.copytree(mirror, mirror.with_name("other-0123456789ab")))) is Place


@pytest.mark.parametrize("held", [{"url": "memory://bucket/victim"}, {"url": "/etc"}, {"url": 1}, {}])
def test_a_folder_does_not_send_its_reader_elsewhere(held: object, source: str, tmp_path: Path) -> None:
    api.cluster(tmp_path / "rows.npy", workspace=tmp_path / "run", method="cosine")
    (tmp_path / "run/mirror.json").write_text(json.dumps(held))
    (Mirror(URL).root).mkdir(parents=True)
    (Mirror(URL).root / "mirror.json").write_text(json.dumps(held))
    before = set(fsspec.filesystem("memory").store)
    assert run_status(api.open_run(tmp_path / "run"))["state"] == "finished"
    api.export(tmp_path / "run", tmp_path / "out.npy", "npy")
    write_report(open_place(api.open_run(tmp_path / "run")))
    assert set(fsspec.filesystem("memory").store) == before
    assert type(open_place(Mirror(URL).root)) is Place


def hold(path: str, data: bytes) -> None:
    """Put an object of any name into the bucket."""
    memory = fsspec.filesystem("memory")
    memory.store[path] = MemoryFile(memory, path, data)
    if path not in memory.find("/bucket"):
        pytest.skip(f"this version of fsspec lists no name such as {path!r}")


@pytest.mark.parametrize("name", ["../../../escaped", "records/../../../../escaped", "/escaped"])
def test_a_bucket_writes_nothing_outside_of_the_cache(
    name: str, source: str, tmp_path: Path, on_host: Callable[[str], None]
) -> None:
    run(source)
    hold(f"/bucket/run/{name}", b"evil")
    for host in ("first", "second"):
        on_host(host)
        for act in (
            lambda: run(source),
            lambda: api.export(URL, tmp_path / "out.npy", "npy"),
            lambda: run_status(api.open_run(URL)),
            lambda: api.cluster(URL, method="cosine"),
        ):
            with pytest.raises(DataError, match=r"^memory://bucket/run\S*: refused the name .*expected one that stays"):
                act()
    assert not list(tmp_path.rglob("*escaped*"))
    assert not (tmp_path / "out.npy").exists()


def test_only_files_of_a_run_are_mirrored(source: str, on_host: Callable[[str], None]) -> None:
    first = run(source)
    ours = ("mirror.json", "run.lock/run.json", "complete", "a/b/run.json", "roots-0123456789ab.writing/stage.json")
    for name in ours:
        hold(f"/bucket/run/{name}", b'{"url": "memory://elsewhere"}')
    on_host("second")
    np.testing.assert_array_equal(api.run_labels(URL), first)
    held = json.loads((Mirror(URL).root / "mirror.json").read_text())
    assert held == {"url": URL}
    assert not any((Mirror(URL).root / name).exists() for name in ours if name != "mirror.json")


def rewrite_record(change: Callable[[dict[str, Any]], None]) -> None:
    """Change the record of the labels at the URL as who can write there can: its checksum is right."""
    name = next(name for name in Storage(URL).files() if name.startswith("labels-") and "/records/" in name)
    tree = json.loads(Storage(URL).read(name) or b"")
    del tree["checksum"]
    change(tree)
    Storage(URL).write(name, json.dumps({**tree, "checksum": owned.tree_checksum(tree)}).encode())


def test_the_output_of_a_record_is_read_and_written_in_its_folder_alone(
    source: str, tmp_path: Path, on_host: Callable[[str], None]
) -> None:
    run(source)
    evil = b"evil"
    for path in ("../../../../escaped", str(tmp_path / "escaped")):

        def change(tree: dict[str, Any], path: str = path) -> None:
            tree["outputs"] = [{"path": path, "num_bytes": 4, "checksum": manifest.bytes_checksum(evil)}]

        rewrite_record(change)
        on_host(f"second-{len(path)}")
        with pytest.raises(DataError):
            api.export(URL, tmp_path / "out.npy", "npy")
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_folder_that_is_none_of_the_runs_is_not_fetched(source: str) -> None:
    run(source)
    place = Mirror(URL)
    for folder in (place.root / "..", place.root / "../x", place.root, Path("/etc/x"), place.root / "a/../../x"):
        with pytest.raises(DataError, match=f"^{URL}: refused the name"):
            place.fetch(folder)
    with pytest.raises(ConfigError, match="is no URL of a file or folder"):
        places.open_stage(f"{URL}/..")


def test_who_loses_the_lease_stops_at_its_next_commit(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_over(*_: object) -> dict[str, object]:
        Storage(URL).write("run.lock", json.dumps({"token": "x", "beats": 1, "host": "other", "pid": 7}).encode())
        time.sleep(1.0)
        return {}

    monkeypatch.setattr("engine.steps.labels.Labels.run", take_over)
    with pytest.raises(DataError, match="process 7 on other has taken over"):
        run(source)
    assert json.loads(Storage(URL).read("run.lock") or b"")["token"] == "x"


def test_errors_name_the_url_not_the_copy(source: str, tmp_path: Path) -> None:
    rows = make_blobs(600, 16)
    rows[7, 3] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    Storage("memory://bucket").put([tmp_path / "rows.npy"], ["rows.npy"])
    with pytest.raises(DataError, match=f"^{source}: NaN, infinite or missing values in row 7"):
        run(source)
    Storage("memory://bucket").write("rows.npy", b"no array")
    with pytest.raises(DataError, match=f"^{source}: "):
        run(source)


def test_who_looks_at_a_run_that_begins_here_takes_nothing_from_it(source: str) -> None:
    place = Mirror(URL)
    with place.locked():
        place.refresh()
        (place.root / "run.json").write_text("{}")  # not yet at the URL
        api.open_run(URL)
        assert (place.root / "run.json").exists()
    with pytest.raises(DataError, match=f"^{URL} holds no run"):
        api.open_run(URL)
    assert not (place.root / "run.json").exists()
