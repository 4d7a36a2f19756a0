"""Files at fsspec URLs (``s3://bucket/folder``): copied whole, with retries while a storage fails.

Credentials come from the storage library (its environment, files or roles). A URL with credentials is refused, because
URLs are recorded. This module compares the size of a copy; ``engine.storage.places`` compares its checksum if a commit
record holds one.
"""

from __future__ import annotations

import errno
import inspect
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import fsspec
from fsspec.callbacks import Callback

from engine.errors import ConfigError, DataError, DependencyMissing, DiskBudgetExceeded, EngineError, StorageFailed
from engine.installation import install_hint
from engine.process.masking import MASK, holds_secret
from engine.storage.owned import MAX_JSON_BYTES
from engine.storage.paths import below, check_name, os_reason

T = TypeVar("T")
PATIENCE_S = 120.0  # that errors of a storage are retried
CACHE_FOLDER = "ASTERISM_CACHE"  # variable of the folder for this host's copies
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
            raise DependencyMissing(f"{url}: {error}; for s3://: {install_hint('s3')}") from None
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
