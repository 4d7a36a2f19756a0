"""Files at fsspec URLs (``s3://bucket/folder``): copied whole, with retries while a storage fails.

Each host works on a copy below ``cache_root()``, because kernels map files, and keeps the copy. This module compares
the size of a copy; ``engine.storage.places`` compares its checksum if a commit record holds one. Credentials come from
the storage library (its environment, files or roles). A URL with credentials is refused, because URLs are recorded.
"""

from __future__ import annotations

import errno
import fcntl
import inspect
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec
from fsspec.callbacks import Callback

from engine.errors import ConfigError, DataError, DependencyMissing, DiskBudgetExceeded, EngineError, StorageFailed
from engine.process.masking import MASK, holds_secret
from engine.storage.manifest import bytes_below, bytes_checksum, explain_os_errors
from engine.storage.owned import MAX_JSON_BYTES
from engine.storage.paths import below, check_name, check_out_folder, os_reason

T = TypeVar("T")
PATIENCE_S = 120.0  # that errors of a storage are retried
CACHE_FOLDER, CACHE_LIMIT = "ASTERISM_CACHE", "ASTERISM_CACHE_BYTES"
CACHE_SHARE = 0.8  # default limit, of the disk's free bytes plus those of the cache
_USING, _WRITING = "in-use", "writing"  # endings of lock files
_GIVEN_UP: set[str] = set()
_OPTIONS = {"s3": {"config_kwargs": {"retries": {"total_max_attempts": 1}}}}  # because Storage retries
_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*)://", re.IGNORECASE)
_LOCAL = ("file", "local")
_OF_THIS_HOST = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG)
_HOPELESS = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError)


@dataclass(frozen=True)
class Listed:
    """An entry of a storage's listing; ``version`` differs after the file was changed."""

    size: int
    version: str
    changed: float | None  # Unix seconds, if the storage tells


def is_url(place: object) -> bool:
    """Tell whether a place is an fsspec URL other than a local ``file://``."""
    found = _SCHEME.match(str(place))
    return found is not None and found[1].lower() not in _LOCAL


def absolute(place: str | Path) -> str:
    """Return a URL without a slash at its end, or an absolute path; a ``file://`` URL is a path.

    Raises ``ConfigError`` for an empty name, for a URL with credentials, a query or a fragment (the message repeats
    none of it), and for a URL that names no file or folder.
    """
    text = str(place)
    if not text.strip():
        raise ConfigError("the name of a place is empty; name a file, a folder or a URL")
    scheme, separator, rest = text.partition("://")
    if separator and holds_secret(text):
        raise ConfigError(
            f"{scheme if scheme.isidentifier() else MASK}://{MASK}: a URL with a user, password, query or fragment "
            f"would be recorded in the run; give credentials by the environment or the storage's own configuration"
        )
    if not is_url(text):
        return str(Path(rest if separator and scheme.lower() in _LOCAL else text).absolute())
    url = text.rstrip("/")
    if not is_url(url) or {".", ".."} & set(url.split("/")) or not url.isprintable():
        raise ConfigError(f"{text!r}: is no URL of a file or folder; expected one such as s3://bucket/folder")
    return url


def cache_path() -> Path:
    """Return the folder for this host's copies: ``$ASTERISM_CACHE``, else ``~/.cache/asterism``."""
    try:
        return Path(os.environ.get(CACHE_FOLDER) or Path.home() / ".cache" / "asterism").absolute()
    except RuntimeError:
        raise ConfigError(f"this user has no home folder; set {CACHE_FOLDER} to a folder for copies") from None


def cache_root() -> Path:
    """Return the folder for this host's copies; make it, for this user alone, if it does not exist.

    Raises ``ConfigError`` for a folder that another user could have filled.
    """
    path = check_out_folder(cache_path(), option=CACHE_FOLDER)
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.stat()
    if not {found.st_uid, path.lstat().st_uid} <= {os.geteuid()}:
        raise ConfigError(
            f"{path} belongs to another user, who could change what is read from it; set {CACHE_FOLDER} to a folder "
            f"of your own"
        )
    if found.st_mode & 0o022:
        raise ConfigError(
            f"{path}: others may write there (mode {stat.S_IMODE(found.st_mode):04o}), and could change what is read "
            f"from it: chmod 700 {path}, or set {CACHE_FOLDER} to {path}/asterism, which is then made"
        )
    return path


