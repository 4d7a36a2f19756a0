"""This host's copies of files at URLs, below one folder that is limited in size.

Each host works on copies, because kernels map files, and keeps them until their room is needed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from engine.errors import ConfigError, DataError, EngineError
from engine.storage.manifest import bytes_below, bytes_checksum, explain_os_errors
from engine.storage.paths import below, check_out_folder
from engine.storage.remote import CACHE_FOLDER, Storage, absolute, is_url

CACHE_LIMIT = "ASTERISM_CACHE_BYTES"  # variable of the limit in bytes
CACHE_SHARE = 0.8  # default limit, of the disk's free bytes plus those of the cache
_USING, _WRITING = "in-use", "writing"  # endings of lock files


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
