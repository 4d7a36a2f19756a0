"""Atomic writes, checksums and commit records: what proves that work is done.

A task's outputs are written under temporary names, flushed, checksummed and renamed; then its record is written the
same way. The record, with the stage's fingerprint and the checksums, is the only proof of completion: never a file's
existence.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import psutil
import xxhash

from engine import stopping
from engine.errors import DataError, DiskBudgetExceeded, ManifestMismatch

FORMAT_VERSION = 1
RUN_FILE = "run.json"


@dataclass(frozen=True)
class OutputFile:
    """One committed file: its name relative to the stage's folder, size, and xxh3-128 checksum."""

    path: str
    num_bytes: int
    checksum: str


@dataclass(frozen=True)
class Record:
    """The commit record of one task."""

    digest: str
    start: int
    stop: int
    outputs: tuple[OutputFile, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into an error that says what to do; everything committed stays."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskBudgetExceeded(
                f"the disk is full while writing {path}: everything committed so far is kept; "
                f"free some space and run the same command again to resume"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DiskBudgetExceeded(
                f"cannot write {path}: {error.strerror}; choose another --out or change its permissions"
            ) from error
        raise


def write_atomic(path: Path, write: Callable[[BinaryIO], Any]) -> OutputFile:
    """Write a file through a temporary name, fsync, rename; return its size and checksum (path = file name)."""
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with stopping.temporary(temporary_path(path)) as temporary:
            with open(temporary, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            checksum = file_checksum(temporary)
            num_bytes = temporary.stat().st_size
            os.replace(temporary, path)
    return OutputFile(path.name, num_bytes, checksum)


def write_json(path: Path, value: Any) -> OutputFile:
    """Write JSON atomically."""
    text = json.dumps(value, indent=1, sort_keys=True)
    return write_atomic(path, lambda stream: stream.write(text.encode()))


def read_json(path: Path) -> Any:
    """Read a JSON file the engine wrote; a damaged one is a ``DataError`` naming it."""
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); it was damaged after it was written") from None


def file_checksum(path: Path) -> str:
    """Checksum a file (xxh3-128), streaming."""
    hasher = xxhash.xxh3_128()
    with open(path, "rb") as stream:
        while piece := stream.read(4 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


def copy_atomic(source: Path, path: Path) -> OutputFile:
    """Copy a file, atomically, replacing what was there."""
    with open(source, "rb") as stream:
        return write_atomic(path, lambda copy: shutil.copyfileobj(stream, copy))


def temporary_path(path: Path) -> Path:
    """The name under which this process writes a file until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_temporaries(root: Path) -> None:
    """Delete what killed writers left half-written below ``root``; only for who holds the run's lock."""
    for path in root.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def remove_abandoned(temporaries: Iterable[Path]) -> None:
    """Delete those temporary files whose writer, by the process id in their name, no longer runs on this machine."""
    for path in temporaries:
        writer = path.name.split(".")[-2]
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            path.unlink(missing_ok=True)


def bytes_below(root: Path) -> int:
    """Bytes of the files below ``root``, which others may be writing and deleting meanwhile."""
    total = 0
    for parent, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def write_record(folder: Path, record: Record) -> None:
    """Commit a task: write its record, with a checksum of its own, the last act of the task."""
    tree = json.loads(json.dumps(asdict(record)))
    write_json(record_path(folder, record), {"record": tree, "checksum": _tree_checksum(tree)})


def record_path(folder: Path, record: Record) -> Path:
    """The file that a task's record is kept in."""
    return folder / "records" / f"{record.start:012d}-{record.stop:012d}.json"


def read_records(folder: Path, digest: str) -> list[Record]:
    """Read the stage's valid records in row order; records of another fingerprint, or damaged ones, are passed over."""
    found = (_read_record(path) for path in _record_paths(folder))
    return [record for record in found if record is not None and record.digest == digest]


def damaged_records(folder: Path) -> list[Path]:
    """The stage's record files that are not what was written."""
    return [path for path in _record_paths(folder) if _read_record(path) is None]


def _record_paths(folder: Path) -> list[Path]:
    return sorted((folder / "records").glob("[0-9]*.json"))


def _read_record(path: Path) -> Record | None:
    try:
        held = json.loads(path.read_bytes())
        tree = held["record"]
        if _tree_checksum(tree) != held["checksum"]:
            return None
        outputs = tuple(OutputFile(**item) for item in tree.pop("outputs"))
        return Record(outputs=outputs, **tree)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _tree_checksum(tree: Any) -> str:
    return bytes_checksum(json.dumps(tree, sort_keys=True).encode())


def bytes_checksum(data: bytes) -> str:
    """Checksum bytes as ``file_checksum`` does a file."""
    return xxhash.xxh3_128(data).hexdigest()


def find_damage(folder: Path, record: Record) -> str | None:
    """Check a record's files against their checksums; return what is wrong with the first bad one, or ``None``."""
    found = (output_damage(folder, output) for output in record.outputs)
    return next((damage for damage in found if damage is not None), None)


def output_damage(folder: Path, output: OutputFile) -> str | None:
    """Check a file against its checksum; return what is wrong, or ``None``."""
    path = folder / output.path
    if not path.is_file():
        return f"{path} is missing"
    if path.stat().st_size != output.num_bytes:
        return f"{path} has {path.stat().st_size:,} bytes, its record says {output.num_bytes:,}"
    if file_checksum(path) != output.checksum:
        return f"{path} does not match its checksum"
    return None


def discard_record(folder: Path, record: Record) -> None:
    """Withdraw a commit whose outputs are damaged, so that the task is done again."""
    record_path(folder, record).unlink(missing_ok=True)


def read_run(root: Path) -> dict[str, Any]:
    """Read a run's manifest. Raises ``DataError`` if there is none, ``ManifestMismatch`` for another format."""
    path = root / RUN_FILE
    if not path.is_file():
        raise DataError(f"{root} holds no run: {RUN_FILE} is missing")
    manifest: dict[str, Any] = read_json(path)
    if manifest.get("format_version") != FORMAT_VERSION:
        raise ManifestMismatch(
            f"{path}: format version {manifest.get('format_version')}, this version reads {FORMAT_VERSION}; "
            f"use the version that wrote it, or another --out"
        )
    return manifest


def write_run(root: Path, manifest: dict[str, Any]) -> None:
    """Write a run's manifest."""
    write_json(root / RUN_FILE, {"format_version": FORMAT_VERSION, **manifest})