class Storage:
    """Whole files below one URL. A call retries after errors for ``PATIENCE_S``, then raises ``StorageFailed``.

    A missing file and a missing permission are not retried. Neither is a storage that was given up, until it answers.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        scheme, _, rest = url.partition("://")
        self._host = f"{scheme}://{rest.partition('/')[0]}"
        options = _OPTIONS.get(scheme.lower(), {})
        try:
            self._fs, self._path = fsspec.core.url_to_fs(url, use_listings_cache=False, **options)
            if hasattr(self._fs, "retries"):
                self._fs.retries = 1
        except ImportError as error:
            raise DependencyMissing(f"{url}: {error}; for s3:// install 'asterism[s3]'") from None
        except ValueError as error:
            raise ConfigError(f"{url}: {error}") from None

    def files(self) -> dict[str, Listed]:
        """Return every file below the URL by its relative path; a file at the URL itself has the path ``""``.

        Raises ``DataError`` for a name that would lead out of a folder, and for two names that no folder could hold.
        """
        prefix = self._path.rstrip("/")

        def find() -> dict[str, Mapping[str, Any]]:
            try:
                found = self._fs.find(self._path, detail=True)
            except FileNotFoundError:
                return {}
            return {path: info or self._fs.info(path) for path, info in found.items()}

        listed: dict[str, Listed] = {}
        for path, info in self._patiently(find, "list").items():
            size = info.get("size")
            if path.endswith("/") and not size:
                continue  # consoles make such a file to show an empty folder
            if path != prefix and not path.startswith(f"{prefix}/"):
                raise DataError(f"{self.url}: the storage lists {path!r}, which is not below {prefix}")
            name = path[len(prefix) + 1 :]
            if path != prefix:
                check_name(name, self.url)
            if not isinstance(size, int) or size < 0:
                raise DataError(f"{self.url}: the storage does not tell the size of {name!r}; copy the file yourself")
            listed[name] = Listed(size, _version(info), _changed(info))
        for name in filter(None, listed):
            for parent in PurePosixPath(name).parents:
                if str(parent) in listed or "" in listed:
                    raise DataError(f"{self.url}: {str(parent)!r} is both a file and a folder; rename one of them")
        return listed

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a small file; ``None`` if it is missing. Raises ``DataError`` if it is not small."""

        def cat() -> bytes:
            size = self._fs.info(self._at(name)).get("size") or 0
            if size > MAX_JSON_BYTES:
                raise DataError(f"{self.url}/{name}: has {size:,} bytes, expected {MAX_JSON_BYTES:,} at most")
            return bytes(self._fs.cat_file(self._at(name)))

        try:
            return self._patiently(cat, f"read {name}")
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file. An object storage writes it whole or not at all."""

        def pipe() -> None:
            try:
                self._fs.pipe_file(self._at(name), data)
            except FileNotFoundError:  # the storage has folders
                self._fs.makedirs(self._at(name).rpartition("/")[0], exist_ok=True)
                self._fs.pipe_file(self._at(name), data)

        self._patiently(pipe, f"write {name}")

    def create(self, name: str, data: bytes) -> bool | None:
        """Write a small file unless it exists; tell whether it was written; ``None`` if the storage cannot tell."""
        if "mode" not in inspect.signature(getattr(self._fs, "_pipe_file", self._fs.pipe_file)).parameters:
            return None

        def pipe() -> bool | None:
            try:
                self._fs.pipe_file(self._at(name), data, mode="create")
            except FileExistsError:
                return False
            except (NotImplementedError, OSError, ValueError) as error:
                if isinstance(error, OSError) and error.errno not in (errno.EINVAL, errno.ENOSYS):
                    raise
                return None if self.read(name) is None else False
            return True

        return self._patiently(pipe, f"write {name}")

    def put(self, local: Sequence[Path], names: Sequence[str]) -> None:
        """Copy files in."""
        if local:
            there = [self._at(name) for name in names]
            self._patiently(lambda: self._fs.put([str(path) for path in local], there), f"write {names[0]}")

    def get(self, sizes: Mapping[str, int], folder: Path) -> list[Path]:
        """Copy files to their names below ``folder`` and return the paths; the name ``""`` means ``folder`` itself.

        ``sizes``: the bytes that each file must have. Raises ``DataError`` for a file that is missing or has another
        size, and ``DiskBudgetExceeded``, before anything is copied, if the disk has no room for all.
        """
        files = [below(folder, name) if name else folder for name in sizes]
        if not files:
            return files
        try:
            self._get(sizes, folder, files)
        except FileNotFoundError as error:
            raise DataError(f"{self.url}: a file is missing: {error}; resume the run that wrote it") from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise DataError(f"{self.url}: cannot be copied to {folder}: {os_reason(error)}") from None
            raise
        return files

    def _get(self, sizes: Mapping[str, int], folder: Path, files: Sequence[Path]) -> None:
        for parent in {file.parent for file in files}:
            parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(files[0].parent).free
        if sum(sizes.values()) > free:
            raise DiskBudgetExceeded(
                f"{self.url}: {sum(sizes.values()):,} bytes are to be copied to {folder}, where {free:,} are free; "
                f"free some space, or set {CACHE_FOLDER} to a folder on another disk"
            )
        there, here = [self._at(name) for name in sizes], [str(file) for file in files]
        at_most = _AtMost(dict(zip(here, sizes.values(), strict=True)))
        self._patiently(lambda: self._fs.get(there, here, callback=at_most), f"read {next(iter(sizes))}")
        for (name, size), file in zip(sizes.items(), files, strict=True):
            if not file.is_file() or file.stat().st_size != size:
                came = f"{file.stat().st_size:,} bytes" if file.is_file() else "no file"
                raise DataError(f"{self.url}/{name}: {came} came, expected {size:,} bytes")

    def remove(self, names: Sequence[str]) -> None:
        """Delete files; a missing file is no error."""
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
            except EngineError:
                raise
            except _HOPELESS as error:
                if isinstance(error, FileNotFoundError):
                    raise
                raise StorageFailed(f"{self.url}: could not {what}: {type(error).__name__}: {error}") from error
            except Exception as error:  # each storage library has errors of its own
                if isinstance(error, OSError) and error.errno in _OF_THIS_HOST:
                    raise
                if time.monotonic() + wait > until:
                    _GIVEN_UP.add(self._host)
                    raise StorageFailed(
                        f"{self.url}: could not {what} for {PATIENCE_S:.0f} s: {type(error).__name__}: {error}; "
                        f"what was committed is kept, run again to resume"
                    ) from error
            time.sleep(wait)
            wait = min(2 * wait, 8.0)


class _AtMost(Callback):  # type: ignore[misc]
    """Stop the copy of a file that is larger than listed, before it fills the disk."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__()
        self._sizes = sizes

    def branched(self, path_1: str, path_2: str, **_: Any) -> Callback:
        return _Counted(path_1, self._sizes[path_2])


