from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.errors import DataError, DiskBudgetExceeded, ManifestMismatch
from engine.runs.plan import Plan
from engine.storage import manifest
from engine.storage.formats.export import BinWriter
from engine.storage.manifest import OutputFile, Record
from tests.support.toy_stages import toy_request


def write(folder: Path, start: int, stop: int, digest: str = "d") -> Record:
    output = manifest.write_atomic(folder / f"part{start}", lambda stream: stream.write(b"x" * (start + 1)))
    record = Record(digest, start, stop, (output,), {"edges": 3, "by_size": {10: 1, 9: 2}}, 0.25)
    manifest.write_record(folder, record)
    return record


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    manifest.write_atomic(tmp_path / "file", lambda stream: stream.write(b"old"))

    def fail(stream: object) -> None:
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        manifest.write_atomic(tmp_path / "file", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_records_come_back_in_row_order_and_by_fingerprint(tmp_path: Path) -> None:
    later, earlier = write(tmp_path, 5, 9), write(tmp_path, 0, 5)
    write(tmp_path, 9, 12, digest="another")
    found = manifest.read_records(tmp_path, "d")
    assert [record.start for record in found] == [0, 5]
    assert found[0].outputs == earlier.outputs
    assert found[1].outputs == later.outputs
    assert found[0].facts == {"edges": 3, "by_size": {"10": 1, "9": 2}}
    assert manifest.damaged_records(tmp_path) == []


def test_a_record_changed_in_any_byte_is_no_record(tmp_path: Path) -> None:
    write(tmp_path, 0, 5)
    (path,) = (tmp_path / "records").iterdir()
    data = path.read_bytes()
    for place in range(len(data)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :])
        assert manifest.read_records(tmp_path, "d") == []
        assert manifest.damaged_records(tmp_path) == [path]


def test_damage_is_described(tmp_path: Path) -> None:
    record = write(tmp_path, 3, 5)
    assert manifest.find_damage(tmp_path, record) is None
    (tmp_path / "part3").write_bytes(b"xxxy")
    assert "does not match its checksum" in str(manifest.find_damage(tmp_path, record))
    (tmp_path / "part3").write_bytes(b"xxx")
    assert "has 3 bytes, its record says 4" in str(manifest.find_damage(tmp_path, record))
    (tmp_path / "part3").unlink()
    assert "is missing" in str(manifest.find_damage(tmp_path, record))
    manifest.discard_record(tmp_path, record)
    manifest.discard_record(tmp_path, record)
    assert manifest.read_records(tmp_path, "d") == []


def test_checksums_of_files_and_bytes_agree(tmp_path: Path) -> None:
    written = manifest.write_atomic(tmp_path / "file", lambda stream: stream.write(b"data"))
    assert written == OutputFile("file", 4, manifest.bytes_checksum(b"data"))
    assert manifest.file_checksum(tmp_path / "file") == written.checksum


@pytest.mark.parametrize(
    ("code", "message"),
    [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EROFS, "choose another --out")],
)
def test_disk_errors_say_what_to_do(code: int, message: str) -> None:
    with pytest.raises(DiskBudgetExceeded, match=message), manifest.explain_os_errors(Path("there")):
        raise OSError(code, "no")


def test_other_os_errors_pass() -> None:
    with pytest.raises(FileNotFoundError), manifest.explain_os_errors(Path("there")):
        raise FileNotFoundError(errno.ENOENT, "no")


def test_a_run_of_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no run"):
        manifest.read_run(tmp_path)
    held = {"kind": "run", "state": "running", "request": toy_request("s"), "plan": Plan("run", ()).as_dict()}
    manifest.write_run(tmp_path, held)
    assert manifest.read_run(tmp_path)["kind"] == "run"
    (tmp_path / "run.json").write_text(json.dumps({"format_version": 1}))
    with pytest.raises(ManifestMismatch, match=r"written by an earlier version .*1, this version reads 2"):
        manifest.read_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({"format_version": 99}))
    with pytest.raises(ManifestMismatch, match=r"written by a later version .*99, this version reads 2"):
        manifest.read_run(tmp_path)


