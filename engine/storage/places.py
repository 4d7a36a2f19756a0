"""Where a run is kept: a folder, or a URL with a mirror of it on every host that works on it.

Everything reads and writes a local folder. For a run at a URL that folder is this host's *mirror*: what is committed is
copied to the URL, outputs first and the record last, and what a task reads is copied from there first. The URL is the
truth: a mirror's records are replaced by its records before anything is planned. See ``engine.storage.remote``.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from engine.errors import DataError, RunBusy, StorageFailed
from engine.storage import manifest
from engine.storage.manifest import Record, explain_os_errors
from engine.storage.remote import (
    KEPT,
    Storage,
    absolute,
    cache_root,
    exclusive,
    is_url,
    make_room,
)

LOCK_FILE = "run.lock"
MIRROR_FILE = "mirror.json"
LEASE_S = 30.0  # that a run at a URL stays taken after its driver's last sign of life
_METADATA = {"run.json", "events.jsonl", "model.json", "stage.json", "consumed.json", "progress.json"}


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
            stream = open(self.root / LOCK_FILE, "a+")  # noqa: SIM115
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
            with open(self.root / LOCK_FILE, "a+") as stream:
                return not _try_lock(stream)
        except OSError:
            return True


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
        self._lease: _Lease | None = None
        self._listing: Mapping[str, Mapping[str, Any]] = {}
        name = url.rpartition("/")[2]
        super().__init__(cache_root() / "runs" / f"{name}-{manifest.bytes_checksum(url.encode())[:12]}")

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
        there = [name for name in self._listing if _is_metadata(name)]
        with exclusive(self.root):
            if manifest.RUN_FILE not in there:  # what is here is of a run that was deleted
                for path in [path for path in self.root.glob("*") if path.name != LOCK_FILE]:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            _PULLED.difference_update([folder for folder in _PULLED if folder.parent == self.root])
            here = (path.relative_to(self.root).as_posix() for path in self.root.rglob("*") if path.is_file())
            for name in [name for name in here if _is_metadata(name) and name not in there]:
                (self.root / name).unlink(missing_ok=True)
            self.storage.get(there, [self.root / name for name in there])
            manifest.write_json(self.root / MIRROR_FILE, {"url": self.url})

    def publish(self, *paths: Path) -> None:
        self.storage.put(paths, [path.relative_to(self.root).as_posix() for path in paths])

    def withdraw(self, *paths: Path) -> None:
        for path in paths:
            name = path.relative_to(self.root).as_posix()
            below = [f"{name}/{each}" if each else name for each in Storage(f"{self.url}/{name}").files()]
            self.storage.remove([each for each in below if not (self.root / each).exists()])

    def fetch(self, folder: Path) -> None:
        """Have the committed outputs of a stage's folder here, as their records' checksums say.

        Raises ``DataError`` for one that is damaged at the URL; the commit is withdrawn, so that resuming mends it.
        """
        mark = folder / "complete"
        with exclusive(folder):
            self.fetch_records(folder)
            records = manifest.read_records(folder, manifest.read_stage(folder)["digest"])
            outputs = {output.path: (output, record) for record in records for output in record.outputs}
            digest = manifest.bytes_checksum(repr(sorted(o.checksum + p for p, (o, _) in outputs.items())).encode())
            if mark.exists() and mark.read_text() == digest:
                os.utime(folder)
                return
            missing = [path for path, (output, _) in outputs.items() if manifest.output_damage(folder, output)]
            make_room(sum(outputs[path][0].num_bytes for path in missing), keep=folder)
            with explain_os_errors(folder):
                names = [f"{folder.name}/{path}" for path in missing]
                self.storage.get(names, [self.root / name for name in names])
            for path in missing:
                output, record = outputs[path]
                damage = manifest.output_damage(folder, output)
                if damage:
                    manifest.discard_record(folder, record)
                    self.withdraw(manifest.record_path(folder, record))
                    raise DataError(f"{self.url}/{folder.name}: {damage}; resume the run: it computes these rows again")
            mark.write_text(digest)

    def recall(self, path: Path) -> None:
        data = self.storage.read(path.relative_to(self.root).as_posix())
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
            size = self._listing[name].get("size")
            if size != output.num_bytes:
                return f"{self.url}/{name} has {size} bytes, its record says {output.num_bytes}"
        return None

    def fetch_records(self, folder: Path, *, again: bool = False) -> None:
        if not again and folder in _PULLED and (folder / "stage.json").exists():
            return
        storage = Storage(f"{self.url}/{folder.name}")
        there = [name for name in storage.files() if name in KEPT or name.startswith("records/")]
        storage.get(there, [folder / name for name in there])
        _PULLED.add(folder)

    @contextmanager
    def locked(self, *, wait: bool = True) -> Iterator[None]:
        """Hold the run at its URL: a lease that a thread renews, and that lapses when its process or host dies.

        A lease that someone holds is waited for, for as long as a dead one would take to lapse. Storages have no lock:
        of two processes that take a lapsed lease at the same moment the later one wins; the other stops at its next
        commit. Until then both do the same work, whose commits are the same bytes.
        """
        with super().locked(wait=wait):
            self._lease = _Lease(self.storage)
            self._lease.take()
            try:
                yield
            finally:
                self._lease.give_back()
                self._lease = None

    def is_running(self) -> bool:
        return _Lease(self.storage).is_held()


_PULLED: set[Path] = set()  # stages whose records this process has read from the URL
_HELD: set[str] = set()  # tokens of the leases of this process


class _Lease:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._token = uuid.uuid4().hex
        self._beats = 0
        self.taken_by: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def take(self) -> None:
        held = self._holder()
        if held is not None and not _is_dead(held):
            until = time.monotonic() + LEASE_S
            while time.monotonic() < until and held is not None:
                time.sleep(min(1.0, LEASE_S / 10))
                now = self._holder()
                if now is not None and now != held:
                    raise RunBusy(
                        f"another process is working on {self._storage.url} ({_word(now)}): wait for it, or choose "
                        f"another --out"
                    )
                held = now
        _HELD.add(self._token)
        self._beat()
        self._thread.start()

    def give_back(self) -> None:
        self._stop.set()
        _HELD.discard(self._token)
        self._thread.join(1.0)  # it may be waiting for the storage
        with suppress(StorageFailed):  # then it lapses
            held = self._holder()
            if held is not None and held["token"] == self._token:
                self._storage.remove([LOCK_FILE])

    def is_held(self) -> bool:
        """Tell whether someone holds it: whether it changes within the time of two beats."""
        held = self._holder()
        if held is None or _is_dead(held):
            return False
        until = time.monotonic() + LEASE_S / 2
        while time.monotonic() < until:
            time.sleep(min(1.0, LEASE_S / 10))
            if self._holder() != held:
                return True
        return False

    def _renew(self) -> None:
        while not self._stop.wait(LEASE_S / 6):
            with suppress(StorageFailed):  # tasks notice if it fails for good
                held = self._holder()
                if held is not None and held["token"] != self._token:
                    self.taken_by = _word(held)
                    return
                self._beat()

    def _beat(self) -> None:
        self._beats += 1
        held = {"token": self._token, "beats": self._beats, "host": socket.gethostname(), "pid": os.getpid()}
        self._storage.write(LOCK_FILE, json.dumps(held).encode())

    def _holder(self) -> dict[str, Any] | None:
        data = self._storage.read(LOCK_FILE)
        try:
            return None if data is None else dict(json.loads(data))
        except ValueError:
            return None


def _word(held: dict[str, Any]) -> str:
    return f"process {held['pid']} on {held['host']}"


def _is_dead(held: dict[str, Any]) -> bool:
    """Tell whether a lease's holder is known to have ended, which only its own host knows."""
    if held["host"] != socket.gethostname():
        return False
    return held["token"] not in _HELD if held["pid"] == os.getpid() else not Path(f"/proc/{held['pid']}").exists()


def _is_metadata(name: str) -> bool:
    parts = name.split("/")
    return parts[-1] in _METADATA or (len(parts) == 3 and parts[1] == "records")


def open_place(root: str | Path) -> Place:
    """The place of a run's folder, or URL; a mirror's folder is its URL."""
    place = absolute(root)
    if is_url(place):
        return Mirror(place)
    mark = Path(place) / MIRROR_FILE
    return Mirror(str(manifest.read_json(mark)["url"])) if mark.is_file() else Place(Path(place))


def open_stage(place: str) -> tuple[Place, Path]:
    """The run that a stage's folder, or URL, belongs to, and the folder here."""
    if not is_url(place):
        return Place(Path(place).parent), Path(place)
    root, _, folder = place.rpartition("/")
    mirror = Mirror(root)
    return mirror, mirror.root / folder
