from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from engine.errors import ConfigError, DataError, StorageFailed
from engine.storage import remote
from engine.storage.remote import Storage, absolute, in_use, is_url, local_copy


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    monkeypatch.setenv(remote.CACHE_FOLDER, str(tmp_path / "cache"))
    yield "memory://bucket"
    fsspec.filesystem("memory").store.clear()


def test_what_is_a_url_and_what_a_path(tmp_path: Path) -> None:
    assert is_url("s3://bucket/a")
    assert not is_url("/a/b")
    assert not is_url(f"file://{tmp_path}")
    assert absolute(f"file://{tmp_path}") == str(tmp_path)
    assert absolute("s3://bucket/a/") == "s3://bucket/a"
    assert absolute("a") == str(Path("a").absolute())


@pytest.mark.parametrize("url", ["https://user:secret@host/a", "https://host/a?signature=secret"])
def test_credentials_in_a_url_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(ConfigError, match="environment") as caught:
        absolute(url)
    assert "secret" not in str(caught.value)


def test_an_unknown_scheme_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        Storage("nonsense://a/b")


def test_files_go_in_and_out(place: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    storage = Storage(f"{place}/run")
    storage.put([tmp_path / "a"], ["x/a"])
    storage.write("b", b"two")
    assert sorted(storage.files()) == ["b", "x/a"]
    storage.get(["x/a", "b"], [tmp_path / "got/a", tmp_path / "got/b"])
    assert (tmp_path / "got/a").read_bytes() == b"one"
    assert storage.read("b") == b"two"
    storage.remove(["b", "b"])
    assert storage.read("b") is None
    assert Storage(f"{place}/none").files() == {}


def test_passing_errors_are_waited_out(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote.time, "sleep", lambda seconds: None)
    storage, calls = Storage(place), []

    def flaky(path: str, data: bytes) -> None:
        calls.append(path)
        if len(calls) < 4:
            raise OSError("503 Slow Down")

    monkeypatch.setattr(storage._fs, "pipe_file", flaky)
    storage.write("a", b"1")
    assert len(calls) == 4


def test_errors_that_stay_say_what_was_asked_and_that_work_is_kept(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PATIENCE_S", 0.0)
    storage = Storage(place)

    def broken(*_: Any, **__: Any) -> None:
        raise TimeoutError("no answer")

    monkeypatch.setattr(storage._fs, "pipe_file", broken)
    with pytest.raises(StorageFailed, match=r"write a.*no answer.*resume"):
        storage.write("a", b"1")


def test_what_is_forbidden_is_not_waited_for(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, calls = Storage(place), []

    def forbidden(*_: Any, **__: Any) -> None:
        calls.append(1)
        raise PermissionError("Access Denied")

    monkeypatch.setattr(storage._fs, "pipe_file", forbidden)
    with pytest.raises(StorageFailed, match="Access Denied"):
        storage.write("a", b"1")
    assert len(calls) == 1


def test_a_copy_is_made_once_and_anew_when_the_original_changed(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(f"{place}/data")
    storage.write("shard-0.npy", b"0")
    storage.write("shard-1.npy", b"11")
    first = local_copy(f"{place}/data")
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {"shard-0.npy": b"0", "shard-1.npy": b"11"}
    assert first.name == "data"
    with monkeypatch.context() as patch:
        patch.setattr(Storage, "get", lambda *_: pytest.fail("copied again"))
        assert local_copy(f"{place}/data") == first
    storage.write("shard-1.npy", b"1")
    assert (local_copy(f"{place}/data") / "shard-1.npy").read_bytes() == b"1"
    assert local_copy(f"{place}/data/shard-0.npy").read_bytes() == b"0"
    with pytest.raises(DataError, match="no such file"):
        local_copy(f"{place}/none")


def test_the_least_recently_used_copies_make_room_unless_in_use(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(remote.CACHE_LIMIT, "2500")
    copies = []
    for name in "abcd":
        Storage(place).write(name, bytes(1000))
    for order, name in enumerate("ab"):
        copies.append(local_copy(f"{place}/{name}"))
        os.utime(copies[-1].parent, (order, order))
    copies.append(local_copy(f"{place}/c"))
    assert [copy.exists() for copy in copies] == [False, True, True]
    with in_use(copies[1].parent):
        copies.append(local_copy(f"{place}/d"))
    assert [copy.exists() for copy in copies] == [False, True, False, True]
    assert local_copy(f"{place}/a").read_bytes() == bytes(1000)