def test_what_killed_writers_left_is_removed_and_what_others_write_is_not(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, written, other = (tmp_path / name for name in (f".x.{ended.pid}.tmp", f".x.{os.getpid()}.tmp", ".tmp"))
    for path in (left, written, other):
        path.touch()
    manifest.remove_abandoned(tmp_path.glob(".*.tmp"))
    assert set(tmp_path.iterdir()) == {written, other}


def write_at_once(path: Path) -> None:
    manifest.write_atomic(path, lambda stream: stream.write(bytes(12)))


def write_in_blocks(path: Path) -> None:
    with BinWriter(path) as writer:
        writer.append(np.zeros((1, 2)))
        writer.append(np.zeros((2, 2))[:1])
        writer.append(np.zeros((1, 2)))


@pytest.mark.parametrize(("write", "num_bytes"), [(write_at_once, 12), (write_in_blocks, 24)])
def test_a_file_is_flushed_whole_before_it_takes_its_name(
    write: Callable[[Path], None], num_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def flush(handle: int) -> None:
        fsync(handle)
        happened.append(("flushed", os.fstat(handle).st_size))

    def rename(source: Path, target: Path) -> None:
        happened.append(("named", os.stat(source).st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    write(tmp_path / "file")
    assert happened == [("flushed", num_bytes), ("named", num_bytes)]


@pytest.mark.parametrize(("start", "stop"), [(0, 8), (4, 8), (8, 8)])
def test_a_record_under_the_name_of_other_rows_is_damaged(start: int, stop: int, tmp_path: Path) -> None:
    record = write(tmp_path, 0, 4)
    moved = manifest.record_path(tmp_path, replace(record, start=start, stop=stop))
    manifest.record_path(tmp_path, record).rename(moved)
    assert manifest.read_records(tmp_path, "d") == []
    assert manifest.damaged_records(tmp_path) == [moved]


def test_a_record_of_no_rows_is_damaged(tmp_path: Path) -> None:
    record = write(tmp_path, 4, 4)
    assert manifest.damaged_records(tmp_path) == [manifest.record_path(tmp_path, record)]


def test_a_file_is_flushed_before_it_takes_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(handle: int) -> None:
        done.append(f"flush {os.fstat(handle).st_size}")
        fsync(handle)

    def renamed(old: Path, new: Path) -> None:
        done.append(f"rename {new.name}")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    record = write(tmp_path, 3, 5)
    assert done[:2] == ["flush 4", "rename part3"]
    assert done[2].startswith("flush ")
    assert done[3:] == [f"rename {manifest.record_path(tmp_path, record).name}"]  # the record is the last of all


def test_a_link_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    (tmp_path / f".file.{os.getpid()}.tmp").symlink_to(outside)
    manifest.write_atomic(tmp_path / "file", lambda stream: stream.write(b"ours"))
    assert outside.read_bytes() == b"theirs"
    assert (tmp_path / "file").read_bytes() == b"ours"


@pytest.mark.parametrize(
    "change",
    [
        {"outputs": [{"path": "../part3", "num_bytes": 4, "checksum": "0" * 32}]},
        {"outputs": [{"path": "/etc/passwd", "num_bytes": 4, "checksum": "0" * 32}]},
        {"outputs": [{"path": "part3", "num_bytes": -4, "checksum": "0" * 32}]},
        {"outputs": [{"path": "part3", "num_bytes": 4, "checksum": "../../x"}]},
        {"outputs": "part3"}, {"start": -1}, {"stop": 10**15}, {"start": 7}, {"start": "3"}, {"facts": []},
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_is_damaged_whatever_its_checksum(tmp_path: Path, change: dict[str, Any]) -> None:
    path = manifest.record_path(tmp_path, write(tmp_path, 3, 5))
    tree = {name: value for name, value in json.loads(path.read_text()).items() if name != "checksum"}
    manifest.write_owned(path, manifest.RECORD, tree)
    assert len(manifest.read_records(tmp_path, "d")) == 1
    manifest.write_owned(path, manifest.RECORD, tree | change)
    assert manifest.read_records(tmp_path, "d") == []
    assert manifest.damaged_records(tmp_path) == [path]


@pytest.mark.slow
def test_what_validates_is_no_assertion() -> None:
    """The same tests with assertions of the engine taken out; those of ``pytest.raises`` stay."""
    command = [sys.executable, "-O", "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", __file__, "-k", "record"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
