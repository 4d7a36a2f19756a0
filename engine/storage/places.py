"""The place of a run: a folder, or a URL with a mirror on every host that works on the run.

All code reads and writes a local folder. For a run at a URL this folder is the host's *mirror*. Committed files are
copied to the URL, outputs first and the record last; inputs of a task are copied from the URL first. The URL is the
truth, so its records replace those of a mirror before anything is planned. See ``engine.storage.cache``.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from engine.errors import DataError, RunBusy
from engine.storage import manifest
from engine.storage.cache import cache_path, cache_root, exclusive, make_room
from engine.storage.lease import Lease
from engine.storage.manifest import Record, explain_os_errors
from engine.storage.paths import below, check_name, os_reason
from engine.storage.remote import Listed, Storage, absolute, is_url

LOCK_FILE = "run.lock"
GIVEN_FOLDER = "given"  # data that a Python caller passed, in the run's folder
MIRROR_FILE = "mirror.json"
RUNS = "runs"  # folder of the mirrors in this host's cache
# Files that are mirrored under the names that a storage lists; no other listed name is used on this host.
_OF_A_STAGE = re.compile(r"stage\.json|consumed\.json|records/[0-9]+-[0-9]+\.json")
_METADATA = re.compile(rf"run\.json|events\.jsonl|[a-z_0-9]+-[0-9a-f]{{12}}/(progress\.json|{_OF_A_STAGE.pattern})")


_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)


class Place:
    """A run in a local folder, or on a file system that all hosts share, so that nothing is copied."""

    glance_s = 0.5  # longer than a reader holds the run's lock

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def entries(self) -> set[str]:
        """Return the names of the files and folders in the run's folder."""
        return {path.name for path in self.root.iterdir()} if self.root.exists() else set()

    def address(self, folder: str) -> str:
        """Return the name of a stage's folder for a worker on any host."""
        return str(self.root / folder)

    def refresh(self) -> None:
        """Learn what is committed."""

    def publish(self, *paths: Path) -> None:
        """Copy files that were written below the root to where other hosts see them, in this order."""

    def withdraw(self, *paths: Path) -> None:
        """Delete what ``publish`` copied of files and folders that were deleted below the root."""

    def fetch(self, folder: Path) -> None:
        """Copy the committed outputs of a stage's folder to this host; they stay while the folder is in use."""

    def fetch_records(self, folder: Path, *, again: bool = False) -> None:
        """Copy ``stage.json`` and the records of a stage's folder to this host.

        A process asks a URL once, unless ``again`` is true.
        """

    def recall(self, path: Path) -> None:
        """Copy a file that was published without a commit to this host, if it exists."""

    def note(self, folder: Path, record: Record) -> None:
        """Take note of a commit by a worker, which may be on another host."""

    def find_damage(self, folder: Path, record: Record) -> str | None:
        """Describe the damage of a record's outputs, or return ``None``. At a URL only sizes are compared."""
        return manifest.find_damage(folder, record)

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Hold the run's lock, so that two processes never work on one run. A killed process releases it."""
        with explain_os_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True)
        with explain_os_errors(self.root / LOCK_FILE):
            stream = _open_lock(self.root / LOCK_FILE)
        until = time.monotonic() + (self.glance_s if wait else 0)
        with stream:
            while not _try_lock(stream):
                if time.monotonic() >= until:
                    raise RunBusy(f"another process is working on {self}: wait for it, or choose another --out")
                time.sleep(0.05)
            yield

    def is_running(self) -> bool:
        """Tell whether a process holds the run's lock (as far as this machine's file system shows it)."""
        try:
            with _open_lock(self.root / LOCK_FILE) as stream:
                return not _try_lock(stream)
        except (OSError, DataError):
            return True


def _open_lock(path: Path) -> IO[str]:
    """Open or make a lock file; do not follow a link, because its target would be made or locked."""
    if path.is_symlink() or (os.path.lexists(path) and not path.is_file()):
        raise DataError(f"{path}: is no regular file, as a lock is; delete it")
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND, 0o666), "a+")


