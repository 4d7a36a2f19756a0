from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import ConfigError, DataError, DiskBudgetExceeded, StorageFailed
from engine.storage import cache, remote
from engine.storage.cache import in_use, local_copy
from engine.storage.remote import Storage, absolute, is_url


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


SECRETS = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="&"), min_size=6)


@settings(deadline=None)
@given(SECRETS, st.sampled_from([
    "s3://KEY:{}@bucket/f.npy", "git+ssh://user:{}@host/f", "https://h/f?pwd={}", "https://h/f?a=1&auth={}",
    "https://h/f?X-Amz-Signature={}", "https://h/f#access_token={}", "file://user:{}@host/f",
]))  # fmt: skip
def test_a_secret_of_a_url_is_refused_and_never_repeated(secret: str, url: str) -> None:
    with pytest.raises(ConfigError, match=r"^\S+://\*\*\*: a URL with a user, password") as caught:
        absolute(url.format(secret))
    assert secret not in str(caught.value).replace(url.partition(":")[0], "")


@pytest.mark.parametrize("url", ["https://token@host/a", "s3://K:se/c@r/et@bucket", "https://host/a?b", "s3://b/f#top"])
def test_credentials_in_a_url_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="environment"):
        absolute(url)


def test_an_at_sign_in_a_name_is_no_user() -> None:
    assert absolute("s3://bucket/user@host/f.npy") == "s3://bucket/user@host/f.npy"
    assert absolute("file:///data/a@b:c#d?.npy") == "/data/a@b:c#d?.npy"


@pytest.mark.parametrize("url", ["s3://", "memory:///", "s3://bucket/../a", "s3://bucket/a/.", "s3://bucket/a\n"])
def test_a_url_of_nothing_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no URL of a file or folder"):
        absolute(url)


def test_an_unknown_scheme_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        Storage("nonsense://a/b")


def test_files_go_in_and_out(place: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    storage = Storage(f"{place}/run")
    storage.put([tmp_path / "a"], ["x/a"])
    storage.write("b", b"two")
    assert sorted(storage.files()) == ["b", "x/a"]
    storage.get({"x/a": 3, "b": 3}, tmp_path / "got")
    assert (tmp_path / "got/x/a").read_bytes() == b"one"
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
    monkeypatch.setenv(cache.CACHE_LIMIT, "2500")
    copies = []
    for name in "abcd":
        Storage(place).write(name, bytes(1000))
    for order, name in enumerate("ab"):
        copies.append(local_copy(f"{place}/{name}"))
        os.utime(copies[-1].parents[1], (order, order))
    copies.append(local_copy(f"{place}/c"))
    assert [copy.exists() for copy in copies] == [False, True, True]
    with in_use(copies[1].parents[1]):
        copies.append(local_copy(f"{place}/d"))
    assert [copy.exists() for copy in copies] == [False, True, False, True]
    assert local_copy(f"{place}/a").read_bytes() == bytes(1000)


def hold(path: str, data: bytes = b"evil") -> None:
    """Put an object of any name into the bucket."""
    memory = fsspec.filesystem("memory")
    memory.store[f"/bucket/{path}"] = MemoryFile(memory, f"/bucket/{path}", data)
    if f"/bucket/{path}" not in memory.find("/bucket"):
        pytest.skip(f"this version of fsspec lists no name such as {path!r}")


@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "a/../../../escaped", "a\\b", "a//b", "./a", "a\0b"])
def test_a_name_that_would_leave_the_copy_is_refused(place: str, tmp_path: Path, name: str) -> None:
    hold("data/rows.npy")
    hold(f"data/{name}")
    with pytest.raises(DataError, match=r"^memory://bucket/data: refused the name .*expected one that stays"):
        local_copy(f"{place}/data")
    assert not list(tmp_path.rglob("*escaped*"))


def test_what_a_storage_lists_beside_the_url_is_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hold("data/a")
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_, **__: {"/bucket/database": {"size": 1}})
    with pytest.raises(DataError, match=r"lists '/bucket/database', which is not below"):
        local_copy(f"{place}/data")


def test_names_that_no_folder_could_hold_together_are_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hold("data/a/b")
    hold("data/a")
    if not {"/bucket/data/a", "/bucket/data/a/b"} <= set(MemoryFileSystem().find("/bucket/data")):
        pytest.skip("this version of fsspec lists no name as a file and as a folder")
    with pytest.raises(DataError, match=r"memory://bucket/data: 'a' is both a file and a folder"):
        local_copy(f"{place}/data")
    hold("two/a", b"1")
    hold("two/A", b"2")
    assert {path.name for path in local_copy(f"{place}/two").iterdir()} == {"a", "A"}

    def ignores_case(self: MemoryFileSystem, there: list[str], here: list[str], **_: Any) -> None:
        Path(here[0]).write_bytes(b"1")
        Path(here[1]).hardlink_to(here[0])

    hold("two/a", b"3")
    monkeypatch.setattr(MemoryFileSystem, "get", ignores_case)
    with pytest.raises(DataError, match="takes two of its names for one"):
        local_copy(f"{place}/two")