class _Counted(Callback):  # type: ignore[misc]
    def __init__(self, name: str, most: int) -> None:
        super().__init__()
        self._name, self._most = name, most

    def call(self, *_: Any, **__: Any) -> None:
        if self.value > self._most:
            raise DataError(f"{self._name}: more than the expected {self._most:,} bytes came; the copy was given up")


def local_copy(place: str | Path, use: ExitStack | None = None) -> Path:
    """Return a path itself, or this host's copy of a file or folder at a URL; copy it unless the copy is current.

    A copy has the original's names and times of change, and stays at least until ``use`` is closed. Raises
    ``DataError`` if there is nothing at the URL.
    """
    if not is_url(place):
        return Path(absolute(place))
    url = absolute(place)
    storage = Storage(url)
    found = dict(sorted(storage.files().items()))
    if not found:
        raise DataError(f"{url}: no such file or folder")
    untold = next((name for name, listed in found.items() if not listed.version), None)
    if untold is not None:
        raise DataError(
            f"{url}: the storage does not tell when {untold or 'the file'!r} was changed, so that a copy could be out "
            f"of date; download it, and name the file here"
        )
    known = [(name, listed.size, listed.version) for name, listed in found.items()]
    entry = cache_root() / "copies" / bytes_checksum(repr((url, known)).encode())
    path, mark = below(entry / "files", url.rpartition("/")[2]), entry / "complete"
    if use is not None:
        use.enter_context(in_use(entry))
    with exclusive(entry):
        if not mark.exists():
            sizes = {name: listed.size for name, listed in found.items()}
            make_room(sum(sizes.values()), keep=entry)
            with explain_os_errors(path):
                files = storage.get(sizes, path)
                if len({file.stat().st_ino for file in files}) < len(files):
                    raise DataError(f"{url}: this host's file system takes two of its names for one; rename them")
                for file, listed in zip(files, found.values(), strict=True):
                    if listed.changed is not None:
                        os.utime(file, (listed.changed, listed.changed))
                mark.touch()
        os.utime(entry)
    return path


