"""Checks of places that a user, a file or a storage names, before the engine reads or writes there.

A place comes from an option, a file of a run, or the listing of a storage. Each function here says in one sentence what
is wrong with a place. None opens the place, so a FIFO or a device is refused without waiting for it.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from engine.errors import ConfigError, DataError

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)
_REASONS = {
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "its symbolic links lead in a circle",
    errno.ENAMETOOLONG: "the name is too long for this file system",
    errno.ENOTDIR: "a part of this path is a file, not a folder",
    errno.EROFS: "the file system is read-only",
    errno.EISDIR: "is a folder",
}


def os_reason(error: OSError) -> str:
    """Return words for an operating system's error, to stand after a path and a colon."""
    return _REASONS.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__


def check_file(path: Path, what: str = "file") -> Path:
    """Return ``path`` if it is a regular file that this process may read, or a symbolic link to one.

    ``what`` names the kind of file that is expected. Raises ``DataError``.
    """
    mode = _existing(path, what)
    if not stat.S_ISREG(mode):
        raise DataError(f"{path}: is {_kind(mode)}, expected a regular file")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: permission denied; it cannot be read")
    return path


def check_folder_of_files(path: Path, what: str = "folder") -> Path:
    """Return ``path`` if it is a folder that this process may list. Raises ``DataError``."""
    mode = _existing(path, what)
    if not stat.S_ISDIR(mode):
        raise DataError(f"{path}: is {_kind(mode)}, expected a folder")
    if not os.access(path, os.R_OK | os.X_OK):
        raise DataError(f"{path}: permission denied; it cannot be listed")
    return path


def check_readable(path: Path, what: str = "file or folder") -> bool:
    """Tell whether ``path`` is a folder; if not, it is a regular file. Raises ``DataError`` if it cannot be read."""
    if stat.S_ISDIR(_existing(path, what)):
        check_folder_of_files(path, what)
        return True
    check_file(path, what)
    return False


def lies_there(path: Path) -> bool:
    """Tell whether anything lies at ``path``, even a dangling link. Never raises."""
    return os.path.lexists(path)


def check_out_file(place: str | Path, *, option: str = "--out", never: Iterable[Path] = ()) -> Path:
    """Return the absolute path of a file that a command will write or replace.

    ``never``: files and folders that the command reads; the path may be none of them and lie in none of them. Missing
    parent folders are no error. The target of a link is replaced, not the link. Raises ``ConfigError``, before anything
    is written, for a place where no file can be written and for a place inside a run, a store or a model.
    """
    path = _out_path(place, option)
    mode = _out_mode(path, option)
    if mode is not None and not stat.S_ISREG(mode):
        raise ConfigError(f"{option} {path}: is {_kind(mode)}, expected the name of a file to write")
    path = _followed(path, option)
    for source in never:
        if _is_or_lies_in(path, source):
            raise ConfigError(
                f"{option} {path}: is, or lies in, {source}, which this command reads; choose another name"
            )
    _check_owner(path, option)
    _check_parent(path, option)
    return path


def check_out_folder(place: str | Path, *, option: str = "--out") -> Path:
    """Return the absolute path of a folder that a command will fill; it need not exist.

    Raises ``ConfigError``, before anything is written, for a place where no folder can be written.
    """
    path = _out_path(place, option)
    mode = _out_mode(path, option)
    _check_owner(path, option)
    if mode is None:
        _check_parent(path, option)
        return path
    if not stat.S_ISDIR(mode):
        raise ConfigError(f"{option} {path}: is {_kind(mode)}, expected the name of a folder")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {path}: permission denied, or read-only; choose another folder")
    return path


def below(folder: Path, name: str) -> Path:
    """Join a name from outside (a storage's listing, a record) to the folder that it must stay in.

    ``name`` is relative, with ``/`` between its parts. Raises ``DataError`` as ``check_name`` does.
    """
    return folder.joinpath(*check_name(name, folder).split("/"))


