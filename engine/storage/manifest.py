"""Atomic writes, checksums and commit records, which prove that work is done.

A task's outputs are written under temporary names, flushed, checksummed and renamed; then its record is written the
same way. The record, with the stage's fingerprint and the checksums, is the only proof of completion. The existence of
an output proves nothing.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import psutil
import xxhash
from pydantic import Field

from engine.errors import DataError, DiskBudgetExceeded
from engine.process import stopping
from engine.storage.owned import RESUME, RUN, STAGE, Count, Digest, FileKind, Rows, Text, read_owned, seal
from engine.storage.paths import below, explain_reading, os_reason

RUN_FILE = "run.json"
STAGE_FILE = "stage.json"
_PLAIN = FileKind(dict[str, Any], RESUME, sealed=False)


@dataclass(frozen=True)
class OutputFile:
    """One committed file: its name relative to the stage's folder, size, and xxh3-128 checksum."""

    path: Text
    num_bytes: Count
    checksum: Digest


@dataclass(frozen=True)
class Record:
    """The commit record of one task."""

    digest: Text
    start: Rows
    stop: Rows
    outputs: tuple[OutputFile, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: Annotated[float, Field(ge=0)] = 0.0


RECORD = FileKind(Record, RESUME)


@contextmanager
def explain_os_errors(path: Path) -> Iterator[None]:
    """Turn the error of a full or read-only disk, or of a folder in the way, into one that says what to do."""
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
        if error.errno in (errno.EISDIR, errno.ENOTDIR):
            raise DataError(f"cannot write {path}: {error.strerror}; move away what is there") from error
        raise


def write_atomic(path: Path, write: Callable[[BinaryIO], Any]) -> OutputFile:
    """Write a file under a temporary name, flush and rename it; return its size and checksum (path = file name).

    The folder is not flushed, so after a power failure the name may hold the old file, but never half a file. Checksums
    find an output that a record then misses, and it is made again.
    """
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with stopping.temporary(temporary_path(path)) as temporary:
            with open_new(temporary) as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            checksum = file_checksum(temporary)
            num_bytes = temporary.stat().st_size
            os.replace(temporary, path)
    return OutputFile(path.name, num_bytes, checksum)


def open_new(path: Path) -> BinaryIO:
    """Open a temporary file for writing; replace what a killed process left, and never follow a link."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    path.unlink(missing_ok=True)
    return os.fdopen(os.open(path, flags, 0o666), "wb")


def write_json(path: Path, value: Any) -> OutputFile:
    """Write JSON atomically."""
    text = json.dumps(value, indent=1, sort_keys=True)
    return write_atomic(path, lambda stream: stream.write(text.encode()))


def write_owned(path: Path, kind: FileKind, tree: Any) -> OutputFile:
    """Write a file that ``read_owned`` reads, atomically."""
    return write_json(path, seal(tree, kind))


def read_json(path: Path) -> dict[str, Any]:
    """Read a file of plain data without a checksum of its own."""
    return read_owned(path, _PLAIN)


def read_stage(folder: Path) -> dict[str, Any]:
    """Read ``stage.json`` of the stage whose outputs lie in a folder. Raises ``DataError`` if it is damaged."""
    return read_owned(folder / STAGE_FILE, STAGE)


def file_checksum(path: Path) -> str:
    """Compute the checksum of a file (xxh3-128), in constant memory."""
    hasher = xxhash.xxh3_128()
    with open(path, "rb") as stream:
        while piece := stream.read(4 << 20):
            hasher.update(piece)
    return hasher.hexdigest()


def copy_atomic(source: Path, path: Path) -> OutputFile:
    """Copy a file atomically; replace the file that was there."""
    with open(source, "rb") as stream:
        return write_atomic(path, lambda copy: shutil.copyfileobj(stream, copy))


def temporary_path(path: Path) -> Path:
    """Return the name under which this process writes a file until it is whole."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def sweep(root: Path) -> None:
    """Delete half-written files of killed writers below ``root``. The caller holds the run's lock.

    Raises ``DataError`` for a symbolic link, because what a run writes through one would lie outside its folder.
    """
    for entry in os.scandir(root):
        if entry.is_symlink():
            raise DataError(
                f"{entry.path}: is a link to {os.readlink(entry.path)}; a run's folder holds files and folders of its "
                f"own: delete the link, or put what it leads to in its place"
            )
        if entry.is_dir():
            sweep(Path(entry.path))
        elif entry.name.startswith(".") and entry.name.endswith(".tmp"):
            Path(entry.path).unlink(missing_ok=True)


def remove_abandoned(temporaries: Iterable[Path]) -> None:
    """Delete the temporary files whose writer no longer runs on this machine; the name holds its process id."""
    for path in temporaries:
        writer = path.name.split(".")[-2]
        if writer.isdecimal() and not psutil.pid_exists(int(writer)):
            path.unlink(missing_ok=True)


def bytes_below(root: Path) -> int:
    """Return the bytes of the files below ``root``; other processes may write and delete there meanwhile."""
    total = 0
    for parent, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def write_record(folder: Path, record: Record) -> None:
    """Commit a task by writing its record, with a checksum, as the last act of the task."""
    write_owned(record_path(folder, record), RECORD, asdict(record))


def record_path(folder: Path, record: Record) -> Path:
    """Return the path of a task's record."""
    return folder / "records" / f"{record.start:012d}-{record.stop:012d}.json"


def read_records(folder: Path, digest: str) -> list[Record]:
    """Read a stage's valid records in row order; skip records that are damaged or of another fingerprint."""
    found = (_read_record(folder, path) for path in _record_paths(folder))
    return [record for record in found if record is not None and record.digest == digest]


def damaged_records(folder: Path) -> list[Path]:
    """Return the damaged record files of a stage."""
    return [path for path in _record_paths(folder) if _read_record(folder, path) is None]


def _record_paths(folder: Path) -> list[Path]:
    return sorted((folder / "records").glob("[0-9]*.json"))


def _read_record(folder: Path, path: Path) -> Record | None:
    """Read a record; ``None`` if it is damaged, has other rows than its name, or files outside the stage's folder."""
    try:
        tree = read_owned(path, RECORD)
        outputs = tuple(OutputFile(**item) for item in tree.pop("outputs"))
        for output in outputs:
            below(folder, output.path)
    except DataError:
        return None
    record = Record(outputs=outputs, **tree)
    return record if record.start < record.stop and record_path(folder, record) == path else None


def bytes_checksum(data: bytes) -> str:
    """Compute the checksum of bytes, as ``file_checksum`` does for a file."""
    return xxhash.xxh3_128(data).hexdigest()


def find_damage(folder: Path, record: Record) -> str | None:
    """Compare a record's files with their checksums; describe the first damage, or return ``None``."""
    found = (output_damage(folder, output) for output in record.outputs)
    return next((damage for damage in found if damage is not None), None)


def output_damage(folder: Path, output: OutputFile) -> str | None:
    """Compare a file with its checksum; describe the damage, or return ``None``."""
    path = below(folder, output.path)
    try:
        found = os.lstat(path)
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        return f"{path} is missing" if missing else f"{path} cannot be read: {os_reason(error)}"
    if not stat.S_ISREG(found.st_mode):
        return f"{path} is no regular file"
    if found.st_size != output.num_bytes:
        return f"{path} has {found.st_size:,} bytes, its record says {output.num_bytes:,}"
    with explain_reading(path):
        return None if file_checksum(path) == output.checksum else f"{path} does not match its checksum"


def discard_record(folder: Path, record: Record) -> None:
    """Delete the record of damaged outputs, so that the task runs again."""
    remove_place(record_path(folder, record))


def remove_place(path: Path) -> None:
    """Delete whatever lies at the path of a file of the run: a file, a link, or a whole folder."""
    with explain_os_errors(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def read_run(root: Path) -> dict[str, Any]:
    """Read a run's manifest. Raises ``DataError`` if there is none, or a damaged one, ``ManifestMismatch`` for another
    format."""
    path = root / RUN_FILE
    if not os.path.lexists(path):
        raise DataError(f"{root} holds no run: {RUN_FILE} is missing")
    return read_owned(path, RUN)


def write_run(root: Path, manifest: dict[str, Any]) -> None:
    """Write a run's manifest."""
    write_owned(root / RUN_FILE, RUN, manifest)