def test_a_name_that_is_too_long_is_an_error_not_waited_for(place: str) -> None:
    hold(f"data/{'a' * 300}")
    with pytest.raises(DataError, match="the name is too long for this file system"):
        local_copy(f"{place}/data")


@pytest.mark.parametrize("name", ["a*", "[a]", "a?", "a b", "a%20b", "a#b", "a{b}", "*", "a;b", "é", "a::b"])
def test_names_that_are_patterns_elsewhere_are_copied_one_to_one(place: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_bytes(b"right")
    for other in ("ab", "a", "abc"):
        hold(f"data/{other}", b"wrong")
    Storage(f"{place}/data").put([tmp_path / "file"], [name])
    assert (local_copy(f"{place}/data") / name).read_bytes() == b"right"
    if not {"#", "?"} & set(name) and "::" not in name:
        assert local_copy(f"{place}/data/{name}").read_bytes() == b"right"
        Storage(f"{place}/data").remove([name])
        assert sorted(Storage(f"{place}/data").files()) == ["a", "ab", "abc"]


def test_a_folder_named_as_the_mark_of_a_whole_copy_is_copied_whole(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold("complete/a", b"1")

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MemoryFileSystem, "get", stop)
        with pytest.raises(KeyboardInterrupt):
            local_copy(f"{place}/complete")
    assert (local_copy(f"{place}/complete") / "a").read_bytes() == b"1"


def test_more_bytes_than_were_listed_are_not_written(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold("data/a", bytes(50 << 20))
    listed = MemoryFileSystem.find
    monkeypatch.setattr(MemoryFileSystem, "blocksize", 1 << 20)
    monkeypatch.setattr(
        MemoryFileSystem, "find", lambda *a, **k: {n: {**f, "size": 9} for n, f in listed(*a, **k).items()}
    )
    with pytest.raises(DataError, match="more than the expected 9 bytes came"):
        local_copy(f"{place}/data")
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 2 << 20


@pytest.mark.parametrize("size", [None, -1, "9"])
def test_a_size_that_is_none_is_refused(place: str, monkeypatch: pytest.MonkeyPatch, size: object) -> None:
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_, **__: {"/bucket/data/a": {"size": size}})
    with pytest.raises(DataError, match="does not tell the size of 'a'"):
        local_copy(f"{place}/data")


def test_a_large_file_is_not_read_into_memory(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hold("a")
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *_, **__: {"size": 1 << 40, "type": "file"})
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: pytest.fail("read"))
    with pytest.raises(DataError, match=r"memory://bucket/a: has 1,099,511,627,776 bytes, expected .* at most"):
        Storage(place).read("a")


def test_a_file_whose_change_could_not_be_seen_is_refused(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hold("a")
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_, **__: {"/bucket/a": {"size": 4}})
    with pytest.raises(DataError, match=r"bucket/a: the storage does not tell when 'the file' was changed"):
        local_copy(f"{place}/a")


def test_what_the_disk_cannot_hold_is_refused_before_it_is_copied(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *_, **__: {"/bucket/data/a": {"size": 1 << 60, "ETag": "x"}})
    with pytest.raises(DiskBudgetExceeded, match=r"1,152,921,504,606,846,976 bytes are to be copied to .*are free"):
        local_copy(f"{place}/data")


def test_the_cache_is_this_users_alone(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold("a")
    assert local_copy(f"{place}/a").read_bytes() == b"evil"
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    for mode in (0o770, 0o702, 0o777):
        (tmp_path / "cache").chmod(mode)
        with pytest.raises(ConfigError, match=rf"{tmp_path}/cache: others may write there \(mode {mode:04o}\).*chmod"):
            local_copy(f"{place}/a")
    (tmp_path / "cache").chmod(0o755)
    local_copy(f"{place}/a")
    monkeypatch.setattr(cache.os, "geteuid", lambda: 12345)
    with pytest.raises(ConfigError, match="cache belongs to another user"):
        local_copy(f"{place}/a")


def test_a_cache_that_is_a_file_is_refused(place: str, tmp_path: Path) -> None:
    hold("a")
    (tmp_path / "cache").write_text("")
    with pytest.raises(ConfigError, match=r"ASTERISM_CACHE .*: is a file, expected the name of a folder"):
        local_copy(f"{place}/a")


@pytest.mark.parametrize("limit", ["10GB", "-1", "1e9", "nan", " "])
def test_a_limit_of_the_cache_that_is_no_number_is_refused(
    place: str, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    hold("a")
    monkeypatch.setenv(cache.CACHE_LIMIT, limit)
    with pytest.raises(ConfigError, match=r"ASTERISM_CACHE_BYTES is .*; expected a number of bytes"):
        local_copy(f"{place}/a")