def check_name(name: str, where: object) -> str:
    """Return a relative name that stays in the folder to which it is joined. The error names ``where``.

    Raises ``DataError`` for a name that is absolute or empty, or has a part ``.`` or ``..``, a backslash or a NUL.
    """
    parts = PurePosixPath(name).parts
    if not parts or name != "/".join(parts) or ".." in parts or "." in parts or set("\\\0") & set(name):
        raise DataError(f"{where}: refused the name {name!r}: expected one that stays in this folder")
    return name


@contextmanager
def explain_reading(path: Path) -> Iterator[None]:
    """Turn an operating system's error while reading ``path`` into a ``DataError`` that names the path."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {os_reason(error)}") from error


def _existing(path: Path, what: str) -> int:
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise DataError(f"{path}: is a link to {os.readlink(path)}, which does not exist") from None
        raise DataError(f"{path}: no such {what}") from None
    except OSError as error:
        raise DataError(f"{path}: {os_reason(error)}") from None
    except ValueError as error:  # a NUL in the name
        raise DataError(f"{str(path)!r}: not a path: {error}") from None


def _is_or_lies_in(path: Path, held: Path) -> bool:
    """Tell whether two paths lead to one file, or the first lies in the folder that is the second."""
    real, real_held = os.path.realpath(path), os.path.realpath(held)
    if real == real_held or real.startswith(real_held.rstrip("/") + "/"):
        return True
    try:
        return os.path.samefile(path, held)
    except OSError:
        return False


def _kind(mode: int) -> str:
    return next((word for test, word in _KINDS if test(mode)), "a file")


def _out_path(place: str | Path, option: str) -> Path:
    text = str(place)
    if not text.strip():
        raise ConfigError(f"{option} is empty; name a place to write to")
    if "\0" in text:
        raise ConfigError(f"{option} {text!r}: not a path: it holds a NUL")
    return Path(os.path.abspath(text))


def _out_mode(path: Path, option: str) -> int | None:
    """Return the mode of the file or folder at the place, or ``None`` if there is nothing."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise ConfigError(f"{option} {path}: is a link to {os.readlink(path)}, which does not exist") from None
        return None
    except OSError as error:
        raise ConfigError(f"{option} {path}: {os_reason(error)}") from None


def _followed(path: Path, option: str) -> Path:
    """Return the target of a link, or the path itself; refuse a link to a file that a process has open."""
    place = path
    while True:
        if os.path.realpath(place.parent).startswith("/proc/"):
            raise ConfigError(f"{option} {path}: stands for an open file of a process, expected the name of a file")
        if not place.is_symlink():
            return Path(os.path.realpath(path)) if path.is_symlink() else path
        place = place.parent / os.readlink(place)


def _check_owner(path: Path, option: str) -> None:
    """Refuse a place inside a folder that asterism fills, because asterism finds its files there by name."""
    for parent in path.parents:
        if any(os.path.lexists(parent / name) for name in _OWNED):
            raise ConfigError(
                f"{option} {path}: lies in {parent}, which holds a run, a store or a model; choose a place outside"
            )


def _check_parent(path: Path, option: str) -> None:
    """Refuse a place whose nearest existing parent folder cannot hold it."""
    for parent in path.parents:
        try:
            mode = os.stat(parent).st_mode
        except FileNotFoundError:
            if parent.is_symlink():
                raise ConfigError(f"{option} {path}: {parent} is a link that leads nowhere") from None
            continue
        except OSError as error:
            raise ConfigError(f"{option} {path}: {os_reason(error)}") from None
        if not stat.S_ISDIR(mode):
            raise ConfigError(f"{option} {path}: {parent} is {_kind(mode)}, not a folder")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise ConfigError(f"{option} {path}: permission denied, or read-only: {parent} cannot be written")
        limit = os.pathconf(parent, "PC_NAME_MAX")
        for part in path.relative_to(parent).parts:
            if len(os.fsencode(part)) > limit - _TEMPORARY_BYTES:
                raise ConfigError(f"{option} {path}: the name {part[:40]}... is too long for this file system")
        return


_OWNED = ("run.json", "model.json")
_TEMPORARY_BYTES = 16  # that a temporary name adds: two dots, a process id, "tmp"
