"""Files at fsspec URLs (``s3://bucket/folder``): copied whole, in and out, with patience for a storage that errs.

What lies at a URL is worked on as a copy below ``cache_root()``, one for each host: kernels map files, and a host that
has read a file keeps it. Copies are checked by size here, and by checksum where a commit record holds one
(``engine.storage.places``). Credentials are the storage library's business (its environment, files or roles): a URL
that holds any is refused, as URLs are recorded.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import fsspec

from engine.errors import ConfigError, DataError, DependencyMissing, EngineError, StorageFailed
from engine.storage.manifest import bytes_below, bytes_checksum, explain_os_errors

T = TypeVar("T")
PATIENCE_S = 120.0  # for which a storage's errors are waited out
CACHE_FOLDER, CACHE_LIMIT = "ASTERISM_CACHE", "ASTERISM_CACHE_BYTES"
CACHE_SHARE = 0.8  # of the disk's free bytes and those of the cache, if no limit is set
_USING, _WRITING = "in-use", "writing"  # endings of lock files
_GIVEN_UP: set[str] = set()
_OPTIONS = {"s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}}}}  # the patience is ours
_HOPELESS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)


def is_url(place: object) -> bool:
    """Tell whether a place is one of fsspec's URLs, other than a local ``file://``."""
    scheme, separator, _ = str(place).partition("://")
    return bool(separator) and scheme.isidentifier() and scheme not in ("file", "local")


def absolute(place: str | Path) -> str:
    """A URL as it is, without a slash at its end, or a path made absolute; ``file://`` URLs are paths.

    Raises ``ConfigError`` for a URL with credentials in it.
    """
    text = str(place)
    if not is_url(text):
        scheme, separator, rest = text.partition("://")
        return str(Path(rest if separator and scheme in ("file", "local") else text).absolute())
    parts = urlsplit(text)
    if "@" in parts.netloc or parts.query or parts.fragment:
        hidden = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise ConfigError(
            f"{hidden}: a URL with a user, password or query would be recorded in the run; give credentials by the "
            f"environment or the storage's own configuration"
        )
    return text.rstrip("/")


def cache_root() -> Path:
    """Where this host keeps its copies: ``$ASTERISM_CACHE``, else ``~/.cache/asterism``."""
    return Path(os.environ.get(CACHE_FOLDER) or Path.home() / ".cache" / "asterism").absolute()


class Storage:
    """Whole files below one URL; every call waits out passing errors for ``PATIENCE_S``, then raises ``StorageFailed``.

    What is not there, or not allowed, is not waited for, nor is a storage that was given up, until it answers again.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._host = urlsplit(url).scheme + urlsplit(url).netloc
        options = _OPTIONS.get(urlsplit(url).scheme, {})
        try:
            self._fs, self._path = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
            if hasattr(self._fs, "retries"):
                self._fs.retries = 1
        except ImportError as error:
            raise DependencyMissing(f"{url}: {error}; for s3:// install 'asterism[s3]'") from None
        except ValueError as error:
            raise ConfigError(f"{url}: {error}") from None

    def files(self) -> dict[str, Mapping[str, Any]]:
        """What is known of every file below, by its path relative to the URL; of the URL itself, by ``""``."""
        prefix = self._path.rstrip("/")

        def find() -> dict[str, Mapping[str, Any]]:
            try:
                found = self._fs.find(self._path, detail=True)
            except FileNotFoundError:
                return {}
            return {path[len(prefix) :].lstrip("/"): facts for path, facts in found.items()}

        return self._patiently(find, "list")

    def read(self, name: str) -> bytes | None:
        """The bytes of a small file; ``None`` if it is not there."""
        try:
            return self._patiently(lambda: self._fs.cat_file(self._at(name)), f"read {name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all on storages that put objects."""

        def pipe() -> None:
            try:
                self._fs.pipe_file(self._at(name), data)
            except FileNotFoundError:  # of a storage that has folders
                self._fs.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(self._at(name), data)

        self._patiently(pipe, f"write {name}")

    def put(self, local: Sequence[Path], names: Sequence[str]) -> None:
        """Copy files in."""
        if local:
            there = [self._at(name) for name in names]
            self._patiently(lambda: self._fs.put([str(path) for path in local], there), f"write {names[0]}")

    def get(self, names: Sequence[str], local: Sequence[Path]) -> None:
        """Copy files out. Raises ``DataError`` for one that is not there."""
        for path in {path.parent for path in local}:
            path.mkdir(parents=True, exist_ok=True)
        if not names:
            return
        there = [self._at(name) for name in names]
        try:
            self._patiently(lambda: self._fs.get(there, [str(path) for path in local]), f"read {names[0]}")
        except FileNotFoundError as error:
            raise DataError(f"{self.url}: a file is missing: {error}; resume the run that wrote it") from None

    def remove(self, names: Sequence[str]) -> None:
        """Delete files; one that is gone already is no error."""
        for name in names:
            try:
                self._patiently(lambda name=name: self._fs.rm_file(self._at(name)), f"delete {name}")  # type: ignore[misc]
            except FileNotFoundError:
                continue

    def _at(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}" if name else self._path

    def _patiently(self, act: Callable[[], T], what: str) -> T:
        until, wait = time.monotonic() + (0 if self._host in _GIVEN_UP else PATIENCE_S), 0.5
        while True:
            try:
                found = act()
                _GIVEN_UP.discard(self._host)
                return found
            except _HOPELESS as error:
                if isinstance(error, FileNotFoundError):
                    raise
                raise StorageFailed(f"{self.url}: could not {what}: {type(error).__name__}: {error}") from error
            except Exception as error:  # each storage library has errors of its own
                if time.monotonic() + wait > until:
                    _GIVEN_UP.add(self._host)
                    raise StorageFailed(
                        f"{self.url}: could not {what} for {PATIENCE_S:.0f} s: {type(error).__name__}: {error}; "
                        f"what was committed is kept, run again to resume"
                    ) from error
            time.sleep(wait)
            wait = min(2 * wait, 8.0)