def copied_version(path: Path) -> str | None:
    """Return a digest of the storage's listing at the time of a copy; ``None`` if the path is no copy."""
    try:
        copies = Path(os.path.abspath(cache_path())) / "copies"
    except ConfigError:  # without a cache there is no copy
        return None
    return path.relative_to(copies).parts[0] if path.is_relative_to(copies) else None


@contextmanager
def original_names(addresses: Mapping[str, str]) -> Iterator[None]:
    """Replace paths of copies by their URLs in the errors of the block; ``addresses``: URL by path."""
    try:
        yield
    except EngineError as error:
        text = str(error)
        for path, address in addresses.items():
            text = text.replace(path, address)
        if text == str(error):
            raise
        raise type(error)(text) from error


def _version(info: Mapping[str, Any]) -> str:
    named = ("ETag", "etag", "md5Hash", "LastModified", "mtime", "created")
    return str(next((info[name] for name in named if info.get(name)), ""))


def _changed(info: Mapping[str, Any]) -> float | None:
    """Return the time of a file's last change (Unix seconds), if the storage's listing tells."""
    named = ("LastModified", "last_modified", "updated", "mtime", "created")
    value = next((info[name] for name in named if info.get(name)), None)
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None


def exclusive(entry: Path) -> AbstractContextManager[None]:
    """Be the only process of this host that writes an entry of the cache; the entry need not exist."""
    return _lock(entry, _WRITING, fcntl.LOCK_EX)


def in_use(entry: Path) -> AbstractContextManager[None]:
    """Keep ``make_room`` from dropping an entry of the cache; the entry need not exist."""
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
    """Drop the least recently used entries of the cache until ``num_bytes`` more fit its limit.

    The limit is ``$ASTERISM_CACHE_BYTES``, else ``CACHE_SHARE`` of the disk. Entries that a task uses are never
    dropped, even if they alone exceed the limit.
    """
    root = cache_root()
    held = bytes_below(root)
    share = CACHE_SHARE * (shutil.disk_usage(root).free + held)
    room = _limit(share) - num_bytes - held
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


def _limit(share: float) -> int:
    text = os.environ.get(CACHE_LIMIT)
    if not text:
        return int(share)
    if not text.isascii() or not text.isdigit():
        raise ConfigError(f"{CACHE_LIMIT} is {text!r}; expected a number of bytes, such as 200000000000")
    return int(text)


KEPT = {"records", "stage.json", "consumed.json"}  # of a stage whose outputs were dropped


def drop_outputs(entry: Path) -> None:
    """Delete a copy, or the outputs of a stage; keep the stage's records and its description."""
    (entry / "complete").unlink(missing_ok=True)  # first, because the entry is no longer complete
    for path in entry.iterdir():
        if path.name not in KEPT:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
