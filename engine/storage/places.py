"""Where a run is kept: a folder, or a URL with a mirror of it on every host that works on it.

Everything reads and writes a local folder. For a run at a URL that folder is this host's *mirror*: what is committed is
copied to the URL, outputs first and the record last, and what a task reads is copied from there first. The URL is the
truth: a mirror's records are replaced by its records before anything is planned. See ``engine.storage.remote``.
"""

from __future__ import annotations

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
from engine.storage.lease import Lease
from engine.storage.manifest import Record, explain_os_errors
from engine.storage.paths import below, check_name
from engine.storage.remote import Listed, Storage, absolute, cache_path, cache_root, exclusive, is_url, make_room

LOCK_FILE = "run.lock"
MIRROR_FILE = "mirror.json"
RUNS = "runs"  # folder of the mirrors in this host's cache
# What is mirrored as it is listed; nothing else that a storage lists is given a name here.
_OF_A_STAGE = re.compile(r"stage\.json|consumed\.json|records/[0-9]+-[0-9]+\.json")
_METADATA = re.compile(
    rf"run\.json|events\.jsonl|model\.json|[a-z_0-9]+-[0-9a-f]{{12}}/(progress\.json|{_OF_A_STAGE.pattern})"
)


class Place:
    """A run in a local folder, or on a file system that all hosts share: nothing needs copying."""

    glance_s = 0.5  # longer than who only looks holds the run's lock

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def entries(self) -> set[str]:
        """Names of the files and folders that the run's folder holds."""
        return {path.name for path in self.root.iterdir()} if self.root.exists() else set()

    def address(self, folder: str) -> str:
        """What names a stage's folder to a worker on any host."""
        return str(self.root / folder)

    def refresh(self) -> None:
        """Learn what is committed."""

    def publish(self, *paths: Path) -> None:
        """Make files that were written below the root known to other hosts; in this order."""

    def withdraw(self, *paths: Path) -> None:
        """Take back files, or all that is in folders, which were deleted below the root."""

    def fetch(self, folder: Path) -> None:
        """Have the committed outputs of a stage's folder here; they stay while it is in use."""

    def fetch_records(self, folder: Path, *, again: bool = False) -> None:
        """Have what says which stage a folder is of, and what of it is committed, here.

        At a URL this process asks once, but for ``again``.
        """

    def recall(self, path: Path) -> None:
        """Have one file here that was published without a commit, if there is any."""

    def note(self, folder: Path, record: Record) -> None:
        """Learn that a worker, maybe on another host, has committed."""

    def find_damage(self, folder: Path, record: Record) -> str | None:
        """Say what is wrong with a record's outputs, or ``None``; at a URL sizes are compared here, bytes by fetch."""
        return manifest.find_damage(folder, record)

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Hold the run's lock, so that two processes never work on one run; a killed process frees it."""
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
    """Open a lock file, new or not; a link is not followed, because what it leads to would be made, or held."""
    if path.is_symlink() or (os.path.lexists(path) and not path.is_file()):
        raise DataError(f"{path}: is no regular file, as a lock is; delete it")
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_APPEND, 0o666), "a+")


def _try_lock(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Mirror(Place):
    """This host's mirror of a run at a URL."""

    glance_s = 60.0  # it may be fetching records

    def __init__(self, url: str) -> None:
        self.url = url
        self.storage = Storage(url)
        self._lease: Lease | None = None
        self._listing: Mapping[str, Listed] = {}
        cache_root()  # made, or refused, before anything is looked for in it
        super().__init__(mirror_path(url))

    def __str__(self) -> str:
        return self.url

    def entries(self) -> set[str]:
        return {name.partition("/")[0] for name in self._listing}

    def address(self, folder: str) -> str:
        return f"{self.url}/{folder}"

    def refresh(self) -> None:
        """Make this host's records those at the URL, unless a process here works on the run: then they are."""
        self._listing = self.storage.files()
        if self._lease is not None:
            self._refresh()
            return
        with suppress(DataError), super().locked(wait=False):
            self._refresh()

    def _refresh(self) -> None:
        there = {name: listed.size for name, listed in self._listing.items() if _METADATA.fullmatch(name)}
        with exclusive(self.root):
            if manifest.RUN_FILE not in there:  # what is here is of a run that was deleted
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
        """What a file or folder of the run is called at the URL; ``DataError`` for a path outside of the run."""
        outside = not path.is_relative_to(self.root)
        return check_name(path.as_posix() if outside else path.relative_to(self.root).as_posix(), self)

    def fetch(self, folder: Path) -> None:
        """Have the committed outputs of a stage's folder here, as their records' checksums say.

        Raises ``DataError`` for one that is damaged at the URL; the commit is withdrawn, so that resuming mends it.
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
        """Hold the run at its URL: a lease that a thread renews, and that lapses when its process or host dies.

        See ``engine.storage.lease``. Of two processes that take a lapsed lease at the same moment both may go on: the
        earlier one then stops at its next commit. Until then both do the same work, whose commits are the same bytes.
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
    """The place of a run's folder, or URL; the folder of a mirror in this host's cache is its URL."""
    place = absolute(root)
    if is_url(place):
        return Mirror(place)
    url = _mirrored(Path(place))
    return Place(Path(place)) if url is None else Mirror(url)


def _mirrored(folder: Path) -> str | None:
    """The URL that a folder of this host's cache mirrors.

    Anyone could put a file of this name into a folder that they hand on: it counts only where a mirror of its URL is
    kept, as what it names is written to.
    """
    if folder.parent != cache_path() / RUNS or not (folder / MIRROR_FILE).is_file():
        return None
    url = manifest.read_json(folder / MIRROR_FILE).get("url")
    return url if isinstance(url, str) and is_url(url) and absolute(url) == url and folder == mirror_path(url) else None


def mirror_path(url: str) -> Path:
    """Where this host mirrors a run at a URL."""
    return cache_path() / RUNS / f"{url.rpartition('/')[2]}-{manifest.bytes_checksum(url.encode())[:12]}"


def open_stage(place: str) -> tuple[Place, Path]:
    """The run that a stage's folder, or URL, belongs to, and the folder here."""
    if not is_url(place):
        return Place(Path(place).parent), Path(place)
    root, _, folder = absolute(place).rpartition("/")
    mirror = Mirror(root)
    return mirror, below(mirror.root, folder)