def local_copy(place: str | Path, use: ExitStack | None = None) -> Path:
    """The path itself, or this host's copy of the file or folder at a URL, made now unless it is there unchanged.

    A copy has the original's names and times of change, and stays at least until ``use`` is closed. Raises
    ``DataError`` if there is nothing at the URL.
    """
    if not is_url(place):
        return Path(absolute(place))
    url = absolute(place)
    storage = Storage(url)
    found = storage.files()
    if not found:
        raise DataError(f"{url}: no such file or folder")
    known = sorted((name, _size(facts), _version(facts)) for name, facts in found.items())
    entry = cache_root() / "copies" / bytes_checksum(repr((url, known)).encode())
    path = entry / url.rpartition("/")[2]
    if use is not None:
        use.enter_context(in_use(entry))
    with exclusive(entry):
        if not (entry / "complete").exists():
            make_room(sum(size for _, size, _ in known), keep=entry)
            names = [name for name, _, _ in known]
            files = [path / name if name else path for name in names]
            with explain_os_errors(path):
                storage.get(names, files)
                for name, file, (_, size, _) in zip(names, files, known, strict=True):
                    changed = _changed(found[name])
                    if file.stat().st_size != size:
                        raise DataError(f"{url}/{name}: {file.stat().st_size:,} bytes came, expected {size:,}")
                    if changed is not None:
                        os.utime(file, (changed, changed))
                (entry / "complete").touch()
        os.utime(entry)
    return path


@contextmanager
def original_names(addresses: Mapping[str, str]) -> Iterator[None]:
    """Let errors about this host's copies name what they are copies of: paths by URLs."""
    try:
        yield
    except EngineError as error:
        text = str(error)
        for path, address in addresses.items():
            text = text.replace(path, address)
        if text == str(error):
            raise
        raise type(error)(text) from error


def _size(facts: Mapping[str, Any]) -> int:
    return int(facts.get("size") or 0)


def _version(facts: Mapping[str, Any]) -> str:
    named = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created")
    return str(next((facts[name] for name in named if facts.get(name)), ""))


def _changed(facts: Mapping[str, Any]) -> float | None:
    """When a file was last changed (Unix seconds), where the storage's listing tells."""
    named = ("LastModified", "last_modified", "updated", "mtime", "created")
    value = next((facts[name] for name in named if facts.get(name)), None)
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None


def exclusive(entry: Path) -> AbstractContextManager[None]:
    """Be the only process of this host that writes an entry of the cache, which need not exist yet."""
    return _lock(entry, _WRITING, fcntl.LOCK_EX)


def in_use(entry: Path) -> AbstractContextManager[None]:
    """Keep an entry of the cache, which need not exist yet, from being dropped to make room."""
    return _lock(entry, _USING, fcntl.LOCK_SH)


@contextmanager
def _lock(entry: Path, kind: str, how: int) -> Iterator[None]:
    path = entry.with_name(f"{entry.name}.{kind}")
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        stream = open(path, "a+")  # noqa: SIM115
    with stream:
        fcntl.flock(stream, how)
        yield


def make_room(num_bytes: int, *, keep: Path) -> None:
    """Drop what was used least recently of the cache until ``num_bytes`` more fit its limit.

    The limit is ``$ASTERISM_CACHE_BYTES``, else ``CACHE_SHARE`` of the disk. What a task uses is never dropped; if that
    alone is over the limit, the limit is exceeded.
    """
    root = cache_root()
    root.mkdir(parents=True, exist_ok=True)
    held = bytes_below(root)
    share = CACHE_SHARE * (shutil.disk_usage(root).free + held)
    room = int(os.environ.get(CACHE_LIMIT) or share) - num_bytes - held
    if room >= 0:
        return
    entries = [*(root / "copies").glob("*/"), *(root / "runs").glob("*/*-*/")]
    for entry in sorted(entries, key=lambda each: each.stat().st_mtime):
        if room >= 0:
            return
        if entry == keep:
            continue
        now = fcntl.LOCK_EX | fcntl.LOCK_NB
        with suppress(BlockingIOError), _lock(entry, _USING, now), _lock(entry, _WRITING, now):
            before = bytes_below(entry)
            drop_outputs(entry)
            room += before - bytes_below(entry)


KEPT = {"records", "stage.json", "consumed.json"}  # of a stage whose outputs were dropped


def drop_outputs(entry: Path) -> None:
    """Delete a copy, or the outputs of a run's stage, but for what says that they were made."""
    (entry / "complete").unlink(missing_ok=True)  # first: what it stood for is no longer whole
    for path in entry.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
