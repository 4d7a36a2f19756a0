"""Runs at URLs: mirrors of two hosts (two caches), the lease, and what is done when the URL was damaged."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from conftest import make_blobs

from engine import api, summary
from engine.errors import ConfigError, DataError
from engine.storage import places, remote
from engine.storage.places import Mirror, Place, open_place
from engine.storage.remote import Storage

URL = "memory://bucket/run"


@pytest.fixture(autouse=True)
def on_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Change to the cache of a host, named freely, in a process that has read nothing yet."""

    def change(name: str) -> None:
        monkeypatch.setenv(remote.CACHE_FOLDER, str(tmp_path / name))
        places._PULLED.clear()

    change("first")
    monkeypatch.setattr(places, "LEASE_S", 2.0)
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
    assert summary.run_status(api.open_run(URL))["state"] == "finished"
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
        patch.setattr("engine.stages.partition.label_rows", stop)
        with pytest.raises(KeyboardInterrupt):
            run(source)
    on_host("second")
    status = summary.run_status(api.open_run(URL))
    done = {stage["stage"] for stage in status["stages"] if stage["rows_committed"]}
    assert "score" in done
    assert "labels" not in done
    run(source)
    events = [event for event in summary.read_events(api.open_run(URL)) if event["event"] == "task_committed"]
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
    with pytest.raises(ConfigError, match="cannot be kept beside"):
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


def test_a_mirror_and_a_folder_are_told_apart(tmp_path: Path, source: str) -> None:
    run(source)
    assert isinstance(open_place(Mirror(URL).root), Mirror)
    assert type(open_place(tmp_path)) is Place


def test_who_loses_the_lease_stops_at_its_next_commit(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def take_over(*_: object) -> dict[str, object]:
        Storage(URL).write("run.lock", json.dumps({"token": "x", "beats": 1, "host": "other", "pid": 7}).encode())
        time.sleep(1.0)
        return {}

    monkeypatch.setattr("engine.stages.partition.label_rows", take_over)
    with pytest.raises(DataError, match="process 7 on other has taken over"):
        run(source)
    assert json.loads(Storage(URL).read("run.lock") or b"")["token"] == "x"


def test_errors_name_the_url_not_the_copy(source: str, tmp_path: Path) -> None:
    rows = make_blobs(600, 16)
    rows[7, 3] = np.nan
    np.save(tmp_path / "rows.npy", rows)
    Storage("memory://bucket").put([tmp_path / "rows.npy"], ["rows.npy"])
    with pytest.raises(DataError, match=f"^{source}: NaN or infinite values in row 7"):
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