def _try_lock(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise DataError(
            f"{stream.name}: this file system has no file locks ({os_reason(error)}), which keep two processes from "
            f"writing one run; choose a folder on another file system, such as a local disk"
        ) from None
    return True


class Mirror(Place):
    """This host's mirror of a run at a URL."""

    glance_s = 60.0  # a reader may be fetching records

    def __init__(self, url: str) -> None:
        self.url = url
        self.storage = Storage(url)
        self._lease: Lease | None = None
        self._listing: Mapping[str, Listed] = {}
        cache_root()  # made or refused before anything is read there
        super().__init__(mirror_path(url))

    def __str__(self) -> str:
        return self.url

    def entries(self) -> set[str]:
        return {name.partition("/")[0] for name in self._listing}

    def address(self, folder: str) -> str:
        return f"{self.url}/{folder}"

    def refresh(self) -> None:
        """Replace this host's records by those at the URL, unless a process of this host works on the run."""
        self._listing = self.storage.files()
        if self._lease is not None:
            self._refresh()
            return
        with suppress(DataError), super().locked(wait=False):
            self._refresh()

    def _refresh(self) -> None:
        there = {name: listed.size for name, listed in self._listing.items() if _METADATA.fullmatch(name)}
        with exclusive(self.root):
            if manifest.RUN_FILE not in there:  # the mirror is of a run that was deleted
                for path in [path for path in self.root.glob("*") if path.name != LOCK_FILE]:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            _PULLED.difference_update([folder for folder in _PULLED if folder.parent == self.root])
            here = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
            for name in [name for name in here if _METADATA.fullmatch(name) and name not in there]:
                (self.root / name).unlink(missing_ok=True)
            self.storage.get(there, self.root)
            manifest.write_json(self.root / MIRROR_FILE, {"url": self.url})

    def publish(self, *paths: Path) -> None:
        self.storage.put(paths, [self._name(path) for path in paths])

    def withdraw(self, *paths: Path) -> None:
        for path in paths:
            name = self._name(path)
            there = [f"{name}/{each}" if each else name for each in Storage(f"{self.url}/{name}").files()]
            self.storage.remove([each for each in there if not below(self.root, each).exists()])

    def _name(self, path: Path) -> str:
        """Return the name of a file or folder of the run at the URL. Raises ``DataError`` for a path outside."""
        outside = not path.is_relative_to(self.root)
        return check_name(path.as_posix() if outside else path.relative_to(self.root).as_posix(), self)

    def fetch(self, folder: Path) -> None:
        """Copy the committed outputs of a stage's folder to this host and compare their checksums.

        Raises ``DataError`` for an output that is damaged at the URL, and deletes its record, so that resuming makes
        it again.
        """
        name, mark = self._name(folder), folder / "complete"
        with exclusive(folder):
            self.fetch_records(folder)
            records = manifest.read_records(folder, manifest.read_stage(folder)["digest"])
            outputs = {output.path: (output, record) for record in records for output in record.outputs}
            digest = manifest.bytes_checksum(repr(sorted(o.checksum + p for p, (o, _) in outputs.items())).encode())
            if mark.exists() and mark.read_text() == digest:
                os.utime(folder)
                return
            for path in outputs:
                check_name(path, f"{self.url}/{name}")
            missing = [path for path, (output, _) in outputs.items() if manifest.output_damage(folder, output)]
            make_room(sum(outputs[path][0].num_bytes for path in missing), keep=folder)
            again = "resume the run: it computes these rows again"
            try:
                with explain_os_errors(folder):
                    self.storage.get({f"{name}/{path}": outputs[path][0].num_bytes for path in missing}, self.root)
            except DataError as error:
                raise DataError(f"{error}; {again}") from None
            for path in missing:
                output, record = outputs[path]
                damage = manifest.output_damage(folder, output)
                if damage:
                    manifest.discard_record(folder, record)
                    self.withdraw(manifest.record_path(folder, record))
                    raise DataError(f"{self.url}/{name}: {damage}; {again}")
            mark.write_text(digest)

    def recall(self, path: Path) -> None:
        data = self.storage.read(self._name(path))
        if data is not None:
            manifest.write_atomic(path, lambda stream: stream.write(data))

    def note(self, folder: Path, record: Record) -> None:
        if self._lease is not None and self._lease.taken_by is not None:
            raise DataError(f"{self._lease.taken_by} has taken over {self}: this process stops; wait for that one")
        if not manifest.record_path(folder, record).exists():
            manifest.write_record(folder, record)

    def find_damage(self, folder: Path, record: Record) -> str | None:
        for output in record.outputs:
            name = f"{folder.name}/{output.path}"
            if name not in self._listing:
                return f"{self.url}/{name} is missing"
            size = self._listing[name].size
            if size != output.num_bytes:
                return f"{self.url}/{name} has {size} bytes, its record says {output.num_bytes}"
        return None

    def fetch_records(self, folder: Path, *, again: bool = False) -> None:
        if not again and folder in _PULLED and (folder / "stage.json").exists():
            return
        storage = Storage(f"{self.url}/{self._name(folder)}")
        there = {name: listed.size for name, listed in storage.files().items() if _OF_A_STAGE.fullmatch(name)}
        storage.get(there, folder)
        _PULLED.add(folder)

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Hold the run's lease at its URL, which a thread renews and which lapses when the process or host dies.

        See ``engine.storage.lease``. If two processes take a lapsed lease at the same moment, both may go on, and the
        earlier one stops at its next commit. Until then both do the same work, and their commits are the same bytes.
        """
        with super().locked(wait=wait):
            lease = Lease(self.storage, LOCK_FILE)
            lease.take()
            self._lease = lease
            try:
                yield
            finally:
                lease.give_back()
                self._lease = None

    def is_running(self) -> bool:
        return Lease(self.storage, LOCK_FILE).is_held()


_PULLED: set[Path] = set()  # stages whose records this process has read from the URL


def open_place(root: str | Path) -> Place:
    """Return the place of a run's folder or URL. A mirror's folder in this host's cache stands for its URL."""
    place = absolute(root)
    if is_url(place):
        return Mirror(place)
    url = _mirrored(Path(place))
    return Place(Path(place)) if url is None else Mirror(url)


def _mirrored(folder: Path) -> str | None:
    """Return the URL that a folder of this host's cache mirrors, or ``None``.

    A folder from someone else could hold such a file and make the engine write to its URL. So the file counts only in
    the folder where the mirror of that URL is kept.
    """
    if folder.parent != cache_path() / RUNS or not (folder / MIRROR_FILE).is_file():
        return None
    url = manifest.read_json(folder / MIRROR_FILE).get("url")
    return url if isinstance(url, str) and is_url(url) and absolute(url) == url and folder == mirror_path(url) else None


def mirror_path(url: str) -> Path:
    """Return the folder in which this host mirrors a run at a URL."""
    return cache_path() / RUNS / f"{url.rpartition('/')[2]}-{manifest.bytes_checksum(url.encode())[:12]}"


def open_stage(place: str) -> tuple[Place, Path]:
    """Return the run of a stage's folder or URL, and the folder on this host."""
    if not is_url(place):
        return Place(Path(place).parent), Path(place)
    root, _, folder = absolute(place).rpartition("/")
    mirror = Mirror(root)
    return mirror, below(mirror.root, folder)
